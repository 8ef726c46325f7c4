"""Parking, rule by rule: when a run is parked, until when, why, and what lets it go on."""

from typing import Any

import pytest

import outlast
from outlast.actions import NAP_NS, NS, REST, WAIT, FetchReply, Sleep, Step, World
from outlast.decide import decide, park, wake
from outlast.decide_control import decide_control, decide_drain
from outlast.decide_flow import NAP_NS as FLOW_NAP_NS
from outlast.decide_flow import decide_flow
from outlast.drive import Append, Appended, Behind, Outcomes, Perform, drive
from outlast.events import (
    ControlGiven,
    ModelCallFailed,
    NoteAdded,
    RunFinished,
    RunParked,
    RunStarted,
    RunWoken,
)
from outlast.journal import Record, RunRow
from outlast.parking import Parking, evolve
from outlast.state import RunState, fold, row
from outlast.wants import Child, Wants
from test_decide import AGENT, AT, after, known, lost
from test_decide_flow import known as flow_known
from test_decide_flow import walk

HOUR = 3_600 * NS
LATER = AT + HOUR
AN_HOUR = Sleep(until=LATER, why="an hour")
A_DAY = Sleep(until=AT + 24 * HOUR, why="a day")
SOMEBODY = Sleep(until=0, why="somebody", person=True)
IN_TIME = Sleep(until=AT + 2 * HOUR, why="somebody in time", person=True)


def parked(until: int, why: str, *, person: bool = False) -> Step:
    return Step((RunParked(until=until, why=why, person=person),))


def at_work(*calls: str, **asleep: Sleep) -> World:
    return World(in_flight=frozenset((*calls, *asleep)), asleep=asleep)


# ── the slice ───────────────────────────────────────────────────────────────────────────────────

SLICE = {
    "parked": (Parking(), RunParked(until=7, why="x"), Parking("parked", 7, "x")),
    "waits for a person": (
        Parking(),
        RunParked(until=7, why="x", person=True),
        Parking("waiting", 7, "x"),
    ),
    "woken": (Parking("parked", 7, "x"), RunWoken(), Parking()),
    "ended": (Parking("parked", 7, "x"), RunFinished(status="cancelled"), Parking()),
    "told": (Parking("parked", 7, "x"), NoteAdded(text="hello"), Parking("parked", 7, "x")),
}


@pytest.mark.parametrize(("before", "event", "then"), SLICE.values(), ids=SLICE)
def test_the_slice(before: Parking, event: Any, then: Parking) -> None:
    """Whether a run is parked is what was written last of it."""
    assert evolve(before, Record("run:r", 1, 1, AT, 1, event)) == then


@pytest.mark.parametrize(
    ("until", "now", "due"), [(7, 6, False), (7, 7, True), (7, 8, True), (0, 8, False)]
)
def test_when_it_is_due(until: int, now: int, due: bool) -> None:  # noqa: FBT001
    """Its time comes once; without a time it never comes by itself."""
    assert Parking("parked", until).due(now) is due


ROWS = {
    ("queued", None): True,
    ("parked", AT + 1): False,
    ("parked", AT): True,
    ("waiting", AT): True,
    ("waiting", None): False,
    ("paused", AT): False,
    ("running", None): False,
    ("stopped", None): False,
    ("completed", None): False,
}


@pytest.mark.parametrize(("where", "due"), ROWS.items(), ids=map(str, ROWS))
def test_which_rows_are_due(where: tuple[str, int | None], due: bool) -> None:  # noqa: FBT001
    """What is queued is to be driven, and what waits once its time has come."""
    status, wake_at = where
    found = RunRow(id="r", agent="a", status=status, wake_at=wake_at, created_at=1, updated_at=1)
    assert found.is_due(AT) is due


TOLD = {
    "parked": ((), ("parked", "x", LATER)),
    "paused": (("pause",), ("paused", "paused", LATER)),
    "paused and resumed": (("pause", "resume"), ("parked", "x", LATER)),
    "cancelled": (("cancel",), ("queued", "cancelled", None)),
}


@pytest.mark.parametrize(("verbs", "then"), TOLD.values(), ids=TOLD)
def test_a_parked_run_that_is_told_something(verbs: Any, then: Any) -> None:
    """A pause keeps its time for later; a cancelled run waits for nothing more."""
    state = after(known(), RunParked(until=LATER, why="x"))
    state = after(state, *(ControlGiven(verb=verb) for verb in verbs), epoch=0)
    found = row(state, "r")
    assert (found.status, found.why, found.wake_at) == then


# ── when it is parked ───────────────────────────────────────────────────────────────────────────

CALL = FetchReply(
    ask_id="a", call_id="a.m1", batch_id="b", custom_id="c", model="m", hold_nano=1,
    hold_tokens=1, called_at=0,
)  # fmt: skip
PARKS = {
    "nothing to wait for": ((), World(), None),
    "an hour": ((AN_HOUR,), World(), parked(LATER, "an hour")),
    "the first of two": ((A_DAY, AN_HOUR), World(), parked(LATER, "an hour")),
    "a moment": ((Sleep(until=AT + NAP_NS),), World(), None),
    "more than a moment": (
        (Sleep(until=AT + NAP_NS + 1, why="x"),),
        World(),
        parked(AT + NAP_NS + 1, "x"),
    ),
    "an hour beside a moment": ((AN_HOUR, Sleep(until=AT + NS)), World(), None),
    "an hour beside something to begin": ((AN_HOUR, CALL), World(), None),
    "an hour beside something at work": ((AN_HOUR,), at_work("t"), None),
    "an hour beside a child that sleeps": (
        (A_DAY,),
        at_work(c=AN_HOUR),
        parked(LATER, "an hour"),
    ),
    "children that sleep": ((), at_work(c=A_DAY, d=AN_HOUR), parked(LATER, "an hour")),
    "a child that sleeps, and one at work": ((), at_work("d", c=AN_HOUR), None),
    "a child that sleeps for a moment": ((), at_work(c=Sleep(until=AT + NS)), None),
    "a person": ((SOMEBODY,), World(), parked(0, "somebody", person=True)),
    "a child that waits for a person": (
        (),
        at_work(c=SOMEBODY),
        parked(0, "somebody", person=True),
    ),
    "a person, and an hour": (
        (AN_HOUR, SOMEBODY),
        World(),
        parked(LATER, "somebody", person=True),
    ),
    "a person in time, and an hour": (
        (IN_TIME,),
        at_work(c=AN_HOUR),
        parked(LATER, "somebody in time", person=True),
    ),
}


@pytest.mark.parametrize(("actions", "world", "step"), PARKS.values(), ids=PARKS)
def test_what_is_parked(actions: Any, world: World, step: Step | None) -> None:
    """A run is parked that waits for time and people only, itself and in its children."""
    assert park(actions, AT, world) == step


def test_agents_and_flows_are_parked_for_more_than_a_moment() -> None:
    """An agent naps for five seconds, a flow for one: their parks cost differently much."""
    assert (NAP_NS, FLOW_NAP_NS) == (5 * NS, NS)


@pytest.mark.parametrize("after_s", [4, 60])
def test_an_agent_waits_for_its_next_attempt(after_s: int) -> None:
    """What the API asks to wait for is slept through, or else the run is parked, and says why."""
    step = decide(lost(known(), "rate_limited", retry_after_s=float(after_s)), AGENT, AT, World())
    if after_s == 4:
        (sleep,) = step.actions
        assert isinstance(sleep, Sleep)
        assert not step.events
        return
    (event,) = step.events
    assert isinstance(event, RunParked)
    assert event.until >= AT + 60 * NS
    assert event.why.startswith("waiting for Claude's rate limit until 2026-09-21T14:14:2")
    assert not event.person
    assert not step.actions


def quiet(**more: Any) -> Wants:
    return Wants(**({"quiet": True, "steps": {"c": Child(run_id="r/c")}} | more))


FLOWS = {
    "its child sleeps": (quiet(), at_work(**{"step c": AN_HOUR}), parked(LATER, "an hour")),
    "it may ask for more": (quiet(quiet=False), at_work(**{"step c": AN_HOUR}), WAIT),
    "its child is at work": (quiet(), at_work("step c"), WAIT),
    "its child sleeps for less than a moment": (
        quiet(),
        at_work(**{"step c": Sleep(until=AT + NS)}),
        WAIT,
    ),
    "a sibling is stopped": (
        quiet(halted={"d": "run d is stopped"}),
        at_work("step d", **{"step c": AN_HOUR}),
        Step((RunFinished(status="stopped", why="stopped: run d is stopped"),)),
    ),
    "a sibling is stopped, and another one is at work": (
        quiet(halted={"d": "run d is stopped"}),
        at_work("step d", "step e", **{"step c": AN_HOUR}),
        WAIT,
    ),
}


@pytest.mark.parametrize(("wants", "world", "step"), FLOWS.values(), ids=FLOWS)
def test_what_a_flow_does_beside_children_that_sleep(
    wants: Wants, world: World, step: Step
) -> None:
    """It is parked with them once it is quiet; a stop waits for those at work, and for no other."""
    begun = outlast.events.ChildStarted(name="c", child="r/c")
    seen = World(in_flight=world.in_flight, asleep=world.asleep, wants=wants, run_id="r")
    assert decide_flow(flow_known(begun), walk, AT, seen) == step


@pytest.mark.parametrize(
    ("calls", "asleep", "stops"),
    [((), {}, True), ((), {"c": AN_HOUR}, True), (("d",), {"c": AN_HOUR}, False)],
)
def test_an_agent_is_stopped_with_its_child(
    calls: tuple[str, ...],
    asleep: dict[str, Sleep],
    stops: bool,  # noqa: FBT001
) -> None:
    """A stop waits for what is at work, and not for a run that sleeps."""
    seen = World(in_flight=frozenset((*calls, *asleep)), asleep=asleep, halted=("it has no money",))
    step = decide(known(), AGENT, AT, seen)
    stop = Step((RunFinished(status="stopped", why="stopped: it has no money"),))
    assert step == (stop if stops else WAIT)


# ── when it goes on ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["agent", "flow"])
@pytest.mark.parametrize(
    ("until", "called", "goes_on"),
    [
        (LATER, False, False),
        (AT, False, True),
        (LATER, True, True),
        (0, False, False),
        (0, True, True),
    ],
)
def test_what_wakes_it(kind: str, until: int, called: bool, goes_on: bool) -> None:  # noqa: FBT001
    """Its time wakes a run, and a call from below; nothing else does."""
    event, seen = RunParked(until=until, why="x"), World(called=called, wants=quiet())
    step = Step((RunWoken(),)) if goes_on else REST
    if kind == "agent":
        state = after(known(), event)
        assert decide(state, AGENT, AT, seen) == step == wake(state, AT, seen)
    else:
        assert decide_flow(flow_known(event), walk, AT, seen) == step


# ── a driver that is about to end ───────────────────────────────────────────────────────────────

QUEUED = after(known(), RunParked(until=LATER, why="x"))
DRAINS = {
    "it is not": (known(), False, (), {}, None),
    "nothing in flight": (after(known(), NoteAdded(text="")), True, (), {}, "park"),
    "something in flight": (known(), True, ("t",), {}, WAIT),
    "a child that sleeps": (known(), True, (), {"c": AN_HOUR}, "park"),
    "a child that sleeps, and something at work": (known(), True, ("t",), {"c": AN_HOUR}, WAIT),
    "parked": (after(known(), RunParked(until=LATER, why="x")), True, (), {}, None),
    "ended": (after(known(), RunFinished(status="completed")), True, (), {}, None),
}


@pytest.mark.parametrize(
    ("state", "draining", "calls", "asleep", "step"), DRAINS.values(), ids=DRAINS
)
def test_a_drain(state: RunState, draining: bool, calls: Any, asleep: Any, step: Any) -> None:  # noqa: FBT001
    """What is at work has its outcome, and then the run is parked, to be driven at once."""
    seen = World(draining=draining, in_flight=frozenset((*calls, *asleep)), asleep=asleep)
    found = decide_drain(state, AT, seen)
    if step == "park":
        assert found == parked(AT, "its worker was shut down")
    else:
        assert found == step


def test_a_run_that_was_not_begun_is_left_as_it_is() -> None:
    """A drain writes nothing into a run that is queued."""
    begun = RunStarted(journal_version=1, agent="a", nonce="n", spec=AGENT.spec())
    state = fold([Record("run:r", 1, 1, AT, 0, begun)])
    assert decide_drain(state, AT, World(draining=True)) == REST


@pytest.mark.parametrize(("calls", "step"), [((), REST), (("t",), WAIT)])
def test_a_paused_run_does_not_wait_for_those_that_sleep(calls: Any, step: Step) -> None:
    """A pause waits for what is at work, and leaves a child that sleeps asleep."""
    state = after(known(), ControlGiven(verb="pause"), epoch=0)
    seen = World(in_flight=frozenset((*calls, "c")), asleep={"c": AN_HOUR})
    assert decide_control(state, AT, seen) == step


# ── the loop ────────────────────────────────────────────────────────────────────────────────────


def failed(state: RunState) -> ModelCallFailed:
    (ask,) = state.asks.values()
    assert ask.call is not None
    return ModelCallFailed(
        ask_id="a", call_id=ask.call.call_id, kind="rate_limited", message="", retry_after_s=60.0
    )


def test_the_loop_rests_where_it_is_parked() -> None:
    """A park is written with the outcome it follows from, and ends the leg."""
    loop = drive(known(), AGENT, stream="run:r", epoch=1, now=AT)
    wanted = next(loop)
    assert isinstance(wanted, Append)
    called = wanted.state
    assert isinstance(loop.send(Appended()), Perform)
    wanted = loop.send(Outcomes((failed(called),), AT))
    assert isinstance(wanted, Append)
    assert [type(one).__name__ for one in wanted.events] == ["ModelCallFailed", "RunParked"]
    with pytest.raises(StopIteration) as rested:
        loop.send(Appended())
    assert rested.value.value.status == "parked"


def test_a_park_that_comes_too_late_is_decided_again() -> None:
    """Who is cancelled while it is being parked is cancelled, and keeps what it paid for."""
    loop = drive(known(), AGENT, stream="run:r", epoch=1, now=AT)
    wanted = next(loop)
    assert isinstance(wanted, Append)
    called = wanted.state
    loop.send(Appended())
    loop.send(Outcomes((failed(called),), AT))
    told = Record("run:r", called.next_seq, 0, AT, 0, ControlGiven(verb="cancel"))
    wanted = loop.send(Behind((told,), AT))
    assert isinstance(wanted, Append)
    assert [type(one).__name__ for one in wanted.events] == ["ModelCallFailed", "RunFinished"]
    assert wanted.state.status == "cancelled"


@pytest.mark.parametrize("called", [False, True])
def test_the_loop_of_a_parked_run(called: bool) -> None:  # noqa: FBT001
    """A parked run that is not called rests without a word; one that is called goes on."""
    state = after(known(), RunParked(until=LATER, why="x"))
    loop = drive(state, AGENT, stream="run:r", epoch=2, now=AT, called=called)
    if not called:
        with pytest.raises(StopIteration):
            next(loop)
        return
    wanted = next(loop)
    assert isinstance(wanted, Append)
    assert [type(one).__name__ for one in wanted.events] == ["RunWoken", "ModelCallStarted"]


def test_the_loop_drains() -> None:
    """What is in flight when a drain begins has its outcome, and the run is parked with it."""
    loop = drive(known(), AGENT, stream="run:r", epoch=1, now=AT)
    wanted = next(loop)
    assert isinstance(wanted, Append)
    called = wanted.state
    loop.send(Appended())
    wanted = loop.send(Outcomes((), AT, draining=True))
    assert wanted == Perform(actions=())
    wanted = loop.send(Outcomes((failed(called),), AT + 1, draining=True))
    assert isinstance(wanted, Append)
    assert wanted.events[-1] == RunParked(until=AT + 1, why="its worker was shut down")
