"""Drives a run that asks a person, in processes that kill themselves with SIGKILL where told.

    victim_approvals.py FOLDER POINT …

For every point, an append of the first leg, a process is forked that dies there.  Then, at every
other point, somebody tries `outlast approve` in a process of its own; another one says yes, and
dies while writing it; and the run is driven, killed once more, and answered until it has ended.
The tool writes what it did to a file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outlast
from outlast.journal import Commit
from outlast.models.script import Turn, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store

effects = -1


def was_mailed(to: str) -> outlast.Reconciled:
    """Look whether it was mailed."""
    done = os.pread(effects, 100_000, 0).decode().splitlines()
    return outlast.Reconciled(happened=f"mail {to}" in done, result=f"mailed to {to}")


@outlast.tool(effect="once", approval="always", approval_expires=None, reconcile=was_mailed)
def mail(to: str) -> str:
    """Mail it."""
    os.write(effects, f"mail {to}\n".encode())
    return f"mailed to {to}"


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word


clerk = outlast.Agent("clerk", model="claude-haiku-5-5", max_tokens=512, tools=[mail, look])


def script(request: dict[str, Any], attempt: int) -> Turn:
    if turn_number(request) > 1:
        return say("Done.")
    return say(tool_use("mail", {"to": "ann"}), tool_use("look", {"word": "a"}))


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


def forked(home: Path, kill_at: int, deed: Callable[[outlast.Outlast], None]) -> bool:
    """Do it in a forked process; return whether that was killed."""
    global effects  # noqa: PLW0603  (of this process only)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or status == 0, status
        return os.WIFSIGNALED(status)
    signal.alarm(60)
    try:
        effects = os.open(home / "effects", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        store: Any = Deadly(f"sqlite:///{home}/s.db", kill_at)
        deed(outlast.Outlast(store, model=ScriptedModel(script)))
        os._exit(0)
    finally:
        os._exit(70)


def drive(app: outlast.Outlast) -> None:
    app.run(clerk, "Go.", run_id="r")


def allow(app: outlast.Outlast) -> None:
    try:
        app.approve("r", arguments={"to": "carol"}, by="who dies")
    except outlast.UsageError:
        return


def typed(home: Path) -> int:
    """Type `outlast approve`, and return its exit code."""
    words = ["approve", "r", "--by", "who types", "--store", f"sqlite:///{home}/s.db"]
    command = [sys.executable, "-m", "outlast", *words]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode


def ended(home: Path) -> bool:
    """Say whether the run is at its end."""
    journal = open_store(f"sqlite:///{home}/s.db")
    row = journal.run("r")
    journal.close()
    return row is not None and row.status == "completed"


def main() -> None:
    for point in map(int, sys.argv[2:]):
        home = Path(sys.argv[1]) / str(point)
        home.mkdir()
        kills = forked(home, point, drive)
        codes = [typed(home)] if point % 2 == 0 else []
        kills += forked(home, 1 + point % 2, allow)  # before it is written, or after
        kills += forked(home, 3, drive)
        if not forked(home, 0, drive) and not ended(home):
            codes.append(typed(home))
            forked(home, 0, drive)
        (home / "told").write_text(json.dumps({"kills": kills, "codes": codes}))


if __name__ == "__main__":
    main()
