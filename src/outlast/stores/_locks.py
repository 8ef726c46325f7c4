"""Locks that end with their process: who drives a run, and whose turn it is to write.

Beside a store lies one file, `<store>-lock`.  A process that drives stream number N holds a lock on
byte N of it; `kill -9` lets go of it at once, which no lease in a table does.  Such locks belong to
a process, not to a file descriptor, and closing *any* descriptor of the file drops all of them, so
a process has the file open once, and threads are told apart in memory.

Byte 0 is a turnstile.  SQLite's own write lock is polled and goes to whoever asks next, which may
starve a process for as long as another commits in a loop.  Whoever finds the store locked takes the
turnstile and says so in the file's first byte; the others queue behind it.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import sys
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from outlast.errors import StoreError

_TURN: Final = 0
_FileKey: TypeAlias = tuple[int, int]

_LINUX: Final = sys.platform == "linux"
_FLOCK: Final = (
    ("type", "whence", "start", "len", "pid")
    if _LINUX
    else ("start", "len", "pid", "type", "whence")
)
_LAYOUT: Final = struct.Struct("hhqqi4x" if _LINUX else "qqihh8x")
"""The C struct `flock` of fcntl(2), as Linux has it, and as macOS and the BSDs do."""

_open_files: dict[_FileKey, LockFile] = {}
_open_lock = threading.Lock()
_forked: set[_FileKey] = set()


class LockFile:
    """The lock file of one store, shared by every journal of the process that has it open."""

    def __init__(self, path: Path, fd: int, key: _FileKey) -> None:
        self._path = path
        self._fd = fd
        self._key = key
        self._users = 0
        self._turn = threading.Lock()
        self._owners: dict[int, object] = {}
        self._locked: set[int] = set()
        self._guard = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> LockFile:
        """Return the lock file at `path`, made with mode 0600 if there is none.

        Raises:
            StoreError: this process was forked while the store was open.
            OSError: the file cannot be opened.

        """
        with _open_lock:
            key = _key(path)
            if key in _forked:
                store = str(path).removesuffix("-lock")
                raise StoreError(
                    f"{store} was open when this process was forked, so it "
                    "cannot be used here: SQLite's locks do not survive a fork. Open the store "
                    "after the fork, or start the process with the spawn method."
                )
            found = _open_files.get(key) if key else None
            if found is None:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stat = os.fstat(fd)
                found = cls(path, fd, (stat.st_dev, stat.st_ino))
                _open_files[found._key] = found
            found._users += 1
            return found

    def close(self, owner: object) -> None:
        """Let go of everything `owner` holds; the last user closes the file."""
        with self._guard:
            held = [number for number, holder in self._owners.items() if holder is owner]
        for number in held:
            self.release(number, owner)
        with _open_lock:
            self._users -= 1
            if not self._users and _open_files.pop(self._key, None) is self:
                os.close(self._fd)

    # ── who drives a stream ────────────────────────────────────────────────────────────────────

    def take(self, number: int, owner: object, *, force: bool = False) -> bool:
        """Hold byte `number` for `owner`; return whether it is held now.

        With `force` it counts as held even if another process has the lock: the fence decides.
        """
        with self._guard:
            if number in self._owners and not force:
                return False
            if number not in self._locked and self._try_lock(number):
                self._locked.add(number)
            if number not in self._locked and not force:
                return False
            self._owners[number] = owner
            return True

    def release(self, number: int, owner: object) -> None:
        """Let go of byte `number`, unless somebody else of this process took it over."""
        with self._guard:
            if self._owners.get(number) is not owner:
                return
            del self._owners[number]
            if number in self._locked:
                self._locked.discard(number)
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number)

    def owns(self, number: int) -> bool:
        """Return whether somebody of this process has taken byte `number`."""
        with self._guard:
            return number in self._owners

    def held(self, numbers: Iterable[int]) -> set[int]:
        """Return which bytes are held, by an owner of this process or by another process.

        The system is asked who holds a lock, and none is taken: a probe that takes it turns away
        whoever tries to at the same moment, and one that lets go of it lets go of our own.
        """
        asked = set(numbers)
        with self._guard:
            self._catch_up()
            held = asked & self._owners.keys()
        rest = [sorted(asked - held)]
        while rest:
            if not (run := rest.pop()):
                continue
            if (found := self._lock_within(run[0], run[-1])) is None:
                continue
            first, last = bisect_left(run, found[0]), bisect_right(run, found[1])
            held.update(run[first:last])
            rest += run[:first], run[last:]
        return held

    def _catch_up(self) -> None:
        """Lock what an owner holds by force, once whoever it was taken from has died."""
        for number in self._owners.keys() - self._locked:
            if self._try_lock(number):
                self._locked.add(number)

    def _lock_within(self, first: int, last: int) -> tuple[int, int] | None:
        """Return the first and last byte of a lock that another process has between two bytes."""
        asked = dict.fromkeys(_FLOCK, 0)
        asked |= {"type": fcntl.F_WRLCK, "start": first, "len": last - first + 1}
        packed = _LAYOUT.pack(*asked.values())
        answer = _LAYOUT.unpack(fcntl.fcntl(self._fd, fcntl.F_GETLK, packed))
        found = dict(zip(_FLOCK, answer, strict=True))
        if found["type"] == fcntl.F_UNLCK:
            return None
        # A length of 0 is a lock up to the end of the file, however long that gets.
        length = found["len"] or last - found["start"] + 1
        return found["start"], found["start"] + length - 1

    # ── whose turn it is to write ──────────────────────────────────────────────────────────────

    def someone_waits(self) -> bool:
        """Tell whether somebody waits for the store, so that one should queue up too."""
        return os.pread(self._fd, 1, _TURN) == b"\1"

    @contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """Be the one who may write next; others queue up behind.

        Raises:
            TimeoutError: it was not our turn until `deadline`, in terms of `time.monotonic`.

        """
        if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        try:
            while not self._try_lock(_TURN):
                pause(deadline, shortest_s=0.0005, longest_s=0.002)
            try:
                # A process that dies here leaves the mark: the next one to come queues up in vain
                # and clears it.
                os.pwrite(self._fd, b"\1", _TURN)
                yield
            finally:
                os.pwrite(self._fd, b"\0", _TURN)
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _TURN)
        finally:
            self._turn.release()

    def _try_lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True


def pause(deadline: float, *, shortest_s: float, longest_s: float) -> None:
    """Sleep a little, never the same time twice, so that waiting processes do not keep step.

    Raises:
        TimeoutError: `deadline` has passed.

    """
    if time.monotonic() >= deadline:
        raise TimeoutError
    time.sleep(random.uniform(shortest_s, longest_s))  # noqa: S311  (jitter, not a secret)


def _key(path: Path) -> _FileKey | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return (stat.st_dev, stat.st_ino)


def _after_fork() -> None:
    """Forget the parent's locks, and remember which stores must not be opened here.

    SQLite keeps its locks per process in memory, and the child has a copy of that: it would believe
    to hold locks that only its parent has.
    """
    global _open_lock  # noqa: PLW0603  (another thread of the parent may hold it for ever here)
    _open_lock = threading.Lock()
    _forked.update(_open_files)
    _open_files.clear()


os.register_at_fork(after_in_child=_after_fork)
