# Before a peer reverts it validates everything that the rollout names: metrics, templates, services. Here the metrics
# are gone, the registry is gone, nobody can be paged, and the controller has just died. A person's revert needs none of it.
story A person's revert when the rest of the house is on fire

traffic 200/s
v1 is known good
agent bot deploys v2
wait until traffic on v2 20%
v2 fails 50%
prometheus rejects the query
registry is down
pager is down
controller dies for 10m
wait 5s
person ann reverts
expect accepted
expect traffic on v1 within 1s
wait until phase Recovering within 30s

# Nobody can say whether it recovered while nothing can be measured. What is in force stays in force.
expect traffic on v1 for 30s
pager is back
prometheus is back
wait until phase Reverted within 2m
expect told BS072 within 2m
