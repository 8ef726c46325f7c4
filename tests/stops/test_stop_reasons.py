"""Every row of the stop-reason table, over HTTP, with the SDK, against a Claude that is strict."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from anthropic.types.beta import BetaContentBlock

import outlast
from outlast.conversation import flaw, opened
from outlast.decide import KNOWN_BLOCKS
from outlast.events import FeedbackGiven, ModelCallSucceeded
from outlast.models.script import say
from outlast.models.scripted import ScriptedModel
from outlast.testing import simulator

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def claude() -> Iterator[simulator.Simulator]:
    with (
        simulator.start(script="stopping:script", path=[HERE]) as started,
        pytest.MonkeyPatch.context() as settings,
    ):
        settings.setenv("ANTHROPIC_BASE_URL", started.url)
        settings.setenv("ANTHROPIC_API_KEY", "any-key-will-do")
        yield started


def _unmarked(body: str) -> str:
    return body.replace(',"cache_control":{"type":"ephemeral"}', "")


class Played:
    """One run that asks for a row of the table."""

    def __init__(self, claude: simulator.Simulator, asked: str, **more: Any) -> None:
        self.sent: list[str] = []
        sent = self.sent

        @outlast.tool(effect="once")
        async def send(text: str) -> str:
            """Send a text."""
            sent.append(text)
            return "sent"

        agent = outlast.Agent("stopper", model="claude-opus-5-5", tools=[send], **more)
        before = len(claude.requests())
        with outlast.Outlast("memory://") as app:
            self.run = app.run(agent, asked, run_id="r")
            self.records = app.log("r")
        lines = claude.requests()[before:]
        self.requests = [msgspec.json.decode(_unmarked(line["body"])) for line in lines]

    def replies(self) -> list[Any]:
        events = [record.event for record in self.records]
        return [
            msgspec.json.decode(event.content)
            for event in events
            if isinstance(event, ModelCallSucceeded)
        ]


PARAMETERS: dict[str, dict[str, Any]] = {
    "thinking": {"thinking": {"type": "adaptive"}},
    "thinking enabled": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "structured": {
        "output_config": {
            "format": {
                "type": "json_schema",
                "schema": {"type": "object", "properties": {"ok": {"type": "boolean"}}},
            }
        }
    },
}


@pytest.mark.parametrize(
    ("asked", "answer", "sent"),
    [
        ("end_turn", "Yes.", []),
        ("stop_sequence", "Yes", []),
        ("tool_use", "Sent.", ["a"]),
        ("pause_turn", "Wait. Found it.", []),
        ("pause_turn, then a tool", "Sent.", ["a"]),
        ("compaction", "Compacted, and done.", []),
        ("max_tokens", "One, two and three.", []),
        ("max_tokens, then pause_turn", "Part 1. Part 2. Part 3. ", []),
        ("max_tokens in a call", "Sent.", ["b"]),
        ("thinking", "Yes.", ["a"]),
        ("thinking enabled", "Yes.", ["a"]),
        ("structured", '{"ok":true}', []),
        ("server tools", "Found it.", ["a"]),
        ("container", "Contained.", ["a"]),
    ],
)
def test_goes_on(claude: simulator.Simulator, asked: str, answer: str, sent: list[str]) -> None:
    """A stop that is not the end is gone on with as the table says, and ends in an answer."""
    played = Played(claude, asked, parameters=PARAMETERS.get(asked, {}))
    assert played.run.status == "completed", played.run.why
    assert played.run.answer == answer
    assert played.sent == sent


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("refusal", "category 'bio', it recommends claude-sonnet-5-5"),
        ("model_context_window_exceeded", "stop_reason 'model_context_window_exceeded'"),
        ("null", "stop_reason None, which is not an answer"),
        ("zebra", "stop_reason 'zebra', which is not an answer"),
        ("max_tokens for ever", "4 replies in a row were cut off at max_tokens=8192"),
    ],
)
def test_is_never_success(claude: simulator.Simulator, asked: str, why: str) -> None:
    """A stop that is no answer fails the run, names itself, and runs no tool."""
    played = Played(claude, asked)
    assert played.run.status == "failed"
    assert why in played.run.why
    assert played.run.answer is None
    assert played.sent == []


def test_a_pause_is_sent_back_unchanged(claude: simulator.Simulator) -> None:
    """After a pause the reply is sent back as it came, with nothing after it."""
    played = Played(claude, "pause_turn")
    _, second = played.requests
    assert second["messages"][1:] == [{"role": "assistant", "content": played.replies()[0]}]


def test_a_compaction_comes_first(claude: simulator.Simulator) -> None:
    """A compaction stands for all before it: it is the first message of what is sent next."""
    played = Played(claude, "compaction")
    last = played.requests[-1]["messages"]
    assert last == [{"role": "assistant", "content": played.replies()[0]}]
    assert last[0]["content"][0]["type"] == "compaction"


def test_a_cut_call_never_runs(claude: simulator.Simulator) -> None:
    """The calls of a reply that was cut off get one error each, and Claude makes them again."""
    played = Played(claude, "max_tokens in a call")
    told = played.requests[1]["messages"][-1]["content"]
    assert [block["type"] for block in told] == ["tool_result", "text"]
    assert told[0]["is_error"] is True
    assert told[0]["tool_use_id"] == played.replies()[0][1]["id"]
    (feedback,) = [r.event for r in played.records if isinstance(r.event, FeedbackGiven)]
    assert feedback.why == "max_tokens"


def test_thinking_is_sent_back_as_it_came(claude: simulator.Simulator) -> None:
    """Thinking, signature and all, is sent back before the results of the tools it led to."""
    for asked in ("thinking", "thinking enabled"):
        played = Played(claude, asked, parameters=PARAMETERS[asked])
        said = played.requests[1]["messages"][1]["content"]
        assert said == played.replies()[0]
        assert (said[0]["type"], said[1]["type"]) == ("thinking", "tool_use")
        assert said[0]["signature"]


def test_blocks_of_server_tools_are_carried_through(claude: simulator.Simulator) -> None:
    """What a server tool was asked and found is sent back beside the results of our own."""
    played = Played(claude, "server tools")
    said = played.requests[1]["messages"][1]["content"]
    assert said == played.replies()[0]
    assert [b["type"] for b in said] == ["server_tool_use", "web_search_tool_result", "tool_use"]


def test_a_container_is_kept(claude: simulator.Simulator) -> None:
    """The container that a reply names is named by every request after it."""
    played = Played(claude, "container")
    assert [request.get("container") for request in played.requests] == [None, "container_7"]


def test_what_could_not_be_sent_is_found_here() -> None:
    """A history that the API would refuse is found before it is sent, with the reason."""
    agent = outlast.Agent("a", model="claude-opus-5-5")
    assert flaw(opened("ask-1", agent.spec())) == "nothing was said yet"


def test_every_block_of_the_sdk_is_known() -> None:
    """A block is unknown only if the SDK does not know it either."""
    union = get_args(BetaContentBlock)[0]
    kinds = {get_args(block.model_fields["type"].annotation)[0] for block in get_args(union)}
    assert kinds == KNOWN_BLOCKS


def test_an_unknown_block_is_no_answer() -> None:
    """A last reply with a block that nobody knows fails the run, naming it."""
    claude = ScriptedModel(lambda request, attempt: say("Done.", {"type": "zebra"}))
    with outlast.Outlast("memory://", model=claude) as app:
        run = app.run(outlast.Agent("a", model="claude-opus-5-5"), "Well?")
    assert (run.status, run.answer) == ("failed", None)
    assert "'zebra'" in run.why
