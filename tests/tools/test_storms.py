"""An outage is not answered with a storm: how often a source is asked again in a run is limited."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import msgspec
import pytest

import outlast
from outlast.models.script import Script, Turn, say, tool_results, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.recovery import RETRIES, SHARE
from stubs import agent

USES = 200
pytestmark = pytest.mark.usefixtures("no_pauses")


class Down:
    """A source that answers nobody; it counts who asks."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def tool(self, name: str = "look", **more: Any) -> outlast.Tool[..., Any]:
        """Return a tool that asks it."""

        async def look(number: int) -> str:
            with self._lock:
                self.asked[name] += 1
            raise ConnectionResetError("reset")

        return outlast.tool(**({"name": name, "effect": "read", "attempts": 3} | more))(look)


def using(*names: str, at_once: int) -> Script:
    """Return a Claude that uses tools, so many in a reply, `USES` times."""

    def script(request: dict[str, Any], attempt: int) -> Turn:
        done = (turn_number(request) - 1) * at_once
        if done >= USES:
            return say("It is down.")
        numbers = range(done, done + at_once)
        return say(*[tool_use(names[n % len(names)], {"number": n}) for n in numbers])

    return script


def played(script: Script, *tools: Any) -> list[dict[str, Any]]:
    """Return what Claude was told of every use."""
    claude = ScriptedModel(script)
    with outlast.Outlast("memory://", model=claude, breaker=None) as app:
        limits = outlast.Budget(usd=1_000)
        run = app.run(agent(*tools, budget=limits, stops_loops=False), "Go.")
        assert run.answer == "It is down.", run.why
    requests = [msgspec.json.decode(body) for body in claude.calls]
    return [result for request in requests for result in tool_results(request)]


@pytest.mark.parametrize("at_once", [4, 10, 40])
def test_an_outage_is_no_storm(at_once: int) -> None:
    """Of 200 uses in one run, 10 and a fifth are followed by further attempts, and no more."""
    source = Down()
    told = played(using("look", at_once=at_once), source.tool())
    assert source.asked.total() == USES + RETRIES + USES // SHARE
    assert len(told) == USES
    assert all(result["is_error"] for result in told)


def test_tools_share_the_limit_of_their_source() -> None:
    """Two tools of one source are asked again no oftener than one; those of two sources each."""
    for sources, most in ((("db", "db"), RETRIES + USES // SHARE), (("db", "web"), None)):
        down = Down()
        tools = [down.tool(f"look_{n}", source=one) for n, one in enumerate(sources)]
        played(using("look_0", "look_1", at_once=10), *tools)
        again = down.asked.total() - USES
        assert again == (most or 2 * (RETRIES + USES // 2 // SHARE))


def test_a_fallback_has_a_limit_of_its_own() -> None:
    """The next source is asked once for each use, and again as often as it may itself."""
    first, second = Down(), Down()
    fallback = second.tool("other", attempts=2)
    told = played(using("look", at_once=10), first.tool(fallbacks=[fallback]))
    assert first.asked.total() == second.asked.total() == USES + RETRIES + USES // SHARE
    assert all(result["is_error"] for result in told)
