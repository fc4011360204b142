# Stable was scaled down and cannot serve, and the candidate is bad: one would wait for the other for ever. The restore
# goes first then, flags still go at once, and traffic follows the moment that a member of stable can answer.
story Stable has no member that can serve when the candidate breaches

traffic 200/s
v1 is known good
agent bot deploys v2
wait until traffic on v2 20%
v2 fails 20%
members of v1 are down
wait until decided to revert within 60s
expect flag safe within 1s
wait 10s
members of v1 are ready
expect traffic on v1 within 5s
wait until phase Reverted within 2m
