"""Commits for tests of journals, with whatever a test does not care about filled in."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Raw

from outlast.events import JOURNAL_VERSION, AnyEvent, MessageReceived, NoteAdded, RunStarted, Spec
from outlast.journal import Commit, Journal, RunRow, run_stream

AT: Final = 1_700_000_000_000_000_000
"""When everything happens, in nanoseconds since the epoch."""


def started(agent: str = "researcher", *, journal_version: int = JOURNAL_VERSION) -> RunStarted:
    """Return the first event of a run."""
    spec = Spec(agent=agent, model="claude-test", max_tokens=100)
    return RunStarted(journal_version=journal_version, agent=agent, nonce="0" * 8, spec=spec)


def row(run_id: str, *, agent: str = "researcher", status: str = "running", **more: Any) -> RunRow:
    """Return a run's row with whatever a test does not care about filled in."""
    times = {"created_at": AT, "updated_at": AT}
    return RunRow(**{"id": run_id, "agent": agent, "status": status, **times, **more})


def begin(journal: Journal, run_id: str, **more: Any) -> str:
    """Create a run and return its stream."""
    stream = run_stream(run_id)
    commit = Commit(
        stream=stream, events=[started()], at=AT, expected_seq=1, row=row(run_id, **more)
    )
    journal.append(commit)
    return stream


def message(text: str = "hello") -> MessageReceived:
    """Return an event that only a driver may append."""
    return MessageReceived(ask_id="main", content=Raw(encode_text(text)))


def encode_text(text: str) -> bytes:
    """Return `text` as a JSON string."""
    return b'"' + text.encode() + b'"'


def note(stream: str, text: str = "seen", *, at: int = AT + 1) -> Commit:
    """Return the commit of an outside event."""
    return Commit(stream=stream, events=[NoteAdded(text=text)], at=at)


def driven(stream: str, epoch: int, seq: int, *events: AnyEvent, **more: Any) -> Commit:
    """Return a driver's commit."""
    given = events or (message(),)
    return Commit(stream=stream, events=given, at=AT, expected_seq=seq, epoch=epoch, **more)
