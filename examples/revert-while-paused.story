# Ann paused the rollout to look at something, and it got worse meanwhile. A pause holds forward steps back, and nothing
# else: the automatic revert comes through it, and so would a person's.
story A breach while the rollout is paused

traffic 200/s
v1 is known good
agent bot deploys v2
wait until traffic on v2 20%
person ann pauses
v2 fails 20%
wait until decided to revert for BS001 within 60s
expect traffic on v1 within 1s
wait until phase Reverted within 60s

agent bot deploys v3
wait until waiting for BS052 within 10s
expect traffic on v1
person ann reverts
expect accepted
expect traffic on v1
