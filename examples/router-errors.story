# The router does not answer: no weight can be set, and each try fails. Looking and judging go on beside that, so the
# breach is seen while the router is away, and traffic is back as soon as it answers.
story The router fails while the candidate breaches

traffic 200/s
v1 is known good
agent bot deploys v2
wait until traffic on v2 20%
v2 fails 20%
host is down for 30s
wait until decided to revert for BS001 within 20s
expect traffic on v2 20%
expect flag safe within 1s
expect traffic on v1 within 30s
wait until phase Reverted within 90s
