"""The work that is measured: an agent with one tool, and a Claude that answers in process.

A turn is one reply (500 bytes of text and one tool use) and one tool result of 1 KB, so two
commits of two events: {reply, tool intent} and {tool result, next intent}.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Raw

import outlast
from outlast.models import Part, Reply, Request
from outlast.stores.sqlite import SqliteJournal

MODEL = "claude-opus-5-5"
ASKED = "Find five grants for nonprofits that work on artificial intelligence."
SAID = ("Here is what I know so far, and what I am going to look up next. " * 8)[:500]
FOUND = ("A grant, its funder, its sum and who may apply for it. " * 20)[:1024]
WARM_TURNS = 3
WRITTEN = 618
"""Tokens that every turn adds to the prompt in Claude's cache."""

_TOOL_USE = (
    b'[{"type":"text","text":"%b"},{"type":"tool_use","id":"toolu_01Bench' % SAID.encode(),
    (
        b'","name":"look_up","input":{"keyword":"artificial intelligence","limit":10},'
        b'"caller":{"type":"direct"}}]'
    ),
)
_END = b'[{"type":"text","text":"%b"}]' % SAID.encode()
_USAGE = (
    b'{"input_tokens":412,"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d,'
    b'"output_tokens":187,"service_tier":"standard",'
    b'"cache_creation":{"ephemeral_5m_input_tokens":%d,"ephemeral_1h_input_tokens":0}}'
)


_CALLS = itertools.count()


@outlast.tool(effect="read")
async def look_up(keyword: str, limit: int = 5) -> str:
    """Search the database of grants.

    Args:
        keyword: what to look for.
        limit: how many grants to return at most.

    """
    # Something new each time, as work that gets on: a loop would be stopped.
    return f"{next(_CALLS):08d}{FOUND[8:]}"


def agent() -> outlast.Agent:
    """Return the agent, which never runs out of turns."""
    return outlast.Agent(
        "bench",
        model=MODEL,
        instructions="You are a grant researcher. Return only grants you found with the tools.",
        tools=[look_up],
        budget=outlast.Budget(turns=None),
    )


class Claude:
    """A `Model` that asks for the tool `turns` times, and then ends its turn.

    Its replies are made beforehand, and it never joins a request body: what a network client does
    with either is not what is measured.  `on_call` is told the number of every call, from 1, before
    it is answered; it may wait.
    """

    def __init__(self, turns: int, on_call: Callable[[int], object] | None = None) -> None:
        self._replies = [_reply(turn, turn > turns) for turn in range(1, turns + 2)]
        self._on_call = on_call

    async def call(self, request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
        """Return the reply to the request, by the length of its history."""
        turn = (len(request.messages) + 1) // 2
        if self._on_call is not None:
            waits = self._on_call(turn)
            if waits is not None:
                await waits  # type: ignore[misc]
        return self._replies[turn - 1]


def content(turn: int) -> bytes:
    """Return the blocks of the reply of a turn that asks for the tool, as JSON."""
    return (b"%012d" % turn).join(_TOOL_USE)


def usage(read: int) -> bytes:
    """Return the counts of a reply to a prompt of which so many tokens were in Claude's cache.

    Where they are fewer than the turn before has written and read, a miss is journalled.
    """
    return _USAGE % (WRITTEN, read, WRITTEN)


def _reply(turn: int, ends: bool) -> Reply:  # noqa: FBT001  (of one caller)
    return Reply(
        content=Raw(_END if ends else content(turn)),
        stop_reason="end_turn" if ends else "tool_use",
        usage=Raw(usage(WRITTEN * (turn - 1))),
        model=MODEL,
        request_id=f"req_011Bench{turn:012}",
        message_id=f"msg_01Bench{turn:012}",
    )


class Clock:
    """Notes the process's CPU time and the wall time at every call: a turn lies between two."""

    def __init__(self) -> None:
        self.cpu: list[int] = []
        self.wall: list[int] = []

    def __call__(self, _turn: int) -> None:
        self.cpu.append(time.process_time_ns())
        self.wall.append(time.perf_counter_ns())


class Gate:
    """Holds every run back at one turn until all have come there."""

    def __init__(self, turn: int, runs: int) -> None:
        self.arrived = [asyncio.Event() for _ in range(runs)]
        self._turn = turn
        self._come = 0
        self._open = asyncio.Event()
        self.opened_at = 0

    def __call__(self, turn: int) -> object:
        if turn != self._turn:
            return None
        self.arrived[self._come].set()
        self._come += 1
        if self._come < len(self.arrived):
            return self._open.wait()
        self.opened()
        self._open.set()
        self.opened_at = time.perf_counter_ns()
        return None

    def opened(self) -> None:
        """Be told that all runs are there, before any goes on."""


@contextlib.contextmanager
def application(
    store: Path, claude: Claude, synchronous: str, **options: object
) -> Iterator[outlast.Outlast]:
    """Open an application over a store."""
    journal = SqliteJournal(store, synchronous=synchronous, **options)  # type: ignore[arg-type]
    with outlast.Outlast(journal, model=claude) as app:
        yield app


def warm() -> None:
    """Run a few turns in memory, so that imports, prices and schemas are not measured."""
    with outlast.Outlast("memory://", model=Claude(WARM_TURNS)) as app:
        assert app.run(agent(), ASKED).status == "completed"


async def many(app: outlast.Outlast, runs: int) -> None:
    """Drive many runs at once on this loop."""
    mine = agent()
    done = await asyncio.gather(*(app.arun(mine, ASKED, run_id=f"run-{n}") for n in range(runs)))
    assert {run.status for run in done} == {"completed"}
