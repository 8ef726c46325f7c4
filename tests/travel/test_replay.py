"""Replays: a recorded run is decided again as it was, and a rule that was changed is found."""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from forked import World, agent, writing
from msgspec import Raw

import outlast
from flow_stubs import failing, named, opened
from outlast import actions, decide
from outlast.agent import Budget
from outlast.events import (
    BudgetRefused,
    FeedbackGiven,
    ModelCallStarted,
    RunParked,
    RunStarted,
    Turn,
    tag,
)
from outlast.journal import Record, run_stream
from outlast.models.script import Fault, faulty, once, refuse, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.pacing import group
from outlast.replaying import Replayed, replay
from outlast.state import fold
from outlast.stores import open_store
from outlast.testing.simulation import World as Simulated
from outlast.testing.simulation import run as simulate
from stubs import MODEL, asking

GOLDEN = Path(__file__).parents[1] / "golden"
VERSIONS = sorted(path.stem for path in GOLDEN.glob("*.jsonl"))

OTHERWISE = {
    # Rules that were changed on purpose since a version wrote its journal.
    ("story", "tool_call_in_doubt"): "a call in doubt of a `once` tool is open since v1-6",
    ("recovered", "tool_call_given_up"): "the words for one source only, since v1-6",
    ("undone", "tool_call_given_up"): "likewise",
    # The first leg was driven with an agent that might use less.
    ("story", "budget_refused"): "of two turns",
    # Written by hand, by nobody's decision.
    ("asked", "approval_requested"): "by hand",
    ("condensed", "compaction_requested"): "by hand",
}


CHECKED: dict[str, Any] = {
    "repaired": {},
    "resampled": {"retry": "resample"},
    "rejected": {"answer_attempts": 1},
    "escalated": {"answer_attempts": 1, "last_resort": "escalate", "answer_expires": None},
}
"""How the agents were declared whose answers were checked."""


def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def declared(made: ModuleType, run_id: str) -> Any:
    """Return what a golden run is of."""
    if run_id == "flown":
        return made.every_way
    if run_id in ("recovered", "undone"):
        return made.helpless()
    if run_id in CHECKED:
        return made.strict(**CHECKED[run_id])
    others = ["claude-sonnet-5-5", "claude-opus-5-5"] if run_id == "switched" else []
    return replace(made.agent(1 if run_id == "stopped" else None), fallback_models=others)


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_journals_are_decided_as_they_were(version: str, tmp_path: Path) -> None:
    """What every version recorded is decided again, but for the rules that were changed since."""
    path = tmp_path / "golden.db"
    path.write_bytes(gzip.decompress((GOLDEN / f"{version}.db.gz").read_bytes()))
    journal, made = open_store(f"sqlite:///{path}"), make()
    same = untold = 0
    for row in journal.runs():
        records = journal.read(run_stream(row.id))

        who = declared(made, row.id)
        found = replay(records, who, run_id=row.id, agents={"librarian": made.agent(None)})
        for one in found.differences:
            assert (row.id, tag(one.recorded[0])) in OTHERWISE, one
        same, untold = same + found.same, untold + found.untold
    journal.close()
    assert same > 40
    # The first version did not say whose prices it held its calls at.
    assert (untold > 20) == (version == "v1")


def played(app: Any, who: Any, run_id: str = "r", **more: Any) -> Replayed:
    return replay(app.log(run_id), who, run_id=run_id, **more)


def as_recorded(app: Any, who: Any, run_id: str = "r", **more: Any) -> Replayed:
    found = played(app, who, run_id, **more)
    assert found.differences == (), found.differences[0]
    assert found.same
    return found


# ── nothing is done ─────────────────────────────────────────────────────────────────────────────


def test_nothing_is_called_and_nothing_is_written(tmp_path: Path) -> None:
    """A replay asks no model, calls no tool and writes into no journal."""
    (tmp_path / "files").mkdir()
    world = World(tmp_path / "files")
    model = ScriptedModel(writing)
    with outlast.Outlast("memory://", model=model) as app:
        who = agent(*world.tools)
        app.run(who, "Go.", run_id="r")
        before = len(world.written()), len(model.calls), app.journal.changes()
        found = as_recorded(app, who)
        assert (len(world.written()), len(model.calls), app.journal.changes()) == before
        assert (found.same, found.untold, found.skipped) == (9, 0, 0)


# ── runs of every kind ──────────────────────────────────────────────────────────────────────────


def cut(request: dict[str, Any], _: int) -> Any:
    if turn_number(request) == 1:
        return say("one ", stop_reason="max_tokens")
    return say("two")


SCRIPTS = {
    "cut": cut,
    "overloaded": faulty(asking(), once(1, Fault(kind="status", status=529))),
    "in doubt": faulty(asking(), once(1, Fault(kind="cut"))),
    "refused": lambda request, attempt: refuse("No.") if request["model"] == MODEL else say("Yes."),
    "failed": lambda request, attempt: Fault(kind="status", status=400),
    "unknown tool": asking(tool_use("nothing", {})),
    "invalid": asking(tool_use("look", {"wort": 1})),
    "raises": asking(tool_use("broken", {})),
    "loop": lambda request, attempt: say(tool_use("look", {"word": "a"})),
}


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word


@outlast.tool(effect="read", attempts=2)
def broken() -> str:
    """Fail."""
    raise ConnectionError("no")


@pytest.mark.parametrize("kind", SCRIPTS)
def test_runs_of_every_kind_are_decided_as_they_were(kind: str) -> None:
    """Failures, refusals, cut replies and loops are decided again from what was recorded."""
    script: Any = SCRIPTS[kind]
    with opened(script=script) as app:
        who = named("a", tools=[look, broken], fallback_models=["claude-sonnet-5-5"])
        app.run(who, "x", run_id="r")
        found = as_recorded(app, who)
        assert found.untold == 0


def test_a_run_that_died_anywhere_is_decided_as_it_was() -> None:
    """Wherever the process died, both epochs are decided again, what was lost included."""
    who = agent(look, *(one for one in (broken,)))
    script = asking(tool_use("look", {"word": "a"}), tool_use("broken", {}))
    trace = Simulated(script)
    simulate(trace, open_store("memory://"), who, "x", run_id="r")
    for point in range(1, len(trace.trace) + 1):
        journal = open_store("memory://")
        simulate(Simulated(script, crash_at=[point]), journal, who, "x", run_id="r")
        found = replay(journal.read(run_stream("r")), who, run_id="r")
        assert found.differences == (), (point, found.differences)
        assert found.same


def test_people_in_between_are_no_decision() -> None:
    """Approvals, pauses, notes and a cancel are folded where they stand."""

    @outlast.tool(effect="once", approval="always")
    def act(word: str) -> str:
        """Act."""
        return word

    with opened(script=asking(tool_use("act", {"word": "a"}))) as app:
        who = named("a", tools=[act])
        for run_id, answer in (("r", app.approve), ("s", app.deny), ("t", app.cancel)):
            app.run(who, "x", run_id=run_id, wait_s=0)
            app.note(run_id, "a note")
            answer(run_id)
            if run_id != "t":
                app.resume(run_id, who)
            assert as_recorded(app, who, run_id).untold == 0


def test_a_stop_by_the_own_budget_is_decided_again() -> None:
    """A run that its budget stopped is stopped again; with another budget it would go on."""
    with opened(script=asking(tool_use("look", {"word": "a"}))) as app:
        who = named("a", tools=[look], budget=Budget(turns=1))
        app.run(who, "x", run_id="r")
        as_recorded(app, who)
        (found,) = played(app, named("a", tools=[look])).differences
        assert [tag(one) for one in found.recorded] == ["budget_refused", "run_finished"]
        assert [type(one) for one in found.decided] == [ModelCallStarted]


def test_a_flow_is_decided_as_far_as_its_agents_are_known() -> None:
    """What a flow asks is decided again where its agent is at hand; the rest is counted."""
    expert = named("expert")

    @outlast.flow
    async def work(run: outlast.Run) -> Any:
        """Ask, and do."""
        await run.step("a", lambda: 1)
        with pytest.raises(outlast.AskFailed):
            await run.ask(expert, "fail")
        return await run.ask(expert, "x")

    script = faulty(lambda request, attempt: say("y"), failing("fail"))
    with opened(script=script) as app:
        app.run(work, run_id="r")
        known = as_recorded(app, work, agents={"expert": expert})
        blind = played(app, work)
        assert (blind.same, blind.differences) == (0, ())
        assert blind.skipped == known.same + known.skipped
        assert known.same == 4, known


def test_a_fork_is_decided_from_where_it_begins() -> None:
    """What a fork shares is left to the run that decided it."""
    with opened() as app:
        who = named("a")
        app.run(who, "x", run_id="r")
        fork = app.fork("r", at=3)
        app.resume(fork.id, who)
        assert as_recorded(app, who, fork.id).same == as_recorded(app, who).same == 3
        app.fork("r", at=5)
        app.resume("r~5", who)
        assert as_recorded(app, who, "r~5").same == 2


# ── what others did ─────────────────────────────────────────────────────────────────────────────


def records_with(app: Any, number: int, event: Any) -> list[Record]:
    """Return the journal of a run with an event in the place of another, and no more after it."""
    records = list(app.log("r"))[:number]
    records[-1] = msgspec.structs.replace(records[-1], event=event)
    return records


def test_what_rests_on_others_is_neither_same_nor_otherwise() -> None:
    """Waits for others, and calls that had less room because of them, are counted as not told."""
    with opened() as app:
        who = named("a", max_tokens=500)
        app.run(who, "x", run_id="r")
        (call,) = (one.event for one in app.log("r") if isinstance(one.event, ModelCallStarted))
        ask = fold(app.log("r")[:3]).asks["ask-1"]
        less = msgspec.structs.replace(
            call,
            max_tokens=400,
            request_hash=decide.request_hash(ask, 400),
            hold_nano=call.hold_nano - 1,
            hold_tokens=call.hold_tokens - 100,
        )
        at = app.log("r")[3].at
        place = {"ask-1.m1": Turn(at=at + 10**12, group=group(MODEL))}
        told = "waiting for Claude's rate limit until tomorrow"
        others = [
            less,
            msgspec.structs.replace(call, hold_nano=2 * call.hold_nano),
            msgspec.structs.replace(call, probe=True),
            msgspec.structs.replace(call, prices="declared:0", hold_nano=1),
            RunParked(until=at + 10**12, why=told, turns=place),
            RunParked(until=at, why="its worker was shut down"),
            BudgetRefused(ask_id="ask-1", scope="fleet", unit="nano", needed=2, left=1),
        ]
        for event in others:
            found = replay(records_with(app, 4, event), who, run_id="r")
            assert (found.same, found.untold, found.differences) == (0, 1, ()), event
        own = [
            msgspec.structs.replace(call, hold_nano=call.hold_nano - 1),
            msgspec.structs.replace(call, attempt=2),
            BudgetRefused(ask_id="ask-1", scope="run", unit="nano", needed=2, left=1),
        ]
        for event in own:
            found = replay(records_with(app, 4, event), who, run_id="r")
            assert (found.same, found.untold, len(found.differences)) == (0, 0, 1), event


def test_a_stop_by_the_budget_of_others_is_not_told() -> None:
    """A run that the fleet's budget stopped is no difference."""
    with opened(script=asking(tool_use("look", {"word": "a"}))) as app:
        who = named("a", tools=[look], max_tokens=500)
        app.set_budget("fleet", turns=1, reason="test")
        assert app.run(who, "x", run_id="r").status == "stopped"
        found = played(app, who)
        assert found.differences == ()
        assert found.untold >= 2


# ── rules that were changed ─────────────────────────────────────────────────────────────────────


def mutated(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change one rule of the policy."""
    if kind == "cut":
        plain = decide._cut_step

        def other(ask: Any) -> Any:
            step = plain(ask)
            (event,) = step.events
            assert isinstance(event, FeedbackGiven)
            told = Raw(b'[{"type":"text","text":"Go on."}]')
            return actions.Step((msgspec.structs.replace(event, content=told),))

        monkeypatch.setattr(decide, "_cut_step", other)
    elif kind == "overloaded":
        monkeypatch.setattr(decide, "BACKOFF_S", (3600.0,))
    elif kind == "in doubt":
        monkeypatch.setattr(decide, "ATTEMPTS", 1)
    elif kind == "raises":
        monkeypatch.setattr(decide, "given_up", lambda *_: "Something else.")
    elif kind == "loop":
        monkeypatch.setattr(decide.loops, "NUDGE", 4)
    elif kind == "refused":
        monkeypatch.setattr(decide, "fallback", lambda *_: None)


@pytest.mark.parametrize("kind", ["cut", "overloaded", "in doubt", "raises", "loop", "refused"])
def test_a_changed_rule_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule of the policy that was changed shows where it would decide otherwise."""
    script: Any = SCRIPTS[kind]
    with opened(script=script) as app:
        who = named("a", tools=[look, broken], fallback_models=["claude-sonnet-5-5"])
        app.run(who, "x", run_id="r")
        as_recorded(app, who)
        mutated(kind, monkeypatch)
        found = played(app, who)
        assert found.differences, kind
        assert found.differences[0].decided or found.differences[0].instead


def test_a_changed_agent_shows_where_it_would_decide_otherwise() -> None:
    """Without a tool, or with one that needs a person, a run would have gone another way."""
    with opened(script=asking(tool_use("look", {"word": "a"}))) as app:
        app.run(named("a", tools=[look]), "x", run_id="r")
        seq = next(one.seq for one in app.log("r") if tag(one.event) == "tool_call_started")
        (found,) = played(app, named("a")).differences
        assert (found.seq, tag(found.decided[0])) == (seq, "tool_call_failed")
        careful = outlast.tool(effect="read", approval="always", name="look")(look.function)
        (found,) = played(app, named("a", tools=[careful])).differences
        assert (found.seq, tag(found.decided[0])) == (seq, "approval_requested")
        assert isinstance(app.log("r")[0].event, RunStarted)
