"""Thinking is signed over everything before it, and is only taken back where it was thought."""

from __future__ import annotations

import copy
from typing import Any

import anthropic
import msgspec
import pytest

from outlast.models import catalogue
from outlast.models.claude import Claude
from outlast.models.script import Turn, redacted_thinking, say, text, thinking, tool_use
from outlast.models.script import turn_number as turn
from simulator.asking import body

TOOL = {"name": "look", "input_schema": {"type": "object"}}
MARK = {"cache_control": {"type": "ephemeral"}}
BINDING = sorted(name for name, model in catalogue.MODELS.items() if model.binds)
NOT_BINDING = sorted(catalogue.MODELS.keys() - set(BINDING))


def thinker(request: dict[str, Any], attempt: int) -> Turn:
    """Think before, between and after calls; the last turn thinks in private."""
    if turn(request) == 3:
        return say(redacted_thinking(), "Done.")
    return say(
        thinking(f"Turn {turn(request)}."),
        "Looking.",
        thinking("Or should I?"),
        tool_use("look", {"n": turn(request)}),
    )


def talked(claude: Claude, **more: Any) -> dict[str, Any]:
    """Return the request after three turns, with thinking in each."""
    asked = body("hi", **{"system": "Be kind.", "tools": [dict(TOOL)]} | more)
    for number in range(3):
        answer = claude.answer(msgspec.json.encode(asked))
        assert answer.said, answer.fault
        blocks = msgspec.json.decode(answer.said.content)
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": f"saw {number}"}
            for block in blocks
            if block["type"] == "tool_use"
        ]
        asked["messages"] += [
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": results or "Thanks."},
        ]
    return asked


def refused(model: Claude, asked: dict[str, Any]) -> str:
    answer = model.answer(msgspec.json.encode(asked))
    if answer.fault is None:
        return ""
    assert (answer.fault.status, answer.fault.type) == (400, "invalid_request_error")
    return answer.fault.message


# what is changed, and which block is named
BEFORE: dict[str, tuple[Any, str]] = {
    "the system": (lambda asked: asked.update(system="Be brief."), "messages.1.content.0"),
    "no system": (lambda asked: asked.pop("system"), "messages.1.content.0"),
    "a tool": (lambda asked: asked["tools"][0].update(description="d"), "messages.1.content.0"),
    "a tool more": (
        lambda asked: asked["tools"].append(TOOL | {"name": "other"}),
        "messages.1.content.0",
    ),
    "the question": (
        lambda asked: asked["messages"][0].update(content="ho"),
        "messages.1.content.0",
    ),
    "a result": (
        lambda asked: asked["messages"][2]["content"][0].update(content="saw nothing"),
        "messages.3.content.0",
    ),
    "what was said": (
        lambda asked: asked["messages"][1]["content"][1].update(text="Not looking."),
        "messages.3.content.0",
    ),
    "a message less": (
        lambda asked: asked.update(messages=[*asked["messages"][:1], *asked["messages"][3:]]),
        "messages.1.content.0",
    ),
    "before redacted thinking": (
        lambda asked: asked["messages"][4]["content"][0].update(content="saw nothing"),
        "messages.5.content.0",
    ),
}

ITSELF: dict[str, tuple[Any, str]] = {
    "the thought": (
        lambda asked: asked["messages"][3]["content"][2].update(thinking="I should."),
        "messages.3.content.2",
    ),
    "the thought left out": (
        lambda asked: asked["messages"][3]["content"][0].update(thinking=""),
        "messages.3.content.0",
    ),
    "a member more": (
        lambda asked: asked["messages"][1]["content"][0].update(mood="good"),
        "messages.1.content.0",
    ),
    "a signature cut short": (
        lambda asked: asked["messages"][1]["content"][0].update(
            signature=asked["messages"][1]["content"][0]["signature"][:-1]
        ),
        "messages.1.content.0",
    ),
    "the data": (
        lambda asked: asked["messages"][5]["content"][0].update(data="sim1.x"),
        "messages.5.content.0",
    ),
}


@pytest.mark.parametrize("check_history", [True, False])
@pytest.mark.parametrize("change", BEFORE)
def test_thinking_is_bound_to_all_before_it(change, check_history):
    """System, tools and earlier messages are what they were, or the block is refused."""
    asked = talked(Claude(thinker))
    alter, place = BEFORE[change]
    alter(asked)
    message = refused(Claude(thinker, check_history=check_history), asked)
    assert message.startswith(place + ": Invalid `")
    assert message.endswith("is not what it was when Claude wrote it")


@pytest.mark.parametrize("check_history", [True, False])
@pytest.mark.parametrize("change", ITSELF)
def test_an_altered_block_is_refused(change, check_history):
    """A block that is not as it came is refused by its place."""
    asked = talked(Claude(thinker))
    alter, place = ITSELF[change]
    alter(asked)
    message = refused(Claude(thinker, check_history=check_history), asked)
    assert message.startswith(place + ": Invalid `")
    assert message.endswith("it was changed since Claude wrote it")


HARMLESS: dict[str, Any] = {
    "nothing": lambda asked: None,
    "markers": lambda asked: (
        asked.update(system=[text("Be kind.") | MARK]),
        asked["tools"][0].update(MARK),
        asked["messages"][1]["content"][1].update(MARK),
        asked["messages"][2]["content"][0].update(MARK),
    ),
    "limits": lambda asked: asked.update(max_tokens=77, stream=True, metadata={"user_id": "u"}),
    "a member that says nothing": lambda asked: asked["messages"][1]["content"][1].update(
        citations=None
    ),
    "another model": lambda asked: asked.update(model="claude-sonnet-5-5"),
}


@pytest.mark.parametrize("change", HARMLESS)
def test_what_says_nothing_changes_nothing(change):
    """Cache markers and limits may differ from turn to turn; thinking stays valid."""
    asked = talked(Claude(thinker))
    HARMLESS[change](asked)
    for check_history in (True, False):
        assert refused(Claude(thinker, check_history=check_history), asked) == ""


@pytest.mark.parametrize("model", BINDING + NOT_BINDING)
def test_only_some_models_bind(model):
    """The 5.5 models, Fable and Mythos bind thinking; the others only want it unaltered."""
    asked = talked(Claude(thinker), model=model)
    moved, altered = copy.deepcopy(asked), copy.deepcopy(asked)
    BEFORE["the system"][0](moved)
    ITSELF["the thought"][0](altered)
    fresh = Claude(thinker, check_history=False)
    assert bool(refused(fresh, moved)) == (model in BINDING)
    assert refused(fresh, altered)
    assert len(BINDING) == 5


def test_thinking_that_nobody_signed_is_refused():
    """A client cannot make up what Claude thought, even where it may make up what it said."""
    made_up = {"type": "thinking", "thinking": "Hm.", "signature": "mine"}
    asked = body("hi")
    asked["messages"] += [
        {"role": "assistant", "content": [made_up, text("a")]},
        {"role": "user", "content": "b"},
    ]
    message = refused(Claude(thinker, check_history=False), asked)
    assert message == "messages.1.content.0: Invalid signature in `thinking` block"


def test_a_signature_of_the_script_is_taken_back():
    """A script may sign as it likes; what it said is known as it was said."""
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "given"}
    for check_history in (True, False):
        model = Claude(lambda request, attempt: say(signed, "a"), check_history=check_history)
        assert refused(model, talked(model)) == ""


@pytest.mark.parametrize("display", ["omitted", "summarized", None])
def test_omitted_thinking_has_a_signature_and_no_text(display):
    """`display` says whether the thought is shown; the block is valid either way."""
    config = {"type": "adaptive"} | ({"display": display} if display else {})
    model = Claude(thinker)
    asked = talked(model, thinking=config)
    first = asked["messages"][1]["content"][0]
    assert first["thinking"] == ("" if display == "omitted" else "Turn 1.")
    assert refused(Claude(thinker), asked) == ""


def test_thinking_tokens_are_part_of_the_output(ask):
    """`output_tokens_details` tells how much of the output was thought."""
    usage = ask("thinking").usage
    assert 0 < usage.output_tokens_details.thinking_tokens < usage.output_tokens


@pytest.mark.parametrize("member", ["thinking", "signature"])
def test_a_block_without_its_members_is_refused(client, member):
    """Thinking without text or signature is a 400 that names the member."""
    block = {"type": "thinking", "thinking": "", "signature": ""}
    del block[member]
    asked = body("hello")
    asked["messages"] += [
        {"role": "assistant", "content": [block, text("a")]},
        {"role": "user", "content": "b"},
    ]
    with pytest.raises(anthropic.BadRequestError, match=f"thinking.{member}: Field required"):
        client.messages.create(**asked)


def test_the_sdk_sends_back_what_it_got(client):
    """A conversation with thinking goes on through the real SDK, streaming."""
    asked = body("thinking", tools=[TOOL])
    with client.messages.stream(**asked) as stream:
        message = stream.get_final_message()
    asked["messages"] += [
        {"role": "assistant", "content": message.content},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": message.content[-1].id, "content": "x"},
                text("hello"),
            ],
        },
    ]
    assert client.messages.create(**asked).stop_reason == "end_turn"
