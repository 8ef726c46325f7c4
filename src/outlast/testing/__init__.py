"""What outlast is tested with, for users to test theirs: the simulator, the contract, the crashes.

- `outlast.testing.simulator`: a Claude on this machine, over HTTP, that follows a script.
- `outlast.testing.simulation`: kill a run at every point, without a process.
- `outlast.testing.journal_contract`: what every store has to pass.
- `outlast.testing.power_loss`: a disk that forgets what was not synced.
"""
