# The agent does not read its mail: it deploys the quarantined image again, then again under a touched template. Neither
# gets a request. A person who knows better may lift the quarantine, and only then it gets another trial.
story An agent deploys the quarantined image again

traffic 200/s
v1 is known good
v2 fails 20%
agent bot deploys v2
wait until phase Reverted within 90s
agent bot deploys v2
expect refused BS050
agent bot deploys v2.1
expect refused BS050
agent bot lifts v2
expect refused BS056
expect traffic on v1 for 30s

v2 is healthy
person ann lifts v2
expect accepted
agent bot deploys v2
expect accepted
wait until known good v2 within 5m
