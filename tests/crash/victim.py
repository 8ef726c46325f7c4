"""A process that drives a run and kills itself, with SIGKILL, at the point it is told.

It is started once and forks for every leg, because importing the SDK takes seconds.  A leg comes
as a line of JSON on stdin; how it ended goes out as a line of JSON.  What happened in the world is
in files outside: the simulator's, and those the tools append to.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import anthropic
import msgspec

import outlast
from outlast.events import tag
from outlast.journal import Commit, Journal
from outlast.models.anthropic import AnthropicModel
from outlast.prices import rates
from outlast.stores import open_store

# Made before any fork: it takes a while, and binds to no event loop before its first request.
CLIENT = anthropic.AsyncAnthropic(api_key="none", max_retries=0)


class Points:
    """Counts the places where the process may die, writes their names down, and dies at one."""

    def __init__(self, leg: dict[str, Any]) -> None:
        self.kill_at = leg["kill_at"]
        self.passed = 0
        self.log = os.open(leg["points"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, name: str) -> None:
        self.passed += 1
        if self.passed == self.kill_at:
            os.write(self.log, (name + "\n").encode())
            os.kill(os.getpid(), signal.SIGKILL)


class Watched:
    """The real journal, with a point before and after every append."""

    def __init__(self, journal: Journal, points: Points) -> None:
        self._journal = journal
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Commit) -> Any:
        names = "+".join(tag(event) for event in commit.events)
        self._points(f"before append {names}")
        records = self._journal.append(commit)
        self._points(f"after append {names}")
        return records

    async def aappend(self, commit: Commit) -> Any:
        names = "+".join(tag(event) for event in commit.events)
        self._points(f"before append {names}")
        records = await self._journal.aappend(commit)
        self._points(f"after append {names}")
        return records


class WatchedModel(AnthropicModel):
    """The real model over HTTP, with a point before and after every call."""

    points: Points

    async def call(self, request: Any, *, on_part: Any) -> Any:
        self.points("before model call")
        try:
            return await super().call(request, on_part=on_part)
        finally:
            self.points("after model call")


def agent(leg: dict[str, Any], points: Points) -> outlast.Agent:
    """Return an agent whose tools append to files outside of this process."""
    effects = os.open(leg["effects"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def effect(name: str, key: str) -> None:
        points(f"before effect {name}")
        os.write(effects, json.dumps({"tool": name, "key": key}).encode() + b"\n")
        points(f"after effect {name}")

    @outlast.tool(effect="read")
    def look_up(word: str) -> dict[str, str]:
        """Look a word up."""
        effect("look_up", word)
        return {"word": word, "meaning": f"what {word} means"}

    @outlast.tool(effect="idempotent")
    async def save(text: str, context: outlast.ToolContext) -> str:
        """Save a text."""
        effect("save", context.idempotency_key)
        return "saved"

    def was_sent(text: str) -> outlast.Reconciled:
        """Look into the world whether a text was sent."""
        lines = map(json.loads, Path(leg["effects"]).read_bytes().splitlines())
        happened = any((line["tool"], line["key"]) == ("send", text) for line in lines)
        return outlast.Reconciled(happened=happened, result="sent")

    @outlast.tool(effect="once", reconcile=was_sent)
    def send(text: str) -> str:
        """Send a text."""
        effect("send", text)
        return "sent"

    @outlast.tool(effect="read")
    async def broken() -> str:
        """Fail, always."""
        raise ValueError("the secret is 1234")

    return outlast.Agent(
        "sender",
        model="claude-haiku-5-5",
        instructions="Look up, save, send.",
        tools=[look_up, save, send, broken],
        max_tokens=512,
        budget=outlast.Budget(turns=leg["turns"]),
    )


def drive(leg: dict[str, Any]) -> None:
    """Drive the run of `leg` to rest, if nothing kills it, and write down how it ended."""
    points = Points(leg)
    model = WatchedModel(CLIENT.with_options(base_url=leg["claude"]))
    model.points = points
    journal: Any = Watched(open_store(leg["store"]), points)
    app = outlast.Outlast(journal, model=model)
    declared = agent(leg, points)
    if leg["guest"]:
        run = asyncio.run(app.arun(declared, leg["question"], run_id="r"))
    else:
        run = app.run(declared, leg["question"], run_id="r")
    ended = {"status": run.status, "answer": run.answer, "nano": run.cost_nano, "why": run.why}
    Path(leg["ended"]).write_bytes(msgspec.json.encode(ended))
    os._exit(0)


def warm() -> None:
    """Import what every leg needs, once for all of them."""
    leg = {"points": os.devnull, "effects": os.devnull, "kill_at": 0, "turns": None}
    declared = agent(leg, Points(leg))
    declared.spec()
    rates(declared.model)
    import outlast.stores.sqlite  # noqa: F401, PLC0415


def main() -> None:
    """Fork a process for every leg that comes, and say how it ended."""
    warm()
    for line in sys.stdin:
        leg = json.loads(line)
        child = os.fork()
        if not child:
            signal.alarm(60)
            try:
                drive(leg)
            finally:
                os._exit(70)
        _, status = os.waitpid(child, 0)
        answer = json.dumps({"killed": os.WIFSIGNALED(status), "status": status})
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
