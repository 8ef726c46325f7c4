"""How a run is told something from outside: where it may be told that, once, with its row."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from outlast import logs
from outlast.agent import Agent, Budget
from outlast.errors import Conflict, UsageError
from outlast.events import ControlGiven, RunLeft, Verb
from outlast.journal import Commit, Journal, Record, run_stream
from outlast.state import RunState, fold, row

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
    stream = run_stream(run_id)
    while True:
        state = fold(journal.read(stream))
        if state.status not in FITS[told.verb]:
            if strict:
                raise UsageError(
                    f"run {run_id!r} is {state.status}, so there is nothing to {told.verb}; "
                    f"`outlast show {run_id}` says more"
                )
            return
        after = _after(state, stream, told)
        if after.control == state.control:
            return
        commit = Commit(
            stream=stream,
            events=(told,),
            at=after.updated_at,
            expected_seq=state.next_seq,
            row=row(after, run_id),
        )
        with suppress(Conflict):  # the run went on meanwhile, and is read again
            logs.tell(journal.append(commit))
            return


def leave(journal: Journal, run_id: str, why: str) -> None:
    """Write into a run's journal that a worker cannot drive it, unless that is said there."""
    stream, left = run_stream(run_id), RunLeft(why=why)
    while True:
        state = fold(journal.read(stream))
        after = _after(state, stream, left)
        if after.why == state.why:
            return
        commit = Commit(
            stream=stream,
            events=(left,),
            at=after.updated_at,
            expected_seq=state.next_seq,
            row=row(after, run_id),
        )
        with suppress(Conflict):  # somebody drives it now, or says the same
            logs.tell(journal.append(commit))
            return


def _after(state: RunState, stream: str, told: ControlGiven | RunLeft) -> RunState:
    return fold((Record(stream, state.next_seq, 0, time.time_ns(), 0, told),), state)


def nobody() -> Agent:
    """Return whom a run is driven with of which nothing is to be driven any more."""
    return Agent("nobody", model="none", budget=Budget())
