"""What the tests of checked answers need: grants, an agent, a Claude that answers and judges."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from pydantic import BaseModel

import outlast
from outlast.models.script import Block, Script, Turn, say

MODEL = "claude-haiku-5-5"


class Grant(BaseModel):
    """A grant as an answer names it."""

    name: str
    funder: str = ""
    max_usd: int = 0
    eligibility: str = ""


@outlast.check
def finds_some(answer: list[Grant]) -> list[str]:
    """There are grants in it."""
    return [] if answer else ["the list is empty, and tools returned grants"]


@outlast.check
def says_who_is_eligible(answer: list[Grant]) -> list[str]:
    """Every grant says who may apply."""
    return [f"{one.name}: eligibility is missing" for one in answer if not one.eligibility]


CHECKS = (finds_some, says_who_is_eligible)


def agent(**more: Any) -> outlast.Agent:
    """Return an agent whose answers are grants, and checked."""
    given = {"model": MODEL, "answer": list[Grant], "checks": CHECKS} | more
    return outlast.Agent("grant-researcher", **given)


def grants(*given: dict[str, Any]) -> str:
    """Return an answer as Claude writes it."""
    return msgspec.json.encode({"answer": list(given)}).decode()


GOOD = grants({"name": "Ladder", "funder": "Trust", "max_usd": 10, "eligibility": "charities"})
EMPTY = grants()
NOBODY = grants({"name": "Ladder", "funder": "Trust", "max_usd": 10})


def opinion(*issues: str, valid: bool | None = None, confidence: Any = 0.9, **more: Any) -> str:
    """Return what a judge replies."""
    said = {
        "issues": list(issues),
        "valid": not issues if valid is None else valid,
        "confidence": confidence,
        "suggestion": "look again" if issues else "",
    }
    return msgspec.json.encode(said | more).decode()


def is_judge(request: dict[str, Any]) -> bool:
    """Return whether a request is a judge's."""
    return str(request.get("system", "")).find("You judge an answer") >= 0


Say = str | Turn | Sequence[Block] | Any


def answers(*said: Say, judge: Sequence[Say] | Callable[[dict[str, Any]], Say] = ()) -> Script:
    """Return a Claude that answers so, one after the other, and judges so.

    What it says next follows from how many answers it hears were not accepted; the last one comes
    again and again.
    """

    def script(request: dict[str, Any], attempt: int) -> Any:
        if is_judge(request):
            if callable(judge):
                return _turn(judge(request))
            return _turn(judge[min(_votes(request), len(judge) - 1)])
        return _turn(said[min(rejected(request), len(said) - 1)])

    def _votes(request: dict[str, Any]) -> int:
        text = msgspec.json.encode(request["messages"]).decode()
        seen.setdefault(text, len(seen))
        return seen[text]

    seen: dict[str, int] = {}
    return script


def _turn(said: Say) -> Any:
    return say(said) if isinstance(said, str) else said


def rejected(request: dict[str, Any]) -> int:
    """Return how many answers Claude hears were not accepted."""
    text = msgspec.json.encode(request["messages"]).decode()
    return text.count("Your answer was checked, and is not accepted") + text.count(
        "What was wrong with answer "
    )
