"""Control at the worst moments: frozen and killed drivers, two who cancel, calls that go on."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import outlast
from batch.mapped import quick
from outlast.actions import REST, World
from outlast.decide_control import decide_control
from outlast.events import (
    AnyEvent,
    ControlGiven,
    NoteAdded,
    ToolCallInDoubt,
    ToolCallSucceeded,
)
from outlast.journal import run_stream
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.state import fold
from stubs import MODEL

PATIENCE_S = 60.0

SOURCE = Path(outlast.__file__).parents[1]

DRIVER = """
import asyncio, sys
import outlast

class Slow:
    async def call(self, request, *, on_part):
        print("asked", flush=True)
        await asyncio.sleep(600)

who = outlast.Agent("seeker", model=sys.argv[2])
with outlast.Outlast(sys.argv[1], model=Slow()) as app:
    print(app.run(who, "Go.", run_id="r").status, flush=True)
"""

CANCEL = """
import sys
import outlast
from outlast.models.scripted import ScriptedModel

with outlast.Outlast(sys.argv[1], model=ScriptedModel(None)) as app:
    print("ready", flush=True)
    sys.stdin.readline()
    app.cancel("r", by=sys.argv[2])
    print(app.get("r").status, flush=True)
"""


def python(program: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )


def ended(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=PATIENCE_S)


def until(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up_at, "it never came to that"
        time.sleep(0.02)


def said(app: outlast.Outlast, *types: type, run_id: str = "r") -> list[AnyEvent]:
    return [r.event for r in app.log(run_id) if isinstance(r.event, types)]


def driven(work: Callable[[], outlast.Run]) -> tuple[threading.Thread, list[outlast.Run]]:
    found: list[outlast.Run] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


# ── processes ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fate", ["thawed", "killed"])
def test_a_frozen_driver_is_told(fate: str, tmp_path: Path) -> None:
    """A cancel waits for a driver that is frozen; thawed it obeys, and killed another ends it."""
    url = f"sqlite:///{tmp_path}/a.db"
    driver = python(DRIVER, url, MODEL)
    assert driver.stdout is not None
    try:
        assert driver.stdout.readline() == "asked\n"
        driver.send_signal(signal.SIGSTOP)
        with outlast.Outlast(url, model=ScriptedModel(lambda r, a: say("No."))) as app:
            told = app.cancel("r", by="ann")
            assert (told.status, told.why) == ("running", "cancelled by ann")
            if fate == "thawed":
                driver.send_signal(signal.SIGCONT)
                assert driver.stdout.readline() == "cancelled\n"
            else:
                driver.kill()
                driver.wait(PATIENCE_S)
                assert app.cancel("r").status == "cancelled"
            run = app.get("r")
            assert (run.status, run.why) == ("cancelled", "cancelled by ann")
            row = app.journal.run("r")
            assert row is not None
            assert row.cost_nano == row.in_doubt_nano > 0
            assert len(said(app, ControlGiven)) == 1
    finally:
        ended(driver)


def test_two_processes_cancel_at_once(tmp_path: Path) -> None:
    """Two who cancel at the same moment cancel once, and neither fails."""
    url = f"sqlite:///{tmp_path}/a.db"
    with outlast.Outlast(url, model=ScriptedModel(lambda r, a: say("No."))) as app:
        app.start(outlast.Agent("seeker", model=MODEL), "Go.", run_id="r")
        both = [python(CANCEL, url, name) for name in ("ann", "bob")]
        try:
            for each in both:
                assert each.stdout is not None
                assert each.stdout.readline() == "ready\n"
            for each in both:
                assert each.stdin is not None
                each.stdin.write("\n")
                each.stdin.flush()
            assert [each.wait(PATIENCE_S) for each in both] == [0, 0]
        finally:
            for each in both:
                ended(each)
        assert app.get("r").status == "cancelled"
        assert len(said(app, ControlGiven)) == 1


# ── time ────────────────────────────────────────────────────────────────────────────────────────


@outlast.flow
async def sleeper(run: outlast.Run, given: str) -> str:
    """Sleep for as long as it is told."""
    await run.sleep(given)
    return "slept"


def test_a_sleeping_flow_is_cancelled(tmp_path: Path) -> None:
    """A flow whose caller waits for it through a sleep ends at once when it is cancelled."""
    url = f"sqlite:///{tmp_path}/a.db"
    with outlast.Outlast(url, model=ScriptedModel(lambda r, a: say("No."))) as app:
        thread, found = driven(lambda: app.run(sleeper, "1h", run_id="r", wait_s=7_200))
        until(lambda: any(run.status == "parked" for run in app.runs()))
        app.cancel("r")
        thread.join(PATIENCE_S)
        assert [run.status for run in found] == ["cancelled"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_parked_run_is_paused(when: str) -> None:
    """A pause neither shortens nor lengthens a sleep: what is resumed sleeps for what is left."""
    model = ScriptedModel(lambda r, a: say("No."))
    with outlast.Outlast("memory://", model=model) as app:
        began = time.time()
        run = app.run(sleeper, "2s", run_id="r", wait_s=0)
        assert run.status == "parked"
        assert app.pause("r").status == "paused"
        if when == "after":
            until(lambda: time.time() > began + 2.1)
            assert app.run(sleeper, "2s", run_id="r").status == "paused"
        run = app.resume("r", sleeper, wait_s=0)
        if when == "before":
            assert run.status == "parked"
            run = app.resume("r", sleeper)
        assert (run.status, run.answer) == ("completed", "slept")
        assert time.time() >= began + 2


# ── what is in flight ───────────────────────────────────────────────────────────────────────────


def test_a_tool_that_ignores_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tools beside each other, one that ends in time is kept, and none can hold the run."""
    monkeypatch.setattr("outlast.decide_control.GRACE_NS", 10**9)
    monkeypatch.setattr("outlast.runner.PATIENCE_S", 0.3)
    both, go = threading.Barrier(3), threading.Event()
    over = threading.Event()

    @outlast.tool(effect="once")
    async def stubborn(word: str) -> str:
        """Go on whatever happens."""
        await asyncio.to_thread(both.wait, PATIENCE_S)
        while not over.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return word

    @outlast.tool(effect="once")
    async def quick(word: str) -> str:
        """End soon."""
        await asyncio.to_thread(both.wait, PATIENCE_S)
        await asyncio.to_thread(go.wait, PATIENCE_S)
        return word

    uses = [tool_use(name, {"word": "a"}) for name in ("stubborn", "quick")]
    who = outlast.Agent("seeker", model=MODEL, tools=[stubborn, quick])
    with outlast.Outlast("memory://", model=ScriptedModel(lambda r, a: say(*uses))) as app:
        thread, found = driven(lambda: app.run(who, "Go.", run_id="r"))
        both.wait(PATIENCE_S)
        canceller, _ = driven(lambda: app.cancel("r"))
        until(lambda: bool(said(app, ControlGiven)))
        go.set()
        thread.join(PATIENCE_S)
        canceller.join(PATIENCE_S)
        assert [run.status for run in found] == ["cancelled"]
        assert len(said(app, ToolCallSucceeded)) == 1
        (doubt,) = said(app, ToolCallInDoubt)
        assert isinstance(doubt, ToolCallInDoubt)
        assert doubt.kind == "cancelled"
        over.set()


class Held:
    """A Claude that answers once it is let."""

    def __init__(self, script: Any) -> None:
        self.asked, self.let = threading.Event(), threading.Event()
        self.model = ScriptedModel(script)

    async def call(self, request: Any, *, on_part: Any) -> Any:
        self.asked.set()
        while not self.let.is_set():  # noqa: ASYNC110  (set by another thread)
            await asyncio.sleep(0.02)
        return await self.model.call(request, on_part=on_part)


@outlast.tool(effect="once")
def look(word: str) -> str:
    """Look a word up."""
    return word * 2


def looking(request: dict[str, Any], attempt: int) -> Any:
    return say("Done.") if turn_number(request) > 1 else say(tool_use("look", {"word": "a"}))


@pytest.mark.parametrize("other", ["the same process", "another application"])
def test_notes_change_nothing(other: str, tmp_path: Path) -> None:
    """Remarks while Claude answers nudge the driver, and the run goes as it would without them."""
    url, model = f"sqlite:///{tmp_path}/a.db", Held(looking)
    who = outlast.Agent("seeker", model=MODEL, tools=[look])

    def kinds(run_id: str) -> list[str]:
        return [
            type(e).__name__
            for e in said(app, object, run_id=run_id)
            if not isinstance(e, NoteAdded)
        ]

    with outlast.Outlast(url, model=model) as app:
        thread, found = driven(lambda: app.run(who, "Go.", run_id="r"))
        assert model.asked.wait(PATIENCE_S)
        leg = app._own.live["r"]
        with outlast.Outlast(url, model=model) as second:
            for number in range(5):
                before = leg.seq
                (second if other == "another application" else app).note("r", f"remark {number}")
                until(lambda: leg.seq > before)  # noqa: B023  (it is called at once)
        model.let.set()
        thread.join(PATIENCE_S)
        assert [run.answer for run in found] == ["Done."]
        assert len(model.model.bill) == 2
        app.run(who, "Go.", run_id="s")
        assert kinds("r") == kinds("s")


class NeverEnding(ScriptedModel):
    """A Claude whose batches take a day."""

    async def batch_ended(self, batch_id: str) -> bool:
        self.polls += 1
        return False


@pytest.mark.parametrize("verb", ["cancel", "pause"])
def test_a_batch_on_its_way_is_given_up(verb: str) -> None:
    """Who cancels pays for what a batch may cost; who pauses fetches its results later."""
    model = NeverEnding(lambda r, a: say("Batched."))
    who = outlast.Agent("seeker", model=MODEL)

    @outlast.flow
    async def mapping(run: outlast.Run, given: list[str]) -> Any:
        """Ask in a batch."""
        return await run.map(who, given, name="each", batch=True)

    with quick(outlast.Outlast("memory://", model=model)) as app:
        thread, found = driven(lambda: app.run(mapping, ["a", "b"], run_id="r"))
        until(lambda: model.polls > 0)
        getattr(app, verb)("r")
        if verb == "cancel":
            thread.join(PATIENCE_S)
            assert {run.status for run in app.runs()} == {"cancelled"}
            rows = [row for row in app.journal.runs() if row.parent]
            assert len(rows) == 2
            assert all(row.cost_nano == row.in_doubt_nano > 0 for row in rows)
        else:
            assert {run.status for run in app.runs()} == {"paused"}
            state = fold(app.journal.read(run_stream("r/each/1")))
            assert decide_control(state, time.time_ns(), World()) is REST, "it is not charged"
            app.cancel("r")
            thread.join(PATIENCE_S)
        assert [run.status for run in found] == ["cancelled"]
        assert len(model.batches) == 1


def test_an_async_tool_cancels_its_own_run() -> None:
    """A run is cancelled from the loop that drives it, too."""
    app: Any = None

    @outlast.tool(effect="once")
    async def end(word: str) -> str:
        """Cancel the run."""
        await app.acancel("r", reason=word)
        return "cancelled"

    who = outlast.Agent("seeker", model=MODEL, tools=[end])
    model = ScriptedModel(lambda r, a: say(tool_use("end", {"word": "enough"})))
    with outlast.Outlast("memory://", model=model) as opened:
        app = opened
        run = app.run(who, "Go.", run_id="r")
        assert (run.status, run.why) == ("cancelled", "cancelled: enough")
        assert len(said(app, ToolCallSucceeded)) == 1
        assert len(model.bill) == 1
