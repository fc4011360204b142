# Somebody changed the stored evidence of the newest good release. It does not verify any more, so it does not go back:
# it is passed over by name, and the release before it is restored. Everybody knew before it was needed.
story The evidence of the newest target was tampered with

traffic 200/s
v1 is known good
v2 is known good
v3 is known good
evidence of v2 is tampered with
expect paged BS053 within 70s
person ann reverts
wait until decided to pass over a target for BS070 within 10s
wait until phase Reverted within 60s
expect release v1
expect traffic on v1
expect quarantined v3
