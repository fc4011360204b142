# The kill-switch itself was never tried: turning the flag off breaks the old release. The revert turns it off first, as it
# was told to; then it must see that things are no better, stop there, and say so. It must not flip back and forth.
story Turning the flag off breaks things itself

traffic 100/s
v1 is known good
v2 fails 15%
v1 fails 40% while the flag is safe
agent bot deploys v2
wait until decided to revert for BS001 within 60s
expect flag safe within 1s
expect traffic on v1 within 1s
expect not phase Reverted for 30s
wait until phase Stuck within 2m
expect paged BS073 within 1s
expect flag safe for 60s
expect traffic on v1
