"""Ways to break a flow that were found once, and are no ways any more."""

import asyncio
import contextvars
from typing import Any

import pytest

import outlast
from outlast.errors import RunConflict, UsageError
from outlast.models.script import last_text, say
from outlast.models.scripted import ScriptedModel
from outlast.starting import begin
from stubs import agent

writer = agent(model="claude-opus-5-5")


def echo(request: dict[str, Any], attempt: int) -> Any:
    return say("re: " + last_text(request))


@outlast.flow
async def mapping(run: outlast.Run) -> list[str]:
    return list(await run.map(writer, ["one", "two"], name="m", at_once=1))


def test_a_child_is_not_talked_to() -> None:
    """What a child answers is its parent's: nothing can be said to it in between."""
    with outlast.Outlast("memory://", model=ScriptedModel(echo)) as app:
        app.run(mapping, run_id="r").result()
        with pytest.raises(UsageError, match="is a child of run 'r'"):
            app.send("r/m/1", "another question", agent=writer)


def test_a_run_of_somebody_else_is_no_child() -> None:
    """A run that has the id of a child, and was not started by the parent, is not taken for it."""
    with outlast.Outlast("memory://", model=ScriptedModel(echo)) as app:
        begin(app.journal, "r/m/1", writer, "one", tenant="other")
        with pytest.raises(RunConflict, match="parent"):
            app.run(mapping, run_id="r")


def test_a_stopped_child_stops_its_parent_and_goes_on_with_it() -> None:
    """A child without budget fails nobody: raised, parent and child go on where they were."""
    model = ScriptedModel(echo)
    with outlast.Outlast("memory://", model=model) as app:
        app.set_budget("fleet", calls=1, reason="a test")
        stopped = app.run(mapping, run_id="r")
        assert stopped.status == "stopped"
        assert "run r/m/2 is stopped: fleet budget" in stopped.why
        app.set_budget("fleet", calls=9, reason="more")
        assert app.resume("r", mapping).answer == ["re: one", "re: two"]
    assert len(model.calls) == 2


def test_a_phase_that_was_refused_is_refused_again() -> None:
    """A flow that tried a phase it may not enter, and then another, goes on after a park."""
    steps: list[str] = []

    @outlast.flow(phases={"p": ["q"], "q": [], "r": []})
    async def trying(run: outlast.Run) -> str:
        run.enter("p")
        try:
            run.enter("r")
        except outlast.IllegalPhase:
            steps.append("refused")
        run.enter("q")
        await run.sleep(1.2)
        return "done"

    with outlast.Outlast("memory://", model=ScriptedModel(echo)) as app:
        assert app.run(trying, run_id="r").answer == "done"
    assert steps == ["refused", "refused"]


@pytest.mark.parametrize("then", ["pay", "return"])
def test_what_a_flow_cancels_is_never_decided_anew(then: str) -> None:
    """A timeout around an ask is refused where the flow goes on, before anything depends on it."""
    paid: list[str] = []

    async def slowly(request: Any, *, on_part: Any) -> Any:
        await asyncio.sleep(1)
        return await ScriptedModel(echo).call(request, on_part=on_part)

    class Slow:
        call = staticmethod(slowly)

    @outlast.flow
    async def racing(run: outlast.Run) -> str:
        try:
            return str(await asyncio.wait_for(run.ask(writer, "slow"), 0.1))
        except TimeoutError:
            if then == "pay":
                await run.step("pay", paid.append, "late")
            return "late"

    with outlast.Outlast("memory://", model=Slow()) as app:
        with pytest.raises(UsageError, match="cancelled 'tester-1' and went on"):
            app.run(racing, run_id="r")
        assert app.get("r").status == "running"
    assert paid == []


def test_a_flow_that_fails_with_what_it_cancels_is_failed() -> None:
    """Siblings that a task group cancels because one failed do not hide why."""

    async def fails() -> None:
        raise ValueError("broken")

    @outlast.flow
    async def grouped(run: outlast.Run) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(_sleeping(run))

    async def _sleeping(run: outlast.Run) -> None:
        await run.sleep(5)

    with outlast.Outlast("memory://", model=ScriptedModel(echo)) as app:
        run = app.run(grouped, run_id="r")
    assert run.status == "failed"
    assert "broken" in run.why


def test_context_variables_reach_a_sync_flow() -> None:
    """The function of a sync flow sees the context variables of whoever runs it, as tools do."""
    who = contextvars.ContextVar("who", default="nobody")

    @outlast.flow
    def telling(run: outlast.Run) -> str:
        return who.get()

    async def asked(app: outlast.Outlast) -> Any:
        who.set("ann")
        return (await app.arun(telling, run_id="r")).answer

    with outlast.Outlast("memory://", model=ScriptedModel(echo)) as app:
        assert asyncio.run(asked(app)) == "ann"


def test_a_result_that_breaks_its_promise_fails_the_step_the_same_each_time() -> None:
    """A step whose result is not of its type has failed: now, and when executed again."""
    called: list[str] = []

    def wrong() -> int:
        called.append("x")
        return "x"  # type: ignore[return-value]

    @outlast.flow
    async def caught(run: outlast.Run) -> str:
        try:
            await run.step("wrong", wrong)
        except outlast.StepFailed as error:
            await run.sleep(1.2)
            return error.why
        return "it passed"

    with outlast.Outlast("memory://", model=ScriptedModel(echo)) as app:
        run = app.run(caught, run_id="r")
    assert run.status == "completed", run.why
    assert "is no int" in run.answer
    assert called == ["x"]
