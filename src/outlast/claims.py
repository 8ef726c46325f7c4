"""Claiming a run in a thread, for a loop that serves others and must not be held up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

from outlast.errors import StoreError


async def claimed(claim: Callable[[], int], release: Callable[[], None]) -> int:
    """Claim in a thread, and let go again of what nobody waits for any more.

    A thread cannot be cancelled.  Who cancels while it claims leaves it the release, and so does
    a loop that ends: nothing on that loop could still do it.
    """
    lock = threading.Lock()
    given_up = False
    held = False

    def let_go() -> None:
        with suppress(StoreError):
            release()

    def work() -> int:
        nonlocal held
        epoch = claim()
        with lock:
            held = True
            if given_up:
                let_go()
        return epoch

    try:
        return await asyncio.to_thread(work)
    except asyncio.CancelledError:
        with lock:
            given_up = True
            if held:
                let_go()
        raise
