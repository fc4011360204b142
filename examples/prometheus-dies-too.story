# The database that both releases need falls over, and takes Prometheus with it. Nobody knows anything any more. No data
# is neither good news nor a breach: nothing moves forward, nothing is taken out, and somebody is paged.
story Prometheus and the dependency die together

traffic 200/s
v1 is known good

person ann deploys v2
wait until traffic on v2 20%
everything fails 80%
prometheus is down
expect waiting for BS026 within 10s
wait until paged BS026 within 60s
expect not decided to revert
expect traffic on v2 20%

# Prometheus comes back before the database: now it is seen that both releases are just as bad.
prometheus is back
expect traffic on v1 within 60s
expect not decided to revert
expect not quarantined v2

everything is healthy
wait until known good v2 within 10m
expect not decided to revert
