"""A Claude that meters what it is told to, and the questions that tell it: for `test_ledger`."""

from __future__ import annotations

import random
from typing import Any

import msgspec

import outlast
from outlast.agent import Budget
from outlast.models import catalogue, faults
from outlast.models.script import Fault, Turn, say, text_of, tool_use, turn_number

MARK = "\n---\n"
MAX_TOKENS = 4_096
CLIFF = (99_999, 100_000, 100_001)
FAULTS = {
    "cut": faults.cut(),
    "truncated": faults.truncated(),
    "billed 500": faults.server_error(billed=True),
    "reset": faults.reset_after_send(),
    "overloaded": faults.overloaded(),
    "rate limited": faults.rate_limited(retry_after=1),
}


def told(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the question says of each turn."""
    question = text_of(request["messages"][0]["content"])
    return msgspec.json.decode(question.partition(MARK)[0])


def script(request: dict[str, Any], attempt: int) -> Turn | Fault:
    turns = told(request)
    number = turn_number(request)
    turn = turns[number - 1]
    said = "Done." if number == len(turns) else tool_use("look", {"word": f"word {number}"})
    answer = say(said, usage=turn["usage"])
    if attempt == 1 and turn["fault"]:
        return msgspec.structs.replace(FAULTS[turn["fault"]], turn=answer)
    return answer


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return f"{word} it is"


class Drawn(msgspec.Struct):
    """A run, and whether its bill is certain."""

    agent: outlast.Agent
    question: str
    calls: int
    is_certain: bool
    kinds: set[str]


def drawn(seed: int, *, faulty: bool) -> Drawn:
    """Draw a run whose calls meter everything that can cost something."""
    dice = random.Random(seed)  # noqa: S311  (a test)
    model = dice.choice([*catalogue.MODELS, *["claude-haiku-5-5"] * 6])
    known = catalogue.MODELS[model]
    kinds = {model}
    parameters: dict[str, Any] = {}
    if known.fast and dice.random() < 0.5:
        parameters["speed"] = "fast"
    if geo := dice.choice([None, "us", "global"]):
        parameters["inference_geo"] = geo
    other = ""
    if not parameters.get("speed") and dice.random() < 0.3:
        other = dice.choice([*catalogue.MODELS])
        parameters["fallbacks"] = [{"model": other}]
        kinds.add("iterations")
    cache = dice.choice([None, "5m", "1h"])
    kinds.add(f"cache {cache}")
    # The same for all turns: what the first one metered bounds the next.
    prompt = dice.choice([*CLIFF, dice.randint(50, 3_000)])
    turns = [
        _turn(dice, model, other, parameters, cache=cache, prompt=prompt, faulty=faulty)
        for _ in range(dice.randint(1, 3))
    ]
    for turn in turns:
        usage = turn["usage"]
        kinds |= {f"geo {usage['inference_geo']}", f"tier {usage['service_tier']}"}
        kinds |= {name for name in ("speed",) if usage.get(name) == "fast"}
        kinds |= {"search"} if usage.get("server_tool_use") else set()
        kinds |= {f"{model} {n}" for n in CLIFF if n == prompt and known.cliff}
        kinds |= {turn["fault"]} - {""}
    agent = outlast.Agent(
        "spender",
        model=model,
        tools=[look],
        cache=cache,
        max_tokens=MAX_TOKENS,
        budget=Budget(),
        parameters=parameters,
    )
    question = msgspec.json.encode(turns).decode() + MARK + "x" * prompt
    # Where the API does not say where it was processed, and nobody asked for anywhere: dearer.
    said = all(turn["usage"]["inference_geo"] for turn in turns) or geo == "global"
    is_sure = all(FAULTS[turn["fault"]].is_billed is False for turn in turns if turn["fault"])
    return Drawn(agent, question, len(turns), said and is_sure, kinds)


def _turn(
    dice: random.Random,
    model: str,
    other: str,
    parameters: dict[str, Any],
    *,
    cache: str | None,
    prompt: int,
    faulty: bool,
) -> dict[str, Any]:
    usage = _counts(dice, prompt, cache)
    if other:
        part = {"type": "message", "model": model} | usage
        then = {"type": "fallback_message", "model": other} | _counts(dice, prompt, cache)
        usage |= {"iterations": [part, then]}
    usage |= {
        "inference_geo": parameters.get("inference_geo") or dice.choice(["us", "global", None]),
        "service_tier": dice.choice(["standard", "standard", "priority", "batch"])
        if "speed" not in parameters
        else "standard",
    }
    if "speed" in parameters:
        usage["speed"] = "fast"
    if not faulty and dice.random() < 0.3:  # a fee is not held, so it could not be in doubt
        usage["server_tool_use"] = {"web_search_requests": dice.randint(1, 4)}
    fault = dice.choice([*FAULTS]) if faulty and dice.random() < 0.4 else ""
    return {"usage": usage, "fault": fault}


def _counts(dice: random.Random, prompt: int, cache: str | None) -> dict[str, Any]:
    """Return a usage whose prompt is of so many tokens, fresh, read and written as was asked."""
    ends = sorted(dice.randint(0, prompt) for _ in range(3))
    fresh, read, short = ends[0], ends[1] - ends[0], ends[2] - ends[1]
    long = prompt - ends[2]
    if cache is None:
        fresh, short, long = fresh + short + long, 0, 0
    elif cache == "5m":
        short, long = short + long, 0
    return {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": short + long,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "output_tokens": dice.randint(1, MAX_TOKENS),
    }
