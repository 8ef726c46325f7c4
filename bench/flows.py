"""A flow of many asks, one after the other, that died before its last: what it takes to go on.

Beside it stands what nobody can do without: reading its journal and folding it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import work
from msgspec import Raw

import outlast
from outlast.models import Part, Reply, Request
from outlast.state import fold
from outlast.stores.sqlite import SqliteJournal

_ANSWER = Raw(b'[{"type":"text","text":"%b"}]' % work.SAID.encode())
_LAST = "The last one."


class Claude:
    """A `Model` that gives the same answer to every question; it is told of the last one."""

    def __init__(self, on_last: Callable[[], object]) -> None:
        self._on_last = on_last
        self.asked = 0

    async def call(self, request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
        """Return the answer."""
        self.asked += 1
        if _LAST.encode() in request.messages[-1]:
            self._on_last()
        return Reply(
            content=_ANSWER,
            stop_reason="end_turn",
            usage=Raw(work.usage(0)),
            model=work.MODEL,
            request_id="req_011Bench",
            message_id="msg_01Bench",
        )


@outlast.flow(budget=outlast.Budget(turns=None))
async def asking(run: outlast.Run, asks: int) -> int:
    """Ask so many questions, and then the last one."""
    asker = work.agent()
    answers = [await run.ask(asker, f"{work.ASKED} Number {number}.") for number in range(asks)]
    await run.ask(asker, _LAST)
    return len(answers)


class Died(BaseException):
    """The process died here."""


def _die() -> None:
    raise Died


def crash(folder: Path, asks: int) -> None:
    """Leave behind the store of a flow that died at its last ask."""
    store = _store(folder, asks)
    with work.application(store, Claude(_die), "OFF") as app:  # type: ignore[arg-type]
        try:
            app.run(asking, asks, run_id="r")
        except Died:
            return
    raise AssertionError("the last question was never asked")


def _store(folder: Path, asks: int) -> Path:
    return folder / f"asked-{asks}.db"


def folded(store: Path) -> float:
    """Return the milliseconds of CPU that it takes to read a flow's journal and to fold it."""
    journal = SqliteJournal(store)
    gc.collect()
    began = time.process_time_ns()
    state = fold(journal.read("run:r"))
    taken = time.process_time_ns() - began
    journal.close()
    assert state.status == "running", state.status
    return taken / 1e6


def resumed(store: Path, asks: int) -> float:
    """Return the milliseconds of CPU from `resume` to the call of the model."""
    reached: list[int] = []
    claude = Claude(lambda: reached.append(time.process_time_ns()))
    with work.application(store, claude, "FULL") as app:  # type: ignore[arg-type]
        gc.collect()
        began = time.process_time_ns()
        run = app.resume("r", asking)
    assert run.answer == asks, run
    assert claude.asked == 1, "something was asked again"
    return (reached[0] - began) / 1e6
