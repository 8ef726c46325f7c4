"""A run is told something while its worker is killed, and nothing of that is lost or half done.

The worker freezes itself at an append; then the run is told, and then the worker is killed, so
nobody was there to hear it.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import pytest
import shop
from yard import LONG, Worker, Yard, until

from conftest import SOAK
from outlast.events import ApprovalGiven, ControlGiven
from outlast.journal import Commit, Record, run_stream
from outlast.state import fold, row

POINTS = [
    ("model_call_started", "before", 1),
    ("model_call_started", "after", 1),
    ("model_call_succeeded", "before", 1),
    ("tool_call_started", "after", 1),
    ("tool_call_succeeded", "before", 1),
    ("tool_call_succeeded", "after", 1),
    ("run_finished", "before", 1),
]

WAITING = [
    ("approval_requested", "after", 1),
    ("run_parked", "before", 1),
    ("run_parked", "after", 1),
]

ALLOWED = [("step_started", "before", 1), ("step_finished", "after", 1)]


def tell(yard: Yard, run_id: str, event: Any) -> None:
    """Write an outside event into a run, as the commands do."""
    stream = run_stream(run_id)
    state = fold(yard.journal.read(stream))
    after = fold((Record(stream, state.next_seq, 0, time.time_ns(), 0, event),), state)
    commit = Commit(
        stream=stream,
        events=(event,),
        at=after.updated_at,
        expected_seq=state.next_seq,
        row=row(after, run_id),
    )
    yard.journal.append(commit)


def struck(yard: Yard, point: tuple[str, str, int]) -> Worker:
    """Return a worker that is frozen at a point of the run."""
    event, when, nth = point
    at = {"event": event, "run": "r", "nth": nth, "when": when, "signal": "SIGSTOP"}
    victim = yard.worker("--lease", LONG, at=at)
    until(victim.is_stopped, f"a worker that freezes {when} {event}")
    return victim


def probed(yard: Yard, name: str) -> None:
    """Wait until a worker has driven another run, and so had its time for this one."""
    yard.app.start(shop.user, "q", run_id=name)
    yard.until_are("completed", [name])


def some(points: list[Any], first: int) -> list[Any]:
    return points if SOAK else points[first::4]


@pytest.mark.parametrize("point", some(POINTS, 1), ids=str)
def test_paused(yard: Yard, point: tuple[str, str, int]) -> None:
    """A run that is told to pause begins nothing more, and goes on once it is resumed."""
    yard.app.start(shop.user, "q use look keep send", run_id="r")
    victim = struck(yard, point)
    yard.app.pause("r", reason="wait")
    victim.kill()
    done, asked = len(yard.lines("effects")), len(yard.lines("requests"))
    yard.worker("--lease", LONG)
    yard.until_are("paused", ["r"])
    probed(yard, "probe")
    assert len(yard.lines("effects")) == done, "a paused run did something"
    assert len(yard.lines("requests")) == asked + 1, "a paused run asked Claude"
    tell(yard, "r", ControlGiven(verb="resume"))
    yard.until_are("completed", ["r"])
    yard.judge()


@pytest.mark.parametrize("point", some(POINTS, 0), ids=str)
def test_cancelled(yard: Yard, point: tuple[str, str, int]) -> None:
    """A run that is told to end ends, and begins nothing more."""
    yard.app.start(shop.user, "q use look keep send", run_id="r")
    victim = struck(yard, point)
    yard.app.cancel("r", reason="enough")
    victim.kill()
    done, asked = len(yard.lines("effects")), len(yard.lines("requests"))
    yard.worker("--lease", LONG)
    yard.until_are("cancelled", ["r"])
    probed(yard, "probe")
    assert len(yard.lines("effects")) == done
    assert len(yard.lines("requests")) == asked + 1
    assert "enough" in yard.row("r").why
    yard.judge()


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_killed_while_it_obeys(yard: Yard, verb: Literal["pause", "cancel"]) -> None:
    """Who is told something and killed before it is written that he obeyed is obeyed for."""
    yard.app.start(shop.user, "q use slow", run_id="r")
    at = {
        "event": "tool_call_succeeded",
        "run": "r",
        "nth": 1,
        "when": "before",
        "signal": "SIGKILL",
    }
    victim = yard.worker("--lease", LONG, at=at)
    until(lambda: yard.did("slow begins"), "a tool at work")
    (yard.app.pause if verb == "pause" else yard.app.cancel)("r", reason="now")
    yard.open_gate()
    victim.ended()
    yard.worker("--lease", LONG)
    yard.until_are("paused" if verb == "pause" else "cancelled", ["r"])
    if verb == "pause":
        tell(yard, "r", ControlGiven(verb="resume"))
        yard.until_are("completed", ["r"])
    assert len(yard.did("slow begins")) == 1
    yard.judge()


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("point", WAITING if SOAK else WAITING[1:2], ids=str)
def test_answered(yard: Yard, point: tuple[str, str, int], *, approved: bool) -> None:
    """A yes and a no reach a flow whose worker was killed when they were given."""
    yard.app.start(shop.careful, "q", run_id="r")
    victim = struck(yard, point)
    tell(yard, "r", answer(yard, approved=approved))
    victim.kill()
    yard.worker("--lease", LONG)
    yard.until_are("completed", ["r"])
    assert len(yard.did("send")) == approved
    assert len(yard.lines("requests")) == 1, "Claude was asked again"
    yard.judge()


@pytest.mark.parametrize("point", ALLOWED if SOAK else ALLOWED[:1], ids=str)
def test_killed_when_answered(yard: Yard, point: tuple[str, str, int]) -> None:
    """Who is killed when he goes on with what was allowed does not lose that."""
    yard.app.start(shop.careful, "q", run_id="r")
    first = yard.worker("--lease", LONG)
    yard.until_are("waiting", ["r"])
    first.kill()
    first.ended()
    tell(yard, "r", answer(yard, approved=True))
    victim = struck(yard, point)
    victim.kill()
    yard.worker("--lease", LONG)
    yard.until_are("completed", ["r"])
    assert len(yard.did("send")) == 1
    assert len(yard.lines("requests")) == 1
    yard.judge()


def answer(yard: Yard, *, approved: bool) -> ApprovalGiven:
    (request,) = fold(yard.journal.read(run_stream("r"))).approvals.requests.values()
    return ApprovalGiven(name=request.name, approved=approved, note="because", by="ada")
