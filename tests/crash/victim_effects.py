"""Drives a run whose tools write to files and to a database, and is killed while they do.

It is started once and forks a process for every leg, which comes as a line of JSON.  That process
says through a pipe when a tool begins and ends its work; it is killed from outside, with SIGKILL,
a moment after one of these, whatever it does then.
"""

import contextlib
import importlib
import json
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

import outlast
from outlast.models.script import Turn, say, text_of, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.prices import rates


class Leg:
    """Where the tools of this process act; set after the fork."""

    home: Path
    pipe: int
    log: int


def near(name: str, context: outlast.ToolContext) -> None:
    """Write down that a tool begins, and tell whoever is about to kill this process."""
    line = {"tool": name, "call": context.call_id, "key": context.idempotency_key}
    os.write(Leg.log, json.dumps(line).encode() + b"\n")
    os.write(Leg.pipe, b".")
    time.sleep(0.001)


def far() -> None:
    """Tell that a tool has done its work."""
    os.write(Leg.pipe, b".")
    time.sleep(0.001)


@outlast.tool(effect="once")
def send(text: str, context: outlast.ToolContext) -> str:
    """Send a text: append a line to a file."""
    near("send", context)
    sent = os.open(Leg.home / "sent", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(sent, text.encode() + b"\n")
    os.close(sent)
    far()
    return f"sent {text}"


@outlast.tool(effect="idempotent")
def save(text: str, context: outlast.ToolContext) -> str:
    """Save a text in a file that is called by the key, and made once."""
    near("save", context)
    draft = Leg.home / f"draft-{os.getpid()}-{context.call_id}"
    draft.write_text(text)
    with contextlib.suppress(FileExistsError):  # an attempt before did it
        os.link(draft, Leg.home / "files" / context.idempotency_key)
    far()
    return f"saved {text}"


@outlast.tool(effect="idempotent")
def book(text: str, context: outlast.ToolContext) -> str:
    """Book a text in a database, in the row of the key."""
    near("book", context)
    database = sqlite3.connect(Leg.home / "books.db", timeout=30)
    with database:
        row = context.idempotency_key, text
        database.execute("INSERT OR IGNORE INTO books VALUES (?, ?)", row)
    database.close()
    far()
    return f"booked {text}"


clerk = outlast.Agent("clerk", model="claude-haiku-5-5", max_tokens=512, tools=[send, save, book])


def script(request: dict[str, Any], attempt: int) -> Turn:
    """Call the tools, some twice with equal arguments; and at the end say what they said."""
    turn = turn_number(request)
    if turn == 1:
        save_it = tool_use("save", {"text": "x"})
        return say(
            tool_use("send", {"text": "a"}), save_it, dict(save_it), tool_use("book", {"text": "y"})
        )
    if turn == 2:
        return say(
            tool_use("book", {"text": "y"}),
            tool_use("save", {"text": "x"}),
            tool_use("send", {"text": "b"}),
        )
    results = [
        text_of(block["content"])
        for message in request["messages"][1:]
        for block in message["content"]
        if block["type"] == "tool_result"
    ]
    return say(json.dumps(results))


def drive(leg: dict[str, Any]) -> None:
    """Drive the run to rest."""
    Leg.home = Path(leg["home"])
    Leg.log = os.open(Leg.home / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    app = outlast.Outlast(f"sqlite:///{Leg.home}/s.db", model=ScriptedModel(script))
    app.run(clerk, "Go.", run_id="r")


def killed(leg: dict[str, Any]) -> bool:
    """Fork a process for a leg, kill it where told, and return whether that was in time."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.close(reads)
        Leg.pipe = writes
        signal.alarm(60)
        try:
            drive(leg)
            os._exit(0)
        finally:
            os._exit(70)
    os.close(writes)
    left = leg["kill_at"]
    while left and (told := os.read(reads, left)):
        left -= len(told)
    if leg["kill_at"] and not left:
        time.sleep(leg["after_s"])
        os.kill(child, signal.SIGKILL)
    while os.read(reads, 1_024):
        pass  # until it has ended, so that it never waits for a reader
    os.close(reads)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, status
    return os.WIFSIGNALED(status)


def warm() -> None:
    """Import what every leg needs, once for all of them."""
    clerk.spec()
    rates(clerk.model)
    for name in ("outlast.app", "outlast.stores.sqlite"):
        importlib.import_module(name)


def main() -> None:
    """Drive the legs that come, one after the other."""
    warm()
    for line in sys.stdin:
        sys.stdout.write(msgspec.json.encode(killed(json.loads(line))).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
