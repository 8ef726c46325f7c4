"""The bound of a whole run, call by call, where a real tokenizer meters what was sent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import outlast
from outlast.agent import Budget
from outlast.events import BoundExceeded, ModelCallStarted
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from tokenizer.counting import fuzzed, joined, tokens

HIDDEN = 935
"""The longest system prompt that has come with tools."""


def texts(seed: int, turn: int, count: int = 20) -> str:
    return joined("".join(fuzzed(seed * 1_000 + turn, count)))


def rendered(request: dict[str, Any]) -> str:
    """Return what a tokenizer may be given of a request: every text of it, between markers."""
    parts = [*map(_told, request.get("system", [])), *map(_json, request["tools"])]
    for message in request["messages"]:
        parts.append("\n\nHuman: " if message["role"] == "user" else "\n\nAssistant: ")
        parts += map(_told, message["content"])
    return "".join(parts)


def _told(block: dict[str, Any]) -> str:
    if block["type"] == "text":
        return block["text"]
    if block["type"] == "tool_use":
        return f"<invoke {block['name']} {block['id']}>{_json(block['input'])}</invoke>"
    return f"<result {block['tool_use_id']}>{block['content']}</result>"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


@pytest.mark.parametrize("seed", [1, 2, pytest.param(0, marks=pytest.mark.soak)])
def test_no_call_of_a_loop_is_longer_than_its_bound(seed, soak, record_property):
    """Every prompt, metered by the tokenizer, is within what its intent held; and nearly all."""
    seeds = range(100, 140) if seed == 0 else [seed]
    turns = 50 if soak else 16
    ratios = [ratio for each in seeds for ratio in played(each, turns)]
    assert all(ratio <= 1 for ratio in ratios)
    # A bound that nobody can work with would be sound, too.
    assert sorted(ratios)[len(ratios) // 2] > 0.7
    middle = sorted(ratios)[len(ratios) // 2]
    record_property("told", f"{len(ratios)} calls, {max(ratios):.3f} at most, {middle:.3f} usual")


def test_a_question_of_a_word_leaves_room_for_what_the_api_adds():
    """What comes with tools is more than the bytes of a short request, and is held for."""

    @outlast.tool(effect="read")
    def look(word: str) -> str:
        """Look."""
        return ""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say("Hi.", usage={"input_tokens": HIDDEN + tokens(rendered(request))})

    asker = outlast.Agent("asker", model="claude-opus-5-5", tools=[look], cache=None)
    model = ScriptedModel(script)
    with outlast.Outlast("memory://", model=model) as app:
        app.run(asker, "Hi.", run_id="r")
        (held,) = [each.event for each in app.log("r") if isinstance(each.event, ModelCallStarted)]
    metered = model.bill[0].usage["input_tokens"]
    assert len(model.calls[0]) < metered <= held.hold_tokens - held.max_tokens


def played(seed: int, turns: int) -> list[float]:
    """Play a run, and return for each call what it was metered of its bound."""

    @outlast.tool(effect="read")
    def look(word: str) -> str:
        """Look a word up, which may be ﷺ or ½."""
        return texts(seed, -int(word.split(" ", 1)[0]))

    def script(request: dict[str, Any], attempt: int) -> Any:
        turn = turn_number(request)
        said = [{"type": "text", "text": texts(seed, turn)}]
        if turn < turns:
            said.append(tool_use("look", {"word": f"{turn} {texts(seed, 500 + turn, 2)}"}))
        reply = "".join(_told({"id": "toolu_" + "0" * 24} | block) for block in said)
        usage = {"input_tokens": HIDDEN + tokens(rendered(request)), "output_tokens": tokens(reply)}
        return say(*said, usage=usage)

    model = ScriptedModel(script, check_history=False)
    asker = outlast.Agent(
        "asker",
        model="claude-opus-5-5",
        instructions=texts(seed, 998, 2),
        tools=[look],
        budget=Budget(),
        cache=None,
    )
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(asker, texts(seed, 999), run_id="r")
        assert run.status == "completed", run.why
        events = [record.event for record in app.log("r")]
    assert not any(isinstance(event, BoundExceeded) for event in events)
    held = [event for event in events if isinstance(event, ModelCallStarted)]
    assert len(held) == len(model.bill) == turns
    return [
        line.usage["input_tokens"] / (intent.hold_tokens - intent.max_tokens)
        for line, intent in zip(model.bill, held, strict=True)
    ]
