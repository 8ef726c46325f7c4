"""Copying the write-ahead log into the file, beside the appends and not between them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import apsw

_TOO_LONG: Final = 4
"""How many times its usual length the log may reach before everybody has to wait for it once."""

_QUIET: Final = apsw.SQLITE_CHECKPOINT_PASSIVE
_LOUD: Final = apsw.SQLITE_CHECKPOINT_RESTART

_PATIENCE_MS: Final = 100
"""How long writers may have to wait for readers that keep the log from starting over."""


class Checkpointer:
    """A thread with a connection of its own, woken when the log is long enough.

    A log that starts over is not only short: writing over what is there takes half the time to sync
    of making the file longer.  It starts over once all of it is copied.  So what is there is copied
    beside the appends, and the little that came in the meantime while this process appends nothing.
    """

    def __init__(
        self, connect: Callable[[], apsw.Connection], lock: threading.Lock, *, pages: int
    ) -> None:
        self._connect = connect
        self._lock = lock
        self._pages = pages
        self._length = 0
        self._copied = 0
        self._starts = 0
        """How often the log has started over; with the two above, changed under the lock only."""
        self._due = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    def after_commit(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        """Take note of the log's length in pages; to be called by SQLite after each commit."""
        if pages < self._length:
            self._copied = 0
            self._starts += 1
        self._length = pages
        if pages - self._copied >= self._pages and not self._due.is_set():
            self._wake()
        return 0

    def close(self) -> None:
        """End the thread."""
        self._ended = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def _wake(self) -> None:
        self._due.set()
        if self._thread is None and not self._ended:
            self._thread = threading.Thread(
                target=self._serve, name="outlast-checkpoint", daemon=True
            )
            self._thread.start()

    def _serve(self) -> None:
        try:
            connection = self._connect()
        except apsw.Error:
            self._thread = None  # The next append that makes the log longer tries again.
            return
        connection.set_busy_timeout(_PATIENCE_MS)
        try:
            while self._due.wait():
                # Cleared before the question is asked: `close` answers it before it sets.
                self._due.clear()
                if self._ended:
                    return
                if self._length - self._copied >= self._pages:
                    self._checkpoint(connection)
        finally:
            connection.close()

    def _checkpoint(self, connection: apsw.Connection) -> None:
        starts = self._starts
        try:
            length, copied = connection.wal_checkpoint(mode=_QUIET)
            with self._lock:
                if starts != self._starts:
                    return
                if copied < max(length, self._length):
                    too_long = length >= _TOO_LONG * self._pages
                    copied = connection.wal_checkpoint(mode=_LOUD if too_long else _QUIET)[1]
                self._copied = copied
        except apsw.Error:
            # Nothing is lost: the log keeps everything, and the next append that makes it longer
            # asks again.  A full or failing disk is reported by the append that meets it.
            return
