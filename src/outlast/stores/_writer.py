"""The one connection of a process that writes, and what it remembers between transactions."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, ParamSpec, TypeAlias, TypeVar

import apsw
import msgspec
from msgspec.structs import astuple

from outlast.errors import OutlastError, StoreError
from outlast.journal import GENESIS, Advance, Balance, Commit, Record, RunRow
from outlast.stores import _commits as commits
from outlast.stores._connect import failed
from outlast.stores._locks import LockFile, pause

BITS: Final = 24
"""An event's id is its stream's number, shifted by this, and its seq."""

_MOST_HEADS: Final = 10_000
"""Streams, accounts and calls remembered between transactions; beyond that all are read anew."""

_LOOK_S: Final = 1.0
"""How often the writer looks whether its file is still the one that has its name."""

P = ParamSpec("P")
Result = TypeVar("Result")
Records: TypeAlias = tuple[Record, ...]
Item: TypeAlias = tuple[Commit, list[commits.Entry]]
Execute: TypeAlias = Callable[[str, Iterable[commits.Row]], object]


class Writer:
    """Writes groups of commits, one transaction each.

    Where every stream is, is remembered: reading it anew for each append would cost as much as the
    append.  SQLite says at the start of each transaction whether anybody else has written since the
    last one, and then everything is forgotten.

    Attributes:
        lock: held around every use of the connection.

    """

    def __init__(  # noqa: PLR0913  (all but one keyword-only)
        self,
        connection: apsw.Connection,
        *,
        locks: LockFile,
        sql: MappingProxyType[str, str],
        path: Path,
        url: str,
        busy_timeout_s: float,
    ) -> None:
        self.lock = threading.Lock()
        self._connection = connection
        self._execute = connection.cursor().execute
        self._executemany = connection.cursor().executemany
        self._locks = locks
        self._sql = sql
        self._path = path
        self._url = url
        self._busy_timeout_s = busy_timeout_s
        self._heads: dict[str, commits.Head | None] = {}
        self._accounts: dict[commits.Account, Balance] = {}
        self._held: dict[str, commits.Amounts] = {}
        """What calls of this process hold, as far as it is in the ledger."""
        self._numbers: dict[str, int] = {}
        self._position = 0
        self._last_number = 0
        self._data_version = -1
        self._file = _file_at(path)
        self._look_at = time.monotonic()
        # Waiting is done here, where it is fair, not in SQLite.
        connection.set_busy_timeout(0)

    def write(self, group: Sequence[Item]) -> list[Records | Exception]:
        """Write what may be written of `group` in one transaction, and return what came of each.

        A refusal concerns one commit.  Any other trouble undoes the whole group, whose members are
        then written one by one, so that each gets its own answer.
        """
        try:
            return self._transact(self._write, group)
        except Exception as error:  # noqa: BLE001  (also a value that SQLite cannot take)
            if len(group) == 1 or isinstance(error.__cause__, TimeoutError):
                return [error] * len(group)
        return [outcome for item in group for outcome in self.write([item])]

    def raise_fence(self, stream: str, *, holder: int, worker: str = "") -> int:
        """Make process `holder` the driver of a stream that exists, and return its epoch.

        A `worker` has its lease from then on; without one nobody has.
        """
        return self._transact(self._raise_fence, stream, holder, worker)

    def insert_blob(self, digest: bytes, data: bytes) -> None:
        """Store a blob, unless it is there."""
        self._transact(self._execute, self._sql["insert_blob"], (digest, data))

    def beat(self, worker: str, numbers: Sequence[int]) -> None:
        """Renew the leases of `worker` of the streams of these numbers, and drop its others."""
        self._transact(self._beat, worker, numbers)

    def advance(self, advances: Sequence[Advance]) -> list[int]:
        """Move shared numbers on, and return each."""
        return self._transact(self._advance, advances)

    def close(self) -> None:
        """Close the connection."""
        with self.lock:
            self._connection.close()

    # ── the transaction ────────────────────────────────────────────────────────────────────────

    def _transact(self, work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Do all of `work`, or nothing.

        Raises:
            StoreError: SQLite cannot, or others have been writing all the time.

        """
        with self.lock:
            try:
                self._begin()
                result = work(*args, **kwargs)
                self._execute("COMMIT")
            except apsw.Error as error:
                self._undo()
                errno = self._connection.system_errno
                raise failed(error, self._path, system_errno=errno) from error
            except BaseException:
                self._undo()
                raise
            self._data_version = self._connection.data_version()
        return result

    def _begin(self) -> None:
        if time.monotonic() >= self._look_at:
            self._look()
        if self._locks.someone_waits() or not self._try_begin():
            self._queue_up()
        version = self._connection.data_version()
        remembered = len(self._heads) + len(self._accounts) + len(self._held) + len(self._numbers)
        if version != self._data_version or remembered > _MOST_HEADS:
            self._heads.clear()
            self._accounts.clear()
            self._held.clear()
            self._numbers.clear()
            ((self._position,),) = self._rows("last_position")
            ((self._last_number,),) = self._rows("last_stream")
            self._data_version = version

    def _look(self) -> None:
        """Refuse to write into a file that nobody will find again.

        Raises:
            StoreError: the file was deleted, or another has its name now.

        """
        file = _file_at(self._path)
        if file != self._file:
            what = "deleted" if file is None else "replaced by another file"
            raise StoreError(
                f"{self._path} was {what} while it was open, so nothing more is written: it would "
                "be lost. End every process that has it open, put the right file in its place, "
                "such as a backup, and start them again"
            )
        # Only after a look that found it: once it is gone, no append may slip through.
        self._look_at = time.monotonic() + _LOOK_S

    def _queue_up(self) -> None:
        deadline = time.monotonic() + self._busy_timeout_s
        try:
            with self._locks.turn(deadline):
                while not self._try_begin():
                    pause(deadline, shortest_s=0.0001, longest_s=0.0004)
        except TimeoutError as error:
            raise StoreError(
                f"{self._path}: another process has been writing for {self._busy_timeout_s:g} s "
                "without an end; look for one that is stopped or hangs"
            ) from error

    def _try_begin(self) -> bool:
        try:
            self._execute("BEGIN IMMEDIATE")
        except (apsw.BusyError, apsw.ProtocolError):
            return False
        return True

    def _undo(self) -> None:
        # What is remembered may be of the transaction that is undone.
        self._data_version = -1
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def _head(self, stream: str) -> commits.Head | None:
        """Return where a stream is, inside of a transaction; `None` when there is no such."""
        # That there is none is remembered, too: every call looks at streams that few stores have.
        if stream not in self._heads:
            self._heads[stream] = self._read_head(stream)
        return self._heads[stream]

    def _rows(self, query: str, *values: object) -> list[commits.Row]:
        return self._execute(self._sql[query], values).fetchall()

    def _read_head(self, stream: str) -> commits.Head | None:
        for number, fence in self._rows("stream_head", stream):
            last = self._rows("last_event", number << BITS, number + 1 << BITS)
            seq, digest = last[0] if last else (0, GENESIS)
            return commits.Head(number=number, next_seq=seq + 1, last_hash=digest, fence=fence)
        return None

    # ── one group ──────────────────────────────────────────────────────────────────────────────

    def _write(self, group: Sequence[Item]) -> list[Records | Exception]:
        batch = _Batch()
        outcomes: list[Records | Exception] = []
        for commit, entries in group:
            outcomes.append(self._add(batch, commit, entries))
        if batch.events:
            batch.write(self._executemany, self._sql)
        if batch.ledger is not None:
            # What is undone with the transaction is forgotten with all that is remembered.
            self._numbers |= batch.ledger.numbers
            self._accounts |= batch.ledger.accounts
            for call_id, amounts in batch.ledger.holds.items():
                if amounts:
                    self._held[call_id] = amounts
                else:
                    self._held.pop(call_id, None)
        return outcomes

    def _add(
        self, batch: _Batch, commit: Commit, entries: list[commits.Entry]
    ) -> Records | Exception:
        """Add a commit to the batch, unless it is refused."""
        try:
            head = self._head(commit.stream)
            commits.check_place(commit, head, store=self._url)
            commits.check_seen(commit, self._head)
            if commit.holds or commit.settlements or commit.advances:
                if batch.ledger is None:
                    batch.ledger = self._ledger()
                batch.ledger.apply(commit)
        except OutlastError as refusal:
            return refusal
        if head is None:
            self._last_number += 1
            head = self._heads[commit.stream] = commits.new_head(self._last_number)
            batch.streams.append((head.number, commit.stream))
        records, events, bodies = commits.chain(commit, entries, head, self._position + 1)
        self._position += len(records)
        batch.events += events
        batch.bodies += bodies
        batch.add_row(commit, head)
        batch.postings += map(astuple, commit.postings)
        return tuple(records)

    def _ledger(self) -> commits.Ledger:
        return commits.Ledger(
            account=self._account, holds=self._holds, since=self._since, number=self._number
        )

    def _advance(self, advances: Sequence[Advance]) -> list[int]:
        ledger = self._ledger()
        values = [ledger.advance(one) for one in advances]
        self._executemany(self._sql["set_number"], ledger.numbers.items())
        self._numbers |= ledger.numbers
        return values

    def _raise_fence(self, stream: str, holder: int, worker: str) -> int:
        head = self._head(stream)
        assert head is not None, f"{stream} was there, and streams are never deleted"  # noqa: S101
        head.fence += 1
        self._execute(self._sql["raise_fence"], (head.fence, holder, head.number))
        self._execute(self._sql["raise_run_fence"], (head.fence, head.number))
        query, values = ("lease", (head.number, worker)) if worker else ("unlease", (head.number,))
        self._execute(self._sql[query], values)
        return head.fence

    def _beat(self, worker: str, numbers: Sequence[int]) -> None:
        self._execute(self._sql["drop_leases"], (worker, msgspec.json.encode(numbers).decode()))
        if numbers:
            self._execute(self._sql["beat"], (worker,))

    def _number(self, name: str) -> int:
        found = self._numbers.get(name)
        if found is None:
            rows = self._rows("number", name)
            found = self._numbers[name] = rows[0][0] if rows else 0
        return found

    def _account(self, key: commits.Account) -> Balance:
        found = self._accounts.get(key)
        if found is None:
            rows = self._rows("balance", *key)
            settled, in_doubt, held = rows[0] if rows else (0, 0, 0)
            found = self._accounts[key] = Balance(settled=settled, in_doubt=in_doubt, held=held)
        return found

    def _since(self, key: commits.Account) -> dict[str, Balance]:
        scope, first, unit = key
        rows = self._rows("balances_since", scope, first, commits.windows_until(first), unit)
        return {
            window: Balance(settled=settled, in_doubt=in_doubt, held=held)
            for window, settled, in_doubt, held in rows
        }

    def _holds(self, call_id: str) -> commits.Amounts:
        found = self._held.get(call_id)
        if found is None:
            found = {
                (unit, scope, window): commits.Held(amount, bool(in_doubt))
                for unit, scope, window, amount, in_doubt in self._rows("holds", call_id)
            }
        return found


def _file_at(path: Path) -> tuple[int, int] | None:
    """Return which file has this path, `None` when none has."""
    try:
        stat = os.stat(path)  # noqa: PTH116  (half the time of Path.stat)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino


class _Batch:
    """The rows that a group of commits writes, by table.

    Statements run once for the whole group: every call into SQLite gives other threads the chance
    to take the interpreter, and waiting to get it back costs more than the statement.
    """

    def __init__(self) -> None:
        self.ledger: commits.Ledger | None = None
        self.streams: list[commits.Row] = []
        self.events: list[commits.Row] = []
        self.bodies: list[commits.Row] = []
        self.postings: list[commits.Row] = []
        self._whole: dict[int, commits.Row] = {}
        self._advanced: dict[int, commits.Row] = {}
        self._touched: dict[int, commits.Row] = {}

    def add_row(self, commit: Commit, head: commits.Head) -> None:
        """Add what changes of the run's row, as it is after `commit`.

        Later commits of the group overwrite earlier ones: each statement runs for the last row, in
        the order of `write`.
        """
        row, number = commit.row, head.number
        if row is None:
            self._touched[number] = (head.next_seq, commit.at, number)
            return
        self._touched.pop(number, None)
        cold = _cold(row)
        if cold != head.cold or number in self._whole:
            head.cold = cold
            self._whole[number] = _whole(row, head)
        else:
            self._advanced[number] = (
                head.next_seq,
                row.updated_at,
                row.cost_nano,
                row.in_doubt_nano,
                row.tokens,
                row.turns,
                number,
            )

    def write(self, executemany: Execute, sql: Mapping[str, str]) -> None:
        """Run the queries that are needed, each once for all of its rows."""
        if self.streams:
            executemany(sql["insert_stream"], self.streams)
        executemany(sql["insert_event"], self.events)
        executemany(sql["insert_body"], self.bodies)
        if self._advanced:
            executemany(sql["advance_run"], self._advanced.values())
        if self._whole:
            executemany(sql["upsert_run"], self._whole.values())
        if self._touched:
            executemany(sql["touch_run"], self._touched.values())
        if self.postings:
            executemany(sql["post"], self.postings)
        if self.ledger is not None:
            self._write_ledger(self.ledger, executemany, sql)

    def _write_ledger(
        self, ledger: commits.Ledger, executemany: Execute, sql: Mapping[str, str]
    ) -> None:
        if ledger.numbers:
            executemany(sql["set_number"], ledger.numbers.items())
        accounts, holds = ledger.accounts.items(), ledger.holds.items()
        if accounts:
            executemany(
                sql["set_balance"], [(*key, b.settled, b.in_doubt, b.held) for key, b in accounts]
            )
        if gone := [(call_id,) for call_id in ledger.stored if call_id in ledger.holds]:
            executemany(sql["delete_holds"], gone)
        rows = [
            (call_id, *place, held.amount, held.in_doubt)
            for call_id, amounts in holds
            for place, held in amounts.items()
        ]
        if rows:
            executemany(sql["insert_hold"], rows)


def _cold(row: RunRow) -> commits.Row:
    """Return what an append seldom changes: the columns that `advance_run` leaves alone."""
    return (
        row.status,
        row.phase,
        row.agent,
        row.version,
        row.created_at,
        row.wake_at,
        row.degraded,
        row.tenant,
        row.parent,
        row.root,
        row.rejections,
        row.why,
        row.answer,
    )


def _whole(row: RunRow, head: commits.Head) -> commits.Row:
    return (
        head.number,
        row.id,
        head.next_seq,
        head.fence,
        row.updated_at,
        row.cost_nano,
        row.in_doubt_nano,
        row.tokens,
        row.turns,
        *_cold(row),
    )
