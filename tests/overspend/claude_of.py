"""The Claude of the scenarios: it does what the question says, and much goes wrong."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from typing import Any, Final

import msgspec
from scenarios import RARE

from outlast.models.script import (
    Fault,
    Turn,
    faulty,
    say,
    tool_use,
    turn_number,
)

FAULTS: Final = (
    Fault(kind="status", status=429),
    Fault(kind="status", status=529),
    Fault(kind="status", status=500, billed=True),
    Fault(kind="reset"),
    Fault(kind="cut", after_events=3),
    Fault(kind="truncated", after_events=4),
    Fault(kind="html", billed=True),
)
MOST: Final = 4
"""So often one turn goes wrong; more would end a run for a reason that is not its budget."""

_failed: Counter[tuple[int, str, int]] = Counter()


def told(request: dict[str, Any]) -> dict[str, Any]:
    """Return what the question says."""
    content = request["messages"][0]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    found: dict[str, Any] = json.loads(text)
    return found


def script(request: dict[str, Any], attempt: int) -> Turn:
    """Call a tool in every turn but the last."""
    plan, turn, room = told(request), turn_number(request), request["max_tokens"]
    words = "Well. " * (min(plan["says"], int(room * 0.3)) * 2 // 3)
    usage = dear(request) if plan["dear"] else None
    if turn >= plan["turns"]:
        return say(f"{words}Done.", usage=usage)
    if turn <= plan["children"]:
        child = plan | {
            "run": f"{plan['run']}/{turn}",
            "turns": min(plan["turns"], 2),
            "children": 0,
        }
        return say(words or "So.", tool_use("ask_a1", {"question": json.dumps(child)}), usage=usage)
    return say(words or "So.", tool_use("look", {"word": f"w{turn}"}), usage=usage)


def dear(request: dict[str, Any]) -> dict[str, Any]:
    """Return the dearest thing that may be metered: all is written to the cache, in the US."""
    sent = msgspec.json.encode([request.get("system"), request.get("tools"), request["messages"]])
    # What the API adds by itself is most of what it may add.
    prompt = len(sent) // 4 + 900
    hour = prompt if b'"ttl":"1h"' in sent else 0
    written = prompt if b'"cache_control"' in sent else 0
    return {
        "input_tokens": prompt - written,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": written,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - hour,
            "ephemeral_1h_input_tokens": hour,
        },
        "output_tokens": request["max_tokens"],
        "inference_geo": "us",
    }


def faults(request: dict[str, Any], attempt: int) -> Fault | None:
    """Return what goes wrong with an attempt: each of them rarely."""
    plan, turn = told(request), turn_number(request)
    key = (plan["scenario"], plan["run"], turn)
    drawn = sha256(f"{key} {_failed[key]} {attempt}".encode()).digest()
    number = int(int.from_bytes(drawn[:4]) / 2**32 / RARE)
    if number >= len(FAULTS) or _failed[key] >= MOST:
        return None
    _failed[key] += 1
    return FAULTS[number]


faulty_script = faulty(script, faults)
