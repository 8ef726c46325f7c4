"""Budgets of operators: who may spend how much, in total, by day or by month.

    fleet ─ tenant:NAME ─ agent:NAME ─ agent:NAME@VERSION ─ model:NAME ─ run:ID

They are a fold over the stream `~budgets`.  A call has to fit into every one that it pays from, and
is held there in the same transaction as its intent; what earlier calls settled counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Final, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from outlast.budget import BILLED, Limits
from outlast.errors import UsageError
from outlast.events import (
    AnyEvent,
    BudgetSet,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    NoteAdded,
    RunStarted,
)
from outlast.journal import Commit, Hold, Journal, Record, Settlement

STREAM: Final = "~budgets"

SPENT: Final = (ModelCallSucceeded, ModelCallInDoubt)
"""The outcomes that cost something, or may."""

Window: TypeAlias = Literal["total", "day", "month"]
WINDOWS: Final = ("total", "day", "month")
KINDS: Final = ("fleet", "tenant", "agent", "model", "run")
"""What can have a budget; all but the fleet are named, as in `tenant:acme`."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One budget of one scope."""

    scope: str
    window: Window = "total"
    tz: str = "UTC"
    nano: int | None = None
    tokens: int | None = None
    calls: int | None = None

    @property
    def amounts(self) -> dict[str, int]:
        """What it limits, by unit."""
        given = {"nano": self.nano, "tokens": self.tokens, "calls": self.calls}
        return {unit: limit for unit, limit in given.items() if limit is not None}


class Budgets(msgspec.Struct, frozen=True):
    """Every budget that is set, by scope and window."""

    rules: Mapping[tuple[str, str], Rule] = {}
    seq: int = 0
    """How far the stream was read."""


def evolve(budgets: Budgets, record: Record) -> Budgets:
    """Return what `record` makes of the budgets."""
    event = record.event
    if not isinstance(event, BudgetSet):
        return Budgets(budgets.rules, record.seq)
    key = (event.scope, event.window)
    rules = {place: rule for place, rule in budgets.rules.items() if place != key}
    rule = Rule(
        scope=event.scope,
        window=event.window,
        tz=event.tz,
        nano=event.nano,
        tokens=event.tokens,
        calls=event.calls,
    )
    return Budgets(rules | ({key: rule} if rule.amounts else {}), record.seq)


def fold(records: Iterable[Record], budgets: Budgets) -> Budgets:
    """Return what `records` make of the budgets."""
    for record in records:
        budgets = evolve(budgets, record)
    return budgets


def window_key(rule: Rule, at: int) -> str:
    """Return the account of a budget's window at a time, such as `total` or `day:2026-11-22`."""
    if rule.window == "total":
        return "total"
    day = datetime.fromtimestamp(at / 1e9, zone(rule.tz))
    return f"{rule.window}:{day:%Y-%m-%d}" if rule.window == "day" else f"month:{day:%Y-%m}"


def zone(name: str) -> tzinfo:
    """Return a time zone by its name.

    Raises:
        UsageError: there is none of that name.

    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(f"{name!r} is no time zone; give one such as 'Europe/Berlin'") from error


def check_scope(scope: str) -> str:
    """Return a scope that can have a budget.

    Raises:
        UsageError: it is none.

    """
    kind, _, name = scope.partition(":") if isinstance(scope, str) else ("", "", "")
    if kind not in KINDS or bool(name) == (kind == "fleet") or name != name.strip():
        raise UsageError(
            f"{scope!r} is nothing that has a budget; write fleet, tenant:NAME, agent:NAME, "
            "agent:NAME@VERSION, model:NAME or run:ID"
        )
    return scope


def payers(started: RunStarted, agent: str, version: str, model: str) -> set[str]:
    """Return every scope that a call pays from; its run keeps its own budget itself."""
    scopes = {"fleet", f"agent:{agent}", f"model:{model}"}
    if version:
        scopes.add(f"agent:{agent}@{version}")
    if started.tenant:
        scopes.add(f"tenant:{started.tenant}")
    return scopes


def holds(
    budgets: Budgets, scopes: set[str], intent: ModelCallStarted, *, call_id: str, at: int
) -> Iterator[Hold]:
    """Yield what a call holds of each budget that it pays from."""
    needed = {"nano": intent.hold_nano, "tokens": intent.hold_tokens, "calls": 1}
    for rule in budgets.rules.values():
        if rule.scope not in scopes:
            continue
        for unit, limit in rule.amounts.items():
            yield Hold(
                call_id=call_id,
                scope=rule.scope,
                window=window_key(rule, at),
                unit=unit,
                needed=needed[unit],
                limit=limit,
            )


def settled(events: Sequence[AnyEvent], run_id: str, *, always: bool) -> list[Settlement]:
    """Return what the outcomes of an append settle of what their calls held.

    Args:
        events: of the append.
        run_id: the run.
        always: whether its calls may hold anything; of one that was lost nobody knows.

    """
    lines = []
    for event in events:
        if not isinstance(event, BILLED) or not (always or getattr(event, "kind", "") == "crash"):
            continue
        spent = not isinstance(event, ModelCallFailed)
        amounts = (event.cost_nano, event.tokens, 1) if isinstance(event, SPENT) else (0, 0, 0)
        for unit, amount in zip(("nano", "tokens", "calls"), amounts, strict=True):
            lines.append(
                Settlement(
                    call_id=f"{run_id}/{event.call_id}",
                    unit=unit,
                    amount=amount,
                    in_doubt=spent and isinstance(event, ModelCallInDoubt),
                )
            )
    return lines


def of_run(budgets: Budgets, run_id: str, declared: Limits) -> Limits:
    """Return the limits of a run: those that were set for it, before those that were declared."""
    rule = budgets.rules.get((f"run:{run_id}", "total"))
    if rule is None:
        return declared
    return Limits(
        turns=rule.calls if rule.calls is not None else declared.turns,
        tokens=rule.tokens if rule.tokens is not None else declared.tokens,
        nano=rule.nano if rule.nano is not None else declared.nano,
    )


def set_budget(journal: Journal, event: BudgetSet, *, at: int) -> None:
    """Write a budget down, and what its scope has spent of it before into its account.

    Raises:
        UsageError: the window or the zone is none.

    """
    if event.scope.startswith("run:") and event.window != "total":
        raise UsageError(f"{event.scope} has one budget for all of it; leave the window out")
    if event.window not in WINDOWS:
        raise UsageError(f"{event.window!r} is no window; there are {', '.join(WINDOWS)}")
    rule = Rule(scope=event.scope, window=event.window, tz=event.tz)
    window = window_key(rule, at)
    spent = _spent(journal, event.scope, rule, window)
    call_id = f"before {event.scope} {window} {at}"
    lines = [(unit, amount) for unit, amount in spent.items() if amount]
    new = [
        Hold(call_id=call_id, scope=event.scope, window=window, unit=unit, needed=amount)
        for unit, amount in lines
        if journal.balance(event.scope, window=window, unit=unit).taken == 0
    ]
    journal.append(Commit(stream=STREAM, events=(event,), at=at, holds=new))
    for hold in new:
        paid = Settlement(call_id=call_id, unit=hold.unit, amount=hold.needed)
        note = NoteAdded(text=f"{event.scope} had used {hold.needed} {hold.unit} before")
        journal.append(Commit(stream=STREAM, events=(note,), at=at, settlements=(paid,)))


def _spent(journal: Journal, scope: str, rule: Rule, window: str) -> dict[str, int]:
    """Return what a scope has spent in a window, as the hourly roll-up knows it."""
    kind, _, name = scope.partition(":")
    total = {"nano": 0, "tokens": 0, "calls": 0}
    for line in journal.rollup() if kind != "run" else ():
        agents = {line.agent, f"{line.agent}@{line.version}"}
        own = {"agent": agents, "tenant": {line.tenant}, "model": {line.model}, "fleet": {name}}
        if name in own[kind] and window_key(rule, line.hour) == window:
            total["nano"] += line.settled_nano + line.in_doubt_nano
            total["calls"] += line.calls + line.calls_in_doubt
            total["tokens"] += (
                line.input_tokens
                + line.cache_read_tokens
                + line.cache_write_tokens
                + line.output_tokens
            )
    return total
