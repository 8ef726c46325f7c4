"""What Claude says in these tests, and what goes wrong, by the first word of what it hears."""

from __future__ import annotations

from typing import Any

from outlast.models import faults
from outlast.models.script import (
    Fault,
    Turn,
    faulty,
    last_text,
    say,
    text_of,
    tool_results,
    tool_use,
    turn_number,
)

ROWS = {
    "expired": faults.expired(),
    "canceled": faults.canceled(),
    "overloaded": faults.overloaded(),
    "limited": faults.rate_limited(),
    "errored": faults.server_error(),
    "missing": faults.missing(),
}
"""What befalls the first attempt of a question that begins with the word."""


def lead(request: dict[str, Any], attempt: int) -> Turn:
    """Say back what was asked; look a word up, and then another, where it is to be used."""
    asked = last_text(request)
    turn = turn_number(request)
    if asked.startswith("use") and turn <= 2:
        return say("I look.", tool_use("look", {"word": f"{asked} {turn}"}))
    if asked.startswith("use"):
        return say(" and ".join(text_of(one["content"]) for one in tool_results(request)))
    usage = {"service_tier": "standard"} if asked.startswith("standard") else {}
    return say(f"re: {asked[:40]}", usage=usage)


def rule(request: dict[str, Any], attempt: int) -> Fault | None:
    """Say what befalls an entry."""
    word = last_text(request).partition(" ")[0]
    if word == "invalid":
        return faults.invalid_request("that is no question")
    return ROWS.get(word) if attempt == 1 else None


script = faulty(lead, rule)


def sending(batch: dict[str, Any], number: int) -> Fault | None:
    """Say what goes wrong with sending a batch, by what its first entry asks, once for each."""
    word = last_text(batch["requests"][0]["params"]).partition(" ")[0]
    spoiled = {
        "refused": faults.rate_limited(0.1),
        "busy": faults.overloaded(),
        "lost": faults.reset_after_send(),
        "late": faults.late(0.5),
        "paid": faults.server_error(billed=True),
        "forbidden": faults.forbidden(),
    }
    return spoiled.get(word) if number == 1 else None


def brief(request: dict[str, Any], attempt: int) -> Turn:
    """Answer after a few seconds."""
    return say(f"re: {last_text(request)}", total_s=3)
