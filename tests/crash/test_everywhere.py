"""A run is killed before and after each of its effects, at every point and at every pair."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from agents import LONG_QUESTION, QUESTION, Effects, agent, claude, cut_off
from agents import idle as idle_script

import outlast
from outlast.events import (
    AnswerProposed,
    AnswerRejected,
    AnyEvent,
    ApprovalGiven,
    ApprovalRequested,
    AskFailed,
    AskRejected,
    AskResampled,
    BoundRaised,
    BreakerChanged,
    BudgetPassed,
    BudgetSet,
    ChildStarted,
    CompactionRequested,
    ControlGiven,
    LabelGiven,
    ModelCallBatched,
    ModelCallReconciled,
    NoteAdded,
    PhaseEntered,
    RateFrozen,
    RateLimitsTold,
    RunForked,
    RunLeft,
    ScheduleFired,
    ScheduleSet,
    StepFinished,
    StepStarted,
    ToolCallGivenUp,
    TreeJoined,
    UndoFinished,
    UndoStarted,
    VerdictGiven,
    tag,
)
from outlast.journal import Journal, run_stream
from outlast.models.script import refuse, say, tool_use
from outlast.state import fold
from outlast.stores import open_store
from outlast.testing.simulation import Crash, World, canonical, run

DOUBTFUL = [
    "after append model_call_succeeded+tool_call_started+tool_call_started+tool_call_started",
    "before ask-1.m4.t1",
    "after ask-1.m4.t1",
    "before append tool_call_succeeded",
    "after append tool_call_succeeded",
    "before ask-1.m4.t2",
    "after ask-1.m4.t2",
    "before append tool_call_succeeded",
]
"""Where a death leaves the `once` call (ask-1.m4.t2) in doubt: from its intent to its outcome."""

DID_NOT = "This call was interrupted. It was found out that it did not happen."


class Played:
    """One simulated run, and what came of it."""

    def __init__(self, journal: Journal, crash_at: tuple[int, ...] = ()) -> None:
        self.effects = Effects()
        self.world = World(claude(), crash_at=crash_at)
        self.journal = journal
        self.state, self.crashes = run(self.world, journal, agent(self.effects), QUESTION)

    @property
    def answer(self) -> str:
        assert self.state.answer is not None, self.state.why
        return msgspec.json.decode(self.state.answer)

    @property
    def requests(self) -> list[str]:
        """The requests that arrived, repeats of an unanswered call aside."""
        return [body for body, _ in itertools.groupby(map(canonical, self.world.requests))]

    @property
    def lost(self) -> bool:
        """Whether a `once` call never happened, and Claude was told so."""
        return DID_NOT in self.answer

    @property
    def in_doubt(self) -> bool:
        """Whether it had to be found out what became of a `once` call."""
        return bool(self.world.emitted["tool_call_reconciled"])


@pytest.fixture(scope="module")
def uninterrupted() -> Played:
    return Played(open_store("memory://"))


def check(played: Played, uninterrupted: Played) -> None:
    """Compare a run that was killed with the one that was not, by what the world saw."""
    assert played.state.status == "completed"
    expected, requests = uninterrupted.answer, uninterrupted.requests
    assert played.effects.sent == ([] if played.lost else ["b"]), "what Claude knows is true"
    if played.lost:
        expected = expected.replace('"sent"', msgspec.json.encode(DID_NOT).decode())
        requests = [body.replace('"sent"', f'"{DID_NOT}","is_error":true') for body in requests]
        requests = [canonical_again(body) for body in requests]
    assert played.answer == expected
    assert played.requests == requests
    assert len(played.world.requests) <= len(uninterrupted.world.requests) + played.crashes
    assert len(played.effects.sent) <= 1, "a once tool ran twice"
    assert list(played.effects.saved.values()) == ["a"], "one effect for one key"
    assert played.effects.saves <= 1 + played.crashes
    assert max(played.effects.reads.values()) <= 3
    check_money(played)
    records = played.journal.read(run_stream("r"))
    assert played.state == fold(records)
    assert [record.seq for record in records] == list(range(1, len(records) + 1))


def canonical_again(body: str) -> str:
    return canonical(body.encode())


def check_money(played: Played) -> None:
    billed = sum(charge.nano_usd for charge in played.world.model.bill)
    spend = played.state.spend
    assert billed <= spend.nano, "more was billed than the journal counts as spent"
    assert spend.held_nano == 0, "a call at rest holds nothing"
    row = played.journal.run("r")
    assert row is not None
    assert row.cost_nano == spend.nano
    hours = played.journal.rollup()
    assert sum(line.settled_nano + line.in_doubt_nano for line in hours) == spend.nano


def test_uninterrupted(uninterrupted: Played) -> None:
    """Nothing is in doubt, and nothing happens twice, in a run that nobody kills."""
    assert uninterrupted.crashes == 0
    assert uninterrupted.effects.sent == ["b"]
    assert uninterrupted.effects.saves == 1
    assert not uninterrupted.in_doubt
    assert "1234" not in uninterrupted.answer, "an exception's text reached the model"
    check(uninterrupted, uninterrupted)


def test_every_point(uninterrupted: Played) -> None:
    """Wherever the process dies, the run ends as if it had not."""
    for point in itertools.count(1):
        played = Played(open_store("memory://"), (point,))
        if not played.crashes:  # this run ended before the point: all were tried
            break
        check(played, uninterrupted)
    assert point == uninterrupted.world.points + 1


def test_once_in_doubt(uninterrupted: Played) -> None:
    """A `once` call is in doubt when the process dies between its intent and its outcome.

    What became of it is found out, and what Claude is told is what the world saw.
    """
    trace = uninterrupted.world.trace
    happened = trace.index("after ask-1.m4.t2") + 1
    doubtful = []
    for point, name in enumerate(trace, start=1):
        played = Played(open_store("memory://"), (point,))
        if played.in_doubt:
            doubtful.append(name)
            assert played.effects.sent == (["b"] if point >= happened else [])
            assert played.lost == (point < happened)
    assert doubtful == DOUBTFUL


def pairs() -> Iterator[tuple[int, int]]:
    points = Played(open_store("memory://")).world.points
    # A crash adds points, so the second may lie beyond the uninterrupted run's end.
    return itertools.combinations(range(1, points + 13), 2)


def test_every_pair(uninterrupted: Played) -> None:
    """Wherever the process dies twice, the run ends as if it had not."""
    both = 0
    for pair in pairs():
        played = Played(open_store("memory://"), pair)
        both += played.crashes == 2
        check(played, uninterrupted)
    assert both > 500


def test_every_point_on_sqlite(uninterrupted: Played, tmp_path: Path) -> None:
    """The same on files: the store is dropped at every point and opened again."""
    for point in range(1, uninterrupted.world.points + 2):
        url = f"sqlite:///{tmp_path}/{point}.db"
        check(SqlitePlayed(url, (point,)), uninterrupted)


class SqlitePlayed(Played):
    """A run whose store is a file, opened anew after every crash."""

    def __init__(self, url: str, crash_at: tuple[int, ...]) -> None:
        self.effects = Effects()
        self.world = World(claude(), crash_at=crash_at)
        self.journals = [open_store(url)]
        self.state, self.crashes = run(
            self.world, self.journals[0], agent(self.effects), QUESTION, reopen=self.reopened(url)
        )
        self.journal = self.journals[-1]

    def reopened(self, url: str) -> Callable[[Journal], Journal]:
        def reopen(journal: Journal) -> Journal:
            self.journals.append(open_store(url))
            return self.journals[-1]

        return reopen


class DeadlyWorld(World):
    """A world in which one call kills the process every time it was made."""

    def point(self, name: str) -> None:
        super().point(name)
        if name.startswith("after ask-1.m2.t1"):
            raise Crash(name)


def test_a_read_that_kills_its_process() -> None:
    """A `read` is repeated twice at most; then Claude learns that its outcome is unknown."""
    effects = Effects()
    world = DeadlyWorld(claude())
    state, crashes = run(world, open_store("memory://"), agent(effects), QUESTION)
    assert crashes == 3, "the first time, and two repeats"
    assert state.status == "completed"
    assert state.answer is not None
    assert "outcome of this call of look_up is unknown" in msgspec.json.decode(state.answer)
    assert effects.reads["ångström 🦊"] == 3


class FragileWorld(World):
    """A world in which the process dies under ten calls of the model after a first failure."""

    def point(self, name: str) -> None:
        super().point(name)
        if name.startswith("after ask-1.m") and ".t" not in name and 1 < len(self.requests) <= 11:
            raise Crash(name)


def test_a_crash_is_no_failure_of_the_model(uninterrupted: Played) -> None:
    """Deaths of our own process use up turns and money, but not the attempts of a request."""
    world = FragileWorld(claude())
    state, crashes = run(world, open_store("memory://"), agent(Effects()), QUESTION)
    assert crashes == 10, "more than the attempts a request has"
    assert state.status == "completed"
    assert state.answer == uninterrupted.state.answer
    assert world.emitted["model_call_in_doubt"] == 10 + 1, "and the cut stream"
    assert state.spend.turns == 10 + 1 + 3


def test_every_point_of_a_reply_that_is_cut_off() -> None:
    """Pauses and cuts are gone on with wherever the process dies, and no cut call ever runs."""
    whole = World(cut_off)
    expected, _ = run(whole, open_store("memory://"), agent(Effects()), QUESTION)
    assert msgspec.json.decode(expected.answer) == "Part 1, Part 2, And Part 4, "
    for point in range(1, whole.points + 1):
        effects, world = Effects(), World(cut_off, crash_at=(point,))
        state, crashes = run(world, open_store("memory://"), agent(effects), QUESTION)
        assert crashes == 1
        assert state.answer == expected.answer
        assert effects.sent == []
        asked = [body for body, _ in itertools.groupby(map(canonical, world.requests))]
        assert asked == list(map(canonical, whole.requests))


def test_no_event_type_is_left_out(uninterrupted: Played) -> None:
    """Every event type that exists is emitted by a simulated run."""
    lost = Played(open_store("memory://"), (uninterrupted.world.trace.index("after ask-1.m4.t2"),))
    stopped = World(claude())
    run(stopped, open_store("memory://"), agent(Effects(), turns=2), QUESTION)
    cut = World(cut_off)
    run(cut, open_store("memory://"), agent(Effects()), QUESTION)
    idle = World(idle_script)
    run(idle, open_store("memory://"), agent(Effects()), LONG_QUESTION)
    shown = World(cut_off)
    run(shown, open_store("memory://"), agent(Effects()), [outlast.Document(b"%PDF-1.7"), "Read."])
    looping = World(lambda request, attempt: say(tool_use("look_up", {"word": "a"})))
    run(looping, open_store("memory://"), agent(Effects()), QUESTION)
    longer = World(lambda request, attempt: say("Long.", usage={"input_tokens": 9_999}))
    run(longer, open_store("memory://"), agent(Effects()), QUESTION)
    switched = World(lambda request, attempt: refuse("No."))
    other = replace(agent(Effects()), fallback_models=["claude-sonnet-5-5"])
    run(switched, open_store("memory://"), other, QUESTION)
    worlds = uninterrupted.world, lost.world, stopped, cut, idle, shown, looping, longer, switched
    emitted = {name for world in worlds for name in world.emitted}
    known = {tag(event) for event in get_args(AnyEvent)}
    # Batches have tests/batch; notes, budgets and bills come from outside: see test_two_drivers,
    # test_limits, test_schedules and test_reconciliation; flows have tests/flows.
    flows = (PhaseEntered, StepStarted, StepFinished, ChildStarted, AskFailed)
    people = (ApprovalRequested, ApprovalGiven, RunLeft)  # tests/test_approvals, tests/worker
    long = (CompactionRequested,)  # tests/context
    undone = (ToolCallGivenUp, UndoStarted, UndoFinished)  # tests/recovery
    checked = (AnswerProposed, VerdictGiven, AnswerRejected)  # tests/validation
    checked += (AskResampled, AskRejected, LabelGiven)
    outside = (
        RunForked,  # tests/travel
        TreeJoined,
        NoteAdded,
        ControlGiven,
        BudgetSet,
        ScheduleSet,
        ScheduleFired,
        BudgetPassed,
        BoundRaised,
        RateFrozen,
        RateLimitsTold,
        BreakerChanged,
        ModelCallReconciled,
        ModelCallBatched,
    )
    assert known - emitted == set(map(tag, (*outside, *flows, *people, *long, *undone, *checked)))
