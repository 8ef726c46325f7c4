"""How these tests ask: a client of the real SDK, and the smallest request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic

from outlast.testing.simulator import Simulator

TESTS = Path(__file__).parents[1]
"""Where the simulator's process finds `simulator.scripts`."""

HEADERS = {"x-api-key": "k", "anthropic-version": "2023-06-01"}


def client_of(running: Simulator) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=running.url, api_key="k", max_retries=0, timeout=20)


def body(question: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "claude-opus-5-5",
        "max_tokens": 1_000,
        "messages": [{"role": "user", "content": question}],
    } | more


def told(message: Any) -> Any:
    """Return a message of the SDK, or a part of one, without nulls and the usual caller.

    Without a stream the API names them, in a stream it does not.
    """
    if hasattr(message, "to_dict"):
        message = message.to_dict()
    if isinstance(message, list):
        return [told(each) for each in message]
    if not isinstance(message, dict):
        return message
    silent = (None, {"type": "direct"})
    return {name: told(value) for name, value in message.items() if value not in silent}
