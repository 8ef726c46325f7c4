"""Steps: functions that are called once, whatever dies in between, and what they gave back."""

import asyncio
import dataclasses
import decimal
import enum
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pydantic
import pytest
from msgspec import Raw

import outlast
from flow_stubs import Deeds, Dying, before, named, of_kind, opened
from outlast import steps
from outlast.errors import FlowChanged, StepFailed, StoreError
from outlast.events import (
    ApprovalRequested,
    ChildStarted,
    ModelCallSucceeded,
    StepFinished,
    StepStarted,
)
from outlast.journal import Record
from outlast.steps import Begun, Finished, Steps
from outlast.stores import open_store
from outlast.tools import MAX_RESULT_BYTES

# ── the fold ────────────────────────────────────────────────────────────────────────────────────

INTENT = StepStarted(name="a", effect="read", given="g")
OVER = StepFinished(name="a", kind="step", result=Raw(b"1"))
GONE = StepFinished(name="a", kind="step", status="failed", error="no")


@pytest.mark.parametrize(
    ("events", "known"),
    [
        ([], Steps()),
        ([INTENT], Steps({"a": Begun("step", "g", "read")})),
        (
            [INTENT, StepStarted(name="a", effect="read", given="g", attempt=2)],
            Steps({"a": Begun("step", "g", "read", 2)}),
        ),
        ([INTENT, OVER], Steps({}, {"a": Finished("step", "g", "succeeded", Raw(b"1"), "", "")})),
        ([INTENT, GONE], Steps({}, {"a": Finished("step", "g", "failed", Raw(b"null"), "no", "")})),
        (
            [StepFinished(name="v", kind="value", result=Raw(b"1"))],
            Steps({}, {"v": Finished("value", "", "succeeded", Raw(b"1"), "", "")}),
        ),
        (
            [ChildStarted(name="c", child="r/c", given="g")],
            Steps({"c": Begun("child", "g", child="r/c")}),
        ),
        ([ChildStarted(name="c", child="r/c", call_id="x.m1.t1")], Steps()),
        (
            [StepStarted(name="s", kind="sleep", effect="read", until=9)],
            Steps({"s": Begun("sleep", "", "read", until=9)}),
        ),
        (
            [ApprovalRequested(name="a", question="Now?", given="g", expires_at=9)],
            Steps({"a": Begun("approval", "g", until=9)}),
        ),
        ([ApprovalRequested(call_id="x.m1.t1", question="Now?")], Steps()),
    ],
    ids=[
        "nothing",
        "begun",
        "begun again",
        "finished",
        "failed",
        "a value is drawn and kept at once",
        "a child",
        "a child that is a tool call",
        "a sleep",
        "an approval",
        "an approval of a tool call",
    ],
)
def test_what_is_known(events: list[Any], known: Steps) -> None:
    """What was begun is known by its name with what it was given, until it is finished."""
    found = Steps()
    for seq, event in enumerate(events, start=1):
        found = steps.evolve(found, Record("run:r", seq, seq, 1, 1, event))
    assert found == known


# ── what dies in between ────────────────────────────────────────────────────────────────────────


def flow_of(function: Callable[[], Any], effect: Any) -> Any:
    """Return a flow of one step, which says what came of it."""

    @outlast.flow
    async def one(run: outlast.Run) -> list[Any]:
        try:
            return ["done", await run.step("do", function, effect=effect)]
        except StepFailed as failed:
            return ["in doubt" if failed.in_doubt else "failed", failed.why]

    return one


DOUBT = "it was interrupted, and it may or may not have happened; it was not repeated"


@pytest.mark.parametrize(
    ("effect", "crashes", "calls", "came"),
    [
        ("read", 0, 1, ["done", "did it"]),
        ("read", 1, 2, ["done", "did it"]),
        ("read", 2, 3, ["done", "did it"]),
        ("read", 3, 3, ["in doubt", DOUBT]),
        ("idempotent", 0, 1, ["done", "did it"]),
        ("idempotent", 4, 5, ["done", "did it"]),
        ("once", 0, 1, ["done", "did it"]),
        ("once", 1, 1, ["in doubt", DOUBT]),
        (None, 1, 1, ["in doubt", DOUBT]),
    ],
)
def test_a_step_that_was_interrupted(
    effect: Any, crashes: int, calls: int, came: list[Any]
) -> None:
    """A `read` is repeated twice at most, an `idempotent` one always, a `once` one never.

    A function without a declared effect is `once`, since that is the safe one.
    """
    journal, deeds = open_store("memory://"), Deeds()
    flow = flow_of(lambda: deeds.do("it"), effect)
    for _ in range(crashes):
        with (
            opened(Dying(journal, before(StepFinished, status="succeeded"))) as app,
            pytest.raises(StoreError, match="died here"),
        ):
            app.run(flow, run_id="r")
    with opened(journal) as app:
        assert app.run(flow, run_id="r").answer == came
        assert app.run(flow, run_id="r").answer == came, "and never again"
    assert deeds.done["it"] == calls


@pytest.mark.parametrize("effect", ["read", "idempotent", "once"])
def test_a_step_that_raised_is_not_repeated(effect: Any) -> None:
    """What raised has an outcome: the flow is told, now and at every wake; nobody calls again."""
    journal, calls = open_store("memory://"), []

    @outlast.flow
    async def two(run: outlast.Run) -> str:
        try:
            await run.step("do", fail, effect=effect)
        except StepFailed as failed:
            why = failed.why
        await run.ask(named("one"), "Hello.")
        return why

    def fail() -> None:
        calls.append(1)
        raise ValueError("no \ud800")

    with opened(Dying(journal, before(ModelCallSucceeded))) as app, pytest.raises(StoreError):
        app.run(two, run_id="r")
    with opened(journal) as app:
        assert app.run(two, run_id="r").answer == "ValueError: no ?"
    assert calls == [1]


def test_a_step_that_nobody_caught_fails_the_run() -> None:
    """The run says which step it was, and what was raised."""

    @outlast.flow
    def one(run: outlast.Run) -> None:
        run.step("divide", lambda: 1 / 0)

    with opened() as app:
        run = app.run(one)
        assert run.status == "failed"
        assert run.why == (
            "flow one raised StepFailed: the step 'divide' has no result: "
            "ZeroDivisionError: division by zero"
        )


def test_the_intent_is_durable_before_the_function_runs() -> None:
    """Whoever reads the journal while a function runs finds that it was begun, and with what."""
    seen: list[Any] = []

    @outlast.flow
    async def one(run: outlast.Run) -> None:
        await run.step(
            "do", lambda word: seen.extend(of_kind(app, StepStarted)), "x", effect="read"
        )

    with opened() as app:
        app.run(one, run_id="r")
    (intent,) = seen
    assert (intent.name, intent.effect, len(intent.given)) == ("do", "read", 64)


def test_a_tool_is_a_step_with_its_own_effect() -> None:
    """A tool brings its effect, its timeout and its context, the same key for every attempt."""
    journal, contexts = open_store("memory://"), []

    @outlast.tool(effect="idempotent")
    def pay(amount: int, context: outlast.ToolContext) -> int:
        contexts.append(context)
        return amount + 1

    @outlast.flow
    async def one(run: outlast.Run) -> int:
        paid: int = await run.step("pay", pay, 4)
        return paid

    with (
        opened(Dying(journal, before(StepFinished)), deps="deps") as app,
        pytest.raises(StoreError),
    ):
        app.run(one, run_id="r", tenant="acme")
    with opened(journal, deps="deps") as app:
        assert app.run(one, run_id="r").answer == 5
        assert {one.effect for one in of_kind(app, StepStarted)} == {"idempotent"}
    first, second = contexts
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.idempotency_key == second.idempotency_key
    assert (second.run_id, second.tenant, second.deps) == ("r", "acme", "deps")


@pytest.mark.parametrize(
    ("effect", "came"),
    [
        ("read", ["failed", "it did not return within 0.01 s"]),
        ("idempotent", ["in doubt", "it did not return within 0.01 s"]),
        ("once", ["in doubt", "it did not return within 0.01 s"]),
    ],
)
def test_a_tool_that_takes_too_long(effect: Any, came: list[Any]) -> None:
    """A step that was given up failed if it only reads, and is in doubt otherwise."""

    @outlast.tool(effect=effect, timeout_s=0.01)
    async def hang() -> None:
        await asyncio.Event().wait()

    with opened() as app:
        assert app.run(flow_of(hang, None)).answer == came


# ── what they give back ─────────────────────────────────────────────────────────────────────────


class Grant(pydantic.BaseModel):
    name: str
    usd: int


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    at: datetime
    parts: tuple[int, str]


@dataclasses.dataclass
class Point:
    x: int


class Colour(enum.Enum):
    RED = "red"


def grants() -> list[Grant]:
    return [Grant(name="a", usd=1)]


def strict() -> Strict:
    return Strict(at=datetime(2026, 1, 2, tzinfo=UTC), parts=(1, "a"))


def point() -> Point:
    return Point(1)


def colour() -> Colour:
    return Colour.RED


def amount() -> decimal.Decimal:
    return decimal.Decimal("1.10")


def identity() -> uuid.UUID:
    return uuid.UUID(int=7)


def day() -> date:
    return date(2026, 1, 2)


def duration() -> timedelta:
    return timedelta(hours=1)


def pair() -> tuple[int, str]:
    return 1, "a"


def words() -> set[str]:
    return {"a"}


def optional() -> Grant | None:
    return Grant(name="a", usd=1)


def numbered() -> dict[int, str]:
    return {1: "a"}


def raw() -> bytes:
    return b"abc"


def nothing() -> None:
    return None


async def later() -> Point:
    return Point(2)


def hintless():
    return Point(3)


def strange() -> "NoSuchName":  # type: ignore[name-defined]  # noqa: F821  (a hint nobody knows)
    return {"x": 4}


def long() -> str:
    return "ä" * MAX_RESULT_BYTES


@pytest.mark.parametrize(
    "function",
    [
        grants,
        strict,
        point,
        colour,
        amount,
        identity,
        day,
        duration,
        pair,
        words,
        optional,
        numbered,
        raw,
        nothing,
        later,
        long,
        pytest.param(outlast.tool(effect="read")(point), id="a tool"),
    ],
)
def test_a_result_is_the_same_the_first_time_and_every_time(function: Any) -> None:
    """A result has the type the function declares, when it came and when it is read back."""
    first, again = given_twice(function)
    called = function()
    expected = asyncio.run(called) if asyncio.iscoroutine(called) else called
    assert first == again == expected
    assert type(first) is type(again) is type(expected)


@pytest.mark.parametrize(
    ("function", "value"),
    [(hintless, {"x": 3}), (strange, {"x": 4}), (lambda: Point(5), {"x": 5})],
    ids=["no hint", "a hint nobody knows", "a lambda"],
)
def test_a_result_without_a_type_is_json(function: Any, value: Any) -> None:
    """Where no type is declared a result is what JSON makes of it, the first time too."""
    first, again = given_twice(function)
    assert first == again == value


def given_twice(function: Any) -> list[Any]:
    """Return what a step gave when it was called, and in a later execution."""
    journal, given = open_store("memory://"), []

    @outlast.flow
    async def one(run: outlast.Run) -> None:
        given.append(await run.step("do", function))
        await run.ask(named("one"), "Hello.")

    with opened(Dying(journal, before(ModelCallSucceeded))) as app, pytest.raises(StoreError):
        app.run(one, run_id="r")
    with opened(journal) as app:
        assert app.run(one, run_id="r").status == "completed"
    return given


def test_a_long_result_is_a_blob() -> None:
    """The journal holds the hash of a result beyond 64 KiB; the result is kept once, apart."""

    @outlast.flow
    async def one(run: outlast.Run) -> int:
        return len(await run.step("a", long)) + len(await run.step("b", long))

    with opened() as app:
        assert app.run(one, run_id="r").answer == 2 * MAX_RESULT_BYTES
        first, second = of_kind(app, StepFinished)
        assert first.result == Raw(b"null")
        assert first.blob == second.blob
        assert app.journal.blob(first.blob).decode() == f'"{long()}"'


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "it returned object, which cannot be written as JSON: "),
        (float("nan"), "it returned float, which cannot be written as JSON: "),
        ("\ud800", "it returned str, which cannot be written as JSON: "),
    ],
    ids=["an object", "NaN", "half a character"],
)
def test_a_result_that_cannot_be_kept(value: Any, said: str) -> None:
    """It happened, and only its result is lost: the step failed, and the run can be read."""
    with opened() as app:
        status, why = app.run(flow_of(lambda: value, None), run_id="r").answer
        assert status == "failed"
        assert why.startswith(said)
        app.log("r")


def test_a_result_of_another_type_is_told() -> None:
    """A function that does not keep to its hint is told of, with the value and the place."""

    def wrong() -> Grant:
        return {"name": "a", "usd": "many"}  # type: ignore[return-value]

    @outlast.flow
    def one(run: outlast.Run) -> None:
        run.step("do", wrong)

    with opened() as app:
        run = app.run(one)
        assert run.status == "failed"
        assert '{"name":"a","usd":"many"} is no Grant: usd: Input should be a valid' in run.why


# ── with what they are called ───────────────────────────────────────────────────────────────────


def iterated() -> Iterator[int]:
    yield from (1, 2)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (1, 1, True),
        (1, 2, False),
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, True),
        ({f"{n}" for n in range(50)}, {f"{n}" for n in reversed(range(50))}, True),
        ([{"a", "b"}], [{"b", "c"}], False),
        (Grant(name="a", usd=1), Grant(name="a", usd=1), True),
        (Grant(name="a", usd=1), Grant(name="a", usd=2), False),
        (object(), object(), True),
        ((1, 2), [1, 2], True),
    ],
    ids=[
        "equal",
        "another",
        "a dict",
        "a set in any order",
        "another set",
        "a model",
        "another model",
        "what cannot be compared",
        "a tuple is a list",
    ],
)
def test_arguments_are_part_of_what_a_name_means(first: Any, second: Any, same: Any) -> None:
    """A step of the same name with other arguments is refused, and both sides are shown."""
    journal, given = open_store("memory://"), [first]

    @outlast.flow
    async def one(run: outlast.Run) -> None:
        await run.step("do", lambda _: None, given[0])
        await run.ask(named("one"), "Hello.")

    with opened(Dying(journal, before(ModelCallSucceeded))) as app, pytest.raises(StoreError):
        app.run(one, run_id="r")
    given[0] = second
    with opened(journal) as app:
        if same:
            assert app.run(one, run_id="r").status == "completed"
            return
        said = "'do' is a step of something else in its journal, and the flow now wants one with"
        with pytest.raises(FlowChanged, match=said):
            app.run(one, run_id="r")


def test_an_iterator_reaches_the_function_unread() -> None:
    """What can be read only once is not read to compare it."""

    @outlast.flow
    async def one(run: outlast.Run) -> int:
        total: int = await run.step("sum", sum, iterated())
        return total

    with opened() as app:
        assert app.run(one).answer == 3


def test_a_sync_function_does_not_hold_up_others() -> None:
    """Functions that block run in threads, side by side."""
    meet = threading.Barrier(2, timeout=20)

    @outlast.flow
    async def both(run: outlast.Run) -> list[int]:
        return list(await asyncio.gather(run.step("a", meet.wait), run.step("b", meet.wait)))

    with opened() as app:
        assert sorted(app.run(both).answer) == [0, 1]


def test_a_step_that_hangs_is_left_when_the_run_is() -> None:
    """Who cancels a run is not kept waiting by a thread that never returns."""
    going, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        going.set()
        go_on.wait(60)

    async def given_up() -> float:
        with opened() as app:
            task = asyncio.create_task(app.arun(flow_of(hang, None), run_id="r"))
            await asyncio.to_thread(going.wait, 20)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return time.monotonic() - began

    try:
        assert asyncio.run(given_up()) < 15
    finally:
        go_on.set()
