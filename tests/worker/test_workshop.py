"""`workshop`: where tools run that may block their loop, and how calls get past one that does."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from worked import app_at, until

import outlast
from outlast.models.script import say, tool_use
from outlast.models.scripted import ScriptedModel
from outlast.runner import STALE_S
from outlast.worker import Worker
from outlast.workshop import BLOCKED_S, Checked, Workshop
from stubs import agent, asking, results

SAID: contextvars.ContextVar[str] = contextvars.ContextVar("SAID", default="nothing")


def benches() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "outlast-workshop"]


@pytest.fixture
def shop() -> Iterator[Workshop]:
    one = Workshop()
    yield one
    one.close()
    until(lambda: not benches(), "the end of every thread")


async def here() -> tuple[int, Any]:
    await asyncio.sleep(0)
    return threading.get_ident(), asyncio.get_running_loop()


class Block:
    """A tool that blocks its loop until it is let go."""

    def __init__(self) -> None:
        self.entered, self.may_go = threading.Event(), threading.Event()

    async def __call__(self) -> str:
        self.entered.set()
        self.may_go.wait(20)
        return "at last"


def test_calls_share_one_loop_beside_the_callers(shop: Workshop) -> None:
    """Whatever is bound to a loop, such as a client, finds itself on the same one every time."""

    async def main() -> None:
        first = await asyncio.gather(*(shop.run(here()) for _ in range(5)))
        later = [await shop.run(here()) for _ in range(3)]
        assert len({loop for _, loop in (*first, *later)}) == 1
        assert first[0] != (threading.get_ident(), asyncio.get_running_loop())
        await asyncio.sleep(BLOCKED_S + 0.2)  # idle for long is not blocked
        assert (await shop.run(here())) == first[0]

    asyncio.run(main())
    assert len(benches()) == 1


def test_long_work_that_awaits_blocks_nobody(shop: Workshop) -> None:
    """A call that takes longer than a blocked loop is given is not taken for one."""

    async def main() -> None:
        long = asyncio.create_task(shop.run(asyncio.sleep(BLOCKED_S + 0.5, "slept")))
        await asyncio.sleep(BLOCKED_S + 0.3)
        await shop.run(here())
        assert await long == "slept"

    asyncio.run(main())
    assert len(benches()) == 1


def test_a_blocked_loop_is_passed_by(shop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    """Once a loop has not answered for a second calls go to a fresh one, and its tool is named."""
    block = Block()

    async def sleepy() -> str:
        return await block()

    async def main() -> None:
        blocked = asyncio.create_task(shop.run(sleepy()))
        await asyncio.to_thread(block.entered.wait, 20)
        await asyncio.sleep(BLOCKED_S + 0.1)
        first = await asyncio.wait_for(shop.run(here()), 10)
        again = await asyncio.wait_for(shop.run(here()), 10)
        assert first == again
        block.may_go.set()
        assert await blocked == "at last"

    with caplog.at_level(logging.WARNING, "outlast"):
        asyncio.run(main())
    (said,) = [one.getMessage() for one in caplog.records if one.name == "outlast.worker"]
    assert "blocks its event loop" in said
    assert "sleepy" in said


def test_what_a_call_sees_and_raises(shop: Workshop) -> None:
    """Context variables come along, and what it raises is raised to whoever called."""

    async def look() -> str:
        return SAID.get()

    async def fail() -> None:
        raise LookupError("not here")

    async def main() -> None:
        SAID.set("hello")
        assert await shop.run(look()) == "hello"
        with pytest.raises(LookupError, match="not here"):
            await shop.run(fail())
        with pytest.raises(LookupError, match="not here"):
            await asyncio.gather(shop.run(fail()), shop.run(look()))

    asyncio.run(main())


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_no_call_should_raise_ends_no_loop(shop: Workshop, error: BaseException) -> None:
    """A tool that wants to end the process ends neither its loop nor its caller's wait."""

    async def exits() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(type(error)):
            async with asyncio.timeout(5):
                await shop.run(exits())
        async with asyncio.timeout(5):
            assert await shop.run(here())

    asyncio.run(main())


def test_a_cancellation_is_passed_on(shop: Workshop) -> None:
    """Who gives up a call has it end first; one that was cancelled itself is cancelled."""
    ended = threading.Event()

    async def cleans() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ended.set()

    async def main() -> None:
        task = asyncio.create_task(shop.run(cleans()))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

        async def gives_up() -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await shop.run(gives_up())
        assert await shop.run(here())

    asyncio.run(main())


@pytest.mark.parametrize("answers", [True, False])
def test_what_ignores_its_cancellation_is_left(
    shop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    answers: bool,  # noqa: FBT001
) -> None:
    """A call that goes on, or whose loop does not hear, keeps nobody longer than it may."""
    monkeypatch.setattr("outlast.workshop.PATIENCE_S", 0.2)
    block = Block()

    async def ignores() -> None:
        while not block.may_go.is_set():
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                continue

    async def main() -> None:
        task = asyncio.create_task(shop.run(ignores() if answers else block()))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert task.cancelled()

    try:
        asyncio.run(main())
    finally:
        block.may_go.set()


def test_to_close_ends_what_is_in_flight() -> None:
    """Calls under way are cancelled, and whoever waits for one is not left waiting."""
    shop = Workshop()

    async def main() -> None:
        waiting = [asyncio.create_task(shop.run(asyncio.sleep(60))) for _ in range(3)]
        await asyncio.sleep(0.1)
        shop.close()
        done, _ = await asyncio.wait(waiting, timeout=10)
        assert len(done) == len(waiting)
        assert all(task.cancelled() for task in waiting)
        thread, _ = await asyncio.wait_for(shop.run(here()), 10)
        assert thread == threading.get_ident(), "after the end, it is done where it is called"

    asyncio.run(main())
    shop.close()
    until(lambda: not benches(), "the end of every thread")


def test_a_timeout_fires_though_its_loop_is_blocked() -> None:
    """The tool that blocks is timed out on time, the run goes on, and so do other runs."""
    block = Block()

    @outlast.tool(effect="read", timeout_s=0.5)
    async def stuck() -> str:
        """Block."""
        return await block()

    @outlast.tool(effect="read")
    async def quick() -> str:
        """Answer at once."""
        return "quick"

    model = ScriptedModel(asking(tool_use("stuck", {})))
    with app_at("memory://") as app:
        app._own._model = model
        who = agent(stuck, quick)
        app.start(who, "Go.", run_id="r")
        try:
            with Worker(app, [who]):
                until(lambda: app.get("r").status == "completed", "the end of the run")
                assert not block.may_go.is_set()
                (result,) = results(model)
                assert result["is_error"] is True
        finally:
            block.may_go.set()
    until(lambda: not benches(), "the end of every thread")


def test_a_tool_on_the_worker_has_a_loop_of_its_own() -> None:
    """An async tool runs beside the runs, except on the caller's own loop."""
    names: list[str] = []

    @outlast.tool(effect="read")
    async def where() -> str:
        """Say where."""
        names.append(threading.current_thread().name)
        return "here"

    who = agent(where)
    with app_at("memory://") as app:
        app._own._model = ScriptedModel(asking(tool_use("where", {})))
        app.run(who, "Go.", run_id="a")
        app.start(who, "Go.", run_id="b")
        Worker(app, [who]).run(until_idle=True)
        app._guest._model = app._own._model
        asyncio.run(app.arun(who, "Go.", run_id="c"))
    assert names == ["outlast-workshop", "outlast-workshop", "MainThread"]


def test_what_is_checked_is_checked_when_its_turn_has_come() -> None:
    """Where a check raises, work that had to wait is not begun, and the check's error is raised."""
    begun: list[str] = []

    async def work() -> str:
        begun.append("work")
        return "done"

    def refuse() -> None:
        raise LookupError("lost meanwhile")

    async def main() -> None:
        shop = Workshop()
        try:
            assert await Checked(shop, lambda: None).run(work()) == "done"
            with pytest.raises(LookupError, match="lost meanwhile"):
                await Checked(shop, refuse).run(work())
        finally:
            shop.close()

    asyncio.run(main())
    assert begun == ["work"]


def test_a_call_that_waited_too_long_for_its_turn_is_not_made() -> None:
    """Who loses a run while a call waits for a loop does not make the call."""
    called: list[str] = []

    @outlast.tool(effect="once")
    async def send(word: str) -> str:
        """Send it."""
        called.append(word)
        return word

    class Late:
        async def run(self, work: Any) -> Any:
            await asyncio.sleep(STALE_S + 0.05)
            app.journal.claim("run:r", force=True)  # as a worker does that takes it over
            return await work

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say(tool_use("send", {"word": "a"}))

    sender = outlast.Agent("sender", model="claude-haiku-5-5", tools=[send])
    with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
        app._own.workshop = Late()  # type: ignore[assignment]
        app.run(sender, "Go.", run_id="r", wait_s=0)
        app._own.workshop = None
    assert not called
