"""A run alone outlasts an outage by its circuit breaker, wherever its process dies meanwhile.

The real application drives it; the time jumps over every wait.  It is judged by what Claude was
asked and billed, and by what the tools did.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from agents import QUESTION, Effects, agent, claude

import outlast
from conftest import SOAK
from flow_stubs import NS
from outlast.errors import StoreError
from outlast.events import BreakerChanged
from outlast.models.script import Fault
from outlast.models.scripted import ScriptedModel
from outlast.runner import Runner, Things, first_of
from outlast.stores.memory import MemoryJournal
from worker.worked import BEGAN, Clock

BREAKER = outlast.Breaker(calls=3, open_s=10, probes=2)
DOWN_S = 60
NTH = 1 if SOAK else 41
"""Of how many pairs of deaths one is tried."""


class Mortal:
    """A journal whose process dies before or after the writes of these numbers, and stays dead."""

    def __init__(self, journal: MemoryJournal, played: Played) -> None:
        self._journal, self._played = journal, played
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Any) -> Any:
        self._point()
        records = self._journal.append(commit)
        self._point()
        return records

    async def aappend(self, commit: Any) -> Any:
        return self.append(commit)

    def close(self) -> None:
        """Leave it open: another life goes on with it."""

    def _point(self) -> None:
        self._played.points += 1
        self.dead = self.dead or self._played.points in self._played.crash_at
        if self.dead:
            raise StoreError("the process died here")


class Played:
    """A run during an outage of so many seconds, and what came of it."""

    def __init__(
        self,
        crash_at: tuple[int, ...] = (),
        *,
        status: int = 529,
        down_s: int = DOWN_S,
        budget: outlast.Budget | None = None,
        breaker: outlast.Breaker | None = BREAKER,
    ) -> None:
        self.crash_at, self.points, self.crashes = frozenset(crash_at), 0, 0
        self.effects, self.journal = Effects(), MemoryJournal()
        self.asked: list[float] = []
        with pytest.MonkeyPatch.context() as patch:
            self.clock = Clock(patch)
            patch.setitem(Runner.__init__.__kwdefaults__, "wait", self._wait)
            lead = claude(faults=False)

            def script(request: dict[str, Any], attempt: int) -> Any:
                passed_s = (self.clock.now - BEGAN) / NS
                if attempt:
                    self.asked.append(passed_s)
                if passed_s < down_s:
                    return Fault(kind="status", status=status)
                return lead(request, attempt)

            self.model = ScriptedModel(script, clock=self.clock)
            who = agent(self.effects)
            if budget is not None:
                who = outlast.Agent(
                    "sender", model=who.model, tools=who.tools, max_tokens=512, budget=budget
                )
            self.run = self._lived(who, breaker)

    def _lived(self, who: outlast.Agent, breaker: outlast.Breaker | None) -> outlast.Run:
        for _ in range(1_000):
            journal: Any = Mortal(self.journal, self)
            with outlast.Outlast(journal, model=self.model, breaker=breaker) as app:
                try:
                    run = app.run(who, QUESTION, run_id="r", wait_s=0)
                except StoreError:
                    assert journal.dead
                    self.crashes += 1
                    continue
            if run.status != "parked":
                return run
            assert run.wake_at is not None, run.why
            self.clock.now = max(self.clock.now, run.wake_at)
        raise AssertionError("it never ends")

    async def _wait(self, things: Things, wait_s: float | None) -> Things:
        if wait_s is None or len(things) > 1:
            return await first_of(things, wait_s)
        self.clock.jump(wait_s)
        return set()

    @property
    def during(self) -> int:
        """How often Claude was asked in vain."""
        return len(self.asked) - len(self.model.bill)

    @property
    def changes(self) -> list[str]:
        events = (record.event for record in self.journal.read_all(limit=10**5))
        return [event.status for event in events if isinstance(event, BreakerChanged)]

    @property
    def billed(self) -> int:
        return sum(charge.nano_usd for charge in self.model.bill)


def check(played: Played, whole: Played) -> None:
    """Compare a run that was killed with the one that was not, by what the world saw."""
    assert played.run.status == "completed", played.run.why
    assert len(played.effects.sent) <= 1, "a once tool ran twice"
    assert list(played.effects.saved.values()) == ["a"]
    assert len(played.model.bill) <= len(whole.model.bill) + played.crashes
    assert played.during <= whole.during + 2 * played.crashes, "nobody hammers"
    assert played.billed <= played.run.cost_nano
    if not played.crashes:
        assert played.billed == played.run.cost_nano
    assert played.changes[-1] == "closed"
    assert played.changes.count("half_open") <= whole.changes.count("half_open") + played.crashes
    assert max(played.asked) < DOWN_S + 120


@pytest.fixture(scope="module")
def whole() -> Played:
    return Played()


def test_uninterrupted(whole: Played) -> None:
    """It trips, waits, tries, waits longer, and goes on once Claude is back."""
    check(whole, whole)
    trials = whole.changes.count("half_open")
    assert whole.changes == ["open", "half_open"] * trials + ["closed"]
    assert trials >= 3
    assert whole.during <= 3 + trials
    assert whole.effects.sent == ["b"]


def test_every_point(whole: Played) -> None:
    """Wherever the process dies, the run outlasts the outage, and nothing is done twice."""
    for point in itertools.count(1):
        played = Played((point,))
        if not played.crashes:  # this run ended before the point: all were tried
            break
        check(played, whole)
    assert point == whole.points + 1


def pairs(points: int) -> Iterator[tuple[int, int]]:
    return itertools.islice(itertools.combinations(range(1, points + 13), 2), 0, None, NTH)


@pytest.mark.timeout(900)
def test_pairs_of_points(whole: Played) -> None:
    """Wherever the process dies twice, the same."""
    both = 0
    for pair in pairs(whole.points):
        played = Played(pair)
        both += played.crashes == 2
        check(played, whole)
    assert both > 20


BUDGETS = [None, outlast.Budget(usd="0.50", turns=60)]


@pytest.mark.parametrize("budget", BUDGETS, ids=["no budget", "a budget"])
@pytest.mark.parametrize("status", [529, 503])
def test_half_an_hour(status: int, budget: Any, record_property: Any) -> None:
    """A run that is alone outlasts half an hour of nothing but 529, or 503, with hardly a call."""
    breaker = outlast.Breaker()
    played = Played(status=status, down_s=1_800, budget=budget, breaker=breaker)
    assert played.run.status == "completed", played.run.why
    assert played.during <= 40
    in_doubt = played.run.cost_nano - played.billed
    told = f"{played.during} calls in vain, {in_doubt / NS:.4f} USD in doubt"
    record_property("told", told)
    assert in_doubt == 0 if status == 529 else in_doubt > 0
    assert max(played.asked) < 1_800 + 600


def test_without_a_breaker() -> None:
    """Where there is none, a run has its eight attempts, and nobody waits for anybody else."""
    played = Played(breaker=None, down_s=1_800)
    assert (played.run.status, played.during) == ("failed", 8)
    assert played.changes == []
