# While the bad release is being taken out, its authors push a fix. The fix must not cancel the revert, nor get traffic
# before the revert is done; and it is not the quarantined release, so it gets its own trial afterwards.
story A newer fix lands during the revert

traffic 200/s
v1 is known good

v2 fails 20%
agent bot deploys v2
wait until decided to revert within 60s
agent bot deploys v3
expect refused BS059
expect traffic on v1 within 1s
wait until phase Reverted within 60s
expect quarantined v2

agent bot deploys v3
expect accepted
expect traffic on v3 20% within 30s
wait until known good v3 within 5m
expect traffic on v3
expect quarantined v2
