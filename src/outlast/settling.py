"""Which call in doubt a person settles, and whether what they say of it still counts.

| the call | what is said |
|---|---|
| is in doubt | counts |
| was settled the same | changes nothing |
| was settled otherwise | refused: the first answer counts |
| was never in doubt, or its run has ended | refused |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Raw

from outlast.actions import FindOut, moment
from outlast.conversation import Conversation, Pending
from outlast.decide import place_of, share_of
from outlast.errors import UsageError
from outlast.events import NULL, Happened, ToolCallInDoubt, ToolCallReconciled
from outlast.journal import Record
from outlast.state import ENDED, RunState, fold
from outlast.tools import MAX_RESULT_TOKENS

Said: TypeAlias = Literal["happened", "did-not"]
"""What a person can say became of a call."""

Render: TypeAlias = Callable[[int], Raw]
"""Returns a result as the model gets it, in at most so many tokens."""


class InDoubt(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a tool of which somebody has to say what became of it."""

    ask_id: str
    call_id: str
    tool_use_id: str
    tool: str
    arguments: Raw
    """With which it was made."""
    since: int
    """Nanoseconds since the epoch."""
    key: str
    """Its idempotency key: what to look for where the call went."""
    limit: int
    """How many tokens of a result there is room for."""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What was said of a call that was in doubt, and by whom."""

    event: ToolCallReconciled
    at: int
    limit: int
    """How many tokens of a result there was room for."""


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says, and of which call."""

    happened: bool
    call: str | None = None
    note: str = ""
    by: str = ""


def word(
    outcome: str, *, result: object = None, call: str | None = None, note: str = "", by: str = ""
) -> Word:
    """Return what a person says.

    Raises:
        UsageError: there is no such outcome, or a result of what did not happen.

    """
    if outcome not in get_args(Said):
        raise UsageError(f"outcome={outcome!r}: give 'happened' or 'did-not'")
    if outcome == "did-not" and result is not None:
        raise UsageError("what did not happen has no result; leave result out, or say it happened")
    return Word(happened=outcome == "happened", call=call, note=note, by=by)


# ── what is in doubt ────────────────────────────────────────────────────────────────────────────


def in_doubt(state: RunState) -> tuple[InDoubt, ...]:
    """Return the calls of a run of which somebody has to say what became of them, oldest first."""
    if state.status in ENDED or state.control.cancelled:
        return ()
    found = [
        _doubt(state, ask, pending)
        for ask in state.asks.values()
        if ask.answer is None and not ask.failed
        for pending in ask.pending
        if pending.doubt and not pending.result
    ]
    return tuple(sorted(found, key=lambda one: one.since))


def _doubt(state: RunState, ask: Conversation, pending: Pending) -> InDoubt:
    key = FindOut(
        ask_id=ask.ask_id,
        call_id=pending.doubt,
        tool_use_id=pending.tool_use_id,
        tool=pending.name,
        rank=pending.rank,
        given={},
        place=place_of(state, ask, pending),
    ).idempotency_key
    return InDoubt(
        ask_id=ask.ask_id,
        call_id=pending.doubt,
        tool_use_id=pending.tool_use_id,
        tool=pending.name,
        arguments=pending.arguments if pending.edited == NULL else pending.edited,
        since=pending.tried[-1].at,
        key=key,
        limit=min(MAX_RESULT_TOKENS, share_of(ask) or MAX_RESULT_TOKENS),
    )


def settled(records: Sequence[Record]) -> dict[str, Settled]:
    """Return what was said of the calls that were in doubt, by call, the latest one last."""
    found: dict[str, Settled] = {}
    state: RunState | None = None
    read = 0
    for number, record in enumerate(records):
        event = record.event
        if not isinstance(event, ToolCallReconciled) or event.outcome == "unknown":
            continue
        if event.call_id not in found:
            # A result is cut to what there was room for, so the same one is cut so again.
            state, read = fold(records[read:number], state), number
            limits = {one.call_id: one.limit for one in in_doubt(state)}
            limit = limits.get(event.call_id, MAX_RESULT_TOKENS)
            found[event.call_id] = Settled(event=event, at=record.at, limit=limit)
    return found


def trouble(records: Iterable[Record], call_id: str) -> str:
    """Return why a call is in doubt, as far as the journal knows it, for people."""
    told = []
    for record in records:
        event = record.event
        if isinstance(event, ToolCallInDoubt) and event.call_id == call_id:
            told = [event.error or WHYS.get(event.kind, event.kind)]
        elif (
            isinstance(event, ToolCallReconciled)
            and event.call_id == call_id
            and event.outcome == "unknown"
        ):
            told.append(event.note or f"{event.by} cannot tell")
    return "; ".join(told)


WHYS: Final = {"crash": "the process ended before the outcome was written"}
"""Why calls are in doubt that raised nothing."""


# ── what is said ────────────────────────────────────────────────────────────────────────────────


def given(  # noqa: PLR0913  (what is said, and all that it depends on)
    state: RunState,
    run_id: str,
    said: Word,
    render: Render,
    *,
    past: dict[str, Settled],
    below: Iterable[str] = (),
) -> ToolCallReconciled | None:
    """Return what is written of what a person says; `None` where it was said before.

    Args:
        state: what the run knows.
        run_id: its name.
        said: what the person says.
        render: what the call gave, as the model gets it.
        past: what was said of its calls before, no older than `state`.
        below: the runs below it that have something in doubt, for whoever meant one of those.

    Raises:
        UsageError: nothing like that is in doubt, or somebody else said otherwise.

    """
    meant = _meant(state, run_id, said, past, tuple(below))
    if isinstance(meant, Settled):
        if not same(meant, happened=said.happened, content=render(meant.limit)):
            raise UsageError(
                f"{first(run_id, meant, happened=said.happened)}, and the first answer counts; "
                f"`outlast show {run_id}` says more"
            )
        return None
    return settling(meant, said, render(meant.limit))


def settling(meant: InDoubt, said: Word, content: Raw) -> ToolCallReconciled:
    """Return what is written of a call that is in doubt."""
    outcome: Happened = "happened" if said.happened else "did_not"
    return ToolCallReconciled(
        ask_id=meant.ask_id,
        call_id=meant.call_id,
        tool_use_id=meant.tool_use_id,
        outcome=outcome,
        content=content,
        by=said.by,
        note=said.note,
    )


def same(was: Settled, *, happened: bool, content: Raw) -> bool:
    """Return whether that is what was said before."""
    return (was.event.outcome == "happened") == happened and was.event.content == content


def first(run_id: str, was: Settled, *, happened: bool) -> str:
    """Return that somebody else was first, who, and when."""
    event = was.event
    did = "to have happened" if event.outcome == "happened" else "not to have happened"
    by = f"its function {event.by}" if event.function else event.by
    who = f" by {by}" if by else ""
    how = OTHERWISE if (event.outcome == "happened") == happened else ""
    return f"run {run_id!r}: call {event.call_id!r} was said {did}{who} at {moment(was.at)}{how}"


OTHERWISE: Final = ", with another result"


def _meant(
    state: RunState, run_id: str, said: Word, past: dict[str, Settled], below: tuple[str, ...]
) -> InDoubt | Settled:
    still = {one.call_id: one for one in in_doubt(state)}
    if said.call is not None:
        if found := still.get(said.call) or past.get(said.call):
            return found
        _check_alive(state, run_id)
        raise UsageError(
            f"run {run_id!r} has no call {said.call!r} in doubt; {_listed(run_id, still.values())}"
        )
    if len(still) == 1:
        return next(iter(still.values()))
    if still:
        raise UsageError(_listed(run_id, still.values()))
    if below:
        raise UsageError(
            f"nothing of run {run_id!r} itself is in doubt, but below it there is, in "
            f"{', '.join(below)}; `outlast reconcile {below[0]}` shows it"
        )
    if past:
        return list(past.values())[-1]  # whoever says it twice says it of what was settled last
    _check_alive(state, run_id)
    raise UsageError(
        f"no call of run {run_id!r} is in doubt, so there is nothing to say; "
        "`outlast runs --waiting` lists those that wait"
    )


def _check_alive(state: RunState, run_id: str) -> None:
    if state.status in ENDED or state.control.cancelled:
        is_over = state.status if state.status in ENDED else "told to end"
        raise UsageError(
            f"run {run_id!r} is {is_over}, so nobody waits to hear what became of its calls; "
            f"`outlast show {run_id}` says more, and `outlast note` writes it down"
        )


def _listed(run_id: str, still: Iterable[InDoubt]) -> str:
    those = ", ".join(f"call={one.call_id!r} ({one.tool})" for one in still)
    if not those:
        return f"nothing of it is; `outlast show {run_id}` says more"
    return f"in doubt in run {run_id!r}: {those}; say which (on the command line: --call CALL_ID)"
