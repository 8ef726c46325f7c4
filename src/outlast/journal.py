"""What a journal is: streams of records that are only ever appended to.

A run is one stream, `run:ID`; the store has its own, whose names begin with `~`.  Every append
carries the sequence number it expects and the driver's epoch, so two drivers can never both
succeed; it is one transaction with the run's row and the ledger, so no projection is ever behind.

Every record carries the hash of the one before it.  `record_hash` is the formula; a store only
keeps its results.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final, Protocol

import msgspec

from outlast.events import AnyEvent

GENESIS: Final = bytes(32)
"""What the first record of a stream has as `prev`."""

MAX_SEQ: Final = (1 << 24) - 1
"""The longest a stream can grow: 16,777,215 records."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """An event in its place.

    Attributes:
        stream: the stream's name.
        seq: its place in the stream, from 1, without gaps.
        position: its place in the whole store, from 1, in commit order.
        at: when it was appended, nanoseconds since the epoch, UTC, by the appender's clock.
        epoch: the driver's fence when it was appended; 0 for outside events and before any driver.

    """

    stream: str
    seq: int
    position: int
    at: int
    epoch: int
    event: AnyEvent


class Proof(msgspec.Struct, frozen=True, gc=False):
    """What the chain holds about one record; `body` and `salt` are `None` once erased."""

    stream: str
    seq: int
    position: int
    at: int
    epoch: int
    type: str
    meta: bytes
    commitment: bytes
    prev: bytes
    hash: bytes
    salt: bytes | None
    body: bytes | None


PARKED: Final = frozenset({"parked", "waiting"})
"""Statuses in which nothing is done until a time, or until somebody acts."""


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """The run's row: a projection of its journal, written in the same transaction as every append.

    Times are nanoseconds since the epoch; money is nano-dollars, calls in doubt included.
    """

    id: str
    agent: str
    version: str = ""
    status: str
    phase: str = ""
    answer: str | None = None
    """JSON."""
    cost_nano: int = 0
    in_doubt_nano: int = 0
    """The part of it that calls in doubt are counted at."""
    tokens: int = 0
    turns: int = 0
    created_at: int
    updated_at: int
    wake_at: int | None = None
    why: str = ""
    degraded: bool = False
    tenant: str = ""
    parent: str = ""
    root: str = ""
    rejections: int = 0
    """How many answers were checked, and not accepted."""
    next_seq: int = 1
    fence: int = 0

    def is_due(self, at: int) -> bool:
        """Return whether somebody has to drive the run at a moment, where nobody does."""
        if self.status in PARKED:
            return self.wake_at is not None and self.wake_at <= at
        return self.status == "queued"


class Hold(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A precondition: `needed` of `unit` must fit into `scope`, and is then held for `call_id`.

    `limit` is the whole amount of the scope in `window`; `None` only records.  Settled, in doubt
    and held amounts count against it.  What is `paid` is settled at once and never held; what is
    `in_doubt` is so at once, until its call is settled.
    """

    call_id: str
    scope: str
    window: str = "total"
    unit: str = "nano"
    needed: int
    limit: int | None = None
    since: str = ""
    """The first window whose amounts count, too, in the order of their names: for windows that roll
    on, and so are made of many; empty for `window` alone."""
    paid: bool = False
    in_doubt: bool = False


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Every hold of `call_id` in `unit` is replaced by `amount`, settled or in doubt.

    What is in doubt can be settled later, by another settlement of the same call.
    """

    call_id: str
    unit: str = "nano"
    amount: int
    in_doubt: bool = False


class Advance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A number that all processes share is moved on: it becomes `max(number, least) + by`.

    Numbers begin at 0 and mean nothing to the store: until when the turns of a rate limit are
    taken, or how many calls failed in a part of a minute.  They are no history, and none is kept.
    """

    name: str
    by: int = 0
    """By how much; below 0 gives back."""
    least: int = 0
    most: int | None = None
    """A precondition of a commit: the number must not be beyond it afterwards."""


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """What a scope has spent in a window, and what calls in flight hold of it."""

    settled: int = 0
    in_doubt: int = 0
    held: int = 0

    @property
    def taken(self) -> int:
        """What counts against a limit."""
        return self.settled + self.in_doubt + self.held


class Posting(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of the hourly cost roll-up; lines with the same key are added up.

    A line may take back what an earlier one said, so its amounts may be negative.
    """

    hour: int
    """Of the call: nanoseconds since the epoch, at the full hour, UTC."""
    agent: str
    version: str = ""
    tenant: str = ""
    model: str = ""
    tool: str = ""
    """The tools whose results the call brought to Claude, sorted, as in `fetch+search`."""
    calls: int = 0
    calls_in_doubt: int = 0
    calls_failed: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    settled_nano: int = 0
    in_doubt_nano: int = 0
    search_nano: int = 0
    """Of what is settled: the fees of web searches."""
    loops_nano: int = 0
    """Of what is settled: calls that asked again for what had been done, with nothing new."""
    missed_nano: int = 0
    """Of what is settled: what a prompt cost more because the cache did not answer."""
    rejected_nano: int = 0
    """Of what is settled: answers that were rejected."""
    lost_nano: int = 0
    """Of what is settled: calls that were in doubt, and turned out to be billed."""

    @property
    def key(self) -> tuple[int, str, str, str, str, str]:
        """What lines have in common that are added up."""
        return self.hour, self.agent, self.version, self.tenant, self.model, self.tool


class Lease(msgspec.Struct, frozen=True):
    """A worker's word that it drives a stream, with how often it has said so.

    It holds no time: whoever sees that `beats` stands still for long, by a monotonic clock of his
    own, may take the stream over.
    """

    stream: str
    worker: str
    beats: int


COUNTED: Final = Posting.__struct_fields__[6:]
"""The members of a posting that are added up."""


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One append: what is written, or refused, as a whole.

    Attributes:
        expected_seq: the sequence number the first event is to get; `None` for outside events,
            which go wherever the stream is.
        epoch: the driver's epoch from `claim`; `None` for outside events and for the append that
            creates a run.
        at: nanoseconds since the epoch.
        moments: when each event happened, where they are copies; by default all of them `at`.
        row: the run's row afterwards; `next_seq` and `fence` are the store's to fill in.
        seen: other streams that the commit depends on, each with the last seq of it that was
            read; 0 where it was empty.

    """

    stream: str
    events: Sequence[AnyEvent]
    at: int
    expected_seq: int | None = None
    epoch: int | None = None
    moments: Sequence[int] = ()
    row: RunRow | None = None
    seen: tuple[tuple[str, int], ...] = ()
    holds: Sequence[Hold] = ()
    settlements: Sequence[Settlement] = ()
    postings: Sequence[Posting] = ()
    advances: Sequence[Advance] = ()


class Journal(Protocol):
    """A store of streams.  Every one of them passes `outlast.testing.journal_contract`."""

    @property
    def url(self) -> str:
        """The store as a user names it, such as `sqlite:///agents.db`."""
        ...

    def append(self, commit: Commit) -> tuple[Record, ...]:
        """Append and return the records; when it returns, they survive a power loss.

        Raises:
            Conflict: the stream is not at `expected_seq`, also when 1 was, and it exists; or the
                one of those `seen` has grown.
            Fenced: `epoch` is not the stream's fence.
            Refused: a hold does not fit; nothing was written.
            TooSoon: a number would be beyond what it may be; nothing was written.
            StoreFull: no space is left; nothing was written.
            StoreError: anything else the store cannot do.

        """
        ...

    async def aappend(self, commit: Commit) -> tuple[Record, ...]:
        """Append without blocking the event loop, grouped with the appends of other runs."""
        ...

    def claim(self, stream: str, *, force: bool = False, worker: str = "") -> int:
        """Become the stream's driver: raise its fence by one and return it as this driver's epoch.

        With `worker`, it has the lease of the stream from then on; without, nobody has one.

        With `force` also from a driver that still lives, such as a frozen process; it is fenced
        at its next append.

        Raises:
            Busy: a living driver on this machine holds it.
            RunNotFound: there is no such stream.

        """
        ...

    def abandoned(self, stream: str) -> bool:
        """Return whether whoever claimed the stream last is surely gone, or has let it go.

        A driver that took it over by force may have no lock, so to find it free is not enough.
        """
        ...

    def release(self, stream: str) -> None:
        """Let go of what `claim` took; the fence stays where it is.

        It raises nothing, also when the store is closed or cannot be read any more.
        """
        ...

    def read(self, stream: str, *, after: int = 0, limit: int | None = None) -> list[Record]:
        """Return the records of `stream` whose seq is above `after`, in order.

        Raises:
            JournalTooNew: the stream was written by a newer version.
            JournalDamaged: a body cannot be decoded, is missing, or a record is missing.

        """
        ...

    def read_all(self, *, after: int = 0, limit: int = 1000) -> list[Record]:
        """Return records of every stream whose position is above `after`, in commit order."""
        ...

    def proofs(self, stream: str, *, after: int = 0) -> Iterable[Proof]:
        """Yield what the chain holds about the records of `stream`."""
        ...

    def run(self, run_id: str) -> RunRow | None:
        """Return the row of the run, `None` when there is no such run."""
        ...

    def runs(
        self,
        *,
        status: str | None = None,
        agent: str | None = None,
        limit: int | None = None,
    ) -> list[RunRow]:
        """Return the rows of the runs, newest first."""
        ...

    def statuses(self, *, agent: str | None = None) -> dict[str, int]:
        """Return how many runs are in each status, of an agent or in all; no row is read."""
        ...

    def updated(self, since: int, *, agent: str | None = None) -> list[str]:
        """Return the ids of the runs that were written to since a moment, newest run first.

        Args:
            since: the moment, nanoseconds since the epoch, UTC; it counts, too.
            agent: only runs of this agent.

        """
        ...

    def streams(self, prefix: str) -> list[str]:
        """Return the names of the streams that begin with `prefix`, in order of their bytes."""
        ...

    def below(self, run_id: str) -> list[RunRow]:
        """Return the rows of all runs below a run, parents before their children."""
        ...

    def grown(self, known: Mapping[str, int]) -> list[str]:
        """Return which of these runs have records beyond the seq that is known of each."""
        ...

    def changes(self) -> int:
        """Return a number that is another one once anybody has written since."""
        ...

    def due(self, at: int, *, limit: int = 100) -> list[RunRow]:
        """Return the rows of root runs that wait to be driven, oldest first.

        A root (`root` is its own `id`) is due when it is `queued`, or `parked` or `waiting` until
        `at` or earlier, in nanoseconds since the epoch; and while it is `parked` or `waiting` also
        when a run below it is so.  One that is running, paused, stopped or over never is.

        Args:
            at: the moment, nanoseconds since the epoch, UTC.
            limit: the most runs of each tenant, so that no backlog hides anybody.

        """
        ...

    def next_wake(self, after: int) -> int | None:
        """Return the earliest `wake_at` above `after` of any `parked` or `waiting` run."""
        ...

    def running(self) -> list[RunRow]:
        """Return the rows of root runs that are `running`, oldest first.

        Somebody drives them, or has left them when he died.
        """
        ...

    def unheld(self, streams: Iterable[str]) -> list[str]:
        """Return which of these streams no living process of this machine holds, in their order.

        What a killed driver held is free at once.  It is cheap enough to be asked ten times a
        second, and no `claim` meanwhile is refused because of it.  What this process holds, by
        whichever journal, is held; a stream that does not exist is not.
        """
        ...

    def beat(self, worker: str, streams: Iterable[str]) -> None:
        """Renew the leases of `worker` of these streams, and drop its others, in one transaction.

        Each counter is then one higher than before.  A stream of which it has no lease gets none,
        so who was frozen takes nothing from who has it by now.  `changes` may count a beat as a
        change.
        """
        ...

    def leases(self) -> list[Lease]:
        """Return every lease, oldest stream first."""
        ...

    def balance(
        self, scope: str, *, window: str = "total", unit: str = "nano", since: str = ""
    ) -> Balance:
        """Return what the ledger holds about a scope in a window, or in all from `since` on."""
        ...

    def holders(self, scope: str) -> list[str]:
        """Return the ids of the calls in flight that hold something of a scope."""
        ...

    def advance(self, advances: Sequence[Advance]) -> list[int]:
        """Move shared numbers on, one after the other, in one transaction, and return each.

        Nothing is refused: `most` counts in a commit only.
        """
        ...

    async def aadvance(self, advances: Sequence[Advance]) -> list[int]:
        """Move shared numbers on without blocking the event loop; as `advance`."""
        ...

    def numbers(self, names: Iterable[str]) -> list[int]:
        """Return shared numbers as they are; one that was never moved is 0."""
        ...

    def rollup(self) -> list[Posting]:
        """Return the hourly cost roll-up, oldest hour first."""
        ...

    def put_blob(self, data: bytes) -> str:
        """Store `data` once and return its hex SHA-256."""
        ...

    def blob(self, digest: str) -> bytes | None:
        """Return what `put_blob` stored under `digest`, `None` when there is nothing."""
        ...

    def close(self) -> None:
        """Finish what was accepted, and let go of every resource."""
        ...


def run_stream(run_id: str) -> str:
    """Return the name of a run's stream."""
    return "run:" + run_id


def commitment(*, salt: bytes, body: bytes) -> bytes:
    """Return what the chain holds instead of the body, so that the body can be erased."""
    return sha256(salt + body).digest()


_FIXED: Final = struct.Struct(">QQqQIII")


def record_hash(  # noqa: PLR0913  (a formula over the columns of a record)
    *,
    prev: bytes,
    stream: str,
    seq: int,
    position: int,
    at: int,
    epoch: int,
    type: str,  # noqa: A002  (the column's name)
    meta: bytes,
    commitment: bytes,
) -> bytes:
    """Return the hash of a record: SHA-256 over its columns, every one of a known length."""
    name, kind = stream.encode(), type.encode()
    fixed = _FIXED.pack(seq, position, at, epoch, len(name), len(kind), len(meta))
    return sha256(b"".join((prev, fixed, name, kind, meta, commitment))).digest()
