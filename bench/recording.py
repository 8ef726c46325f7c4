"""What raw SQLite has to do: the statements that a real run of ours sent, with their values.

They are recorded by SQLite's own tracing while a run is driven, and replayed transaction by
transaction, so both sides write the same rows in the same commits, and the raw side computes
nothing: no JSON, no hash, no decision.
"""

from __future__ import annotations

import inspect
import pickle
import time
from pathlib import Path
from typing import Any

import apsw

from outlast.stores.sqlite import SqliteJournal

Statement = tuple[str, list[tuple[Any, ...]]]
Transaction = list[Statement]

CHECKPOINT_BYTES = inspect.signature(SqliteJournal).parameters["checkpoint_bytes"].default
"""How long the log grows before it is copied into the file: as long as ours."""


class Recorder:
    """Keeps what the connections of this process write.

    Attributes:
        transactions: what was written, in the order of the commits.
        marks: how many transactions there were at moments that somebody marked.

    """

    def __init__(self) -> None:
        self.transactions: list[Transaction] = []
        self.marks: list[int] = []
        self._open: dict[int, Transaction] = {}
        apsw.connection_hooks.append(self._attach)

    def mark(self, *_: object) -> None:
        """Remember how many transactions there are now."""
        self.marks.append(len(self.transactions))

    def save(self, path: Path) -> None:
        """Write it all to a file."""
        path.write_bytes(pickle.dumps((self.transactions, self.marks)))

    def _attach(self, connection: apsw.Connection) -> None:
        connection.exec_trace = self._trace

    def _trace(self, cursor: apsw.Cursor, sql: str, values: Any) -> bool:
        at, verb = id(cursor.connection), sql.split(None, 1)[0]
        if sql == "BEGIN IMMEDIATE":
            self._open[at] = []
        elif verb == "COMMIT" and at in self._open:
            self.transactions.append(self._open.pop(at))
        elif verb in ("INSERT", "UPDATE", "DELETE"):
            _add(self._open[at], sql, tuple(values))
        return True


def _add(transaction: Transaction, sql: str, values: tuple[Any, ...]) -> None:
    if transaction and transaction[-1][0] == sql:
        transaction[-1][1].append(values)
    else:
        transaction.append((sql, [values]))


def load(path: Path) -> tuple[list[Transaction], list[int]]:
    """Return the transactions and the marks of a recording."""
    transactions, marks = pickle.loads(path.read_bytes())  # noqa: S301  (our own file)
    return transactions, marks


def joined(transactions: list[Transaction], commits: int) -> list[Transaction]:
    """Return the same statements in fewer transactions: so many become one."""
    merged = []
    for first in range(0, len(transactions), commits):
        by_sql: dict[str, list[tuple[Any, ...]]] = {}
        for transaction in transactions[first : first + commits]:
            for sql, rows in transaction:
                by_sql.setdefault(sql, []).extend(rows)
        merged.append(list(by_sql.items()))
    return merged


class Replay:
    """A connection to an empty store, with the pragmas of ours, that replays transactions."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.pragma("synchronous", synchronous)
        pages = CHECKPOINT_BYTES // self._connection.pragma("page_size")
        self._connection.pragma("wal_autocheckpoint", pages)
        cursor = self._connection.cursor()
        self._execute, self._executemany = cursor.execute, cursor.executemany

    def play(self, transactions: list[Transaction]) -> tuple[int, int]:
        """Write them, and return the nanoseconds of CPU and of wall time that it took."""
        execute, executemany = self._execute, self._executemany
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        for transaction in transactions:
            execute("BEGIN IMMEDIATE")
            for sql, rows in transaction:
                if len(rows) == 1:
                    execute(sql, rows[0])
                else:
                    executemany(sql, rows)
            execute("COMMIT")
        return time.process_time_ns() - cpu, time.perf_counter_ns() - wall
