"""What a run knows: all slices, folded from its journal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Raw

from outlast import budget, conversation
from outlast.budget import Spend
from outlast.conversation import Conversation
from outlast.events import (
    AskAnswered,
    AskStarted,
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
    event = record.event
    asks, status, why, answer = state.asks, state.status, state.why, state.answer
    started = state.started
    if isinstance(event, RunStarted):
        started = event
    elif isinstance(event, AskStarted):
        assert started is not None, "an ask before its run"  # noqa: S101  (a broken invariant)
        asks = {**asks, event.ask_id: conversation.start(event, started.spec)}
        status = "queued" if status == "queued" else "running"
    elif isinstance(event, RunFinished):
        status, why = event.status, event.why
        asks = {key: conversation.rested(ask) for key, ask in asks.items()}
    elif not isinstance(event, NoteAdded):
        ask = asks[event.ask_id]
        asks = {**asks, event.ask_id: conversation.evolve(ask, record)}
        if record.epoch:
            status, why = "running", ""
        if isinstance(event, AskAnswered):
            answer = event.answer
    return RunState(
        started,
        asks,
        budget.evolve(state.spend, record),
        status,
        why,
        answer,
        record.seq + 1,
        state.created_at or record.at,
        record.at,
    )


def fold(records: Iterable[Record], state: RunState | None = None) -> RunState:
    """Return what `records` make of `state`, which is empty by default."""
    folded = RunState() if state is None else state
    for record in records:
        folded = evolve(folded, record)
    return folded


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
