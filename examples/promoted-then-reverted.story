# Somebody was sure, and promoted past the steps. At 100 % it breaks. A promotion is no reason to ignore a revert:
# watching goes on after it, and so does a person's word.
story Promoted by a person, then reverted

traffic 200/s
v1 is known good
agent bot deploys v2
wait until traffic on v2 20%
person ann promotes
wait until traffic on v2 within 10s
person ann reverts
expect accepted
expect traffic on v1 within 1s
wait until phase Reverted within 60s
expect quarantined v2
