"""What Claude sees when it is asked again, and how often checks are begun."""

import asyncio
import itertools
from typing import Any

import msgspec
import pytest

import outlast
from outlast.events import ModelCallStarted, VerdictGiven
from outlast.journal import run_stream
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from validation.answering import EMPTY, GOOD, NOBODY, Grant, agent, answers, rejected

MOST = 5
"""So often checks may be begun, as the page says."""


@outlast.tool(effect="read")
async def search(word: str) -> str:
    """Search."""
    await asyncio.sleep(0.05)
    return "Ladder by Trust"


def bare(value: Any) -> Any:
    """Return a request's part without its breakpoints for the prompt cache."""
    if isinstance(value, dict):
        return {name: bare(one) for name, one in value.items() if name != "cache_control"}
    return [bare(one) for one in value] if isinstance(value, list) else value


def searching(said: Any) -> Any:
    """Search before the first answer to each question."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        last = request["messages"][-1]["content"]
        if turn_number(request) == 1 or any(one.get("text") == "And more?" for one in last):
            return say(tool_use("search", {"word": "x"}))
        return answers(*said)(request, attempt)

    return script


def test_a_fresh_conversation_begins_with_what_its_question_began_with():
    """To the byte, also where a conversation goes on: what was said before stays, and its cache."""
    who = agent(tools=[search], retry="resample")

    def script(request: dict[str, Any], attempt: int) -> Any:
        if any("What was wrong" in str(one["content"]) for one in request["messages"][-1:]):
            return say(GOOD)
        return searching([NOBODY])(request, attempt)

    model = ScriptedModel(script)
    with outlast.Outlast("memory://", model=model) as app:
        app.run(who, "Find grants.", run_id="r")
        first = len(model.calls)
        assert app.send("r", "And more?", agent=who).status == "completed"
        intents = [one.event for one in app.log("r") if isinstance(one.event, ModelCallStarted)]
    for asked in (0, first):
        begun, again = (msgspec.json.decode(model.calls[n]) for n in (asked, asked + 2))
        assert bare(again["messages"][:-1]) == bare(begun["messages"])
        assert {name: bare(one) for name, one in again.items() if name != "messages"} == {
            name: bare(one) for name, one in begun.items() if name != "messages"
        }
        marked = [
            number
            for number, one in enumerate(again["messages"])
            if "cache_control" in str(one["content"])
        ]
        assert marked[-1] == len(again["messages"]) - 1
        assert len(marked) <= 3, "the API takes four, and one stands in the head"
    # What a tool returned is not what is paid for, once it is out of the conversation.
    assert [one.tool for one in intents] == ["", "search", ""] * 2


@pytest.fixture
def old(monkeypatch):
    """Let no model have structured outputs."""
    monkeypatch.setattr("outlast.agent.structured", lambda model: False)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("retry", ["repair", "resample"])
def test_every_call_of_a_tool_has_its_result(retry):
    """Beside an answer that is rejected, or accepted; and what is slow is waited for."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        said = msgspec.json.decode(GOOD if rejected(request) else EMPTY)
        if request["messages"][-1]["content"][-1].get("text") == "And more?":
            said = msgspec.json.decode(GOOD)
        return say(tool_use("search", {"word": "x"}), tool_use("give_answer", said))

    model = ScriptedModel(script)
    who = agent(tools=[search], retry=retry)
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(who, "Find grants.", run_id="r")
        assert run.status == "completed", run.why
        assert app.send("r", "And more?", agent=who).status == "completed"
        intents = [one.event for one in app.log("r") if isinstance(one.event, ModelCallStarted)]
    if retry == "repair":
        assert intents[1].tool == "search"
    for body in model.calls:
        messages = msgspec.json.decode(body)["messages"]
        for said, told in itertools.pairwise(messages):
            uses = [one["id"] for one in said["content"] if one["type"] == "tool_use"]
            if said["role"] == "assistant":
                results = [one for one in told["content"] if one["type"] == "tool_result"]
                assert [one["tool_use_id"] for one in results] == uses
                assert results[0]["content"] == "Ladder by Trust"
    accepted = [
        one
        for message in msgspec.json.decode(model.calls[-1])["messages"]
        for one in message["content"]
        if one.get("content") == "The answer was accepted."
    ]
    assert accepted
    assert not any(one.get("is_error") for one in accepted)


def test_checks_under_which_the_process_dies_are_begun_so_often_and_not_again():
    """Five times; after that nobody can tell, and one death less is none too many."""

    def played(points: list[int]) -> tuple[World, list[VerdictGiven], Any]:
        world = World(answers(GOOD), crash_at=tuple(points))
        journal = open_store("memory://")
        state, crashes = run(world, journal, agent(answer_attempts=1), "Find grants.")
        assert crashes == len(points)
        events = [one.event for one in journal.read(run_stream("r"))]
        return world, [one for one in events if isinstance(one, VerdictGiven)], state

    points: list[int] = []
    for _ in range(MOST):
        world, verdicts, state = played(points)
        assert state.status == "completed", state.why
        assert {one.verdict for one in verdicts} == {"passed"}
        after = points[-1] if points else 0
        names = enumerate(world.trace, start=1)
        points.append(
            next(n for n, name in names if n > after and name.startswith("before check "))
        )
    world, verdicts, state = played(points)
    assert state.status == "rejected"
    unsure = [one for one in verdicts if one.verdict == "unverified"]
    assert unsure
    assert all(f"{MOST} times" in one.why for one in unsure)


def test_an_answer_is_of_its_type_however_it_is_asked_for():
    """By a run, again, in a conversation, started and waited for, by a flow and its children."""
    good = [Grant(name="Ladder", funder="Trust", max_usd=10, eligibility="charities")]
    who = agent()

    @outlast.flow
    async def asks(run: outlast.Run, brief: str) -> list[bool]:
        asked = await run.ask(who, brief)
        mapped = await run.map(who, [brief, brief])
        return [asked == good, list(mapped) == [good, good]]

    with outlast.Outlast("memory://", model=ScriptedModel(answers(GOOD))) as app:
        for _ in range(2):
            assert app.run(who, "Find.", run_id="r").answer == good
            assert app.run(asks, "Find.", run_id="f", wait_s=20).answer == [True, True]
        assert app.send("r", "More?", agent=who).answer == good
        started = app.start(who, "Find.", run_id="s")
        assert app.resume("s", who).answer == good
        assert started.result(wait_s=1) == good
        plain = [one.model_dump() for one in good]
        assert app.get("r").answer == plain, "nobody says what type it is"
