"""Pause, resume and cancel: told from anywhere, at any point, and nothing paid for is lost."""

import asyncio
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import outlast
from outlast.errors import RunEnded, UsageError
from outlast.events import ControlGiven, ModelCallInDoubt, ModelCallSucceeded, ToolCallStarted
from outlast.journal import Journal
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from stubs import MODEL, agent

TURNS = 3


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word * 2


def looking(request: dict[str, Any], attempt: int) -> Any:
    if turn_number(request) > TURNS:
        return say("Done.")
    return say("Hm.", tool_use("look", {"word": str(turn_number(request))}))


def seeker(*tools: Any, name: str = "seeker") -> outlast.Agent:
    return outlast.Agent(name, model=MODEL, instructions=name, tools=tools or [look])


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"


def verbs(app: outlast.Outlast, run_id: str = "r") -> list[str]:
    events = (record.event for record in app.log(run_id))
    return [event.verb for event in events if isinstance(event, ControlGiven)]


# ── a run that nobody drives ────────────────────────────────────────────────────────────────────


def test_a_queued_run_is_paused_and_goes_on(url: str) -> None:
    """A run that is paused is not driven until it is resumed, by whoever comes."""
    model = ScriptedModel(looking)
    with outlast.Outlast(url, model=model) as app:
        app.start(seeker(), "Go.", run_id="r")
        told = app.pause("r", reason="a look first", by="ann")
        assert (told.status, told.why) == ("paused", "paused by ann: a look first")
        assert app.pause("r").why == "paused by ann: a look first"
        assert verbs(app) == ["pause"], "told again, it is told once"
        assert app.run(seeker(), "Go.", run_id="r").status == "paused"
        assert model.bill == []
        assert app.resume("r", seeker(), reason="looked", by="ann").status == "completed"
        assert verbs(app) == ["pause", "resume"]


def test_a_queued_run_is_cancelled(url: str) -> None:
    """A run that nobody drives is cancelled at once, for good."""
    with outlast.Outlast(url, model=ScriptedModel(looking)) as app:
        app.start(seeker(), "Go.", run_id="r")
        for _ in range(2):
            told = app.cancel("r", reason="not needed")
            assert (told.status, told.why) == ("cancelled", "cancelled: not needed")
        assert verbs(app) == ["cancel"]
        with pytest.raises(RunEnded):
            app.resume("r", seeker())


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_what_cannot_be_told(verb: str) -> None:
    """A run that has ended is told nothing, and it is said why."""
    with outlast.Outlast("memory://", model=ScriptedModel(looking)) as app:
        app.run(seeker(), "Go.", run_id="r")
        with pytest.raises(UsageError, match=f"'r' is completed, so there is nothing to {verb}"):
            getattr(app, verb)("r")
        with pytest.raises(outlast.RunNotFound):
            getattr(app, verb)("nobody")
        assert verbs(app) == []


def test_a_stopped_run_can_be_cancelled_and_not_paused() -> None:
    """Of a run that was stopped nothing is begun anyway."""
    few = outlast.Agent("few", model=MODEL, tools=[look], budget=outlast.Budget(turns=1))
    with outlast.Outlast("memory://", model=ScriptedModel(looking)) as app:
        assert app.run(few, "Go.", run_id="r").status == "stopped"
        with pytest.raises(UsageError, match="nothing to pause"):
            app.pause("r")
        assert app.cancel("r").status == "cancelled"


# ── a run that is driven ────────────────────────────────────────────────────────────────────────


def test_a_pause_waits_for_what_is_in_flight(url: str) -> None:
    """The tool that is at work ends, its outcome is kept, and nothing more is begun."""
    app: Any = None

    @outlast.tool(effect="once")
    def send(word: str) -> str:
        """Send it, while somebody presses pause."""
        app.pause("r", by="ann")
        return "sent"

    def sending(request: dict[str, Any], attempt: int) -> Any:
        return say(tool_use("send", {"word": "a"})) if turn_number(request) == 1 else say("Sent.")

    model = ScriptedModel(sending)
    with outlast.Outlast(url, model=model) as opened:
        app = opened
        who = seeker(send)
        paused = app.run(who, "Go.", run_id="r")
        assert (paused.status, paused.why) == ("paused", "paused by ann")
        assert len(model.bill) == 1
        assert app.resume("r", who).answer == "Sent."
        started = [r for r in app.log("r") if isinstance(r.event, ToolCallStarted)]
        assert len(started) == 1


class Slow:
    """A Claude that answers after it was told to, and says when it was asked."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.cancelled = False
        self._model = ScriptedModel(looking)

    async def call(self, request: Any, *, on_part: Any) -> Any:
        self.asked.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return await self._model.call(request, on_part=on_part)


@pytest.mark.parametrize("other", ["the same process", "another application"])
def test_a_cancel_gives_up_an_answer_on_its_way(other: str, tmp_path: Path) -> None:
    """An answer that takes minutes is given up within a moment, and charged as in doubt."""
    url, slow = f"sqlite:///{tmp_path}/a.db", Slow()
    with outlast.Outlast(url, model=slow) as app:
        app.start(seeker(), "Go.", run_id="r")
        found: list[outlast.Run] = []
        driving = threading.Thread(target=lambda: found.append(app.resume("r", seeker())))
        driving.start()
        assert slow.asked.wait(30)
        if other == "another application":
            with outlast.Outlast(url, model=slow) as second:
                second.cancel("r", reason="enough", by="ann")
        else:
            app.cancel("r", reason="enough", by="ann")
        driving.join(30)
        assert slow.cancelled
        assert [(run.status, run.why) for run in found] == [
            ("cancelled", "cancelled by ann: enough")
        ]
        doubts = [r.event for r in app.log("r") if isinstance(r.event, ModelCallInDoubt)]
        assert [event.kind for event in doubts] == ["cancelled"]
        assert app.get("r").cost_nano == doubts[0].cost_nano > 0


def test_children_follow(url: str) -> None:
    """Who pauses, resumes or cancels a run does so with all below it."""
    started = threading.Event()

    @outlast.tool(effect="read")
    async def wait(word: str) -> str:
        """Wait until somebody does something about it."""
        started.set()
        await asyncio.sleep(0.4)
        return word

    def script(request: dict[str, Any], attempt: int) -> Any:
        (tool,) = (tool["name"] for tool in request["tools"])
        given = {"question": "and?"} if tool == "ask_child" else {"word": "a"}
        return say(tool_use(tool, given)) if turn_number(request) == 1 else say("Fine.")

    child = outlast.Agent("child", model=MODEL, tools=[wait])
    lead = outlast.Agent("lead", model=MODEL, tools=[child.as_tool()])
    with outlast.Outlast(url, model=ScriptedModel(script)) as app:
        app.start(lead, "Go.", run_id="r")
        found: list[outlast.Run] = []
        driving = threading.Thread(target=lambda: found.append(app.resume("r", lead)))
        driving.start()
        assert started.wait(30)
        app.pause("r")
        driving.join(30)
        assert {run.status for run in app.runs()} == {"paused"}
        assert app.resume("r", lead).answer == "Fine."
        assert {run.status for run in app.runs()} == {"completed"}
        app.start(lead, "Go.", run_id="s")
        started.clear()
        driving = threading.Thread(target=lambda: app.resume("s", lead))
        driving.start()
        assert started.wait(30)
        app.cancel("s")
        driving.join(60)
        assert {run.status for run in app.runs() if run.id.startswith("s")} == {"cancelled"}


# ── at every point ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_told_at_every_point(verb: Any) -> None:
    """Wherever it is told, and the process dies there, it holds, and no paid outcome is lost."""
    for point in itertools.count(1):
        journal = open_store("memory://")
        app = outlast.Outlast(journal, model=ScriptedModel(looking))

        def tell(journal: Journal = journal, app: outlast.Outlast = app) -> None:
            if journal.run("r") is not None:
                with_outcome(app, verb)

        world = World(looking, at={point: tell}, crash_at=[point])
        run(world, journal, agent(None, tools=[look]), "Go.", run_id="r")
        if world.points < point:
            break
        told = [event for event in verbs(app) if event == verb]
        status = app.get("r").status
        if told:
            assert status == {"pause": "paused", "cancel": "cancelled"}[verb], point
        billed = sum(charge.nano_usd for charge in world.model.bill)
        assert billed <= app.get("r").cost_nano
        kept = sum(isinstance(r.event, ModelCallSucceeded) for r in app.log("r"))
        doubted = sum(isinstance(r.event, ModelCallInDoubt) for r in app.log("r"))
        assert kept + doubted >= len(world.model.bill)


def with_outcome(app: outlast.Outlast, verb: str) -> None:
    try:
        getattr(app, verb)("r")
    except UsageError:
        return


def test_what_anybody_writes_is_seen(tmp_path: Path) -> None:
    """What a store counts of its changes moves when another handle writes, and only then."""
    journal = open_store(f"sqlite:///{tmp_path}/a.db")
    other = open_store(f"sqlite:///{tmp_path}/a.db")
    before = journal.changes()
    assert journal.changes() == before
    with outlast.Outlast(other, model=ScriptedModel(looking)) as app:
        app.start(seeker(), "Go.", run_id="r")
    assert journal.changes() != before
    journal.close()


def test_who_resumes_a_parked_run_leaves_paused_children_paused(url: str) -> None:
    """What somebody paused below a run that only waits goes on when that one is resumed."""

    @outlast.flow
    async def nap(run: outlast.Run, seconds: float) -> str:
        await run.sleep(seconds)
        return "slept"

    @outlast.flow
    async def naps(run: outlast.Run) -> list[str]:
        return await run.map(nap, [1.5, 1.5], name="m")  # type: ignore[no-any-return]

    with outlast.Outlast(url, model=ScriptedModel(lambda r, a: say("No."))) as app:
        assert app.run(naps, run_id="r", wait_s=0).status == "parked"
        app.pause("r/m/1", reason="not yet")
        while app.get("r/m/2").status != "completed":
            app.resume("r", naps, wait_s=1)
        assert app.get("r/m/1").status == "paused"
        assert app.resume("r", naps, wait_s=0).status == "waiting"
        assert app.resume("r/m/1", nap).status in ("parked", "queued")
        assert app.resume("r", naps).answer == ["slept", "slept"]


def test_all_who_wait_for_a_parked_run_are_told(url: str) -> None:
    """Of several callers that wait for a run to wake, each hears at once that it was cancelled."""

    @outlast.flow
    async def nap(run: outlast.Run) -> None:
        await run.sleep("1h")

    found: list[str] = []
    with outlast.Outlast(url, model=ScriptedModel(lambda r, a: say("No."))) as app:
        assert app.run(nap, run_id="r", wait_s=0).status == "parked"
        waiting = [
            threading.Thread(target=lambda: found.append(app.resume("r", nap, wait_s=7_200).status))
            for _ in range(3)
        ]
        for one in waiting:
            one.start()
        give_up_at = time.monotonic() + 30
        while _depth(app) < len(waiting):
            assert time.monotonic() < give_up_at, "they do not come to wait"
            time.sleep(0.01)
        app.cancel("r")
        for one in waiting:
            one.join(30)
    assert found == ["cancelled"] * 3


def _depth(app: outlast.Outlast) -> int:
    """Return how many wait for the run."""
    depth, one = 0, app._waiting.get("r")
    while one is not None:
        depth, one = depth + 1, one.before()
    return depth
