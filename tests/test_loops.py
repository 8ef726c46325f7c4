"""Calls that repeat with nothing new: found by the fifth round, and nothing else is."""

import random
from typing import Any

import msgspec
import pytest

import outlast
from outlast.events import FeedbackGiven, LoopDetected
from outlast.loops import KEPT, NUDGE, STOP, Loop, Made, found, remembered
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from stubs import agent


def made(tool: str, arguments: Any, result: str, *, failed: bool = False) -> Made:
    return Made(tool, msgspec.json.encode(arguments), result.encode(), failed)


def kept(calls: list[Made]) -> tuple[Made, ...]:
    """Return what is remembered of calls that came one after the other."""
    trace: tuple[Made, ...] = ()
    for call in calls:
        trace = remembered(trace, call)
    assert len(trace) <= KEPT
    return trace


def rounds(period: int, times: int) -> list[Made]:
    return [made(f"t{n}", {"n": n}, f"r{n}") for n in range(period)] * times


@pytest.mark.parametrize("period", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("before", [0, 1, 7, 40])
def test_a_loop_is_found(period: int, before: int) -> None:
    """A round of one to five calls is found when it came three times, and counted up to five."""
    start = [made("other", {"n": n}, "x") for n in range(before)]
    for times in range(1, 8):
        loop = found(kept(start + rounds(period, times)))
        if times < NUDGE:
            assert loop is None
        else:
            tools = tuple(f"t{n}" for n in range(period))
            assert loop == Loop(tools, min(times, KEPT // period))
            assert loop.times >= min(times, STOP)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"q": "AI  grants"}, {"q": " ai grants"}),
        ({"n": 1}, {"n": 1.0}),
        ({"x": [{"y": "Z"}]}, {"x": [{"y": "z "}]}),
    ],
)
def test_spelling_makes_no_difference(one: Any, other: Any) -> None:
    """Arguments are the same whatever their order, spaces, case and kind of number."""
    assert found([made("t", args, "r") for args in (one, other, one)]) == Loop(("t",), 3)


def test_one_error_is_a_loop_whatever_it_was_called_with() -> None:
    """The same error three times in a row is a loop, with other arguments each time."""
    calls = [made("t", {"n": n}, "no such table", failed=True) for n in range(4)]
    assert found(calls) == Loop(("t",), 4, error=True)
    others = [made("t", {"n": n}, f"no row {n}", failed=True) for n in range(4)]
    assert found(others) is None


def honest(seed: int) -> list[Made]:
    """Return a trace of polling, paging or working that comes near to a loop and is none."""
    dice = random.Random(seed)  # noqa: S311  (a test)
    kind = dice.choice(["polling", "paging", "working", "interrupted", "twice"])
    calls: list[Made] = []
    for n in range(dice.randint(10, 60)):
        match kind:
            case "polling":  # the same call, and each time something new
                calls.append(made("status", {"job": 1}, f"{n} % done"))
            case "paging":  # the same answer, perhaps, to another page
                calls.append(made("search", {"page": n}, dice.choice(["[]", "[1]"])))
            case "working":
                calls.append(made(dice.choice("abcdef"), {"n": n}, dice.choice("xyz")))
            case "interrupted":  # two rounds, and then something else
                calls += [*rounds(dice.randint(1, 5), 2), made("save", {"n": n}, "saved")]
            case _:  # twice, and a new result
                calls += [made("read", {}, f"v{n}")] * 2
    return calls


@pytest.mark.parametrize("portion", range(4))
def test_no_honest_work_is_a_loop(portion: int) -> None:
    """Polling that brings news, paging, and near misses are never taken for a loop."""
    for seed in range(portion * 100, portion * 100 + 100):
        calls = honest(seed)
        for end in range(1, len(calls) + 1):
            assert found(kept(calls[:end])) is None, f"seed {seed}, call {end}"


# ── runs ────────────────────────────────────────────────────────────────────────────────────────


class Desk:
    """What the tools of a run say; it may change."""

    def __init__(self) -> None:
        self.asked = 0
        self.news = False

    def tools(self) -> list[Any]:
        @outlast.tool(effect="read")
        def status(job: int) -> str:
            """Tell how a job is doing."""
            self.asked += 1
            return f"{self.asked} % done" if self.news else "running"

        @outlast.tool(effect="read")
        def broken(job: int) -> str:
            """Fail."""
            raise outlast.ToolError("the table is gone")

        return [status, broken]


def played(script: Any, *, news: bool = False, **more: Any) -> tuple[outlast.Run, list[Any], Any]:
    desk, model = Desk(), ScriptedModel(script)
    desk.news = news
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(agent(*desk.tools(), **more), "How is the job?", run_id="r")
        return run, [record.event for record in app.log("r")], model


def asking_for_ever(request: dict[str, Any], attempt: int) -> Any:
    return say(tool_use("status", {"job": 1}))


def test_claude_is_told_and_then_the_run_is_stopped() -> None:
    """At the third round Claude is told, once; at the fifth the run stops, with the evidence."""
    run, events, model = played(asking_for_ever)
    assert run.status == "stopped"
    assert "Claude calls status again and again, 5 times" in run.why
    nudge, stop = (event for event in events if isinstance(event, LoopDetected))
    assert (nudge.calls, nudge.times, nudge.stops) == (["status"], 3, False)
    assert (stop.calls, stop.times, stop.stops) == (["status"], 5, True)
    (told,) = (event for event in events if isinstance(event, FeedbackGiven))
    assert b"You have called status 3 times in a row" in bytes(told.content)
    assert len(model.calls) == STOP


def test_what_one_reply_asks_twice_counts_once() -> None:
    """Calls that are made beside each other are one round: Claude could not know what comes."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        twice = [tool_use("status", {"job": number}) for number in (1, 1.0)] * 2
        return say(*twice) if turn_number(request) <= 2 else say("Done.")

    run, events, _ = played(script)
    assert run.answer == "Done."
    assert not [event for event in events if isinstance(event, LoopDetected)]


def test_a_hint_that_is_taken_ends_the_loop() -> None:
    """A run whose Claude does something else after it was told completes."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say(tool_use("status", {"job": 1})) if turn_number(request) <= 3 else say("Done.")

    run, events, _ = played(script)
    assert run.answer == "Done."
    assert [event.stops for event in events if isinstance(event, LoopDetected)] == [False]


def test_another_loop_is_told_of_again() -> None:
    """A second loop, of another tool, is a new one: Claude is told of it, too."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        turn = turn_number(request)
        if turn > 7:
            return say("Done.")
        return say(tool_use("status" if turn <= 3 else "broken", {"job": turn // 8}))

    run, events, _ = played(script)
    assert run.answer == "Done.", run.why
    loops = [event for event in events if isinstance(event, LoopDetected)]
    assert [(event.calls, event.stops) for event in loops] == [
        (["status"], False),
        (["broken"], False),
    ]


def test_polling_goes_on() -> None:
    """A run that polls, and hears something new each time, is left alone."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return asking_for_ever(request, attempt) if turn_number(request) < 20 else say("Done.")

    run, events, _ = played(script, news=True)
    assert run.answer == "Done."
    assert not [event for event in events if isinstance(event, LoopDetected)]


def test_an_agent_may_loop_if_it_is_told_so() -> None:
    """`stops_loops=False` leaves a loop to the budget."""
    run, events, _ = played(asking_for_ever, stops_loops=False, budget=outlast.Budget(turns=9))
    assert "run budget, needs 1 turn" in run.why
    assert not [event for event in events if isinstance(event, LoopDetected)]
