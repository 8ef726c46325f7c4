"""Every stop reason, as the real SDK sees it, and what the next request must look like."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import httpx2
import msgspec
import pytest

from outlast.errors import ModelFailure
from outlast.models import catalogue, schema
from outlast.models.claude import Claude
from outlast.models.script import Script, compaction, say, text, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from simulator import scripts
from simulator.asking import HEADERS, body
from simulator.test_faults import request

# the question     stop reason
STOPS = {
    "hello": "end_turn",
    "nothing": "end_turn",
    "stop-sequence": "stop_sequence",
    "thinking": "tool_use",
    "searched": "tool_use",
    "pause": "pause_turn",
    "compaction": "compaction",
    "compacted-on": "end_turn",
    "torn": "max_tokens",
    "window": "model_context_window_exceeded",
    "refusal": "refusal",
    "null": None,
    "odd-stop": "bored",
}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


class Talk:
    """A conversation with one Claude, in process."""

    def __init__(self, script: Script, **more: Any) -> None:
        self.claude = Claude(script)
        self.asked = body("hi", **more)

    def say(self, content: Any = None) -> dict[str, Any]:
        """Send what there is and `content`, and take the answer in."""
        if content is not None:
            self.asked["messages"].append({"role": "user", "content": content})
        answer = self.claude.answer(msgspec.json.encode(self.asked))
        assert answer.said, answer.fault
        blocks = msgspec.json.decode(answer.said.content)
        self.asked["messages"].append(assistant(blocks))
        return {"content": blocks, "stop_reason": answer.said.stop_reason, "usage": answer.usage}

    def refused(self) -> str:
        answer = self.claude.answer(msgspec.json.encode(self.asked))
        return answer.fault.message if answer.fault else ""


@pytest.mark.parametrize("question", STOPS)
@pytest.mark.parametrize("stream", [True, False])
def test_every_stop_reason_reaches_the_sdk(client, question, stream):
    """Streaming or not, the SDK is told why Claude stopped."""
    asked = body(question, max_tokens=900)
    if stream:
        with client.beta.messages.stream(**asked) as streamed:
            message = streamed.get_final_message()
    else:
        message = client.beta.messages.create(**asked)
    assert message.stop_reason == STOPS[question]


def test_a_paused_turn_goes_on():
    """What came is sent back with nothing after it, and Claude goes on where it was."""
    talk = Talk(
        lambda request, attempt: (
            say("One moment.", stop_reason="pause_turn")
            if turn_number(request) == 1
            else say("So.")
        )
    )
    assert talk.say()["stop_reason"] == "pause_turn"
    assert talk.say()["content"] == [text("So.")]
    assert "prefill" in talk.refused()


def test_nothing_may_come_after_a_paused_turn():
    """A pause is no end of Claude's turn, so the user has nothing to say yet."""
    talk = Talk(lambda request, attempt: say("One moment.", stop_reason="pause_turn"))
    talk.say()
    talk.asked["messages"].append({"role": "user", "content": "Well?"})
    assert "messages.2: the turn before was paused" in talk.refused()


# ── compaction ──────────────────────────────────────────────────────────────────────────────────


def compacts(request: dict[str, Any], attempt: int) -> Any:
    first = request["messages"][0]
    if first["role"] == "assistant":
        return say(f"I remember: {first['content'][0]['content']}")
    return say(compaction("owls, mostly")) if turn_number(request) == 2 else say("Owls?")


def compacted() -> tuple[Talk, dict[str, Any]]:
    talk = Talk(compacts)
    talk.say()
    answer = talk.say("go on")
    assert answer["stop_reason"] == "compaction"
    talk.asked["messages"] = talk.asked["messages"][-1:]
    return talk, answer


def test_a_compaction_opens_the_conversation_that_follows():
    """The block alone is enough to go on, and what follows it is a history like any other."""
    talk, _ = compacted()
    assert talk.say()["content"] == [text("I remember: owls, mostly")]
    assert talk.say("And?")["content"] == [text("I remember: owls, mostly")]
    talk.asked["messages"][1]["content"][0]["text"] = "I forgot."
    assert "messages.1: the history was changed" in talk.refused()


def test_a_compaction_is_known_after_a_restart():
    """Another Claude takes the block, because it is signed."""
    talk, _ = compacted()
    talk.claude = Claude(compacts)
    assert talk.say()["content"] == [text("I remember: owls, mostly")]


def test_thinking_after_a_compaction_follows_from_the_summary_alone():
    """It is signed over what stands before it when it is sent back, which is nothing else."""
    blocks = [{"type": "compaction", "content": "owls"}, {"type": "thinking", "thinking": "Hm."}]
    talk = Talk(
        lambda request, attempt: say(*blocks, tool_use("look", {})), model="claude-opus-5-5"
    )
    (*_, use) = talk.say()["content"]
    talk.asked["messages"] = talk.asked["messages"][-1:]
    talk.say([{"type": "tool_result", "tool_use_id": use["id"], "content": "an owl"}])


@pytest.mark.parametrize("check_history", [True, False])
def test_a_changed_compaction_is_refused(check_history):
    """The summary is signed, so nobody else can have written it."""
    talk, _ = compacted()
    talk.claude = Claude(compacts, check_history=check_history)
    talk.asked["messages"][0]["content"][0]["content"] = "mice, mostly"
    answer = talk.claude.answer(msgspec.json.encode(talk.asked))
    assert answer.fault
    assert answer.fault.error_code == "compaction_signature_invalid"
    assert "messages.0.content.0: Invalid `signature` in `compaction`" in answer.fault.message


def test_a_compaction_in_the_middle_is_refused():
    """The block stands for everything before it, so nothing may be before it."""
    talk, _ = compacted()
    talk.asked["messages"].insert(0, {"role": "user", "content": "hi"})
    answer = talk.claude.answer(msgspec.json.encode(talk.asked))
    assert answer.fault
    assert answer.fault.error_code == "compaction_block_misplaced"


def test_the_usage_of_a_compaction_is_in_its_iteration():
    """The top-level counts leave a compaction out; the bill does not."""
    _, answer = compacted()
    usage = answer["usage"]
    (iteration,) = usage["iterations"]
    assert iteration["type"] == "compaction"
    assert (usage["input_tokens"], usage["output_tokens"]) == (0, 0)
    assert iteration["input_tokens"] > 20
    tokens = iteration["input_tokens"] * 4_000 + iteration["output_tokens"] * 20_000
    assert catalogue.cost_nano("claude-opus-5-5", usage) == tokens


def test_a_reply_after_a_compaction_counts_for_itself(client):
    """What is said after the summary is an iteration of its own, and the top-level total."""
    usage = client.beta.messages.create(**body("compacted-on")).usage
    first, second = usage.iterations
    assert (first.type, second.type) == ("compaction", "message")
    assert (usage.input_tokens, usage.output_tokens) == (second.input_tokens, second.output_tokens)
    assert second.model == "claude-opus-5-5"


def test_iterations_have_the_price_of_their_own_model():
    """An iteration of another model is billed as that model."""
    part = {"input_tokens": 10, "output_tokens": 1}
    usage = {"iterations": [part, part | {"model": "claude-haiku-5-5"}], "input_tokens": 99}
    assert catalogue.cost_nano("claude-opus-5-5", usage) == 10 * 4_000 + 20_000 + 10 * 100 + 500


# ── where there is no more room ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("max_tokens", [20, 40, 60, 900, 1_270])
def test_a_tool_input_is_torn_at_max_tokens(menu, max_tokens):
    """The stream carries the JSON of the input as far as it came, and without a stream it is {}."""
    asked = body("torn", max_tokens=max_tokens)
    whole = httpx2.post(f"{menu.url}/v1/messages", json=asked, headers=HEADERS).json()
    streamed = httpx2.post(
        f"{menu.url}/v1/messages", json=asked | {"stream": True}, headers=HEADERS
    ).text
    events = [msgspec.json.decode(line[6:]) for line in streamed.split("\n") if line[:4] == "data"]
    torn = "".join(
        event["delta"]["partial_json"]
        for event in events
        if event.get("delta", {}).get("type") == "input_json_delta"
    )
    full = msgspec.json.encode({"text": "word " * 1_000, "more": [1, 2]}).decode()
    calls = [block for block in whole["content"] if block["type"] == "tool_use"]
    assert [call["input"] for call in calls] == ([{}] if torn else [])
    assert full.startswith(torn)
    assert torn != full
    assert bool(torn) == (max_tokens > 30)
    assert whole["stop_reason"] == "max_tokens"
    assert whole["usage"]["output_tokens"] == max_tokens


def test_in_process_a_torn_input_stands_beside_the_content():
    """`ScriptedModel` gives the fragment where the network's model does."""
    reply = asyncio.run(ScriptedModel(scripts.menu).call(request("torn"), on_part=None))
    fragments = msgspec.json.decode(reply.extra)["partial_json"]
    assert fragments["1"].startswith('{"text":"word word')
    assert msgspec.json.decode(reply.content)[1]["input"] == {}


def test_the_context_window_ends_a_reply():
    """Where the window is full before `max_tokens`, that is the stop reason."""
    model = Claude(lambda request, attempt: say("word " * 4_000), check_history=False)
    filling = "x" * (4 * 199_000)
    asked = body("hi", model="claude-haiku-4-5", max_tokens=5_000, system=filling)
    answer = model.answer(msgspec.json.encode(asked))
    assert answer.said
    assert answer.said.stop_reason == "model_context_window_exceeded"
    assert sum(answer.usage[name] for name in ("input_tokens", "output_tokens")) == 200_000


def test_a_stop_sequence_ends_a_reply():
    """The reply ends before the first sequence it says, which is named."""
    talk = Talk(
        lambda request, attempt: say("one two three", tool_use("a", {})),
        stop_sequences=["three", "two"],
    )
    answer = talk.claude.answer(msgspec.json.encode(talk.asked))
    assert answer.said
    assert msgspec.json.decode(answer.said.content) == [text("one ")]
    assert (answer.said.stop_reason, answer.said.extra) == (
        "stop_sequence",
        {"stop_sequence": "two"},
    )


def test_zero_tokens_fill_the_cache_and_say_nothing(client):
    """`max_tokens=0` reads and writes the cache, and its answer is empty."""
    asked = body("warm", max_tokens=0, system="w" * 8_000, cache_control={"type": "ephemeral"})
    message = client.messages.create(**asked)
    assert (message.content, message.stop_reason) == ([], "max_tokens")
    assert message.usage.output_tokens == 0
    assert message.usage.cache_creation_input_tokens > 2_000


# ── what comes with it ──────────────────────────────────────────────────────────────────────────


def test_a_refusal_has_its_details(client):
    """`stop_details` say of what kind it is, and what to do."""
    with client.messages.stream(**body("refusal")) as stream:
        details = stream.get_final_message().stop_details
    assert details.to_dict() == {
        "type": "refusal",
        "category": "cyber",
        "explanation": None,
        "recommended_model": "claude-opus-5-5",
    }


def test_server_tools_are_carried_through_and_billed(menu, ask):
    """Anthropic's own calls and results have ids that fit, and each search is billed."""
    message = ask("searched", max_tokens=901)
    _, call, result, own = message.content
    assert call.id.startswith("srvtoolu_")
    assert result.tool_use_id == call.id
    assert own.id.startswith("toolu_")
    assert message.container.id == "container_1"
    assert message.usage.server_tool_use.web_search_requests == 1
    line = menu.bill()[-1]
    assert line["nano_usd"] - 10_000_000 == (
        message.usage.input_tokens * 4_000 + message.usage.output_tokens * 20_000
    )


def test_a_reply_with_an_open_server_tool_call_is_answered(client, ask):
    """Only the client's own calls need results; the container's id may be sent along."""
    message = ask("searched", max_tokens=902)
    asked = body("searched", max_tokens=902, container=message.container.id)
    asked["messages"] += [
        assistant(message.to_dict()["content"]),
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": message.content[-1].id, "content": "x"},
                text("hello"),
            ],
        },
    ]
    assert client.messages.create(**asked).stop_reason == "end_turn"


def test_an_instruction_may_come_in_mid_conversation(client, ask):
    """A `system` message is taken after an answer, and is part of the history."""
    said = ask("hello").to_dict()["content"]
    asked = body("hello")
    asked["messages"] += [
        assistant(said),
        {"role": "user", "content": "again"},
        {"role": "system", "content": "Be brief."},
    ]
    assert client.messages.create(**asked).stop_reason == "end_turn"


# ── structured outputs ──────────────────────────────────────────────────────────────────────────

OWL = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": ["integer", "null"]}},
    "required": ["name"],
    "additionalProperties": False,
}
FORMAT = {"output_config": {"format": {"type": "json_schema", "schema": OWL}}}


def test_what_is_asked_for_as_json_comes_as_json():
    """A reply that fits the schema is sent as it is."""
    talk = Talk(lambda request, attempt: say('{"name": "Bo", "age": null}'), **FORMAT)
    assert talk.say()["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("Bo", "it is not JSON"),
        ('{"age": 3}', "'name' is required"),
        ('{"name": 3}', r"\$.name: 3 is not of type string"),
        ('{"name": "Bo", "kind": "owl"}', "'kind' is not allowed"),
    ],
)
def test_a_script_that_breaks_the_schema_is_told(told, says):
    """The real Claude would not say it, so it is a mistake of the script."""
    talk = Talk(lambda request, attempt: say(told), **FORMAT)
    with pytest.raises(ValueError, match=says):
        talk.say()
    cut = Talk(lambda request, attempt: say(told, stop_reason="refusal"), **FORMAT)
    assert cut.say()["stop_reason"] == "refusal"


@pytest.mark.parametrize(
    ("value", "wanted", "fits"),
    [
        (True, {"type": "integer"}, False),
        (1.5, {"type": "integer"}, False),
        (1, {"type": "number"}, True),
        (None, {"anyOf": [{"type": "null"}, {"type": "string"}]}, True),
        (2, {"anyOf": [{"type": "null"}, {"type": "string"}]}, False),
        ("b", {"enum": ["a", "b"]}, True),
        ("c", {"enum": ["a", "b"]}, False),
        ("c", {"const": "a"}, False),
        ([1, "2"], {"type": "array", "items": {"type": "integer"}}, False),
        ({"a": {"b": 1}}, {"properties": {"a": {"required": ["c"]}}}, False),
        ("anything", {}, True),
    ],
)
def test_a_value_fits_a_schema_or_does_not(value, wanted, fits):
    """What structured outputs use of JSON schema is looked at."""
    assert (schema.misfit(value, wanted) == "") == fits


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("low", "output_config: Input should be a valid object"),
        ({"depth": 1}, "output_config.depth: Extra inputs"),
        ({"effort": "huge"}, "output_config.effort: 'huge' is none of high, low"),
        ({"format": {"type": "json"}}, "output_config.format: Input should have type"),
    ],
)
def test_an_output_config_that_makes_no_sense_is_refused(client, config, says):
    """A wrong `output_config` is a 400 that names the member."""
    with pytest.raises(anthropic.BadRequestError, match=says):
        client.messages.create(**body("hello", output_config=config))


def test_a_torn_reply_is_no_failure_of_the_call():
    """`max_tokens` is an answer with a stop reason, and not an error."""
    try:
        reply = asyncio.run(ScriptedModel(scripts.menu).call(request("torn"), on_part=None))
    except ModelFailure as failure:
        pytest.fail(str(failure))
    assert reply.stop_reason == "max_tokens"
