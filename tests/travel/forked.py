"""What tests of forks need: an agent whose tools write files, and a Claude that uses them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import outlast
from outlast.agent import Budget
from outlast.models.script import Turn, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

MODEL = "claude-haiku-5-5"
EFFECTS = ("read", "idempotent", "once")


class World:
    """Files that tools write, one for each call that was made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = [self._tool(effect) for effect in EFFECTS]

    def _tool(self, effect: Any) -> outlast.Tool[..., Any]:
        @outlast.tool(effect=effect, name=f"{effect}_it")
        def write(word: str, ctx: outlast.ToolContext) -> str:
            """Write a word down."""
            number = len(self.written())
            (self.folder / f"{number}-{effect}-{ctx.idempotency_key}").write_text(word)
            return f"{effect}: {word}"

        return write

    def written(self) -> list[str]:
        return sorted(one.name for one in self.folder.iterdir())

    def keys(self) -> list[str]:
        return [name.rpartition("-")[2] for name in self.written()]


def agent(*tools: Any, **more: Any) -> outlast.Agent:
    given = {"model": MODEL, "max_tokens": 500, "budget": Budget(usd=1, turns=50)} | more
    return outlast.Agent("writer", instructions="Write.", tools=tools, **given)


def writing(request: dict[str, Any], _attempt: int) -> Turn:
    """Call each tool once, one in a turn, and answer then."""
    number = turn_number(request)
    if number <= len(EFFECTS):
        return say(tool_use(f"{EFFECTS[number - 1]}_it", {"word": f"word {number}"}))
    return say("Written.")


def billed(model: ScriptedModel) -> int:
    """Return what the simulator billed, in nano-dollars."""
    return sum(charge.nano_usd for charge in model.bill)


def paid(app: outlast.Outlast) -> int:
    """Return what the roll-up says was paid, in doubt included."""
    return sum(line.settled_nano + line.in_doubt_nano for line in app.journal.rollup())
