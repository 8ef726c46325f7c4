"""A spend limit of Claude's: one attempt, then nothing until somebody says that it is mended."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest

import outlast
from flow_stubs import events, named, of_kind, opened
from outlast.events import ControlGiven
from outlast.models.script import Fault, last_text, say, tool_use

ONE = named("one", instructions="One.")
LEAD = named("lead", instructions="You lead.", tools=[ONE.as_tool()])
LIMITS = {
    "402": Fault(kind="status", status=402, message="no credit"),
    "enforced": Fault(
        kind="status", status=429, error_code="enforced_spend_limit_reached", message="no credit"
    ),
    "contract": Fault(
        kind="status", status=429, error_code="contract_spend_limit_reached", message="no credit"
    ),
}


class Account:
    """An account that has nothing left to pay `poor` questions with, until it has."""

    def __init__(self, limit: str = "402") -> None:
        self.mended = False
        self._limit = LIMITS[limit]

    def __call__(self, request: dict[str, Any], attempt: int) -> Any:
        if request.get("tools") and len(request["messages"]) == 1:
            return say(tool_use("ask_one", {"question": "poor"}))
        if request.get("tools"):
            return say(request["messages"][-1]["content"][0]["content"])
        poor = "poor" in last_text(request)
        return self._limit if poor and not self.mended else say(f"re: {last_text(request)}")


@outlast.flow
async def asking(run: outlast.Run) -> list[Any]:
    """Ask two questions at once, one of which cannot be paid."""
    return [*await asyncio.gather(run.ask(ONE, "poor", name="a"), run.ask(ONE, "x", name="b"))]


@outlast.flow
async def parent(run: outlast.Run) -> Any:
    """Run the one that asks as a child."""
    return await run.map(asking, [None])


WHO = {
    "agent": (ONE, "poor", "re: poor"),
    "flow": (asking, None, ["re: poor", "re: x"]),
    "parent": (parent, None, [["re: poor", "re: x"]]),
    "lead": (LEAD, "go", "re: poor"),
}


def poor_calls(app: Any) -> int:
    """Return how often Claude was asked what cannot be paid."""
    return sum(b'"One."' in body and b'"poor"' in body for body in app.claude.calls)


@pytest.mark.parametrize("limit", LIMITS)
def test_exactly_one_attempt(limit: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is asked once, for nothing; the run is parked without a time, and a warning tells it."""
    account = Account(limit)
    with opened(script=account) as app, caplog.at_level(logging.WARNING, "outlast"):
        run = app.run(ONE, "poor", run_id="r")
        assert (run.status, run.wake_at, run.cost_nano) == ("parked", None, 0)
        assert "no credit" in run.why
        assert run.why.endswith("mend it, then: outlast resume r")
        (warned,) = caplog.records
        assert (warned.levelname, warned.run_id) == ("WARNING", "r")
        assert "spend_limit" in warned.getMessage()
        assert app.run(ONE, "poor", run_id="r", wait_s=0).status == "parked"
        assert (poor_calls(app), app.claude.billed_nano) == (1, 0)


@pytest.mark.parametrize("who", WHO)
def test_a_resume_goes_on(who: str) -> None:
    """Who resumes the first run of a tree goes on with all of it, with one attempt each time."""
    account = Account()
    asked, given, answer = WHO[who]
    with opened(script=account) as app:
        run = app.run(asked, given, run_id="r", wait_s=0)
        assert (run.status, run.wake_at) == ("parked", None), run.why
        assert run.why.endswith("outlast resume r")
        again = app.resume("r", asked, wait_s=0, by="ann")
        assert (again.status, poor_calls(app)) == ("parked", 2)
        account.mended = True
        assert app.resume("r", asked, by="ann").answer == answer
        assert poor_calls(app) == 3
        told = [one for row in app.runs() for one in of_kind(app, ControlGiven, row.id)]
        assert [(one.verb, one.by) for one in told] == [("resume", "ann")] * 2


@pytest.mark.parametrize("who", ["parent", "lead"])
def test_the_child_can_be_resumed(who: str) -> None:
    """Who resumes the run that met the limit leaves it to whoever drives its parent."""
    account = Account()
    asked, given, answer = WHO[who]
    with opened(script=account) as app:
        app.run(asked, given, run_id="r", wait_s=0)
        (child,) = (row for row in app.runs() if row.parent)
        account.mended = True
        assert app.resume(child.id, asking if who == "parent" else ONE).status == "queued"
        assert app.run(asked, given, run_id="r").answer == answer


def test_what_is_asked_beside_it_is_answered_and_does_not_ask_again() -> None:
    """A flow that is woken for something else asks no second time what could not be paid."""

    @outlast.flow
    async def beside(run: outlast.Run) -> Any:
        async def later() -> None:
            await run.sleep(1.5)
            await run.ask(ONE, "x", name="b")

        asked, _ = await asyncio.gather(run.ask(ONE, "poor", name="a"), later())
        return asked

    account = Account()
    with opened(script=account) as app:
        run = app.run(beside, None, run_id="r")
        assert run.status == "parked", run.why
        assert events(app).count("run_parked") == 2
        assert (poor_calls(app), len(app.claude.calls)) == (1, 2)
        account.mended = True
        assert app.resume("r", beside).answer == "re: poor"


def test_a_pause_in_between_changes_nothing() -> None:
    """A run that is paused while it waits goes on once it is resumed, and is asked once more."""
    account = Account()
    with opened(script=account) as app:
        app.run(ONE, "poor", run_id="r")
        assert app.pause("r").status == "paused"
        account.mended = True
        assert app.resume("r", ONE).answer == "re: poor"
        assert poor_calls(app) == 2


def test_a_worker_goes_on_only_when_somebody_said_so(tmp_path: Path) -> None:
    """No worker asks again by itself; once another process resumed the run, one does."""
    account, url = Account(), f"sqlite:///{tmp_path}/w.db"
    give_up_at = time.monotonic() + 30
    with opened(url, account) as app, opened(url, account) as other:
        app.start(parent, None, run_id="r")
        app.start(ONE, "x", run_id="s")
        with outlast.Worker(app, [parent, asking, ONE]):
            while other.get("r").status != "parked" and time.monotonic() < give_up_at:
                time.sleep(0.02)
            before = other.get("r")
            app.start(ONE, "y", run_id="t")
            while other.get("t").status != "completed" and time.monotonic() < give_up_at:
                time.sleep(0.02)
            assert (other.get("r"), poor_calls(app)) == (before, 1)
            account.mended = True
            (child,) = (row for row in other.runs() if row.parent)
            other.resume(child.id, asking)
            while other.get("r").status != "completed" and time.monotonic() < give_up_at:
                time.sleep(0.02)
        assert other.get("r").answer == [["re: poor", "re: x"]]
        assert (poor_calls(app), poor_calls(other)) == (2, 0)
