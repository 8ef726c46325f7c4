"""A whole turn over HTTP: ours, and the loop that is written with the bare SDK in an afternoon.

All of them talk to `server.py`, in a process of its own, about the same: a request with the history
so far, a reply of 500 bytes of text and one tool use, and the tool's 1 KB.  A turn lies between two
requests, and what counts is the CPU time of this process, all threads.  The first turns of a
conversation are put there, not asked for, so that the long ones are had in a second, too.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anthropic
import work
from anthropic.types import Message
from server import message

import outlast
from outlast.models import Part, Reply, Request
from outlast.models.anthropic import AnthropicModel

WARM = 5
"""Turns in a conversation of their own that open the connection and import what is late."""

LENGTHS = (1, 100, 1000)
PACED_LENGTHS = (100,)

SYSTEM = "You are a grant researcher. Return only grants you found with the tools."
_TOOL: dict[str, Any] = {
    "name": "look_up",
    "description": "Search the database of grants.",
    "input_schema": {
        "type": "object",
        "properties": {
            "keyword": {"type": "string", "description": "what to look for."},
            "limit": {
                "type": "integer",
                "default": 5,
                "description": "how many grants to return at most.",
            },
        },
        "required": ["keyword"],
        "additionalProperties": False,
    },
}


Spent = dict[str, list[int]]
"""By side, the CPU time of each turn in ns."""


def turns(folder: Path, measured: int) -> dict[str, dict[str, float]]:
    """Return the CPU time of a turn, the median in µs, by side and case.

    The sides are `ours`, `create` (the SDK's `messages.create`) and `stream` (`messages.stream`).
    They take turns turn by turn, in one process, so that a slow moment of the machine hits all.
    A case is the number of turns in the history, with `paced` before it where the events of a reply
    come one by one.

    Args:
        folder: where our store is.
        measured: how many turns are measured, in the middle of which the history is as long as the
            case says.

    """
    found: dict[str, dict[str, float]] = {"ours": {}, "create": {}, "stream": {}}
    with _server() as (whole, paced):
        for url, name, lengths in ((whole, "", LENGTHS), (paced, "paced ", PACED_LENGTHS)):
            with _talk(folder / "turns.db", url) as talk:
                talk(0, WARM)
                for length in lengths:
                    spent = talk(max(0, length - measured // 2), measured)
                    for side, each in spent.items():
                        found[side][f"{name}{length}"] = statistics.median(each) / 1e3
    return found


@contextlib.contextmanager
def _server() -> Iterator[list[str]]:
    command = [sys.executable, str(Path(__file__).with_name("server.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield [f"http://127.0.0.1:{int(port)}" for port in process.stdout.readline().split()]
        finally:
            process.kill()


@contextlib.contextmanager
def _talk(store: Path, url: str) -> Iterator[Callable[[int, int], Spent]]:
    """Yield what talks on after so many turns, for so many, and returns what they took."""
    theirs = anthropic.Anthropic(api_key="sk-bench", base_url=url)
    claude = AnthropicModel(anthropic.AsyncAnthropic(api_key="sk-bench", base_url=url))
    interposed = Interposed(claude)

    def talk(before: int, measured: int) -> Spent:
        others = {"create": _created, "stream": _streamed}
        loops = {side: _loop(theirs, ask, before) for side, ask in others.items()}
        interposed.begin(before, measured, loops)
        run = app.run(work.agent(), work.ASKED)
        assert run.status == "completed", run
        return interposed.spent

    with theirs, outlast.Outlast(f"sqlite:///{store}", model=interposed) as app:
        yield talk
    for path in store.parent.glob(store.name + "*"):
        path.unlink()


# ── the bare loop ───────────────────────────────────────────────────────────────────────────────


def look_up(keyword: str, limit: int = 5) -> str:
    """Do what the tool does."""
    return work.FOUND


Ask = Callable[..., Message]


def _created(client: anthropic.Anthropic, **request: Any) -> Message:
    reply: Message = client.messages.create(**request)
    return reply


def _streamed(client: anthropic.Anthropic, **request: Any) -> Message:
    with client.messages.stream(**request) as stream:
        return stream.get_final_message()


def _loop(client: anthropic.Anthropic, ask: Ask, before: int) -> Iterator[int]:
    """Yield the CPU time of each turn, in ns, after so many turns that are there already."""
    messages = _history(before)
    while True:
        began = time.process_time_ns()
        reply = ask(
            client,
            model=work.MODEL,
            max_tokens=8192,
            system=SYSTEM,
            tools=[_TOOL],
            messages=messages,
        )
        messages.append({"role": "assistant", "content": reply.content})
        messages.append({"role": "user", "content": _results(reply)})
        yield time.process_time_ns() - began


def _results(reply: Message) -> list[dict[str, Any]]:
    return [
        {"type": "tool_result", "tool_use_id": block.id, "content": look_up(**block.input)}
        for block in reply.content
        if block.type == "tool_use"
    ]


def _history(turns: int) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": work.ASKED}]
    for number in range(1, turns + 1):
        reply = Message.model_validate(message(number))
        messages.append({"role": "assistant", "content": reply.content})
        messages.append({"role": "user", "content": _results(reply)})
    return messages


# ── ours ────────────────────────────────────────────────────────────────────────────────────────


class Interposed:
    """A `Model` of which some replies are there already, and the next ones come over HTTP.

    Before each of these, every other loop has a turn, and what it takes is not ours.
    """

    def __init__(self, claude: AnthropicModel) -> None:
        self._claude = claude
        self.begin(0, 0, {})

    def begin(self, before: int, measured: int, others: Mapping[str, Iterator[int]]) -> None:
        """Expect a conversation."""
        self._before, self._measured, self._others = before, measured, others
        self._told = work.Claude(before + measured)
        self._since = 0
        self.spent: Spent = {side: [] for side in ("ours", *others)}

    async def call(self, request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
        """Return the reply, the last of which ends the conversation."""
        now = time.process_time_ns()
        turn = (len(request.messages) + 1) // 2 - self._before
        if turn > 1:
            self.spent["ours"].append(now - self._since)
        if not 1 <= turn <= self._measured:
            return await self._told.call(request, on_part=on_part)
        for side, other in self._others.items():
            self.spent[side].append(next(other))
        self._since = time.process_time_ns()
        return await self._claude.call(request, on_part=on_part)
