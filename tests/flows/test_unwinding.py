"""How an execution of a flow ends: by a park, by a mistake, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kinds import agent, helper, script
from playing import World, lived

import outlast
from outlast.errors import NameRequired, UsageError
from outlast.journal import run_stream
from outlast.models.scripted import ScriptedModel

other = agent("other")


def main(who: Any, **more: Any) -> Callable[[outlast.Outlast], Any]:
    async def run(app: outlast.Outlast) -> Any:
        try:
            return await app.arun(who, "x", run_id="r", **({"wait_s": 1e6} | more))
        except UsageError as error:
            return error

    return run


def types(world: World, run_id: str = "r") -> list[str]:
    return [type(record.event).__name__ for record in world.journal.read(run_stream(run_id))]


# ── names ───────────────────────────────────────────────────────────────────────────────────────


async def both_at_once(run: outlast.Run) -> None:
    await asyncio.gather(run.ask(helper, "one"), run.ask(helper, "two"))


async def one_still_open(run: outlast.Run) -> None:
    first = run.ask(helper, "one")
    await run.ask(helper, "two")
    await first


async def one_answered_but_not_looked_at(run: outlast.Run) -> None:
    first = run.ask(helper, "one")
    await run.sleep(60)  # long enough for the answer, but who knows
    await run.ask(helper, "two")
    await first


async def beside_a_named_one(run: outlast.Run) -> None:
    first = run.ask(helper, "one", name="first")
    await run.ask(helper, "two")
    await first


async def in_another_task(run: outlast.Run) -> None:
    async def ask() -> None:
        await run.ask(helper, "two")

    await run.ask(helper, "one")
    await asyncio.create_task(ask())


async def in_another_task_that_is_over(run: outlast.Run) -> None:
    async def ask(question: str) -> None:
        await run.ask(helper, question)

    for question in ("one", "two"):
        await asyncio.create_task(ask(question))


async def two_sleeps_at_once(run: outlast.Run) -> None:
    await asyncio.gather(run.sleep(5), run.sleep(6))


async def values_in_two_tasks(run: outlast.Run) -> None:
    async def draw() -> None:
        run.uuid()

    await asyncio.gather(draw(), draw())


AMBIGUOUS = [
    both_at_once,
    one_still_open,
    one_answered_but_not_looked_at,
    beside_a_named_one,
    in_another_task,
    in_another_task_that_is_over,
    two_sleeps_at_once,
    values_in_two_tasks,
]


@pytest.mark.parametrize("function", AMBIGUOUS, ids=lambda one: one.__name__)
def test_name_required(function: Any) -> None:
    """What its number could confuse needs a name, and says so in the very first execution."""
    world = World(script)
    came = lived(world, main(_without_input(function)))
    assert type(came) is NameRequired, came
    world.loop.close()


def _without_input(function: Any) -> outlast.Flow[..., Any]:
    async def flow(run: outlast.Run, word: str) -> Any:
        return await function(run)

    return outlast.flow(flow)


async def one_after_the_other(run: outlast.Run) -> None:
    for question in ("one", "two"):
        await run.ask(helper, question)
        await run.sleep(1)
        run.uuid()


async def two_agents_at_once(run: outlast.Run) -> None:
    await asyncio.gather(run.ask(helper, "one"), run.ask(other, "two"), run.sleep(1))


async def named_in_tasks(run: outlast.Run) -> None:
    async def ask(name: str) -> None:
        await run.ask(helper, name, name=name)

    await asyncio.gather(*(ask(name) for name in "abc"))


async def looked_at_later(run: outlast.Run) -> None:
    first = run.ask(helper, "one")
    await asyncio.wait([first])
    first.result()
    await asyncio.wait_for(run.ask(helper, "two"), 100)
    await asyncio.shield(run.ask(helper, "three"))
    await run.ask(helper, "four")


CLEAR = [one_after_the_other, two_agents_at_once, named_in_tasks, looked_at_later]


@pytest.mark.parametrize("function", CLEAR, ids=lambda one: one.__name__)
def test_no_name_required(function: Any) -> None:
    """What cannot be confused needs no name, wherever its process dies."""
    whole = World(script)
    assert lived(whole, main(_without_input(function))).status == "completed"
    appends = whole.life.appends
    whole.loop.close()
    for point in range(1, appends + 1):
        world = World(script)
        assert lived(world, main(_without_input(function)), ("after append", point)) is None
        run = lived(world, main(_without_input(function)))
        assert isinstance(run, outlast.Run), run
        assert run.status == "completed", run.why
        world.loop.close()


# ── parks ───────────────────────────────────────────────────────────────────────────────────────


def test_a_park_unwinds() -> None:
    """A park passes every `except Exception`, runs every `finally`, and is gone on after."""
    passed: list[str] = []

    @outlast.flow
    async def sleeper(run: outlast.Run, word: str) -> str:
        try:
            await run.sleep("2h")
        except Exception:  # noqa: BLE001  (what is to be shown)
            passed.append("caught")
        except BaseException as error:
            passed.append(type(error).__name__)
            raise
        finally:
            passed.append("finally")
        return "rested"

    world = World(script)
    parked = lived(world, main(sleeper, wait_s=60))
    assert (parked.status, passed) == ("parked", ["CancelledError", "finally"])
    assert parked.wake_at - parked.created_at >= 7_200 * 10**9
    assert lived(world, main(sleeper, wait_s=60)).status == "parked", "nothing woke it"
    assert lived(world, main(sleeper)).answer == "rested"
    assert passed[2:] == ["finally"]
    world.loop.close()


def test_parts_of_a_flow_are_unwound_as_parks() -> None:
    """Tasks of a flow are unwound like itself: to none of them a park looks like an answer."""
    seen: list[Any] = []

    @outlast.flow
    async def parted(run: outlast.Run, word: str) -> str:
        async def part() -> None:
            came = await asyncio.gather(
                run.sleep("1h", name="one"), run.sleep("2h", name="two"), return_exceptions=True
            )
            seen.append(came)

        beside = asyncio.create_task(part())
        await run.sleep("30m", name="three")
        await beside
        return "rested"

    world = World(script)
    assert lived(world, main(parted, wait_s=60)).status == "parked"
    assert not seen, "a part went on with what was no answer"
    assert lived(world, main(parted)).answer == "rested"
    assert seen == [[None, None]]
    world.loop.close()


def test_a_flow_that_ignores_its_unwinding() -> None:
    """A function that swallows the unwinding can begin nothing more; its result is lost."""

    @outlast.flow
    async def stubborn(run: outlast.Run, word: str) -> str:
        try:
            await run.sleep("2h")
        except BaseException:  # noqa: BLE001  (as bad as can be)
            with contextlib.suppress(BaseException):
                await run.ask(helper, "never")
            return "not rested"
        return "rested"

    world = World(script)
    assert lived(world, main(stubborn, wait_s=60)).status == "parked"
    assert lived(world, main(stubborn)).answer == "rested"
    assert not world.answers
    world.loop.close()


# ── a mistake beside what is paid for ───────────────────────────────────────────────────────────


def test_a_mistake_loses_no_outcome() -> None:
    """A call that is in flight when the code turns out to be wrong is heard, and not paid twice."""

    @outlast.flow
    async def mistaken(run: outlast.Run, word: str) -> Any:
        paid = run.ask(other, "paid")
        await run.step("first", asyncio.sleep, 0.01, effect="read")
        await asyncio.gather(run.ask(helper, "one"), run.ask(helper, "two"))
        return await paid

    world = World(script)
    assert type(lived(world, main(mistaken))) is NameRequired
    assert "ModelCallSucceeded" in types(world)
    assert world.states()["r"].spend.held_nano == 0
    assert len(world.answers) == 1
    world.loop.close()


# ── what is left behind ─────────────────────────────────────────────────────────────────────────


@outlast.flow
def blocking(run: outlast.Run, word: str) -> Any:
    """Sleep in a thread."""
    run.step("ran", len, word)
    run.sleep("2h")
    return "rested"


@outlast.flow
def wrong(run: outlast.Run, word: str) -> Any:
    """Use a name twice, in a thread."""
    run.step("ran", len, word)
    run.step("ran", len, word)


def test_no_thread_is_left() -> None:
    """A sync flow's thread ends with its leg: when it parks, and when its code is wrong."""
    with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
        before = threading.active_count()
        for number in range(5):
            assert app.run(blocking, "x", run_id=f"b-{number}", wait_s=0).status == "parked"
            with pytest.raises(UsageError, match="is taken"):
                app.run(wrong, "x", run_id=f"w-{number}")
        ended = time.monotonic() + 10
        while threading.active_count() > before + 1:  # the application's own loop stays
            assert time.monotonic() < ended, threading.enumerate()
            time.sleep(0.01)


def test_no_task_is_left() -> None:
    """No task of a flow outlives its leg, whether it parks, fails, or is completed."""

    @outlast.flow
    async def parks(run: outlast.Run, word: str) -> None:
        await asyncio.gather(run.sleep("1h", name="a"), run.map(parks_too, [1, 2, 3]))

    @outlast.flow
    async def parks_too(run: outlast.Run, number: int) -> None:
        await run.sleep("1h")

    @outlast.flow
    async def fails(run: outlast.Run, word: str) -> None:
        run.ask(helper, "never looked at")
        await run.step("first", asyncio.sleep, 0.01, effect="read")
        raise ValueError(word)

    async def all_of_them() -> None:
        async with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
            driven = asyncio.create_task(app.arun(parks, "x", run_id="p"))
            await asyncio.sleep(0.3)
            driven.cancel()
            await asyncio.wait([driven])
            assert (await app.arun(fails, "x")).status == "failed"
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(all_of_them())


def test_a_changed_sub_agent_is_no_tool_failure() -> None:
    """What is wrong with our own code behind `as_tool` is raised, and never told to Claude."""
    boss = agent("boss", helper.as_tool())
    world = World(script)
    asked = "delegate it"

    async def once(app: outlast.Outlast) -> Any:
        try:
            return await app.arun(boss, asked, run_id="r", wait_s=1e6)
        except UsageError as error:
            return error

    assert lived(world, once, asked="it one") is None
    changed = outlast.Agent("helper", model=helper.model, instructions="Another.", max_tokens=512)
    now = agent("boss", changed.as_tool())

    async def again(app: outlast.Outlast) -> Any:
        try:
            return await app.arun(now, asked, run_id="r", wait_s=1e6)
        except UsageError as error:
            return error

    came = lived(world, again, on_change="refuse")
    assert "version" in str(came), came
    assert "ToolCallFailed" not in types(world)
    run = lived(world, once)
    assert run.answer == 'results: ["re: it one","re: it two"]'
    world.loop.close()
