# After the promotion the old members were stopped, and now their image cannot be pulled any more. The newest good
# release cannot be started, so it is passed over by name, and the one before it goes back.
story The newest target cannot start, and an older one can

traffic 200/s
v1 is known good
v2 is known good
v3 is known good
image of v2 is gone from the registry
person ann reverts
expect accepted
wait until decided to pass over a target for BS070 within 60s
wait until traffic on v1 within 30s
wait until phase Reverted within 2m
expect release v1
expect quarantined v3
