story Every way to get a line wrong
traffic 100
traffic 99999/s
v2 fials 5%
v2 fails 500%
2 fails 5%
person ann deploy v2
person an!n deploys v2
agent bot deploys w2
agent bot reverts to v1 now
robot bot deploys v2
wait
wait 5 parsecs
wait 7h
wait until phase Watchign
expect paged BS999
expect trafic on v1
expect fewer than many bad requests
prometheus is sad
strategy canary
