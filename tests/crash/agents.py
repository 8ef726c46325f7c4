"""An agent that uses every part of the loop, and a Claude that leads it through."""

from collections import Counter
from typing import Any

import msgspec

import outlast
from outlast.models.script import (
    Fault,
    Script,
    Turn,
    any_of,
    faulty,
    once,
    say,
    text_of,
    tool_use,
    turn_number,
)

MODEL = "claude-haiku-5-5"
QUESTION = "Look it up, save it, and send it."


class Effects:
    """What tools did to the world; it outlives every crash."""

    def __init__(self) -> None:
        self.reads: Counter[str] = Counter()
        self.saved: dict[str, str] = {}
        self.saves = 0
        self.sent: list[str] = []


class Stage:
    """Where the tools act now.  The tools are declared once, since schemas take a while."""

    effects = Effects()


@outlast.tool(effect="read")
def look_up(word: str) -> dict[str, str]:
    """Look a word up."""
    Stage.effects.reads[word] += 1
    return {"word": word, "meaning": f"what {word} means"}


@outlast.tool(effect="idempotent")
def save(text: str, context: outlast.ToolContext) -> str:
    """Save a text."""
    Stage.effects.saves += 1
    Stage.effects.saved[context.idempotency_key] = text
    return "saved"


def was_sent(text: str) -> outlast.Reconciled:
    """Look whether a text was sent."""
    return outlast.Reconciled(happened=text in Stage.effects.sent, result="sent")


@outlast.tool(effect="once", reconcile=was_sent)
def send(text: str) -> str:
    """Send a text."""
    Stage.effects.sent.append(text)
    return "sent"


@outlast.tool(effect="read")
def broken() -> str:
    """Fail, always."""
    raise ValueError("the secret is 1234")


def agent(effects: Effects, *, turns: int | None = None) -> outlast.Agent:
    """Return an agent whose tools act on `effects` from now on."""
    Stage.effects = effects
    return outlast.Agent(
        "sender",
        model=MODEL,
        instructions="Look up, save, send.",
        tools=[look_up, save, send, broken],
        max_tokens=512,
        budget=outlast.Budget(turns=turns),
    )


def lead(request: dict[str, Any], attempt: int) -> Turn:
    """Say what comes next: every tool once, and at the end what they all said."""
    turn = turn_number(request)
    if turn == 1:
        return say(
            "First I look it up.",
            tool_use("look_up", {"word": "ångström 🦊"}),
            tool_use("look_up", {"wrong": 1}),
            tool_use("nothing_like_it", {}),
            tool_use("broken", {}),
        )
    if turn == 2:
        return say(
            tool_use("save", {"text": "a"}),
            tool_use("send", {"text": "b"}),
            tool_use("look_up", {"word": "again"}),
        )
    return say(f"Results: {msgspec.json.encode(_results(request)).decode()}")


def _results(request: dict[str, Any]) -> list[str]:
    return [
        text_of(block["content"])
        for message in request["messages"]
        if message["role"] == "user"
        for block in message["content"]
        if block["type"] == "tool_result"
    ]


def cut_off(request: dict[str, Any], attempt: int) -> Turn:
    """Stop for every reason that is gone on with, once each, and then answer."""
    turn = turn_number(request)
    stops = {1: "max_tokens", 2: "pause_turn", 3: "max_tokens"}
    if turn == 3:
        return say("And ", tool_use("send", {"text": "never"}), stop_reason="max_tokens")
    return say(f"Part {turn}, ", stop_reason=stops.get(turn, "end_turn"))


LONG_QUESTION = "Look it up, save it, and send it. " * 600
"""Long enough for the prompt cache."""

idle = faulty(cut_off, once(2, Fault(kind="status", status=429, headers={"retry-after": "400"})))
"""The same, with a wait that is longer than the prompt cache keeps anything."""


def claude(*, faults: bool = True) -> Script:
    """Return the script; with faults, the first turn is overloaded and the second one cut."""
    rule = any_of(
        once(1, Fault(kind="status", status=529)),
        once(2, Fault(kind="cut", after_events=4)),
        once(3, Fault(kind="status", status=429, headers={"retry-after": "7"})),
    )
    return faulty(lead, rule) if faults else lead
