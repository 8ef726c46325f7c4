"""Plans: what is to be said of many calls in doubt, written down before anything is said.

    made ──▶ filled in by a person ──▶ checked, as a whole ──▶ executed, run by run

A plan knows where the journal of each run was when it was made.  A run that has moved since is one
of which somebody knows more by now, so then nothing of the whole plan is written.  What a plan says
of a run is written at once, so one that was interrupted has runs that are done and runs that are
not, and can be executed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw

from outlast.errors import Conflict, InvalidInput, OutlastError, UsageError
from outlast.events import NULL, ToolCallReconciled
from outlast.journal import Journal, Record, run_stream
from outlast.redaction import same as unchanged
from outlast.results import as_content
from outlast.settling import (
    OTHERWISE,
    InDoubt,
    Settled,
    first,
    in_doubt,
    same,
    settled,
    settling,
    trouble,
    word,
)
from outlast.state import RunState, fold
from outlast.telling import settle

FORMAT: Final = "outlast.reconcile/1"
"""What a plan begins with; the number changes with what is in it."""


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be said of a call; `outcome`, `result` and `note` are for whoever decides."""

    run: str
    call: str
    tool: str = ""
    arguments: Raw = NULL
    since: str = ""
    error: str = ""
    """Why it is in doubt."""
    idempotency_key: str = ""
    seq: int
    """Where the journal of the run was when the plan was made."""
    nonce: str
    """What tells the run from one of the same name in another store."""
    outcome: str | None = None
    """`happened` or `did-not`; null until somebody knows."""
    result: Any = None
    """What the call gave, where it happened: a text or a JSON value; null is nothing."""
    note: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be said of many calls."""

    plan: str = FORMAT
    store: str = ""
    made_at: str = ""
    calls: list[Row]


class Ready(msgspec.Struct, frozen=True):
    """What is to be written into the journal of a run."""

    run_id: str
    seq: int
    events: tuple[ToolCallReconciled, ...]


class Checked(msgspec.Struct, frozen=True):
    """What a plan comes to, as the store is now."""

    ready: tuple[Ready, ...]
    done: tuple[Row, ...]
    """What was said before, as the plan says it."""


class Moved(UsageError):
    """A plan is not of the store as it is now; nothing was written.

    Attributes:
        runs: those that have moved.
        why: what happened to each of them, in the same order.

    """

    def __init__(self, runs: Sequence[str], why: Sequence[str]) -> None:
        self.runs = list(runs)
        self.why = list(why)
        listed = "".join(f"\n- {one}" for one in why)
        super().__init__(
            f"the state has moved since the plan was made, so nothing was written:{listed}\n"
            "make a new plan: outlast reconcile --plan"
        )


# ── made ────────────────────────────────────────────────────────────────────────────────────────


def made(
    journal: Journal,
    runs: Iterable[str],
    *,
    now: int,
    tool: str | None = None,
    outcome: str | None = None,
) -> Plan:
    """Return a plan of everything that is in doubt in these runs.

    Args:
        journal: the store.
        runs: the runs to look at.
        now: nanoseconds since the epoch.
        tool: only calls of this tool.
        outcome: what is to be said of each; by default somebody fills that in.

    Raises:
        UsageError: there is no such outcome.

    """
    if outcome is not None:
        word(outcome)
    rows = [
        row
        for run_id in runs
        for row in _rows(run_id, journal.read(run_stream(run_id)), outcome)
        if tool in (None, row.tool)
    ]
    rows.sort(key=lambda row: row.since)
    return Plan(store=journal.url, made_at=_moment(now), calls=rows)


def _rows(run_id: str, records: Sequence[Record], outcome: str | None) -> list[Row]:
    state = fold(records)
    return [
        Row(
            run=run_id,
            call=one.call_id,
            tool=one.tool,
            arguments=one.arguments,
            since=_moment(one.since),
            error=trouble(records, one.call_id),
            idempotency_key=one.key,
            seq=state.next_seq - 1,
            nonce=_nonce(state),
            outcome=outcome,
        )
        for one in in_doubt(state)
    ]


def encoded(plan: Plan) -> str:
    """Return a plan as it is written: JSON that people can edit."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=2).decode() + "\n"


def decoded(text: bytes) -> Plan:
    """Return a plan that was written.

    Raises:
        UsageError: it is none, or was not filled in.

    """
    try:
        # What is kept as it is spelled in there is no text yet.
        plan = msgspec.json.decode(text.decode(), type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"this is no plan of `outlast reconcile --plan`: {error}; nothing was written"
        ) from error
    if plan.plan != FORMAT:
        raise UsageError(f"this is a plan of {plan.plan!r}, and {FORMAT!r} can be executed")
    seen: set[tuple[str, str]] = set()
    for row in plan.calls:
        if (row.run, row.call) in seen:
            raise UsageError(f"{_named(row)} is in the plan twice; nothing was written")
        seen.add((row.run, row.call))
        _check(row)
    return plan


def _check(row: Row) -> None:
    if row.outcome is None:
        raise UsageError(
            f"{_named(row)} has no outcome in the plan, so nothing was written; fill in 'happened' "
            "or 'did-not', or take it out"
        )
    try:
        word(row.outcome, result=row.result)
    except UsageError as error:
        raise UsageError(f"{_named(row)}: {error}; nothing was written") from error


# ── checked ─────────────────────────────────────────────────────────────────────────────────────


def checked(journal: Journal, plan: Plan, *, by: str = "") -> Checked:
    """Return what is to be written, and what is written already.

    Raises:
        Moved: a run is not where it was when the plan was made, and why.
        InvalidInput: a result cannot be shown.

    """
    of_run: dict[str, list[Row]] = {}
    for row in plan.calls:
        of_run.setdefault(row.run, []).append(row)
    ready: list[Ready] = []
    done: list[Row] = []
    moved: dict[str, str] = {}
    for run_id, rows in of_run.items():
        found = _examined(journal, run_id, rows, by)
        if isinstance(found, Ready):
            ready.append(found)
        elif found:
            moved[run_id] = found
        else:
            done += rows
    if moved:
        raise Moved([*moved], [*moved.values()])
    return Checked(tuple(ready), tuple(done))


def _examined(  # noqa: PLR0911  (a row per finding)
    journal: Journal, run_id: str, rows: Sequence[Row], by: str
) -> Ready | str:
    """Return what is to be written of a run, why nothing can be, or "" where it is written."""
    records = journal.read(run_stream(run_id))
    if not records:
        return f"there is no run {run_id!r} in this store; is the plan of another one?"
    state = fold(records)
    if any(row.nonce != _nonce(state) for row in rows):
        return f"run {run_id!r} is another one of this name; is the plan of another store?"
    past, still = settled(records), {one.call_id: one for one in in_doubt(state)}
    if all(_is_done(row, past) for row in rows):
        return ""
    for row in rows:
        if (meant := still.get(row.call)) is None:
            return _gone(run_id, row, state, past)
        if not _is_same(row, meant):
            return f"{_named(row)} is a call of {meant.tool}, with other arguments than in the plan"
    if any(row.seq != state.next_seq - 1 for row in rows):
        was = min(row.seq for row in rows)
        return f"run {run_id!r} was at seq {was}, and is at {state.next_seq - 1} now"
    events = [
        settling(
            still[row.call],
            word(str(row.outcome), note=row.note, by=by),
            _content(row, still[row.call].limit),
        )
        for row in rows
    ]
    return Ready(run_id, state.next_seq - 1, tuple(events))


def _is_same(row: Row, meant: InDoubt) -> bool:
    read = msgspec.json.decode
    return row.tool == meant.tool and read(row.arguments) == read(meant.arguments)


def _is_done(row: Row, past: dict[str, Settled]) -> bool:
    was = past.get(row.call)
    if was is None:
        return False
    content = _content(row, was.limit)
    return same(was, happened=row.outcome == "happened", content=content)


def _gone(run_id: str, row: Row, state: RunState, past: dict[str, Settled]) -> str:
    if was := past.get(row.call):
        told = first(run_id, was, happened=row.outcome == "happened")
        return f"{told.removesuffix(OTHERWISE)}, by itself" if _is_done(row, past) else told
    if state.control.cancelled:
        return f"run {run_id!r} was cancelled"
    return f"{_named(row)} is not in doubt any more; the run is {state.status}"


def _content(row: Row, limit: int) -> Raw:
    def put(whole: bytes) -> str:
        return sha256(whole).hexdigest()  # nothing is kept: the plan has it, and it is no image

    try:
        return as_content(row.result, limit=limit, put=put, redact=unchanged)
    except InvalidInput as error:
        raise InvalidInput(f"{_named(row)}: {error}; nothing was written") from error


# ── executed ────────────────────────────────────────────────────────────────────────────────────


def executed(
    journal: Journal, found: Checked, *, told: Callable[[Ready], None] = lambda _: None
) -> None:
    """Write what a plan says into the runs, each at once.

    Raises:
        Halfway: a run has moved since the plan was checked.

    """
    for number, one in enumerate(found.ready):
        try:
            settle(journal, one.run_id, one.events, expected_seq=one.seq + 1)
        except Conflict as conflict:
            left = len(found.ready) - number
            raise Halfway(one.run_id, done=number, left=left) from conflict
        told(one)


class Halfway(OutlastError):
    """A run moved while a plan was executed: what was written before it stays.

    Attributes:
        run_id: the run that moved.
        done: into how many runs was written.
        left: into how many was not.

    """

    def __init__(self, run_id: str, *, done: int, left: int) -> None:
        self.run_id = run_id
        self.done = done
        self.left = left
        super().__init__(
            f"run {run_id!r} moved while the plan was executed: {done} of {done + left} runs are "
            "written; make a new plan of what is left: outlast reconcile --plan"
        )


def _nonce(state: RunState) -> str:
    assert state.started is not None, "a run without its first event"  # noqa: S101
    return state.started.nonce


def _named(row: Row) -> str:
    return f"call {row.call!r} of run {row.run!r}"


def _moment(at: int) -> str:
    seconds, nanoseconds = divmod(at, 1_000_000_000)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{nanoseconds // 1000:06}Z"
