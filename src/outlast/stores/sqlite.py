"""A journal in one SQLite file, shared by any number of threads and processes of one machine.

SQLite comes from apsw, which bundles it: versions 3.7.0 to 3.51.2 can corrupt a write-ahead log
when several connections write and checkpoint, which is what happens here, and apsw lets the power
loss test put a file system of its own under the real store.

Every append rewrites whole pages of which few bytes changed, so pages are small: 1 KB.  Measured
with a turn of two commits and four events (500 bytes of text and a tool call; a result of 1 KB),
per byte of event bodies:

    page size            512 B    1 KB    2 KB    4 KB
    written, log and all   6.3     7.5    11.7    16.9
    in the file            1.6     1.6     2.0     1.6

CPU is the same from 1 KB on, and a quarter more with 512 B.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

import apsw
import msgspec

from outlast.errors import Busy, JournalDamaged, OutlastError, RunNotFound, StoreError
from outlast.journal import Advance, Balance, Commit, Lease, Posting, Proof, Record, RunRow
from outlast.stores import _commits as commits
from outlast.stores._checkpoint import Checkpointer
from outlast.stores._connect import (
    PAGE_SIZE,
    Synchronous,
    connect,
    failed,
    prepare,
    recognise,
    unopened,
)
from outlast.stores._group import GroupWriter
from outlast.stores._locks import LockFile
from outlast.stores._queries import queries
from outlast.stores._writer import BITS, Item, Records, Writer

_READ_AT_ONCE: Final = 1000
_MOST_READABLE: Final = 100_000
"""Streams whose version is remembered to be readable; beyond that all are asked anew."""

_MOST_NUMBERS: Final = 100_000
"""Streams whose number is remembered, so that whether they are held is told without a query."""

_POSTING = Posting.__struct_fields__
_PROOF = Proof.__struct_fields__
_Row: TypeAlias = tuple[Any, ...]


class SqliteJournal:
    """A `Journal` in a SQLite file.  Safe to use from several threads and processes.

    Args:
        path: the file, or a symbolic link to it; it is made, with mode 0600, if it does not exist.
        url: how a user names it; default `sqlite:///PATH`.
        synchronous: `FULL` survives a power loss; `NORMAL` may lose the latest appends in one, and
            nothing when only the process dies; `OFF` may damage the file.
        busy_timeout_s: how long an append waits for other processes before it is a `StoreError`.
        checkpoint_bytes: how long the write-ahead log grows before it is copied into the file.
        vfs: the name of an apsw VFS to read and write with.

    Raises:
        NotAStore: the file is something else.
        StoreError: it cannot be opened, or was written by a newer version.

    """

    def __init__(  # noqa: PLR0913  (options, all but one keyword-only)
        self,
        path: str | os.PathLike[str],
        *,
        url: str | None = None,
        synchronous: Synchronous = "FULL",
        busy_timeout_s: float = 30.0,
        checkpoint_bytes: int = 2 << 20,
        vfs: str | None = None,
    ) -> None:
        # SQLite follows no link, and whoever comes by another name must find the same lock file.
        self._path = Path(os.path.realpath(path))
        self._url = url or f"sqlite:///{os.fspath(path)}"
        self._synchronous: Synchronous = synchronous
        self._vfs = vfs
        self._pid = os.getpid()
        self._sql = queries()
        self._closed = False
        self._readers: list[apsw.Connection] = []
        self._readable: set[int] = set()
        self._claimed: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._watcher: apsw.Connection | None = None
        """A connection that never writes, so whatever changes the file is told by it."""
        self._watching = threading.Lock()
        connection = self._open(busy_timeout_s)
        self._writer = Writer(
            connection,
            locks=self._locks,
            sql=self._sql,
            path=self._path,
            url=self._url,
            busy_timeout_s=busy_timeout_s,
        )
        self._checkpointer = Checkpointer(
            self._connect, self._writer.lock, pages=checkpoint_bytes // PAGE_SIZE
        )
        connection.set_wal_hook(self._checkpointer.after_commit)
        self._group: GroupWriter[Item, Records] = GroupWriter(self._writer.write)

    @property
    def url(self) -> str:
        """The store as a user names it, such as `sqlite:///agents.db`."""
        return self._url

    # ── appending ──────────────────────────────────────────────────────────────────────────────

    def append(self, commit: Commit) -> Records:
        """Append in the calling thread and return the records; see `Journal.append`."""
        (outcome,) = self._writer.write([self._sealed(commit)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def aappend(self, commit: Commit) -> Records:
        """Append on the writer's thread, together with what other runs append.

        An append whose task is cancelled may still be written.
        """
        future = self._group.submit(self._sealed(commit))
        if future is None:
            raise self._is_closed()
        return await future

    def _sealed(self, commit: Commit) -> Item:
        self._check_usable()
        commits.check_stream_name(commit.stream)
        commits.check_shape(commit)
        return commit, commits.seal(commit.events)

    # ── driving ────────────────────────────────────────────────────────────────────────────────

    def claim(self, stream: str, *, force: bool = False, worker: str = "") -> int:
        """Become the stream's driver; see `Journal.claim`."""
        with self._reading() as connection:
            number = self._number(connection, stream)
            if number is None:
                raise self._not_found(stream)
            self._check_version(connection, stream, number)
            if not self._locks.take(number, self, force=force):
                raise Busy(stream, holder=self._holder(connection, stream))
        try:
            epoch = self._writer.raise_fence(stream, holder=self._pid, worker=worker)
        except BaseException:
            self._locks.release(number, self)
            raise
        self._claimed[stream] = number
        return epoch

    def abandoned(self, stream: str) -> bool:
        """Return whether who claimed it last is gone, or has let go; see `Journal.abandoned`."""
        with self._reading() as connection:
            rows = self._all(connection, "stream_holder", stream)
        pid = rows[0][0] if rows else 0
        if pid == self._pid:
            number = self._numbers_of([stream]).get(stream)
            return number is None or not self._locks.owns(number)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return pid > 0
        except OSError:
            return False  # it lives, and is another user's
        return _is_zombie(pid)

    def release(self, stream: str) -> None:
        """Let go of what `claim` took, also when the file cannot be read any more."""
        number = self._claimed.pop(stream, None)
        if number is not None and os.getpid() == self._pid:
            self._locks.release(number, self)

    def unheld(self, streams: Iterable[str]) -> list[str]:
        """Return which of these streams no living process holds; see `Journal.unheld`.

        A stream's number never changes, so only the first time it is asked for is the file read.
        """
        streams = list(streams)
        numbers = self._numbers_of(streams)
        held = self._locks.held(numbers.values())
        return [stream for stream in streams if numbers.get(stream) not in held]

    def beat(self, worker: str, streams: Iterable[str]) -> None:
        """Renew the leases of `worker`; see `Journal.beat`."""
        self._writer.beat(worker, sorted(self._numbers_of(streams).values()))

    def leases(self) -> list[Lease]:
        """Return every lease, oldest stream first."""
        with self._reading() as connection:
            return [Lease(*row) for row in self._all(connection, "leases")]

    def _numbers_of(self, streams: Iterable[str]) -> dict[str, int]:
        """Return the numbers of those streams that exist."""
        self._check_usable()
        known = self._numbers
        found = {stream: known.get(stream) for stream in streams}
        if new := [stream for stream, number in found.items() if number is None]:
            with self._reading() as connection:
                rows = self._all(connection, "stream_numbers", msgspec.json.encode(new).decode())
            if len(known) + len(rows) > _MOST_NUMBERS:
                self._numbers = known = {}
            known.update(rows)
            found.update(rows)
        return {stream: number for stream, number in found.items() if number is not None}

    def _holder(self, connection: apsw.Connection, stream: str) -> str:
        rows = self._all(connection, "stream_holder", stream)
        return f"process {rows[0][0]} on this machine"

    def _not_found(self, stream: str) -> RunNotFound:
        return RunNotFound(stream.removeprefix("run:"), store=self._url)

    # ── reading ────────────────────────────────────────────────────────────────────────────────

    def read(self, stream: str, *, after: int = 0, limit: int | None = None) -> list[Record]:
        """Return the records of `stream` whose seq is above `after`, in order."""
        with self._reading() as connection:
            number = self._number(connection, stream)
            if number is None:
                return []
            self._check_version(connection, stream, number)
            most = -1 if limit is None else limit
            rows = self._all(connection, "read_stream", *_ids(number, after), most)
            ahead = self._all(connection, "next_seq", number)
        if ahead and (limit is None or len(rows) < limit):
            _check_end(stream, rows, after=after, next_seq=ahead[0][0])
        return _records(stream, rows, after=after)

    def read_all(self, *, after: int = 0, limit: int = 1000) -> list[Record]:
        """Return records of every stream whose position is above `after`, in commit order."""
        with self._reading() as connection:
            rows = self._all(connection, "read_store", after, limit)
            for stream in {row[1] for row in rows}:
                if (number := self._number(connection, stream)) is not None:
                    self._check_version(connection, stream, number)
        return _store_records(rows, after=after)

    def proofs(self, stream: str, *, after: int = 0) -> Iterator[Proof]:
        """Yield what the chain holds about the records of `stream`."""
        while True:
            with self._reading() as connection:
                number = self._number(connection, stream)
                if number is None:
                    return
                rows = self._all(connection, "read_proofs", *_ids(number, after), _READ_AT_ONCE)
            for row in rows:
                yield Proof(**dict(zip(_PROOF, row, strict=True)))
            if len(rows) < _READ_AT_ONCE:
                return
            after = rows[-1][1]

    def run(self, run_id: str) -> RunRow | None:
        """Return the row of the run, `None` when there is no such run."""
        with self._reading() as connection:
            rows = self._all(connection, "run", run_id)
        return _run_row(rows[0]) if rows else None

    def runs(
        self,
        *,
        status: str | None = None,
        agent: str | None = None,
        limit: int | None = None,
    ) -> list[RunRow]:
        """Return the rows of the runs, newest first."""
        given = [("status", status), ("agent", agent)]
        names = [name for name, value in given if value is not None]
        query = "runs_of_" + "_and_".join(names) if names else "runs"
        values = [value for _, value in given if value is not None]
        with self._reading() as connection:
            rows = self._all(connection, query, *(*values, -1 if limit is None else limit))
        return [_run_row(row) for row in rows]

    def statuses(self, *, agent: str | None = None) -> dict[str, int]:
        """Return how many runs are in each status."""
        query, given = ("statuses", ()) if agent is None else ("statuses_of_agent", (agent,))
        with self._reading() as connection:
            return dict(self._all(connection, query, *given))

    def updated(self, since: int, *, agent: str | None = None) -> list[str]:
        """Return the ids of the runs that were written to since a moment, newest run first."""
        query, given = ("updated", ()) if agent is None else ("updated_of_agent", (agent,))
        with self._reading() as connection:
            return [run_id for (run_id,) in self._all(connection, query, since, *given)]

    def streams(self, prefix: str) -> list[str]:
        """Return the names of the streams that begin with `prefix`, in order of their bytes."""
        with self._reading() as connection:
            return [name for (name,) in self._all(connection, "streams_named", prefix)]

    def below(self, run_id: str) -> list[RunRow]:
        """Return the rows of all runs below a run, parents before their children."""
        with self._reading() as connection:
            rows = self._all(connection, "runs_below", run_id)
        return [_run_row(row) for row in rows]

    def grown(self, known: Mapping[str, int]) -> list[str]:
        """Return which of these runs have records beyond the seq that is known of each."""
        with self._reading() as connection:
            rows = self._all(connection, "grown", msgspec.json.encode(known).decode())
        return [run_id for (run_id,) in rows]

    def changes(self) -> int:
        """Return a number that is another one once anybody has written since; no table is read."""
        self._check_usable()
        with self._watching:
            try:
                if self._watcher is None:
                    self._watcher = self._connect()
                return int(self._watcher.pragma("data_version"))
            except apsw.Error as error:
                raise failed(error, self._path) from error

    def due(self, at: int, *, limit: int = 100) -> list[RunRow]:
        """Return the rows of root runs that wait to be driven; see `Journal.due`."""
        with self._reading() as connection:
            rows = self._all(connection, "due", at, limit)
        return [_run_row(row) for row in rows]

    def next_wake(self, after: int) -> int | None:
        """Return the earliest `wake_at` above `after` of any `parked` or `waiting` run."""
        with self._reading() as connection:
            ((wake_at,),) = self._all(connection, "next_wake", after)
        return None if wake_at is None else int(wake_at)

    def running(self) -> list[RunRow]:
        """Return the rows of root runs that are `running`, oldest first."""
        with self._reading() as connection:
            rows = self._all(connection, "running")
        return [_run_row(row) for row in rows]

    def balance(
        self, scope: str, *, window: str = "total", unit: str = "nano", since: str = ""
    ) -> Balance:
        """Return what the ledger holds about a scope in a window, or in all from `since` on."""
        with self._reading() as connection:
            if since:
                until = commits.windows_until(since)
                rows = self._all(connection, "balances_since", scope, since, until, unit)
                rows = [row[1:] for row in rows]
            else:
                rows = self._all(connection, "balance", scope, window, unit)
        return commits.added(
            Balance(settled=settled, in_doubt=in_doubt, held=held)
            for settled, in_doubt, held in rows
        )

    def holders(self, scope: str) -> list[str]:
        """Return the ids of the calls in flight that hold something of a scope."""
        with self._reading() as connection:
            return [call_id for (call_id,) in self._all(connection, "holders", scope)]

    def advance(self, advances: Sequence[Advance]) -> list[int]:
        """Move shared numbers on and return each; see `Journal.advance`."""
        self._check_usable()
        return self._writer.advance(advances)

    async def aadvance(self, advances: Sequence[Advance]) -> list[int]:
        """Move shared numbers on in a thread; see `Journal.aadvance`."""
        return await asyncio.to_thread(self.advance, advances)

    def numbers(self, names: Iterable[str]) -> list[int]:
        """Return shared numbers as they are; one that was never moved is 0."""
        with self._reading() as connection:
            rows = [self._all(connection, "number", name) for name in names]
        return [found[0][0] if found else 0 for found in rows]

    def rollup(self) -> list[Posting]:
        """Return the hourly cost roll-up, oldest hour first."""
        with self._reading() as connection:
            rows = self._all(connection, "rollup")
        return [Posting(**dict(zip(_POSTING, row, strict=True))) for row in rows]

    # ── blobs ──────────────────────────────────────────────────────────────────────────────────

    def put_blob(self, data: bytes) -> str:
        """Store `data` once and return its hex SHA-256."""
        digest = sha256(data).digest()
        with self._reading() as connection:
            stored = self._all(connection, "has_blob", digest)
        if not stored:
            self._writer.insert_blob(digest, data)
        return digest.hex()

    def blob(self, digest: str) -> bytes | None:
        """Return what `put_blob` stored under `digest`, `None` when there is nothing."""
        key = commits.digest_of(digest)
        if key is None:
            return None
        with self._reading() as connection:
            rows = self._all(connection, "blob", key)
        return rows[0][0] if rows else None

    # ── opening and closing ────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Write what was accepted, let go of every run, and copy the log into the file."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._group.close()
        self._checkpointer.close()
        self._writer.close()
        while self._readers:
            self._readers.pop().close()
        with self._watching:
            if self._watcher is not None:
                self._watcher.close()
        self._locks.close(self)

    def _open(self, busy_timeout_s: float) -> apsw.Connection:
        try:
            recognise(self._path, vfs=self._vfs)
            self._locks = LockFile.open(self._path.with_name(self._path.name + "-lock"))
        except (OSError, apsw.Error) as error:
            raise self._translated(error) from error
        try:
            # One process at a time, so that several may open a new store at once.
            with self._locks.turn(time.monotonic() + busy_timeout_s):
                return prepare(self._path, vfs=self._vfs, synchronous=self._synchronous)
        except (OSError, apsw.Error) as error:
            self._locks.close(self)
            raise self._translated(error) from error
        except BaseException:
            self._locks.close(self)
            raise

    def _translated(self, error: OSError | apsw.Error) -> StoreError:
        if isinstance(error, TimeoutError):
            return StoreError(f"{self._path}: another process is opening it and does not finish")
        if isinstance(error, OSError):
            return unopened(error, self._path)
        return failed(error, self._path)

    def _connect(self) -> apsw.Connection:
        return connect(self._path, vfs=self._vfs, synchronous=self._synchronous)

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        """Lend a connection that sees one state of the store."""
        self._check_usable()
        connection = self._reader()
        try:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")
        except apsw.Error as error:
            # Whatever state it is in, nobody gets it again.
            connection.close(force=True)
            raise failed(error, self._path) from error
        except OutlastError:
            self._readers.append(connection)
            raise
        self._readers.append(connection)

    def _reader(self) -> apsw.Connection:
        try:
            return self._readers.pop()
        except IndexError:
            pass
        try:
            return self._connect()
        except apsw.Error as error:
            raise failed(error, self._path) from error

    def _check_usable(self) -> None:
        if self._closed:
            raise self._is_closed()
        if os.getpid() != self._pid:
            raise StoreError(
                f"{self._url} was opened by process {self._pid} and cannot be used in process "
                f"{os.getpid()}, which was forked from it; open the store after the fork"
            )

    def _is_closed(self) -> StoreError:
        return StoreError(f"{self._url} is closed; open it again with open_store")

    def _all(self, connection: apsw.Connection, query: str, *values: object) -> list[_Row]:
        return connection.execute(self._sql[query], values).fetchall()

    def _number(self, connection: apsw.Connection, stream: str) -> int | None:
        rows = self._all(connection, "stream_head", stream)
        return rows[0][0] if rows else None

    def _check_version(self, connection: apsw.Connection, stream: str, number: int) -> None:
        if number in self._readable:
            return
        rows = self._all(connection, "first_event", number << BITS | 1)
        for kind, meta in rows:
            commits.check_version(stream, kind, meta)
            if len(self._readable) >= _MOST_READABLE:
                self._readable.clear()
            self._readable.add(number)


def _is_zombie(pid: int) -> bool:
    """Return whether a process is dead and nobody has waited for it; where that can be told."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return told.rpartition(")")[2].split()[:1] == ["Z"]


def _records(stream: str, rows: list[_Row], *, after: int) -> list[Record]:
    if not commits.consecutive([row[0] for row in rows], after=after):
        missing = _first_missing([row[0] for row in rows], after=after)
        raise JournalDamaged(stream, seq=missing, why="the record is missing")
    return [
        Record(stream, seq, position, at, epoch, commits.open_body(stream, seq, body))
        for seq, position, at, epoch, body in rows
    ]


def _store_records(rows: list[_Row], *, after: int) -> list[Record]:
    records: list[Record] = []
    for position, stream, seq, at, epoch, body in rows:
        after += 1
        if position != after:
            raise JournalDamaged(stream, seq=seq, why=f"position {after}, before it, is missing")
        if at is None:
            raise JournalDamaged(stream, seq=seq, why="the record is missing")
        event = commits.open_body(stream, seq, body)
        records.append(Record(stream, seq, position, at, epoch, event))
    return records


def _ids(number: int, after: int) -> tuple[int, int]:
    """Return the bounds, both exclusive, of the ids of a stream's events above `after`."""
    return number << BITS | after, number + 1 << BITS


def _check_end(stream: str, rows: list[_Row], *, after: int, next_seq: int) -> None:
    """Refuse a stream that ends before the run's row says it does."""
    if after < next_seq - 1 != after + len(rows):
        missing = _first_missing([row[0] for row in rows], after=after)
        raise JournalDamaged(stream, seq=missing, why="the record is missing")


def _first_missing(seqs: list[int], *, after: int) -> int:
    for expected, seq in enumerate(seqs, after + 1):
        if seq != expected:
            return expected
    return after + len(seqs) + 1


def _run_row(values: _Row) -> RunRow:
    row = dict(zip(RunRow.__struct_fields__, values, strict=True))
    row["degraded"] = bool(row["degraded"])
    return RunRow(**row)
