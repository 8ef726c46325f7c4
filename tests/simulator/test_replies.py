"""What comes over the wire, as the real SDK reads it."""

from __future__ import annotations

import json
from pathlib import Path

import anthropic
import httpx2
import msgspec
import pytest

from outlast.testing import simulator
from simulator import scripts
from simulator.asking import HEADERS, TESTS, body, client_of, told

TOOLS = [{"name": "search", "input_schema": {"type": "object"}}]


def stream_events(url: str, request: dict[str, object]) -> list[dict[str, object]]:
    answer = httpx2.post(
        f"{url}/v1/messages?beta=true", json=request | {"stream": True}, headers=HEADERS
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    chunks = answer.text.strip().split("\n\n")
    events = [chunk.split("\ndata: ", 1) for chunk in chunks]
    for name, data in events:
        assert name == f"event: {json.loads(data)['type']}"
    return [json.loads(data) for _, data in events]


def test_a_text_is_answered(ask):
    """A question gets the script's answer, as the SDK's own types."""
    message = ask("hello")
    assert message.content[0].text == "You said 'hello', attempt 1."
    assert (message.stop_reason, message.role, message.type) == ("end_turn", "assistant", "message")
    assert message.id.startswith("msg_")
    assert message._request_id.startswith("req_")


def test_a_stream_has_the_events_of_the_api_in_order(menu):
    """A stream is message_start, blocks with several deltas and a ping, message_delta, stop."""
    events = stream_events(menu.url, body("hello"))
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "content_block_start", "ping"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert kinds.count("content_block_delta") >= 3
    start, end = events[0]["message"], events[-2]
    assert start["usage"]["output_tokens"] == 1
    assert start["stop_reason"] is None
    assert end["usage"]["input_tokens"] == start["usage"]["input_tokens"]
    assert end["usage"]["output_tokens"] > 1
    assert end["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


# The SDK guesses what an input that was cut off would have been, so only its stream has one.
@pytest.mark.parametrize("question", sorted(scripts.TURNS.keys() - {"raw", "torn"}))
def test_the_stream_and_the_message_are_the_same_reply(client, question):
    """The SDK puts a stream together to the very message it gets without one."""
    with client.beta.messages.stream(**body(question)) as stream:
        streamed = stream.get_final_message()
    whole = client.beta.messages.create(**body(question))
    assert told(streamed) == told(whole)


def test_raw_json_crosses_the_wire_byte_for_byte(menu):
    """Spellings of numbers, unknown blocks and unknown members survive the stream."""
    given = msgspec.json.decode(scripts.RAW, type=list[dict[str, msgspec.Raw]])
    request = body("raw") | {"stream": True}
    text = httpx2.post(f"{menu.url}/v1/messages", json=request, headers=HEADERS).text
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]

    class Event(msgspec.Struct):
        type: str
        index: int = -1
        content_block: dict[str, msgspec.Raw] = {}
        delta: dict[str, msgspec.Raw] = {}

    events = [msgspec.json.decode(line, type=Event) for line in data]
    for index, block in enumerate(given):
        of_block = [event for event in events if event.index == index]
        started = of_block[0].content_block
        assert list(started) == list(block)
        pieces: dict[str, str] = {}
        for event in of_block:
            for name, value in event.delta.items():
                if name != "type":
                    pieces[name] = pieces.get(name, "") + msgspec.json.decode(value)
        for name, value in block.items():
            spelled = bytes(value).decode()
            if name == "input":
                assert pieces["partial_json"] == spelled
            elif name in pieces:
                assert pieces[name] == msgspec.json.decode(value)
            else:
                assert bytes(started[name]).decode() == spelled


def test_raw_json_is_the_message_without_a_stream(menu):
    """Without a stream the content is the script's bytes."""
    answer = httpx2.post(f"{menu.url}/v1/messages", json=body("raw"), headers=HEADERS)
    assert scripts.RAW in answer.content


def test_an_empty_input_is_never_said_in_a_delta(menu):
    """As with the API, the input `{}` stands in content_block_start, and the delta is empty."""
    events = stream_events(menu.url, body("empty-input"))
    assert events[1]["content_block"]["input"] == {}
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert deltas == [{"type": "input_json_delta", "partial_json": ""}]


def test_a_tool_loop_runs_to_its_answer(tmp_path: Path):
    """Two calls at once get two results, and the answer is made from them."""
    with simulator.start("simulator.scripts:searcher", path=[TESTS], state=tmp_path) as running:
        client = client_of(running)
        request = body("Find it.", tools=TOOLS)
        first = client.messages.create(**request)
        assert first.stop_reason == "tool_use"
        calls = [block for block in first.content if block.type == "tool_use"]
        assert len({call.id for call in calls}) == 2
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": call.input["q"] * 3}
            for call in calls
        ]
        request["messages"] += [
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": results},
        ]
        assert client.messages.create(**request).content[0].text == "Found aaa and bbb."
        client.close()


def test_the_same_request_gets_the_same_reply(ask):
    """Ids, text and usage are a function of the request, markers and metadata aside."""
    marked = [{"type": "text", "text": "again", "cache_control": {"type": "ephemeral"}}]
    first = ask("again")
    second = ask("again", metadata={"user_id": "u"}, messages=[{"role": "user", "content": marked}])
    assert first.to_dict() == second.to_dict()
    assert ask("another").id != first.id


def test_an_answer_is_cut_at_max_tokens(ask):
    """What does not fit into max_tokens is not said, and the stop reason tells."""
    message = ask("long", max_tokens=50)
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 50
    assert ask("long").content[0].text.startswith(message.content[0].text)


def test_extra_members_come_with_the_message(ask):
    """A refusal carries its details."""
    assert ask("refusal").stop_details.category == "cyber"


def test_models_are_listed(client):
    """GET /v1/models gives what can be asked for, with its limits."""
    models = {model.id: model for model in client.models.list()}
    assert models["claude-haiku-4-5"].max_tokens == 32_000
    assert models["claude-opus-5-5"].max_input_tokens == 1_000_000


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/files"), ("GET", "/v1/messages")])
def test_what_is_not_simulated_says_so(menu, method, path):
    """Another address is an error of the API's shape, which names it."""
    answer = httpx2.request(method, menu.url + path)
    assert answer.status_code in (404, 405)
    assert path in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"anthropic-version": "2023-06-01"}, anthropic.AuthenticationError),
        ({"x-api-key": "k"}, anthropic.BadRequestError),
    ],
)
def test_headers_are_needed(menu, headers, error):
    """Without a key it is 401, without a version 400."""
    answer = httpx2.post(f"{menu.url}/v1/messages", json=body("hello"), headers=headers)
    assert (
        answer.status_code == {"AuthenticationError": 401, "BadRequestError": 400}[error.__name__]
    )
    assert answer.json()["type"] == "error"


def test_a_broken_script_is_a_500_that_tells_why(ask):
    """The exception of a script reaches its author, and nothing is billed."""
    with pytest.raises(anthropic.InternalServerError, match="LookupError: the script is broken"):
        ask("raise")


def test_the_default_script_says_what_it_heard():
    """Without a script Claude echoes, and calls the tools it is told to."""
    with simulator.start() as running, client_of(running) as client:
        assert "I heard: hello" in client.messages.create(**body("hello")).content[0].text
        message = client.messages.create(**body('please\ncall search {"q": 1}', tools=TOOLS))
        assert (message.content[0].name, message.content[0].input) == ("search", {"q": 1})
