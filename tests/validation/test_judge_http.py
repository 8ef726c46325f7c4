"""Judges over HTTP: whatever goes wrong with one, nothing becomes an answer by it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import outlast
from outlast import decide
from outlast.events import ModelCallStarted, VerdictGiven
from outlast.testing import simulator
from validation.answering import agent
from validation.judged import FAULTS, INJECTION

JUDGE = outlast.Judge("Is every grant real?", attempts=2)
JUDGED = agent(checks=[JUDGE], answer_attempts=1)
HURRIED = outlast.Judge("Is every grant real?", timeout_s=0.5, attempts=2)
"""One that is not waited for: only of what never comes, so that no machine is too slow."""


@pytest.fixture(scope="module")
def claude() -> Iterator[simulator.Simulator]:
    with (
        simulator.start("validation.judged:script", path=[Path(__file__).parents[1]]) as started,
        pytest.MonkeyPatch.context() as settings,
    ):
        settings.setenv("ANTHROPIC_BASE_URL", started.url)
        settings.setenv("ANTHROPIC_API_KEY", "any-key-will-do")
        settings.setattr(decide, "BACKOFF_S", (0.01,) * len(decide.BACKOFF_S))
        yield started


@pytest.fixture
def app(claude, tmp_path: Path) -> Iterator[outlast.Outlast]:
    with outlast.Outlast(f"sqlite:///{tmp_path}/r.db", breaker=None) as opened:
        yield opened


def verdict(app: outlast.Outlast) -> VerdictGiven:
    found = [one.event for one in app.log("r") if isinstance(one.event, VerdictGiven)]
    return next(one for one in found if one.kind == "judge")


def test_a_judge_that_finds_it_right_accepts_it(app):
    """So that what follows says something: the same answer is one, where its judge works."""
    run = app.run(JUDGED, "a task", run_id="r")
    assert run.status == "completed", run.why
    assert verdict(app).verdict == "passed"


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_of_a_judge_is_an_acceptance(fault, app, claude):
    """Malformed, refused, cut, silent, unsure, contradicting itself: the answer is rejected.

    What the judge was asked for is paid, and by the bill of the API no more than was counted.
    """
    before = claude.billed_nano
    who = agent(checks=[HURRIED], answer_attempts=1) if fault == "timed out" else JUDGED
    run = app.run(who, fault, run_id="r", wait_s=60)
    assert (run.status, run.answer) == ("rejected", None)
    assert len(run.rejected_answers) == 1
    said = verdict(app)
    assert said.verdict == ("fixable" if fault == "not sure" else "unverified"), said
    assert said.why or said.issues
    assert run.cost_nano >= claude.billed_nano - before
    assert said.cost_nano > 0 or fault == "overloaded", "which is surely not billed"


def test_what_an_answer_tells_its_judge_is_data(app, claude):
    """A judge that obeys any line it reads is not reached by a line of the answer."""
    run = app.run(JUDGED, "obeyed", run_id="r")
    assert run.status == "rejected", run.answer
    assert INJECTION in run.rejected_answers[0].answer[0]["name"]
    asked = [one.event for one in app.log("r") if isinstance(one.event, ModelCallStarted)]
    assert len(asked) == 2


def test_a_judge_that_is_down_is_tried_so_often(app, claude):
    """Its attempts are its own: the run does not wait for it for ever, and says what happened."""
    before = len(claude.requests())
    run = app.run(JUDGED, "down", run_id="r")
    assert len(claude.requests()) - before == 1 + 2
    assert "2 attempts came to nothing" in verdict(app).why
    assert run.status == "rejected"


@pytest.mark.parametrize(
    ("policy", "status"), [("reject", "rejected"), ("escalate", "waiting"), ("accept", "completed")]
)
def test_what_was_not_judged_is_as_it_is_declared(policy, status, app):
    """Rejected, for a person, or accepted and marked: never accepted without a mark."""
    judge = outlast.Judge("Is it real?", attempts=1, on_unjudged=policy)
    run = app.run(agent(checks=[judge]), "refused", run_id="r", wait_s=0.1)
    assert run.status == status
    assert run.degraded == (policy == "accept")
    assert (run.answer is not None) == (policy == "accept")
