"""What a flow's run does next: one row per line of the table in `decide_flow`."""

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec import Raw

import outlast
from flow_stubs import NS, named
from outlast import wants
from outlast.actions import REST, WAIT, CallModel, CallStep, DriveChild, Sleep, Step, World
from outlast.decide_flow import decide_flow
from outlast.events import (
    AskAnswered,
    AskFailed,
    AskStarted,
    BudgetRefused,
    ChildStarted,
    MessageReceived,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    PhaseEntered,
    RunFinished,
    RunParked,
    RunStarted,
    RunWoken,
    Spec,
    StepFinished,
    StepStarted,
)
from outlast.journal import Record
from outlast.state import RunState, fold
from outlast.wants import Wants

NOW = 1_790_000_000 * NS
HELLO = Raw(b'"Hello."')
AGENT = named("one")


@outlast.flow(phases=["first", "second"])
def walk(run: outlast.Run) -> None: ...


@outlast.flow(budget=outlast.Budget(turns=1))
def poor(run: outlast.Run) -> None: ...


def known(*events: Any, at: int = NOW) -> RunState:
    """Return what a flow's run knows after these events."""
    started = RunStarted(
        journal_version=1,
        agent="walk",
        nonce="n",
        spec=Spec(agent="walk", model="", max_tokens=0),
        kind="flow",
    )
    all_ = enumerate([started, *events], start=1)
    return fold([Record("run:r", seq, seq, at, 1, event) for seq, event in all_])


def asked(name: str = "one-1") -> tuple[Any, ...]:
    return (
        AskStarted(ask_id=name, spec=AGENT.spec()),
        MessageReceived(ask_id=name, content=HELLO),
    )


def called(name: str = "one-1") -> ModelCallStarted:
    """Return the intent that `decide_flow` itself comes to for an open ask."""
    step = decided(known(*asked(name)), asks={name: ask()})
    (intent,) = step.events
    assert isinstance(intent, ModelCallStarted)
    return intent


def ask(**more: Any) -> wants.Ask:
    return wants.Ask(agent=AGENT, content=HELLO, **more)


def decided(
    state: RunState,
    *,
    flow: Any = walk,
    now: int = NOW,
    in_flight: tuple[str, ...] = (),
    quiet: bool = True,
    **more: Any,
) -> Step:
    wanted = Wants(quiet=quiet, **more)
    world = World(in_flight=frozenset(in_flight), wants=wanted, run_id="r")
    return decide_flow(state, flow, now, world)


def begun(effect: Any = "once", attempt: int = 1) -> StepStarted:
    return StepStarted(name="do", effect=effect, attempt=attempt)


def call(effect: Any = "once") -> dict[str, wants.Step]:
    return {"do": wants.Call(effect=effect)}


def napping(until: int = NOW + 100 * NS, name: str = "nap") -> StepStarted:
    return StepStarted(name=name, kind="sleep", effect="read", until=until)


NAP: Mapping[str, wants.Step] = {"nap": wants.Nap(length=100 * NS)}
DONE = StepFinished(name="do", kind="step")
DOUBT = StepFinished(
    name="do",
    kind="step",
    status="in_doubt",
    error="it was interrupted, and it may or may not have happened; it was not repeated",
)
LATER = NOW + 100 * NS
PARKED = RunParked(until=LATER, why="sleeping until 2026-09-21T14:15:00Z")


def doing(attempt: int = 1) -> CallStep:
    return CallStep(name="do", attempt=attempt, place="n:step:do")


BEFORE: dict[str, tuple[tuple[Any, ...], dict[str, Any], Step]] = {
    # name: what the journal has, what is wanted, what is done
    "nothing is wanted": ((), {}, Step()),
    "a phase is entered": (
        (),
        {"phases": ("first", "second")},
        Step((PhaseEntered(phase="first"),)),
    ),
    "the next phase": (
        (PhaseEntered(phase="first"),),
        {"phases": ("first", "second")},
        Step((PhaseEntered(phase="second"),)),
    ),
    "a phase that was entered": (
        (PhaseEntered(phase="first"),),
        {"phases": ("first",)},
        Step(),
    ),
    "a phase goes before what is done in it": (
        (),
        {"phases": ("first",), "steps": call()},
        Step((PhaseEntered(phase="first"),)),
    ),
    "an agent is asked": (
        (),
        {"asks": {"one-1": ask(version="v")}},
        Step(
            (
                AskStarted(ask_id="one-1", spec=AGENT.spec(), version="v"),
                MessageReceived(ask_id="one-1", content=HELLO),
            )
        ),
    ),
    "an agent is asked on": (
        (*asked(), AskAnswered(ask_id="one-1", answer=Raw(b'"x"'))),
        {"asks": {"one-2": ask(continues="one-1")}},
        Step(
            (
                AskStarted(ask_id="one-2", continues="one-1"),
                MessageReceived(ask_id="one-2", content=HELLO),
            )
        ),
    ),
    "an answered ask": (
        (*asked(), AskAnswered(ask_id="one-1", answer=Raw(b'"x"'))),
        {"asks": {"one-1": ask()}},
        Step(),
    ),
    "a failed ask": (
        (*asked(), AskFailed(ask_id="one-1", why="no")),
        {"asks": {"one-1": ask()}},
        Step(),
    ),
    "a function": ((), {"steps": call()}, Step((begun(),), (doing(),))),
    "a function in flight": (
        (begun(),),
        {"steps": call(), "in_flight": ("step do",)},
        WAIT,
    ),
    "a function that is done": ((begun(), DONE), {"steps": call()}, Step()),
    "a read that was lost": (
        (begun("read"),),
        {"steps": call("read")},
        Step((begun("read", 2),), (doing(2),)),
    ),
    "a read that was lost again": (
        (begun("read"), begun("read", 2)),
        {"steps": call("read")},
        Step((begun("read", 3),), (doing(3),)),
    ),
    "a read that was lost thrice": (
        (begun("read"), begun("read", 2), begun("read", 3)),
        {"steps": call("read")},
        Step((DOUBT,)),
    ),
    "an idempotent one that was lost often": (
        (begun("idempotent", 9),),
        {"steps": call("idempotent")},
        Step((begun("idempotent", 10),), (doing(10),)),
    ),
    "a once that was lost": ((begun(),), {"steps": call()}, Step((DOUBT,))),
    "a once that is a read now": ((begun(),), {"steps": call("read")}, Step((DOUBT,))),
    "a read that is a once now": ((begun("read"),), {"steps": call()}, Step((DOUBT,))),
    "a value": (
        (),
        {"steps": {"now-1": wants.Value(result=Raw(b"7"))}},
        Step((StepFinished(name="now-1", kind="value", result=Raw(b"7")),)),
    ),
    "a child": (
        (),
        {"steps": {"m/1": wants.Child(run_id="r/m/1", given="g")}},
        Step(
            (ChildStarted(name="m/1", child="r/m/1", given="g"),),
            (DriveChild(name="m/1", run_id="r/m/1"),),
        ),
    ),
    "a child that was lost": (
        (ChildStarted(name="m/1", child="r/old"),),
        {"steps": {"m/1": wants.Child(run_id="r/m/1")}},
        Step((), (DriveChild(name="m/1", run_id="r/old"),)),
    ),
    "a child in flight": (
        (ChildStarted(name="m/1", child="r/m/1"),),
        {"steps": {"m/1": wants.Child(run_id="r/m/1")}, "in_flight": ("step m/1",)},
        WAIT,
    ),
    "a sleep": ((), {"steps": NAP}, Step((napping(),))),
    "nothing but a sleep": ((napping(),), {"steps": NAP}, Step((PARKED,))),
    "of two sleeps the first": (
        (napping(), napping(LATER + 1, "other")),
        {"steps": {**NAP, "other": wants.Nap(length=1)}},
        Step((PARKED,)),
    ),
    "a sleep before it was quiet": (
        (napping(),),
        {"steps": NAP, "quiet": False},
        Step((), (Sleep(until=LATER, why=PARKED.why, least=NS),)),
    ),
    "a sleep beside a call": (
        (napping(), begun()),
        {"steps": {**NAP, **call()}, "in_flight": ("step do",)},
        Step((), (Sleep(until=LATER, why=PARKED.why, least=NS),)),
    ),
    "a sleep of a moment": (
        (napping(NOW + NS),),
        {"steps": NAP},
        Step((), (Sleep(until=NOW + NS, why="sleeping until 2026-09-21T14:13:21Z", least=NS),)),
    ),
    "a sleep that is over": (
        (napping(NOW),),
        {"steps": NAP},
        Step((StepFinished(name="nap", kind="sleep"),)),
    ),
    "a parked run": ((napping(), PARKED), {"steps": NAP}, REST),
    "a parked run whose time has come": (
        (napping(NOW), RunParked(until=NOW, why="")),
        {"steps": NAP},
        Step((RunWoken(),)),
    ),
    "a lost model call": (
        (*asked(), called()),
        {"asks": {"one-1": ask()}},
        Step(
            (
                ModelCallInDoubt(
                    ask_id="one-1",
                    call_id="one-1.m1",
                    kind="crash",
                    message="the process ended before the outcome was written",
                    cost_nano=called().hold_nano,
                    tokens=called().hold_tokens,
                ),
            )
        ),
    ),
    "a model call in flight": (
        (*asked(), called()),
        {"asks": {"one-1": ask()}, "in_flight": ("one-1.m1",)},
        WAIT,
    ),
    "a refused request fails the ask": (
        (
            *asked(),
            called(),
            ModelCallFailed(
                ask_id="one-1", call_id="one-1.m1", kind="invalid_request", message="x"
            ),
        ),
        {"asks": {"one-1": ask()}},
        Step(
            (AskFailed(ask_id="one-1", why="Claude did not take the request (invalid_request): x"),)
        ),
    ),
    "it returned": (
        (),
        {"returned": Raw(b"1")},
        Step((RunFinished(status="completed", answer=Raw(b"1")),)),
    ),
    "it returned while something is in flight": (
        (begun(),),
        {"returned": Raw(b"1"), "in_flight": ("step do",)},
        WAIT,
    ),
    "it returned, and what it drew is kept": (
        (),
        {"returned": Raw(b"1"), "steps": {"now-1": wants.Value(result=Raw(b"7"))}},
        Step((StepFinished(name="now-1", kind="value", result=Raw(b"7")),)),
    ),
    "it returned, and what it drew was kept": (
        (StepFinished(name="now-1", kind="value", result=Raw(b"7")),),
        {"returned": Raw(b"1"), "steps": {"now-1": wants.Value(result=Raw(b"7"))}},
        Step((RunFinished(status="completed", answer=Raw(b"1")),)),
    ),
    "it raised": ((), {"raised": "no"}, Step((RunFinished(status="failed", why="no"),))),
    "a completed run": ((RunFinished(status="completed"),), {"steps": call()}, REST),
    "a failed run": ((RunFinished(status="failed"),), {"steps": call()}, REST),
    "a stopped run goes on": (
        (RunFinished(status="stopped"),),
        {"steps": call()},
        Step((begun(),), (doing(),)),
    ),
}


@pytest.mark.parametrize(("journal", "wanted", "step"), BEFORE.values(), ids=BEFORE.keys())
def test_what_is_done_next(journal: tuple[Any, ...], wanted: dict[str, Any], step: Step) -> None:
    """Each line of the table, and the cases beside it."""
    assert decided(known(*journal), **wanted) == step


def test_a_question_is_asked_as_any_other() -> None:
    """An ask that is open leads to a call of the model, with its intent."""
    step = decided(known(*asked()), asks={"one-1": ask()})
    (intent,), (action,) = step.events, step.actions
    assert isinstance(intent, ModelCallStarted)
    assert isinstance(action, CallModel)
    assert intent.call_id == action.call_id == "one-1.m1"


def test_a_flow_out_of_turns_is_stopped() -> None:
    """A flow whose agents together have no turn left is stopped, and says so."""
    lost = ModelCallInDoubt(
        ask_id="one-1", call_id="one-1.m1", kind="crash", message="", cost_nano=1, tokens=1
    )
    spent = (*asked(), called(), lost, AskAnswered(ask_id="one-1", answer=Raw(b'"x"')))
    refused, stopped = decided(known(*spent, *asked("two")), flow=poor, asks={"two": ask()}).events
    assert refused == BudgetRefused(ask_id="two", scope="run", unit="turns", needed=1, left=0)
    assert stopped.status == "stopped"
    assert "run budget, needs 1 turn, 0 turns left" in stopped.why


def test_a_stop_waits_for_what_is_in_flight() -> None:
    """What was paid for is written before a leg ends."""
    spent = (*asked(), called(), *asked("two"))
    step = decided(
        known(*spent), flow=poor, asks={"one-1": ask(), "two": ask()}, in_flight=("one-1.m1",)
    )
    assert step == WAIT
