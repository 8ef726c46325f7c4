"""The flows of these tests, and how they are run: against a Claude in process, or over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic

import outlast
from outlast.batching import Pace
from outlast.events import AnyEvent
from outlast.models.anthropic import AnthropicModel
from outlast.models.scripted import ScriptedModel
from outlast.testing.simulator import Simulator

TESTS = Path(__file__).parents[1]
"""Where the simulator's process finds `batch.scripts`."""


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return f"found {word}"


def agent(name: str = "reader", **more: Any) -> outlast.Agent:
    options: dict[str, Any] = {"model": "claude-opus-5-5", "max_tokens": 500, "tools": [look]}
    return outlast.Agent(name, **(options | more))


def mapping(who: Any, *, batch: bool, at_once: int | None = None) -> outlast.Flow[..., Any]:
    """Return a flow that maps `who` on its input, and keeps what failed as text."""

    @outlast.flow(name="mapping")
    async def flow(run: outlast.Run, given: list[str]) -> Any:
        return await run.map(who, given, name="each", at_once=at_once, batch=batch)

    return flow


def quick(app: outlast.Outlast, *, most: int = 10_000, quiet_s: float = 0.2) -> outlast.Outlast:
    """Let an application wait for less; with `most`, batches are full rather than timed out."""
    for runner in (app._own, app._guest):
        runner.batches.pace = Pace(
            quiet_s=quiet_s, longest_s=60, most=most, first_s=0.02, slowest_s=0.1
        )
    return app


def full(app: outlast.Outlast, most: int) -> outlast.Outlast:
    """Let batches be sent when they are full, however long that takes."""
    return quick(app, most=most, quiet_s=60)


def over_http(claude: Simulator, store: str = "memory://", **more: Any) -> outlast.Outlast:
    client = anthropic.AsyncAnthropic(base_url=claude.url, api_key="k", max_retries=0)
    return outlast.Outlast(store, model=AnthropicModel(client), **more)


@dataclass
class Told:
    """What the journals of all runs say."""

    app: outlast.Outlast

    @property
    def cost_nano(self) -> int:
        return sum(run.cost_nano for run in self.app.runs())

    def events(self, kind: type[AnyEvent]) -> list[Any]:
        found = [record.event for run in self.app.runs() for record in self.app.log(run.id)]
        return [event for event in found if isinstance(event, kind)]


def scripted(script: Any, **more: Any) -> tuple[outlast.Outlast, ScriptedModel]:
    model = ScriptedModel(script, **more)
    return quick(outlast.Outlast("memory://", model=model)), model
