"""Tells drivers that somebody else has written into the runs they drive.

A driver reads its journal when it appends, which may be minutes away while Claude answers.  So a
thread looks every quarter second whether anybody has written into the store at all, which reads no
table, and only then which of the live runs have grown.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol

from outlast.errors import StoreError
from outlast.journal import Journal

LOOK_S: Final = 0.25
"""How often is looked, in seconds."""


class Live(Protocol):
    """A run that is driven here."""

    @property
    def seq(self) -> int:
        """How far its journal is known to its driver."""
        ...

    def nudge(self) -> None:
        """Look at the journal soon.  From any thread."""
        ...


class Signals:
    """Looks while anything is driven.

    Args:
        journal: where others write.
        live: the runs that are driven here, by id.

    """

    def __init__(self, journal: Journal, live: Callable[[], Mapping[str, Live]]) -> None:
        self._journal = journal
        self._live = live
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def look(self) -> None:
        """Begin to look, where nobody does yet; called once a run is among the live ones."""
        with self._lock:  # a thread that is about to end has seen the new run, or is replaced
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="outlast-signals", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        with self._lock:
            self._closed.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2.0)

    def _run(self) -> None:
        seen = -1
        while live := self._still_live():
            with suppress(StoreError):  # the drivers will meet it, and say so
                changes = self._journal.changes()
                if changes != seen:
                    seen = changes
                    self._nudge(live)
            self._closed.wait(LOOK_S)

    def _still_live(self) -> Mapping[str, Live]:
        """Return what is driven here; with nothing, the thread ends, and the next run begins it."""
        with self._lock:
            live = {} if self._closed.is_set() else dict(self._live())
            if not live:
                self._thread = None
            return live

    def _nudge(self, live: Mapping[str, Live]) -> None:
        for run_id in self._journal.grown({run_id: leg.seq for run_id, leg in live.items()}):
            live[run_id].nudge()
