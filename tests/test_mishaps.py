"""Mishaps around a run: watchers that raise, forks, frozen drivers, clocks, odd replies."""

import asyncio
import contextlib
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

import outlast
from outlast.actions import Sleep, World
from outlast.decide import decide
from outlast.errors import Busy, StoreFull
from outlast.events import (
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ToolCallInDoubt,
    ToolCallStarted,
    ToolCallSucceeded,
)
from outlast.journal import Record, run_stream
from outlast.models.script import tool_use
from outlast.models.scripted import ScriptedModel
from outlast.starting import begin
from outlast.state import fold
from outlast.stores import open_store
from outlast.stores.memory import MemoryJournal
from outlast.testing.simulation import Crash, Driver
from outlast.testing.simulation import World as Simulated
from stubs import Answers, agent, asking, reply

TEXT = b'[{"type":"text","text":"hi"}]'


def test_a_watcher_that_raises_comes_between_no_intent_and_its_effect() -> None:
    """Whatever a watcher raises is raised when the run is at rest; nothing is lost to it."""
    paid = []

    @outlast.tool(effect="once")
    async def pay() -> str:
        """Pay."""
        paid.append(True)
        return "paid"

    def broken(what: Any) -> None:
        raise BrokenPipeError("nobody reads this")

    for watcher in ("on_record", "on_part"):
        paid.clear()
        with outlast.Outlast("memory://", model=ScriptedModel(asking(tool_use("pay", {})))) as app:
            with pytest.raises(BrokenPipeError):
                app.run(agent(pay), "Pay.", run_id="r", **{watcher: broken})
            run = app.get("r")
            assert (run.status, run.turns, paid) == ("completed", 2, [True]), watcher


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_application_says_so() -> None:
    """In a forked child an application refuses to run, at once and in a sentence."""
    with outlast.Outlast("memory://", model=ScriptedModel(asking())) as app:
        assert app.run(agent(), "Go.").status == "completed"
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(20)
            try:
                app.run(agent(), "Go again.")
            except outlast.UsageError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading, "rb") as told:
            assert b"make another one after the fork" in told.read()


def test_what_was_started_as_once_stays_once() -> None:
    """A call that was started as `once` is not repeated when the tool is a `read` by now."""
    ran = []

    def declared(effect: Any) -> outlast.Agent:
        @outlast.tool(effect=effect)
        def act() -> str:
            """Act."""
            ran.append(effect)
            return "done"

        return agent(act)

    world, journal = Simulated(asking(tool_use("act", {}))), MemoryJournal()
    begin(journal, "r", declared("once"), "Act.", at=world.tick(), nonce="n")
    world.crash_at = frozenset({8})
    with pytest.raises(Crash):
        Driver(world, journal, declared("once"), "r").run()
    assert ran == ["once"], world.trace
    assert Driver(world, journal, declared("read"), "r").run().status == "waiting"
    assert ran == ["once"]
    events = [record.event for record in journal.read(run_stream("r"))]
    assert [event.open for event in events if isinstance(event, ToolCallInDoubt)] == [True]


def test_a_result_that_cannot_be_stored_costs_no_sibling() -> None:
    """When one result cannot be written, those of calls that are still at work are."""
    full = threading.Event()

    class Full(MemoryJournal):
        def put_blob(self, data: bytes) -> str:
            full.set()
            raise StoreFull("no space is left")

    @outlast.tool(effect="once", max_result_tokens=10)
    def long() -> str:
        """Return much."""
        return "x" * 100

    @outlast.tool(effect="once")
    def short() -> str:
        """Return little, after the other could not be stored."""
        full.wait(20)
        return "ok"

    journal = Full()
    claude = ScriptedModel(asking(tool_use("long", {}), tool_use("short", {})))
    app = outlast.Outlast(journal, model=claude)
    with pytest.raises(StoreFull):
        app.run(agent(long, short), "Go.", run_id="r")
    events = [record.event for record in journal.read(run_stream("r"))]
    ended = [event.call_id for event in events if isinstance(event, ToolCallSucceeded)]
    started = [event.call_id for event in events if isinstance(event, ToolCallStarted)]
    assert len(started) == 2
    assert ended == [started[1]]
    again = app.resume("r", agent(long, short))
    assert again.status == "waiting"
    assert f"did long ({started[0]}) happen?" in again.why
    app.close()


def test_no_thread_for_a_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has no thread left fails the call, not the run."""

    @outlast.tool(effect="read")
    def look() -> str:
        """Look."""
        return "seen"

    start = threading.Thread.start

    def starting(thread: threading.Thread) -> None:
        if thread.name.startswith("outlast-tool"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    claude = ScriptedModel(asking(tool_use("look", {})))
    with outlast.Outlast("memory://", model=claude) as app:
        assert app.run(agent(look), "Look.").status == "completed"
    assert b"look failed with RuntimeError" in claude.calls[-1]


def nested(depth: int) -> bytes:
    return b'[{"type":"text","text":"hi","deep":%b1%b}]' % (b"[" * depth, b"]" * depth)


@pytest.mark.parametrize(("depth", "status"), [(150, "completed"), (300, "stopped")])
def test_a_reply_that_could_not_be_read_again(depth: int, status: str) -> None:
    """A reply nested so deeply that a deeper stack could not read it is malformed at once."""
    impatient = agent(budget=outlast.Budget(turns=1))
    with outlast.Outlast("memory://", model=Answers(lambda request: reply(nested(depth)))) as app:
        run = app.run(impatient, "Go.", run_id="r")
        kinds = [r.event.kind for r in app.log("r") if isinstance(r.event, ModelCallInDoubt)]
    assert (run.status, kinds) == (status, [] if status == "completed" else ["malformed"])


def test_brackets_in_a_string_are_not_depth() -> None:
    """What a text says is never taken for nesting."""
    text = b'[{"type":"text","text":"' + b"[" * 1000 + b'\\\\\\"["}]'
    with outlast.Outlast("memory://", model=Answers(lambda request: reply(text))) as app:
        assert app.run(agent(), "Go.").status == "completed"


def test_an_unpriced_reply_is_bought_once() -> None:
    """A reply by a model without a price fails the run, naming it, instead of being asked again."""
    answers = Answers(lambda request: reply(TEXT, model="us.claude-of-tomorrow"))
    with outlast.Outlast("memory://", model=answers) as app:
        run = app.run(agent(), "Go.")
    assert run.status == "failed"
    assert "us.claude-of-tomorrow" in run.why
    assert len(answers.calls) == 1
    assert run.cost_nano > 0, "in doubt is spent"


def test_impossible_numbers_are_no_usage() -> None:
    """Counts that fit into no ledger are malformed, and never an exception of ours."""
    usage = Raw(b'{"input_tokens":1000000000000000000,"output_tokens":5}')
    calls = iter([reply(TEXT, usage=usage), reply(TEXT)])
    journal = MemoryJournal()
    with outlast.Outlast(journal, model=Answers(lambda request: next(calls))) as app:
        assert app.run(agent(), "Go.").status == "completed"


def test_a_clock_that_is_set_back() -> None:
    """A failure that lies in the future is not waited for: nobody knows how far the clock moved."""
    world, journal = Simulated(asking()), MemoryJournal()
    asked = agent()
    begin(journal, "r", asked, "Go.", at=world.tick(), nonce="n")
    state = fold(journal.read(run_stream("r")))
    step = decide(state, asked, world.tick(), World())
    (intent,) = step.events
    assert isinstance(intent, ModelCallStarted)
    lost = ModelCallFailed(
        ask_id="ask-1", call_id=intent.call_id, kind="overloaded", message="busy"
    )
    later = world.now + 3_600_000_000_000
    events = [Record("run:r", 4, 4, later, 1, intent), Record("run:r", 5, 5, later, 1, lost)]
    failed = fold(events, state)
    assert isinstance(decide(failed, asked, later + 1, World()).actions[0], Sleep)
    (again,) = decide(failed, asked, world.now, World()).events
    assert isinstance(again, ModelCallStarted)


def test_a_generator_is_no_tool() -> None:
    """A generator function is refused when it is declared: it would run where it must not."""

    def numbers() -> Any:
        """Count."""
        yield 1

    async def later() -> Any:
        """Count."""
        yield 1

    for function in (numbers, later):
        with pytest.raises(outlast.InvalidTool, match="a generator"):
            outlast.tool(effect="read")(function)


def test_a_fenced_driver_does_not_take_the_run_back(tmp_path: Path) -> None:
    """A driver that was taken over lets go for good, and waits for what the other makes of it."""
    url = f"sqlite:///{tmp_path}/s.db"

    async def scene() -> tuple[outlast.Run, list[int]]:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def slow(request: Any) -> Any:
            asked.set()
            await go_on.wait()
            return reply(TEXT)

        with outlast.Outlast(url, model=Answers(slow)) as first:
            driving = asyncio.create_task(first.arun(agent(), "Go.", run_id="r", wait_s=0.3))
            await asked.wait()
            other = open_store(url)
            fence = other.claim(run_stream("r"), force=True)
            go_on.set()
            run = await driving
            row = other.run("r")
            other.close()
            assert row is not None
            return run, [fence, row.fence]

    run, (fence, now) = asyncio.run(scene())
    assert now == fence, "the fence was raised again by the one that was fenced"
    assert run.status == "running"
    assert "driven by another process" in run.why


@pytest.mark.timeout(60)
@pytest.mark.parametrize("below", [False, True], ids=["a run", "a run below a flow"])
def test_a_fenced_driver_goes_on_where_the_other_is_gone(tmp_path: Path, *, below: bool) -> None:
    """Whoever took a run over and died leaves it to whom it was taken from, who still waits."""
    url = f"sqlite:///{tmp_path}/s.db"
    who = agent()

    @outlast.flow
    async def parent(run: outlast.Run) -> Any:
        return await run.map(who, ["Go."], name="child")

    async def scene() -> tuple[outlast.Run, int]:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def slow(request: Any) -> Any:
            asked.set()
            await go_on.wait()
            return reply(TEXT)

        answers = Answers(slow)
        with outlast.Outlast(url, model=answers) as first:
            run = first.arun(parent, run_id="r") if below else first.arun(who, "Go.", run_id="r")
            driving = asyncio.create_task(run)
            await asked.wait()
            other = open_store(url)
            stream = run_stream("r/child/1" if below else "r")
            other.claim(stream, force=True)
            go_on.set()
            done, _ = await asyncio.wait({driving}, timeout=0.5)
            assert not done, "it was taken back from who lives"
            other.release(stream)
            other.close()
            return await driving, len(answers.calls)

    run, calls = asyncio.run(scene())
    assert run.status == "completed", run.why
    assert calls == 2, "the reply that nobody could write was in doubt, and Claude asked again"


class Slow(MemoryJournal):
    """A store that claims when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.claiming, self.go_on = threading.Event(), threading.Event()

    def claim(self, stream: str, *, force: bool = False, worker: str = "") -> int:
        self.claiming.set()
        self.go_on.wait(20)
        return super().claim(stream, force=force, worker=worker)


def test_a_claim_outlives_no_loop() -> None:
    """A loop that ends while a thread claims for it leaves the run to others."""

    async def ends(journal: Slow, app: outlast.Outlast) -> None:
        driving = asyncio.create_task(app.arun(agent(), "Go.", run_id="r"))
        await asyncio.to_thread(journal.claiming.wait, 20)
        driving.cancel()
        await asyncio.wait({driving})
        threading.Timer(0.05, journal.go_on.set).start()

    journal = Slow()
    with outlast.Outlast(journal, model=ScriptedModel(asking())) as app:
        asyncio.run(ends(journal, app))  # it waits for its threads
        assert journal.claim(run_stream("r"))


def test_a_cancellation_is_not_lost_in_a_claim() -> None:
    """Who cancels while a run is being claimed cancels it, and the run is free again."""

    async def scene(journal: Slow, app: outlast.Outlast) -> None:
        driving = asyncio.create_task(app.arun(agent(), "Go.", run_id="r"))
        await asyncio.to_thread(journal.claiming.wait, 20)
        driving.cancel()
        await asyncio.sleep(0)
        driving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await driving
        journal.go_on.set()
        for _ in range(1000):
            try:
                journal.claim(run_stream("r"))
            except Busy:
                await asyncio.sleep(0.01)
            else:
                return
        raise AssertionError("the claim was never let go")

    journal = Slow()
    with outlast.Outlast(journal, model=ScriptedModel(asking())) as app:
        asyncio.run(scene(journal, app))


class Stubborn:
    """A tool that ignores that it is cancelled, until it is let go."""

    def __init__(self) -> None:
        self.began, self.let_go = threading.Event(), threading.Event()
        self.ran = 0

    def tool(self) -> Any:
        @outlast.tool(effect="once", timeout_s=None)
        async def cling() -> str:
            """Cling."""
            self.ran += 1
            self.began.set()
            while not self.let_go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.to_thread(self.let_go.wait, 0.05)
            return "at last"

        return cling


def test_a_swallowed_cancellation_still_stops_the_run() -> None:
    """A tool that swallows its cancellation does not make the run go on: no call follows."""
    stubborn, claude = Stubborn(), ScriptedModel(asking(tool_use("cling", {})))

    async def scene(app: outlast.Outlast) -> None:
        driving = asyncio.create_task(app.arun(agent(stubborn.tool()), "Go.", run_id="r"))
        await asyncio.to_thread(stubborn.began.wait, 20)
        driving.cancel()
        await asyncio.sleep(0)
        stubborn.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await driving

    with outlast.Outlast("memory://", model=claude) as app:
        asyncio.run(scene(app))
        assert len(claude.calls) == 1
        assert app.resume("r", agent(stubborn.tool())).status == "waiting"
    assert stubborn.ran == 1, "a once call is in doubt, and not repeated"


def test_a_clinging_sibling_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that lets go waits for calls that ignore it for a while, and not for ever."""
    monkeypatch.setattr("outlast.runner.PATIENCE_S", 0.05)
    stubborn = Stubborn()
    uses = [tool_use("cling", {}), tool_use("cling", {})]

    async def scene(app: outlast.Outlast) -> bool:
        driving = asyncio.create_task(app.arun(agent(stubborn.tool()), "Go.", run_id="r"))
        await asyncio.to_thread(stubborn.began.wait, 20)
        driving.cancel()
        done, _ = await asyncio.wait({driving}, timeout=20)
        clinging = not stubborn.let_go.is_set()
        stubborn.let_go.set()
        with contextlib.suppress(asyncio.CancelledError):
            await driving
        return bool(done) and clinging

    with outlast.Outlast("memory://", model=ScriptedModel(asking(*uses))) as app:
        assert asyncio.run(scene(app)), "the driver waited for a call that ignores it"


def test_closing_frees_a_caller_whose_tool_clings() -> None:
    """Closing an application lets its callers go, whatever their tools do."""
    stubborn = Stubborn()
    app = outlast.Outlast("memory://", model=ScriptedModel(asking(tool_use("cling", {}))))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(app.run, agent(stubborn.tool()), "Go.", run_id="r")
        assert stubborn.began.wait(20)
        app.close()
        closed = running.exception(20)
        stubborn.let_go.set()
    assert isinstance(closed, outlast.UsageError)
    assert "was closed while this call was under way" in str(closed)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_what_leaves_through_the_loop_ends_nothing_else(error: BaseException) -> None:
    """Whatever gets as far as the application's loop is raised to its caller, and others go on."""

    async def leaves() -> None:
        raise error

    with outlast.Outlast("memory://", model=ScriptedModel(asking())) as app:
        with pytest.raises(type(error)):
            app._background.run(leaves())
        assert app.run(agent(), "Go.").status == "completed"
