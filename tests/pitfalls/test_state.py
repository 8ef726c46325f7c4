"""Part 1: what goes wrong when an agent's state is saved."""

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import outlast
from flow_stubs import Dying, before
from outlast.cli.shapes import event_shape, run_shape
from outlast.errors import Busy, IllegalPhase, StoreError
from outlast.events import (
    JOURNAL_VERSION,
    MessageReceived,
    ModelCallSucceeded,
    NoteAdded,
    PhaseEntered,
    RunStarted,
    ToolCallSucceeded,
)
from outlast.journal import Journal, run_stream
from outlast.models.script import Fault, faulty, once, say, tool_use
from outlast.models.scripted import ScriptedModel
from outlast.state import fold
from outlast.stores import open_store
from stubs import Answers, agent, asking, reply, unmarked

ARTICLE = Path(__file__).with_name("article.py")
QUESTION = "What foundation grants exist? PRIVATE-1234"


@outlast.tool(effect="read")
async def look(word: str) -> str:
    """Look a word up."""
    return word * 3


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state.db"


def played(url: str, script: Any, *, tools: Any = (look,), question: str = QUESTION) -> Any:
    claude = ScriptedModel(script)
    with outlast.Outlast(url, model=claude) as app:
        run = app.run(agent(*tools), question, run_id="r")
        return run, claude, app.log("r")


def test_1_01_creation_time_survives_every_save(url: str) -> None:
    """A run keeps the moment it was created, however often it is written to."""
    run, _, records = played(url, asking(tool_use("look", {"word": "a"})))
    assert len({record.at for record in records}) > 1
    assert run.created_at == records[0].at
    with outlast.Outlast(url, model=ScriptedModel(asking())) as app:
        app.note("r", "later")
        assert app.get("r").created_at == records[0].at


def test_1_02_a_failed_call_leaves_no_half_said_message(url: str) -> None:
    """A failed attempt leaves no half-said user message behind: the retry asks once."""
    trouble = once(1, Fault(kind="status", status=529))
    run, claude, records = played(url, faulty(asking(), trouble))
    assert run.status == "completed"
    first, second = map(msgspec.json.decode, map(unmarked, claude.calls))
    asked = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    assert first["messages"] == second["messages"] == asked
    assert sum(isinstance(record.event, MessageReceived) for record in records) == 1


def test_1_03_the_question_is_durable_before_the_paid_call(tmp_path: Path, url: str) -> None:
    """When a request leaves, its question can be read from the file by anybody else."""
    seen: list[str] = []

    def ask(request: Any) -> Any:
        with sqlite3.connect(f"{tmp_path}/state.db") as other:
            bodies = [body for (body,) in other.execute("SELECT body FROM event_bodies")]
        other.close()
        seen.extend(body.decode() for body in bodies)
        return reply(b'[{"type":"text","text":"yes"}]')

    with outlast.Outlast(url, model=Answers(ask)) as app:
        app.run(agent(), QUESTION, run_id="r")
    assert any('"message_received"' in body and QUESTION in body for body in seen)


@pytest.mark.parametrize(
    "dies_after",
    ["phase_entered", "ask_started", "model_call_started", "model_call_succeeded"],
)
def test_1_04_a_crash_just_after_a_phase_began_loses_nothing(
    tmp_path: Path, dies_after: str
) -> None:
    """The article's example, killed as it enters its phase, does the phase's work when restarted.

    The original asks `if agent.phase == INITIAL`, so a process that is started in the phase that
    it entered, and did nothing in, has nothing to do for ever.
    """

    def started(*more: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-P",
            str(ARTICLE),
            f"{tmp_path}/a.db",
            f"{tmp_path}/calls",
            *more,
        ]
        env = {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=60, check=False
        )

    killed = started(dies_after)
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout == ""
    again = started()
    question = "What foundation grants exist for HIV cure research?"
    assert again.stdout == f"completed COMPLETE [Summarise [{question}]]\n", again.stderr
    asked = (tmp_path / "calls").read_text().splitlines()
    assert asked == [question, f"Summarise [{question}]"], "and pays for nothing twice"
    assert started().stdout == again.stdout
    assert (tmp_path / "calls").read_text().splitlines() == asked, "and then it costs nothing"


class Weighed:
    """A journal that weighs what is appended."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.weights: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Any) -> Any:
        self.weights.append(sum(len(msgspec.json.encode(event)) for event in commit.events))
        return self._journal.append(commit)

    async def aappend(self, commit: Any) -> Any:
        return self.append(commit)


def test_1_05_two_drivers_lose_no_paid_reply(url: str) -> None:
    """While one application drives a run, another follows it; Claude is asked once."""

    async def both() -> tuple[outlast.Run, outlast.Run, int]:
        loop = asyncio.get_running_loop()
        going, turned_away, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def ask(request: Any) -> Any:
            going.set()
            await go_on.wait()
            return reply(b'[{"type":"text","text":"paid"}]')

        class Watched(Weighed):
            def claim(self, stream: str, **options: Any) -> int:
                try:
                    return self._journal.claim(stream, **options)
                except Busy:
                    loop.call_soon_threadsafe(turned_away.set)
                    raise

        claude = Answers(ask)
        with (
            outlast.Outlast(url, model=claude) as first,
            outlast.Outlast(Watched(open_store(url)), model=claude) as second,
        ):
            one = asyncio.create_task(first.arun(agent(), QUESTION, run_id="r"))
            await going.wait()
            other = asyncio.create_task(second.arun(agent(), QUESTION, run_id="r"))
            await turned_away.wait()
            go_on.set()
            return await one, await other, len(claude.calls)

    one, other, calls = asyncio.run(both())
    assert one.answer == other.answer == "paid"
    assert calls == 1


def test_1_06_the_first_block_need_not_be_text(url: str) -> None:
    """Thinking before the text, a tool use alone, or nothing at all is read for what it is."""
    thinking = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    run, _, _ = played(url, lambda request, attempt: say(thinking, "The answer."))
    assert run.answer == "The answer."
    with outlast.Outlast("memory://", model=ScriptedModel(lambda r, a: say())) as app:
        empty = app.run(agent(), QUESTION)
    assert (empty.status, empty.answer) == ("failed", None)
    assert "without a word" in empty.why


def test_1_07_every_block_is_kept(url: str) -> None:
    """All blocks of a reply are in the journal, and in the answer when they are text."""
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    run, _, records = played(url, lambda request, attempt: say("One, ", search, "two."))
    assert run.answer == "One, two."
    (reply_,) = [r.event for r in records if isinstance(r.event, ModelCallSucceeded)]
    types = [block["type"] for block in msgspec.json.decode(reply_.content)]
    assert types == ["text", "server_tool_use", "text"]


def test_1_08_why_the_model_stopped_decides() -> None:
    """A reply that was refused, cut off, or stopped for an unknown reason is no success."""
    for stop_reason in ("refusal", "max_tokens", "model_context_window_exceeded", "zebra", None):
        claude = ScriptedModel(lambda r, a, why=stop_reason: say("Some text.", stop_reason=why))
        with outlast.Outlast("memory://", model=claude) as app:
            run = app.run(agent(), QUESTION)
        assert (run.status, run.answer) == ("failed", None), stop_reason


def test_1_09_all_that_a_resume_needs_is_in_the_journal(url: str) -> None:
    """The state of a run is what its journal folds to, the whole history in it."""
    _, claude, _ = played(url, asking(tool_use("look", {"word": "a"})))
    journal = open_store(url)
    state = fold(journal.read(run_stream("r")))
    journal.close()
    (ask,) = state.asks.values()
    *before, _ = (msgspec.json.decode(message) for message in ask.messages)
    assert msgspec.json.decode(unmarked(claude.calls[-1]))["messages"] == before
    assert msgspec.json.decode(state.answer) == "done"


def test_1_10_a_save_writes_only_what_is_new() -> None:
    """The hundredth turn writes as much as the tenth: the conversation is never rewritten."""

    def ask(request: Any) -> Any:
        turn = len(request.messages) // 2
        if turn == 100:
            return reply(b'[{"type":"text","text":"done"}]')
        use = b'[{"type":"tool_use","id":"toolu_%03d","name":"look","input":{"word":"a"}}]' % turn
        return reply(use, "tool_use")

    journal = Weighed(open_store("memory://"))
    with outlast.Outlast(journal, model=Answers(ask)) as app:
        asked = agent(look, budget=outlast.Budget(turns=None), stops_loops=False)
        assert app.run(asked, QUESTION, run_id="r").status == "completed"
    tenth, hundredth = sum(journal.weights[20:22]), sum(journal.weights[-4:-2])
    assert abs(hundredth - tenth) < 30, "a few more digits, and nothing else"


def test_1_11_a_phase_follows_only_what_it_may() -> None:
    """A phase that may not follow the one before is refused, with those that may; at any place."""
    refused: list[tuple[str, str, tuple[str, ...]]] = []

    @outlast.flow(phases=["researching", "drafting", "reviewing"])
    def walk(run: outlast.Run) -> None:
        for phase in ("reviewing", "researching", "reviewing", "researching", "drafting"):
            try:
                run.enter(phase)
            except IllegalPhase as illegal:
                # Not the error itself, which holds the flow in memory for as long as it is held.
                refused.append((illegal.now, illegal.wanted, illegal.legal))

    with outlast.Outlast("memory://", model=ScriptedModel(asking())) as app:
        assert app.run(walk, run_id="r").phase == "COMPLETE"
        entered = [one.event.phase for one in app.log("r") if isinstance(one.event, PhaseEntered)]
    assert entered == ["researching", "drafting"]
    ends = ("COMPLETE", "FAILED")
    assert refused == [
        ("", "reviewing", ("researching", *ends)),
        ("researching", "reviewing", ("drafting", *ends)),
        ("researching", "researching", ("drafting", *ends)),
    ]


def test_1_12_failing_is_a_state_and_says_all(url: str) -> None:
    """A failed run is `failed`, in phase `FAILED`, for good, with the whole of what went wrong."""
    whole = "the grants server said: " + "no, " * 100 + "never"

    @outlast.flow(phases=["researching"])
    def research(run: outlast.Run) -> None:
        run.enter("researching")
        raise ConnectionError(whole)

    with outlast.Outlast(url, model=ScriptedModel(asking())) as app:
        app.run(research, run_id="r")
    with outlast.Outlast(url, model=ScriptedModel(asking())) as app:
        run = app.get("r")
        assert (run.status, run.phase, run.answer) == ("failed", "FAILED", None)
        assert run.why == f"flow research raised ConnectionError: {whole}"
        assert app.run(research, run_id="r") == run, "it is not begun again"
        with pytest.raises(outlast.RunEnded):
            app.resume("r", research)
        with pytest.raises(outlast.RunFailed, match="never"):
            run.result()


def test_1_13_tool_blocks_are_saved_and_sent_again(url: str) -> None:
    """A conversation with tool calls is kept, and goes on in another process with all of them."""
    _, claude, _ = played(url, asking(tool_use("look", {"word": "a"})))
    messages = msgspec.json.decode(claude.calls[-1])["messages"]
    (use,) = messages[1]["content"]
    (result,) = messages[2]["content"]
    assert (use["type"], use["name"], use["input"]) == ("tool_use", "look", {"word": "a"})
    assert (result["type"], result["tool_use_id"]) == ("tool_result", use["id"])
    with outlast.Outlast(url, model=ScriptedModel(asking())) as app:
        assert app.run(agent(look), QUESTION, run_id="r").answer == "done"


def test_1_14_times_are_utc_and_say_so(url: str) -> None:
    """Every time that leaves the journal is RFC 3339 in UTC, with its Z."""
    _, _, records = played(url, asking())
    journal = open_store(url)
    row = journal.run("r")
    journal.close()
    assert row is not None
    shown = run_shape(row)
    times = [event_shape(record)["at"] for record in records]
    for time in [*times, shown["created_at"], shown["updated_at"]]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time)


def test_1_15_the_database_waits_and_lets_go(tmp_path: Path, url: str) -> None:
    """The file is in WAL mode, an append waits for another writer, and closing leaves no handle."""
    played(url, asking())
    with sqlite3.connect(f"{tmp_path}/state.db", isolation_level=None) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        with outlast.Outlast(url, model=ScriptedModel(asking())) as app:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.new_event_loop()
            note = waiting.run_in_executor(None, app.note, "r", "while another writes")
            other.execute("COMMIT")
            waiting.run_until_complete(note)
            waiting.run_until_complete(waiting.shutdown_default_executor())
            waiting.close()
            assert len(app.log("r")) == 8
    other.close()
    open_files = Path("/proc/self/fd")
    if open_files.exists():
        names = [str(fd.resolve()) for fd in open_files.iterdir() if fd.exists()]
        assert not [name for name in names if "state.db" in name], "a connection leaked"


def test_1_16_a_resumed_run_is_the_same_agent(url: str) -> None:
    """A run that goes on says to Claude what it said before, whatever the agent is by now."""

    @outlast.tool(effect="read")
    async def other(word: str) -> str:
        """Look a word up, in another way."""
        return word

    was = agent(look, instructions="Be thorough.", parameters={"metadata": {"user_id": "u"}})
    script = asking(tool_use("look", {"word": "a"}))
    first = ScriptedModel(script)
    dying = Dying(open_store(url), before(ToolCallSucceeded))
    with outlast.Outlast(dying, model=first) as app, pytest.raises(StoreError):
        app.run(was, QUESTION, run_id="r")
    now = agent(look, other, instructions="Be brief.", model="claude-opus-5-5", max_tokens=100)
    second = ScriptedModel(script)
    with outlast.Outlast(url, model=second) as app:
        assert app.run(now, QUESTION, run_id="r").answer == "done"
        told = [one.event.text for one in app.log("r") if isinstance(one.event, NoteAdded)]
    dying.end()
    (then,) = map(msgspec.json.decode, map(unmarked, first.calls))
    (after,) = map(msgspec.json.decode, map(unmarked, second.calls))
    for name in ("model", "system", "tools", "metadata", "max_tokens"):
        assert after[name] == then[name], name
    (note,) = told
    assert "tester was changed (model, instructions, parameters, max_tokens, tools)" in note


def test_1_17_the_journal_says_its_version(url: str) -> None:
    """Every run says which version of the journal wrote it, and the file which schema it has."""
    _, _, records = played(url, asking())
    first = records[0].event
    assert isinstance(first, RunStarted)
    assert first.journal_version == JOURNAL_VERSION
    with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
        assert file.execute("PRAGMA user_version").fetchone()[0] >= 1
    file.close()


def test_1_18_what_people_wrote_is_in_no_reason(url: str) -> None:
    """A reason names values of ours; what a user wrote stands in messages only."""
    lost = faulty(lambda request, attempt: say("x"), once(1, Fault(kind="status", status=400)))
    run, _, records = played(url, lost)
    assert run.status == "failed"
    assert run.why
    assert "PRIVATE" not in run.why
    journal = open_store(url)
    meta = b"".join(proof.meta for proof in journal.proofs(run_stream("r")))
    journal.close()
    assert b"PRIVATE" not in meta
    for record in records:
        said = isinstance(record.event, MessageReceived)
        assert ("PRIVATE" in msgspec.json.encode(record.event).decode()) == said
