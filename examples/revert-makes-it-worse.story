# Going back can be the mistake: the new release had migrated something, and the old one cannot live with that. A machine
# that reverts again and again would make an outage of it. It must go back once, see that the objectives do not hold,
# stop, say where traffic is, and get somebody up.
story The revert makes it worse

traffic 100/s
v1 is known good

agent bot deploys v2
wait until traffic on v2 20%
v2 fails 8%
v1 fails 60% while the flag is safe
wait until decided to revert for BS001 within 60s
expect traffic on v1 within 1s
expect flag safe within 1s

# It is plainly worse, and somebody hears of it at once, not only when the time for recovering has run out.
expect paged BS073 within 10s

# It does not take v1 back out, and it does not put v2 back in.
wait until phase Stuck within 2m
expect traffic on v1 for 60s
expect phase Stuck for 60s

# Ann finds the cause, and says so.
v1 is healthy
person ann reverts
expect accepted
expect traffic on v1
