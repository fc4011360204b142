# One of the members of stable is not ready at the moment when the candidate breaches. Others wait until every one of
# them is; but one ready member is better than a release that is failing, so traffic goes back at once.
story A member of stable is not ready when the candidate breaches

traffic 200/s
v1 is known good
v2 fails 20%
agent bot deploys v2
wait until traffic on v2 20%
v1 has 1 of 2 members ready
wait until decided to revert for BS001 within 60s
expect traffic on v1 within 1s
wait until phase Reverted within 60s
