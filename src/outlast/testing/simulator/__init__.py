"""A Claude on this machine: the Messages API over real HTTP, answered by a script.

It runs in a process of its own, so that what it counts, faults and bills survives the death of
whatever is tested against it, and it ends with the process that started it.

    with simulator.start(script="my_scripts:searcher", path=["tests"]) as claude:
        client = anthropic.Anthropic(base_url=claude.url, api_key="any")
        ...
        assert claude.billed_nano < 1_000_000
"""

from outlast.models import faults
from outlast.testing.simulator.listen import serve
from outlast.testing.simulator.placement import cheapest
from outlast.testing.simulator.process import Simulator, start

__all__ = ["Simulator", "cheapest", "faults", "serve", "start"]
