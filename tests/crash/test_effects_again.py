"""Before anything is repeated that was interrupted, it is looked at again whether it may be."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import outlast
from outlast.events import ToolCallStarted
from outlast.journal import run_stream
from outlast.models.script import Turn, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from stubs import MODEL, asking, results

SCRIPT = asking(tool_use("work", {"text": "a"}))
MAYBE = "An attempt before this may or may not have happened."


class Once(World):
    """A world in which the process dies under the first call of a tool, and stays dead."""

    def point(self, name: str) -> None:
        if self.trace and self.trace[-1] == "after ask-1.m1.t1":
            raise Gone
        super().point(name)


class Gone(BaseException):
    """Nobody starts the process again."""


class Interrupted:
    """A run whose process died when its tool had been called once."""

    def __init__(self, home: Path, effect: Any, **options: Any) -> None:
        self.effect, self.options = effect, options
        self.ran: list[str] = []
        self.url = f"sqlite:///{home}/a.db"
        self.simulated(Once(SCRIPT))
        assert len(self.ran) == 1
        self.model = ScriptedModel(SCRIPT)
        self.app = outlast.Outlast(self.url, model=self.model)

    def agent(
        self, *, tool_calls: int | None = None, fails: Exception | None = None, **more: Any
    ) -> outlast.Agent:
        """Return the agent, as it is declared by now."""

        def work(text: str, context: outlast.ToolContext) -> str:
            """Work."""
            self.ran.append(context.idempotency_key)
            if fails is not None:
                raise fails
            return text

        tool = outlast.tool(effect=self.effect, **(self.options | more))(work)
        budget = outlast.Budget(tool_calls=tool_calls)
        return outlast.Agent("a", model=MODEL, tools=[tool], max_tokens=512, budget=budget)

    def simulated(self, world: World) -> str:
        """Drive the run as far as this world lets it come, and return its status."""
        journal = open_store(self.url)
        with contextlib.suppress(Gone):
            run(world, journal, self.agent(), "Go.")
        row = journal.run("r")
        journal.close()
        assert row is not None
        return row.status

    def goes_on(self, **more: Any) -> outlast.Run:
        """Let the next process drive the run, with what is declared by then."""
        return self.app.run(self.agent(**more), "Go.", run_id="r")

    def is_repeated(self, **more: Any) -> None:
        """Let the run go on once more: now the call is repeated, with the key that it had."""
        assert self.goes_on(**more).status == "completed"
        self.was_repeated()

    def was_repeated(self) -> None:
        """Compare the calls that there were."""
        assert len(self.ran) == 2
        assert len({*self.ran}) == 1, "a repeat has the key of the first attempt"


@pytest.fixture(params=["read", "idempotent"])
def interrupted(request: pytest.FixtureRequest, tmp_path: Path) -> Interrupted:
    return Interrupted(tmp_path, request.param)


def test_it_is_repeated_where_nothing_was_changed(interrupted: Interrupted) -> None:
    """What may be repeated is, when the process died under it."""
    interrupted.is_repeated()


@pytest.mark.parametrize("is_set", [False, True], ids=["declared", "set"])
def test_a_lower_budget(interrupted: Interrupted, *, is_set: bool) -> None:
    """A run that may make no more calls of tools repeats none, until it may."""
    if is_set:
        interrupted.app.set_budget("run:r", turns=9, reason="less")
    stopped = interrupted.goes_on(tool_calls=1)
    assert (stopped.status, len(interrupted.ran)) == ("stopped", 1)
    assert "tool_calls" in (stopped.why or "")
    interrupted.is_repeated(tool_calls=2)


def test_a_pause(interrupted: Interrupted) -> None:
    """A run that was paused repeats nothing, until it is to go on."""
    interrupted.app.pause("r")
    assert interrupted.goes_on().status == "paused"
    assert interrupted.simulated(World(SCRIPT)) == "paused", "whoever drives it all the same"
    assert len(interrupted.ran) == 1
    assert interrupted.app.resume("r", interrupted.agent()).status == "completed"
    interrupted.was_repeated()


def test_a_cancellation(interrupted: Interrupted) -> None:
    """A run that was cancelled repeats nothing."""
    interrupted.app.cancel("r")
    assert interrupted.simulated(World(SCRIPT)) == "cancelled"
    assert interrupted.goes_on().status == "cancelled"
    assert len(interrupted.ran) == 1


def test_an_approval(interrupted: Interrupted) -> None:
    """A call that a person has to allow by now is repeated once one does."""
    assert interrupted.goes_on(approval="always").status == "waiting"
    assert len(interrupted.ran) == 1
    interrupted.app.approve("r", by="ann")
    interrupted.is_repeated(approval="always")


def test_a_denial(interrupted: Interrupted) -> None:
    """A call that nobody allows is not repeated, and Claude learns that it may have been made."""
    assert interrupted.goes_on(approval="always").status == "waiting"
    interrupted.app.deny("r", by="ann", note="No.")
    assert interrupted.goes_on(approval="always").status == "completed"
    assert len(interrupted.ran) == 1
    (told,) = results(interrupted.model)
    assert told["is_error"] is True
    assert (MAYBE in told["content"]) == (interrupted.effect == "idempotent")


@pytest.mark.parametrize("was", ["read", "idempotent"])
def test_it_is_once_by_now(tmp_path: Path, was: str) -> None:
    """A tool that is declared `once` by now is not repeated, whatever it was: somebody is asked."""
    interrupted = Interrupted(tmp_path, was)
    interrupted.effect = "once"
    waiting = interrupted.goes_on()
    assert (waiting.status, len(interrupted.ran)) == ("waiting", 1)


def test_a_stop_between_loss_and_repeat(tmp_path: Path) -> None:
    """A call whose loss was written before it became `once` is not repeated either."""
    interrupted = Interrupted(tmp_path, "idempotent")
    assert interrupted.goes_on(tool_calls=1).status == "stopped"
    interrupted.effect = "once"
    ended = interrupted.goes_on(tool_calls=9)
    assert (ended.status, len(interrupted.ran)) == ("completed", 1)
    (told,) = results(interrupted.model)
    assert told["is_error"] is True
    assert "may or may not have happened" in told["content"]


def test_a_timeout_before_it_became_once(tmp_path: Path) -> None:
    """What was tried in vain, and may have happened, is not tried again once it is `once`."""
    interrupted = Interrupted(tmp_path, "idempotent", attempts=3)
    stopped = interrupted.goes_on(tool_calls=2, fails=TimeoutError())
    assert (stopped.status, len(interrupted.ran)) == ("stopped", 2)
    interrupted.effect = "once"
    assert interrupted.goes_on(tool_calls=9).status == "completed"
    assert len(interrupted.ran) == 2
    (told,) = results(interrupted.model)
    assert "may or may not have happened" in told["content"]


@pytest.mark.parametrize("fails", [FileNotFoundError(), outlast.ToolError("No.")])
def test_a_repeat_that_fails(interrupted: Interrupted, fails: Exception) -> None:
    """That a repeat surely did nothing says nothing of the attempt that was interrupted."""
    assert interrupted.goes_on(fails=fails).status == "completed"
    interrupted.was_repeated()
    (told,) = results(interrupted.model)
    assert told["is_error"] is True
    is_perhaps = "may or may not have happened" in told["content"]
    assert is_perhaps == (interrupted.effect == "idempotent")


# ── keys ────────────────────────────────────────────────────────────────────────────────────────


def twice(request: dict[str, Any], attempt: int) -> Turn:
    """Call the same with the same arguments: twice in one reply, and once in the next."""
    uses = [tool_use("save", {"text": "a"}) for _ in range(3 - turn_number(request))]
    return say(*uses) if uses else say("done")


def saver(seen: list[tuple[str, str, str]], world: World, fails: Callable[[int], bool]) -> Any:
    """Return a tool with a fallback, both of which write their keys down."""

    def note(name: str, context: outlast.ToolContext) -> str:
        seen.append((name, context.call_id, context.idempotency_key))
        return "saved"

    @outlast.tool(effect="idempotent")
    def save_elsewhere(text: str, context: outlast.ToolContext) -> str:
        """Save it elsewhere."""
        return note("elsewhere", context)

    @outlast.tool(effect="idempotent", attempts=2, fallbacks=[save_elsewhere])
    def save(text: str, context: outlast.ToolContext) -> str:
        """Save it."""
        note("save", context)
        if fails(context.attempt):
            raise ConnectionRefusedError
        return "saved"

    return outlast.Agent("a", model=MODEL, tools=[save], max_tokens=512)


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_keys(fails: int) -> None:
    """A key is that of a call at a source: kept by retries and crashes, and shared with no other.

    Other calls are those with the same arguments, in the same reply or the next, too.
    """
    whole = World(twice)
    run(whole, open_store("memory://"), saver([], whole, lambda n: n <= fails), "Go.")
    for point in range(1, whole.points + 1):
        seen: list[tuple[str, str, str]] = []
        world = World(twice, crash_at=(point,))
        journal = open_store("memory://")
        state, _ = run(world, journal, saver(seen, world, lambda n: n <= fails), "Go.")
        assert state.status == "completed"
        keys: dict[tuple[str, str], set[str]] = {}
        for name, call_id, key in seen:
            keys.setdefault((name, ".".join(call_id.split(".")[:3])), set()).add(key)
        assert all(len(each) == 1 for each in keys.values()), point
        assert len({*map(frozenset, keys.values())}) == len(keys), point
        assert len([name for name, _ in keys if name == "save"]) == 3, "three calls"
        events = [record.event for record in journal.read(run_stream("r"))]
        assert [e for e in events if isinstance(e, ToolCallStarted)], "of which the run tells"
