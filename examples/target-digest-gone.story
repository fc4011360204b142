# The image of the last good release was tidied away from the registry. What runs still runs: its traffic comes back at
# once, and its evidence was stored when it was admitted, so that it can be proven without the registry.
story The image of the last good release is gone from the registry

traffic 200/s
v1 is known good
v2 fails 20%
agent bot deploys v2
wait until traffic on v2 20%
image of v1 is gone from the registry
registry is down
wait until decided to revert for BS001 within 60s
expect traffic on v1 within 1s
wait until phase Reverted within 60s
expect release v1
expect quarantined v2
