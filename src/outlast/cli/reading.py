"""Reads all runs that a command is about, and shows how far it is where they are many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

from outlast.cli import words
from outlast.cli.screen import Screen, Showing
from outlast.cli.words import Part
from outlast.errors import JournalDamaged, JournalTooNew
from outlast.journal import Journal, Record, run_stream

_AT_ONCE: Final = 1_000
"""How many records of a run are in memory at the same time."""

_MANY: Final = 100
"""From how many runs on it is shown how far the reading is."""

_BAR: Final = 40


class Reading(Protocol):
    """Is given one run after the other."""

    def take(self, run_id: str, records: Iterable[Record]) -> None:
        """Read all records of a run."""
        ...


def read_runs(
    journal: Journal, reading: Reading, runs: Sequence[str], on: Screen | None
) -> list[JournalDamaged | JournalTooNew]:
    """Read runs, and return what is wrong with those that cannot be read."""
    wrong: list[JournalDamaged | JournalTooNew] = []
    done = 0

    def now() -> list[Part]:
        cells = done * _BAR // len(runs)
        return [
            ("█" * cells, "good"),
            ("░" * (_BAR - cells), "quiet"),
            (f" {done:,} of {words.count(len(runs), 'run')}", ""),
        ]

    def read() -> None:
        nonlocal done
        for run_id in runs:
            try:
                reading.take(run_id, _records(journal, run_id))
            except (JournalDamaged, JournalTooNew) as error:
                wrong.append(error)
            done += 1

    if on is None or len(runs) < _MANY:
        read()
    else:
        with Showing(on, now):
            read()
    return wrong


def _records(journal: Journal, run_id: str) -> Iterator[Record]:
    after = 0
    while page := journal.read(run_stream(run_id), after=after, limit=_AT_ONCE):
        yield from page
        after = page[-1].seq
