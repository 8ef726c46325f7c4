"""What people say of a call in doubt, said at every point of a run whose driver is killed there."""

import itertools
import time
from typing import Any

import pytest

import outlast
from outlast.errors import InvalidInput, UsageError
from outlast.events import ControlGiven, ToolCallReconciled
from outlast.journal import Journal
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.settling import in_doubt
from outlast.state import RunState, fold
from outlast.stores import open_store
from outlast.telling import tell
from outlast.testing.simulation import World, run
from stubs import agent


class Bank:
    """A bank that is paid and does not reply; what it was paid outlives every crash."""

    def __init__(self, *, finds: bool | None = None, has_function: bool = False) -> None:
        self.paid: list[str] = []
        self.keys: set[str] = set()
        self.journal = open_store("memory://")
        self.said = 0

        def find(to: str, context: outlast.ToolContext) -> bool | None:
            """Look into the book."""
            assert context.idempotency_key in self.keys
            return finds

        more: dict[str, Any] = {"reconcile": find} if has_function else {}

        @outlast.tool(effect="once", **more)
        def pay(to: str, context: outlast.ToolContext) -> str:
            """Pay somebody."""
            self.paid.append(to)
            self.keys.add(context.idempotency_key)
            raise TimeoutError("no reply")

        self.who = agent(pay)

    def say(self, outcome: Any = "happened", result: Any = "paid", **more: Any) -> bool:
        """Say it, where there is somebody to say it to; return whether it was taken."""
        app = outlast.Outlast(self.journal, model=ScriptedModel(paying))
        given = result if outcome == "happened" else None
        try:
            app.reconcile("r", outcome=outcome, result=given, **more)
        except UsageError:
            return False
        self.said += 1
        return True

    def play(self, world: World) -> RunState:
        state, _ = run(world, self.journal, self.who, "Go.", run_id="r")
        return state


def paying(request: dict[str, Any], attempt: int) -> Any:
    return say(tool_use("pay", {"to": "ann"})) if turn_number(request) == 1 else say("Done.")


def answers(journal: Journal) -> list[ToolCallReconciled]:
    events = [record.event for record in journal.read("run:r")]
    return [one for one in events if isinstance(one, ToolCallReconciled) and not one.function]


@pytest.mark.parametrize("has_function", [True, False], ids=["function", "none"])
@pytest.mark.parametrize("outcome", ["happened", "did-not"])
def test_said_at_any_point(outcome: str, has_function: bool) -> None:  # noqa: FBT001
    """It is taken while the call is in doubt, once, and Claude is told just that; paid once."""
    taken = 0
    for point in itertools.count(1):
        for crashes in ([], [point], [point + 1]):
            bank = Bank(has_function=has_function)
            world = World(paying, at={point: lambda b=bank: b.say(outcome)}, crash_at=crashes)
            state = bank.play(world)
            if state.status == "waiting":  # its driver left before, or just when, it was said
                assert bank.said or bank.say(outcome)
                assert fold(bank.journal.read("run:r")).status == "queued"
                state = bank.play(World(paying))
            assert state.status == "completed", state.why
            assert len(bank.paid) <= 1
            assert len(answers(bank.journal)) == 1
            told = b"".join(map(bytes, state.asks["ask-1"].messages))
            assert (b'"content":"paid"' in told) == (outcome == "happened")
            assert (b"did not happen" in told) == (outcome == "did-not")
            taken += bank.said
        if world.points < point:
            break
    assert taken > 20


def test_the_function_was_faster() -> None:
    """What the tool's own function found out counts, and a person who says otherwise is told."""
    bank = Bank(finds=False, has_function=True)
    assert bank.play(World(paying)).status == "completed"
    app = outlast.Outlast(bank.journal, model=ScriptedModel(paying))
    with pytest.raises(UsageError, match="not to have happened by its function find at 20"):
        app.reconcile("r", outcome="happened")
    assert app.reconcile("r", outcome="did-not").status == "completed"


def test_the_key_is_that_of_the_call() -> None:
    """The key that a person looks for is the one that the tool was given."""
    bank = Bank()
    state = bank.play(World(paying))
    assert {one.key for one in in_doubt(state)} == bank.keys


def test_what_was_given_is_redacted_and_cut() -> None:
    """A result goes through `redact=`, as its note does, and is no longer than results may be."""
    bank = Bank()
    bank.play(World(paying))
    app = outlast.Outlast(
        bank.journal,
        model=ScriptedModel(paying),
        redact=lambda text: text.replace("secret", "[gone]"),
    )
    long = {"key": "secret", "page": "word " * 200_000}
    app.reconcile("r", outcome="happened", result=long, note="a secret", by="secret")
    (event,) = answers(bank.journal)
    content = bytes(event.content).decode()
    assert "secret" not in content + event.note + event.by
    assert "[gone]" in content
    assert "[truncated:" in content
    assert len(content) < 500_000


def test_what_was_cut_can_be_said_again() -> None:
    """A result for which there was little room is cut to that, and is the same when said again."""

    def many(request: dict[str, Any], attempt: int) -> Any:
        return say(*(tool_use("pay", {"to": str(number)}) for number in range(20)))

    bank = Bank()
    run(World(many), bank.journal, bank.who, "Go.", run_id="r")
    app = outlast.Outlast(bank.journal, model=ScriptedModel(many))
    for _ in range(2):
        app.reconcile("r", call="ask-1.m1.t1", outcome="happened", result="word " * 15_000)
    (event,) = answers(bank.journal)
    assert b"[truncated:" in bytes(event.content)
    with pytest.raises(UsageError, match="with another result"):
        app.reconcile("r", call="ask-1.m1.t1", outcome="happened", result="words " * 15_000)


class Mute:
    """It has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("note", "told"),
    [
        (None, ""),
        (7, "7"),
        (Mute(), "Its note cannot be had (RuntimeError)."),
    ],
    ids=["none", "number", "mute"],
)
def test_a_function_may_say_anything_besides(note: Any, told: str) -> None:
    """What a function says that is no text brings nothing down: what it found out counts."""

    def find(to: str) -> outlast.Reconciled:
        """Look into the book."""
        return outlast.Reconciled(happened=True, result="paid", note=note)

    @outlast.tool(effect="once", reconcile=find)
    def pay(to: str) -> str:
        """Pay somebody."""
        raise TimeoutError("no reply")

    with outlast.Outlast("memory://", model=ScriptedModel(paying)) as app:
        assert app.run(agent(pay), "Go.", run_id="r").status == "completed"
        events = [record.event for record in app.log("r")]
    assert [one.note for one in events if isinstance(one, ToolCallReconciled)] == [told]


def test_what_cannot_be_shown_is_refused() -> None:
    """A result that is neither a text nor can be JSON is refused, and nothing is written."""
    bank = Bank()
    bank.play(World(paying))
    app = outlast.Outlast(bank.journal, model=ScriptedModel(paying))
    for wrong in (object(), b"\xff\xfe"):
        with pytest.raises(InvalidInput, match="the result cannot be"):
            app.reconcile("r", outcome="happened", result=wrong)
    assert answers(bank.journal) == []


def test_while_a_driver_waits_for_it() -> None:
    """Whoever drives the run in another thread goes on as soon as it is said."""
    bank = Bank()
    with outlast.Outlast(bank.journal, model=ScriptedModel(paying)) as app:
        app.start(bank.who, "Go.", run_id="r")
        with outlast.Worker(app, [bank.who]):
            given = wait_for(app, "waiting")
            assert given.why.startswith("waiting for a person: did pay (ask-1.m1.t1) happen?")
            assert bank.say()
            assert wait_for(app, "completed").answer == "Done."
    assert bank.paid == ["ann"]


def wait_for(app: outlast.Outlast, status: str) -> outlast.Run:
    for _ in range(400):
        if (found := app.get("r")).status == status:
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def test_nothing_is_in_doubt_that_is_over() -> None:
    """A run that is told to end has nothing in doubt that anybody could still say."""
    bank = Bank()
    bank.play(World(paying))
    state = fold(bank.journal.read("run:r"))
    assert [one.call_id for one in in_doubt(state)] == ["ask-1.m1.t1"]
    tell(bank.journal, "r", ControlGiven(verb="cancel"), strict=True)
    assert in_doubt(fold(bank.journal.read("run:r"))) == ()
    assert not bank.say()
