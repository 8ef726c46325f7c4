"""How checks and judges do, beside what people say of the same answers, and what they cost.

Each row is one version of a check: what changes its code, a judge's prompt or its model makes
another one, and what people said of the answers that the one before judged tells nothing of it.

An answer counts once in a row, with what that version said of it last; the costs of every verdict
count.  A check objects by `fixable` and `terminal`.  What it could not tell, `unverified` and
`needs_person`, is counted apart: it agrees with nobody.  Of labels the last word on an answer
counts, and who made another answer of one said that it was bad.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias, get_args

import msgspec
from msgspec.structs import replace

from outlast.events import (
    AnswerRejected,
    AskStarted,
    Event,
    ModelCallInDoubt,
    ModelCallSucceeded,
    RunForked,
    RunStarted,
    VerdictGiven,
    VerdictKind,
)
from outlast.journal import Record
from outlast.labels import Answers, meant
from outlast.views.calibration import Calibration, Table, Uncalibrated, calibrate

KINDS: Final[tuple[VerdictKind, ...]] = get_args(VerdictKind)

Side: TypeAlias = Literal["objected", "passed", "undecided"]

_OBJECTS: Final = frozenset({"fixable", "terminal"})
_DECIDES: Final = _OBJECTS | {"passed"}

_Key: TypeAlias = tuple[str, str, str, str, str]


class Judged(msgspec.Struct, kw_only=True):
    """What one version of a check said of answers, and what people say of them."""

    agent: str
    check: str
    kind: str
    version: str
    model: str = ""
    """Of a judge."""
    verdicts: dict[str, int] = {}
    """How many answers, by what it said of them."""
    caught: int = 0
    false_alarms: int = 0
    missed: int = 0
    agreed: int = 0
    undecided: int = 0
    """How many of the answers that it could not tell anything of are labelled."""
    cost_nano: int = 0
    last_at: int = 0
    """When it gave its last verdict, in nanoseconds since the epoch."""

    @property
    def key(self) -> _Key:
        """What it is told apart by."""
        return self.agent, self.check, self.kind, self.version, self.model

    @property
    def answers(self) -> int:
        """How many answers it was asked about."""
        return sum(self.verdicts.values())

    @property
    def table(self) -> Table:
        """What it said, and what people say, of the answers of which it could tell."""
        return Table(
            objected=sum(self.verdicts.get(kind, 0) for kind in _OBJECTS),
            passed=self.verdicts.get("passed", 0),
            caught=self.caught,
            false_alarms=self.false_alarms,
            missed=self.missed,
            agreed=self.agreed,
        )

    @property
    def nano_per_verdict(self) -> int | None:
        """What it cost for each answer, rounded up; `None` where it was asked about none."""
        return -(-self.cost_nano // self.answers) if self.answers else None

    @property
    def nano_per_caught(self) -> int | None:
        """What all its verdicts cost for each error that it caught, rounded up; `None` of none."""
        return -(-self.cost_nano // self.caught) if self.caught else None

    @property
    def calibration(self) -> Calibration | Uncalibrated:
        """What the labels make of it."""
        return calibrate(self.table)

    def label(self, verdict: str, *, good: bool) -> None:
        """Count what people say of an answer, beside what it said."""
        if verdict not in _DECIDES:
            self.undecided += 1
        elif verdict in _OBJECTS:
            self.false_alarms, self.caught = self.false_alarms + good, self.caught + (not good)
        else:
            self.agreed, self.missed = self.agreed + good, self.missed + (not good)


class Worth(msgspec.Struct, frozen=True, order=True):
    """An answer that nobody has labelled; the greatest is the one to look at first."""

    disagreed: bool
    """Of the checks some objected and some did not."""
    rejected: bool
    at: int
    run: str
    ask: str = ""
    """The question, where the label of the run would be about another one; else empty."""
    attempt: int = 0
    """Its number, where the label of the run would be about another one; else 0."""


class Reading:
    """What the runs tell that it was given, one after the other.

    Args:
        agent: only answers of this agent; empty for all.
        check: only this check or judge; empty for all.

    """

    def __init__(self, agent: str = "", check: str = "") -> None:
        self._agent = agent
        self._check = check
        self._rows: dict[_Key, Judged] = {}
        self._worth: dict[tuple[_Key, Side], Worth] = {}
        self._said: list[tuple[_Key, str, str, str]] = []
        """Each verdict that counts: whose, in which run, of the reply to which call, and what."""
        self._labels: dict[tuple[str, str], list[tuple[int, bool]]] = {}
        """By the run and the call, with when it was said; of what forks share in any of them."""
        self._forks: dict[str, tuple[str, frozenset[str]]] = {}
        """What a run was forked from, and the calls whose replies are answers of that one."""

    def take(self, run_id: str, records: Iterable[Record]) -> None:
        """Read all records of a run; where they cannot all be read, none of it counts."""
        run = _Run()
        for record in records:
            run.take(record)
        for key, said in run.said.items():
            if self._agent in ("", key[0]) and self._check in ("", key[1]):
                self._count(run_id, run, key, said)
        if run.shares:
            self._forks[run_id] = (run.forked_from, run.shares)
        for call_id, at in run.answers.labelled_at.items():
            good = run.answers.labels[call_id].good
            self._labels.setdefault((run_id, call_id), []).append((at, good))
        self._weigh(run_id, run)

    def rows(self) -> list[Judged]:
        """Return every version, by agent and check, the newest version of each first."""
        labels: dict[tuple[str, str], tuple[int, bool]] = {}
        for (run_id, call_id), told in self._labels.items():
            place = self._given(run_id, call_id)
            labels[place] = max(*told, labels.get(place, told[0]))
        rows = {key: replace(row) for key, row in self._rows.items()}
        for key, run_id, call_id, verdict in self._said:
            if (said := labels.get(self._given(run_id, call_id))) is not None:
                rows[key].label(verdict, good=said[1])
        return sorted(
            rows.values(),
            key=lambda one: (one.agent, one.check, -one.last_at, one.version, one.model),
        )

    def _given(self, run_id: str, call_id: str) -> tuple[str, str]:
        """Return which run was given an answer, and by which call."""
        while run_id in self._forks and call_id in self._forks[run_id][1]:
            run_id = self._forks[run_id][0]
        return run_id, call_id

    def worth(self, rows: Iterable[Judged]) -> Worth | None:
        """Return the answer to label first for these versions; `None` where all are labelled.

        It is one that labels are needed of, if there are such; else one that was objected to,
        rather than one that passed.
        """
        listed = list(rows)
        needed = [(row.key, side) for row in listed for side in short(row)]
        whole = [[(row.key, side) for row in listed] for side in get_args(Side)]
        found = (
            [self._worth[key] for key in keys if key in self._worth] for keys in (needed, *whole)
        )
        return next((max(worths) for worths in found if worths), None)

    def _count(self, run_id: str, run: _Run, key: _Key, said: dict[str, VerdictGiven]) -> None:
        agent, check, kind, version, model = key
        fresh = Judged(agent=agent, check=check, kind=kind, version=version, model=model)
        row = self._rows.setdefault(key, fresh)
        for call_id, verdict in said.items():
            row.verdicts[verdict.verdict] = row.verdicts.get(verdict.verdict, 0) + 1
            self._said.append((key, run_id, call_id, verdict.verdict))
        row.cost_nano += run.costs[key]
        row.last_at = max(row.last_at, run.last_at[key])

    def _weigh(self, run_id: str, run: _Run) -> None:
        for one in run.answers.given.values():
            if one.call_id in run.answers.labels:
                continue
            default = meant(run.answers, run_id, None, ask=one.ask_id)
            said = {key: of[one.call_id] for key, of in run.said.items() if one.call_id in of}
            sides = {key: _side(verdict.verdict) for key, verdict in said.items()}
            worth = Worth(
                disagreed={"objected", "passed"} <= set(sides.values()),
                rejected=one.call_id in run.rejected,
                at=run.at,
                run=run_id,
                ask="" if one.ask_id == run.answers.asked_last else one.ask_id,
                attempt=0 if one is default else one.attempt,
            )
            for place in sides.items():
                self._worth[place] = max(worth, self._worth.get(place, worth))


def _side(verdict: str) -> Side:
    if verdict not in _DECIDES:
        return "undecided"
    return "objected" if verdict in _OBJECTS else "passed"


class _Run:
    """One run: its answers, and what was said of them."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.said: dict[_Key, dict[str, VerdictGiven]] = {}
        """What a version of a check said last, by the call whose reply is the answer."""
        self.costs: dict[_Key, int] = {}
        self.last_at: dict[_Key, int] = {}
        self.rejected: set[str] = set()
        self.forked_from = ""
        self.shares: frozenset[str] = frozenset()
        """The calls whose replies are answers that another run was given."""
        self.at = 0
        self._agents: dict[str, str] = {}
        self._agent = ""
        self._shared = 0
        """Up to where it is another run's, of which it is a fork."""
        self._votes: dict[str, tuple[str, str]] = {}
        """By the ask of a judge: the call whose reply it judges, and what the judge is called."""
        self._paid: dict[tuple[str, str], int] = {}
        """What votes cost that another run has paid."""

    def take(self, record: Record) -> None:
        self.answers.take(record)
        self.at = record.at
        event: Event = record.event
        if isinstance(event, RunStarted):
            self._agent = event.spec.agent or event.agent
            self._shared, self.forked_from = event.forked_at, event.forked_from
        elif isinstance(event, RunForked):
            self.shares = frozenset(self.answers.given)
        elif isinstance(event, AskStarted) and event.judges:
            self._votes[event.ask_id] = (event.judges, event.check)
        elif isinstance(event, ModelCallSucceeded | ModelCallInDoubt):
            if record.seq <= self._shared and event.ask_id in self._votes:
                vote = self._votes[event.ask_id]
                self._paid[vote] = self._paid.get(vote, 0) + event.cost_nano
        elif isinstance(event, AskStarted) and event.spec is not None:
            self._agents[event.ask_id] = event.spec.agent
        elif isinstance(event, AskStarted) and event.continues:
            self._agents[event.ask_id] = self._agents.get(event.continues, self._agent)
        elif isinstance(event, AnswerRejected):
            self.rejected.add(event.call_id)
        elif isinstance(event, VerdictGiven) and record.seq > self._shared:
            self._judged(event, record.at)

    def _judged(self, event: VerdictGiven, at: int) -> None:
        agent = self._agents.get(event.ask_id, self._agent)
        key = (agent, event.check, event.kind, event.version, event.model)
        self.said.setdefault(key, {})[event.call_id] = event
        self.costs[key] = self.costs.get(key, 0) + event.cost_nano
        # Another run has paid for what it shares; a verdict tells the costs of all its votes.
        self.costs[key] -= min(event.cost_nano, self._paid.get((event.call_id, event.check), 0))
        self.last_at[key] = at


# ── versions ────────────────────────────────────────────────────────────────────────────────────


def current(rows: Sequence[Judged]) -> Mapping[tuple[str, str], Judged]:
    """Return of each check of each agent the version that gave the last verdict."""
    found: dict[tuple[str, str], Judged] = {}
    for row in rows:
        best = found.setdefault((row.agent, row.check), row)
        if row.last_at > best.last_at:
            found[row.agent, row.check] = row
    return found


def void(rows: Sequence[Judged], of: Judged) -> list[Judged]:
    """Return the other versions of a check whose answers are labelled: that tells nothing of it."""
    place = (of.agent, of.check)
    others = (row for row in rows if (row.agent, row.check) == place and row is not of)
    return [row for row in others if row.table.labelled]


def short(row: Judged) -> list[Side]:
    """Return of which answers labels are needed, those that a check objected to or let pass."""
    told = row.calibration
    if isinstance(told, Calibration):
        return []
    needed: dict[Side, int] = {"objected": told.objected_needed, "passed": told.passed_needed}
    return [side for side, number in needed.items() if number]
