"""Our circuit breaker changes as another one does that many people use, whatever comes.

`interlock-cb` is one process's breaker; ours is that of all processes of a store, so it is driven
by two of them in turn.  They differ on purpose in three ways, each of which is said where it shows:

* We judge those who try a dependency as soon as what comes of the others cannot change it; it waits
  for all.  So it is asked what it would do if all the others failed, and if none did.
* It judges after every call, we only after those that may open a breaker; so ours is told to.
* Both forget what an earlier era began, as soon as each is in another one.
"""

from __future__ import annotations

import copy
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from interlock import Config, Outcome, WindowType
from interlock._state_machine import StateMachine
from msgspec import Raw

from conftest import SOAK
from flow_stubs import NS
from outlast.breaker import Breaker, Verdict, model_key
from outlast.errors import Conflict, Refused
from outlast.events import ModelCallFailed, ModelCallStarted, ModelCallSucceeded
from outlast.journal import Commit
from outlast.limits import settled
from outlast.stores.memory import MemoryJournal
from outlast.tripping import Breakers, Trial
from stubs import MODEL

T = TypeVar("T")

HISTORIES = 3_000 if SOAK else 80
BEGAN_S = 1_800_000_000
STEP = 8
"""Moments are eighths of a second, which a binary fraction is exactly."""
KEY = model_key(MODEL)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine gives that never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise AssertionError("memory never waits")


@dataclass
class Moment:
    """The time, of both."""

    eighths: int = 0

    @property
    def ns(self) -> int:
        return BEGAN_S * NS + self.eighths * NS // STEP

    def monotonic(self) -> float:
        return BEGAN_S + self.eighths / STEP


@dataclass
class Call:
    """A call in flight."""

    name: str
    process: Process
    generation: int
    at_place: bool
    era: int


class Process:
    """One of the processes of a store: what `Runner` does for a call, and nothing else."""

    def __init__(self, journal: MemoryJournal, breaker: Breaker, moment: Moment) -> None:
        async def commit(one: Commit) -> Any:
            return journal.append(one)

        self.journal, self.moment = journal, moment
        self.breakers = Breakers(journal, breaker, key=str, commit=commit, clock=lambda: moment.ns)
        self.trial = Trial(self.breakers, run_id="r", tenant="")

    def begin(self, name: str) -> bool | None:
        """Begin a call; return whether it tries the dependency, `None` where it may not be made."""
        wanted: Any = SimpleNamespace(
            state=SimpleNamespace(asks={"a": SimpleNamespace(spec=SimpleNamespace(model=MODEL))})
        )
        while True:
            now = self.moment.ns
            (state,) = self.trial.states([MODEL], ()).values()
            if state.waits("", now):
                if self.journal.read(state.stream, after=state.seq):
                    self.breakers.read(state)
                    continue
                return None
            intent = ModelCallStarted(
                ask_id="a",
                call_id=name,
                max_tokens=1,
                request_hash="",
                hold_nano=0,
                hold_tokens=0,
                attempt=1,
                probe=state.is_tried(now),
            )
            found = at_once(self.trial.entered([intent], wanted, now))
            if found is None:
                continue
            seen = tuple((one.stream, one.seq) for one in found.values())
            held = self.trial.holds(found, [intent])
            try:
                self.journal.append(
                    Commit(stream="~calls", events=(intent,), at=now, holds=held, seen=seen)
                )
            except Conflict as conflict:
                self.breakers.reread(conflict.stream)
                continue
            except Refused as refused:
                at_once(self.trial.refused(refused.scope))
                return None
            at_once(self.trial.settle([intent], found))
            return intent.probe

    def end(self, name: str, said: Verdict | None) -> None:
        """End a call."""
        event: Any
        if said in ("ok", "slow"):
            event = ModelCallSucceeded(
                ask_id="a",
                call_id=name,
                content=Raw(b"[]"),
                stop_reason=None,
                usage=Raw(b"{}"),
                cost_nano=0,
                tokens=0,
                latency_ms=5_000 if said == "slow" else 4_999,
            )
        else:
            kind: Any = "overloaded" if said else "bug"
            event = ModelCallFailed(ask_id="a", call_id=name, kind=kind, message="")
        now = self.moment.ns
        self.journal.append(
            Commit(
                stream="~calls",
                events=(event,),
                at=now,
                settlements=settled([event], "r"),
                advances=self.trial.moves([event], now),
            )
        )
        at_once(self.trial.settle([event], {}))

    @property
    def status(self) -> str:
        """What the breaker is, as whoever comes now finds it."""
        (state,) = self.trial.states([MODEL], ()).values()
        return self.breakers.read(state).status

    def judge(self) -> None:
        at_once(self.breakers.judge(KEY, "r"))


OUTCOMES = {"ok": Outcome.SUCCESS, "failure": Outcome.FAILURE, "slow": Outcome.SLOW_SUCCESS}


@dataclass
class Both:
    """Ours and theirs, side by side."""

    breaker: Breaker
    moment: Moment = field(default_factory=Moment)
    calls: list[Call] = field(default_factory=list)
    began: int = 0
    changes: int = 0

    def __post_init__(self) -> None:
        ours = self.breaker
        journal = MemoryJournal()
        self.processes = [Process(journal, ours, self.moment) for _ in range(2)]
        self.theirs = StateMachine(
            config=Config(
                failure_rate_threshold=ours.failure_rate,
                minimum_number_of_calls=ours.calls,
                slow_call_rate_threshold=ours.slow_rate if ours.slow_s else 1.0,
                permitted_calls_in_half_open=ours.probes,
                max_concurrent_probes=ours.probes,
                wait_duration_in_open=ours.open_s,
                wait_duration_backoff_multiplier=2.0,
                wait_duration_in_open_max=ours.longest_s,
                window_type=WindowType.TIME_BASED,
                window_size=12,
            ),
            clock=self.moment,
        )

    def begin(self, which: int) -> None:
        process, name = self.processes[which], f"c{self.began}"
        self.began += 1
        probe = process.begin(name)
        assert self.theirs.acquire() == (probe is not None), "one lets a call pass"
        if probe is None:
            return
        assert probe == (self.theirs.state.value == "half_open")
        call = Call(name, process, self.theirs.generation, probe, self.changes)
        self.calls.append(call)

    def end(self, which: int, said: Verdict | None) -> None:
        if not self.calls:
            return
        call = self.calls.pop(which % len(self.calls))
        before = self.theirs.generation
        call.process.end(call.name, said)
        if said is not None and self.theirs.state.value == "closed":
            call.process.judge()  # they judge after each call
        if said is None:
            self.theirs.release_probe(generation=call.generation)
        else:
            is_slow_ok = said == "slow" and not self.breaker.slow_s
            outcome = OUTCOMES["ok" if is_slow_ok else said]
            self.theirs.record(outcome, generation=call.generation)
        if self.theirs.state.value == "half_open":
            self.settle()
        self.changes += before != self.theirs.generation

    @property
    def status(self) -> str:
        return self.processes[0].status

    def settle(self) -> None:
        """Let theirs judge as soon as it is certain, as ours does, and hold ours to that."""
        worst = self.rest(Outcome.FAILURE)
        best = self.rest(Outcome.SUCCESS)
        if self.breaker.slow_s and worst.state.value == "closed":
            worst = self.rest(Outcome.SLOW_SUCCESS)
        if worst.state is best.state:
            assert self.status == worst.state.value, "it is certain"
            self.theirs = worst
        else:
            assert self.status == "half_open", "it is not certain"

    def rest(self, outcome: Outcome) -> StateMachine:
        """Return what theirs would be if this came of all who are to try it yet."""
        other = copy.deepcopy(self.theirs, {id(self.theirs._clock): self.theirs._clock})
        era = other.generation
        while other.generation == era and other._probes_in_flight:
            other.record(outcome)
        while other.generation == era:
            assert other.acquire()
            other.record(outcome)
        return other

    def wait(self, more: int) -> None:
        """Let the time go by until it may be tried, or about that."""
        left_s = self.theirs.retry_after()
        if left_s:
            self.moment.eighths += max(0, int(left_s * STEP) + more)

    def check(self) -> None:
        assert self.status == self.theirs.state.value


SAID = st.sampled_from(["ok", "ok", "failure", "failure", "slow", None])
MOVES = st.one_of(
    st.tuples(st.just("begin"), st.integers(0, 1), st.none()),
    st.tuples(
        st.just("end"),
        st.integers(0, 9),
        SAID,
    ),
    st.tuples(st.just("call"), st.integers(0, 1), SAID),
    st.tuples(st.just("call"), st.integers(0, 1), SAID),
    st.tuples(st.just("jump"), st.sampled_from([1, 3, 8, 8, 20, 40, 95, 96, 97]), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([-1, 0, 0, 1]), st.none()),
)
RATES = st.sampled_from([0.07, 0.1, 0.29, 0.3, 0.5, 0.58, 0.7, 0.9, 1.0])


@pytest.mark.timeout(900)
@settings(max_examples=HISTORIES, phases=[Phase.explicit, Phase.generate])  # shrinking takes long
@given(
    breaker=st.builds(
        Breaker,
        failure_rate=RATES,
        slow_s=st.sampled_from([None, 5.0]),
        slow_rate=RATES,
        calls=st.integers(1, 6),
        window_s=st.just(12.0),
        open_s=st.sampled_from([0.5, 1.0, 10.0]),
        longest_s=st.sampled_from([10.0, 35.0, 300.0]),
        probes=st.integers(1, 5),
    ),
    moves=st.lists(MOVES, min_size=80, max_size=120),
)
def test_it_changes_as_theirs_does(breaker: Breaker, moves: list[Any]) -> None:
    """After each call and each jump of the clock, both are the same, and let the same pass."""
    both = Both(breaker)
    for what, number, said in moves:
        if what == "begin":
            both.begin(number)
        elif what == "end":
            both.end(number, said)
        elif what == "call":
            both.begin(number)
            both.end(-1, said)
        elif what == "wait":
            both.wait(number)
        else:
            both.moment.eighths += number
        both.check()
