"""Drives a map in batches in processes that kill themselves with SIGKILL where they are told.

    victim_batch.py FOLDER URL FIRST LAST EVERY

For every point a process is forked that dies there; then one that goes on, and dies a little later;
and then one that goes on to the end.  A point is before and after every append, and before and
after everything that Claude is asked.  What happened in the world is in the simulator's files.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import anthropic
import msgspec

import outlast
from batch.mapped import agent, mapping, quick
from outlast.events import tag
from outlast.journal import Commit
from outlast.models.anthropic import AnthropicModel
from outlast.prices import rates
from outlast.stores import open_store

# Made before any fork: it takes a while, and binds to no event loop before its first request.
CLIENT = anthropic.AsyncAnthropic(api_key="none", max_retries=0)
FLOW = mapping(agent(), batch=True)


class Points:
    """Counts the places where the process may die, and dies at one, writing its name down."""

    def __init__(self, home: Path, kill_at: int) -> None:
        self._left = kill_at
        self._log = os.open(home / "kills", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            os.write(self._log, f"{name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """A store with a point before and after every append."""

    def __init__(self, url: str, points: Points) -> None:
        self._journal = open_store(url)
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Commit) -> Any:
        names = "+".join(map(tag, commit.events))
        self._points(f"before {names}")
        records = self._journal.append(commit)
        self._points(f"after {names}")
        return records

    async def aappend(self, commit: Commit) -> Any:
        names = "+".join(map(tag, commit.events))
        self._points(f"before {names}")
        records = await self._journal.aappend(commit)
        self._points(f"after {names}")
        return records


class DeadlyModel(AnthropicModel):
    """Claude over HTTP, with a point before and after everything it is asked about batches."""

    points: Points

    async def send_batch(self, requests: Any) -> Any:
        return await self._asked("sending", super().send_batch(requests))

    async def batch_ended(self, batch_id: str) -> Any:
        return await self._asked("a poll", super().batch_ended(batch_id))

    async def batch_results(self, batch_id: str) -> Any:
        return await self._asked("fetching", super().batch_results(batch_id))

    async def _asked(self, what: str, asking: Any) -> Any:
        self.points(f"before {what}")
        came = await asking
        self.points(f"after {what}")
        return came


def leg(home: Path, url: str, kill_at: int) -> bool:
    """Fork a process that drives the map; return whether it was killed."""
    forked = os.fork()
    if forked:
        _, status = os.waitpid(forked, 0)
        assert os.WIFSIGNALED(status) or status == 0, status
        return os.WIFSIGNALED(status)
    signal.alarm(60)
    try:
        points = Points(home, kill_at)
        model = DeadlyModel(CLIENT.with_options(base_url=url))
        model.points = points
        store: Any = Deadly(f"sqlite:///{home}/s.db", points)
        app = quick(outlast.Outlast(store, model=model), most=3)
        run = app.run(FLOW, [f"{word} {home.name}." for word in ("a", "b", "use")], run_id="r")
        ended = {"status": run.status, "answer": run.answer, "why": run.why}
        (home / "ended").write_bytes(msgspec.json.encode(ended))
        os._exit(0)
    finally:
        os._exit(70)


def main() -> None:
    """Kill at every point there is to be killed at, and say where the last one was."""
    folder, url, *numbers = sys.argv[1:]
    first, last, every = map(int, numbers)
    rates("claude-opus-5-5")
    import outlast.stores.sqlite  # noqa: F401, PLC0415  (once for all forks)

    for point in range(first, last + 1, every):
        home = Path(folder) / str(point)
        home.mkdir()
        killed = leg(home, url, point) + leg(home, url, 4 + point % 7)
        if not (home / "ended").exists():
            assert not leg(home, url, 0)
        (home / "killed").write_text(json.dumps(killed))


if __name__ == "__main__":
    main()
