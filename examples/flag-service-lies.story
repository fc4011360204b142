# The flag service says yes and goes on evaluating as before. Saying "done" is no proof: the flag is read back, asked for
# again and again, and a person is paged at the revert's deadline. Traffic does not wait for it.
story The flag service accepts and does nothing

traffic 100/s
v1 is known good
v2 fails 20%
flag service lies
agent bot deploys v2
wait until decided to revert for BS001 within 60s
expect traffic on v1 within 1s
expect not flag safe for 30s
expect phase Reverting
wait until phase Stuck within 6m
expect paged BS073 within 1s

flag service is back
person ann reverts
expect flag safe within 5s
wait until phase Reverted within 60s
