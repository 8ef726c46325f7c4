"""Which agent this is: a version that changes with what matters, and what becomes of a change."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import outlast
from flow_stubs import Dying, before, named, of_kind, opened
from outlast.errors import StoreError, UsageError, VersionChanged
from outlast.events import AskStarted, ModelCallSucceeded, NoteAdded, RunStarted
from outlast.stores import open_store
from outlast.versions import version_of
from stubs import agent

# ── the version ─────────────────────────────────────────────────────────────────────────────────


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word


def second_look() -> outlast.Tool[..., Any]:
    """Return a tool that Claude sees as the same, and that does something else."""

    @outlast.tool(effect="read")
    def look(word: str) -> str:
        """Look a word up."""
        return word * 2

    return look


def test_fallbacks_and_helpers_are_code_too() -> None:
    """A version changes with every function that a call of a tool may come to."""

    def find() -> str:
        return "found"

    def helps() -> None:
        """Find out, or take back."""

    def declared(**more: Any) -> str:
        return version_of(agent(outlast.tool(effect="once", name="find", **more)(find)))

    alone = declared()
    assert declared() == alone
    for more in ({"fallbacks": [helps]}, {"reconcile": helps}, {"undo": helps}):
        assert declared(**more) != alone, more


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"budget": outlast.Budget(turns=7)}, True),
        ({"declared_in": "elsewhere"}, True),
        ({"model": "claude-opus-5-5"}, False),
        ({"instructions": "Be brief."}, False),
        ({"max_tokens": 100}, False),
        ({"cache": None}, False),
        ({"parameters": {"temperature": 0.5}}, False),
        ({"tools": ()}, False),
        ({"tools": [second_look()]}, False),
    ],
    ids=[
        *("nothing", "budget", "place", "model", "instructions", "max_tokens", "cache"),
        *("parameters", "tools", "code"),
    ],
)
def test_what_makes_another_version(changed: dict[str, Any], same: Any) -> None:
    """A version changes with what the model sees and with the code, and with nothing else."""
    was, now = agent(look), agent(**({"tools": [look]} | changed))
    assert (version_of(was) == version_of(now)) is same


def test_another_name_is_another_version() -> None:
    """The name of an agent, and of a flow, is part of its version."""
    assert version_of(named("a")) != version_of(named("b"))

    def function(run: outlast.Run) -> None: ...

    first, second = outlast.flow(name="a")(function), outlast.flow(name="b")(function)
    assert version_of(first) != version_of(second)


def test_a_flows_version_is_its_code_and_its_phases() -> None:
    """A flow's version changes with its function and its phases, not with its budget."""

    def one(run: outlast.Run) -> None: ...

    def other(run: outlast.Run) -> int:
        return 1

    plain = version_of(outlast.flow(name="f")(one))
    assert version_of(outlast.flow(name="f")(one)) == plain
    assert version_of(outlast.flow(name="f", budget=outlast.Budget(turns=1))(one)) == plain
    assert version_of(outlast.flow(name="f")(other)) != plain
    assert version_of(outlast.flow(name="f", phases=["a"])(one)) != plain


def test_a_version_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Two processes, whose hashes differ, come to the same 12 hex digits."""
    (tmp_path / "declared.py").write_text(
        textwrap.dedent(
            """
            import outlast

            @outlast.tool(effect="read")
            def look(word: str, kinds: set[str] | None = None) -> str:
                '''Look.'''
                return word

            agent = outlast.Agent("a", model="claude-haiku-5-5", tools=[look])

            @outlast.flow(phases={"a": ["b"], "b": []})
            def flow(run): ...
            """
        )
    )
    ask = "from declared import *; from outlast.versions import version_of as v; "
    ask += "print(v(agent), v(flow))"
    said = {
        subprocess.run(
            [sys.executable, "-c", ask],
            cwd=tmp_path,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    (words,) = said
    assert [len(word) for word in words.split()] == [12, 12]


def test_a_run_says_its_version() -> None:
    """The version stands in the run, in its first event, and with every ask of a flow."""

    @outlast.flow
    async def flow(run: outlast.Run) -> None:
        await run.ask(named("one"), "x")

    with opened() as app:
        run = app.run(flow, run_id="r")
        assert run.version == version_of(flow)
        assert of_kind(app, RunStarted)[0].version == run.version
        assert of_kind(app, AskStarted)[0].version == version_of(named("one"))


# ── what becomes of a change ────────────────────────────────────────────────────────────────────


@outlast.flow(name="f")
async def was(run: outlast.Run, word: str) -> str:
    answer: str = await run.ask(named("one"), word)
    return f"was {answer}"


@outlast.flow(name="f")
async def now(run: outlast.Run, word: str) -> str:
    answer: str = await run.ask(named("one"), word)
    return f"now {answer}"


BRIEF = {"instructions": "Be brief."}
WHO = {"an agent": (named("a"), named("a", **BRIEF)), "a flow": (was, now)}


def begun(journal: Any, who: Any) -> None:
    """Leave a run `r` whose process died while Claude was asked."""
    with opened(Dying(journal, before(ModelCallSucceeded))) as app, pytest.raises(StoreError):
        app.run(who, "x", run_id="r", tenant="acme", tags={"k": "v"})


def drive(app: Any, how: str, who: Any, **more: Any) -> outlast.Run:
    run = app.resume("r", who, **more) if how == "resume" else app.run(who, "x", run_id="r", **more)
    assert isinstance(run, outlast.Run)
    return run


def notes(app: Any, run_id: str = "r") -> list[str]:
    return [one.text for one in of_kind(app, NoteAdded, run_id)]


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("how", ["run", "resume"])
def test_recorded_goes_on_and_notes_it(how: str, who: str) -> None:
    """By default a run goes on; its journal says once what was changed, and the versions."""
    journal, (old, new) = open_store("memory://"), WHO[who]
    begun(journal, old)
    with opened(journal) as app:
        assert drive(app, how, new).status == "completed"
        assert drive(app, "run", new).id == "r"
        (note,) = notes(app)
        part = "instructions" if who == "an agent" else "its code"
        assert f"was changed ({part}): version {version_of(old)} when the run was" in note
        assert f"now {version_of(new)}" in note
        if who == "an agent":
            assert b"Be brief." not in app.claude.calls[-1], "the model sees what it saw"


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("how", ["run", "resume"])
def test_refuse_refuses(how: str, who: str) -> None:
    """With `refuse` nothing happens to a run whose agent was changed, and the old one goes on."""
    journal, (old, new) = open_store("memory://"), WHO[who]
    begun(journal, old)
    with opened(journal, on_change="refuse") as app:
        written = len(app.log("r"))
        with pytest.raises(VersionChanged) as caught:
            drive(app, how, new)
        assert (caught.value.recorded, caught.value.given) == (version_of(old), version_of(new))
        assert len(app.log("r")) == written
        assert app.claude.calls == []
        assert drive(app, how, new, on_change="recorded").status == "completed", "if told so"
        assert app.run(new, "x", run_id="r").id == "r", "and what is completed is just returned"


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("how", ["run", "resume"])
def test_fork_begins_again_beside_it(how: str, who: str) -> None:
    """With `fork` the run is left as it is, and one of the same input is run under a new id."""
    journal, (old, new) = open_store("memory://"), WHO[who]
    begun(journal, old)
    fork = f"r~{version_of(new)}"
    with opened(journal) as app:
        left = app.get("r")
        run = drive(app, how, new, on_change="fork")
        assert (run.id, run.status, run.version) == (fork, "completed", version_of(new))
        assert run.tenant == "acme"
        assert of_kind(app, RunStarted, fork)[0].tags == {"k": "v"}
        assert (app.get("r").status, app.get("r").turns) == (left.status, left.turns)
        calls = len(app.claude.calls)
        again = drive(app, "run", new, on_change="fork")
        assert (again, len(app.claude.calls)) == (run, calls), "the same again is the same fork"
        (here,), (there,) = notes(app), notes(app, fork)
        assert here.startswith("Left as it is, with version ")
        assert repr(fork) in here
        assert there.startswith("Begun with the input of run 'r', which is left with version ")
        assert drive(app, "run", old, on_change="fork").id == "r", (
            "and the old goes on with its own"
        )
        assert app.run(new, "x", run_id=fork) == run, "a fork has an id like any other"


def test_a_completed_run_is_not_forked() -> None:
    """What is completed is returned, whatever was changed since: nothing of it would go on."""
    old, new = WHO["an agent"]
    with opened(on_change="fork") as app:
        run = app.run(old, "x", run_id="r")
        assert app.run(new, "x", run_id="r") == run
        assert len(app.runs()) == 1


def test_a_fork_of_a_fork_is_of_the_run() -> None:
    """Forks of one run stand side by side, however often its agent is changed."""
    old, new = WHO["an agent"]
    newest = named("a", instructions="Be brief, and kind.")
    journal = open_store("memory://")
    begun(journal, old)
    with (
        opened(Dying(journal, before(ModelCallSucceeded)), on_change="fork") as app,
        pytest.raises(StoreError),
    ):
        app.run(new, "x", run_id="r")
    with opened(journal, on_change="fork") as app:
        run = app.resume(f"r~{version_of(new)}", newest)
        assert run.id == f"r~{version_of(newest)}"
        assert app.run(newest, "x", run_id="r").id == run.id


def test_a_conversation_is_not_forked() -> None:
    """What was said in several questions cannot be begun again, and says so; nothing is written."""
    old, new = WHO["an agent"]
    journal = open_store("memory://")
    with opened(journal) as app:
        app.run(old, "x", run_id="r")
        app.close = lambda: None
    dies = before(ModelCallSucceeded)
    with opened(Dying(journal, dies)) as app, pytest.raises(StoreError):
        app.send("r", "y", agent=old)
    with opened(journal, on_change="fork") as app:
        written = len(app.log("r"))
        with pytest.raises(UsageError, match="is a conversation of 2 questions with version"):
            app.resume("r", new)
        with pytest.raises(VersionChanged):
            app.send("r", "y", agent=new)
        assert (len(app.log("r")), len(app.runs())) == (written, 1)


@pytest.mark.parametrize("on_change", ["forks", "", 3])
def test_what_cannot_be_done_about_a_change(on_change: Any) -> None:
    """There are three ways, and another word is a mistake, in the application and in a call."""
    said = f"on_change={on_change!r}: give 'recorded', 'refuse' or 'fork'"
    with pytest.raises(UsageError, match=said):
        opened(on_change=on_change)
    with opened() as app, pytest.raises(UsageError, match=said):
        app.run(named("a"), "x", on_change=on_change)


def test_a_stream_shows_the_fork_alone() -> None:
    """Who streams a run that was changed is shown the fork from its beginning."""
    old, new = WHO["an agent"]
    journal = open_store("memory://")
    begun(journal, old)
    with opened(journal, on_change="fork") as app:
        with app.stream(new, "x", run_id="r") as stream:
            ids = {part.run_id for part in stream}
        assert ids == {stream.run.id} == {f"r~{version_of(new)}"}


# ── an agent that a flow asks ───────────────────────────────────────────────────────────────────


def asking(holder: list[outlast.Agent]) -> Any:
    @outlast.flow(name="f")
    async def flow(run: outlast.Run) -> list[str]:
        answers = []
        for _ in range(2):
            answers.append(await run.ask(holder[0], "x"))  # noqa: PERF401  (one after the other)
        return answers

    return flow


@pytest.mark.parametrize(
    ("on_change", "id_", "brief"),
    [("recorded", "r", [False]), ("refuse", "", []), ("fork", "fork", [True, True])],
)
def test_an_agent_of_a_flow_that_was_changed(on_change: Any, id_: str, brief: list[bool]) -> None:
    """A change of an agent that a flow asks is treated as one of the flow itself."""
    journal, holder = open_store("memory://"), [named("one")]
    flow, changed = asking(holder), named("one", **BRIEF)
    with (
        opened(Dying(journal, before(ModelCallSucceeded, ask_id="one-2"))) as app,
        pytest.raises(StoreError),
    ):
        app.run(flow, run_id="r")
    holder[0] = changed
    with opened(journal, on_change=on_change) as app:
        if not id_:
            with pytest.raises(VersionChanged):
                app.run(flow, run_id="r")
        else:
            run = app.run(flow, run_id="r")
            assert run.status == "completed"
            assert run.id == ("r" if id_ == "r" else f"r~{version_of(changed)}")
        assert [b"Be brief." in body for body in app.claude.calls] == brief


def test_a_new_ask_has_the_agent_of_now() -> None:
    """What is asked after a change is asked of the changed agent; what was open is as it was."""
    journal, holder = open_store("memory://"), [named("one")]
    flow = asking(holder)
    with (
        opened(Dying(journal, before(ModelCallSucceeded, ask_id="one-1"))) as app,
        pytest.raises(StoreError),
    ):
        app.run(flow, run_id="r")
    holder[0] = named("one", **BRIEF)
    with opened(journal) as app:
        assert app.run(flow, run_id="r").status == "completed"
        assert [b"Be brief." in body for body in app.claude.calls] == [False, True]
        assert len(notes(app)) == 1


@pytest.mark.parametrize("answered", [False, True])
def test_a_tool_that_was_removed(answered: Any) -> None:
    """A tool that an open question may call is missed at once; an answered one needs none."""
    journal, holder = open_store("memory://"), [agent(look)]
    flow = asking(holder)
    dies = before(AskStarted, ask_id="tester-2") if answered else before(ModelCallSucceeded)
    with opened(Dying(journal, dies)) as app, pytest.raises(StoreError):
        app.run(flow, run_id="r")
    holder[0] = agent()
    with opened(journal) as app:
        if answered:
            assert app.run(flow, run_id="r").answer == ["re: x", "re: x"]
            return
        with pytest.raises(UsageError, match="tools that agent 'tester' no longer has: look"):
            app.run(flow, run_id="r")
        holder[0] = agent(look)
        assert app.run(flow, run_id="r").status == "completed"


def test_a_tool_that_was_removed_from_an_agents_run() -> None:
    """A run whose agent lacks a tool that the model was told of is not gone on with."""
    journal = open_store("memory://")
    begun(journal, agent(look))
    with opened(journal) as app:
        with pytest.raises(UsageError, match="no longer has: look"):
            app.resume("r", agent())
        fork = app.resume("r", agent(), on_change="fork")
        assert (fork.id, fork.status) == (f"r~{version_of(agent())}", "completed")
