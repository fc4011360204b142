# While the revert runs, the autoscaler replaces members of stable: they die and start again. Elsewhere a scaling event
# freezes the weights where they are; here traffic goes to whoever can answer, and ends where it belongs.
story Members of stable are replaced during the revert

traffic 200/s
v1 is known good
v2 fails 20%
agent bot deploys v2
wait until decided to revert for BS001 within 60s
members of v1 die and start again
expect traffic on v1 within 10s
wait until phase Reverted within 60s
expect quarantined v2
