"""What the simulator says when it is given no script: it tells what it heard, and calls on demand.

A line `call NAME {"argument": 1}` in the last message makes it call that tool; every such line is
one call of the same turn.  Where the request demands it, it thinks, calls some tool, or answers in
the JSON that is asked for, with the first values that come to its mind.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from outlast.models.script import (
    Block,
    Turn,
    last_text,
    say,
    text_of,
    thinking,
    tool_results,
    tool_use,
)

_CALL: Final = re.compile(r"^call +([a-zA-Z0-9_-]+) *(\{.*\})? *$", re.MULTILINE)


def script(request: dict[str, Any], attempt: int) -> Turn:  # noqa: ARG001  (a script's signature)
    """Say what was heard, call what was asked for, and tell what the tools answered."""
    kind = (request.get("thinking") or {}).get("type")
    before = [thinking("What did I hear?")] if kind in ("enabled", "adaptive") else []
    heard = last_text(request)
    if form := (request.get("output_config") or {}).get("format"):
        return say(*before, msgspec.json.encode(_some(form["schema"])).decode())
    if results := tool_results(request):
        answers = [f"- {text_of(result.get('content'))}" for result in results]
        return say(*before, "The tools answered:\n" + "\n".join(answers))
    if calls := _calls(heard) or _demanded(request):
        return say(*before, *calls)
    return say(*before, f"I am a simulated Claude, and I heard: {heard}\n{_offer(request)}")


def _demanded(request: dict[str, Any]) -> list[Block]:
    """Return the call that `tool_choice` leaves no way around."""
    choice = request.get("tool_choice") or {}
    tools = {tool["name"]: tool for tool in request.get("tools") or () if "input_schema" in tool}
    if choice.get("type") not in ("any", "tool") or not tools:
        return []
    name = choice.get("name") or next(iter(tools))
    return [tool_use(name, _some(tools[name]["input_schema"]))] if name in tools else []


def _some(schema: dict[str, Any]) -> Any:
    """Return a value that fits a schema, as plain as can be."""
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    if "anyOf" in schema:
        return _some(schema["anyOf"][0])
    kind = schema.get("type", "object")
    kind = kind if isinstance(kind, str) else kind[0]
    if kind != "object":
        plain: dict[str, Any] = {"array": [], "string": "x", "boolean": False, "null": None}
        return plain.get(kind, 1)
    known = schema.get("properties", {})
    return {name: _some(known.get(name, {})) for name in schema.get("required", ())}


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
