"""The rules of a circuit breaker by themselves: when it opens, how long, and what closes it."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from msgspec import Raw

import outlast
from flow_stubs import NS
from outlast import breaker as rules
from outlast.breaker import FAILURES, NOTHING_SAID, PARTS, Breaker, State, Tally, verdict
from outlast.errors import UsageError
from outlast.events import (
    BreakerChanged,
    FailureKind,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallSucceeded,
)
from outlast.journal import Commit, Record
from outlast.stores.memory import MemoryJournal

NOW = 1_800_000_000 * NS
CLOSED = State(key="model:m")
KINDS: tuple[FailureKind, ...] = get_args(FailureKind)


def after(state: State, change: BreakerChanged | None, *, at: int = NOW) -> State:
    """Return what a change makes of it."""
    assert change is not None
    return rules.evolve(state, Record(state.stream, state.seq + 1, 0, at, 0, change))


def trip(state: State, tally: Tally, breaker: Breaker = Breaker(), now: int = NOW) -> Any:  # noqa: B008
    return rules.tripped(state, tally, breaker, now=now, run_id="r")


def opened(breaker: Breaker = Breaker()) -> State:  # noqa: B008
    return after(CLOSED, trip(CLOSED, Tally(breaker.calls, breaker.calls, 0), breaker))


def tried(breaker: Breaker = Breaker()) -> State:  # noqa: B008
    state = opened(breaker)
    change = rules.begun(state, breaker, now=state.until, run_id="r")
    return after(state, change, at=state.until)


# ── when it opens ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tally", "opens"),
    [
        (Tally(4, 4), False),
        (Tally(5, 2), False),
        (Tally(5, 3), True),
        (Tally(6, 3), True),
        (Tally(7, 3), False),
        (Tally(0, 0), False),
        (Tally(9, 0, 9), False),
    ],
)
def test_when_it_opens(tally: Tally, opens: Any) -> None:
    """It opens at its share of failures, the share itself included, once there are calls enough."""
    change = trip(CLOSED, tally)
    assert (change is not None) == opens
    if opens:
        assert (change.status, change.until, change.rounds) == ("open", NOW + 10 * NS, 0)
        assert (change.calls, change.failures, change.run_id) == (*tally_of(tally), "r")


def tally_of(tally: Tally) -> tuple[int, int]:
    return tally.calls, tally.failures


@pytest.mark.parametrize("calls", [10, 100, 200, 700, 5_000])
@pytest.mark.parametrize("percent", [1, 7, 29, 57, 58, 70, 99])
def test_a_share_is_exact(calls: int, percent: int) -> None:
    """No rounding moves the number of failures at which it opens."""
    breaker = Breaker(failure_rate=percent / 100)
    at = -(-calls * percent // 100)
    assert trip(CLOSED, Tally(calls, at), breaker) is not None
    assert trip(CLOSED, Tally(calls, at - 1), breaker) is None


def test_slow_calls_open_it() -> None:
    """Replies that take too long open it as well, where somebody said what that is."""
    breaker = Breaker(slow_s=2, slow_rate=0.8)
    assert trip(CLOSED, Tally(10, 0, 8), breaker).slow == 8
    assert trip(CLOSED, Tally(10, 0, 7), breaker) is None
    reply = succeeded(latency_ms=2_000)
    assert verdict(reply, breaker) == "slow"
    assert verdict(succeeded(latency_ms=1_999), breaker) == "ok"
    assert verdict(succeeded(latency_ms=10**7), Breaker()) == "ok"


def test_only_a_closed_one_opens_by_its_window() -> None:
    """What ends late changes nothing of one that is open or tried."""
    for state in (opened(), tried()):
        assert trip(state, Tally(99, 99)) is None


# ── the window ──────────────────────────────────────────────────────────────────────────────────


class Counted:
    """Calls, as processes count them in a store."""

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.journal = MemoryJournal()

    def call(self, state: State, said: Any, now: int, *, probe: bool = False) -> None:
        moves = rules.counts(state, said, probe=probe, breaker=self.breaker, now=now)
        self.journal.advance(moves)

    def tally(self, state: State, now: int) -> Tally:
        names = rules.window_names(state, self.breaker, now)
        return rules.tallied(self.journal.numbers(names), self.breaker, now)

    def tried(self, state: State) -> Tally:
        return rules.tried(self.journal.numbers(rules.probe_names(state)), state)


@pytest.mark.parametrize("window_s", [0.1, 12.0, 60.0, 86_400.0])
def test_the_window_slides(window_s: float) -> None:
    """A call counts for the window, less a twelfth of it at most, and then never again."""
    counted = Counted(Breaker(window_s=window_s))
    whole = int(window_s * NS)
    part, begin = -(-whole // PARTS), NOW - NOW % whole
    counted.call(CLOSED, "failure", begin)
    counted.call(CLOSED, "ok", begin + part // 2)
    counted.call(CLOSED, "slow", begin + 3 * part)
    assert counted.tally(CLOSED, begin + 3 * part) == Tally(3, 1, 1)
    assert counted.tally(CLOSED, begin + whole - part // 4) == Tally(3, 1, 1)
    assert counted.tally(CLOSED, begin + whole + part // 4) == Tally(1, 0, 1)
    assert counted.tally(CLOSED, begin + whole + 4 * part) == Tally()
    counted.call(CLOSED, "failure", begin + whole)  # the place of the first
    assert counted.tally(CLOSED, begin + whole) == Tally(2, 1, 1)
    assert counted.tally(CLOSED, begin + 10**4 * whole) == Tally()


def test_what_was_before_an_outage_is_forgotten() -> None:
    """Once it is closed again, neither what opened it counts, nor what was begun before that."""
    counted = Counted(Breaker())
    for _ in range(9):
        counted.call(CLOSED, "failure", NOW)
    again = msgspec.structs.replace(CLOSED, seq=3)
    assert counted.tally(again, NOW) == Tally()
    counted.call(again, "ok", NOW)
    counted.call(CLOSED, "failure", NOW)
    assert counted.tally(again, NOW) == Tally(1)


def test_who_tried_it_before_counts_no_more() -> None:
    """A call that tried it the time before, and ends late, is none of those that try it now."""
    counted = Counted(Breaker())
    before, now = tried(), msgspec.structs.replace(tried(), seq=4)
    counted.call(now, "ok", NOW, probe=True)
    counted.call(before, "failure", NOW, probe=True)
    assert counted.tried(now) == Tally(1)
    assert counted.tried(before) == Tally(1, 1)
    assert counted.tally(CLOSED, NOW) == Tally(), "they are in no window"


def test_numbers_fit_into_any_store() -> None:
    """Whatever the window and the year, no number needs more than 63 bits."""
    late = 4_000_000_000 * NS
    moves = rules.counts(CLOSED, "failure", probe=False, breaker=Breaker(window_s=0.1), now=late)
    assert all(move.least + 2**24 < 2**63 for move in moves)


# ── open, and tried ─────────────────────────────────────────────────────────────────────────────


def test_it_is_open_twice_as_long_each_time() -> None:
    """From `open_s` on it doubles with each trial that fails, up to `longest_s`; then anew."""
    breaker, state, lengths = Breaker(probes=1), opened(), []
    for _ in range(9):
        lengths.append((state.until - state.at) / NS)
        change = rules.begun(state, breaker, now=state.until, run_id="r")
        half = after(state, change, at=state.until)
        assert (half.status, half.probes, half.rounds) == ("half_open", 1, state.rounds)
        change = rules.judged(half, Tally(1, 1), breaker, now=half.at, run_id="r")
        state = after(half, change, at=half.at)
    assert lengths == [10, 20, 40, 80, 160, 300, 300, 300, 300]
    change = rules.begun(state, breaker, now=state.until, run_id="r")
    half = after(state, change, at=state.until)
    closed = after(half, rules.judged(half, Tally(1), breaker, now=NOW, run_id="r"))
    assert (closed.status, closed.rounds) == ("closed", 0)
    assert closed.ramp is not None
    again = trip(closed, Tally(5, 5))
    assert again.until == NOW + 10 * NS


def test_it_stays_open_for_its_time() -> None:
    """Nobody tries it before its time, and only one that is open."""
    state = opened()
    assert not state.is_tried(state.until - 1)
    assert state.is_tried(state.until)
    assert rules.begun(state, Breaker(), now=state.until - 1, run_id="r") is None
    for other in (CLOSED, tried()):
        assert rules.begun(other, Breaker(), now=NOW * 2, run_id="r") is None
    assert not CLOSED.is_tried(NOW)
    assert tried().is_tried(NOW)


@pytest.mark.parametrize(
    ("tally", "status"),
    [
        (Tally(), None),
        (Tally(1), None),
        (Tally(2), None),  # of four, two may fail yet, and that is half
        (Tally(3), "closed"),
        (Tally(1, 1), None),
        (Tally(2, 1), None),
        (Tally(3, 1), None),
        (Tally(4, 1), "closed"),
        (Tally(2, 2), "open"),
        (Tally(3, 2), "open"),
        (Tally(4, 4), "open"),
        (Tally(1, 0, 1), None),
        (Tally(4, 0, 4), "open"),
        (Tally(4, 0, 3), "closed"),
    ],
)
def test_it_is_judged_as_soon_as_that_is_certain(tally: Tally, status: str | None) -> None:
    """Who tries it is waited for only while he can change what comes of it."""
    breaker = Breaker(probes=4, slow_s=1)
    change = rules.judged(tried(breaker), tally, breaker, now=NOW, run_id="r")
    assert (change.status if change else None) == status


def test_only_who_tries_it_is_judged() -> None:
    """One that is closed or open is not judged by probes."""
    for state in (CLOSED, opened()):
        assert rules.judged(state, Tally(3, 3), Breaker(), now=NOW, run_id="r") is None


def test_as_many_try_it_as_were_agreed_when_that_began() -> None:
    """Another process with other settings does not change how many there are."""
    half = tried(Breaker(probes=2))
    assert rules.judged(half, Tally(2), Breaker(probes=9), now=NOW, run_id="r") is not None


# ── who waits, and how long ─────────────────────────────────────────────────────────────────────


def test_waits_are_spread() -> None:
    """Those who wait come one after the other, each at a time that a restart does not change."""
    state = opened()
    waits = [state.waits(f"run-{n}", NOW) for n in range(1_000)]
    assert waits == [state.waits(f"run-{n}", NOW + 3) for n in range(1_000)]
    assert all(state.until <= at < state.until + 5 * NS for at in waits)
    seconds = [sum((at - state.until) // NS == second for at in waits) for second in range(5)]
    assert min(seconds) > 150
    assert {state.waits("x", now) for now in (state.until, state.until + NS)} == {0}
    assert CLOSED.waits("x", NOW) == tried().waits("x", NOW) == 0


def test_those_who_wait_for_others_come_less_and_less_often() -> None:
    """While it is tried, a call looks again after a while that grows with the time of the trial."""
    half = tried()
    for passed_s in (0, 1, 60, 600):
        now = half.at + passed_s * NS
        least = min(60, max(2, passed_s)) * NS
        waits = {half.waits_for_others(f"run-{n}", now) - now for n in range(100)}
        assert least <= min(waits) <= max(waits) <= 2 * least
        assert len(waits) == 100


def test_it_is_the_same_after_a_restart() -> None:
    """What a breaker is can be read from its stream, at every point of it."""
    journal, state = MemoryJournal(), CLOSED
    breaker, given = Breaker(probes=1), {"now": NOW * 2, "run_id": "r"}
    for change in (
        lambda now: trip(now, Tally(5, 5)),
        lambda now: rules.begun(now, breaker, **given),
        lambda now: rules.judged(now, Tally(1, 1), breaker, **(given | {"now": NOW})),
        lambda now: rules.begun(now, breaker, **given),
        lambda now: rules.judged(now, Tally(1), breaker, **given),
    ):
        event = change(state)
        made = Commit(stream=state.stream, events=(event,), at=NOW, expected_seq=state.seq + 1)
        state = rules.fold(journal.append(made), state)
        assert rules.fold(journal.read(CLOSED.stream), CLOSED) == state
    assert (state.status, state.seq) == ("closed", 5)


# ── what counts ─────────────────────────────────────────────────────────────────────────────────


def succeeded(**more: Any) -> ModelCallSucceeded:
    given = {"content": Raw(b"[]"), "usage": Raw(b"{}"), "stop_reason": None, "tokens": 0}
    return ModelCallSucceeded(ask_id="a", call_id="c", cost_nano=0, **(given | more))  # type: ignore[arg-type]


def said(kind: FailureKind, status: int = 0) -> set[Any]:
    """Return what a failure says, billed or not."""
    given: Any = {"ask_id": "a", "call_id": "c", "kind": kind, "message": "", "status": status}
    doubt = ModelCallInDoubt(cost_nano=1, tokens=1, **given)
    return {verdict(ModelCallFailed(**given), Breaker()), verdict(doubt, Breaker())}


def test_every_kind_of_failure_says_something_or_nothing() -> None:
    """No connection, 5xx, 529 and no reply in time are failures; our own doing says nothing."""
    verdicts = {kind: said(kind) for kind in KINDS}
    assert all(len(found) == 1 for found in verdicts.values())
    assert {kind for kind, found in verdicts.items() if found == {"failure"}} == FAILURES
    assert {kind for kind, found in verdicts.items() if found == {None}} == NOTHING_SAID
    assert {kind for kind, found in verdicts.items() if found == {"ok"}} == {
        *("rate_limited", "spend_limit", "auth", "not_found", "too_large", "invalid_request")
    }
    assert FAILURES.isdisjoint(NOTHING_SAID)


@pytest.mark.parametrize("kind", sorted(FAILURES))
def test_whatever_has_a_4xx_is_an_answer(kind: FailureKind) -> None:
    """A status from 400 to 499 is no failure of the dependency, whatever we make of it."""
    assert all(said(kind, status) == {"ok"} for status in range(400, 500))
    assert all(said(kind, status) == {"failure"} for status in (0, 200, 399, 500, 503, 529))


# ── settings ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"failure_rate": 0}, r"Breaker(failure_rate=0): give a share above 0 and up to 1"),
        ({"failure_rate": 1.01}, "Breaker(failure_rate=1.01): give a share"),
        ({"failure_rate": float("nan")}, "give a share"),
        ({"failure_rate": True}, "give a share"),
        ({"slow_rate": "0.5"}, "Breaker(slow_rate='0.5'): give a share"),
        ({"calls": 0}, "Breaker(calls=0): give a whole number from 1 to 10,000"),
        ({"calls": 2.5}, "give a whole number"),
        ({"calls": True}, "give a whole number"),
        ({"probes": 10_001}, "Breaker(probes=10001): give a whole number from 1 to 10,000"),
        ({"window_s": 0}, "Breaker(window_s=0): give seconds, from 0.1 to 86,400"),
        ({"window_s": 0.09}, "give seconds, from 0.1"),
        ({"open_s": -1}, "Breaker(open_s=-1): give seconds, from 0.001 to 86,400"),
        ({"open_s": 10**400}, "give seconds"),
        ({"longest_s": float("inf")}, "give seconds"),
        ({"slow_s": 0}, "Breaker(slow_s=0): give seconds"),
        ({"slow_s": "1"}, "give seconds"),
        ({"open_s": 60, "longest_s": 30}, "Breaker(longest_s=30) is less than open_s=60"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], told: str) -> None:
    """A setting that can only be a mistake is refused, and the message says what may be given."""
    with pytest.raises(UsageError) as refused:
        outlast.Breaker(**given)
    assert told in str(refused.value)


def test_settings_at_their_ends_are_taken() -> None:
    """The ends of every range are in it."""
    outlast.Breaker(failure_rate=1, slow_rate=1.0, slow_s=0.001, calls=1, probes=1, window_s=0.1)
    outlast.Breaker(open_s=86_400, longest_s=86_400, calls=10_000, probes=10_000)


def test_a_clock_that_was_wrong_keeps_no_breaker_open() -> None:
    """One that was opened by a clock far ahead of ours may be tried; one a little ahead may not."""
    for ahead_s, tried in ((30, False), (3_600, True)):
        at = (1_000 + ahead_s) * NS
        state = State(key="k", status="open", at=at, until=at + 10 * NS, seq=1)
        assert state.is_tried(1_000 * NS) == tried
        assert (state.waits("r", 1_000 * NS) == 0) == tried
        change = rules.begun(state, Breaker(), now=1_000 * NS, run_id="r")
        assert (change is not None) == tried


def test_what_was_counted_with_a_wrong_clock_is_put_right() -> None:
    """Numbers of a time to come count nothing, and are taken back."""
    state, breaker, later = State(key="k"), Breaker(), NOW + 30 * 86_400 * NS
    journal = MemoryJournal()
    for _ in range(9):
        moves = rules.counts(state, "ok", probe=False, breaker=breaker, now=later)
        journal.advance(moves)
    names = rules.window_names(state, breaker, NOW)
    assert rules.tallied(journal.numbers(names), breaker, NOW) == Tally()
    journal.advance(rules.mended(names, journal.numbers(names), breaker, NOW))
    journal.advance(rules.counts(state, "failure", probe=False, breaker=breaker, now=NOW))
    assert rules.tallied(journal.numbers(names), breaker, NOW) == Tally(1, 1)


def test_who_tries_it_and_hangs_holds_nobody_up_for_ever() -> None:
    """After five minutes whoever has not answered has failed, and others may try it."""
    state = State(key="k", status="half_open", probes=3, at=NOW, seq=1)
    for passed_s, status in ((299, None), (300, "open")):
        change = rules.judged(state, Tally(1), Breaker(), now=NOW + passed_s * NS, run_id="r")
        assert (change and change.status) == status
    change = rules.judged(state, Tally(2), Breaker(), now=NOW + 300 * NS, run_id="r")
    assert change is not None
    assert change.status == "closed"


@pytest.mark.parametrize("given", ["x", True, 5, Breaker])
def test_what_is_no_breaker_is_refused(given: Any) -> None:
    """At once, and not by the first run."""
    with pytest.raises(outlast.errors.UsageError, match=r"outlast\.Breaker"):
        outlast.Outlast("memory://", breaker=given)
