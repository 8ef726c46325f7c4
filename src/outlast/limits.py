"""Budgets beyond one run: of whole trees of runs, and those that operators set.

    fleet ─ tenant:NAME ─ agent:NAME ─ agent:NAME@VERSION ─ model:NAME ─ tree:ID ─ run:ID

Those of operators are a fold over the stream `~budgets`; that of a tree is what its first run
declares.  A call has to fit into every one that it pays from, and is held there in the same
transaction as its intent; what earlier calls settled counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec.structs import replace

from outlast.agent import NAME
from outlast.breaker import PROBES, Over, says_nothing
from outlast.budget import BILLED, HOUR_NS, Limits, Payer
from outlast.doubts import Doubt, doubts
from outlast.errors import Conflict, UsageError
from outlast.events import (
    AnyEvent,
    BoundRaised,
    BudgetPassed,
    BudgetSet,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    RunStarted,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallSucceeded,
    TreeJoined,
)
from outlast.journal import (
    Balance,
    Commit,
    Hold,
    Journal,
    Posting,
    Record,
    RunRow,
    Settlement,
    run_stream,
)
from outlast.prices import undated
from outlast.state import RunState
from outlast.state import fold as fold_run

STREAM: Final = "~budgets"

SPENT: Final = (ModelCallSucceeded, ModelCallInDoubt)
"""The outcomes that cost something, or may."""

WINDOWS: Final = ("total", "day", "month")
"""Besides these, a number of hours that roll on: `1h`, `24h`."""

KINDS: Final = ("fleet", "tenant", "agent", "model", "tree", "run")
"""What can have a budget; all but the fleet are named, as in `tenant:acme`."""

WHOLE: Final = ("tree", "run")
"""Those that have one budget for all of it."""

LONGEST_H: Final = 24 * 366
"""Hours of the longest window that rolls on."""

_AGENT: Final = re.compile(rf"{NAME.pattern}(@[A-Za-z0-9._-]+)?")

SLICES: Final = 60
"""A window that rolls on is made of so many slices, and one more that is not over yet."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One budget of one scope."""

    scope: str
    window: str = "total"
    tz: str = "UTC"
    nano: int | None = None
    tokens: int | None = None
    calls: int | None = None
    """Attempts at calls of the model."""
    turns: int | None = None
    """Those of them that were billed, or may have been."""
    notify: tuple[int, ...] = ()
    """At how many percent somebody is told."""
    binding: bool = True
    """Whether calls have to fit."""

    @property
    def amounts(self) -> dict[str, int]:
        """What it limits, by unit."""
        given = ((unit, getattr(self, unit)) for unit in UNITS)
        return {unit: limit for unit, limit in given if limit is not None}


UNITS: Final = ("nano", "tokens", "calls", "turns")


class Tree(msgspec.Struct, frozen=True):
    """A run whose children pay from its budget, too."""

    run_id: str
    declared: Limits
    """What it says itself that it may use."""


class Budgets(msgspec.Struct, frozen=True):
    """Every budget that is set, by scope and window."""

    rules: Mapping[tuple[str, str], Rule] = {}
    seq: int = 0
    """How far the stream was read."""
    passed: frozenset[tuple[str, str, str, int]] = frozenset()
    """What was told of, by scope, account, unit and percent."""
    factors: Mapping[str, int] = {}
    """By how much bounds of prompts are multiplied, in whole percent, by model."""
    forks: Mapping[str, tuple[str, ...]] = {}
    """The forks of each run that has any: they pay from its tree."""


def evolve(budgets: Budgets, record: Record) -> Budgets:
    """Return what `record` makes of the budgets."""
    event = record.event
    if isinstance(event, BudgetPassed):
        told = (event.scope, event.window, event.unit, event.percent)
        return replace(budgets, seq=record.seq, passed=budgets.passed | {told})
    if isinstance(event, BoundRaised):
        percent = max(event.percent, budgets.factors.get(event.model, 100))
        return replace(budgets, seq=record.seq, factors={**budgets.factors, event.model: percent})
    if isinstance(event, TreeJoined):
        forks = tuple(dict.fromkeys((*budgets.forks.get(event.tree, ()), event.run_id)))
        return replace(budgets, seq=record.seq, forks={**budgets.forks, event.tree: forks})
    if not isinstance(event, BudgetSet):
        return replace(budgets, seq=record.seq)
    key = (event.scope, event.window)
    rules = {place: rule for place, rule in budgets.rules.items() if place != key}
    rule = Rule(
        scope=event.scope,
        window=event.window,
        tz=event.tz,
        nano=event.nano,
        tokens=event.tokens,
        calls=event.calls,
        turns=event.turns,
        notify=tuple(event.notify),
        binding=event.binding,
    )
    passed = budgets.passed
    if budgets.rules.get(key, rule).amounts != rule.amounts:
        # Another amount is passed anew.
        passed = frozenset(told for told in passed if not _is_of(told, rule))
    rules |= {key: rule} if rule.amounts else {}
    return replace(budgets, rules=rules, seq=record.seq, passed=passed)


def _is_of(told: tuple[str, str, str, int], rule: Rule) -> bool:
    """Return whether what was told of is this budget of its scope."""
    return told[0] == rule.scope and told[1].partition(":")[0] == rule.window


def fold(records: Iterable[Record], budgets: Budgets) -> Budgets:
    """Return what `records` make of the budgets."""
    for record in records:
        budgets = evolve(budgets, record)
    return budgets


def raised(budgets: Budgets, found: Mapping[str, int], run_id: str) -> tuple[BoundRaised, ...]:
    """Return what a run has to tell the fleet of the factors that it found."""
    return tuple(
        BoundRaised(model=model, percent=percent, run_id=run_id)
        for model, percent in found.items()
        if percent > budgets.factors.get(model, 100)
    )


def window_key(rule: Rule, at: int) -> str:
    """Return the account of a budget's window at a time, such as `total` or `day:2026-11-22`.

    Of a window that rolls on it is that of the present slice; see `since`.
    """
    if rule.window == "total":
        return "total"
    if (hours := rolling(rule.window)) is not None:
        return _slice(rule.window, hours, at)
    day = datetime.fromtimestamp(at / 1e9, zone(rule.tz))
    name = f"{rule.window}:{day:%Y-%m-%d}" if rule.window == "day" else f"month:{day:%Y-%m}"
    # Days of two zones are not the same day.
    return name if rule.tz == "UTC" else f"{name}@{rule.tz}"


def since(rule: Rule, at: int) -> str:
    """Return the account of the oldest slice that counts; empty where a window does not roll on.

    The slice that the window began in counts as a whole, so that no stretch of that length is ever
    overspent; and later ones do, too, as they are there when a clock was set back.
    """
    hours = rolling(rule.window)
    return "" if hours is None else _slice(rule.window, hours, at - hours * HOUR_NS)


def _slice(window: str, hours: int, at: int) -> str:
    return f"{window}:{max(0, at // (hours * HOUR_NS // SLICES)):012}"


def rolling(window: str) -> int | None:
    """Return of how many hours a window is that rolls on; `None` for every other one."""
    number = window.removesuffix("h")
    if number == window or not number.isascii() or not number.isdecimal():
        return None
    return int(number) if len(number) < 6 and 1 <= int(number) <= LONGEST_H else None


def check_window(scope: str, window: str) -> None:
    """Refuse a window that there is not.

    Raises:
        UsageError: it is none, or not one for this scope.

    """
    hours = rolling(window) if isinstance(window, str) else None
    if window not in WINDOWS and (hours is None or window != f"{hours}h"):
        raise UsageError(
            f"{window!r} is no window; there are {', '.join(WINDOWS)}, and hours that roll on, "
            f"such as 24h (up to {LONGEST_H}h)"
        )
    if scope.partition(":")[0] in WHOLE and window != "total":
        raise UsageError(f"{scope} has one budget for all of it; leave the window out")


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
    named = scope == "fleet" if kind == "fleet" else bool(name) and name == name.strip()
    if kind not in KINDS or not named or not name.isprintable():
        raise UsageError(
            f"{scope!r} is nothing that has a budget; write fleet, tenant:NAME, agent:NAME, "
            "agent:NAME@VERSION, model:NAME, tree:ID or run:ID"
        )
    if kind == "agent" and not _AGENT.fullmatch(name):
        raise UsageError(
            f"{scope!r} is no agent: the name of one is letters, digits, '.', '_' and '-', as in "
            "agent:NAME, or agent:NAME@VERSION with the version that `outlast show` tells"
        )
    return scope


def payers(started: RunStarted, agent: str, version: str, model: str) -> set[str]:
    """Return every scope that a call pays from; its run keeps its own budget itself."""
    # A model is the same whatever date its id ends with.
    scopes = {"fleet", f"agent:{agent}", f"model:{model}", f"model:{undated(model)}"}
    if version:
        scopes.add(f"agent:{agent}@{version}")
    if started.tenant:
        scopes.add(f"tenant:{started.tenant}")
    return scopes


def paying(
    budgets: Budgets, scopes: set[str], trees: Iterable[Tree], run_id: str = ""
) -> list[Rule]:
    """Return every budget that a call has to fit into, beside that of its run.

    A run keeps its own dollars, tokens and turns; its attempts are counted like those of others.
    """
    rules = [rule for rule in budgets.rules.values() if rule.scope in scopes]
    own = budgets.rules.get((f"run:{run_id}", "total"))
    if own is not None and own.calls is not None:
        rules.append(Rule(scope=own.scope, calls=own.calls))
    rules += [rule for tree in trees if (rule := of_tree(budgets, tree)).amounts]
    return rules


def of_tree(budgets: Budgets, tree: Tree) -> Rule:
    """Return the budget of a run and all below it: as it was set, before as it was declared."""
    scope = f"tree:{tree.run_id}"
    given = budgets.rules.get((scope, "total"), Rule(scope=scope))
    own = of_run(budgets, tree.run_id, tree.declared)
    return replace(
        given,
        nano=own.nano if given.nano is None else given.nano,
        tokens=own.tokens if given.tokens is None else given.tokens,
    )


def holds(
    rules: Iterable[Rule], intent: ModelCallStarted, *, call_id: str, at: int
) -> Iterator[Hold]:
    """Yield what a call holds of each budget that it pays from."""
    needed = {"nano": intent.hold_nano, "tokens": intent.hold_tokens, "calls": 1, "turns": 1}
    for rule in rules:
        for unit, limit in rule.amounts.items():
            yield Hold(
                call_id=call_id,
                scope=rule.scope,
                window=window_key(rule, at),
                unit=unit,
                needed=needed[unit],
                limit=limit if rule.binding else None,
                since=since(rule, at),
            )


def passed(
    journal: Journal, budgets: Budgets, rules: Iterable[Rule], *, at: int
) -> list[BudgetPassed]:
    """Return what somebody is to be told of, and was not: how much of some budgets is spent."""
    found = []
    for rule in rules:
        window = window_key(rule, at)
        for unit, limit in rule.amounts.items() if rule.notify else ():
            balance = journal.balance(rule.scope, window=window, unit=unit, since=since(rule, at))
            spent = balance.settled + balance.in_doubt
            account = _told_as(rule, window, at)
            found += [
                BudgetPassed(
                    scope=rule.scope,
                    window=account,
                    unit=unit,
                    percent=percent,
                    spent=spent,
                    limit=limit,
                )
                for percent in rule.notify
                if spent * 100 >= limit * percent
                and (rule.scope, account, unit, percent) not in budgets.passed
            ]
    return found


def _told_as(rule: Rule, window: str, at: int) -> str:
    """Return the window that somebody is told of; where it rolls on, once in its length."""
    hours = rolling(rule.window)
    if hours is None:
        return window
    begun = at // (hours * HOUR_NS) * hours * 3600
    return f"{rule.window}:{datetime.fromtimestamp(begun, UTC):%Y-%m-%dT%HZ}"


def check_notify(percents: Iterable[int]) -> list[int]:
    """Return at how many percent of a budget somebody is told, in order.

    Raises:
        UsageError: one is no percentage.

    """
    if isinstance(percents, str | bytes) or not isinstance(percents, int | Iterable):
        raise UsageError(
            f"notify={percents!r}: say at how many percent of the budget as a list, such as "
            "[50, 80]"
        )
    listed = [percents] if isinstance(percents, int) else list(percents)
    for percent in listed:
        if not isinstance(percent, int) or isinstance(percent, bool) or not 1 <= percent <= 1000:
            raise UsageError(
                f"notify={percent!r}: say at how many percent of the budget, as a whole number "
                "from 1 to 1000"
            )
    return sorted(set(listed))


def carried(journal: Journal, tree: Tree, budgets: Budgets, spent: Limits) -> list[Hold]:
    """Return what a run and all below it had spent before its tree had an account.

    Args:
        journal: where the accounts are.
        tree: the run.
        budgets: those that are set.
        spent: what the run has spent by now.

    """
    rule = of_tree(budgets, tree)
    found = {unit: journal.balance(rule.scope, unit=unit) for unit in rule.amounts}
    own = {"nano": spent.nano or 0, "tokens": spent.tokens or 0}
    if all(one.settled + one.in_doubt >= own.get(unit, 0) > 0 for unit, one in found.items()):
        return []  # the account has been kept, and all runs need not be looked at
    spent_by = _spent_by_tree(journal, tree.run_id, budgets)
    whole = {unit: amount for (_, unit), amount in spent_by.items()}
    return [
        Hold(call_id=rule.scope, scope=rule.scope, unit=unit, needed=lacking, paid=True)
        for unit, one in found.items()
        if (lacking := _lacking(rule, unit, whole[unit], one)) > 0
    ]


def settled(events: Sequence[AnyEvent], run_id: str) -> list[Settlement]:
    """Return what the outcomes of an append settle of what their calls held."""
    lines = []
    for event in events:
        if isinstance(event, ToolCallSucceeded | ToolCallFailed | ToolCallInDoubt):
            lines.append(_tried(event, run_id))
        if not isinstance(event, BILLED):
            continue
        # An attempt that was surely not billed was a call all the same, but no turn.
        amounts = (0, 0, 1, 0)
        if isinstance(event, SPENT):
            amounts = (event.cost_nano, event.tokens, 1, 1)
        lines += [
            Settlement(
                call_id=f"{run_id}/{event.call_id}",
                unit=unit,
                amount=amount,
                in_doubt=isinstance(event, ModelCallInDoubt),
            )
            for unit, amount in zip(UNITS, amounts, strict=True)
        ]
        lines.append(_tried(event, run_id))
    return lines


def _tried(event: Over, run_id: str) -> Settlement:
    # Whoever says nothing of a dependency leaves his place to the next one.
    tried = 0 if says_nothing(event) else 1
    return Settlement(call_id=f"{run_id}/{event.call_id}", unit=PROBES, amount=tried)


def of_run(budgets: Budgets, run_id: str, declared: Limits) -> Limits:
    """Return the limits of a run: those that were set for it, before those that were declared."""
    rule = budgets.rules.get((f"run:{run_id}", "total"))
    if rule is None:
        return declared
    return Limits(
        turns=rule.turns if rule.turns is not None else declared.turns,
        tokens=rule.tokens if rule.tokens is not None else declared.tokens,
        nano=rule.nano if rule.nano is not None else declared.nano,
        tool_calls=declared.tool_calls,
    )


def set_budget(journal: Journal, event: BudgetSet, *, at: int) -> tuple[Record, ...]:
    """Write a budget down, and what its scope has spent of it before into its account.

    Returns:
        What is to be told of it at once: how much of it is spent already.

    Raises:
        UsageError: the window or the zone is none.

    """
    check_window(event.scope, event.window)
    zone(event.tz)
    if event.scope.partition(":")[0] == "run" and (event.notify or not event.binding):
        raise UsageError(f"{event.scope} has only a budget that binds; watch tree:… instead")
    if event.scope.partition(":")[0] == "tree" and not event.binding:
        raise UsageError(f"{event.scope}: what a tree may use is binding; leave that out")
    rule = Rule(scope=event.scope, window=event.window, tz=event.tz)
    while True:
        budgets = fold(journal.read(STREAM), Budgets())
        before = list(_missing(journal, rule, budgets, at))
        with suppress(Conflict):  # somebody set one at the same time, perhaps the same
            place = budgets.seq + 1
            commit = Commit(stream=STREAM, events=(event,), at=at, holds=before, expected_seq=place)
            journal.append(commit)
            return _told_at_once(journal, (event.scope, event.window), at)


def _told_at_once(journal: Journal, key: tuple[str, str], at: int) -> tuple[Record, ...]:
    budgets = fold(journal.read(STREAM), Budgets())
    rules = [budgets.rules[key]] if key in budgets.rules else []
    if not (news := passed(journal, budgets, rules, at=at)):
        return ()
    told = Commit(stream=STREAM, events=news, at=at, expected_seq=budgets.seq + 1)
    with suppress(Conflict):  # whoever was faster tells it with the next outcome
        return journal.append(told)
    return ()


def _missing(journal: Journal, rule: Rule, budgets: Budgets, at: int) -> Iterator[Hold]:
    """Yield what the accounts of a budget that is to be set do not have of what was spent."""
    old = budgets.rules.get((rule.scope, rule.window))
    kept = old.amounts if old is not None and old.tz == rule.tz else {}
    window, first = window_key(rule, at), since(rule, at)
    spent = _spent(journal, rule.scope, rule, at)
    new = []
    for unit in UNITS:
        if unit in kept:
            continue  # an account that was kept all the time has everything
        balance = journal.balance(rule.scope, window=window, unit=unit, since=first)
        if not balance.taken:
            new.append(unit)
            continue
        # One that was not kept for a while lacks what was spent meanwhile.
        whole = sum(amount for (_, what), amount in spent.items() if what == unit)
        if (lacking := _lacking(rule, unit, whole, balance)) > 0:
            yield _paid(rule, window, unit, lacking, at)
    if new:
        yield from (hold for hold in _before(journal, rule, spent, at) if hold.unit in new)


def _before(
    journal: Journal, rule: Rule, spent: Mapping[tuple[str, str], int], at: int
) -> Iterator[Hold]:
    """Yield what a scope has spent in the windows that count at a time, as accounts keep it."""
    certain = dict(spent)
    for doubt, window in _doubted(journal, rule, at):
        # Each for itself, so that it can be settled once somebody knows what it cost.
        amounts = {"nano": doubt.nano, "tokens": doubt.tokens, "calls": 1, "turns": 1}
        for unit, amount in amounts.items():
            if unit != "tokens" or rule.scope.startswith("tree:"):
                # The roll-up has no tokens of what is in doubt; everything else is in `spent`.
                certain[window, unit] = certain.get((window, unit), 0) - amount
            if amount:
                yield Hold(
                    call_id=doubt.holder,
                    scope=rule.scope,
                    window=window,
                    unit=unit,
                    needed=amount,
                    in_doubt=True,
                )
    for (window, unit), amount in certain.items():
        if amount > 0:
            yield _paid(rule, window, unit, amount, at)


def _lacking(rule: Rule, unit: str, spent: int, balance: Balance) -> int:
    """Return how much of what was spent an account does not have."""
    has = balance.settled + balance.in_doubt
    if rule.scope.partition(":")[0] in WHOLE and unit in ("calls", "turns"):
        has += balance.held  # the row of a run counts calls in flight among its turns
    return spent - has


def _paid(rule: Rule, window: str, unit: str, amount: int, at: int) -> Hold:
    """Return what was spent before a budget was set, as its account takes it."""
    return Hold(
        call_id=f"before {rule.scope} {window} {at}",
        scope=rule.scope,
        window=window,
        unit=unit,
        needed=amount,
        paid=True,
    )


def _doubted(journal: Journal, rule: Rule, at: int) -> Iterator[tuple[Doubt, str]]:
    """Yield the calls in doubt of a scope, each with its window, where that counts at a time."""
    kind, _, root = rule.scope.partition(":")
    tree = {row.id for row in family(journal, root)} if kind == "tree" else set()
    for doubt in () if kind == "run" else doubts(journal, readable=True):
        window = _window(rule, doubt.where[0], at)
        pays = doubt.run_id in tree if tree else rule.scope in _scopes(doubt.payer)
        if window and pays:
            yield doubt, window


def _spent(journal: Journal, scope: str, rule: Rule, at: int) -> dict[tuple[str, str], int]:
    """Return what a scope has spent, by window and unit, in the windows that count at a time."""
    if scope.startswith("tree:"):
        return _spent_by_tree(journal, scope.removeprefix("tree:"))
    if scope.startswith("run:"):  # it keeps everything else itself
        row = journal.run(scope.removeprefix("run:"))
        return {} if row is None else {("total", "calls"): row.turns}
    total: dict[tuple[str, str], int] = {}
    for line in journal.rollup():
        window = _window(rule, line.hour, at)
        if window and scope in _scopes(line):
            for unit, amount in _amounts(line).items():
                total[window, unit] = total.get((window, unit), 0) + amount
    return total


def _window(rule: Rule, hour: int, at: int) -> str:
    """Return the window that an hour of the roll-up is in; empty where that does not count."""
    first = since(rule, at)
    # A line is of a whole hour: where a window rolls on, all of it counts as of its end.
    window = window_key(rule, hour + HOUR_NS - 1 if first else hour)
    counts = first <= window if first else window == window_key(rule, at)
    return window if counts else ""


def _scopes(line: Posting | Payer) -> set[str]:
    return {
        "fleet",
        f"tenant:{line.tenant}",
        f"agent:{line.agent}",
        f"agent:{line.agent}@{line.version}",
        f"model:{line.model}",
        f"model:{undated(line.model)}",
    }


def _amounts(line: Posting) -> dict[str, int]:
    prompt = line.input_tokens + line.cache_read_tokens + line.cache_write_tokens
    turns = line.calls + line.calls_in_doubt
    return {
        "nano": line.settled_nano + line.in_doubt_nano,
        "tokens": prompt + line.output_tokens,
        "calls": turns + line.calls_failed,
        "turns": turns,
    }


def family(journal: Journal, root: str, budgets: Budgets | None = None) -> list[RunRow]:
    """Return the rows of the runs that pay from the tree of a run, itself first.

    Those are all below it, the forks of all these, and what is below those.  The row of a fork says
    here what it has spent itself, without what it shares.
    """
    known = fold(journal.read(STREAM), Budgets()) if budgets is None else budgets
    first = journal.run(root)
    found = [] if first is None else [first, *journal.below(root)]
    for row in found:  # it grows meanwhile
        for fork in known.forks.get(row.id, ()):
            if (one := journal.run(fork)) is not None:
                found += [unshared(journal, one), *journal.below(fork)]
    return found


def unshared(journal: Journal, row: RunRow) -> RunRow:
    """Return the row of a run without what it has spent in events that it shares with another."""
    stream = run_stream(row.id)
    first = next(iter(journal.read(stream, limit=1)), None)
    started = first.event if first is not None else None
    if not isinstance(started, RunStarted) or not started.forked_at:
        return row
    spent = fold_run(journal.read(stream, limit=started.forked_at)).spend
    return replace(
        row,
        cost_nano=row.cost_nano - spent.nano,
        in_doubt_nano=row.in_doubt_nano - spent.in_doubt_nano,
        tokens=row.tokens - spent.tokens,
        turns=row.turns - spent.turns,
    )


def paid(journal: Journal) -> list[RunRow]:
    """Return the rows of all runs, each with what was paid for it alone."""
    forks = {fork for of in fold(journal.read(STREAM), Budgets()).forks.values() for fork in of}
    rows = journal.runs()
    return [unshared(journal, row) if row.id in forks else row for row in rows]


def joined(
    journal: Journal, budgets: Budgets, tree: Tree, state: RunState, *, at: int
) -> list[Hold]:
    """Return what the account of a tree has not of what was spent, before a fork pays from it.

    Args:
        journal: where the accounts are.
        budgets: those that are set.
        tree: the run that is forked.
        state: what that one knows now; it may be at work.
        at: now, in nanoseconds since the epoch.

    """
    rule = of_tree(budgets, tree)
    found = [hold for hold in _missing(journal, rule, budgets, at) if hold.unit in rule.amounts]
    holders = set(journal.holders(rule.scope))
    for call_id, held in state.spend.held.items():
        holder = f"{tree.run_id}/{call_id}"
        needed = dict(zip(("nano", "tokens", "calls", "turns"), (*held, 1, 1), strict=True))
        found += [
            Hold(call_id=holder, scope=rule.scope, unit=unit, needed=needed[unit])
            for unit in rule.amounts
            if holder not in holders
        ]
    return found


def _spent_by_tree(
    journal: Journal, root: str, budgets: Budgets | None = None
) -> dict[tuple[str, str], int]:
    """Return what the runs that pay from a tree have spent, by their rows."""
    rows = family(journal, root, budgets)
    turns = sum(row.turns for row in rows)
    return {
        ("total", "nano"): sum(row.cost_nano for row in rows),
        ("total", "tokens"): sum(row.tokens for row in rows),
        ("total", "calls"): turns,
        ("total", "turns"): turns,
    }
