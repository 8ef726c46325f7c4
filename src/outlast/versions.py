"""Which agent or flow this is: a hash over what the model sees, and over where the code is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import sha256
from typing import Any

import msgspec

from outlast.agent import Agent
from outlast.events import Spec
from outlast.flows import Flow
from outlast.tools import Tool


def version_of(who: Agent | Flow[..., Any]) -> str:
    """Return the version of a declaration: 12 hex digits of a SHA-256.

    It changes with whatever the model sees (model, instructions, tools, parameters), with the
    functions that are called and with where they are declared, with its checks and what its judges
    are told, and with nothing else.
    """
    if isinstance(who, Flow):
        parts = [who.name, _code(who.function), msgspec.json.encode(who.phases).decode()]
    else:
        spec = msgspec.json.encode(who.spec()).decode()
        called = [one for tool in who.functions for one in _called(tool)]
        parts = [spec, *(f"{tool.name} {_code(tool.function)}" for tool in called)]
        parts += [f"check {one.name} {one.version}" for one in who.rules]
        parts += [f"judge {one.name} {one.version}" for one in who.judges]
    return sha256("\n".join(parts).encode()).hexdigest()[:12]


def _called(tool: Tool[..., Any]) -> Iterator[Tool[..., Any]]:
    """Yield a tool, its fallbacks, and the functions that look after its calls."""
    for source in tool.sources:
        if isinstance(source, Tool):
            yield source
            yield from (one for one in (source.reconcile, source.undo) if one is not None)


@lru_cache(maxsize=1_024)
def _code(function: Callable[..., Any]) -> str:
    """Return where a function is declared, and its source where that can be had.

    Once for each: a file that is edited under a running process is not the code that runs.
    """
    plain = inspect.unwrap(function)
    place = f"{getattr(plain, '__module__', '')}:{getattr(plain, '__qualname__', '')}"
    try:
        return f"{place}\n{inspect.getsource(plain)}"
    except (OSError, TypeError):
        return place


def differences(recorded: Spec, given: Spec) -> list[str]:
    """Return which parts of what the model sees are not the recorded ones."""
    changed = [
        name
        for name in ("model", "fallback_models", "system", "parameters", "max_tokens", "cache")
        if getattr(recorded, name) != getattr(given, name)
    ]
    if bytes(recorded.tools) != bytes(given.tools):
        changed.append("tools")
    return ["instructions" if name == "system" else name for name in changed]
