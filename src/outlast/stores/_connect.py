"""Opening a SQLite file as an outlast store: recognise it, create it, migrate it, connect to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, Literal, TypeAlias

import apsw

from outlast.errors import NotAStore, StoreError, StoreFull
from outlast.stores._queries import migrations

Synchronous: TypeAlias = Literal["FULL", "NORMAL", "OFF"]

APPLICATION_ID: Final = 0x6F75746C
"""`outl` in ASCII: what tells an outlast store from any other SQLite file."""

_MAGIC: Final = b"SQLite format 3\0"

PAGE_SIZE: Final = 1024
"""Bytes; `sqlite.py` says why."""

_BUSY_MS: Final = 10_000


def prepare(path: Path, *, vfs: str | None, synchronous: Synchronous) -> apsw.Connection:
    """Make sure that `path` is an outlast store of this version, and return a connection to it.

    The caller keeps others out.  The connection stays open: if it were the last one, closing it
    would copy the whole log into the file, and after a crash that takes longer than all the rest.

    Raises:
        NotAStore: the file is something else; it is left as it is.
        StoreError: the store was written by a newer version.
        apsw.Error: SQLite cannot.

    """
    recognise(path, vfs=vfs)
    _create(path)
    connection = connect(path, vfs=vfs, synchronous=synchronous)
    try:
        _format(connection, path)
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def recognise(path: Path, *, vfs: str | None = None) -> None:
    """Refuse a file that is something else than an outlast store, without touching it.

    Raises:
        NotAStore: it is.

    """
    if path.is_dir():
        raise NotAStore(f"{path} is a folder; give the path of a file as --store")
    if not path.exists() or path.stat().st_size == 0:
        return
    header = _header(path, vfs=vfs)
    if header[:16] != _MAGIC:
        raise NotAStore(f"{path} is not a SQLite file, so it is left alone; give another --store")
    if int.from_bytes(header[68:72]) != APPLICATION_ID:
        raise NotAStore(
            f"{path} is a SQLite file of something else, so it is left alone; give another --store"
        )


def _header(path: Path, *, vfs: str | None) -> bytes:
    """Return the first bytes of the file, whatever it is.

    They are read with SQLite's own way to files: closing the file in any other way would drop the
    locks that this process may hold on it.  A connection would look further, and the file need not
    make sense without its log.  The application id is there from the start, see `_format`.
    """
    flags = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY
    file = apsw.VFSFile(vfs or "", str(path), [flags, 0])
    try:
        return file.xRead(100, 0)
    finally:
        file.xClose()


def _create(path: Path) -> None:
    """Make an empty file that nobody else can read, before anything is in it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        if path.stat().st_size == 0:
            path.chmod(0o600)
        return
    os.close(fd)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def connect(path: Path, *, vfs: str | None, synchronous: Synchronous) -> apsw.Connection:
    """Return a connection to an existing file.

    Checkpoints are made apart from commits, so no connection makes them by itself.
    """
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    try:
        _set_up(connection, synchronous)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: apsw.Connection, synchronous: Synchronous) -> None:
    connection.set_busy_timeout(_BUSY_MS)
    connection.pragma("synchronous", synchronous)
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("trusted_schema", 0)
    # What a query sets aside is small, and to open a file for each such table takes longer than
    # everything else about it: a look for due runs takes 0.3 ms instead of 0.8.
    connection.pragma("temp_store", "MEMORY")
    if synchronous == "FULL":
        # macOS: fsync alone leaves the data in the drive's cache.
        connection.pragma("fullfsync", 1)
        connection.pragma("checkpoint_fullfsync", 1)


def _format(connection: apsw.Connection, path: Path) -> None:
    """Give an empty file its page size, its application id and its write-ahead log, in this order.

    The id reaches the main file in rollback mode, so it is there from the first byte on.

    Raises:
        StoreError: the file system cannot do it.

    """
    if connection.pragma("application_id") != APPLICATION_ID:
        connection.pragma("page_size", PAGE_SIZE)
        connection.pragma("application_id", APPLICATION_ID)
    if connection.pragma("journal_mode", "wal") != "wal":
        raise StoreError(
            f"{path}: its file system has no memory that processes share, which a write-ahead log "
            "needs; network file systems have none, so put the store on a local disk"
        )


def _migrate(connection: apsw.Connection, path: Path) -> None:
    steps = migrations()
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.pragma("user_version")
        _check_version(path, version, known=len(steps))
        for step in steps[version:]:
            connection.execute(step)
        if version < len(steps):
            connection.pragma("user_version", len(steps))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check_version(path: Path, version: int, *, known: int) -> None:
    if version > known:
        raise StoreError(
            f"{path} has schema {version}, this outlast knows up to {known}: "
            "upgrade outlast (pip install -U outlast), or give another --store"
        )


# ── errors ─────────────────────────────────────────────────────────────────────────────────────

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


def unopened(error: OSError, path: Path) -> StoreError:
    """Return what to raise when the operating system refuses to open the store."""
    folder = path.parent
    if isinstance(error, FileNotFoundError):
        return StoreError(f"{path}: there is no folder {folder}; make it, or give another --store")
    if error.errno in _NO_SPACE:
        return StoreFull(f"{path}: no space is left to create the store; free some and try again")
    return StoreError(
        f"{path} cannot be opened for writing ({error.strerror}); outlast writes the file and its "
        f"neighbours -wal, -shm and -lock, so {folder} must be writable, or give another --store"
    )


def failed(error: apsw.Error, path: Path, *, system_errno: int = 0) -> StoreError:
    """Return what to raise when SQLite cannot do something; `system_errno` is what it met last."""
    if isinstance(error, apsw.FullError) or (
        isinstance(error, apsw.IOError) and system_errno in _NO_SPACE
    ):
        return StoreFull(
            f"{path}: no space is left, so nothing was written; free some and try again. "
            "What was committed before is safe."
        )
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return StoreError(f"{path} is damaged ({error}); restore it from a backup")
    if isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError):
        return StoreError(
            f"{path} cannot be written ({error}); outlast writes the file and its neighbours -wal, "
            f"-shm and -lock, so {path.parent} must be writable, or give another --store"
        )
    if isinstance(error, apsw.BusyError):
        return StoreError(f"{path} is locked by another program ({error}); end it and try again")
    if isinstance(error, apsw.IOError):
        return StoreError(
            f"{path}: the disk failed ({error}, errno {system_errno}), so it is unknown whether "
            "the last append is there; read the journal before appending again"
        )
    return StoreError(f"{path}: {type(error).__name__}: {error}")
