"""The application: wherever it is called from, a run is driven once, and can be gone on with."""

import asyncio
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

import outlast
from outlast.errors import StoreError
from outlast.events import ModelCallInDoubt, NoteAdded, RunStarted, ToolCallInDoubt
from outlast.journal import run_stream
from outlast.models import Reply, Request
from outlast.models.script import last_text, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from stubs import Answers, agent, asking, reply, results

PATIENCE_S = 60
ANSWER = b'[{"type":"text","text":"done"}]'
AGENT = agent()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the url of a new store, of each kind."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"


@pytest.fixture
def model() -> ScriptedModel:
    """Return a Claude that answers at once."""
    return ScriptedModel(asking())


@pytest.fixture
def app(model: ScriptedModel) -> Iterator[outlast.Outlast]:
    """Return an application in memory."""
    with outlast.Outlast("memory://", model=model) as app:
        yield app


# ── wherever it is called from ────────────────────────────────────────────────────────────────


def echo(request: dict[str, Any], attempt: int) -> Any:
    """Look the question up, and answer with it."""
    if turn_number(request) == 1:
        return say(tool_use("look", {"word": last_text(request)}))
    return say(f"answer to {last_text(request)}")


@outlast.tool(effect="read")
async def look(word: str) -> str:
    await asyncio.sleep(0)
    return word


LOOKING = agent(look)


def test_a_run_has_its_answer_and_its_cost(url: str) -> None:
    """A run that completed has its answer, what it cost to the nano-dollar, and its times."""
    model = ScriptedModel(asking(answer="forty-two"))
    with outlast.Outlast(url, model=model) as app:
        run = app.run(AGENT, "Go.", run_id="r", tenant="acme", tags={"team": "a"})
        assert (run.id, run.agent, run.status, run.why) == ("r", "tester", "completed", "")
        assert run.answer == run.result() == "forty-two"
        assert run.cost_nano == model.billed_nano > 0
        assert run.cost_usd == Decimal(run.cost_nano) / 10**9
        assert run.turns == 1
        assert 0 < run.created_at <= run.updated_at
        assert app.get("r") == run
        assert app.runs() == [run]
        started = app.log("r")[0].event
    assert isinstance(started, RunStarted)
    assert (started.tenant, started.tags, started.root) == ("acme", {"team": "a"}, "r")


def test_calls_from_any_place_come_to_the_same(url: str) -> None:
    """Sync and async, with a loop running or not, in this thread or another: it just runs."""
    with outlast.Outlast(url, model=ScriptedModel(echo)) as app:

        async def inside() -> list[Any]:
            return [(await app.arun(LOOKING, "a")).answer, app.run(LOOKING, "b").answer]

        assert app.run(LOOKING, "plain").answer == "answer to plain"
        assert asyncio.run(inside()) == ["answer to a", "answer to b"]
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(asyncio.run, inside()).result() == ["answer to a", "answer to b"]


def test_threads_share_an_application(url: str) -> None:
    """Any number of threads may run agents of one application at once."""
    with outlast.Outlast(url, model=ScriptedModel(echo)) as app, ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda n: app.run(LOOKING, f"q{n}", run_id=f"r{n}"), range(16)))
        assert [run.answer for run in runs] == [f"answer to q{n}" for n in range(16)]
        assert {run.id for run in app.runs(status="completed")} == {f"r{n}" for n in range(16)}


def test_fifty_runs_at_once(url: str) -> None:
    """Fifty runs on one loop keep to themselves, and each has a journal of its own."""
    with outlast.Outlast(url, model=ScriptedModel(echo)) as app:

        async def main() -> list[outlast.Run]:
            runs = (app.arun(LOOKING, f"q{n}", run_id=f"r{n}") for n in range(50))
            return await asyncio.gather(*runs)

        for number, run in enumerate(asyncio.run(main())):
            assert run.answer == f"answer to q{number}"
            records = app.log(run.id)
            assert [record.seq for record in records] == list(range(1, len(records) + 1))
        positions = [record.position for record in app.journal.read_all(limit=10_000)]
        assert positions == list(range(1, 50 * len(records) + 1))


def test_a_sync_call_on_its_own_loop_is_refused() -> None:
    """An async flow that calls `run` would wait for itself; it is told what to call instead."""
    raised: list[Exception] = []

    @outlast.flow
    async def nested(run: outlast.Run) -> str:
        try:
            app.run(AGENT, "Inner.")
        except outlast.UsageError as error:
            raised.append(error)
        return str((await app.arun(AGENT, "Inner.")).answer)

    with outlast.Outlast("memory://", model=ScriptedModel(asking(answer="inner answer"))) as app:
        assert app.run(nested).answer == "inner answer"
    (error,) = raised
    assert "use the async one there: await app.arun(…)" in str(error)


def test_an_async_tool_may_run_another_agent() -> None:
    """It has a loop of its own, so it waits for nobody who waits for it."""

    @outlast.tool(effect="read")
    async def nested() -> str:
        first = app.run(AGENT, "Inner.").answer
        return f"{first}, {(await app.arun(AGENT, 'Inner.')).answer}"

    def script(request: dict[str, Any], attempt: int) -> Any:
        if last_text(request) == "Inner.":
            return say("inner answer")
        return say("done") if turn_number(request) == 2 else say(tool_use("nested", {}))

    model = ScriptedModel(script)
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(agent(nested), "Outer.").answer == "done"
    assert results(model)[0]["content"] == "inner answer, inner answer"


# ── one id, one run ───────────────────────────────────────────────────────────────────────────


def test_the_same_id_again_costs_nothing(app: outlast.Outlast, model: ScriptedModel) -> None:
    """A run that has its answer gives it again, without a call and without an event."""
    first = app.run(AGENT, "Go.", run_id="r")
    records = app.log("r")
    assert app.run(AGENT, "Go.", run_id="r") == first
    assert app.start(AGENT, "Go.", run_id="r") == first
    assert app.log("r") == records
    assert len(model.calls) == 1


def test_the_same_id_for_something_else_is_a_conflict(app: outlast.Outlast) -> None:
    """A run id belongs to its agent and its input; whoever gives others is told both."""
    app.run(AGENT, "Go.", run_id="r")
    with pytest.raises(outlast.RunConflict) as raised:
        app.run(AGENT, "Stay.", run_id="r")
    assert str(raised.value) == (
        "run 'r' exists with another input: '\"Go.\"' is recorded, '\"Stay.\"' was given. "
        "Use another run_id, or the recorded input."
    )
    with pytest.raises(outlast.RunConflict, match="another agent: 'tester' is recorded, 'other'"):
        app.run(outlast.Agent("other", model=AGENT.model), "Go.", run_id="r")
    with pytest.raises(outlast.RunConflict) as raised:
        app.run(AGENT, "x" * 1000, run_id="r")
    assert len(str(raised.value)) < 300
    assert len(app.runs()) == 1


def test_ids_are_made_where_none_is_given(app: outlast.Outlast) -> None:
    """Without a run id every call is a run of its own, named after its agent."""
    first, second = app.run(AGENT, "Go."), app.run(AGENT, "Go.")
    assert first.id != second.id
    assert first.id.startswith("tester-")
    assert app.runs() == [second, first], "newest first"


@pytest.mark.parametrize("script_end", ["end_turn", "refusal"])
def test_what_is_over_cannot_be_resumed(script_end: str) -> None:
    """A run that completed or failed is not resumed, and the error says so."""
    model = ScriptedModel(lambda request, attempt: say("done", stop_reason=script_end))
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(AGENT, "Go.", run_id="r")
        with pytest.raises(outlast.RunEnded, match=f"run 'r' is {run.status} and cannot be"):
            app.resume("r", AGENT)
        assert app.run(AGENT, "Go.", run_id="r") == run
    assert len(model.calls) == 1


def test_two_who_run_the_same_id_share_one_run(url: str) -> None:
    """Two callers with one id: one drives, the other waits, and both get the answer."""
    model = ScriptedModel(echo)
    with outlast.Outlast(url, model=model) as app:

        async def main() -> list[outlast.Run]:
            return await asyncio.gather(*(app.arun(LOOKING, "Go.", run_id="r") for _ in range(4)))

        first, *others = asyncio.run(main())
        assert others == [first] * 3
        assert first.status == "completed"
    assert len(model.calls) == 2


def test_who_does_not_wait_is_told_who_drives(url: str) -> None:
    """With `wait_s=0` a run that another driver holds is returned as it is, and says by whom."""
    with outlast.Outlast(url, model=ScriptedModel(asking())) as app:
        app.start(AGENT, "Go.", run_id="r")
        app.journal.claim(run_stream("r"))
        run = app.run(AGENT, "Go.", run_id="r", wait_s=0)
        assert run.status == "queued"
        assert run.why.startswith("driven by process ")
        assert run.why.endswith(" on this machine")
        app.journal.release(run_stream("r"))
        assert app.resume("r", AGENT).status == "completed"


class TakingOver:
    """A journal whose driver takes runs over from others, who may still live."""

    def __init__(self, journal: Any) -> None:
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def claim(self, stream: str, *, force: bool = False) -> int:
        return self._journal.claim(stream, force=True)


def test_who_lost_a_run_hears_at_once_that_it_was_stopped() -> None:
    """A driver that was taken over waits for the other one's end, and no longer."""
    small = agent(look, budget=outlast.Budget(turns=1))
    asked, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Reply:
        asked.set()
        await goes_on.wait()
        return reply(ANSWER)

    async def main() -> None:
        journal = open_store("memory://")
        first = outlast.Outlast(journal, model=Answers(slow))
        second = outlast.Outlast(TakingOver(journal), model=ScriptedModel(echo))  # type: ignore[arg-type]
        task = asyncio.create_task(first.arun(small, "Go.", run_id="r", wait_s=10_000))
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        assert (await second.arun(small, "Go.", run_id="r")).status == "stopped"
        goes_on.set()
        assert (await asyncio.wait_for(task, PATIENCE_S)).status == "stopped"

    asyncio.run(main())


# ── stopping and going on ─────────────────────────────────────────────────────────────────────


def test_a_run_that_was_stopped_goes_on_with_a_larger_budget(url: str) -> None:
    """A run without budget stops before the call, and goes on when its agent may do more."""
    model = ScriptedModel(echo)
    small = agent(look, budget=outlast.Budget(turns=1))
    with outlast.Outlast(url, model=model) as app:
        run = app.run(small, "Go.", run_id="r")
        assert run.status == "stopped"
        assert "needs 1 turn, 0 turns left; give a larger Budget(turns=…)" in run.why
        with pytest.raises(outlast.RunStopped, match="run 'r' is stopped"):
            run.result()
        assert app.run(small, "Go.", run_id="r") == run
        assert app.resume("r", small) == run
        assert len(model.calls) == 1
        larger = app.resume("r", LOOKING)
        assert larger.result() == "answer to Go."
        assert len(model.calls) == 2


def test_what_was_started_is_driven_later(app: outlast.Outlast, model: ScriptedModel) -> None:
    """A started run is queued, costs nothing, and has no answer until somebody drives it."""
    run = app.start(AGENT, "Go.", run_id="r")
    assert (run.status, run.answer, run.turns) == ("queued", None, 0)
    with pytest.raises(outlast.RunWithoutAnswer, match="run 'r' is queued: it has not ended"):
        run.result(wait_s=0)
    assert model.calls == []
    assert dataclasses.asdict(run)["id"] == "r", "it is data, as any run"
    assert app.resume("r", AGENT).result() == "done"
    assert run.result() == "done", "and it has waited"


def test_a_failed_run_says_why(app: outlast.Outlast, model: ScriptedModel) -> None:
    """The result of a failed run is an error that says what happened and where to look."""
    model._claude = ScriptedModel(lambda request, attempt: say("", stop_reason="refusal"))._claude
    run = app.run(AGENT, "Go.", run_id="r")
    with pytest.raises(outlast.RunFailed) as raised:
        run.result()
    assert "stop_reason 'refusal'" in str(raised.value)
    assert "`outlast log r` tells the story" in str(raised.value)


class Waiting:
    """A model that is asked, and answers when it is let; what is called meanwhile can be seen."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answers = False
        self.model = Answers(self.answer)

    async def answer(self, request: Request) -> Reply:
        self.asked.set()
        if not self.answers:
            await asyncio.Event().wait()
        return reply(ANSWER)


def test_a_cancelled_run_can_be_gone_on_with(url: str) -> None:
    """Cancelling `arun` lets the run go; its call is in doubt, and the next driver goes on."""
    waiting = Waiting()
    with outlast.Outlast(url, model=waiting.model) as app:

        async def main() -> None:
            task = asyncio.create_task(app.arun(AGENT, "Go.", run_id="r"))
            await asyncio.to_thread(waiting.asked.wait, PATIENCE_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert app.get("r").status == "running"
            waiting.answers = True
            assert (await app.aresume("r", AGENT)).status == "completed"

        asyncio.run(main())
        lost = [r.event for r in app.log("r") if isinstance(r.event, ModelCallInDoubt)]
    assert [event.kind for event in lost] == ["crash"]
    assert len(waiting.model.calls) == 2


def interrupt_the_caller() -> None:
    """Do what Ctrl-C does to the thread that waits in `run`."""
    thread = threading.main_thread().ident
    assert thread is not None
    signal.pthread_kill(thread, signal.SIGINT)


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_an_interrupt_lets_the_run_go(url: str, kind: str) -> None:
    """Ctrl-C ends `run` where it waits, and the run can be gone on with from the same process."""
    ended = threading.Event()

    def stop() -> None:
        interrupt_the_caller()
        ended.wait(PATIENCE_S)

    async def stop_async() -> None:
        interrupt_the_caller()
        await asyncio.Event().wait()

    tool = outlast.tool(name="stop", effect="once")(stop if kind == "thread" else stop_async)
    with outlast.Outlast(url, model=ScriptedModel(asking(tool_use("stop", {})))) as app:
        with pytest.raises(KeyboardInterrupt):
            app.run(agent(tool), "Go.", run_id="r")
        ended.set()
        assert app.get("r").status == "running"
        assert app.resume("r", agent(tool)).status == "waiting", "for a person"
        lost = [r.event for r in app.log("r") if isinstance(r.event, ToolCallInDoubt)]
    assert len(lost) == 1, "the interrupted call is in doubt, and was not repeated"


def test_closing_lets_runs_go(tmp_path: Path) -> None:
    """Closing an application ends what it drives; another one goes on with it."""
    waiting = Waiting()
    url = f"sqlite:///{tmp_path}/a.db"
    app = outlast.Outlast(url, model=waiting.model)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(app.run, AGENT, "Go.", run_id="r")
        assert waiting.asked.wait(PATIENCE_S)
        app.close()
        error = running.exception(PATIENCE_S)
    assert isinstance(error, outlast.UsageError)
    assert "closed while this call was under way; what it had written is safe" in str(error)
    waiting.answers = True
    with outlast.Outlast(url, model=waiting.model) as again:
        assert again.run(AGENT, "Go.", run_id="r").status == "completed"


def test_closed_is_closed(url: str, model: ScriptedModel) -> None:
    """An application may be closed twice; whatever is asked of it then is an error that says so."""
    app = outlast.Outlast(url, model=model)
    app.run(AGENT, "Go.", run_id="r")
    app.close()
    app.close()
    uses: list[Callable[[], Any]] = [
        lambda: app.run(AGENT, "Go.", run_id="r"),
        lambda: app.start(AGENT, "Go."),
        lambda: app.resume("r", AGENT),
        lambda: app.get("r"),
        app.runs,
        lambda: app.log("r"),
        lambda: app.note("r", "hello"),
    ]
    for use in uses:
        with pytest.raises(StoreError, match="is closed"):
            use()
    app.close()


# ── another agent ─────────────────────────────────────────────────────────────────────────────


def test_a_run_goes_on_with_its_own_agent_only(app: outlast.Outlast) -> None:
    """A run is not driven with an agent of another name, nor without a tool that it knows."""
    app.start(LOOKING, "Go.", run_id="r")
    with pytest.raises(outlast.UsageError, match="was started with agent 'tester', not 'other'"):
        app.resume("r", outlast.Agent("other", model=AGENT.model))
    with pytest.raises(outlast.UsageError, match="that agent 'tester' no longer has: look"):
        app.resume("r", AGENT)
    assert app.get("r").status == "queued"


def test_a_run_goes_on_as_it_was_recorded(app: outlast.Outlast, model: ScriptedModel) -> None:
    """What the model sees is reused from the journal, whatever has become of the agent."""
    app.start(LOOKING, "Go.", run_id="r")
    changed = agent(look, model="claude-opus-5-5", instructions="New.", max_tokens=1)
    assert app.resume("r", changed).status == "completed"
    (body,) = map(msgspec.json.decode, model.calls)
    assert body["model"] == AGENT.model
    assert body["max_tokens"] == AGENT.max_tokens
    assert "system" not in body


# ── looking and writing ───────────────────────────────────────────────────────────────────────


def test_looking_for_what_is_not_there(app: outlast.Outlast) -> None:
    """A run that is not there is an error that names it, the store, and what to do."""
    uses: list[Callable[[], Any]] = [
        lambda: app.get("nobody"),
        lambda: app.log("nobody"),
        lambda: app.note("nobody", "hello"),
        lambda: app.resume("nobody", AGENT),
    ]
    for use in uses:
        with pytest.raises(outlast.RunNotFound) as raised:
            use()
        assert str(raised.value) == (
            "there is no run 'nobody' in memory://; `outlast runs` lists what is there"
        )
    assert app.runs() == []


def test_runs_can_be_told_apart(app: outlast.Outlast) -> None:
    """Runs are listed newest first, all of them or those of a status or an agent."""
    other = outlast.Agent("other", model=AGENT.model)
    app.run(AGENT, "Go.", run_id="a")
    app.run(other, "Go.", run_id="b")
    app.start(AGENT, "Go.", run_id="c")
    assert [run.id for run in app.runs()] == ["c", "b", "a"]
    assert [run.id for run in app.runs(status="completed")] == ["b", "a"]
    assert [run.id for run in app.runs(agent="tester")] == ["c", "a"]
    assert [run.id for run in app.runs(agent="tester", status="queued")] == ["c"]
    assert [run.id for run in app.runs(limit=1)] == ["c"]


def test_a_note_is_written_and_changes_nothing(app: outlast.Outlast) -> None:
    """A remark is in the journal, with who made it; what the run is stays as it was."""
    run = app.run(AGENT, "Go.", run_id="r")
    app.note("r", "Well done. 🦊", by="ann")
    last = app.log("r", after=len(app.log("r")) - 1)
    assert [record.event for record in last] == [NoteAdded(text="Well done. 🦊", by="ann")]
    assert last[0].epoch == 0
    seen = app.get("r")
    assert (seen.status, seen.answer, seen.cost_nano) == (run.status, run.answer, run.cost_nano)
    assert app.run(AGENT, "Go.", run_id="r").answer == run.answer


def test_a_journal_can_be_given(model: ScriptedModel) -> None:
    """Instead of a url a journal may be given, which is then closed with the application."""
    journal = open_store("memory://")
    with outlast.Outlast(journal, model=model) as app:
        assert app.journal is journal
        app.run(AGENT, "Go.", run_id="r")
        assert journal.run("r") is not None
    with pytest.raises(StoreError, match="closed"):
        journal.run("r")


def test_the_first_event_is_written_before_the_first_call(url: str) -> None:
    """What was asked is durable before anything is paid for, and so is the intent to ask."""
    seen: list[str] = []

    def answer(request: Request) -> Reply:
        seen.extend(type(record.event).__name__ for record in app.log("r"))
        return reply(ANSWER, extra=Raw(b"{}"))

    with outlast.Outlast(url, model=Answers(answer)) as app:
        app.run(AGENT, "Go.", run_id="r")
    assert seen == ["RunStarted", "AskStarted", "MessageReceived", "ModelCallStarted"]
