"""The agents and flows that workers drive in real processes, and the Claude that answers them.

What they do to the world is written into files of the folder in `SHOP`, which outlive every
process: `effects`, `requests` and `bill`, a line of JSON each.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import outlast
from outlast.models import Part, Reply, Request
from outlast.models.script import Turn, last_text, say, text_of, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

PLAN: dict[str, Any] = json.loads(os.environ.get("SHOP_PLAN", "{}"))
"""What happens to this process: see `Claude` and `shopfront.Staged`."""

GATE_S = 50.0
"""How long a function waits at the gate at most, in seconds."""


def write(name: str, **line: Any) -> None:
    """Add a line to a file of the world, at once and as a whole."""
    file = os.open(Path(os.environ["SHOP"]) / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, json.dumps({"pid": os.getpid(), **line}).encode() + b"\n")
    finally:
        os.close(file)


def wait_at_gate() -> None:
    """Keep the thread until the test has made the file `gate`."""
    give_up_at = time.monotonic() + GATE_S
    while not (Path(os.environ["SHOP"]) / "gate").exists() and time.monotonic() < give_up_at:
        time.sleep(0.05)


def did(run_id: str, what: str, key: str = "") -> str:
    write("effects", run=run_id, what=what, key=key)
    return f"{what} done"


class Claude:
    """A Claude that bills a request when it comes, whether or not anybody hears the answer.

    From the request number `silent_from` of this process on, it does not answer any more.
    """

    def __init__(self) -> None:
        self._scripted = ScriptedModel(lead, check_history=False, keep_calls=False)
        self.asked = 0

    async def call(self, request: Request, *, on_part: Any) -> Reply:
        self.asked += 1
        asked = self.asked
        before = len(self._scripted.bill)
        reply = await self._scripted.call(request, on_part=None)
        for charge in self._scripted.bill[before:]:
            write("bill", run=request.run_id, nano=charge.nano_usd)
        write("requests", run=request.run_id, call=request.call_id, at=time.monotonic_ns())
        if asked >= PLAN.get("silent_from", asked + 1):
            await asyncio.Event().wait()
        await asyncio.sleep(PLAN.get("pace_s", 0.02))
        if on_part is not None:
            on_part(Part(request.run_id, request.ask_id, request.call_id, 1, "text", ""))
        return reply


def lead(request: dict[str, Any], attempt: int) -> Turn:
    """Use the tools that the question names, and say at the end what they said."""
    asked = text_of(request["messages"][0]["content"])
    if turn_number(request) == 1 and (names := asked.partition("use ")[2]):
        return say(*(tool_use(name, {}) for name in names.split()))
    return say(f"re: {asked}, {last_text(request)}")


@outlast.tool(effect="read")
def look(context: outlast.ToolContext) -> str:
    """Look."""
    return did(context.run_id, "look")


@outlast.tool(effect="idempotent")
async def keep(context: outlast.ToolContext) -> str:
    """Keep."""
    return did(context.run_id, "keep", context.idempotency_key)


def was_done(what: str) -> Any:
    """Return a function that looks into the world whether a tool did what it was called for."""

    def look(context: outlast.ToolContext) -> outlast.Reconciled:
        file = Path(os.environ["SHOP"]) / "effects"
        lines = map(json.loads, file.read_text().splitlines() if file.exists() else [])
        happened = any((one["run"], one["what"]) == (context.run_id, what) for one in lines)
        return outlast.Reconciled(happened=happened, result=f"{what} done")

    return look


@outlast.tool(effect="once", reconcile=was_done("send"))
def send(context: outlast.ToolContext) -> str:
    """Send."""
    return did(context.run_id, "send")


@outlast.tool(effect="once", reconcile=was_done("slow"))
def slow(context: outlast.ToolContext) -> str:
    """Take a while, in a thread."""
    did(context.run_id, "slow begins")
    wait_at_gate()
    return did(context.run_id, "slow")


@outlast.tool(effect="once", reconcile=was_done("blocks"))
async def blocks(context: outlast.ToolContext) -> str:
    """Block the event loop, as nobody should."""
    did(context.run_id, "blocks begins")
    wait_at_gate()
    return did(context.run_id, "blocks")


user = outlast.Agent(
    "user",
    model="claude-haiku-5-5",
    tools=[look, keep, send, slow, blocks],
    max_tokens=256,
)


async def step_send(run_id: str) -> str:
    return did(run_id, "send")


async def step_blocks(run_id: str) -> str:
    did(run_id, "blocks begins")
    wait_at_gate()
    return did(run_id, "blocks")


@outlast.flow
async def child(run: outlast.Run, number: int) -> str:
    said: str = await run.ask(user, f"child {number} use keep")
    await run.sleep(0.05)
    await _sent(run)
    return said


async def _sent(run: outlast.Run) -> str:
    try:
        return str(await run.step("send", step_send, run.id, effect="once"))
    except outlast.StepFailed as error:
        return "in doubt" if error.in_doubt else "failed"


@outlast.flow
async def family(run: outlast.Run, word: str) -> list[Any]:
    """Ask, have children, sleep, and send."""
    said = await run.ask(user, f"{word} use look")
    mapped = await run.map(child, [1, 2])
    await run.sleep(1.2)
    return [said, mapped, await _sent(run), await run.ask(user, "last")]


@outlast.flow
async def sleeper(run: outlast.Run, seconds: float) -> str:
    """Sleep, and say so."""
    await run.sleep(seconds)
    return str(await run.step("woke", step_woke, run.id, effect="once"))


async def step_woke(run_id: str) -> str:
    write("woke", run=run_id, at=time.monotonic_ns())
    return "woke"


@outlast.flow
async def careful(run: outlast.Run, word: str) -> str:
    """Ask Claude, then a person, and send what that one allowed."""
    said: str = await run.ask(user, word)
    allowed = await run.approval("Send it?", context=said)
    return await _sent(run) if allowed else f"denied: {allowed.note}"


@outlast.flow
async def blocking_step(run: outlast.Run) -> str:
    """Block the event loop in a step."""
    return str(await run.step("blocks", step_blocks, run.id, effect="once"))
