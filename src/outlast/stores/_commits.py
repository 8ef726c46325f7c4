"""What every store does with a commit before it writes any of it: seal the events, apply the rules.

The rules are here once, so that no store can be more lenient than another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Any, Final, TypeAlias

import msgspec

from outlast.errors import (
    Conflict,
    Fenced,
    InvalidInput,
    JournalDamaged,
    JournalTooNew,
    OutlastError,
    Refused,
    RunNotFound,
    StoreError,
    TooSoon,
    UsageError,
)
from outlast.events import JOURNAL_VERSION, OUTSIDE, AnyEvent, Event, RunStarted, decode, encode
from outlast.journal import (
    GENESIS,
    MAX_SEQ,
    Advance,
    Balance,
    Commit,
    Hold,
    Record,
    Settlement,
    record_hash,
    run_stream,
)

_SALT: Final = 16
_META: Final = msgspec.json.Encoder()
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of bytes it cannot decode: no JSON or another shape, no UTF-8, too deep."""


class Head:
    """Where a stream is: what the next record must follow."""

    __slots__ = ("cold", "fence", "hash", "next_seq", "number")

    def __init__(self, *, number: int, next_seq: int, last_hash: bytes, fence: int) -> None:
        self.number = number
        self.next_seq = next_seq
        self.hash = last_hash
        self.fence = fence
        self.cold: Row | None = None
        """The parts of the run's row that seldom change, as written last; `None` is unknown."""


def new_head(number: int) -> Head:
    """Return the head of a stream that holds nothing yet."""
    return Head(number=number, next_seq=1, last_hash=GENESIS, fence=0)


# ── sealing ────────────────────────────────────────────────────────────────────────────────────

Entry: TypeAlias = tuple[Event, str, bytes, bytes, bytes, bytes]
"""An event ready to be chained: event, type, meta, salt, body, commitment."""


@cache
def _kind(event_type: type[Event]) -> tuple[str, tuple[str, ...]]:
    """Return the tag of an event type and the fields it keeps."""
    return str(event_type.__struct_config__.tag), event_type.kept


RUN_STARTED: Final = _kind(RunStarted)[0]


def seal(events: Sequence[Event]) -> list[Entry]:
    """Return the events encoded, salted and committed to: all that needs no lock."""
    salts = os.urandom(_SALT * len(events))
    entries: list[Entry] = []
    for at, event in enumerate(events):
        kind, kept = _kind(type(event))
        meta = _META.encode({name: getattr(event, name) for name in kept}) if kept else b""
        salt = salts[at * _SALT : (at + 1) * _SALT]
        body = encode(event)
        entries.append((event, kind, meta, salt, body, sha256(salt + body).digest()))
    return entries


Row: TypeAlias = tuple[Any, ...]


def chain(
    commit: Commit, entries: Sequence[Entry], head: Head, position: int
) -> tuple[list[Record], list[Row], list[Row]]:
    """Put the entries in their places after `head`, which moves on; the first gets `position`.

    Returns:
        The records, their rows in `events` (the stream's number, then all columns but `id` and
        `tag`), and their rows in `event_bodies`.

    """
    stream, epoch = commit.stream, commit.epoch or 0
    moments = commit.moments or (commit.at,) * len(entries)
    number, seq, prev = head.number, head.next_seq, head.hash
    records: list[Record] = []
    events: list[Row] = []
    bodies: list[Row] = []
    for (event, kind, meta, salt, body, commitment), at in zip(entries, moments, strict=True):
        digest = record_hash(
            prev=prev,
            stream=stream,
            seq=seq,
            position=position,
            at=at,
            epoch=epoch,
            type=kind,
            meta=meta,
            commitment=commitment,
        )
        records.append(Record(stream, seq, position, at, epoch, event))  # type: ignore[arg-type]
        events.append(
            (number, stream, seq, position, at, epoch, kind, meta, commitment, prev, digest)
        )
        bodies.append((position, stream, seq, salt, body))
        prev = digest
        seq += 1
        position += 1
    head.next_seq, head.hash = seq, prev
    return records, events, bodies


# ── preconditions ──────────────────────────────────────────────────────────────────────────────


def check_shape(commit: Commit) -> None:
    """Refuse what no journal could take, whatever is in it: a mistake of the caller.

    Raises:
        UsageError: there are no events, or not as many moments; a driver's append without
            `expected_seq`; an append to a run without an epoch that is neither its first nor made
            of outside events only; a row of another run.

    """
    if not commit.events:
        raise UsageError(f"{commit.stream}: an append without events; every change is an event")
    if commit.moments and len(commit.moments) != len(commit.events):
        raise UsageError(f"{commit.stream}: {len(commit.moments)} moments of other events")
    if commit.row is not None and run_stream(commit.row.id) != commit.stream:
        raise UsageError(f"{commit.stream}: the row is that of run {commit.row.id!r}")
    if commit.epoch is not None:
        if commit.expected_seq is None:
            raise UsageError(f"{commit.stream}: a driver's append must say which seq it expects")
    elif commit.expected_seq != 1 and not commit.stream.startswith("~"):
        _check_outside(commit)


def _check_outside(commit: Commit) -> None:
    for event in commit.events:
        if not isinstance(event, OUTSIDE):
            raise UsageError(
                f"{commit.stream}: {_kind(type(event))[0]} may be appended by the run's driver "
                "only; claim the stream and pass its epoch"
            )


def check_place(commit: Commit, head: Head | None, *, store: str) -> None:
    """Refuse a commit whose driver or expectation is out of date; `None` is no such stream.

    Raises:
        RunNotFound: there is no such stream, and this append does not begin one.
        Fenced: the epoch is not the fence; it wins when both are wrong.
        Conflict: the stream is elsewhere.
        StoreError: the stream cannot grow any more.

    """
    if head is None:
        if commit.epoch is not None or (commit.expected_seq != 1 and commit.stream[:1] != "~"):
            raise RunNotFound(commit.stream.removeprefix("run:"), store=store)
        next_seq = 1
    else:
        next_seq = head.next_seq
        if commit.epoch is not None and commit.epoch != head.fence:
            raise Fenced(commit.stream, epoch=commit.epoch, fence=head.fence)
    if commit.expected_seq is not None and commit.expected_seq != next_seq:
        raise Conflict(commit.stream, expected_seq=commit.expected_seq, actual_seq=next_seq)
    if next_seq + len(commit.events) - 1 > MAX_SEQ:
        raise StoreError(
            f"{commit.stream} has {next_seq - 1} records and cannot take {len(commit.events)} "
            f"more: {MAX_SEQ} is the limit of a stream. Go on in a new run."
        )


def check_seen(commit: Commit, head_of: Callable[[str], Head | None]) -> None:
    """Refuse a commit that depends on streams one of which has grown since it was read.

    Raises:
        Conflict: it has.

    """
    for stream, seq in commit.seen:
        head = head_of(stream)
        if head is not None and head.next_seq != seq + 1:
            raise Conflict(stream, expected_seq=seq + 1, actual_seq=head.next_seq)


# ── the ledger ─────────────────────────────────────────────────────────────────────────────────

Account: TypeAlias = tuple[str, str, str]
"""Scope, window, unit."""


class Held(msgspec.Struct, frozen=True, gc=False):
    """What one call holds of one scope, or is counted at there because it is in doubt."""

    amount: int
    in_doubt: bool = False


Place: TypeAlias = tuple[str, str, str]
"""Unit, scope, window."""

Amounts: TypeAlias = dict[Place, Held]
"""What one call holds, by unit, scope and window."""


class Ledger:
    """The accounts, holds and numbers that commits touch, as they will be once those are written.

    `account`, `holds`, `since` (the windows of one kind from one on, with what is in them) and
    `number` read what is stored.  Nothing is changed by a commit that is refused.

    Attributes:
        numbers: those that were moved.
        accounts: as they are now.
        holds: what each call holds now, by its id; nothing where it was settled.
        stored: the calls of which something else is stored.

    """

    def __init__(
        self,
        *,
        account: Callable[[Account], Balance],
        holds: Callable[[str], Amounts],
        since: Callable[[Account], dict[str, Balance]],
        number: Callable[[str], int],
    ) -> None:
        self._read_account = account
        self._read_holds = holds
        self._read_since = since
        self._read_number = number
        self.numbers: dict[str, int] = {}
        self.accounts: dict[Account, Balance] = {}
        self.holds: dict[str, Amounts] = {}
        self.stored: set[str] = set()

    def apply(self, commit: Commit) -> None:
        """Settle, then hold: what a call gives back may pay for the next one.

        Raises:
            Refused: a hold does not fit.
            TooSoon: a number would be beyond what it may be.
            UsageError: the call holds that already.

        """
        moved = self._moved(commit.advances) if commit.advances else {}
        # Only a hold can be refused, so only then may everything have to be taken back.
        before = (self.accounts.copy(), self.holds.copy()) if commit.holds else None
        try:
            for settlement in commit.settlements:
                self._settle(settlement)
            for hold in commit.holds:
                self._hold(hold)
        except OutlastError:
            if before is not None:
                self.accounts, self.holds = before
            raise
        self.numbers |= moved

    def advance(self, advance: Advance) -> int:
        """Move a number on, whatever it may be, and return it."""
        moved = self.numbers[advance.name] = self._beyond(advance, self.numbers)
        return moved

    def _moved(self, advances: Sequence[Advance]) -> dict[str, int]:
        moved = dict(self.numbers)
        for advance in advances:
            value = moved[advance.name] = self._beyond(advance, moved)
            if advance.most is not None and value > advance.most:
                raise TooSoon(name=advance.name, value=value, most=advance.most)
        return moved

    def _beyond(self, advance: Advance, numbers: Mapping[str, int]) -> int:
        before = numbers.get(advance.name)
        before = self._read_number(advance.name) if before is None else before
        return max(before, advance.least) + advance.by

    def _account(self, key: Account) -> Balance:
        found = self.accounts.get(key)
        return self._read_account(key) if found is None else found

    def _since(self, key: Account) -> dict[str, Balance]:
        scope, first, unit = key
        found = self._read_since(key)
        for (owner, window, what), balance in self.accounts.items():
            if (owner, what) == (scope, unit) and first <= window < windows_until(first):
                found[window] = balance
        return found

    def _taken(self, hold: Hold, own: Balance) -> tuple[int, int]:
        """Return what counts against the limit of a hold, and how much of that is only held."""
        if not hold.since:
            return own.taken, own.held
        rolled = added(self._since((hold.scope, hold.since, hold.unit)).values())
        return rolled.taken, rolled.held

    def _holds(self, call_id: str) -> Amounts:
        found = self.holds.get(call_id)
        if found is None:
            found = self._read_holds(call_id)
            if found:
                self.stored.add(call_id)
        return found

    def _settle(self, settlement: Settlement) -> None:
        unit, amount = settlement.unit, settlement.amount
        before = self._holds(settlement.call_id)
        if not before:
            return
        after: Amounts = {}
        for place, held in before.items():
            if place[0] != unit:
                after[place] = held
                continue
            account = (place[1], place[2], unit)
            old = self._account(account)
            doubted = held.amount if held.in_doubt else 0
            self.accounts[account] = Balance(
                settled=old.settled + (0 if settlement.in_doubt else amount),
                in_doubt=old.in_doubt - doubted + (amount if settlement.in_doubt else 0),
                held=old.held - (held.amount - doubted),
            )
            if settlement.in_doubt:
                # It is remembered, so that it can be settled once somebody knows.
                after[place] = Held(amount, in_doubt=True)
        self.holds[settlement.call_id] = after

    def _hold(self, hold: Hold) -> None:
        account = (hold.scope, hold.window, hold.unit)
        old = self._account(account)
        if hold.limit is not None:
            taken, held = self._taken(hold, old)
            if hold.limit - taken < hold.needed:
                raise Refused(
                    scope=hold.scope,
                    window=hold.window,
                    unit=hold.unit,
                    needed=hold.needed,
                    left=max(0, hold.limit - taken),
                    held=min(held, max(0, hold.limit - taken + held)),
                )
        if hold.paid:
            paid = old.settled + hold.needed
            self.accounts[account] = Balance(settled=paid, in_doubt=old.in_doubt, held=old.held)
            return
        place = (hold.unit, hold.scope, hold.window)
        amounts = self._holds(hold.call_id)
        if place in amounts:
            raise UsageError(
                f"call {hold.call_id!r} holds {hold.unit} of {hold.scope} ({hold.window}) already; "
                "every attempt has a call id of its own"
            )
        self.holds[hold.call_id] = {**amounts, place: Held(hold.needed, in_doubt=hold.in_doubt)}
        doubted = hold.needed if hold.in_doubt else 0
        self.accounts[account] = Balance(
            settled=old.settled,
            in_doubt=old.in_doubt + doubted,
            held=old.held + hold.needed - doubted,
        )


def added(balances: Iterable[Balance]) -> Balance:
    """Return the sum of balances."""
    listed = list(balances)
    return Balance(
        settled=sum(one.settled for one in listed),
        in_doubt=sum(one.in_doubt for one in listed),
        held=sum(one.held for one in listed),
    )


def windows_until(first: str) -> str:
    """Return what is above every window of the kind of `first`, in the order of their names."""
    return first.partition(":")[0] + ";"  # the character after the colon


# ── reading ────────────────────────────────────────────────────────────────────────────────────


class _Version(msgspec.Struct):
    journal_version: int = 0


def check_version(stream: str, kind: str, meta: bytes) -> None:
    """Refuse a stream whose first record says that a newer version writes it.

    Its `meta` is asked, not its body, which may hold what this version cannot decode.

    Raises:
        JournalTooNew: it does.
        JournalDamaged: what it says is not readable.

    """
    if kind != RUN_STARTED:
        return
    try:
        version = msgspec.json.decode(meta, type=_Version).journal_version
    except _UNREADABLE as error:
        raise JournalDamaged(stream, seq=1, why=f"its version is unreadable ({error})") from error
    if version > JOURNAL_VERSION:
        raise JournalTooNew(stream, version=version, ours=JOURNAL_VERSION)


def open_body(stream: str, seq: int, body: bytes | None) -> AnyEvent:
    """Return the event of a stored body.

    Raises:
        JournalDamaged: there is none, or it is not an event.

    """
    if body is None:
        raise JournalDamaged(stream, seq=seq, why="its body is gone")
    try:
        return decode(body)
    except _UNREADABLE as error:
        raise JournalDamaged(stream, seq=seq, why=f"its body is not an event ({error})") from error


def check_stream_name(stream: str) -> None:
    """Refuse a name that no stream can have.

    Raises:
        InvalidInput: it is neither `run:ID` nor `~NAME`.

    """
    if not (stream.startswith("run:") and len(stream) > 4) and not stream.startswith("~"):
        raise InvalidInput(f"{stream!r} is not a stream: they are called run:ID or ~NAME")


def digest_of(text: str) -> bytes | None:
    """Return the hash that `text` spells in hex, `None` when it spells none."""
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return None
    return digest if len(digest) == 32 else None


def consecutive(numbers: Sequence[int], *, after: int) -> bool:
    """Tell whether rising numbers begin right after `after` and have no gap."""
    return not numbers or (numbers[0] == after + 1 and numbers[-1] == after + len(numbers))
