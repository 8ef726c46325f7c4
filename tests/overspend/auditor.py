"""Judges a scenario by what was billed outside of it, and finds what our own ledger says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from scenarios import HOUR_NS, ROLLING, ROLLING_H, UNITS, BudgetPlan, Scenario
from spenders import agents_of, declared_of
from stage import Billed, Outcome

from outlast.events import (
    BoundExceeded,
    BudgetRefused,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
)
from outlast.journal import Journal, Record, RunRow
from outlast.stores import open_store
from outlast.views.costs import costs, total


@dataclass
class Verdict:
    """What is wrong with a scenario, and what it contained."""

    wrong: list[str] = field(default_factory=list)
    contained: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> bool:
        """Whether something was refused, and something in doubt: else it proves too little."""
        return bool(self.contained["refused"] and self.contained["in doubt"])


def judged(outcome: Outcome) -> Verdict:
    """Return what is wrong with a scenario."""
    journal = open_store(outcome.store, synchronous="OFF")
    try:
        return _Judge(outcome, journal).verdict()
    finally:
        journal.close()


class _Judge:
    def __init__(self, outcome: Outcome, journal: Journal) -> None:
        self.bill = outcome.bill
        self.outcome = outcome
        self.scenario: Scenario = outcome.scenario
        self.journal = journal
        self.declared = declared_of(outcome.scenario)
        self.agents = agents_of(outcome.scenario)
        self.rows = {row.id: row for row in journal.runs()}
        self.records = {name: journal.read(f"run:{name}") for name in self.rows}
        self.found = Verdict()

    def verdict(self) -> Verdict:
        self._budgets()
        self._runs()
        self._refusals()
        self._views()
        self._contents()
        return self.found

    def _check(self, holds: bool, what: str) -> None:  # noqa: FBT001  (an assertion)
        if not holds:
            self.found.wrong.append(what)

    # ── what was billed is within every budget, and in the ledger ───────────────────────────────

    def _budgets(self) -> None:
        for plan in self.scenario.budgets:
            lines = [line for line in self.bill if pays(line, plan.scope)]
            for unit in UNITS:
                limit = getattr(plan, unit)
                if limit is not None:
                    limit = max(limit, self.outcome.taken.get((plan.scope, unit), 0))
                    for window, stretch in stretches(plan, lines):
                        self._limit(f"{plan.scope} {window}", unit, summed(stretch, unit), limit)
                    for window, stretch in accounts(plan, lines):
                        self._account(plan, window, unit, summed(stretch, unit), limit)

    def _limit(self, whose: str, unit: str, billed: int, limit: int) -> None:
        told = f"{whose} {unit}: {billed:,} billed, {limit:,} were allowed"
        self._check(billed <= limit, told)

    def _account(self, plan: BudgetPlan, window: str, unit: str, billed: int, limit: int) -> None:
        if plan.scope.startswith("run:"):
            return  # its account is the run's own journal
        told = f"{plan.scope} {window} {unit}: {billed:,} billed"
        balance = self.journal.balance(plan.scope, window=window, unit=unit)
        self._check(balance.held == 0, f"{told}, {balance.held:,} still held at the end")
        self._check(balance.taken >= billed, f"{told}, the ledger has only {balance.taken:,}")
        self._check(
            balance.taken <= limit, f"{told}, the ledger has {balance.taken:,} of {limit:,}"
        )

    # ── every run ───────────────────────────────────────────────────────────────────────────────

    def _runs(self) -> None:
        by_run: dict[str, list[Billed]] = {}
        for line in self.bill:
            by_run.setdefault(line.run, []).append(line)
        unknown = by_run.keys() - self.rows.keys()
        self._check(not unknown, f"runs that the journal does not know: {unknown}")
        missing = {run.id for run in self.scenario.runs} - self.rows.keys()
        self._check(missing <= self.outcome.too_small, f"never begun: {missing}")
        for name, row in self.rows.items():
            lines = by_run.get(name, [])
            self._run(row, self.records[name], lines)
            self._own_budget(row, lines)

    def _own_budget(self, row: RunRow, lines: list[Billed]) -> None:
        """Compare with what was set for a run, or with what it declares; its children pay, too."""
        declared = self.declared.get(row.id) or self.agents[row.agent].budget.limits
        tree = [line for line in self.bill if not row.parent and line.root == row.id]
        own = next((one for one in self.scenario.budgets if one.scope == f"run:{row.id}"), None)
        whole = next((one for one in self.scenario.budgets if one.scope == f"tree:{row.id}"), None)
        for unit in ("nano", "tokens", "turns"):
            limit = getattr(own, unit, None)
            limit = getattr(declared, unit) if limit is None else limit
            if own is not None and own.calls is not None and own.turns is None and unit == "turns":
                limit = own.calls
            if limit is not None:
                self._limit(f"run {row.id} itself", unit, summed(lines, unit), limit)
            # What was set for a tree takes the place of what its first run has.
            if limit is not None and unit != "turns" and getattr(whole, unit, None) is None:
                self._limit(f"run {row.id} and below", unit, summed(tree, unit), limit)

    def _run(self, row: RunRow, records: list[Record], lines: list[Billed]) -> None:
        told = f"run {row.id}: {row.status} ({row.why})"
        self._check(row.status in ("completed", "stopped"), told)
        self._check(
            row.status == "completed" or "budget" in row.why or "is stopped" in row.why,
            f"{told}: stopped for something else",
        )
        billed = summed(lines, "nano")
        self._check(
            row.cost_nano >= billed, f"{told}: {billed:,} billed, but {row.cost_nano:,} charged"
        )
        doubts = any(isinstance(record.event, ModelCallInDoubt) for record in records)
        self._check(
            doubts or row.cost_nano == billed,
            f"{told}: nothing was in doubt, {billed:,} billed, but {row.cost_nano:,} charged",
        )
        beyond = any(isinstance(record.event, BoundExceeded) for record in records)
        self._check(not beyond, f"{told}: a call cost more than was held for it")
        began = sum(isinstance(record.event, ModelCallStarted) for record in records)
        ended = sum(isinstance(record.event, OUTCOMES) for record in records)
        self._check(began == ended, f"{told}: {began} calls, {ended} outcomes")

    # ── nobody was refused too early ────────────────────────────────────────────────────────────

    def _refusals(self) -> None:
        """See that what was refused fits at the end still less, when nothing is held any more."""
        plans = {plan.scope: plan for plan in self.scenario.budgets if plan.window != ROLLING}
        for name, records in self.records.items():
            for record in records:
                event = record.event
                if isinstance(event, BudgetRefused) and (plan := plans.get(event.scope)):
                    self._check(
                        self._used_up(plan, event, record.at),
                        f"run {name} was refused {event.needed:,} {event.unit} of {event.scope}, "
                        f"which is there at the end: {plan}",
                    )

    def _used_up(self, plan: BudgetPlan, event: BudgetRefused, at: int) -> bool:
        limit = getattr(plan, event.unit)
        if limit is None:
            return True  # it is that which the first run of a tree declares
        # The clock may have jumped to another day between the attempt and its refusal.
        near = {account_of(plan, at + hours * HOUR_NS) for hours in range(-2, 3)}
        taken = [
            self.journal.balance(plan.scope, window=account, unit=event.unit).taken
            for account in near
        ]
        return limit - max(taken) < event.needed

    # ── the views ───────────────────────────────────────────────────────────────────────────────

    def _views(self) -> None:
        """Compare the month view with the outcomes, and the roll-up with the bill."""
        lines = self.journal.rollup()
        months: dict[str, Counter[str]] = {}
        for records in self.records.values():
            began: dict[str, str] = {}  # a call counts when it was made
            for record in records:
                event = record.event
                if isinstance(event, ModelCallStarted):
                    began[event.call_id] = month_of(record.at)
                elif isinstance(event, OUTCOMES):
                    sums = months.setdefault(began[event.call_id], Counter())
                    for name, amount in amounts_of(event).items():
                        sums[name] += amount
        view = {cost.name: cost for cost in costs(lines, "month")}
        for month, sums in months.items():
            for name in (
                "settled_nano",
                "in_doubt_nano",
                "calls",
                "calls_in_doubt",
                "calls_failed",
            ):
                shown = getattr(view[month], name) if month in view else 0
                self._check(
                    shown == sums[name], f"{month}: the view has {name}={shown}, not {sums[name]}"
                )
        spent = sum(row.cost_nano for row in self.rows.values())
        shown = total(view.values()).nano
        self._check(shown == spent, f"all months: the view has {shown:,}, the runs {spent:,}")
        self._by_name(lines, "month", lambda line: month_of(line.began_at))
        self._by_name(lines, "agent", lambda line: line.agent)
        self._by_name(lines, "tenant", lambda line: line.tenant)
        self._by_name(lines, "model", lambda line: line.model)

    def _by_name(self, lines: Any, by: Any, name_of: Callable[[Billed], str]) -> None:
        view = {cost.name: cost.nano for cost in costs(lines, by)}
        billed: Counter[str] = Counter()
        for line in self.bill:
            billed[name_of(line)] += line.nano
        for name, nano in billed.items():
            self._check(
                view.get(name, 0) >= nano, f"{by} {name}: {nano:,} billed, {view.get(name)} shown"
            )

    # ── what there was ──────────────────────────────────────────────────────────────────────────

    def _contents(self) -> None:
        found = self.found.contained
        found["requests"] = self.outcome.requests
        found["billed"] = len(self.bill)
        found["kills"] = len(self.outcome.kills)
        found["jumps of a clock"] = self.outcome.jumps
        found["not begun"] = len(self.outcome.too_small)
        found["tightened"] = len(self.outcome.taken) // len(UNITS)
        found["taken over"] = sum(len(worker.takes_over) for worker in self.scenario.workers)
        for where in self.outcome.kills:
            found[f"killed {where}"] += 1
        for records in self.records.values():
            for record in records:
                event = record.event
                if isinstance(event, BudgetRefused):
                    found["refused"] += 1
                    found[f"refused by {event.scope.partition(':')[0]}"] += 1
                elif isinstance(event, ModelCallInDoubt):
                    found["in doubt"] += 1
                    found[f"in doubt: {event.kind}"] += 1
                elif isinstance(event, ModelCallFailed):
                    found[f"failed: {event.kind}"] += 1
        for row in self.rows.values():
            found[row.status] += 1
            found["children"] += bool(row.parent)


OUTCOMES: Final = (ModelCallSucceeded, ModelCallFailed, ModelCallInDoubt)


def amounts_of(event: Any) -> dict[str, int]:
    """Return what an outcome adds to the month view."""
    if isinstance(event, ModelCallFailed):
        return {"calls_failed": 1}
    if isinstance(event, ModelCallInDoubt):
        return {"calls_in_doubt": 1, "in_doubt_nano": event.cost_nano}
    return {"calls": 1, "settled_nano": event.cost_nano}


def month_of(at: int) -> str:
    """Return the month of a time, UTC."""
    return f"{datetime.fromtimestamp(at // 10**9, UTC):%Y-%m}"


def pays(line: Billed, scope: str) -> bool:
    """Return whether a scope pays for what was billed."""
    kind, _, name = scope.partition(":")
    payer = {
        "fleet": "",
        "tenant": line.tenant,
        "agent": line.agent,
        "model": line.model,
        "run": line.run,
        "tree": line.root,
    }
    return payer[kind] == name


def stretches(plan: BudgetPlan, lines: list[Billed]) -> Iterable[tuple[str, list[Billed]]]:
    """Return every stretch of time in which a budget must not be exceeded, and its bill."""
    if plan.window != ROLLING:
        return accounts(plan, lines)
    return [
        (
            f"{ROLLING} until {end}",
            [one for one in lines if end - ROLLING_H * HOUR_NS < one.began_at <= end],
        )
        for end in {line.began_at for line in lines}
    ]


def accounts(plan: BudgetPlan, lines: list[Billed]) -> Iterable[tuple[str, list[Billed]]]:
    """Return the accounts that a bill is split into, as the ledger names them."""
    found: dict[str, list[Billed]] = {}
    for line in lines:
        found.setdefault(account_of(plan, line.began_at), []).append(line)
    return found.items()


def account_of(plan: BudgetPlan, at: int) -> str:
    """Return the account of a budget that a time belongs to."""
    if plan.window == ROLLING:
        return f"{ROLLING}:{at // (ROLLING_H * HOUR_NS // 60):012}"
    local = datetime.fromtimestamp(at / 1e9, ZoneInfo(plan.tz))
    zone = "" if plan.tz == "UTC" else f"@{plan.tz}"
    day, month = f"day:{local:%Y-%m-%d}{zone}", f"month:{local:%Y-%m}{zone}"
    return {"total": "total", "day": day, "month": month}[plan.window]


def summed(lines: Iterable[Billed], unit: str) -> int:
    """Return the sum of a bill in `nano`, `tokens` or `calls`."""
    return sum(getattr(line, unit) for line in lines)
