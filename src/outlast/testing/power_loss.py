"""A disk that forgets what was not synced, under a real SQLite.

SQLite writes through to real files, so the process under test notices nothing.  Beside them the
disk remembers what a power cut would leave: what was there at each file's last sync, and every
write since.  `Disk.cut` makes such files in another folder, at any moment and as often as wanted,
without stopping anything.

    with Disk() as disk:
        journal = SqliteJournal(path, vfs=disk.vfs)
        journal.append(commit)
        disk.cut(path, into=elsewhere)      # what was acknowledged must be there
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

import apsw

Loss: TypeAlias = Literal["everything", "tail", "some"]
"""What becomes of writes that were not synced: all are lost, all after some point, or any of them.

With `some`, a write may also be cut short at a sector's boundary.
"""

_SECTOR: Final = 512
_numbers = itertools.count(1)


class _Content:
    """What a power cut would leave of one file."""

    def __init__(self, synced: bytes) -> None:
        self.synced = bytearray(synced)
        self.since: list[tuple[int, bytes | None]] = []
        """Writes since the last sync, in order; `None` cuts the file off there."""

    def sync(self) -> None:
        for offset, data in self.since:
            _change(self.synced, offset, data)
        self.since.clear()

    def after(self, loss: Loss, chance: random.Random) -> bytes:
        left = bytearray(self.synced)
        kept = {"everything": 0, "tail": chance.randint(0, len(self.since))}
        for offset, data in self.since[: kept.get(loss, len(self.since))]:
            if loss == "some" and (part := chance.choice(("whole", "lost", "torn"))) != "whole":
                if part == "lost" or data is None:
                    continue
                data = data[: chance.randrange(0, len(data) + 1, _SECTOR)]  # noqa: PLW2901
            _change(left, offset, data)
        return bytes(left)


def _change(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Disk:
    """A disk of which the power can be cut.  Use it as a context manager.

    Attributes:
        vfs: the name of the apsw VFS, for `SqliteJournal(vfs=…)`.
        on_change: called after each write, truncation and sync, with its name and the file's; set
            it to cut the power at every such moment.

    """

    def __init__(self) -> None:
        self.vfs = f"outlast-power-loss-{next(_numbers)}"
        self.on_change: Callable[[str, Path], None] | None = None
        self._contents: dict[Path, _Content] = {}
        self._lock = threading.RLock()
        self._shim: _Vfs | None = None

    def __enter__(self) -> Self:
        self._shim = _Vfs(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shim is not None:
            self._shim.unregister()

    def cut(self, path: Path, *, into: Path, loss: Loss = "everything", seed: int = 0) -> Path:
        """Put what a power cut would leave now of the database at `path` into the folder `into`.

        Args:
            path: the database as it was opened.
            into: where its remains go; made if needed.  Remains of an earlier cut are removed.
            loss: what becomes of writes that were not synced.
            seed: which of them, where that is left to chance.

        Returns:
            The path of the database's remains.

        """
        chance = random.Random(seed)  # noqa: S311  (a test's choice, not a secret)
        into.mkdir(parents=True, exist_ok=True)
        with self._lock:
            for suffix in ("", "-wal", "-journal"):
                remains = into / (path.name + suffix)
                remains.unlink(missing_ok=True)
                content = self._contents.get(path.absolute().with_name(path.name + suffix))
                if content is not None:
                    remains.write_bytes(content.after(loss, chance))
        return into / path.name

    # ── what the files of the VFS tell ─────────────────────────────────────────────────────────

    def opened(self, path: Path, content: bytes) -> None:
        """Take note of a file; what is in it before the disk knows it counts as synced."""
        with self._lock:
            self._contents.setdefault(path, _Content(content))

    def changed(self, path: Path, offset: int, data: bytes | None) -> None:
        """Take note of a write, or of a truncation."""
        with self._lock:
            self._contents[path].since.append((offset, data))
        self._tell("write" if data is not None else "truncate", path)

    def synced(self, path: Path) -> None:
        """Take note that everything written to the file so far is safe."""
        with self._lock:
            self._contents[path].sync()
        self._tell("sync", path)

    def deleted(self, path: Path) -> None:
        """Forget a file."""
        with self._lock:
            self._contents.pop(path, None)

    def _tell(self, what: str, path: Path) -> None:
        if self.on_change is not None:
            self.on_change(what, path)


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__(disk.vfs, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  (SQLite's name)
        return _File(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802  (SQLite's)
        super().xDelete(filename, syncdir)
        self._disk.deleted(Path(filename))


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        text = name.filename() if isinstance(name, apsw.URIFilename) else name
        # Temporary files have no name, and nobody expects them to survive.
        self._path = Path(text) if text else None
        self._disk = disk
        if self._path is not None:
            size = self.xFileSize()
            disk.opened(self._path, self.xRead(size, 0) if size else b"")

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  (SQLite's name)
        super().xWrite(data, offset)
        if self._path is not None:
            self._disk.changed(self._path, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802  (SQLite's name)
        super().xTruncate(newsize)
        if self._path is not None:
            self._disk.changed(self._path, newsize, None)

    def xSync(self, flags: int) -> None:  # noqa: N802  (SQLite's name)
        super().xSync(flags)
        if self._path is not None:
            self._disk.synced(self._path)
