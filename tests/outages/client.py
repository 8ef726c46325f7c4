"""A process whose runs ask one Claude with one key, beside others: `client.py STORE NAME N`.

A line on stdin lets it begin, once it has said that the store is open.
"""

from __future__ import annotations

import asyncio
import sys

import outlast

AGENT = outlast.Agent("asker", model="claude-haiku-5-5")


async def main(store: str, first: str, count: int) -> None:
    with outlast.Outlast(store) as app:
        print("open", flush=True)  # noqa: T201  (for whoever started it)
        await asyncio.to_thread(sys.stdin.readline)
        ids = [f"{first}-{n}" for n in range(count)]
        runs = (app.arun(AGENT, run_id, run_id=run_id, wait_s=3_600) for run_id in ids)
        print(*{run.status for run in await asyncio.gather(*runs)}, flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
