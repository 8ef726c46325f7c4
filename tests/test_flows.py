"""Flows: ordinary Python that asks several agents, sleeps, and goes on where it was."""

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID

import pydantic
import pytest

import outlast
from flow_stubs import (
    SOON_S,
    Clock,
    Deeds,
    Dying,
    before,
    echo,
    events,
    failing,
    named,
    of_kind,
    opened,
)
from outlast.durations import nanoseconds
from outlast.errors import (
    AskFailed,
    FlowChanged,
    InvalidFlow,
    InvalidInput,
    NameRequired,
    RunConflict,
    StepFailed,
    StoreError,
    UsageError,
)
from outlast.events import (
    AskStarted,
    ModelCallSucceeded,
    RunParked,
    RunWoken,
    StepFinished,
)
from outlast.models.script import faulty, say
from outlast.stores import open_store

ONE, TWO = named("one"), named("two")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock that can jump."""
    return Clock(monkeypatch)


# ── durations ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0),
        (90, 90),
        (0.5, 0.5),
        ("90s", 90),
        ("1.5 m", 90),
        ("15m", 900),
        ("2h", 7_200),
        ("3d", 259_200),
        (" 1w ", 604_800),
        (timedelta(minutes=1), 60),
    ],
)
def test_how_long(given: Any, seconds: float) -> None:
    """A duration is a number of seconds, a timedelta, or a number with its unit."""
    assert nanoseconds(given) == seconds * 1_000_000_000


@pytest.mark.parametrize(
    "given",
    [-1, float("nan"), float("inf"), "", "15", "m", "-1m", "1h30m", "3 years", True, None, 4e9],
)
def test_not_how_long(given: Any) -> None:
    """Anything else is refused, and so is more than a hundred years."""
    with pytest.raises(UsageError, match="is not how long to wait; give seconds, a timedelta, or"):
        nanoseconds(given)


# ── the function ────────────────────────────────────────────────────────────────────────────────


@outlast.flow
async def later(run: outlast.Run, word: str) -> list[str]:
    """Ask two agents one after the other, and one again."""
    first = await run.ask(ONE, word)
    second = await run.ask(TWO, first)
    return [first, second, await run.ask(ONE, second)]


@outlast.flow
def at_once(run: outlast.Run, word: str) -> list[str]:
    """Do the same in a function that blocks."""
    first = run.ask(ONE, word)
    second = run.ask(TWO, first)
    return [first, second, run.ask(ONE, second)]


@pytest.mark.parametrize("flow", [later, at_once], ids=["async", "sync"])
def test_a_flow_asks_in_order_and_is_answered_by_name(flow: Any) -> None:
    """Asks are named by their agent and number, and each is answered once, across crashes."""
    journal = open_store("memory://")
    with (
        opened(Dying(journal, before(ModelCallSucceeded, ask_id="two-1"))) as app,
        pytest.raises(StoreError),
    ):
        app.run(flow, "x", run_id="r")
    with opened(journal) as app:
        run = app.run(flow, "x", run_id="r")
        assert run.answer == ["re: x", "re: re: x", "re: re: re: x"]
        assert [one.ask_id for one in of_kind(app, AskStarted)] == ["one-1", "two-1", "one-2"]
        assert len(app.claude.calls) == 2, "the first answer is in the journal"
        app.run(flow, "x", run_id="r")
        assert len(app.claude.calls) == 2, "and a finished run costs nothing"


def test_calls_from_a_running_loop_come_to_the_same() -> None:
    """`arun` drives a flow of either kind on the caller's loop."""

    async def both() -> list[Any]:
        with opened() as app:
            return [(await app.arun(flow, "x")).answer for flow in (later, at_once)]

    first, second = asyncio.run(both())
    assert first == second == ["re: x", "re: re: x", "re: re: re: x"]


@dataclass
class Point:
    x: int


class Brief(pydantic.BaseModel):
    text: str
    at: datetime = datetime(2026, 1, 2, tzinfo=UTC)


async def typed(run: outlast.Run, brief: Brief) -> str:
    return f"{type(brief).__name__} {brief.text} {brief.at.year}"


async def plain(run: outlast.Run, given: Any) -> Any:
    return given


async def bare(run: outlast.Run) -> str:
    return "bare"


async def optional(run: outlast.Run, word: str = "default") -> str:
    return word


async def pointed(run: outlast.Run, points: list[Point]) -> int:
    return sum(point.x for point in points)


@pytest.mark.parametrize(
    ("function", "given", "answer"),
    [
        (typed, Brief(text="a"), "Brief a 2026"),
        (typed, {"text": "a"}, "Brief a 2026"),
        (plain, {"a": [1, None]}, {"a": [1, None]}),
        (plain, "text", "text"),
        (plain, None, None),
        (bare, None, "bare"),
        (optional, None, "default"),
        (optional, "given", "given"),
        (pointed, [Point(1), Point(2)], 3),
    ],
)
def test_what_a_flow_is_given(function: Any, given: Any, answer: Any) -> None:
    """The input is any JSON, a model or a dataclass, and arrives as the parameter declares it."""
    with opened() as app:
        assert app.run(outlast.flow(function), given, run_id="r").answer == answer
        assert app.run(outlast.flow(function), given, run_id="r").answer == answer


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        (typed, {"texts": "a"}, "flow 'typed': its input 'brief' is not as declared: "),
        (typed, None, "flow 'typed': its input 'brief' is not as declared: null is no Brief: "),
        (bare, "x", "flow 'bare' takes no input, and was given 'x'"),
        (plain, object(), "the input cannot be written as JSON: "),
        (plain, float("nan"), "the input cannot be written as JSON: "),
        (plain, "\ud800", "the input cannot be written as JSON: "),
    ],
)
def test_what_a_flow_cannot_be_given(function: Any, given: Any, said: str) -> None:
    """An input that is none is refused before anything is written."""
    with opened() as app:
        with pytest.raises(InvalidInput) as caught:
            app.run(outlast.flow(function), given)
        assert str(caught.value).startswith(said)
        assert app.runs() == []


def test_an_id_means_one_flow_and_one_input() -> None:
    """The same id with another input, or with something else, is a conflict."""
    with opened() as app:
        app.run(later, "x", run_id="r")
        with pytest.raises(RunConflict, match="another input"):
            app.run(later, "y", run_id="r")
        with pytest.raises(RunConflict, match="another agent"):
            app.run(at_once, "x", run_id="r")
        with pytest.raises(RunConflict, match="another agent"):
            app.run(named("later"), "x", run_id="r")


@pytest.mark.parametrize(
    "function",
    [
        lambda: None,
        lambda run, a, b: None,
        lambda run, *, a: None,
        lambda *args: None,
        lambda **more: None,
        3,
    ],
    ids=["no run", "two inputs", "by keyword only", "any", "any by keyword", "no function"],
)
def test_what_is_no_flow(function: Any) -> None:
    """A flow takes the run, and at most one more: its input."""
    with pytest.raises(InvalidFlow):
        outlast.flow(name="x")(function)


def test_a_lambda_needs_a_name() -> None:
    """A flow is called as its function is, and that has to be a name."""
    with pytest.raises(InvalidFlow, match="'<lambda>': a name is 1 to 128 letters"):
        outlast.flow(lambda run: None)
    assert outlast.flow(name="x")(lambda run: None).name == "x"


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (None, None),
        (Brief(text="a"), {"text": "a", "at": "2026-01-02T00:00:00Z"}),
        ((1, {"a": Point(1)}), [1, {"a": {"x": 1}}]),
        (10**30, 10**30),
    ],
)
def test_what_a_flow_returns(value: Any, answer: Any) -> None:
    """The answer of a run is what its function returned, as JSON."""
    with opened() as app:
        run = app.run(outlast.flow(name="f")(lambda run: value))
        assert (run.status, run.answer) == ("completed", answer)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], object(), "\ud800"])
def test_what_a_flow_cannot_return(value: Any) -> None:
    """What cannot be written, or not read again, fails the run; its journal stays readable."""
    with opened() as app:
        run = app.run(outlast.flow(name="f")(lambda run: value), run_id="r")
        assert (run.status, run.answer) == ("failed", None)
        assert f"flow f returned {type(value).__name__}, which cannot be written as" in run.why
        assert events(app)[-1] == "run_finished"


def group() -> None:
    raise ExceptionGroup("many", [ValueError("a"), KeyError("b")])


def cancelled() -> None:
    raise asyncio.CancelledError


def raiser(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (raiser(ValueError("no")), "flow f raised ValueError: no"),
        (raiser(ValueError("no \ud800")), "flow f raised ValueError: no ?"),
        (raiser(ValueError("secret")), "flow f raised ValueError: ******"),
        (raiser(SystemExit(3)), "flow f raised SystemExit: 3"),
        (raiser(StopIteration()), "flow f raised RuntimeError: "),
        (group, "flow f raised ValueError: a, and KeyError: 'b'"),
        (cancelled, "flow f was cancelled by its own function"),
    ],
    ids=["an error", "half a character", "redacted", "exit", "stop", "a group", "cancelled"],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_a_flow_raises(kind: str, call: Callable[[], None], said: str) -> None:
    """Whatever the function raises fails the run, saying what."""

    async def asynchronous(run: outlast.Run) -> None:
        call()

    function = asynchronous if kind == "async" else lambda run: call()
    with opened(redact=lambda text: text.replace("secret", "******")) as app:
        run = app.run(outlast.flow(name="f")(function), run_id="r")
        assert run.status == "failed"
        assert run.why.startswith(said)
        assert events(app)[-1] == "run_finished"


def test_a_failed_run_has_no_answer() -> None:
    """What one ask of several came to is not the answer of a run that failed."""

    @outlast.flow
    async def fails(run: outlast.Run) -> None:
        await run.ask(ONE, "x")
        raise ValueError

    with opened() as app:
        assert app.run(fails).answer is None
        assert app.runs()[0].answer is None


# ── outside ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("ask", (ONE, "x")),
        ("step", ("do", print)),
        ("enter", ("first",)),
        ("sleep", (1,)),
        ("map", (ONE, ["x"])),
        ("now", ()),
        ("uuid", ()),
        ("random", ()),
    ],
)
def test_outside_of_a_flow_there_is_no_asking(method: str, arguments: tuple[Any, ...]) -> None:
    """A run that was looked at is no run inside a flow, and says so."""
    with opened() as app:
        run = app.run(ONE, "x", run_id="r")
        with pytest.raises(UsageError, match=f"run 'r': `{method}` is for the function of a flow"):
            getattr(run, method)(*arguments)


# ── names ───────────────────────────────────────────────────────────────────────────────────────


async def two_open(run: outlast.Run) -> None:
    await asyncio.gather(run.ask(ONE, "a"), run.ask(ONE, "b"))


async def two_sleeps(run: outlast.Run) -> None:
    await asyncio.gather(run.sleep(1), run.sleep(2))


async def other_task(run: outlast.Run) -> None:
    await run.ask(ONE, "a")

    async def ask() -> None:
        await run.ask(ONE, "b")

    await asyncio.create_task(ask())


async def two_values(run: outlast.Run) -> None:
    run.now()

    async def look() -> None:
        run.now()

    await asyncio.create_task(look())


def two_threads(run: outlast.Run) -> None:
    together = Barrier(2, timeout=20)

    def ask(word: str) -> None:
        together.wait()
        run.ask(ONE, word)

    with ThreadPoolExecutor() as pool:
        list(pool.map(ask, ["a", "b"]))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (two_open, "this ask of one needs a name: another one is open at the same time"),
        (two_sleeps, "this sleep needs a name: another one is open at the same time"),
        (other_task, "this ask of one needs a name: another task or thread has made one, too"),
        (two_values, "this now needs a name: another task or thread has made one, too"),
        (two_threads, "this ask of one needs a name: another"),
    ],
)
def test_what_numbers_cannot_tell_apart_needs_a_name(function: Any, said: str) -> None:
    """Where the order is not sure a name is required, already the first time; the run stays."""
    with opened() as app:
        with pytest.raises(NameRequired, match=said):
            app.run(outlast.flow(function), run_id="r")
        run = app.get("r")
        assert run.status in ("queued", "running")


def test_names_tell_what_is_open_at_once_apart() -> None:
    """With names, asks of one agent may be open together, and answers never swap."""

    @outlast.flow
    async def both(run: outlast.Run) -> list[str]:
        asks = [run.ask(ONE, word, name=f"ask {word}") for word in "ab"]
        return list(await asyncio.gather(*asks))

    @outlast.flow
    async def agents(run: outlast.Run) -> list[str]:
        return list(await asyncio.gather(run.ask(ONE, "a"), run.ask(TWO, "b")))

    with opened() as app:
        assert app.run(both).answer == ["re: a", "re: b"]
        assert app.run(agents).answer == ["re: a", "re: b"], "two agents need none"


def test_threads_of_a_sync_flow_may_ask_with_names() -> None:
    """A sync flow may ask from threads of its own."""

    @outlast.flow
    def both(run: outlast.Run) -> list[str]:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda word: run.ask(ONE, word, name=word), ["a", "b"]))

    with opened() as app:
        assert app.run(both).answer == ["re: a", "re: b"]


def duplicate_step(run: outlast.Run) -> None:
    run.step("a", str)
    run.step("a", str)


def step_and_ask(run: outlast.Run) -> None:
    run.step("a", str)
    run.ask(ONE, "x", name="a")


def taken_number(run: outlast.Run) -> None:
    run.ask(ONE, "x", name="one-1")
    run.ask(ONE, "x")


MISTAKES: list[tuple[Any, str]] = [
    (lambda run: run.step("", str), "step '': '' is no name; give 1 to 200 characters"),
    (lambda run: run.step("x" * 201, str), "is no name; give 1 to 200 characters"),
    (lambda run: run.step(3, str), "step 3: 3 is no name"),
    (lambda run: run.step("a\n", str), "'a\\n' is no name"),
    (lambda run: run.ask(ONE, "x", name="\ud800"), "'\\ud800' is no name"),
    (lambda run: run.sleep(0, name=""), "sleep: '' is no name"),
    (lambda run: run.ask("one", "x"), "'one' is no agent; give one to `ask`"),
    (lambda run: run.step("a", 3), "step 'a': 3 is no function"),
    (lambda run: run.step("a", str, effect="reads"), "step 'a': effect is 'reads'; give one"),
    (lambda run: run.ask(named("x", model="claude-zebra"), "x"), "no price is known for model"),
    (lambda run: run.map(3, ["x"]), "3 is neither an agent nor a flow"),
    (lambda run: run.map(ONE, "words"), "'words' is one string; give a list of inputs"),
    (lambda run: run.map(ONE, ["x"], at_once=0), "at_once=0: give a whole number of at least"),
]
BLOCKING: list[tuple[Any, str]] = [
    (duplicate_step, "step 'a': the name 'a' is taken in this flow; a name means one thing"),
    (step_and_ask, "ask of one: the name 'a' is taken in this flow"),
    (taken_number, "ask of one: the name 'one-1' is taken in this flow"),
]


@pytest.mark.parametrize(
    ("kind", "function", "said"),
    [
        *(("sync", *row) for row in [*MISTAKES, *BLOCKING]),
        *(("async", *row) for row in MISTAKES),
    ],
)
def test_mistakes_in_the_code_end_the_leg(kind: str, function: Any, said: str) -> None:
    """A mistake that only the code's author can mend is raised, and the run can be gone on with."""

    async def asynchronous(run: outlast.Run) -> Any:
        result = function(run)
        return await result if inspect.isawaitable(result) else result

    chosen = asynchronous if kind == "async" else function
    with opened() as app:
        with pytest.raises(UsageError) as caught:
            app.run(outlast.flow(name="f")(chosen), run_id="r")
        assert said in str(caught.value)
        assert app.get("r").status in ("queued", "running")


def test_the_longest_name() -> None:
    """A name may have 200 characters, of any language, and blanks."""
    name = "ä b/" * 50

    @outlast.flow
    async def one(run: outlast.Run) -> list[Any]:
        return [await run.step(name, str), *await run.map(ONE, ["x"], name=name[:190])]

    with opened() as app:
        assert app.run(one, run_id="r" * 200).answer == ["", "re: x"]


# ── values ──────────────────────────────────────────────────────────────────────────────────────


def test_values_are_drawn_once() -> None:
    """The time, an id and a number are the same at every wake, and of the same type."""
    journal, drawn = open_store("memory://"), []

    @outlast.flow
    async def draw(run: outlast.Run) -> None:
        drawn.append((run.now(), run.uuid(), run.random(), run.random(), run.now(name="again")))
        await run.ask(ONE, "x")

    with opened(Dying(journal, before(ModelCallSucceeded))) as app, pytest.raises(StoreError):
        app.run(draw, run_id="r")
    with opened(journal) as app:
        assert app.run(draw, run_id="r").status == "completed"
        names = [one.name for one in of_kind(app, StepFinished)]
    first, again = drawn
    assert first == again
    assert [type(value) for value in again] == [datetime, UUID, float, float, datetime]
    assert again[0].utcoffset() == timedelta(0)
    assert again[2] != again[3]
    assert names == ["now-1", "uuid-1", "random-1", "random-2", "again"]


def test_a_value_is_durable_before_what_follows_from_it() -> None:
    """What was drawn is written with, or before, the intent of whatever may use it."""
    seen = []

    @outlast.flow
    async def use(run: outlast.Run) -> None:
        key = str(run.uuid())
        await run.step("use", lambda key: seen.extend(of_kind(app, StepFinished)), key)

    with opened() as app:
        app.run(use, run_id="r")
    assert [one.name for one in seen] == ["uuid-1"]


# ── failing asks, conversations, budgets ────────────────────────────────────────────────────────


def test_an_ask_that_failed_is_the_flows_to_deal_with() -> None:
    """What one ask comes to does not end the run: the flow may go another way, at every wake."""
    journal = open_store("memory://")

    @outlast.flow
    async def either(run: outlast.Run) -> list[str]:
        try:
            await run.ask(ONE, "bad")
        except AskFailed as failed:
            return [failed.name, failed.why, await run.ask(TWO, "good")]
        raise AssertionError

    script = faulty(echo, failing("bad"))
    dies = before(ModelCallSucceeded)
    with opened(Dying(journal, dies), script) as app, pytest.raises(StoreError):
        app.run(either, run_id="r")
    with opened(journal, script) as app:
        name, why, answer = app.run(either, run_id="r").answer
        assert (name, answer) == ("one-1", "re: good")
        assert why.startswith("Claude did not take the request (invalid_request): ")
        assert len(app.claude.calls) == 1, "what failed is not tried again"


def test_an_ask_that_nobody_caught_fails_the_run() -> None:
    """The run says which ask it was, and why."""

    @outlast.flow
    async def one(run: outlast.Run) -> None:
        await run.ask(ONE, "bad")

    with opened(script=faulty(echo, failing("bad"))) as app:
        run = app.run(one)
        assert run.status == "failed"
        assert run.why.startswith(
            "flow one raised AskFailed: the ask 'one-1' has no answer: Claude did not take the"
        )


def test_a_key_that_was_refused_stops_the_run_and_not_the_ask() -> None:
    """What a person can mend stops a flow; resumed, it goes on, and asks each question once."""

    @outlast.flow
    async def one(run: outlast.Run) -> str:
        first = await run.ask(ONE, "good")
        answer: str = await run.ask(ONE, f"locked {first}")
        return answer

    journal = open_store("memory://")
    with opened(journal, faulty(echo, failing("locked", status=401))) as app:
        run = app.run(one, run_id="r")
        assert (run.status, run.answer) == ("stopped", None)
        assert "mend it, then resume" in run.why
        app.close = lambda: None
    with opened(journal) as app:
        assert app.resume("r", one).answer == "re: locked re: good"
        assert len(app.claude.calls) == 1


def history(request: dict[str, Any], _attempt: int) -> Any:
    """Answer with all that was said to it."""
    texts = [
        block["text"] for said in request["messages"] if said["role"] == "user"
        for block in said["content"]
    ]  # fmt: skip
    return say(" ".join(texts))


def test_a_conversation_goes_on_in_one_history() -> None:
    """Asks of one conversation share a history; others, of the same agent too, do not see it."""

    @outlast.flow
    async def talk(run: outlast.Run) -> list[str]:
        return [
            await run.ask(ONE, "a", conversation="x"),
            await run.ask(ONE, "b"),
            await run.ask(ONE, "c", conversation="x"),
            await run.ask(TWO, "d", conversation="x"),
            await run.ask(ONE, "e", conversation="y"),
            await run.ask(ONE, "f", conversation="x", name="named"),
        ]

    with opened(script=history) as app:
        assert app.run(talk).answer == ["a", "b", "a c", "d", "e", "a c f"]


def test_what_failed_is_no_part_of_a_conversation() -> None:
    """After an ask without an answer a conversation goes on from the last one that has one."""
    journal = open_store("memory://")

    @outlast.flow
    async def talk(run: outlast.Run) -> str:
        await run.ask(ONE, "a", conversation="x")
        for word in ("bad b", "bad c"):
            with suppress(AskFailed):
                await run.ask(ONE, word, conversation="x")
        answer: str = await run.ask(ONE, "d", conversation="x")
        return answer

    script = faulty(history, failing("bad"))
    dies = before(ModelCallSucceeded, ask_id="one-4")
    with opened(Dying(journal, dies), script) as app, pytest.raises(StoreError):
        app.run(talk, run_id="r")
    with opened(journal, script) as app:
        assert app.run(talk, run_id="r").answer == "a d"


def test_a_conversation_is_had_one_question_at_a_time() -> None:
    """Two open questions in one conversation are a mistake, and said to be one."""

    @outlast.flow
    async def talk(run: outlast.Run) -> None:
        await asyncio.gather(
            run.ask(ONE, "a", conversation="x", name="a"),
            run.ask(ONE, "b", conversation="x", name="b"),
        )

    with opened() as app, pytest.raises(UsageError, match="'b' is asked while 'a' is open"):
        app.run(talk)


def test_all_agents_of_a_flow_share_its_budget() -> None:
    """A flow stops when its agents together are out of turns, and goes on with more."""
    turns = [2]

    def flow() -> Any:
        @outlast.flow(budget=outlast.Budget(turns=turns[0]))
        async def three(run: outlast.Run) -> list[str]:
            return [await run.ask(agent, "x") for agent in (ONE, TWO, ONE)]

        return three

    with opened() as app:
        run = app.run(flow(), run_id="r")
        assert (run.status, run.turns) == ("stopped", 2)
        assert "run budget, needs 1 turn, 0 turns left" in run.why
        turns[0] = 3
        assert app.resume("r", flow()).answer == ["re: x"] * 3
        assert len(app.claude.calls) == 3


def test_each_ask_has_its_agents_budget() -> None:
    """An agent's turns are counted for each ask alone."""
    thrifty = named("one", budget=outlast.Budget(turns=1))

    @outlast.flow
    async def three(run: outlast.Run) -> list[str]:
        return [await run.ask(thrifty, "x") for _ in range(3)]

    with opened() as app:
        assert app.run(three).answer == ["re: x"] * 3


# ── parks ───────────────────────────────────────────────────────────────────────────────────────


@outlast.flow
async def nap(run: outlast.Run) -> str:
    first: str = await run.ask(ONE, "x")
    await run.sleep("1h")
    second: str = await run.ask(ONE, "y")
    return f"{first} {second}"


@outlast.flow
def sync_nap(run: outlast.Run) -> str:
    first: str = run.ask(ONE, "x")
    run.sleep("1h")
    second: str = run.ask(ONE, "y")
    return f"{first} {second}"


@pytest.mark.parametrize("flow", [nap, sync_nap], ids=["async", "sync"])
def test_a_sleeping_run_is_parked_and_goes_on(flow: Any, clock: Clock, tmp_path: Path) -> None:
    """A run that waits for time is parked in the store, and goes on in any application, in time."""
    url = f"sqlite:///{tmp_path}/a.db"
    with opened(url) as app:
        run = app.run(flow, run_id="r", wait_s=0)
        assert (run.status, run.answer, app.get("r")) == ("parked", None, run)
        (parked,) = of_kind(app, RunParked)
        assert run.wake_at == parked.until
        assert 3_590 < (parked.until - clock()) / 1e9 <= 3_600
        at = datetime.fromtimestamp(parked.until // 1_000_000_000, UTC)
        assert run.why == f"sleeping until {at:%Y-%m-%dT%H:%M:%SZ}"
        with pytest.raises(outlast.OutlastError, match="is parked: sleeping until"):
            run.result()
    with opened(url) as app:
        assert app.resume("r", flow, wait_s=0).status == "parked", "before its time"
        assert app.run(flow, run_id="r", wait_s=30).status == "parked"
        assert len(of_kind(app, RunParked)) == 1, "and nothing is written"
        clock.jump(3_600)
        run = app.resume("r", flow, wait_s=0)
        assert (run.status, run.answer, run.wake_at) == ("completed", "re: x re: y", None)
        assert len(app.claude.calls) == 1
        assert len(of_kind(app, RunWoken)) == 1
        assert app.runs(status="parked") == []


@pytest.mark.parametrize("flow", ["run", "arun"])
def test_a_short_park_is_slept_through(flow: str) -> None:
    """`run` and `arun` wait for a run that is parked for no longer than `wait_s`."""

    @outlast.flow
    async def rest(run: outlast.Run) -> float:
        began = run.now()
        await run.sleep(SOON_S)
        return (run.now() - began).total_seconds()

    with opened() as app:
        run = (
            app.run(rest, run_id="r") if flow == "run" else asyncio.run(app.arun(rest, run_id="r"))
        )
        assert run.status == "completed"
        assert run.answer >= SOON_S
        assert events(app).count("run_parked") == events(app).count("run_woken") == 1


def test_a_moment_is_slept_through_without_a_park() -> None:
    """A sleep of a second or less is not worth a park."""

    @outlast.flow
    async def rest(run: outlast.Run) -> None:
        await run.sleep(0.01)
        await run.sleep(0)

    with opened() as app:
        assert app.run(rest, run_id="r", wait_s=0).status == "completed"
        assert "run_parked" not in events(app)


def test_a_sleep_is_not_begun_again(clock: Clock) -> None:
    """However often a run is looked after, it sleeps as long as it was told the first time."""
    lengths = ["1h"]

    @outlast.flow
    async def rest(run: outlast.Run) -> None:
        await run.sleep(lengths[0])

    with opened() as app:
        first = app.run(rest, run_id="r", wait_s=0)
        clock.jump(1_800)
        lengths[0] = "9h"
        assert app.run(rest, run_id="r", wait_s=0).wake_at == first.wake_at
        clock.jump(1_800)
        assert app.run(rest, run_id="r", wait_s=0).status == "completed"


def test_nothing_is_parked_while_something_is_at_work(clock: Clock) -> None:
    """A sleep beside a question parks the run only when the question is answered."""

    @outlast.flow
    async def both(run: outlast.Run) -> None:
        await asyncio.gather(run.sleep("1h"), run.ask(ONE, "x"))

    with opened() as app:
        assert app.run(both, run_id="r", wait_s=0).status == "parked"
        kinds = events(app)
        assert kinds.index("ask_answered") < kinds.index("run_parked")


def test_of_two_sleeps_the_first_wakes(clock: Clock) -> None:
    """A run that sleeps twice at once is woken for each."""

    @outlast.flow
    async def both(run: outlast.Run) -> list[Any]:
        async def rest(hours: int) -> int:
            await run.sleep(f"{hours}h", name=f"rest {hours}")
            return hours

        return [await one for one in asyncio.as_completed([rest(2), rest(1)])]

    with opened() as app:
        assert app.run(both, run_id="r", wait_s=0).status == "parked"
        clock.jump(3_600)
        assert app.run(both, run_id="r", wait_s=0).status == "parked"
        clock.jump(3_600)
        assert app.run(both, run_id="r", wait_s=0).status == "completed"
        assert len(of_kind(app, RunWoken)) == 2


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_park_cannot_be_swallowed(kind: str, clock: Clock) -> None:
    """`except Exception` does not see a park; what a flow cleans up, it cleans up."""
    swallowed, cleaned = [], []

    async def asynchronous(run: outlast.Run) -> str:
        try:
            await run.sleep("1h")
        except Exception as error:  # noqa: BLE001  (that is the point)
            swallowed.append(error)
        finally:
            cleaned.append(1)
        return "done"

    def synchronous(run: outlast.Run) -> str:
        try:
            run.sleep("1h")
        except Exception as error:  # noqa: BLE001  (that is the point)
            swallowed.append(error)
        finally:
            cleaned.append(1)
        return "done"

    flow = outlast.flow(name="f")(asynchronous if kind == "async" else synchronous)
    with opened() as app:
        assert app.run(flow, run_id="r", wait_s=0).status == "parked"
        assert (swallowed, cleaned) == ([], [1])
        clock.jump(3_600)
        assert app.run(flow, run_id="r").answer == "done"


def test_a_flow_that_swallows_everything_can_do_nothing_more(clock: Clock) -> None:
    """Even one that catches `BaseException` writes nothing once its leg is over."""
    seen = []

    @outlast.flow
    def stubborn(run: outlast.Run) -> str:
        for call in (lambda: run.sleep("1h"), lambda: run.step("x", seen.append, 1), run.now):
            with suppress(BaseException):
                call()
        return "done"

    with opened() as app:
        assert app.run(stubborn, run_id="r", wait_s=0).status == "parked"
        assert seen == []
        assert events(app)[-1] == "run_parked"


def test_a_flow_may_wait_on_its_own() -> None:
    """What a flow awaits beside the run is its own; it is neither parked nor given up."""

    @outlast.flow
    async def own(run: outlast.Run) -> str:
        await asyncio.sleep(0.2)
        return await asyncio.to_thread(lambda: "own")

    with opened() as app:
        assert app.run(own).answer == "own"


def test_a_flow_that_is_cancelled_is_gone_on_with() -> None:
    """Cancelling `arun` unwinds the function and lets the run go; the next call goes on."""
    journal = open_store("memory://")

    async def cancelled() -> list[str]:
        going, ended = asyncio.Event(), []

        async def wait() -> None:
            going.set()
            await asyncio.Event().wait()

        @outlast.flow
        async def waits(run: outlast.Run) -> str:
            try:
                first: str = await run.ask(ONE, "x")
                if not ended:
                    await run.step("wait", wait, effect="read")
                return first
            finally:
                ended.append("ended")

        with opened(journal) as app:
            task = asyncio.create_task(app.arun(waits, run_id="r"))
            await going.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended == ["ended"]
            run = await app.arun(waits, run_id="r")
            assert (run.answer, len(app.claude.calls)) == ("re: x", 1)
        return ended

    assert asyncio.run(cancelled()) == ["ended", "ended"]


# ── children ────────────────────────────────────────────────────────────────────────────────────


@outlast.flow
async def child(run: outlast.Run, word: str) -> str:
    answer: str = await run.ask(ONE, f"child {word}")
    return answer


@pytest.mark.parametrize("who", [ONE, child], ids=["an agent", "a flow"])
def test_a_map_runs_each_input_in_a_child(who: Any) -> None:
    """Answers come in the order of the inputs; each child is a run that names its parent."""

    @outlast.flow
    async def many(run: outlast.Run, words: list[str]) -> list[str]:
        answers: list[str] = await run.map(who, words, at_once=2)
        return answers

    with opened() as app:
        run = app.run(many, ["a", "b", "c"], run_id="r", tenant="acme")
        told = "" if who is ONE else "child "
        assert run.answer == [f"re: {told}{word}" for word in "abc"]
        children = [one for one in app.runs() if one.parent]
        assert {one.id for one in children} == {f"r/{who.name}-map-1/{n}" for n in (1, 2, 3)}
        assert {(one.parent, one.tenant, one.status) for one in children} == {
            ("r", "acme", "completed")
        }


def test_a_map_of_nothing_is_nothing() -> None:
    """No input, no child; and a sync flow gets its answers at once."""

    @outlast.flow
    def none(run: outlast.Run) -> list[Any]:
        return [run.map(ONE, []), run.map(ONE, (word for word in "ab"), name="words")]

    with opened() as app:
        assert app.run(none).answer == [[], ["re: a", "re: b"]]


def test_a_map_names_the_first_that_failed() -> None:
    """All children come to their end; the first without an answer is told of."""

    @outlast.flow
    async def many(run: outlast.Run) -> list[Any]:
        try:
            await run.map(ONE, ["a", "bad", "c", "bad d"], name="m")
        except StepFailed as failed:
            return [failed.name, failed.why]
        raise AssertionError

    with opened(script=faulty(echo, failing("bad"))) as app:
        name, why = app.run(many, run_id="r").answer
        assert name == "m/2"
        assert why.startswith("run r/m/2 is failed: Claude did not take the request")
        assert sorted(one.status for one in app.runs() if one.parent) == [
            "completed",
            "completed",
            "failed",
            "failed",
        ]


def test_a_map_is_gone_on_with_after_a_crash() -> None:
    """What a child was paid for is not paid again, wherever the process died."""
    journal = open_store("memory://")

    @outlast.flow
    async def many(run: outlast.Run) -> list[str]:
        answers: list[str] = await run.map(ONE, ["a", "b", "c"], at_once=1)
        return answers

    dies = before(StepFinished, name="one-map-1/2")
    with opened(Dying(journal, dies)) as app, pytest.raises(StoreError):
        app.run(many, run_id="r")
    with opened(journal) as app:
        assert app.run(many, run_id="r").answer == ["re: a", "re: b", "re: c"]
        assert len(app.claude.calls) == 1, "two were answered before"


def test_a_map_of_other_inputs_is_told() -> None:
    """A map that goes on with other inputs is refused, and names the child."""
    journal, words = open_store("memory://"), ["a"]

    @outlast.flow
    async def many(run: outlast.Run) -> None:
        await run.map(ONE, words)
        await run.ask(TWO, "x")

    dies = before(AskStarted, ask_id="two-1")
    with opened(Dying(journal, dies)) as app, pytest.raises(StoreError):
        app.run(many, run_id="r")
    words[0] = "b"
    with opened(journal) as app, pytest.raises(FlowChanged, match="'one-map-1/1' is a child of so"):
        app.run(many, run_id="r")


# ── what a flow's code was, and is ──────────────────────────────────────────────────────────────


async def walked(run: outlast.Run, words: list[str], deeds: Deeds) -> list[str]:
    """Take a step of every word, in order, and stop for a question at `?`."""
    return [
        await run.ask(ONE, "x") if word == "?" else await run.step(word, deeds.do, word)
        for word in words
    ]


@pytest.mark.parametrize(
    ("was", "now", "done"),
    [
        (["a", "b", "?"], ["a", "b", "?"], {"a": 1, "b": 1}),
        (["a", "b", "?"], ["new", "a", "b", "?"], {"new": 1, "a": 1, "b": 1}),
        (["a", "b", "?"], ["a", "new", "b", "?"], {"new": 1, "a": 1, "b": 1}),
        (["a", "b", "?"], ["a", "b", "?", "new"], {"new": 1, "a": 1, "b": 1}),
        (["a", "b", "?"], ["b", "a", "?"], {"a": 1, "b": 1}),
        (["a", "b", "?"], ["a", "?"], {"a": 1, "b": 1}),
        (["a", "b", "?"], ["a", "renamed", "?"], {"a": 1, "b": 1, "renamed": 1}),
    ],
    ids=["as it was", "before", "between", "after", "another order", "left out", "renamed"],
)
def test_code_may_change_while_names_keep_their_meaning(
    was: list[str], now: list[str], done: dict[str, int]
) -> None:
    """What has a name of its own is done once, wherever it stands; a new name is something new."""
    journal, deeds, words = open_store("memory://"), Deeds(), [was]

    @outlast.flow
    async def walk(run: outlast.Run) -> list[str]:
        return await walked(run, words[0], deeds)

    with opened(Dying(journal, before(ModelCallSucceeded))) as app, pytest.raises(StoreError):
        app.run(walk, run_id="r")
    words[0] = now
    with opened(journal) as app:
        answers = ["re: x" if word == "?" else f"did {word}" for word in now]
        assert app.run(walk, run_id="r").answer == answers
    assert deeds.done == done


async def asks_one(run: outlast.Run) -> None:
    await run.ask(ONE, "x", name="a")


async def asks_another(run: outlast.Run) -> None:
    await run.ask(TWO, "x", name="a")


async def asks_something_else(run: outlast.Run) -> None:
    await run.ask(ONE, "y", name="a")


async def steps(run: outlast.Run) -> None:
    await run.step("a", str)
    await run.ask(ONE, "x")


async def sleeps(run: outlast.Run) -> None:
    await run.sleep(0, name="a")


async def draws(run: outlast.Run) -> None:
    run.now(name="a")


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (asks_one, asks_another, "'a' is an ask of 'one' in its journal, and the flow now wants "),
        (asks_one, asks_something_else, "'a' is the question \"x\" in its journal, and the flow"),
        (asks_one, steps, "'a' is an ask in its journal, and the flow now wants a step"),
        (asks_one, sleeps, "'a' is an ask in its journal, and the flow now wants a sleep"),
        (steps, sleeps, "'a' is a step in its journal, and the flow now wants a sleep"),
        (steps, draws, "'a' is a step in its journal, and the flow now wants a value"),
        (steps, asks_one, "'a' is a step in its journal, and the flow now wants an ask"),
    ],
)
def test_a_name_that_means_something_else_is_told(was: Any, now: Any, said: str) -> None:
    """A name with another meaning ends the leg, with both sides shown; nothing is written."""
    journal = open_store("memory://")
    dies = before(ModelCallSucceeded)
    with opened(Dying(journal, dies)) as app, pytest.raises(StoreError):
        app.run(outlast.flow(name="f")(was), run_id="r")
    with opened(journal) as app:
        with pytest.raises(FlowChanged) as caught:
            app.run(outlast.flow(name="f")(now), run_id="r")
        assert said in str(caught.value)
        written = [kind for kind in events(app) if kind != "note_added"]
        assert written[-1] == "model_call_started", "only that the code was changed is noted"
        assert app.run(outlast.flow(name="f")(was), run_id="r").status == "completed"


def test_an_input_that_no_longer_fits_ends_the_leg() -> None:
    """A flow whose parameter was changed under a run says so, and the run stays."""
    journal = open_store("memory://")

    async def was(run: outlast.Run, word: str) -> str:
        answer: str = await run.ask(ONE, word)
        return answer

    async def now(run: outlast.Run, word: int) -> None: ...

    dies = before(ModelCallSucceeded)
    with opened(Dying(journal, dies)) as app, pytest.raises(StoreError):
        app.run(outlast.flow(name="f")(was), "x", run_id="r")
    with opened(journal) as app:
        with pytest.raises(InvalidInput, match="its input 'word' is not as declared"):
            app.resume("r", outlast.flow(name="f")(now))
        assert app.run(outlast.flow(name="f")(was), "x", run_id="r").answer == "re: x"


def test_what_a_flow_leaves_open_does_not_keep_it() -> None:
    """A flow that returns without awaiting an ask is completed, and no call is lost unwritten."""

    @outlast.flow
    async def hasty(run: outlast.Run) -> str:
        run.ask(ONE, "never awaited")
        await asyncio.sleep(0.05)
        return "done"

    with opened() as app:
        assert app.run(hasty, run_id="r").answer == "done"
        assert events(app)[-1] == "run_finished"
        kinds = events(app)
        assert kinds.count("model_call_started") == kinds.count("model_call_succeeded")
