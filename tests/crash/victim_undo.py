"""Cancels a run with `--undo`, in processes that kill themselves with SIGKILL where told.

    python -c "import victim_undo; victim_undo.main()" FOLDER POINT …

A run books two rooms and waits.  Then, for every point, a process is forked that cancels it and
dies there: 0 is under the function that cancels a booking, once that is done; any other one is an
append.  The tools write what they did to a file.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from victim_approvals import Deadly

import outlast
from outlast.models.script import Turn, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

HOME = "UNDO_HOME"
DIES = "UNDO_DIES"


def wrote(line: str) -> None:
    """Write what was done to the file that everybody writes to."""
    file = os.open(f"{os.environ[HOME]}/effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def unbook(room: str, context: outlast.ToolContext) -> None:
    """Cancel a booking."""
    wrote(f"unbook {room} {context.idempotency_key}")
    if os.environ.get(DIES):
        os.kill(os.getpid(), signal.SIGKILL)


@outlast.tool(effect="once", undo=unbook)
def book(room: str, context: outlast.ToolContext) -> str:
    """Book a room."""
    wrote(f"book {room} {context.idempotency_key}")
    return f"booked {room}"


@outlast.tool(effect="once", approval="always", approval_expires=None)
def sign(room: str) -> str:
    """Sign for a room."""
    return room


clerk = outlast.Agent("clerk", model="claude-haiku-5-5", max_tokens=512, tools=[book, sign])


def script(request: dict[str, Any], attempt: int) -> Turn:
    if turn_number(request) > 2:
        return say("Done.")
    name, room = [("book", "a"), ("book", "b")][turn_number(request) - 1]
    more = [tool_use("sign", {"room": "b"})] if room == "b" else []
    return say(tool_use(name, {"room": room}), *more)


def forked(home: str, kill_at: int, deed: Callable[[outlast.Outlast], Any]) -> bool:
    """Do it in a forked process; return whether that was killed."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or status == 0, status
        return os.WIFSIGNALED(status)
    signal.alarm(60)
    try:
        store: Any = Deadly(f"sqlite:///{home}/s.db", kill_at)
        deed(outlast.Outlast(store, model=ScriptedModel(script)))
        os._exit(0)
    finally:
        os._exit(70)


def main() -> None:
    home = os.environ[HOME] = sys.argv[1]
    assert not forked(home, 0, lambda app: app.run(clerk, "Go.", run_id="r"))
    for point in map(int, sys.argv[2:]):
        os.environ[DIES] = "" if point else "yes"
        assert forked(home, point, lambda app: app.cancel("r", by="ann", undo=True)), point
    Path(home, "killed").touch()
