"""Begins runs that share the beginning of another one: forks."""

from __future__ import annotations

import secrets
from contextlib import suppress

from outlast import logs
from outlast.errors import Conflict, RunConflict
from outlast.events import RunStarted, TreeJoined
from outlast.forking import Prefix, check, prefix
from outlast.journal import Commit, Journal, Record, RunRow, run_stream
from outlast.limits import STREAM as BUDGETS
from outlast.limits import Budgets, joined
from outlast.limits import fold as fold_budgets
from outlast.starting import tree_of
from outlast.state import fold, row


def fork_id(run_id: str, at: int) -> str:
    """Return what a fork is called where nobody says so: the same for the same fork."""
    return f"{run_id}~{at}"


def branch(  # noqa: PLR0913  (what a fork is)
    journal: Journal, run_id: str, at: int, fork: str, *, now: int, reason: str = "", by: str = ""
) -> RunRow:
    """Write a run that shares the events of another one up to `at`, or find that it is there.

    Args:
        journal: where.
        run_id: the other run.
        at: the last event that is shared.
        fork: what the new run is called, which is checked already.
        now: nanoseconds since the epoch.
        reason: why.
        by: by whom.

    Raises:
        RunConflict: there is another run of that id.
        UsageError: the run cannot be forked there; see `forking.check`.

    """
    if (found := _there(journal, run_id, at, fork)) is not None:
        return found
    records = journal.read(run_stream(run_id))
    check(run_id, records, at)
    begins = prefix(
        run_id,
        records,
        at,
        fork=fork,
        nonce=secrets.token_hex(16),
        now=now,
        reason=reason,
        by=by,
    )
    # First the tree: a fork of which nobody knew whom it pays with could spend what is not there.
    _join(journal, run_id, fork, now)
    with suppress(Conflict):  # somebody else forked it so at the same time
        _write(journal, fork, begins, now)
    found = _there(journal, run_id, at, fork)
    assert found is not None, f"{fork} was written"  # noqa: S101
    return found


def _there(journal: Journal, run_id: str, at: int, fork: str) -> RunRow | None:
    """Return the fork, where there is one of that id.

    Raises:
        RunConflict: it is another run.

    """
    if (found := journal.run(fork)) is None:
        return None
    started = journal.read(run_stream(fork), limit=1)[0].event
    assert isinstance(started, RunStarted), f"{fork} does not begin"  # noqa: S101
    if (started.forked_from, started.forked_at) != (run_id, at):
        other = f"{started.forked_from} at {started.forked_at}"
        was = other if started.forked_at else "a run that is no fork"
        raise RunConflict(fork, what="fork", recorded=was, given=f"{run_id} at {at}")
    return found


def _join(journal: Journal, run_id: str, fork: str, now: int) -> None:
    """Let a fork pay from the tree of the run it is forked from, and count what that has spent."""
    stream = run_stream(run_id)
    while True:
        budgets = fold_budgets(journal.read(BUDGETS), Budgets())
        if fork in budgets.forks.get(run_id, ()):
            return
        state = fold(journal.read(stream))
        assert state.started is not None, "a run without its first event"  # noqa: S101
        tree = tree_of(run_id, state.started, {})
        commit = Commit(
            stream=BUDGETS,
            events=(TreeJoined(tree=run_id, run_id=fork),),
            at=now,
            expected_seq=budgets.seq + 1,
            seen=((stream, state.next_seq - 1),),
            holds=joined(journal, budgets, tree, state, at=now),
        )
        with suppress(Conflict):  # the run has spent something meanwhile, or a budget was set
            logs.tell(journal.append(commit))
            return


def _write(journal: Journal, fork: str, begins: Prefix, now: int) -> None:
    stream = run_stream(fork)
    known = zip(begins.events, begins.moments, strict=True)
    records = [Record(stream, n, 0, at, 0, event) for n, (event, at) in enumerate(known, start=1)]
    written = journal.append(
        Commit(
            stream=stream,
            events=begins.events,
            moments=begins.moments,
            at=now,
            expected_seq=1,
            row=row(fold(records), fork),
        )
    )
    logs.tell((written[0], written[-1]))
