"""Phases: a table of which may follow which, and what a run that is read back knows of them."""

from typing import Any

import pytest

import outlast
from flow_stubs import Dying, before, echo, events, named, of_kind, opened
from outlast import phases
from outlast.errors import FlowChanged, IllegalPhase, InvalidFlow, StoreError
from outlast.events import ModelCallSucceeded, PhaseEntered, RunFinished
from outlast.journal import Record
from outlast.phases import Phases, check_entry, legal, table
from outlast.stores import open_store

PATH = table(["a", "b", "c"])
MAP = table({"a": ["b", "c"], "b": ["a"], "c": []})


@pytest.mark.parametrize(
    ("declared", "following"),
    [
        (["a"], {"a": []}),
        (["a", "b", "c"], {"a": ["b"], "b": ["c"], "c": []}),
        (("a", "b"), {"a": ["b"], "b": []}),
        ({"a": ["b", "a"], "b": []}, {"a": ["b", "a"], "b": []}),
        ({"a": ("b",), "b": ("a",)}, {"a": ["b"], "b": ["a"]}),
    ],
    ids=["one", "a list is a path", "a tuple, too", "a mapping says each", "and ways back"],
)
def test_which_may_follow(declared: Any, following: dict[str, list[str]]) -> None:
    """A list is a path, each followed by the next; a mapping says which may follow each."""
    assert table(declared) == following


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("ab", "phases='ab' is one string; give a list of names, or a mapping"),
        (["a", "a"], "phases=['a', 'a'] names a phase twice; give a mapping for a way back"),
        (["a", ""], "a phase is called ''; give it a name"),
        (["a", 1], "a phase is called 1; give it a name"),
        (["a", "COMPLETE"], "the phase 'COMPLETE' is entered by the run itself; leave it out"),
        ({"a": ["FAILED"]}, "the phase 'FAILED' is entered by the run itself; leave it out"),
        ({"FAILED": []}, "the phase 'FAILED' is entered by the run itself; leave it out"),
        ({"a": ["b"]}, "the phase 'b' may be entered, but the flow has only a"),
    ],
)
def test_phases_that_cannot_be(declared: Any, said: str) -> None:
    """What cannot be meant is refused at the declaration; COMPLETE and FAILED are not declared."""
    with pytest.raises(InvalidFlow) as caught:
        outlast.flow(phases=declared)(lambda run: None)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("following", "now", "wanted", "allowed"),
    [
        (PATH, "", "a", True),
        (PATH, "a", "b", True),
        (PATH, "b", "c", True),
        (PATH, "", "b", False),
        (PATH, "a", "c", False),
        (PATH, "b", "a", False),
        (PATH, "a", "a", False),
        (PATH, "c", "a", False),
        (PATH, "a", "zebra", False),
        (PATH, "a", "COMPLETE", False),
        (PATH, "a", "FAILED", False),
        (MAP, "", "a", True),
        (MAP, "a", "c", True),
        (MAP, "b", "a", True),
        (MAP, "b", "c", False),
    ],
)
def test_what_may_be_entered(
    following: dict[str, list[str]], now: str, wanted: str, *, allowed: bool
) -> None:
    """The first phase begins, and each is followed by what its row says; the rest is refused.

    The refusal lists what may follow, and COMPLETE and FAILED are always among it.
    """
    if allowed:
        check_entry(following, now, wanted)
        return
    with pytest.raises(IllegalPhase) as caught:
        check_entry(following, now, wanted)
    assert caught.value.legal == (*legal(following, now), "COMPLETE", "FAILED")
    place = now or "the beginning"
    may = ", ".join(caught.value.legal)
    assert str(caught.value) == f"the phase {wanted!r} may not follow {place!r}; what may: {may}"


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ("completed", ["a", "COMPLETE"]),
        ("failed", ["a", "FAILED"]),
        ("stopped", ["a"]),
        ("cancelled", ["a"]),
        ("rejected", ["a"]),
    ],
)
def test_what_a_run_ends_in(status: Any, end: list[str]) -> None:
    """A run enters COMPLETE or FAILED itself, from any phase; one that may go on stays in its."""
    known = Phases()
    for seq, event in enumerate([PhaseEntered(phase="a"), RunFinished(status=status)], start=1):
        known = phases.evolve(known, Record("run:r", seq, seq, 10 * seq, 1, event))
    assert [name for name, _ in known.entered] == end
    assert [at for _, at in known.entered] == [10, 20][: len(end)], "and when"
    assert known.now == end[-1]


def test_a_run_without_phases_has_none() -> None:
    """A flow that declares no phases is in none, at its end too."""
    ended = Record("run:r", 1, 1, 1, 1, RunFinished(status="completed"))
    assert phases.evolve(Phases(), ended) == Phases()
    assert Phases().now == ""


def test_the_phase_is_seen_from_outside() -> None:
    """The phase stands in the run while it is in it, in its row, and at the end."""
    seen: list[str] = []

    @outlast.flow(phases=["first", "second"])
    async def walk(run: outlast.Run) -> str:
        run.enter("first")
        await run.ask(named("one"), "Hello.")
        seen.append(app.get("r").phase)
        run.enter("second")
        answer: str = await run.ask(named("two"), "Hello.")
        seen.append(app.get("r").phase)
        return answer

    with opened(script=echo) as app:
        run = app.run(walk, run_id="r")
        assert seen == ["first", "second"]
        assert (run.phase, run.status) == ("COMPLETE", "completed")
        assert app.runs()[0].phase == "COMPLETE"
        assert [one.phase for one in of_kind(app, PhaseEntered)] == ["first", "second"]


def test_a_phase_is_durable_before_what_is_done_in_it() -> None:
    """What a phase's first question costs is paid in that phase: the entry is written first."""

    @outlast.flow(phases=["first", "second"])
    async def walk(run: outlast.Run) -> None:
        run.enter("first")
        await run.ask(named("one"), "Hello.")
        run.enter("second")
        await run.ask(named("one"), "Hello again.")

    with opened() as app:
        app.run(walk, run_id="r")
        kinds = events(app)
        entered = [at for at, kind in enumerate(kinds) if kind == "phase_entered"]
        asked = [at for at, kind in enumerate(kinds) if kind == "ask_started"]
        assert entered[0] < asked[0] < entered[1] < asked[1]


def test_after_a_failure_the_phase_is_failed() -> None:
    """A flow that raises is failed, whatever phase it was in, and the phase before is kept."""

    @outlast.flow(phases=["first"])
    def broken(run: outlast.Run) -> None:
        run.enter("first")
        raise ValueError("no")

    with opened() as app:
        run = app.run(broken, run_id="r")
        assert (run.status, run.phase) == ("failed", "FAILED")
        assert [one.phase for one in of_kind(app, PhaseEntered)] == ["first"]


def test_an_illegal_phase_can_be_caught_and_is_not_entered() -> None:
    """Nothing is written of a phase that was refused; a flow may go another way."""

    @outlast.flow(phases=["first", "second", "third"])
    async def walk(run: outlast.Run) -> tuple[str, ...]:
        run.enter("first")
        try:
            run.enter("third")
        except IllegalPhase as illegal:
            run.enter("second")
            return illegal.legal
        raise AssertionError

    with opened() as app:
        run = app.run(walk, run_id="r")
        assert run.answer == ["second", "COMPLETE", "FAILED"]
        assert [one.phase for one in of_kind(app, PhaseEntered)] == ["first", "second"]


def test_an_illegal_phase_that_is_not_caught_fails_the_run() -> None:
    """It says which was wanted, and which there are."""

    @outlast.flow(phases=["first", "second"])
    def walk(run: outlast.Run) -> None:
        run.enter("second")

    with opened() as app:
        run = app.run(walk, run_id="r")
        assert run.status == "failed"
        assert run.why == (
            "flow walk raised IllegalPhase: the phase 'second' may not follow 'the beginning'; "
            "what may: first, COMPLETE, FAILED"
        )


def test_a_flow_without_phases_enters_none() -> None:
    """To enter a phase where none is declared is a mistake: the leg ends, the run stays."""

    @outlast.flow
    def walk(run: outlast.Run) -> None:
        run.enter("first")

    with opened() as app:
        with pytest.raises(InvalidFlow, match="enters 'first', but declares no phases; give"):
            app.run(walk, run_id="r")
        assert app.get("r").status == "queued"


def test_a_crash_restarts_a_run_in_the_phase_it_was_in() -> None:
    """A run that goes on is in the phase it was in, and does not enter it a second time."""
    journal = open_store("memory://")

    @outlast.flow(phases=["first", "second"])
    async def walk(run: outlast.Run) -> str:
        run.enter("first")
        run.enter("second")
        answer: str = await run.ask(named("one"), "Hello.")
        return answer

    died = Dying(journal, before(ModelCallSucceeded))
    with opened(died) as app, pytest.raises(StoreError, match="died here"):
        app.run(walk, run_id="r")
    with opened(journal) as app:
        run = app.get("r")
        assert (run.status, run.phase) == ("running", "second")
        assert app.run(walk, run_id="r").answer == "re: Hello."
        assert [one.phase for one in of_kind(app, PhaseEntered)] == ["first", "second"]


def test_another_phase_than_the_journal_has_is_told() -> None:
    """A flow that enters another phase than it did is stopped, with both sides shown."""
    journal = open_store("memory://")
    names = ["first"]

    @outlast.flow(phases={"first": ["second"], "second": [], "other": []})
    async def walk(run: outlast.Run) -> None:
        run.enter(names[0])
        await run.ask(named("one"), "Hello.")

    with opened(Dying(journal, before(ModelCallSucceeded))) as app, pytest.raises(StoreError):
        app.run(walk, run_id="r")
    names[0] = "second"
    with opened(journal) as app:
        written = len(app.log("r"))
        with pytest.raises(FlowChanged, match="'phase' is followed by 'first' in its journal, and"):
            app.run(walk, run_id="r")
        assert len(app.log("r")) == written, "and nothing is written"
        assert app.claude.calls == []
        names[0] = "first"
        assert app.run(walk, run_id="r").status == "completed", "so it can be mended"
