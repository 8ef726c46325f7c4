"""How a run is told something from outside: where it may be told that, once, with its row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from msgspec.structs import replace

from outlast import labels, logs
from outlast.answering import Answer, Check, given, questions
from outlast.errors import Conflict, UsageError
from outlast.events import (
    ApprovalGiven,
    ControlGiven,
    LabelGiven,
    RunLeft,
    ToolCallReconciled,
    Verb,
)
from outlast.forking import forked_from, shared_until
from outlast.journal import Commit, Journal, Record, run_stream
from outlast.settling import Render, Word, in_doubt, settled
from outlast.settling import given as settled_by
from outlast.state import ENDED, RunState, fold, held_up, row
from outlast.undoing import left

FITS: Final[dict[Verb, frozenset[str]]] = {
    "pause": frozenset({"queued", "running", "parked", "waiting", "paused"}),
    "resume": frozenset({"paused"}),
    "cancel": frozenset(
        {"queued", "running", "parked", "waiting", "paused", "stopped", "cancelled"}
    ),
}
"""What can be told to a run, by its status."""

Told: TypeAlias = ControlGiven | ApprovalGiven | ToolCallReconciled | RunLeft | LabelGiven
"""What others than its driver write into a run's journal."""


def tell(journal: Journal, run_id: str, told: ControlGiven, *, strict: bool) -> None:
    """Write into a run's journal what it is told, unless it was told that already.

    Raises:
        UsageError: it is nothing to tell a run of this status, and `strict`; a run that has ended
            is to take back what it did.

    """

    def said(state: RunState, now: int) -> ControlGiven | None:
        if strict and told.undo and state.status == "cancelled" and not state.control.undo:
            _check_nothing_left(state, run_id)
        mends = told.verb == "resume" and state.status not in ENDED and held_up(state)
        if mends and not state.control.cancelled:
            return told
        if state.status in FITS[told.verb]:
            after = _after(state, run_stream(run_id), told, now)
            return None if after.control == state.control else told
        if strict:
            raise UsageError(
                f"run {run_id!r} is {state.status}, so there is nothing to {told.verb}; "
                f"`outlast show {run_id}` says more"
            )
        return None

    _write(journal, run_id, said)


def _check_nothing_left(state: RunState, run_id: str) -> None:
    if still := left(state.undoing, state.asks.values()):
        those = ", ".join(f"{one.tool} ({one.call_id})" for one in still)
        raise UsageError(
            f"run {run_id!r} is cancelled already, and has ended without taking back what its "
            f"tools did, so nothing is undone any more; what could have been: {those}"
        )


def mend(journal: Journal, run_id: str, told: ControlGiven) -> None:
    """Tell a run to go on that waits for somebody to mend something; to any other, say nothing."""
    if held_up(fold(journal.read(run_stream(run_id)))):
        tell(journal, run_id, told, strict=False)


def answer(journal: Journal, run_id: str, said: Answer, check: Check) -> None:
    """Write into a run's journal what a person says to what it asks, unless it is there.

    Raises:
        UsageError: nothing like that is asked, or the answer counts no more.
        InvalidInput: of `check`.

    """

    def told(state: RunState, now: int) -> ApprovalGiven | None:
        below = () if questions(state, now) else _asking(journal, run_id, now)
        asked, event = given(state, run_id, said, now, below=below)
        if event is not None:
            check(state, asked, event)
        return event

    _write(journal, run_id, told)


def reconcile(journal: Journal, run_id: str, said: Word, render: Render) -> None:
    """Write into a run's journal what became of a call in doubt, unless it is there.

    Raises:
        UsageError: nothing like that is in doubt, or somebody else said otherwise.
        InvalidInput: of `render`.

    """

    def told(state: RunState, _now: int) -> ToolCallReconciled | None:
        past = settled(journal.read(run_stream(run_id)))
        below = () if past or in_doubt(state) else _doubting(journal, run_id)
        return settled_by(state, run_id, said, render, past=past, below=below)

    _write(journal, run_id, told)


def label(journal: Journal, run_id: str, said: labels.Word) -> None:
    """Write into a run's journal whether an answer is good, unless it is there.

    An answer that a fork shares is labelled in the run that was given it, too: there its checks
    have judged it.

    Raises:
        UsageError: there is no such answer.

    """
    records = journal.read(run_stream(run_id))
    shared = records[: shared_until(records)]
    if (theirs := labels.read(shared).given) and said.call_id not in theirs:
        one = labels.meant(labels.read(records), run_id, said.attempt, ask=said.ask)
        said = replace(said, call_id=one.call_id)
    if said.call_id in theirs:
        label(journal, forked_from(records), said)

    def told(_state: RunState, _now: int) -> LabelGiven | None:
        answers = labels.read(journal.read(run_stream(run_id)))
        below = () if answers.given else _answering(journal, run_id)
        return labels.written(answers, run_id, said, below)

    _write(journal, run_id, told)


def settle(
    journal: Journal, run_id: str, told: Sequence[ToolCallReconciled], *, expected_seq: int
) -> None:
    """Write at once what became of several calls of a run.

    Raises:
        Conflict: its journal is not where it is expected to be; nothing was written.

    """
    stream, now = run_stream(run_id), time.time_ns()
    state = fold(journal.read(stream))
    after = state
    for event in told:
        after = _after(after, stream, event, now)
    commit = Commit(
        stream=stream,
        events=tuple(told),
        at=now,
        expected_seq=expected_seq,
        row=row(after, run_id),
    )
    logs.tell(journal.append(commit))


def _doubting(journal: Journal, run_id: str) -> list[str]:
    """Return the runs below one that have a call in doubt."""
    rows = [one.id for one in journal.below(run_id) if one.status in FITS["pause"]]
    return [one for one in rows if in_doubt(fold(journal.read(run_stream(one))))]


def _answering(journal: Journal, run_id: str) -> list[str]:
    """Return the runs below one that have answers."""
    rows = [one.id for one in journal.below(run_id)]
    return [one for one in rows if labels.read(journal.read(run_stream(one))).given]


def _asking(journal: Journal, run_id: str, now: int) -> list[str]:
    """Return the runs below one that wait for a person."""
    rows = [one.id for one in journal.below(run_id) if one.status in FITS["pause"]]
    return [one for one in rows if questions(fold(journal.read(run_stream(one))), now)]


def _write(
    journal: Journal,
    run_id: str,
    said: Callable[[RunState, int], Told | None],
) -> None:
    """Write an event that depends on what the run knows, which nobody changes in between."""
    stream = run_stream(run_id)
    while True:
        state, now = fold(journal.read(stream)), time.time_ns()
        event = said(state, now)
        if event is None:
            return
        after = _after(state, stream, event, now)
        commit = Commit(
            stream=stream,
            events=(event,),
            at=now,
            expected_seq=state.next_seq,
            row=row(after, run_id),
        )
        with suppress(Conflict):  # the run went on meanwhile, and is read again
            logs.tell(journal.append(commit))
            return


def leave(journal: Journal, run_id: str, why: str) -> None:
    """Write into a run's journal that a worker cannot drive it, unless that is said there."""
    left = RunLeft(why=why)

    def said(state: RunState, now: int) -> RunLeft | None:
        after = _after(state, run_stream(run_id), left, now)
        return None if after.why == state.why else left

    _write(journal, run_id, said)


def _after(state: RunState, stream: str, told: Told, now: int) -> RunState:
    return fold((Record(stream, state.next_seq, 0, now, 0, told),), state)
