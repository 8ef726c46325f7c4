"""Copying the write-ahead log into the file, beside the appends and not between them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import apsw

_ENOUGH: Final = 4
"""How many times its usual length the log may reach before writers have to wait for it once."""

_PATIENCE_MS: Final = 100
"""How long writers may have to wait for readers that keep the log from starting over."""


class Checkpointer:
    """A thread with a connection of its own, woken when the log is long enough.

    A passive checkpoint copies what is committed and stops nobody.  But as long as appends keep
    coming it never ends with nothing left, and only then does the log start over; so once the log
    is very long, what is left is copied while the writer waits.
    """

    def __init__(
        self, connect: Callable[[], apsw.Connection], lock: threading.Lock, *, pages: int
    ) -> None:
        self._connect = connect
        self._lock = lock
        self._pages = pages
        self._length = 0
        self._due = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None
        self._copied = 0

    def after_commit(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        """Take note of the log's length in pages; to be called by SQLite after each commit."""
        if pages < self._length:
            self._copied = 0  # The log started over.
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
        connection = self._connect()
        connection.set_busy_timeout(_PATIENCE_MS)
        try:
            while self._due.wait():
                # Cleared before the question is asked: `close` answers it before it sets.
                self._due.clear()
                if self._ended:
                    return
                self._checkpoint(connection)
        finally:
            connection.close()

    def _checkpoint(self, connection: apsw.Connection) -> None:
        try:
            self._copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)[1]
            if self._length >= _ENOUGH * self._pages:
                with self._lock:
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.Error:
            # Nothing is lost: the log keeps everything, and the next append that makes it longer
            # asks again.  A full or failing disk is reported by the append that meets it.
            return
