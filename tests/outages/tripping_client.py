"""As `client.py`, with a circuit breaker that is open for a moment only."""

from __future__ import annotations

import asyncio
import sys

import outlast

AGENT = outlast.Agent("asker", model="claude-haiku-5-5")
BREAKER = outlast.Breaker(calls=5, open_s=3, longest_s=3, probes=3)


async def main(store: str, first: str, count: int) -> None:
    with outlast.Outlast(store, breaker=BREAKER) as app:
        print("open", flush=True)  # noqa: T201  (for whoever started it)
        await asyncio.to_thread(sys.stdin.readline)
        runs = (app.arun(AGENT, f"{first}-{n}", run_id=f"{first}-{n}") for n in range(count))
        print(*{run.status for run in await asyncio.gather(*runs)}, flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
