"""What people say to what a run asks, said at every point of it, with its driver killed there."""

import itertools
import threading
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import outlast
from outlast import telling
from outlast.errors import UsageError
from outlast.events import ApprovalGiven, ToolCallStarted
from outlast.journal import Journal
from outlast.models.script import Script, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.state import RunState
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from stubs import agent, unmarked

S = 1_000_000_000
SKEWS = (-300, 0, 300)
"""Seconds by which the clock of whoever answers is ahead of the driver's."""


class Scene:
    """A run of a tool that has to be allowed beside one that has not, and what it really did."""

    def __init__(self, *, expires: str | None = None, effect: Any = "once") -> None:
        self.sent: list[str] = []
        self.looked: list[str] = []
        self.journal = open_store("memory://")

        def was_sent(to: str) -> outlast.Reconciled:
            return outlast.Reconciled(happened=to in self.sent, result=f"sent to {to}")

        @outlast.tool(
            effect=effect,
            approval="always",
            approval_expires=expires,
            reconcile=was_sent if effect == "once" else None,
        )
        def send(to: str) -> str:
            """Send it."""
            self.sent.append(to)
            return f"sent to {to}"

        @outlast.tool(effect="read")
        def look(word: str) -> str:
            """Look a word up."""
            self.looked.append(word)
            return word

        self.who = agent(send, look)

    def play(self, world: World) -> RunState:
        state, _ = run(world, self.journal, self.who, "Go.", run_id="r")
        return state


def sending(request: dict[str, Any], attempt: int) -> Any:
    if turn_number(request) > 1:
        return say("Done.")
    return say(tool_use("send", {"to": "ann"}), tool_use("look", {"word": "a"}))


SCRIPT: Script = sending
ANSWERS: dict[str, dict[str, Any]] = {
    "approve": {"by": "bob"},
    "edit": {"arguments": {"to": "carol"}, "by": "bob"},
    "deny": {"note": "not today", "by": "bob"},
}


def answered(journal: Journal, what: str) -> bool:
    """Say it, where there is somebody to say it to; return whether it was taken."""
    app = outlast.Outlast(journal, model=ScriptedModel(SCRIPT))
    try:
        (app.deny if what == "deny" else app.approve)("r", **ANSWERS[what])
    except UsageError:
        return False
    return True


def told(world: World) -> str:
    """Return the results that Claude was given last, and check that no history was changed."""
    bodies = [msgspec.json.decode(unmarked(body))["messages"] for body in world.requests]
    for before, after in itertools.pairwise(bodies):
        assert after[: len(before)] == before, "the history was changed"
    return msgspec.json.encode(bodies[-1][-1]).decode()


def check(scene: Scene, world: World, what: str) -> None:
    """Compare what happened with what was said."""
    expected = {"approve": ["ann"], "edit": ["carol"], "deny": [], "": []}[what]
    assert scene.sent == expected
    assert scene.looked, "the tool beside it was not called"
    seen = told(world)
    if what == "edit":
        assert "a person changed its arguments to" in seen
        assert "carol" in seen
    elif what == "deny":
        assert "A person did not allow this call of send, and it was not made: not today" in seen
    elif not what:
        assert "Nobody allowed this call of send in time" in seen
    assert ("a person changed" in seen) == (what == "edit")
    given = [r for r in scene.journal.read("run:r") if isinstance(r.event, ApprovalGiven)]
    assert len(given) == (1 if what else 0)


@pytest.mark.parametrize("crashes", [True, False], ids=["killed", "alive"])
@pytest.mark.parametrize("what", ANSWERS)
def test_answered_at_every_point(
    what: str, monkeypatch: pytest.MonkeyPatch, *, crashes: bool
) -> None:
    """Wherever it is said, and the driver dies there, it holds, and the tool is called once."""
    taken = 0
    for point in itertools.count(1):
        scene = Scene()
        came: list[bool] = []

        def tell(scene: Scene = scene, came: list[bool] = came) -> None:
            came.append(scene.journal.run("r") is not None and answered(scene.journal, what))

        world = World(SCRIPT, at={point: tell}, crash_at=[point] if crashes else [])
        monkeypatch.setattr(telling, "time", SimpleNamespace(time_ns=lambda w=world: w.now))
        state = scene.play(world)
        if world.points < point:
            break
        if came == [True]:
            taken += 1
            row = scene.journal.run("r")
            assert row is not None
            if state.status == "waiting":  # said once it was parked: it is for the next driver
                assert row.status == "queued", point
                state = scene.play(world)
            assert state.status == "completed", point
            assert not answered(scene.journal, "deny" if what != "deny" else "approve")
        else:
            assert state.status == "waiting", point
            assert scene.sent == []
            assert answered(scene.journal, what)
            assert answered(scene.journal, what), "said again, it is said once"
            assert scene.play(world).status == "completed"
        check(scene, world, what)
    assert taken >= 4


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("what", ANSWERS)
def test_in_time_or_late_at_every_point(
    what: str, skew: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken counts and what was refused does not, though two clocks are apart."""
    seen = set()
    for point in itertools.count(1):
        scene = Scene(expires="1h")
        came: list[bool] = []

        def tell(scene: Scene = scene, came: list[bool] = came) -> None:
            came.append(scene.journal.run("r") is not None and answered(scene.journal, what))

        world = World(SCRIPT, at={point: tell}, crash_at=[point])
        clock = SimpleNamespace(time_ns=lambda w=world: w.now + skew * S)
        monkeypatch.setattr(telling, "time", clock)
        assert scene.play(world).status == "completed"
        if world.points < point:
            break
        seen.add(came[0])
        check(scene, world, what if came[0] else "")
        assert not answered(scene.journal, "edit" if not came[0] else "deny") or what == "deny"
    assert seen == {True, False}


@pytest.mark.parametrize("effect", ["once", "idempotent", "read"])
@pytest.mark.parametrize("what", ["approve", "edit"])
def test_killed_after_it_was_allowed(what: str, effect: Any) -> None:
    """A call in doubt is treated by its effect, and repeated with the same arguments."""
    for point in itertools.count(1):
        scene = Scene(effect=effect)
        first = World(SCRIPT)
        assert scene.play(first).status == "waiting"
        assert answered(scene.journal, what)
        world = World(SCRIPT, crash_at=[point])
        assert scene.play(world).status == "completed"
        if world.points < point:
            break
        to = {"approve": "ann", "edit": "carol"}[what]
        assert set(scene.sent) <= {to}, "called with something else"
        assert len(scene.sent) <= (1 if effect == "once" else 2)
        assert effect == "once" or scene.sent
        records = scene.journal.read("run:r")
        intents = [r.event for r in records if isinstance(r.event, ToolCallStarted)]
        assert len([one for one in intents if one.tool == "send"]) >= len(scene.sent)
        seen = told(world)
        assert ("a person changed its arguments" in seen) == (what == "edit")


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_two_people_at_the_same_moment(store: str, tmp_path: Any) -> None:
    """Of a yes and a no at the same moment one counts, and the other is told of it."""
    for number in range(12):
        scene = Scene()
        if store == "sqlite":
            scene.journal = open_store(f"sqlite:///{tmp_path}/{number}.db")
        world = World(SCRIPT)
        assert scene.play(world).status == "waiting"
        said: dict[str, str] = {}
        ready = threading.Barrier(2)

        def say_it(
            what: str,
            ready: threading.Barrier = ready,
            said: dict[str, str] = said,
            journal: Journal = scene.journal,
        ) -> None:
            app = outlast.Outlast(journal, model=ScriptedModel(SCRIPT))
            ready.wait(30)
            try:
                getattr(app, what)("r", by=f"who would {what}")
            except UsageError as refused:
                said[what] = str(refused)
            else:
                said[what] = ""

        people = [threading.Thread(target=say_it, args=(what,)) for what in ("approve", "deny")]
        for one in people:
            one.start()
        for one in people:
            one.join(30)
        (won,) = [what for what, error in said.items() if not error]
        (lost,) = [error for error in said.values() if error]
        did = {"approve": "approved", "deny": "denied"}[won]
        assert f"was {did} by who would {won} at 2" in lost
        assert "the first answer counts" in lost
        scene.play(world)
        assert scene.sent == (["ann"] if won == "approve" else [])
        scene.journal.close()


def test_said_between_reading_and_writing() -> None:
    """Who is overtaken while writing reads again, and is told who was first."""
    scene = Scene()
    assert scene.play(World(SCRIPT)).status == "waiting"

    class Overtaken:
        def __init__(self, journal: Journal) -> None:
            self._journal = journal
            self.left = 1

        def __getattr__(self, name: str) -> Any:
            return getattr(self._journal, name)

        def append(self, commit: Any) -> Any:
            if self.left:
                self.left = 0
                assert answered(self._journal, "deny")
            return self._journal.append(commit)

    late: Any = Overtaken(scene.journal)
    with pytest.raises(UsageError, match=r"was denied by bob at 20.*the first answer counts"):
        outlast.Outlast(late, model=ScriptedModel(SCRIPT)).approve("r", by="ann")
    assert scene.play(World(SCRIPT)).status == "completed"
    assert scene.sent == []
