"""What the simulator writes down: every request it got, and what it billed for.

    requests.jsonl   a line per request, written before the first byte of its answer leaves
    bill.jsonl       a line per billed request
    batches.jsonl    a line per batch that was accepted, with its results
    lock             held while a simulator uses the directory
    simulator.log    what went wrong in it, such as a traceback of the script

A request is billed when it arrives, so a client that dies while it waits has paid, as with Claude.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import msgspec

from outlast.errors import UsageError
from outlast.models.claude import Answer, Claude

REQUESTS: Final = "requests.jsonl"
BILL: Final = "bill.jsonl"
BATCHES: Final = "batches.jsonl"
LOCK: Final = "lock"
LOG: Final = "simulator.log"

LOCK_WAIT_S: Final = 10.0
"""How long to wait for a simulator that is just ending to let go of the directory."""

KEPT_HEADERS: Final = frozenset(
    {
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "user-agent",
        "x-claude-code-session-id",
        "x-stainless-retry-count",
        "x-stainless-timeout",
    }
)
"""Headers worth keeping; whatever may hold a secret is not among them."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `requests.jsonl`.

    Attributes:
        at: when it came, RFC 3339, UTC.
        key: the hash that identical requests share.
        attempt: how often it came, from 1; 0 when it does not count: it was turned away for its
            headers or its key's quota, or only asked to count tokens, or it is about a batch, whose
            entries have lines of their own.
        conversation: the hash of what was said before the reply.
        body: its exact text.
        outcome: `complete`, the kind of a fault, `refused`, `rate_limited`, `counted`,
            `script_error`, or of batches `batch_sent`, `batch_polled` and `batch_fetched`.
        status: the HTTP status of the answer, 0 when there was none.
        fault: the kind of the fault, if there was one.
        reply: the hash of what was answered in full, empty when nothing was.
        cached: the entries of the prompt cache that it wrote or used, and the `ttl` of each.

    """

    at: str
    key: str
    attempt: int
    conversation: str = ""
    body: str = ""
    headers: dict[str, str] = {}
    outcome: str = "complete"
    status: int = 200
    fault: str | None = None
    reply: str = ""
    stop_reason: str | None = None
    cached: Mapping[str, str] = {}


class BillLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `bill.jsonl`: money in whole nano-dollars."""

    at: str
    key: str
    attempt: int
    model: str
    usage: dict[str, Any]
    nano_usd: int
    outcome: str


class BatchLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `batches.jsonl`.

    Attributes:
        id: what the batch is called.
        created_at: when it came, RFC 3339, UTC.
        ends_at: when its results are there, likewise.
        entries: how many it has.
        results: a line of JSON for each that has a result, in another order than they came in.

    """

    id: str
    created_at: str
    ends_at: str
    entries: int
    results: list[str]


class State:
    """The directory of one simulator, exclusively; `None` writes nothing down.

    Raises:
        UsageError: another simulator uses the directory.

    """

    def __init__(self, directory: Path | None) -> None:
        self._seen: list[Line] = []
        self._requests: BinaryIO | None = None
        self._bill: BinaryIO | None = None
        self._batch_lines: BinaryIO | None = None
        self.batches: dict[str, BatchLine] = {}
        self._lock: BinaryIO | None = None
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(directory)
        self._seen = _whole_lines(directory / REQUESTS, Line)
        self._requests = _appending(directory / REQUESTS)
        self._bill = _appending(directory / BILL)
        self.batches = {line.id: line for line in _whole_lines(directory / BATCHES, BatchLine)}
        self._batch_lines = _appending(directory / BATCHES)

    def close(self) -> None:
        """Let go of the directory."""
        for file in (self._requests, self._bill, self._batch_lines, self._lock):
            if file:
                file.close()

    def remind(self, claude: Claude) -> None:
        """Tell `claude` what an earlier simulator on this directory got and said."""
        for line in self._seen:
            if line.attempt:
                claude.remember_attempt(line.key)
            if line.reply:
                claude.remember_reply(line.conversation, line.reply, line.stop_reason)
            for digest, ttl in line.cached.items():
                claude.remember_cached(digest, ttl, nanoseconds(line.at))
        self._seen = []

    def write(
        self, answer: Answer, *, body: bytes, headers: Mapping[str, str], status: int
    ) -> None:
        """Write a request down, and its price if it has one."""
        at = shown(answer.at) if answer.at else now()
        whole = answer.outcome == "complete" and answer.said
        self.write_line(
            Line(
                at=at,
                key=answer.identity.key,
                attempt=0 if answer.outcome == "rate_limited" else answer.attempt,
                conversation=answer.identity.conversation,
                body=body.decode(errors="replace"),
                headers=kept(headers),
                outcome=answer.outcome,
                status=status,
                fault=answer.fault.kind if answer.fault else None,
                reply=whole.digest if whole else "",
                stop_reason=whole.stop_reason if whole else None,
                cached=answer.cached,
            )
        )
        if answer.usage is not None and self._bill:
            line = BillLine(
                at=at,
                key=answer.identity.key,
                attempt=answer.attempt,
                model=answer.request["model"],
                usage=answer.usage,
                nano_usd=answer.nano,
                outcome=answer.outcome,
            )
            self._bill.write(msgspec.json.encode(line) + b"\n")

    def write_batch(self, line: BatchLine) -> None:
        """Write a batch down that was accepted."""
        self.batches[line.id] = line
        if self._batch_lines:
            self._batch_lines.write(msgspec.json.encode(line) + b"\n")

    def write_line(self, line: Line) -> None:
        """Write down a request that never reached Claude."""
        if self._requests:
            self._requests.write(msgspec.json.encode(line) + b"\n")


def now() -> str:
    """Return the time, RFC 3339, UTC."""
    return shown(time.time_ns())


def shown(at: int) -> str:
    """Return a time in nanoseconds since the epoch as RFC 3339, UTC, to the microsecond."""
    moment = datetime.fromtimestamp(at // 10**9, UTC).replace(microsecond=at // 1_000 % 10**6)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def nanoseconds(at: str) -> int:
    """Return what `shown` shows in nanoseconds since the epoch, to the microsecond."""
    since = datetime.fromisoformat(at) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1_000


def kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that are written down."""
    return {name: value for name, value in headers.items() if name in KEPT_HEADERS}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of one of the files, oldest first; a torn last line is left out."""
    return _whole_lines(path, dict[str, Any])


_T = TypeVar("_T")


def _whole_lines(path: Path, kind: type[_T]) -> list[_T]:
    if not path.exists():
        return []
    decoder = msgspec.json.Decoder(kind)
    *lines, _torn = path.read_bytes().split(b"\n")
    return [decoder.decode(line) for line in lines]


def _appending(path: Path) -> BinaryIO:
    # Unbuffered, so a line is the kernel's when write returns and outlives a kill of this process.
    file = path.open("ab", buffering=0)
    whole = path.read_bytes().rfind(b"\n") + 1
    file.truncate(whole)
    return file


def _locked(directory: Path) -> BinaryIO:
    file = (directory / LOCK).open("wb")
    give_up = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                file.close()
                raise UsageError(
                    f"another simulator uses {directory}; stop it, or give another --state"
                ) from None
            time.sleep(0.02)
        else:
            return file
