"""Functions that find out what became of a call, and under which the process dies."""

import msgspec

import outlast
from outlast.events import ReconcileStarted, ToolCallReconciled
from outlast.journal import run_stream
from outlast.models.script import tool_results, tool_use
from outlast.stores import open_store
from outlast.testing.simulation import Crash, World, run
from stubs import agent, asking


def test_what_kills_its_process_is_left() -> None:
    """A process may die five times under a function that finds out; then people are asked."""
    called: list[str] = []

    def was_sent(to: str) -> None:
        called.append(to)
        raise Crash(to)

    @outlast.tool(effect="once", reconcile=was_sent)
    def send(to: str) -> str:
        """Send it."""
        raise ConnectionResetError("cut")

    journal, world = open_store("memory://"), World(asking(tool_use("send", {"to": "ann"})))
    state, crashes = run(world, journal, agent(send), "Go.")
    assert (state.status, crashes, called) == ("waiting", 5, ["ann"] * 5)
    assert "waiting for a person: did send (ask-1.m1.t1) happen?" in state.why
    events = [record.event for record in journal.read(run_stream("r"))]
    assert [e.attempt for e in events if isinstance(e, ReconcileStarted)] == [1, 2, 3, 4, 5]
    (said,) = [e for e in events if isinstance(e, ToolCallReconciled)]
    assert (said.outcome, said.note) == ("unknown", "the process ended under was_sent 5 times")
    assert len(world.requests) == 1, "Claude is told nothing yet"


def test_what_was_found_out_beside_a_result_is_told() -> None:
    """Claude gets the result, and what the function says to it."""

    def was_sent(to: str) -> outlast.Reconciled:
        return outlast.Reconciled(happened=True, result="sent", note="It is in the book.")

    @outlast.tool(effect="once", reconcile=was_sent)
    def send(to: str) -> str:
        """Send it."""
        raise ConnectionResetError("cut")

    world = World(asking(tool_use("send", {"to": "ann"})))
    state, _ = run(world, open_store("memory://"), agent(send), "Go.")
    assert state.status == "completed"
    (result,) = tool_results(msgspec.json.decode(world.requests[-1]))
    assert [block["text"] for block in result["content"]] == ["sent", "It is in the book."]
    assert "is_error" not in result
