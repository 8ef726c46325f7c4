"""What is asked of the API over HTTP, and of other clouds: the beta has to be named."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import anthropic
import msgspec
import pytest
from reading import QUESTION, reader

import outlast
from outlast.context import BETA, edit
from outlast.events import CompactionRequested, ModelCallSucceeded
from outlast.models import clouds
from outlast.models.strict import refusal
from outlast.testing import simulator

HERE = Path(__file__).parent
EDITS = b'"model":"claude-opus-5-5",' + edit(50_000)


@pytest.fixture(scope="module")
def claude() -> Iterator[simulator.Simulator]:
    with simulator.start(script="reading:book", path=[HERE, HERE.parent]) as started:
        yield started


def test_the_sdk_names_the_beta(claude: simulator.Simulator, tmp_path: Path) -> None:
    """Over the SDK a run is condensed, none of its requests is refused, and what it pays is billed.

    The header is on the requests that ask for it, and on no other.
    """
    client = anthropic.AsyncAnthropic(base_url=claude.url, api_key="any")
    with outlast.Outlast(f"sqlite:///{tmp_path}/a.db", client=client) as app:
        run = app.run(reader(60_000), QUESTION, run_id="r")
        events = [record.event for record in app.log("r")]
    assert run.answer == "I have read 14 pages."
    assert any(isinstance(event, CompactionRequested) for event in events)
    lines = [line for line in claude.requests() if line["outcome"] != "counted"]
    assert {line["outcome"] for line in lines} == {"complete"}
    named = [BETA in line["headers"].get("anthropic-beta", "") for line in lines]
    assert named == ["compact_20260112" in line["body"] for line in lines]
    assert any(named)
    assert claude.billed_nano == int(run.cost_usd * 10**9)
    kinds = {event.stop_reason for event in events if isinstance(event, ModelCallSucceeded)}
    assert "compaction" in kinds


def test_betas_of_the_client_stay() -> None:
    """What the client's own header names is named beside it, once."""
    for own, named in [("", BETA), ("a, b", f"a,b,{BETA}"), (BETA, BETA)]:
        headers = {"anthropic-beta": own} if own else {}
        client = anthropic.AsyncAnthropic(api_key="any", default_headers=headers)
        assert clouds.betas(client, b"", EDITS) == {"anthropic-beta": named}
        assert clouds.betas(client, b'"model":"claude-opus-5-5"') == {}


def test_bedrock_has_it_in_the_body() -> None:
    """Bedrock takes no such header: its client moves it into the body."""
    bedrock = anthropic.AsyncAnthropicBedrock(api_key="any", aws_region="eu-west-1")
    route = asyncio.run(
        clouds.route(
            bedrock, "/v1/messages", model="anthropic.claude-opus-5-5-v1", head=EDITS, stream=True
        )
    )
    members = msgspec.json.decode(b"{%b}" % route.members)
    assert members["anthropic_beta"] == [BETA]


@pytest.mark.parametrize(
    ("managed", "wrong"),
    [
        (None, ""),
        ({}, ""),
        (msgspec.json.decode(b"{%b}" % edit(50_000))["context_management"], ""),
        ({"edits": [{"type": "clear_tool_uses_20250919", "keep": {}}]}, ""),
        ([], "context_management.edits: Input should be a valid list"),
        ({"edits": [{"type": "compact"}]}, "context_management.edits.0: Input tag 'compact'"),
        ({"edits": [{"type": "compact_20260112", "at": 1}]}, ".at: Extra inputs"),
        (
            {
                "edits": [
                    {
                        "type": "compact_20260112",
                        "trigger": {"type": "input_tokens", "value": 49_999},
                    }
                ]
            },
            "trigger.value: Input should be greater than or equal to 50000",
        ),
        (
            {"edits": [{"type": "compact_20260112", "trigger": {"type": "turns", "value": 9}}]},
            "trigger: Input should have type 'input_tokens'",
        ),
        (
            {"edits": [{"type": "compact_20260112", "pause_after_compaction": 1}]},
            "pause_after_compaction: Input should be a valid boolean",
        ),
    ],
)
def test_what_the_simulator_takes(managed: object, wrong: str) -> None:
    """The simulator refuses what the API refuses of `context_management`."""
    body = {
        "model": "claude-opus-5-5",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "Hi."}],
        "context_management": managed,
    }
    found = refusal(body)
    assert (found.message if found else "").find(wrong) >= 0
    assert bool(found) == bool(wrong)
