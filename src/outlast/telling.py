"""How a run is told something from outside: where it may be told that, once, with its row."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from outlast import logs
from outlast.agent import Agent, Budget
from outlast.answering import Answer, Check, given, questions
from outlast.errors import Conflict, UsageError
from outlast.events import NULL, ApprovalGiven, ControlGiven, RunLeft, Verb
from outlast.journal import Commit, Journal, Record, run_stream
from outlast.state import ENDED, RunState, fold, held_up, row

FITS: Final[dict[Verb, frozenset[str]]] = {
    "pause": frozenset({"queued", "running", "parked", "waiting", "paused"}),
    "resume": frozenset({"paused"}),
    "cancel": frozenset(
        {"queued", "running", "parked", "waiting", "paused", "stopped", "cancelled"}
    ),
}
"""What can be told to a run, by its status."""


def tell(journal: Journal, run_id: str, told: ControlGiven, *, strict: bool) -> None:
    """Write into a run's journal what it is told, unless it was told that already.

    Raises:
        UsageError: it is nothing to tell a run of this status, and `strict`.

    """

    def said(state: RunState, now: int) -> ControlGiven | None:
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
        if event is not None and event.arguments != NULL:
            check(state, asked, event.arguments)
        return event

    _write(journal, run_id, told)


def _asking(journal: Journal, run_id: str, now: int) -> list[str]:
    """Return the runs below one that wait for a person."""
    rows = [one.id for one in journal.below(run_id) if one.status in FITS["pause"]]
    return [one for one in rows if questions(fold(journal.read(run_stream(one))), now)]


def _write(
    journal: Journal,
    run_id: str,
    said: Callable[[RunState, int], ControlGiven | ApprovalGiven | RunLeft | None],
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


def _after(
    state: RunState, stream: str, told: ControlGiven | ApprovalGiven | RunLeft, now: int
) -> RunState:
    return fold((Record(stream, state.next_seq, 0, now, 0, told),), state)


def nobody() -> Agent:
    """Return whom a run is driven with of which nothing is to be driven any more."""
    return Agent("nobody", model="none", budget=Budget())
