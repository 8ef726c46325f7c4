"""Agents as tools of agents: child runs, their answers, their failures, and who ends them."""

import asyncio
import signal
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

import outlast
from flow_stubs import Dying, before, echo, events, named, of_kind, opened
from outlast.errors import StoreError
from outlast.events import ChildStarted, RunStarted, ToolCallFailed
from outlast.models.script import Fault, last_text, say, tool_use, turn_number
from outlast.stores import open_store
from stubs import MODEL, Answers, reply

EXPERT = named("expert", instructions="You know it all.")
TOOL = EXPERT.as_tool()
LEAD = outlast.Agent("lead", model=MODEL, instructions="You lead.", tools=[TOOL])
CHILD = "r/ask-1.m1.t1"


def is_lead(request: dict[str, Any]) -> bool:
    return bool(request.get("tools"))


def delegating(request: dict[str, Any], attempt: int) -> Any:
    """Let the lead ask the expert, and answer with what it was told."""
    if not is_lead(request):
        return echo(request, attempt)
    if turn_number(request) == 1:
        return say(tool_use("ask_expert", {"question": last_text(request)}))
    (result,) = request["messages"][-1]["content"]
    return say(f"{result.get('is_error', False)}: {result['content']}")


def requests(app: Any, *, lead: bool) -> int:
    """Return how many requests were the lead's, or those of others."""
    return sum(is_lead(msgspec.json.decode(body)) is lead for body in app.claude.calls)


def test_an_agent_asks_another() -> None:
    """A call of the tool is a run of its own, whose answer is the tool's result."""
    with opened(script=delegating) as app:
        run = app.run(LEAD, "x", run_id="r", tenant="acme")
        assert run.answer == "False: re: x"
        child = app.get(CHILD)
        assert (child.agent, child.status, child.answer) == ("expert", "completed", "re: x")
        assert (child.parent, child.tenant) == ("r", "acme")
        started = of_kind(app, RunStarted, CHILD)[0]
        assert (started.parent, started.root) == ("r", "r")
        (born,) = of_kind(app, ChildStarted)
        assert (born.child, born.call_id) == (CHILD, "ask-1.m1.t1")
        assert events(app).index("child_started") < events(app).index("tool_call_succeeded")


def test_the_listing_shows_parents() -> None:
    """`runs` shows children as runs, and whose they are."""
    with opened(script=delegating) as app:
        app.run(LEAD, "x", run_id="r")
        assert {(run.id, run.parent) for run in app.runs()} == {("r", ""), (CHILD, "r")}


def test_the_tool_is_told_as_it_is_declared() -> None:
    """Claude sees a name, a description and one question; both can be given."""
    assert TOOL.name == "ask_expert"
    assert TOOL.schema["description"] == "Ask expert, an agent of its own, and get its answer."
    assert list(TOOL.schema["input_schema"]["properties"]) == ["question"]
    other = named("a.b").as_tool(name="other", description="Another one.")
    assert (other.name, other.schema["description"]) == ("other", "Another one.")
    assert named("a.b").as_tool().name == "ask_a_b"


def test_a_child_that_failed_is_an_error_of_the_tool() -> None:
    """Claude is told that there is no answer, and why; the parent goes on."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if not is_lead(request):
            return Fault(kind="status", status=400, message="too odd")
        return delegating(request, attempt)

    with opened(script=script) as app:
        run = app.run(LEAD, "x", run_id="r")
        assert run.status == "completed"
        assert run.answer.startswith(
            "True: expert has no answer: it is failed. Claude did not take"
        )
        assert of_kind(app, ToolCallFailed)[0].kind == "refused"
        assert app.get(CHILD).status == "failed"


def test_two_levels_of_agents() -> None:
    """An agent that is a tool may have agents as tools; all belong to one root."""
    middle = outlast.Agent("middle", model=MODEL, instructions="Middle.", tools=[TOOL])
    top = outlast.Agent("top", model=MODEL, instructions="Top.", tools=[middle.as_tool()])

    def script(request: dict[str, Any], attempt: int) -> Any:
        if not is_lead(request):
            return echo(request, attempt)
        (tool,) = request["tools"]
        if turn_number(request) == 1:
            return say(tool_use(tool["name"], {"question": last_text(request) + "+"}))
        return say(request["messages"][-1]["content"][0]["content"])

    with opened(script=script) as app:
        assert app.run(top, "x", run_id="r").answer == "re: x++"
        inner = f"{CHILD}/ask-1.m1.t1"
        assert (app.get(inner).parent, app.get(CHILD).parent) == (CHILD, "r")
        assert of_kind(app, RunStarted, inner)[0].root == "r"


def test_several_children_at_once() -> None:
    """Calls of one reply are children side by side, each with an id of its own."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if not is_lead(request):
            return echo(request, attempt)
        if turn_number(request) == 1:
            return say(*(tool_use("ask_expert", {"question": word}) for word in "abc"))
        return say(" ".join(one["content"] for one in request["messages"][-1]["content"]))

    with opened(script=script) as app:
        assert app.run(LEAD, "x", run_id="r").answer == "re: a re: b re: c"
        assert {run.id for run in app.runs() if run.parent} == {
            f"r/ask-1.m1.t{number}" for number in (1, 2, 3)
        }


def test_a_flows_agent_has_children_too() -> None:
    """An agent that a flow asks may have agents as tools, whatever the ask is called."""

    @outlast.flow
    async def flow(run: outlast.Run) -> str:
        answer: str = await run.ask(LEAD, "x", name="a question, ä")
        return answer

    with opened(script=delegating) as app:
        assert app.run(flow, run_id="r").answer == "False: re: x"
        (child,) = [run for run in app.runs() if run.parent]
        assert child.id.startswith("r/a_question__")


# ── crashes ─────────────────────────────────────────────────────────────────────────────────────


def test_a_crash_before_the_child_began() -> None:
    """A child whose intent is written, and nothing of itself, is begun once, under that id."""
    journal = open_store("memory://")
    dies = before(RunStarted, agent="expert")
    with opened(Dying(journal, dies), delegating) as app, pytest.raises(StoreError):
        app.run(LEAD, "x", run_id="r")
    with opened(journal, delegating) as app:
        assert [run.id for run in app.runs()] == ["r"]
        assert app.run(LEAD, "x", run_id="r").answer == "False: re: x"
        assert (requests(app, lead=False), requests(app, lead=True)) == (1, 1)
        assert [run.id for run in app.runs() if run.parent] == [CHILD]


@pytest.mark.parametrize("answered", [False, True])
def test_a_crash_in_the_child_is_gone_on_with(tmp_path: Path, answered: Any) -> None:
    """After a crash the child goes on where its own journal ends; what was paid is kept."""
    url = f"sqlite:///{tmp_path}/a.db"
    journal = open_store(url)

    def dies(written: tuple[Any, ...]) -> bool:
        kinds = {type(event).__name__ for event in written}
        return ("ToolCallSucceeded" in kinds) if answered else ("AskAnswered" in kinds)

    with opened(Dying(journal, dies), delegating) as app, pytest.raises(StoreError):
        app.run(LEAD, "x", run_id="r")
    with opened(journal, delegating) as app:
        assert app.get(CHILD).status == ("completed" if answered else "running")
        assert app.run(LEAD, "x", run_id="r").answer == "False: re: x"
        # An outcome that was not written is in doubt, and asked for again; a written one is not.
        assert requests(app, lead=False) == (0 if answered else 1)
        assert requests(app, lead=True) == 1, "the answer that asked for the child is kept"
        assert {one.child for one in of_kind(app, ChildStarted)} == {CHILD}
        assert len(app.runs()) == 2


# ── cancelling ──────────────────────────────────────────────────────────────────────────────────


class Hanging:
    """A Claude whose expert never answers until it is told to go on."""

    def __init__(self) -> None:
        self.going = threading.Event()
        self.ended: list[str] = []
        self.go_on = False
        self.model = Answers(self._answer)

    async def _answer(self, request: Any) -> Any:
        body = msgspec.json.decode(request.body())
        if is_lead(body):
            if turn_number(body) == 1:
                use = b'{"type":"tool_use","id":"t","name":"ask_expert","input":{"question":"q"}}'
                return reply(b"[%b]" % use, "tool_use")
            return reply(b'[{"type":"text","text":"led"}]')
        if not self.go_on:
            self.going.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.append(request.run_id)
        return reply(b'[{"type":"text","text":"known"}]')


def test_cancelling_the_parent_reaches_the_child() -> None:
    """Who cancels `arun` ends the child's call too, and both runs are let go."""
    claude = Hanging()

    async def cancelled() -> outlast.Run:
        with outlast.Outlast("memory://", model=claude.model) as app:
            task = asyncio.create_task(app.arun(LEAD, "x", run_id="r"))
            await asyncio.to_thread(claude.going.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert claude.ended == [CHILD]
            claude.go_on = True
            alone = await app.arun(EXPERT, "q", run_id=CHILD)
            assert alone.answer == "known", "nobody holds the child"
            return await app.arun(LEAD, "x", run_id="r")

    assert asyncio.run(cancelled()).answer == "led"


def test_an_interrupt_reaches_the_child() -> None:
    """Ctrl-C in `run` ends the child's call too; the same call goes on with both."""
    claude = Hanging()

    def interrupt() -> None:
        claude.going.wait(20)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with outlast.Outlast("memory://", model=claude.model) as app:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            app.run(LEAD, "x", run_id="r")
        assert claude.ended == [CHILD]
        claude.go_on = True
        assert app.run(LEAD, "x", run_id="r").answer == "led"
        assert app.get(CHILD).status == "completed"


def test_an_agent_as_a_tool_needs_an_agent_to_call_it() -> None:
    """Called in any other way, the tool says that only an agent can."""

    @outlast.flow
    async def flow(run: outlast.Run) -> None:
        await run.step("ask", TOOL, "x")

    with opened() as app:
        run = app.run(flow)
        assert run.status == "failed"
        assert "ask_expert can only be called by an agent" in run.why
