"""The application of the worker processes: a store that may end or freeze them at an append."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from typing import Any

from shop import PLAN, Claude, write

import outlast
from outlast.events import tag
from outlast.journal import Commit
from outlast.stores import open_store


class Staged:
    """The real store.  `at` names an append of this process, and `signal` what it gets there.

    The append is the `nth` that has an event of the type `event`, of the runs whose id begins with
    `run`; `when` is before or after it is durable.

    With `freeze_asked` the process freezes at the first beat after that many requests: a process
    that is frozen in the middle of a commit keeps everybody from writing, and so may not be.
    """

    def __init__(self, url: str) -> None:
        self._journal = open_store(url)
        self._freezes = PLAN.get("freeze_asked", 0)
        self._at = PLAN.get("at")
        self._left = self._at["nth"] if self._at else 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Commit) -> Any:
        here = self._is_it(commit)
        self._pass("before", here=here)
        records = self._journal.append(commit)
        self._pass("after", here=here)
        return records

    async def aappend(self, commit: Commit) -> Any:
        here = self._is_it(commit)
        self._pass("before", here=here)
        records = await self._journal.aappend(commit)
        self._pass("after", here=here)
        return records

    def beat(self, worker: str, streams: Iterable[str]) -> None:
        self._journal.beat(worker, streams)
        if self._freezes and CLAUDE.asked >= self._freezes:
            self._freezes = 0
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def _is_it(self, commit: Commit) -> bool:
        at = self._at
        if not at or not commit.stream.startswith(f"run:{at.get('run', '')}"):
            return False
        if at["event"] not in map(tag, commit.events):
            return False
        self._left -= 1
        return self._left == 0

    def _pass(self, when: str, *, here: bool) -> None:
        if here and self._at["when"] == when:
            write("struck", when=when, event=self._at["event"])
            # To this very thread, which does not run on until another one has got it.
            signal.pthread_kill(threading.get_ident(), getattr(signal, self._at["signal"]))


CLAUDE = Claude()
app = outlast.Outlast(Staged(os.environ["SHOP_STORE"]), model=CLAUDE)  # type: ignore[arg-type]
