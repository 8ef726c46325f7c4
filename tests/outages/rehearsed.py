"""What a worker process drives in the rehearsal over HTTP; it asks whatever Claude it is told."""

from __future__ import annotations

import asyncio

import outlast


@outlast.tool(effect="idempotent")
async def look() -> str:
    """Look for a moment."""
    await asyncio.sleep(0.5)
    return "seen"


asker = outlast.Agent("asker", model="claude-haiku-5-5", tools=[look], max_tokens=256)
