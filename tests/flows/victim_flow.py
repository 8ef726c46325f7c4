"""Drives a flow in processes of its own, each of which kills itself with SIGKILL where it is told.

    victim_flow.py FOLDER FIRST LAST EVERY

For every point, an append of the first leg, a process is forked that dies there; then one that goes
on, and dies a few appends later; and then one that goes on to the end.  What happened in the world
is in files: what the functions did, and how the flow ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import outlast
from outlast.journal import Commit
from outlast.models.script import Turn, last_text, say
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store

helper = outlast.Agent("helper", model="claude-haiku-5-5", max_tokens=512)
effects = -1


def did(what: str, key: str = "") -> str:
    os.write(effects, json.dumps([what, key]).encode() + b"\n")
    return f"{what} done"


@outlast.tool(effect="idempotent")
def keep(word: str, context: outlast.ToolContext) -> str:
    """Keep a word."""
    return did(f"keep {word}", context.idempotency_key)


async def send(word: str) -> str:
    return did(f"send {word}")


@outlast.flow
async def child(run: outlast.Run, number: int) -> str:
    said: str = await run.ask(helper, f"child {number}")
    await run.sleep(0.01)
    return said


@outlast.flow(phases=["early", "late"])
async def whole(run: outlast.Run, word: str) -> list[Any]:
    run.enter("early")
    drawn = str(run.uuid())
    pair = await asyncio.gather(*(run.ask(helper, f"{n} {word}", name=n) for n in ("a", "b")))
    kept = await run.step("keep", keep, drawn)
    run.enter("late")
    try:
        sent = await run.step("send", send, word)
    except outlast.StepFailed as error:
        sent = f"in doubt: {error.in_doubt}"
    mapped = await run.map(child, [1, 2])
    return [drawn, pair, kept, sent, mapped, await run.ask(helper, "last")]


def script(request: dict[str, Any], attempt: int) -> Turn:
    return say(f"re: {last_text(request)}")


class Deadly:
    """A store that kills its process before or after an append, counted from 1."""

    def __init__(self, url: str, kill_at: int) -> None:
        self._journal = open_store(url)
        self._left = kill_at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def _pass(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def append(self, commit: Commit) -> Any:
        self._pass()
        records = self._journal.append(commit)
        self._pass()
        return records

    async def aappend(self, commit: Commit) -> Any:
        self._pass()
        records = await self._journal.aappend(commit)
        self._pass()
        return records


def leg(home: Path, kill_at: int) -> bool:
    """Fork a process that drives the flow; return whether it was killed."""
    global effects  # noqa: PLW0603  (of this process only)
    forked = os.fork()
    if forked:
        _, status = os.waitpid(forked, 0)
        assert os.WIFSIGNALED(status) or status == 0, status
        return os.WIFSIGNALED(status)
    signal.alarm(60)
    try:
        effects = os.open(home / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        store: Any = Deadly(f"sqlite:///{home}/s.db", kill_at)
        app = outlast.Outlast(store, model=ScriptedModel(script))
        run = app.run(whole, "x", run_id="r")
        (home / "ended").write_text(json.dumps([run.status, run.answer, run.why]))
        os._exit(0)
    finally:
        os._exit(70)


def main() -> None:
    folder, first, last, every = Path(sys.argv[1]), *map(int, sys.argv[2:])
    for point in range(first, last + 1, every):
        home = folder / str(point)
        home.mkdir()
        (home / "kills").write_text(str(leg(home, point) + leg(home, 6)))
        if not (home / "ended").exists():
            assert not leg(home, 0)


if __name__ == "__main__":
    main()
