"""What checks said, beside what people say: read from journals written event by event."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import outlast
from checked_runs import ASK, AT, label, records, run_of, said, verdict
from outlast.events import (
    AnyEvent,
    ApprovalGiven,
    ApprovalRequested,
    AskStarted,
    ModelCallSucceeded,
    Spec,
    tag,
)
from outlast.models.scripted import ScriptedModel
from outlast.views.calibration import Calibration, Uncalibrated
from outlast.views.verdicts import KINDS, Judged, Reading, current, short, void
from validation.answering import (
    EMPTY,
    GOOD,
    agent,
    answers,
    finds_some,
    opinion,
    says_who_is_eligible,
)

M1, M2 = f"{ASK}.m1", f"{ASK}.m2"


def read(*runs: Sequence[AnyEvent], agent: str = "", check: str = "") -> Reading:
    """Return what runs tell, each a day after the other."""
    reading = Reading(agent, check)
    for number, events in enumerate(runs):
        at = AT + number * 86_400 * 10**9
        reading.take(f"r{number}", records(events, f"r{number}", at))
    return reading


def only(reading: Reading) -> Judged:
    (row,) = reading.rows()
    return row


def judged(said: str, *, good: bool | None = None, **more: object) -> list[AnyEvent]:
    """Return a run with one answer, what was said of it, and its label."""
    after = [] if good is None else [label(M1, good=good)]
    return run_of(("x", [verdict(M1, said, **more)]), after=after)


# ── what is counted ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "good", "where"),
    [
        ("passed", True, "agreed"),
        ("passed", False, "missed"),
        ("fixable", True, "false_alarms"),
        ("fixable", False, "caught"),
        ("terminal", True, "false_alarms"),
        ("terminal", False, "caught"),
        ("unverified", True, "undecided"),
        ("unverified", False, "undecided"),
        ("needs_person", True, "undecided"),
        ("needs_person", False, "undecided"),
    ],
)
def test_a_label_is_counted_by_what_was_said(*, said: str, good: bool, where: str) -> None:
    """A check objects by two verdicts; of those that do not decide, labels are counted apart."""
    row = only(read(judged(said, good=good)))
    counts = ("agreed", "missed", "false_alarms", "caught", "undecided")
    assert {name for name in counts if getattr(row, name)} == {where}
    assert row.verdicts == {said: 1}
    assert row.table.labelled == (where != "undecided")


_SAID = st.tuples(st.sampled_from(KINDS), st.sampled_from([True, False, None]))


@given(st.lists(_SAID, max_size=12))
def test_all_answers_are_in_one_place(said: list[tuple[str, bool | None]]) -> None:
    """The five kinds add up to the answers, and what labels came to adds up to the labels."""
    reading = read(*(judged(kind, good=good) for kind, good in said))
    if not said:
        assert reading.rows() == []
        return
    row = only(reading)
    assert row.answers == len(said)
    assert {kind: row.verdicts.get(kind, 0) for kind in KINDS} == {
        kind: sum(one == kind for one, _ in said) for kind in KINDS
    }
    assert row.table.labelled + row.undecided == sum(good is not None for _, good in said)
    assert row.table.objected + row.table.passed <= row.answers


def test_the_last_word_counts() -> None:
    """Of what people say of an answer the last counts, an approval with another answer included."""
    words = [label(M1, good=True, by="ann"), label(M1, good=False, by="bob")]
    assert only(read(run_of(("x", [verdict(M1, "passed")]), after=words))).missed == 1
    words.reverse()
    assert only(read(run_of(("x", [verdict(M1, "passed")]), after=words))).agreed == 1
    events = run_of(("x", [verdict(M1, "needs_person"), verdict(M1, "fixable", check="b")]))[:-2]
    asked = ApprovalRequested(question="?", name="q", ask_id=ASK, answer=said("x"))
    edited = ApprovalGiven(approved=True, name="q", answer=said("y"))
    rows = {row.check: row for row in read([*events, asked, edited]).rows()}
    assert (rows["b"].caught, rows["grounded"].undecided) == (1, 1)


def test_each_attempt_is_an_answer() -> None:
    """Each answer has its own verdict and label, whatever became of the others."""
    events = run_of(
        ("x", [verdict(M1, "fixable")]),
        ("y", [verdict(M2, "passed")]),
        after=[label(M1, good=False), label(M2, good=True)],
    )
    row = only(read(events))
    assert (row.caught, row.agreed, row.answers) == (1, 1, 2)


def test_a_verdict_given_twice_counts_once_and_costs_twice() -> None:
    """After a crash a check is asked again: its last verdict counts, and what both cost."""
    twice = [
        verdict(M1, "unverified", kind="judge", cost_nano=300),
        verdict(M1, "fixable", kind="judge", cost_nano=500),
    ]
    row = only(read(run_of(("x", twice), after=[label(M1, good=False)])))
    assert (row.verdicts, row.caught, row.cost_nano) == ({"fixable": 1}, 1, 800)


def test_costs_are_told_for_each_verdict_and_each_error_caught() -> None:
    """What it cost is divided by its answers, and by the errors it caught, rounded up."""
    runs = [
        judged("fixable", good=False, cost_nano=100),
        judged("passed", good=True, cost_nano=101),
        judged("passed", good=False, cost_nano=100),
    ]
    row = only(read(*runs))
    assert (row.cost_nano, row.nano_per_verdict, row.nano_per_caught) == (301, 101, 301)
    assert only(read(runs[1])).nano_per_caught is None


def test_a_check_is_that_of_an_agent() -> None:
    """A check that several agents have is told of each, by the agent that was asked."""
    other = Spec(agent="writer", model="m", max_tokens=1)
    asks = [
        AskStarted(ask_id="a", spec=other),
        verdict("a.m1", "passed", ask_id="a"),
        AskStarted(ask_id="b", continues="a"),
        verdict("b.m1", "terminal", ask_id="b"),
    ]
    reading = read([*judged("passed"), *asks])
    assert [(row.agent, row.verdicts) for row in reading.rows()] == [
        ("finder", {"passed": 1}),
        ("writer", {"passed": 1, "terminal": 1}),
    ]
    assert [row.agent for row in read([*judged("passed"), *asks], agent="writer").rows()] == [
        "writer"
    ]


def test_one_check_is_looked_at() -> None:
    """With the name of a check, only that is told of, and nothing else."""
    runs = (judged("fixable"), judged("fixable", check="other"))
    assert [row.check for row in read(*runs, check="grounded").rows()] == ["grounded"]


def test_a_run_that_breaks_off_is_not_counted_by_half() -> None:
    """Where a run cannot be read to its end, nothing of it counts."""

    def broken():
        yield from records(judged("fixable"))
        raise OSError("damaged")

    reading = Reading()
    with pytest.raises(OSError, match="damaged"):
        reading.take("r", broken())
    assert reading.rows() == []


# ── versions ────────────────────────────────────────────────────────────────────────────────────


def labelled(version: str, model: str = "", times: int = 15) -> list[list[AnyEvent]]:
    """Return runs with labels enough to calibrate a version."""
    told = {"version": version, "model": model}
    right = [judged("fixable", good=False, **told), judged("passed", good=True, **told)]
    return [run for _ in range(times) for run in right]


@pytest.mark.parametrize(
    "changed", [{"version": "v2", "model": "m1"}, {"version": "v1", "model": "m2"}]
)
def test_another_prompt_or_model_voids_the_calibration(changed: dict[str, str]) -> None:
    """Labels tell of the version that judged; the next is not calibrated, and it is said whose."""
    before = labelled("v1", "m1")
    rows = read(*before).rows()
    assert isinstance(rows[0].calibration, Calibration)
    rows = read(*before, judged("passed", **changed)).rows()
    newest = current(rows)["finder", "grounded"]
    assert {"version": newest.version, "model": newest.model} == changed
    assert isinstance(newest.calibration, Uncalibrated)
    assert [(one.version, one.model, one.table.labelled) for one in void(rows, newest)] == [
        ("v1", "m1", 30)
    ]
    assert isinstance(void(rows, newest)[0].calibration, Calibration)
    assert void(rows, rows[-1]) == []


def test_a_version_that_judges_again_is_the_newest() -> None:
    """Which version is in force is told by the last verdict: who goes back has its labels again."""
    rows = read(*labelled("v1"), judged("passed", version="v2"), judged("passed")).rows()
    newest = current(rows)["finder", "grounded"]
    assert newest.version == "v1"
    assert isinstance(newest.calibration, Calibration)


def test_the_newest_version_comes_first() -> None:
    """Rows are in the order of agents and checks, the newest version of each first."""
    runs = [judged("passed", check=check, version=v) for v in ("v1", "v2") for check in ("b", "a")]
    assert [(row.check, row.version) for row in read(*runs).rows()] == [
        ("a", "v2"),
        ("a", "v1"),
        ("b", "v2"),
        ("b", "v1"),
    ]


# ── what is worth a label ───────────────────────────────────────────────────────────────────────


def two(one: str, other: str, **more: Any) -> list[AnyEvent]:
    return run_of(("x", [verdict(M1, one), verdict(M1, other, check="other")]), **more)


def worth(*runs: Sequence[AnyEvent], check: str = "grounded") -> tuple[str, int] | None:
    """Return the run, and the attempt, that is to be labelled first for a check."""
    reading = read(*runs)
    found = reading.worth([row for row in reading.rows() if row.check == check])
    return found and (found.run, found.attempt)


def test_what_checks_disagree_on_is_looked_at_first() -> None:
    """First what checks disagree on, then what was rejected, then the latest."""
    disputed, rejected = two("fixable", "passed"), two("fixable", "fixable", accepts=False)
    unsure = two("fixable", "unverified")
    assert worth(disputed, rejected, unsure) == ("r0", 0)
    assert worth(rejected, unsure) == ("r0", 0)
    assert worth(unsure, unsure) == ("r1", 0)


def test_what_is_labelled_is_not_asked_for_again() -> None:
    """An answer that has a label is worth none; where all have, there is nothing to label."""
    told = two("fixable", "passed", after=[label(M1, good=True)])
    assert worth(two("fixable", "fixable"), told) == ("r0", 0)
    assert worth(told) is None


def test_answers_of_which_labels_are_needed_come_first() -> None:
    """Where a check lacks labels of what it passed, such an answer is looked at, and its own."""
    seen = [judged("fixable", good=False) for _ in range(10)]
    some = [judged("passed"), judged("fixable"), judged("passed", check="other")]
    reading = read(*seen, *some)
    row = next(row for row in reading.rows() if row.check == "grounded")
    assert short(row) == ["passed"]
    assert worth(*seen, *some) == ("r10", 0)
    rows = read(*labelled("v1")).rows()
    assert short(rows[0]) == []
    assert worth(*labelled("v1"), judged("passed"), judged("fixable"), judged("passed")) == (
        *("r31", 0),
    )


def test_what_nobody_could_tell_comes_last() -> None:
    """An answer of which the check could not tell is looked at where there is no other."""
    assert worth(judged("passed"), judged("unverified")) == ("r0", 0)
    assert worth(judged("unverified")) == ("r0", 0)


def test_an_attempt_is_named_where_the_run_means_another() -> None:
    """The attempt is told where the label of the run would be about its accepted answer."""
    events = run_of(("x", [verdict(M1, "fixable")]), ("y", [verdict(M2, "passed", check="b")]))
    assert worth(events) == ("r0", 1)
    assert worth(events, check="b") == ("r0", 0)


# ── runs as they are driven ─────────────────────────────────────────────────────────────────────


def test_a_run_that_was_driven_is_read() -> None:
    """What a driver writes is read: of two answers two checks' verdicts, and one of a judge's."""
    judge = outlast.Judge("Is every grant real?", name="fair")
    who = agent(checks=[finds_some, says_who_is_eligible, judge])
    model = ScriptedModel(answers(EMPTY, GOOD, judge=[opinion()]))
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(who, "Find grants.", run_id="r")
        assert run.status == "completed"
        app.label("r", good=False, by="ann")
        app.label("r", good=False, by="ann", attempt=1)
        reading = Reading()
        reading.take("r", app.log("r"))
    rows = {row.check: row for row in reading.rows()}
    assert {name: row.kind for name, row in rows.items() if name in {"finds_some", "fair"}} == {
        "finds_some": "rule",
        "fair": "judge",
    }
    assert (rows["finds_some"].caught, rows["finds_some"].missed) == (1, 1)
    assert (rows["fair"].caught, rows["fair"].missed, rows["fair"].answers) == (0, 1, 1)
    assert 0 < rows["fair"].cost_nano < run.cost_nano
    assert rows["fair"].model


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ({"answer": [{"name": "Ladder", "eligibility": "charities"}]}, "caught"),
        ({}, "false_alarms"),
    ],
)
def test_who_decides_on_an_answer_labels_it(said: dict[str, Any], where: str) -> None:
    """An answer that a person approves was good, and one that a person edits was not."""
    who = agent(answer_attempts=1, last_resort="escalate")
    with outlast.Outlast("memory://", model=ScriptedModel(answers(EMPTY))) as app:
        assert app.run(who, "Find grants.", run_id="r", wait_s=0).status == "waiting"
        app.approve("r", by="ann", **said)
        told = Reading()
        told.take("r", app.log("r"))
        assert app.resume("r", agent=who).status == "completed"
        reading = Reading()
        reading.take("r", app.log("r"))
        app.label("r", good=False, by="bob")
        last = Reading()
        last.take("r", app.log("r"))
    row = {row.check: row for row in reading.rows()}["finds_some"]
    assert {name: getattr(row, name) for name in ("caught", "false_alarms")} == {
        "caught": int(where == "caught"),
        "false_alarms": int(where == "false_alarms"),
    }
    row = {row.check: row for row in told.rows()}["finds_some"]
    assert row.caught == int(where == "caught"), "an edit counts before the run goes on"
    row = {row.check: row for row in last.rows()}["finds_some"]
    assert (row.caught, row.false_alarms) == (1, 0), "the last word counts"


def test_what_a_fork_shares_is_counted_once() -> None:
    """The verdicts of the run that it was forked from are that run's."""
    with outlast.Outlast("memory://", model=ScriptedModel(answers(EMPTY, GOOD))) as app:
        app.run(agent(), "Find grants.", run_id="r")
        app.label("r", good=True, by="ann")
        log = app.log("r")
        given = [one.seq for one in log if tag(one.event) == "verdict_given"]
        app.fork("r", at=max(one for one in given if one < given[-1] - 3), new_id="f")
        reading = Reading()
        for run_id in ("r", "f"):
            reading.take(run_id, app.log(run_id))
        whole = {row.check: sum(row.verdicts.values()) for row in reading.rows()}
        assert sum(whole.values()) == len(given)


def test_who_labels_in_a_fork_labels_what_is_shared() -> None:
    """The answer was judged in the run it was given to, so the label counts there, and once."""
    with outlast.Outlast("memory://", model=ScriptedModel(answers(EMPTY, GOOD))) as app:
        app.run(agent(), "Find grants.", run_id="r")
        app.fork("r", at=app.log("r")[-1].seq, new_id="f")
        app.fork("f", at=app.log("f")[-1].seq, new_id="g")
        for _ in range(2):
            app.label("g", good=False, by="ann", why="closed")
        app.label("g", good=True, by="ann", attempt=1)
        reading = Reading()
        for run_id in ("r", "f", "g"):
            reading.take(run_id, app.log(run_id))
            labels = [one for one in app.log(run_id) if tag(one.event) == "label_given"]
            assert len(labels) == 2, run_id
    row = {row.check: row for row in reading.rows()}["finds_some"]
    assert (row.missed, row.false_alarms, row.answers) == (1, 1, 2)


@pytest.mark.parametrize("order", [("r", "f"), ("f", "r")])
def test_who_decides_in_a_fork_labels_what_is_shared(order: Sequence[str]) -> None:
    """A fork asks the person, and the check that objected is the original's."""
    who = agent(answer_attempts=1, last_resort="escalate")
    with outlast.Outlast("memory://", model=ScriptedModel(answers(EMPTY))) as app:
        app.run(who, "Find grants.", run_id="r", wait_s=0)
        (at,) = [one.seq for one in app.log("r") if isinstance(one.event, ApprovalRequested)]
        app.fork("r", at=at, new_id="f")
        app.deny("f", by="ann")
        assert app.resume("f", who).status == "rejected"
        reading = Reading()
        for run_id in order:
            reading.take(run_id, app.log(run_id))
    for _ in range(2):
        row = {row.check: row for row in reading.rows()}["finds_some"]
        assert (row.caught, row.false_alarms, row.answers) == (1, 0, 1)


def test_what_votes_cost_is_counted_where_they_were_paid() -> None:
    """Forked between a vote and the verdict, a run judges again for nothing."""
    judge = outlast.Judge("Is every grant real?", name="fair", votes=3)
    who = agent(checks=[judge])
    model = ScriptedModel(answers(GOOD, judge=[opinion(), opinion()]))
    with outlast.Outlast("memory://", model=model) as app:
        app.run(who, "Find grants.", run_id="r")
        votes = [
            one.seq
            for one in app.log("r")
            if isinstance(one.event, ModelCallSucceeded) and "fair" in one.event.ask_id
        ]
        assert len(votes) == 2
        for at in votes:
            app.fork("r", at=at, new_id=f"f{at}")
            assert app.resume(f"f{at}", who).status == "completed"
        reading = Reading()
        for row in app.runs():
            reading.take(row.id, app.log(row.id))
        spent = sum(line.settled_nano for line in app.journal.rollup() if line.tool == "check:fair")
    row = {row.check: row for row in reading.rows()}["fair"]
    assert row.cost_nano == spent > 0


def test_answers_in_flows_are_labelled_by_their_question() -> None:
    """Each ask of a flow has answers of its own, and the report names the one to look at."""

    @outlast.flow
    async def asks(run: outlast.Run, brief: str) -> int:
        first = await run.ask(agent(), brief, name="first")
        return len(first) + len(await run.ask(agent(), brief, name="second"))

    with outlast.Outlast("memory://", model=ScriptedModel(answers(GOOD))) as app:
        assert app.run(asks, "Find grants.", run_id="f").status == "completed"

        def worth() -> tuple[str, str] | None:
            reading = Reading()
            reading.take("f", app.log("f"))
            found = reading.worth(current(reading.rows()).values())
            return found and (found.run, found.ask)

        assert worth() == ("f", "first")
        app.label("f", good=True, ask="first", by="ann")
        assert worth() == ("f", "")
        app.label("f", good=True, by="ann")
        assert worth() is None
        with pytest.raises(outlast.UsageError, match="there are answers to first, second"):
            app.label("f", good=True, ask="third")
