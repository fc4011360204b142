# Blue-green: the new release passed its health check, got all traffic, and then its members crash in a loop. Others hold
# the switch back until the *new* members are whole, which they never will be. What is broken has no say in its removal.
story Blue-green: the new release crashes after the switch
strategy blue-green

traffic 200/s
v1 is known good
agent bot deploys v2
wait until traffic on v2 within 60s
members of v2 crash in a loop
wait until decided to revert for BS007 within 10s
expect traffic on v1 within 1s
wait until phase Reverted within 60s
expect quarantined v2
