# Somebody sets the clock two hours forward in the middle of a bake, and back again later. Neither promotes anything
# early, nor delays the revert.
story The clock steps during a bake

traffic 200/s
v1 is known good
agent bot deploys v2
wait until traffic on v2 20%
clock steps forward 2h
expect traffic on v2 20% for 7s
wait until traffic on v2 50% within 30s
clock steps back 4h
v2 fails 20%
wait until decided to revert for BS001 within 30s
expect traffic on v1 within 1s
wait until phase Reverted within 60s
