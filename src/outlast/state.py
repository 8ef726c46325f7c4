"""What a run knows: all slices, folded from its journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast import budget, conversation
from outlast.budget import Spend
from outlast.conversation import Conversation
from outlast.events import (
    AskAnswered,
    AskStarted,
    Event,
    NoteAdded,
    RunFinished,
    RunStarted,
)
from outlast.journal import Record, RunRow

FINAL: Final = frozenset({"failed", "rejected", "cancelled"})
"""Statuses after which nothing of a run can go on."""


class RunState(msgspec.Struct, frozen=True):
    """Everything a run knows, and nothing else does: the fold of its journal."""

    started: RunStarted | None = None
    asks: dict[str, Conversation] = {}
    spend: Spend = Spend()
    status: str = "queued"
    why: str = ""
    answer: Raw | None = None
    next_seq: int = 1
    created_at: int = 0
    updated_at: int = 0

    @property
    def finished(self) -> bool:
        """Whether the last leg of the run has ended."""
        return self.status not in ("queued", "running")


def evolve(state: RunState, record: Record) -> RunState:
    """Return what `record` makes of the run."""
    return fold((record,), state)


def fold(records: Iterable[Record], state: RunState | None = None) -> RunState:
    """Return what `records` make of `state`, which is empty by default."""
    folded = RunState() if state is None else state
    stretch = _Stretch(folded)
    for record in records:
        event = record.event
        rule = _RULES.get(type(event))
        if rule is None:
            stretch.add(record, event)
        else:
            folded = rule(stretch.end(), event, record)
            stretch = _Stretch(_dated(folded, record))
    return stretch.end()


class _Stretch:
    """Records within asks, one after the other: the run they are of is made once, at their end."""

    __slots__ = ("_ask", "_ask_id", "_asks", "_last", "_run", "_running", "_spend")

    def __init__(self, run: RunState) -> None:
        self._run = run
        self._asks = run.asks
        self._spend = run.spend
        self._ask_id = ""
        self._ask: Conversation
        self._running = False
        self._last: Record | None = None

    def add(self, record: Record, event: Any) -> None:
        if event.ask_id != self._ask_id:
            self._put_back()
            self._ask_id = event.ask_id
            self._ask = self._asks[event.ask_id]
        self._ask = conversation.evolve(self._ask, record)
        self._spend = budget.evolve(self._spend, record)
        self._running = self._running or record.epoch > 0
        self._last = record

    def end(self) -> RunState:
        if self._last is None:
            return self._run
        self._put_back()
        run = replace(self._run, asks=self._asks, spend=self._spend)
        if self._running:
            run = replace(run, status="running", why="")
        return _dated(run, self._last)

    def _put_back(self) -> None:
        if self._ask_id:
            self._asks = {**self._asks, self._ask_id: self._ask}


def _dated(state: RunState, record: Record) -> RunState:
    return replace(
        state,
        next_seq=record.seq + 1,
        created_at=state.created_at or record.at,
        updated_at=record.at,
    )


def _answered(state: RunState, event: AskAnswered, record: Record) -> RunState:
    stretch = _Stretch(state)
    stretch.add(record, event)
    return replace(stretch.end(), answer=event.answer)


def _started(state: RunState, event: RunStarted, _: Record) -> RunState:
    return replace(state, started=event)


def _ask_started(state: RunState, event: AskStarted, _: Record) -> RunState:
    assert state.started is not None, "an ask before its run"  # noqa: S101  (a broken invariant)
    asks = {**state.asks, event.ask_id: conversation.start(event, state.started.spec)}
    return replace(state, asks=asks, status="queued" if state.status == "queued" else "running")


def _finished(state: RunState, event: RunFinished, _: Record) -> RunState:
    asks = {key: conversation.rested(ask) for key, ask in state.asks.items()}
    return replace(state, asks=asks, status=event.status, why=event.why)


def _unchanged(state: RunState, _event: NoteAdded, _: Record) -> RunState:
    return state


_RULES: Final[dict[type[Event], Callable[[RunState, Any, Record], RunState]]] = {
    RunStarted: _started,
    AskStarted: _ask_started,
    AskAnswered: _answered,
    RunFinished: _finished,
    NoteAdded: _unchanged,
}
"""What each event makes of the run; every other one belongs to an ask."""


def row(state: RunState, run_id: str) -> RunRow:
    """Return the run's row: what listings show without reading the journal."""
    started = state.started
    assert started is not None, "a run without its first event"  # noqa: S101  (a broken invariant)
    return RunRow(
        id=run_id,
        agent=started.agent,
        version=started.version,
        status=state.status,
        answer=None if state.answer is None else bytes(state.answer).decode(),
        cost_nano=state.spend.nano,
        tokens=state.spend.tokens,
        turns=state.spend.turns,
        created_at=state.created_at,
        updated_at=state.updated_at,
        why=state.why,
        tenant=started.tenant,
        parent=started.parent,
        root=started.root,
    )
