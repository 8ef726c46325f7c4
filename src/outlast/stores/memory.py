"""A journal in the memory of one process, for tests and for trying things out.

It keeps encoded bodies and the chain as a store on disk does, so what is read has been through the
same encoding.  It ends with the process.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from outlast.errors import Busy, RunNotFound, StoreError
from outlast.journal import (
    COUNTED,
    PARKED,
    Advance,
    Balance,
    Commit,
    Lease,
    Posting,
    Proof,
    Record,
    RunRow,
)
from outlast.stores import _commits as commits


class MemoryJournal:
    """A `Journal` that keeps everything in memory.  Safe to use from several threads."""

    def __init__(self, url: str = "memory://") -> None:
        self._url = url
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._closed = False
        self._heads: dict[str, commits.Head] = {}
        self._streams: dict[str, list[Proof]] = {}
        self._all: list[Proof] = []
        self._rows: dict[str, RunRow] = {}
        self._accounts: dict[commits.Account, Balance] = {}
        self._holds: dict[str, commits.Amounts] = {}
        self._costs: dict[tuple[int, str, str, str, str, str], Posting] = {}
        self._numbers: dict[str, int] = {}
        self._blobs: dict[str, bytes] = {}
        self._claimed: set[str] = set()
        self._leases: dict[str, Lease] = {}

    @property
    def url(self) -> str:
        """The store as a user names it: `memory://`."""
        return self._url

    # ── appending ──────────────────────────────────────────────────────────────────────────────

    def append(self, commit: Commit) -> tuple[Record, ...]:
        """Append and return the records; see `Journal.append`."""
        commits.check_stream_name(commit.stream)
        commits.check_shape(commit)
        entries = commits.seal(commit.events)
        with self._open():
            return self._append(commit, entries)

    async def aappend(self, commit: Commit) -> tuple[Record, ...]:
        """Append at once: memory never blocks."""
        return self.append(commit)

    def _append(self, commit: Commit, entries: list[commits.Entry]) -> tuple[Record, ...]:
        head = self._heads.get(commit.stream)
        commits.check_place(commit, head, store=self._url)
        commits.check_seen(commit, self._heads.get)
        ledger = self._ledger()
        ledger.apply(commit)
        # Nothing below can fail.
        if head is None:
            head = self._heads[commit.stream] = commits.new_head(len(self._heads) + 1)
            self._streams[commit.stream] = []
        records, events, bodies = commits.chain(commit, entries, head, len(self._all) + 1)
        for event, body in zip(events, bodies, strict=True):
            proof = Proof(*event[1:], *body[3:])
            self._streams[commit.stream].append(proof)
            self._all.append(proof)
        self._accounts |= ledger.accounts
        self._holds |= ledger.holds
        self._numbers |= ledger.numbers
        self._project(commit, head)
        return tuple(records)

    def _ledger(self) -> commits.Ledger:
        return commits.Ledger(
            account=lambda key: self._accounts.get(key, Balance()),
            holds=lambda key: self._holds.get(key, {}),
            since=self._since,
            number=lambda name: self._numbers.get(name, 0),
        )

    def _project(self, commit: Commit, head: commits.Head) -> None:
        row = commit.row or self._rows.get(commit.stream)
        if row is not None:
            self._rows[commit.stream] = msgspec.structs.replace(
                row,
                next_seq=head.next_seq,
                fence=head.fence,
                updated_at=commit.row.updated_at if commit.row else commit.at,
            )
        for posting in commit.postings:
            key = posting.key
            old = self._costs.get(key)
            self._costs[key] = posting if old is None else _sum(old, posting)

    # ── driving ────────────────────────────────────────────────────────────────────────────────

    def claim(self, stream: str, *, force: bool = False, worker: str = "") -> int:
        """Become the stream's driver; see `Journal.claim`."""
        with self._open():
            head = self._heads.get(stream)
            if head is None:
                raise RunNotFound(stream.removeprefix("run:"), store=self._url)
            self._check_version(stream)
            if stream in self._claimed and not force:
                raise Busy(stream, holder=f"process {os.getpid()} on this machine")
            self._claimed.add(stream)
            old = self._leases.pop(stream, None)
            if worker:
                self._leases[stream] = Lease(stream, worker, old.beats + 1 if old else 1)
            head.fence += 1
            if (row := self._rows.get(stream)) is not None:
                self._rows[stream] = msgspec.structs.replace(row, fence=head.fence)
            return head.fence

    def abandoned(self, stream: str) -> bool:
        """Return whether nobody drives it; see `Journal.abandoned`."""
        return stream not in self._claimed

    def release(self, stream: str) -> None:
        """Let go of what `claim` took."""
        self._claimed.discard(stream)

    def unheld(self, streams: Iterable[str]) -> list[str]:
        """Return which of these streams nobody drives; see `Journal.unheld`."""
        with self._open():
            return [stream for stream in streams if stream not in self._claimed]

    def beat(self, worker: str, streams: Iterable[str]) -> None:
        """Renew the leases of `worker`; see `Journal.beat`."""
        with self._open():
            kept = set(streams)
            for stream, lease in list(self._leases.items()):
                if lease.worker != worker:
                    continue
                del self._leases[stream]
                if stream in kept:
                    self._leases[stream] = Lease(stream, worker, lease.beats + 1)

    def leases(self) -> list[Lease]:
        """Return every lease, oldest stream first."""
        with self._open():
            return sorted(self._leases.values(), key=lambda lease: self._heads[lease.stream].number)

    # ── reading ────────────────────────────────────────────────────────────────────────────────

    def read(self, stream: str, *, after: int = 0, limit: int | None = None) -> list[Record]:
        """Return the records of `stream` whose seq is above `after`, in order."""
        with self._open():
            self._check_version(stream)
            proofs = self._streams.get(stream, [])
            return [_record(p) for p in proofs[after : _end(after, limit)]]

    def read_all(self, *, after: int = 0, limit: int = 1000) -> list[Record]:
        """Return records of every stream whose position is above `after`, in commit order."""
        with self._open():
            proofs = self._all[after : after + limit]
            for stream in {p.stream for p in proofs}:
                self._check_version(stream)
            return [_record(p) for p in proofs]

    def proofs(self, stream: str, *, after: int = 0) -> Iterator[Proof]:
        """Yield what the chain holds about the records of `stream`."""
        with self._open():
            return iter(self._streams.get(stream, [])[after:])

    def run(self, run_id: str) -> RunRow | None:
        """Return the row of the run, `None` when there is no such run."""
        with self._open():
            return self._rows.get("run:" + run_id)

    def runs(
        self,
        *,
        status: str | None = None,
        agent: str | None = None,
        limit: int | None = None,
    ) -> list[RunRow]:
        """Return the rows of the runs, newest first."""
        with self._open():
            rows = [
                row
                for row in reversed(self._rows.values())
                if status in {None, row.status} and agent in {None, row.agent}
            ]
        return rows[:limit]

    def statuses(self, *, agent: str | None = None) -> dict[str, int]:
        """Return how many runs are in each status."""
        with self._open():
            rows = self._rows.values()
            return dict(Counter(row.status for row in rows if agent in {None, row.agent}))

    def updated(self, since: int, *, agent: str | None = None) -> list[str]:
        """Return the ids of the runs that were written to since a moment, newest run first."""
        return [row.id for row in self.runs(agent=agent) if row.updated_at >= since]

    def streams(self, prefix: str) -> list[str]:
        """Return the names of the streams that begin with `prefix`, in order of their bytes."""
        with self._open():
            return sorted((one for one in self._heads if one.startswith(prefix)), key=str.encode)

    def below(self, run_id: str) -> list[RunRow]:
        """Return the rows of all runs below a run, parents before their children."""
        with self._open():
            found: list[RunRow] = []
            parents = {run_id}
            while parents - {""}:
                children = [row for row in self._rows.values() if row.parent in parents]
                found += children
                parents = {row.id for row in children}
            return found

    def grown(self, known: Mapping[str, int]) -> list[str]:
        """Return which of these runs have records beyond the seq that is known of each."""
        with self._open():
            return [
                run_id
                for run_id, seq in known.items()
                if (row := self._rows.get("run:" + run_id)) is not None and row.next_seq - 1 > seq
            ]

    def changes(self) -> int:
        """Return a number that is another one once anybody has written since."""
        with self._open():
            return len(self._all)

    def due(self, at: int, *, limit: int = 100) -> list[RunRow]:
        """Return the rows of root runs that wait to be driven; see `Journal.due`."""
        with self._open():
            rows = self._oldest_first()
        waiting = {row.root for row in rows if row.is_due(at)}
        taken: defaultdict[str, int] = defaultdict(int)
        found = []
        for row in rows:
            due = row.status == "queued" or (row.status in PARKED and row.id in waiting)
            if row.root == row.id and due and taken[row.tenant] < limit:
                taken[row.tenant] += 1
                found.append(row)
        return found

    def next_wake(self, after: int) -> int | None:
        """Return the earliest `wake_at` above `after` of any `parked` or `waiting` run."""
        with self._open():
            times = (row.wake_at for row in self._rows.values() if row.status in PARKED)
            return min((at for at in times if at is not None and at > after), default=None)

    def running(self) -> list[RunRow]:
        """Return the rows of root runs that are `running`, oldest first."""
        with self._open():
            rows = self._oldest_first()
        return [row for row in rows if row.status == "running" and row.root == row.id]

    def _oldest_first(self) -> list[RunRow]:
        streams = sorted(self._rows, key=lambda stream: self._heads[stream].number)
        return [self._rows[stream] for stream in streams]

    def balance(
        self, scope: str, *, window: str = "total", unit: str = "nano", since: str = ""
    ) -> Balance:
        """Return what the ledger holds about a scope in a window, or in all from `since` on."""
        with self._open():
            if since:
                return commits.added(self._since((scope, since, unit)).values())
            return self._accounts.get((scope, window, unit), Balance())

    def _since(self, key: commits.Account) -> dict[str, Balance]:
        scope, first, unit = key
        return {
            window: balance
            for (owner, window, what), balance in self._accounts.items()
            if (owner, what) == (scope, unit) and first <= window < commits.windows_until(first)
        }

    def holders(self, scope: str) -> list[str]:
        """Return the ids of the calls in flight that hold something of a scope."""
        with self._open():
            return sorted(
                call_id
                for call_id, amounts in self._holds.items()
                if any(place[1] == scope and not held.in_doubt for place, held in amounts.items())
            )

    def advance(self, advances: Sequence[Advance]) -> list[int]:
        """Move shared numbers on and return each; see `Journal.advance`."""
        with self._open():
            ledger = self._ledger()
            values = [ledger.advance(one) for one in advances]
            self._numbers |= ledger.numbers
            return values

    async def aadvance(self, advances: Sequence[Advance]) -> list[int]:
        """Move shared numbers on at once: memory never blocks."""
        return self.advance(advances)

    def numbers(self, names: Iterable[str]) -> list[int]:
        """Return shared numbers as they are; one that was never moved is 0."""
        with self._open():
            return [self._numbers.get(name, 0) for name in names]

    def rollup(self) -> list[Posting]:
        """Return the hourly cost roll-up, oldest hour first."""
        with self._open():
            return [self._costs[key] for key in sorted(self._costs)]

    # ── blobs, and the end ─────────────────────────────────────────────────────────────────────

    def put_blob(self, data: bytes) -> str:
        """Store `data` once and return its hex SHA-256."""
        digest = sha256(data).hexdigest()
        with self._open():
            self._blobs.setdefault(digest, bytes(data))
        return digest

    def blob(self, digest: str) -> bytes | None:
        """Return what `put_blob` stored under `digest`, `None` when there is nothing."""
        with self._open():
            return self._blobs.get(digest)

    def close(self) -> None:
        """Forget everything."""
        self._closed = True

    def _open(self) -> threading.RLock:
        if self._closed:
            raise StoreError(f"{self._url} is closed, and what it held is gone")
        if self._pid != os.getpid():
            raise StoreError(
                f"{self._url} belongs to process {self._pid}; a forked process has only a copy of "
                "it, which nobody else would see. Use a sqlite:/// store, opened after the fork."
            )
        return self._lock

    def _check_version(self, stream: str) -> None:
        if proofs := self._streams.get(stream):
            commits.check_version(stream, proofs[0].type, proofs[0].meta)


def _record(proof: Proof) -> Record:
    event = commits.open_body(proof.stream, proof.seq, proof.body)
    return Record(proof.stream, proof.seq, proof.position, proof.at, proof.epoch, event)


def _end(after: int, limit: int | None) -> int | None:
    return None if limit is None else after + limit


def _sum(old: Posting, new: Posting) -> Posting:
    amounts: dict[str, Any] = {name: getattr(old, name) + getattr(new, name) for name in COUNTED}
    return msgspec.structs.replace(old, **amounts)
