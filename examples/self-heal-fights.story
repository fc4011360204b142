# A GitOps controller owns the declaration, which still names the bad release, and heals it back every ten seconds. The
# revert must not lose that fight: the quarantined release is kept out at the host's own door, and refused as a deployment.
story Self-healing fights the revert

traffic 200/s
v1 is known good
v2 fails 20%
pipeline ci deploys v2
wait until decided to revert for BS001 within 60s
gitops puts back v2 every 10s
wait until phase Reverted within 60s
expect traffic on v1 for 60s
expect refused BS050
expect release v1 for 30s
gitops lets go
person ann deploys v3
wait until known good v3 within 5m
