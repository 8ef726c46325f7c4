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


def respelled(call: Made, dice: random.Random) -> Made:
    """Return a call as Claude might write it another time."""
    given = msgspec.json.decode(call.arguments)
    spelled = {
        name: dice.choice([value.upper(), f" {value} ", value.replace(" ", "  ")])
        if isinstance(value, str)
        else dice.choice([value, float(value)])
        for name, value in sorted(given.items(), key=lambda _: dice.random())
    }
    return Made(call.tool, msgspec.json.encode(spelled), call.result, call.failed)


def looping(seed: int) -> tuple[list[Made], list[Made]]:
    """Return honest work, and the round of a loop that follows it."""
    dice = random.Random(seed)  # noqa: S311  (a test)
    period = dice.randint(1, 5)
    tools = [dice.choice("abc") for _ in range(period)]
    one = [
        made(tool, {"n": dice.randint(1, 3), "q": "AI grants"}, f"r{dice.randint(1, 3)}")
        for tool in tools
    ]
    return honest(seed) if dice.random() < 0.7 else [], one


@pytest.mark.parametrize("portion", range(3))
def test_every_loop_is_stopped_by_its_fifth_round(portion: int) -> None:
    """Whatever came before, and however its arguments are spelled; and not after two rounds."""
    for seed in range(portion * 100, portion * 100 + 100):
        before, one = looping(seed)
        dice = random.Random(-seed)  # noqa: S311  (a test)
        five = [respelled(call, dice) for _ in range(STOP) for call in one]
        loops = [found(kept(before + five[:end])) for end in range(1, len(five) + 1)]
        assert any(loop is not None and loop.times >= STOP for loop in loops), f"seed {seed}"
        third = loops[NUDGE * len(one) - 1]
        assert third is not None, f"seed {seed}"
        if len({(call.tool, call.arguments, call.result) for call in one}) == len(one):
            assert all(loop is None for loop in loops[: 2 * len(one)]), f"seed {seed}"


def near(seed: int) -> list[Made]:
    """Return polling or paging that stands still for up to four calls or rounds, and goes on."""
    dice = random.Random(seed)  # noqa: S311  (a test)
    kind = dice.choice(["poll", "poll two", "page", "page again", "fail"])
    calls: list[Made] = []
    for n in range(dice.randint(8, 30)):
        still = dice.randint(1, STOP - 1)
        match kind:
            case "poll":  # nothing new for a while, and then there is
                calls += [made("status", {"job": 1}, f"{n} % done")] * still
            case "poll two":
                both = [made("status", {"job": job}, f"{n} % done") for job in (1, 2)]
                calls += both * still
            case "page":  # a page that is asked for again, as after a timeout
                calls += [made("search", {"page": n}, "[]")] * still
            case "page again":  # several lists, page by page, all of them empty
                calls += [made("search", {"list": at, "page": n}, "[]") for at in range(still)]
            case _:  # an error that is mended before its fifth time
                calls += [made("save", {"n": n}, "no such table", failed=True)] * still
                calls.append(made("save", {"n": n}, f"saved {n}"))
    return calls


@pytest.mark.parametrize("portion", range(3))
def test_no_near_miss_is_stopped(portion: int) -> None:
    """Of 300 traces that stand still for up to four rounds, none is ever taken for a fifth."""
    hinted = 0
    for seed in range(portion * 100, portion * 100 + 100):
        calls = near(seed)
        loops = [found(kept(calls[:end])) for end in range(1, len(calls) + 1)]
        assert all(loop is None or loop.times < STOP for loop in loops), f"seed {seed}"
        hinted += any(loops)
    assert hinted > 30, "they come near enough that Claude is told"


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


@pytest.mark.parametrize("period", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("beside", [False, True], ids=["in turn", "beside each other"])
def test_a_run_is_stopped_after_five_rounds(period: int, beside: bool) -> None:  # noqa: FBT001
    """A round of one to five calls, one by one or in one reply, and spelled otherwise each time."""
    spellings = [lambda n: n, float]

    def script(request: dict[str, Any], attempt: int) -> Any:
        turn = turn_number(request)
        if beside:
            jobs = [spellings[turn % 2](job) for job in range(period)]
            return say(*(tool_use("status", {"job": job}) for job in jobs))
        spell = spellings[(turn - 1) // period % 2]
        return say(tool_use("status", {"job": spell((turn - 1) % period)}))

    run, events, model = played(script, budget=outlast.Budget(turns=40))
    assert run.status == "stopped"
    stop = [event for event in events if isinstance(event, LoopDetected)][-1]
    assert (stop.calls, stop.times, stop.stops) == (["status"] * period, STOP, True)
    assert len(model.calls) == STOP * (1 if beside else period)


def test_a_run_is_stopped_at_the_fifth_error_of_a_kind() -> None:
    """Whatever the tool was called with: the third time Claude is told, the fifth it is over."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say(tool_use("broken", {"job": turn_number(request)}))

    run, events, model = played(script)
    assert run.status == "stopped"
    loops = [event for event in events if isinstance(event, LoopDetected)]
    assert [(each.times, each.error, each.stops) for each in loops] == [
        (NUDGE, True, False),
        (STOP, True, True),
    ]
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


def test_the_same_error_beside_itself_is_one() -> None:
    """Nine calls of one reply that fail alike are no loop; the fifth reply of them is."""

    @outlast.tool(effect="read")
    def fetch(page: int) -> str:
        """Fetch a page."""
        raise ConnectionError("down")

    def script(request: dict[str, Any], attempt: int) -> Any:
        turn = turn_number(request)
        if turn > give_up_after:
            return say("It is down.")
        return say(*(tool_use("fetch", {"page": 10 * turn + n}) for n in range(9)))

    for give_up_after in (2, 99):
        with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
            run = app.run(agent(tools=[fetch]), "Go.", run_id="r")
            assert run.status == ("completed" if give_up_after == 2 else "stopped")
            assert run.turns == min(give_up_after + 1, 5)
            nudges = [r for r in app.log("r") if isinstance(r.event, LoopDetected)]
            assert len(nudges) == (0 if give_up_after == 2 else 2)
