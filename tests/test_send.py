"""Talking on: another question in the same run, with the whole history, asked once."""

import asyncio
import sys
import threading
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest

import outlast
from flow_stubs import Dying, before, echo, events, failing, named, of_kind, opened
from outlast.errors import InvalidInput, RunEnded, RunNotFound, StoreError, UsageError
from outlast.events import AskStarted, MessageReceived, ModelCallSucceeded
from outlast.models.script import faulty, last_text, say, tool_use
from outlast.stores import open_store
from stubs import Answers, agent, reply, unmarked

ONE = named("one")


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the url of a new store, of each kind."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"


def asked(app: Any) -> list[list[str]]:
    """Return the texts of each request, oldest first."""
    return [
        ["".join(block.get("text", "") for block in said["content"]) for said in body["messages"]]
        for body in map(msgspec.json.decode, app.claude.calls)
    ]


def test_a_conversation_goes_on(url: str) -> None:
    """Each question of a run is sent with all that was said before, as it was said."""
    with opened(url) as app:
        app.run(ONE, "a", run_id="r")
        assert app.send("r", "b").answer == "re: b"
        run = app.send("r", "c")
        assert (run.status, run.answer, run.turns) == ("completed", "re: c", 3)
        assert asked(app)[-1] == ["a", "re: a", "b", "re: b", "c"]
        first, second, third = map(unmarked, app.claude.calls)
        assert second.startswith(first.removesuffix(b"]}")), "to the byte"
        assert third.startswith(second.removesuffix(b"]}"))
        assert [one.ask_id for one in of_kind(app, AskStarted)] == ["ask-1", "ask-2", "ask-3"]


def test_the_prompt_cache_still_answers(url: str) -> None:
    """What was said before is read from the prompt cache when a conversation goes on."""
    told = named("one", instructions="Answer. " * 8_000)
    with opened(url) as app:
        app.run(told, "a", run_id="r")
        run = app.send("r", "b")
        assert run.status == "completed"
        first, second = of_kind(app, ModelCallSucceeded)
        assert first.cache_written > 0
        assert second.cache_read >= first.cache_written
        assert "cache_missed" not in events(app)


def test_the_first_input_again_is_the_same_run() -> None:
    """`run` with the id and the first input returns the run as it is, with its latest answer."""
    with opened() as app:
        app.run(ONE, "a", run_id="r")
        app.send("r", "b")
        assert app.run(ONE, "a", run_id="r").answer == "re: b"
        assert len(app.claude.calls) == 2
        with pytest.raises(outlast.RunConflict, match="another input"):
            app.run(ONE, "b", run_id="r")


def test_asend_is_the_same_on_the_callers_loop(url: str) -> None:
    """`asend` says it from a running loop."""

    async def talk() -> list[Any]:
        with opened(url) as app:
            await app.arun(ONE, "a", run_id="r")
            return [(await app.asend("r", word)).answer for word in "bc"]

    assert asyncio.run(talk()) == ["re: b", "re: c"]


def test_a_conversation_with_tools_goes_on() -> None:
    """Tool calls of an earlier question stay in the history, and later ones can call them."""

    @outlast.tool(effect="read")
    def look(word: str) -> str:
        """Look."""
        return word.upper()

    def script(request: dict[str, Any], _: int) -> Any:
        last = request["messages"][-1]["content"]
        if last[0]["type"] == "tool_result":
            return say(str(last[0]["content"]))
        return say(tool_use("look", {"word": last_text(request)}))

    with opened(script=script) as app:
        assert app.run(agent(look), "a", run_id="r").answer == "A"
        assert app.send("r", "b").answer == "B"
        assert len(msgspec.json.decode(app.claude.calls[-1])["messages"]) == 7


# ── what is said is said once ───────────────────────────────────────────────────────────────────


def said(app: Any) -> list[bytes]:
    """Return what was said to a run, in order."""
    return [bytes(one.content) for one in of_kind(app, MessageReceived)]


@pytest.mark.parametrize("again", ["resume", "send", "run"])
def test_a_refused_key_neither_loses_nor_doubles_what_was_said(again: str) -> None:
    """After a refused key the question is asked by `resume`, or by the same `send`: once."""
    journal = open_store("memory://")
    with opened(journal, faulty(echo, failing("b", status=401))) as app:
        app.run(ONE, "a", run_id="r")
        run = app.send("r", "b")
        assert (run.status, run.answer) == ("stopped", None)
        app.close = lambda: None
        calls = {
            "resume": lambda app: app.resume("r", ONE),
            "send": lambda app: app.send("r", "b", agent=ONE),
            "run": lambda app: app.run(ONE, "a", run_id="r"),
        }
    with opened(journal) as app:
        assert calls[again](app).answer == "re: b"
        assert said(app) == [b'"a"', b'"b"']
        assert asked(app) == [["a", "re: a", "b"]]


@pytest.mark.parametrize("again", ["resume", "send"])
@pytest.mark.parametrize("dies", [AskStarted, ModelCallSucceeded])
def test_a_crash_neither_loses_nor_doubles_what_was_said(dies: Any, again: str) -> None:
    """Wherever the process dies, the same `send` again asks the question once."""
    journal = open_store("memory://")
    with opened(journal) as app:
        app.run(ONE, "a", run_id="r")
        app.journal.close = lambda: None
    with opened(Dying(journal, before(dies))) as app, pytest.raises(StoreError):
        app.send("r", "b", agent=ONE)
    with opened(journal) as app:
        was_said = dies is ModelCallSucceeded
        assert said(app) == ([b'"a"', b'"b"'] if was_said else [b'"a"'])
        if again == "resume" and not was_said:
            with pytest.raises(RunEnded, match="is completed"):
                app.resume("r", ONE)
            return
        run = app.resume("r", ONE) if again == "resume" else app.send("r", "b", agent=ONE)
        assert run.answer == "re: b"
        assert said(app) == [b'"a"', b'"b"']


def test_nothing_more_is_said_before_there_is_an_answer() -> None:
    """Another question while one is open is refused, naming the open one."""
    with opened(script=faulty(echo, failing("b", status=401))) as app:
        app.start(ONE, "a", run_id="r")
        with pytest.raises(UsageError, match="run 'r' has not answered \"a\" yet, so nothing more"):
            app.send("r", "b", agent=ONE)
        assert app.send("r", "a", agent=ONE).answer == "re: a", "the same is that question"
        assert app.send("r", "b").status == "stopped"
        with pytest.raises(UsageError, match='has not answered "b" yet'):
            app.send("r", "c")
        assert said(app) == [b'"a"', b'"b"']


def test_while_another_drives_nothing_is_said() -> None:
    """Who does not get the run within `wait_s` is told so; nothing was said."""
    going, go_on = threading.Event(), threading.Event()

    def slowly(_: Any) -> Any:
        going.set()
        go_on.wait(20)
        return reply(b'[{"type":"text","text":"done"}]')

    async def ask(request: Any) -> Any:
        return await asyncio.to_thread(slowly, request)

    app = outlast.Outlast("memory://", model=Answers(ask))
    with app:
        driving = threading.Thread(target=lambda: app.run(ONE, "a", run_id="r"))
        driving.start()
        going.wait(20)
        with pytest.raises(UsageError, match="for all of wait_s=0, so nothing was said; wait for"):
            app.send("r", "b", wait_s=0)
        go_on.set()
        driving.join(20)
        assert len(of_kind(app, MessageReceived)) == 1
        assert app.send("r", "b").answer == "done"


def test_a_note_beside_what_is_said_changes_nothing() -> None:
    """A note that arrives between reading and writing is read, and the question still asked."""
    journal: Any = open_store("memory://")
    with opened(journal) as app:
        app.run(ONE, "a", run_id="r")
        append, noted = journal.append, []

        def beside(commit: Any) -> Any:
            if not noted and any(isinstance(event, AskStarted) for event in commit.events):
                noted.append(1)
                app.note("r", "hello")
            return append(commit)

        journal.append = beside
        assert app.send("r", "b").answer == "re: b"
        assert said(app) == [b'"a"', b'"b"']


# ── to whom ─────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_talked_to() -> None:
    """A run that failed, a flow's run, and none at all are told apart."""

    @outlast.flow
    async def flow(run: outlast.Run) -> None: ...

    with opened(script=faulty(echo, failing("bad"))) as app:
        app.run(ONE, "bad", run_id="failed")
        app.run(flow, run_id="flow")
        app.run(ONE, "a", run_id="r")
        with pytest.raises(RunEnded, match="run 'failed' is failed and cannot be continued"):
            app.send("failed", "b")
        for given in (None, ONE, flow):
            with pytest.raises(UsageError, match="run 'flow' is of flow 'flow', which says itself"):
                app.send("flow", "b", agent=given)
        with pytest.raises(RunNotFound):
            app.send("none", "b")
        with pytest.raises(InvalidInput):
            app.send("r", "")
        with pytest.raises(UsageError, match="was started with agent 'one', not 'two'"):
            app.send("r", "b", agent=named("two"))
        assert said_to(app, "r") == 1


def said_to(app: Any, run_id: str) -> int:
    return len(of_kind(app, MessageReceived, run_id))


def test_the_agent_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent is known by its name, or imported from where it was declared, or asked for."""
    module: Any = types.ModuleType("some_agents")
    monkeypatch.setitem(sys.modules, "some_agents", module)
    module.declared = named("found", declared_in="some_agents")
    url = f"sqlite:///{tmp_path}/a.db"
    with opened(url) as app:
        app.run(module.declared, "a", run_id="found")
        app.run(named("lost", declared_in="some_agents"), "a", run_id="lost")
        assert app.send("lost", "b").answer == "re: b", "this application knows it"
    with opened(url) as app:
        assert app.send("found", "b").answer == "re: b"
        with pytest.raises(UsageError, match="run 'lost' was started with 'lost', and nobody can"):
            app.send("lost", "c")
        assert app.send("lost", "c", agent=named("lost")).answer == "re: c"
        assert app.send("lost", "d").answer == "re: d", "and now it is known"
        module.declared = outlast.flow(name="found")(lambda run: None)
    with opened(url) as app:
        with pytest.raises(UsageError, match="some_agents:declared is a flow now; give agent=…"):
            app.send("found", "c")
        del module.declared
        with pytest.raises(UsageError, match="some_agents:declared, which cannot be imported"):
            app.send("found", "c")
