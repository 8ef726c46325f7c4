"""What the API refuses is refused, and nothing else: a row per rule."""

from __future__ import annotations

import asyncio
import copy
import re
from typing import Any

import anthropic
import msgspec
import pytest

from outlast.errors import ModelFailure
from outlast.models import Request, strict
from outlast.models.claude import Claude
from outlast.models.script import Turn, say, text, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from simulator import scripts
from simulator.asking import body

TOOL = {"name": "search", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "t1", "name": "search", "input": {}}
USE_2 = USE | {"id": "t2"}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "x"}
RESULT_2 = RESULT | {"tool_use_id": "t2"}
MARK = {"cache_control": {"type": "ephemeral"}}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def claude(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


HI = user(text("hi"))

GOOD: dict[str, dict[str, Any]] = {
    "plain": {},
    "string content": {"messages": [{"role": "user", "content": "hi"}]},
    "system text": {"system": "Be brief."},
    "system blocks": {"system": [text("Be brief.") | MARK]},
    "tools": {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "search"}},
    "custom tool": {"tools": [TOOL | {"type": "custom", "description": "d"}]},
    "server tool": {"tools": [{"type": "web_search_20260318", "name": "web_search"}]},
    "pairs": {"messages": [HI, claude(USE, USE_2), user(RESULT_2, RESULT, text("and?"))]},
    "no result content": {
        "messages": [HI, claude(USE), user({"type": "tool_result", "tool_use_id": "t1"})]
    },
    "two user messages": {"messages": [HI, HI]},
    "system message": {"messages": [HI, {"role": "system", "content": "Now in French."}, HI]},
    "unknown block of Claude": {"messages": [HI, claude({"type": "hologram", "x": 1}), HI]},
    "empty text of Claude": {"messages": [HI, claude(text(""), text("x")), HI]},
    "compaction first": {"messages": [claude({"type": "compaction", "content": "s"}), HI]},
    "failed compaction": {"messages": [HI, claude({"type": "compaction", "content": None})]},
    "thinking": {"max_tokens": 2_000, "thinking": {"type": "enabled", "budget_tokens": 1_024}},
    "adaptive thinking": {"thinking": {"type": "adaptive"}},
    "the limit": {"model": "claude-haiku-4-5", "max_tokens": 32_000},
    "dated model": {"model": "claude-opus-4-5-20251101"},
    "fast, in the US": {"speed": "fast", "inference_geo": "us", "service_tier": "auto"},
    "four breakpoints": {"messages": [user(*[text("a") | MARK] * 4)]},
    "an argument named cache_control": {
        "messages": [HI, claude(USE | {"input": {"cache_control": 1}}), user(RESULT)]
    },
}

# what is changed, and what the refusal must say
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown member": ({"temperature": 1}, "temperature: Extra inputs are not permitted"),
    "no model": ({"model": None}, "model: Input should be a valid string"),
    "unknown model": ({"model": "claude-opus-9"}, "model: claude-opus-9"),
    "model without prefix": ({"model": "opus-5-5"}, "model: opus-5-5"),
    "max_tokens 0": ({"max_tokens": 0, "stream": True}, "0 is not supported together with stream"),
    "max_tokens negative": ({"max_tokens": -1}, "max_tokens: Input should be greater"),
    "max_tokens true": ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
    "max_tokens text": ({"max_tokens": "10"}, "max_tokens: Input should be a valid integer"),
    "max_tokens over the limit": (
        {"model": "claude-haiku-4-5", "max_tokens": 32_001},
        "max_tokens: 32001 > 32000, which is the maximum",
    ),
    "stream as text": ({"stream": "yes"}, "stream: Input should be a valid boolean"),
    "odd speed": ({"speed": "faster"}, "speed: Input should be one of standard, fast"),
    "fast": (
        {"model": "claude-haiku-5-5", "speed": "fast"},
        "speed: claude-haiku-5-5 has no fast mode",
    ),
    "residency": ({"inference_geo": "eu"}, "inference_geo: Input should be one of global, us"),
    "tier": ({"service_tier": "batch"}, "service_tier: Input should be one of auto, standard_only"),
    "small thinking": (
        {"thinking": {"type": "enabled", "budget_tokens": 1_000}},
        "budget_tokens: 1000 is not at least 1024",
    ),
    "large thinking": (
        {"max_tokens": 1_024, "thinking": {"type": "enabled", "budget_tokens": 1_024}},
        r"less than max_tokens \(1024\)",
    ),
    "odd thinking": ({"thinking": {"type": "deep"}}, "thinking.type: 'deep'"),
    "system number": ({"system": 1}, "system: Input should be a valid string"),
    "system image": ({"system": [{"type": "image"}]}, "system.0: Input tag 'image'"),
    "system empty": ({"system": [text("")]}, "system.0: text content blocks must be non-empty"),
    "no messages": ({"messages": []}, "messages: at least one message is required"),
    "messages object": ({"messages": {}}, "messages: Input should be a valid list"),
    "message text": ({"messages": ["hi"]}, "messages.0: Input should be a valid object"),
    "message member": ({"messages": [HI | {"id": 1}]}, "messages.0.id: Extra inputs"),
    "odd role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: Input"),
    "first is Claude": ({"messages": [claude(text("a")), HI]}, "first message must use the user"),
    "first is a failed compaction": (
        {"messages": [claude({"type": "compaction", "content": None}), HI]},
        "first message must use the user",
    ),
    "first is system": (
        {"messages": [{"role": "system", "content": "a"}]},
        "first message must use the user",
    ),
    "null content": ({"messages": [{"role": "user", "content": None}]}, "messages.0.content: Inp"),
    "empty content": ({"messages": [user()]}, "messages.0: all messages must have non-empty"),
    "empty string": ({"messages": [{"role": "user", "content": ""}]}, "non-empty content"),
    "blank string": ({"messages": [{"role": "user", "content": " "}]}, "non-whitespace text"),
    "empty content of Claude": ({"messages": [HI, claude(), HI]}, "messages.1: all messages must"),
    "empty text": ({"messages": [user(text(""))]}, "content.0: text content blocks must be non-em"),
    "blank text": ({"messages": [user(text("\n"))]}, "must contain non-whitespace text"),
    "text number": ({"messages": [user(text(1))]}, "content.0.text: Field required, a string"),
    "text member": ({"messages": [user(text("a") | {"x": 1})]}, "text.x: Extra inputs"),
    "block text": ({"messages": [user("hi")]}, "content.0: Input should be a valid object"),
    "no block type": ({"messages": [user({"text": "a"})]}, "content.0.type: Field required"),
    "unknown block": ({"messages": [user({"type": "odd"})]}, "Input tag 'odd' found"),
    "user says tool_use": ({"messages": [user(USE)]}, "Input tag 'tool_use' found"),
    "no result": ({"messages": [HI, claude(USE), HI]}, "without `tool_result` blocks.*after: t1"),
    "no message after": ({"messages": [HI, claude(USE)]}, "without `tool_result` blocks"),
    "one of two results": (
        {"messages": [HI, claude(USE, USE_2), user(RESULT)]},
        "immediately after: t2",
    ),
    "results in two messages": (
        {"messages": [HI, claude(USE, USE_2), user(RESULT), user(RESULT_2)]},
        "immediately after: t2",
    ),
    "result too late": (
        {"messages": [HI, claude(USE), HI, user(RESULT)]},
        "immediately after: t1",
    ),
    "system between": (
        {"messages": [HI, claude(USE), {"role": "system", "content": "s"}, user(RESULT)]},
        "immediately after: t1",
    ),
    "two results": ({"messages": [HI, claude(USE), user(RESULT, RESULT)]}, "t1 has 2"),
    "result of nothing": ({"messages": [HI, user(RESULT)]}, "unexpected `tool_use_id`.*: t1"),
    "result at first": ({"messages": [user(RESULT)]}, "messages.0.content: unexpected"),
    "result of another": (
        {"messages": [HI, claude(USE), user(RESULT, RESULT_2)]},
        "unexpected `tool_use_id`.*: t2",
    ),
    "result repeated later": (
        {"messages": [HI, claude(USE), user(RESULT), claude(text("a")), user(RESULT)]},
        "messages.4.content: unexpected `tool_use_id`",
    ),
    "text before result": (
        {"messages": [HI, claude(USE), user(text("a"), RESULT)]},
        "`tool_result` blocks must come before any other block",
    ),
    "text between results": (
        {"messages": [HI, claude(USE, USE_2), user(RESULT, text("a"), RESULT_2)]},
        "must come before any other block",
    ),
    "one id twice": (
        {"messages": [HI, claude(USE, USE), user(RESULT)]},
        "`tool_use` ids must be unique, t1 is not",
    ),
    "one id again": (
        {"messages": [HI, claude(USE), user(RESULT), claude(USE), user(RESULT)]},
        "messages.3.content: `tool_use` ids must be unique",
    ),
    "id pattern": ({"messages": [HI, claude(USE | {"id": "a b"}), HI]}, "tool_use.id: String sho"),
    "no name": ({"messages": [HI, claude(USE | {"name": ""}), HI]}, "tool_use.name: Field requir"),
    "input text": ({"messages": [HI, claude(USE | {"input": "{}"}), HI]}, "tool_use.input: Input"),
    "result member": (
        {"messages": [HI, claude(USE), user(RESULT | {"x": 1})]},
        "tool_result.x: Extra inputs",
    ),
    "result without id": ({"messages": [user({"type": "tool_result"})]}, "tool_use_id: Field requ"),
    "result number": (
        {"messages": [HI, claude(USE), user(RESULT | {"content": 1})]},
        "tool_result.content: Input should be",
    ),
    "result is_error text": (
        {"messages": [HI, claude(USE), user(RESULT | {"is_error": "no"})]},
        "tool_result.is_error: Input should be a valid boolean",
    ),
    "empty error": (
        {"messages": [HI, claude(USE), user(RESULT | {"is_error": True, "content": ""})]},
        "content cannot be empty if `is_error` is true",
    ),
    "empty text in result": (
        {"messages": [HI, claude(USE), user(RESULT | {"content": [text("")]})]},
        "tool_result.content.0: text content blocks must be non-empty",
    ),
    "odd block in result": (
        {"messages": [HI, claude(USE), user(RESULT | {"content": [USE]})]},
        "Input tag 'tool_use' is not allowed in a tool result",
    ),
    "tools object": ({"tools": {}}, "tools: Input should be a valid list"),
    "tool text": ({"tools": ["search"]}, "tools.0: Input should be a valid object"),
    "tool twice": ({"tools": [TOOL, TOOL]}, "Tool names must be unique, 'search'"),
    "tool name": ({"tools": [TOOL | {"name": "a b"}]}, "tools.0.custom.name: 'a b' should match"),
    "tool long name": ({"tools": [TOOL | {"name": "a" * 129}]}, "should match pattern"),
    "tool member": ({"tools": [TOOL | {"x": 1}]}, "tools.0.custom.x: Extra inputs"),
    "tool without schema": ({"tools": [{"name": "a"}]}, "input_schema: Field required"),
    "tool schema": ({"tools": [TOOL | {"input_schema": {"type": "array"}}]}, "an object schema"),
    "tool description": ({"tools": [TOOL | {"description": 1}]}, "custom.description: Input"),
    "choice without tools": ({"tool_choice": {"type": "any"}}, "only be specified while providing"),
    "choice unknown": (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}},
        "Tool 'x' not found",
    ),
    "choice odd": ({"tools": [TOOL], "tool_choice": {"type": "must"}}, "tool_choice: 'must' does"),
    "five breakpoints": ({"messages": [user(*[text("a") | MARK] * 5)]}, "Found 5"),
    "odd ttl": (
        {"system": [text("a") | {"cache_control": {"type": "ephemeral", "ttl": "1d"}}]},
        "is not ephemeral with a ttl",
    ),
    "too long": (
        {"model": "claude-haiku-4-5", "messages": [user(text("a" * 900_000))]},
        "prompt is too long: 22.* tokens > 200000 maximum",
    ),
    "prefill": ({"messages": [HI, claude(text("Once"))]}, "history was changed"),
}


def answered(change: dict[str, Any], *, check_history: bool = False) -> str:
    """Return why the request is refused, empty when it is not."""
    asked = copy.deepcopy(body("hi", messages=[HI]) | change)
    model = Claude(lambda request, attempt: say("ok"), check_history=check_history)
    answer = model.answer(msgspec.json.encode(asked))
    if answer.outcome == "complete":
        return ""
    assert answer.fault is not None
    assert answer.usage is None, "what is refused is not billed"
    assert answer.fault.status == (404 if "model: claude" in answer.fault.message else 400) or (
        answer.fault.message.startswith("model: ")
    )
    return answer.fault.message


@pytest.mark.parametrize("row", GOOD)
def test_the_api_takes(row):
    """A request that the API takes is answered."""
    assert answered(GOOD[row]) == ""


@pytest.mark.parametrize("row", BAD)
def test_the_api_refuses(row):
    """A request that the API refuses gets its error, which names the place."""
    change, says = BAD[row]
    message = answered(change, check_history=row == "prefill")
    assert re.search(says, message), message


@pytest.mark.parametrize("name", ["model", "max_tokens", "messages"])
def test_a_member_is_required(name):
    """Without a model, max_tokens or messages there is no request."""
    asked = body("hi")
    del asked[name]
    refused = strict.refusal(asked)
    assert refused
    assert refused.message == f"{name}: Field required"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"model": 1e999}', b"\xff\xfe", b"[" * 9_999])
def test_a_body_that_is_not_json_is_a_400(raw):
    """What cannot be read is refused, and counted by its bytes."""
    model = Claude(lambda request, attempt: say("ok"))
    assert [model.answer(raw).attempt for _ in range(2)] == [1, 2]
    answer = model.answer(raw)
    assert answer.fault
    assert answer.fault.message.startswith("The request body is not valid JSON")


def test_a_body_over_32_mib_is_a_413():
    """What is too large is not even read."""
    model = Claude(lambda request, attempt: say("ok"))
    fault = model.answer(b" " * (32 * 1024 * 1024 + 1)).fault
    assert fault
    assert (fault.status, fault.type) == (413, "request_too_large")
    assert fault.message == "Request exceeds the maximum size: 33554433 bytes > 33554432"


def test_a_refusal_has_the_shape_of_the_api(client):
    """The SDK reads type, message and request id of a refusal."""
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**body("x", max_tokens=128_001))
    assert caught.value.type == "invalid_request_error"
    assert "128000" in (caught.value.api_message or "")
    assert (caught.value.request_id or "").startswith("req_")


def test_a_refusal_in_process_is_an_invalid_request():
    """`ScriptedModel` refuses what the API refuses."""
    message = b'{"role":"user","content":""}'
    call = Request(
        run_id="r",
        ask_id="a",
        call_id="c",
        attempt=1,
        model="claude-opus-5-5",
        max_tokens=10,
        head=b'"model":"claude-opus-5-5"',
        messages=[message],
    )
    with pytest.raises(ModelFailure, match="non-empty content") as caught:
        asyncio.run(ScriptedModel(scripts.menu).call(call, on_part=None))
    assert (caught.value.kind, caught.value.status) == ("invalid_request", 400)


# ── the history ─────────────────────────────────────────────────────────────────────────────────


def talker(request: dict[str, Any], attempt: int) -> Turn:
    """Say something with everything in it that a client could change."""
    return say(
        {"type": "thinking", "thinking": "", "signature": "s"},
        {"type": "hologram", "x": {"cache_control": "mine", "n": 1.5}},
        f"Turn {turn_number(request)}.",
        stop_reason="pause_turn" if len(request["messages"]) > 4 else "end_turn",
    )


def talk(turns: int, model: Claude, **more: Any) -> dict[str, Any]:
    """Return the request after that many turns."""
    asked = body("hi", **more)
    for turn in range(turns):
        answer = model.answer(msgspec.json.encode(asked))
        assert answer.said, answer.fault
        content = msgspec.json.decode(answer.said.content)
        asked["messages"] += [
            {"role": "assistant", "content": content},
            {"role": "user", "content": f"and {turn}?"},
        ]
    return asked


def refused(model: Claude, asked: dict[str, Any]) -> str:
    answer = model.answer(msgspec.json.encode(asked))
    return answer.fault.message if answer.fault else ""


CHANGES = {
    "a word": lambda blocks: blocks[2].update(text="Turn one."),
    "a signature": lambda blocks: blocks[0].update(signature="t"),
    "a number": lambda blocks: blocks[1]["x"].update(n=1.25),
    "an argument": lambda blocks: blocks[1]["x"].update(cache_control="yours"),
    "a member more": lambda blocks: blocks[1].update(y=1),
    "a member less": lambda blocks: blocks[1].pop("x"),
    "a block less": lambda blocks: blocks.pop(0),
    "the order": lambda blocks: blocks.reverse(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_changed_history_is_refused(change, restarted):
    """Claude knows what it said, also after a restart, because it can say it again."""
    model = Claude(talker)
    asked = talk(2, model)
    CHANGES[change](asked["messages"][1]["content"])
    model = Claude(talker) if restarted else model
    assert refused(model, asked).startswith("messages.1: the history was changed")


HARMLESS = {
    "nothing": lambda blocks: None,
    "a cache marker": lambda blocks: blocks[2].update(cache_control={"type": "ephemeral"}),
    "a null that a client added": lambda blocks: blocks[2].update(citations=None),
}


@pytest.mark.parametrize("change", HARMLESS)
def test_markers_and_nulls_do_not_change_the_history(change):
    """What clients add without saying anything is not held against them."""
    model = Claude(talker)
    asked = talk(2, model)
    HARMLESS[change](asked["messages"][1]["content"])
    assert refused(model, asked) == ""


def test_another_limit_or_model_does_not_change_the_history():
    """A run whose budget shrinks, or that falls back to another model, goes on."""
    model = Claude(talker)
    asked = talk(2, model)
    assert refused(model, asked | {"max_tokens": 50, "model": "claude-haiku-5-5"}) == ""


def test_a_reply_cut_at_max_tokens_is_history_too():
    """What was said under another limit is known as it was said."""
    model = Claude(lambda request, attempt: say("word " * 100))
    asked = talk(1, model, max_tokens=30)
    assert refused(model, asked | {"max_tokens": 1_000}) == ""


def test_a_changed_question_makes_another_conversation():
    """The reply to one question is not the reply to another."""
    model = Claude(lambda request, attempt: say(str(request["messages"])))
    asked = talk(1, model)
    asked["messages"][0]["content"] = "ho"
    assert refused(model, asked).startswith("messages.1: the history was changed")


def test_a_conversation_may_end_with_claude_only_after_a_pause():
    """`pause_turn` is sent back with nothing after it; any other reply would be prefill."""
    model = Claude(talker)
    asked = talk(1, model)
    asked["messages"].pop()
    assert "does not support assistant message prefill" in refused(model, asked)
    asked = talk(3, model)
    asked["messages"].pop()
    assert refused(model, asked) == ""


def test_any_history_is_taken_when_told_so():
    """`check_history=False` lets a client make up what Claude said."""
    model = Claude(talker, check_history=False)
    assert refused(model, body("x", messages=[HI, claude(text("made up")), HI])) == ""


def test_the_second_look_at_a_history_asks_the_script_nothing():
    """What was said is remembered, so a long conversation does not slow down."""
    asked: list[int] = []

    def script(request: dict[str, Any], attempt: int) -> Turn:
        asked.append(len(request["messages"]))
        return say(tool_use("search", {"n": turn_number(request)}), stop_reason="end_turn")

    model = Claude(script)
    request = body("hi")
    for _ in range(20):
        answer = model.answer(msgspec.json.encode(request))
        assert answer.said, answer.fault
        content = msgspec.json.decode(answer.said.content)
        results = [{"type": "tool_result", "tool_use_id": content[0]["id"], "content": "x"}]
        request["messages"] += [
            {"role": "assistant", "content": content},
            {"role": "user", "content": results},
        ]
    assert asked == list(range(1, 41, 2))
