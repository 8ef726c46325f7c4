"""Where a run can be forked: after any event at which nothing of it is in flight.

    original  1 ── 2 ── … ── SEQ ── … ── its end
    fork      1 ── 2 ── … ── SEQ ── run_forked ── its own end

What is in flight would have its outcome in one of the two only, and the other would do it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from outlast.conversation import Conversation
from outlast.errors import UsageError
from outlast.events import (
    AnswerRejected,
    AnyEvent,
    AskStarted,
    FeedbackGiven,
    LoopDetected,
    MessageReceived,
    RunForked,
    RunStarted,
)
from outlast.journal import Record
from outlast.state import RunState, evolve, fold

FIRST: Final = 2
"""The first event that a run can be forked at: up to there, nothing was asked yet."""

_HALVES: Final = (
    (AnswerRejected, FeedbackGiven, "what is done about a rejected answer is not written yet"),
    (AskStarted, MessageReceived, "the question {ask_id} is opened and not asked yet"),
    (LoopDetected, FeedbackGiven, "Claude is to be told of a loop"),
)
"""Events after which another one belongs to them, and how it is said that it is missing."""


class Prefix(msgspec.Struct, frozen=True):
    """What a fork shares, and what it is then."""

    events: tuple[AnyEvent, ...]
    """As they were, but for the first one, which is the fork's own, and the last, which says so."""
    moments: tuple[int, ...]
    """When each of them happened, in nanoseconds since the epoch."""


def check(run_id: str, records: Sequence[Record], at: int) -> None:
    """Refuse to fork a run where that would make nothing that can go on.

    Args:
        run_id: the run.
        records: its whole journal.
        at: the last event that the fork is to share.

    Raises:
        UsageError: there is no such event, something is in flight there, or the run was to end.

    """
    last = len(records)
    if isinstance(at, bool) or not isinstance(at, int) or not FIRST <= at <= last:
        least = f"from {FIRST} to {last}" if last >= FIRST else "as soon as it was asked something"
        raise UsageError(
            f"run {run_id!r} cannot be forked at {at!r}: say after which of its events, {least}; "
            f"`outlast log {run_id}` numbers them"
        )
    state = fold(records[:at])
    if why := _ended(state):
        raise UsageError(f"run {run_id!r} cannot be forked at {at}: {why}; fork it before that")
    if busy := in_flight(state, records[at - 1]):
        raise UsageError(
            f"run {run_id!r} cannot be forked at {at}: {', '.join(busy)}; nothing is in flight "
            f"{_nearest(records, at)}"
        )


def _ended(state: RunState) -> str:
    """Return why nothing could go on; empty where it could."""
    if state.control.cancelled:
        return "it was told to end by then"
    if state.status in ("failed", "rejected", "cancelled"):
        return f"it is {state.status} by then"
    is_flow = state.started is not None and state.started.kind == "flow"
    done = is_flow and state.status == "completed"
    return "it is completed by then, and nothing can be said to a flow" if done else ""


def in_flight(state: RunState, last: Record) -> list[str]:
    """Return what was begun and has no outcome yet, in words, as of a record."""
    found = [half for half in (_half(last.event),) if half]
    for ask in state.asks.values():
        found += _of(ask)
    for name, begun in state.steps.begun.items():
        if begun.kind == "step":
            found.append(f"the step {name!r} is in flight")
        elif begun.kind == "child":
            found.append(f"the child run {begun.child!r} has not ended")
    return found


def _of(ask: Conversation) -> Iterator[str]:
    if ask.call is not None:
        where = "in a batch" if ask.batched is not None else "in flight"
        yield f"the model call {ask.call.call_id} is {where}"
    for one in ask.pending:
        if one.doubt:
            yield f"of the call {one.doubt} of {one.name} nobody knows whether it happened"
        elif one.call_id:
            yield f"the call {one.call_id} of {one.name} is in flight"


def _half(last: AnyEvent) -> str:
    for first, _, told in _HALVES:
        if isinstance(last, first) and not (isinstance(last, LoopDetected) and last.stops):
            return told.format(ask_id=last.ask_id)
    return ""


def _nearest(records: Sequence[Record], at: int) -> str:
    """Return at which events around one nothing is in flight."""
    before = after = 0
    state = RunState()
    for record in records:
        state = evolve(state, record)
        if record.seq < FIRST or in_flight(state, record) or _ended(state):
            continue
        if record.seq < at:
            before = record.seq
        elif record.seq > at:
            after = record.seq
            break
    found = [f"at {seq}" for seq in (before, after) if seq]
    return " and ".join(found) if found else "at any of its events so far"


def prefix(  # noqa: PLR0913  (what a fork is)
    run_id: str,
    records: Sequence[Record],
    at: int,
    *,
    fork: str,
    nonce: str,
    now: int,
    reason: str = "",
    by: str = "",
) -> Prefix:
    """Return what the journal of a fork begins with.

    Args:
        run_id: the run that is forked.
        records: its journal.
        at: the last event that is shared.
        fork: what the fork is called.
        nonce: what its idempotency keys are made of, so that no two runs have one in common.
        now: when it is forked, in nanoseconds since the epoch.
        reason: why.
        by: by whom.

    """
    started = records[0].event
    assert isinstance(started, RunStarted), f"{run_id} does not begin"  # noqa: S101
    own = replace(started, nonce=nonce, parent="", root=fork, forked_from=run_id, forked_at=at)
    shared = records[1:at]
    begins = RunForked(reason=reason, by=by)
    return Prefix(
        (own, *(one.event for one in shared), begins),
        (now, *(one.at for one in shared), now),
    )


def shared_until(records: Sequence[Record]) -> int:
    """Return the last event that a run shares with another one; 0 is none."""
    first = records[0].event if records else None
    return first.forked_at if isinstance(first, RunStarted) else 0


def forked_from(records: Sequence[Record]) -> str:
    """Return the run that a run was forked from; empty where it is no fork."""
    first = records[0].event if records else None
    return first.forked_from if isinstance(first, RunStarted) else ""


def own(records: Sequence[Record]) -> Sequence[Record]:
    """Return the records that are of this run alone: what it shares, another one has done."""
    return records[shared_until(records) :]
