"""What the simulator says when it is given no script: it tells what it heard, and calls on demand.

A line `call NAME {"argument": 1}` in the last message makes it call that tool; every such line is
one call of the same turn.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from outlast.models.script import Block, Turn, last_text, say, text_of, tool_results, tool_use

_CALL: Final = re.compile(r"^call +([a-zA-Z0-9_-]+) *(\{.*\})? *$", re.MULTILINE)


def script(request: dict[str, Any], attempt: int) -> Turn:  # noqa: ARG001  (a script's signature)
    """Say what was heard, call what was asked for, and tell what the tools answered."""
    if results := tool_results(request):
        answers = [f"- {text_of(result.get('content'))}" for result in results]
        return say("The tools answered:\n" + "\n".join(answers))
    heard = last_text(request)
    if calls := _calls(heard):
        return say(*calls)
    return say(f"I am a simulated Claude, and I heard: {heard}\n{_offer(request)}")


def _calls(heard: str) -> list[Block]:
    calls = []
    for name, arguments in _CALL.findall(heard):
        try:
            calls.append(tool_use(name, msgspec.json.decode(arguments or "{}", type=dict)))
        except msgspec.DecodeError:
            continue
    return calls


def _offer(request: dict[str, Any]) -> str:
    names = [tool["name"] for tool in request.get("tools") or () if "name" in tool]
    if not names:
        return "You gave me no tools."
    return (
        f"You gave me tools: {', '.join(names)}. Write `call {names[0]} {{…}}` to see me use one."
    )
