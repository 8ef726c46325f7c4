"""`outlast log`: the events of one run, as a story or as JSON, also while it goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from outlast.cli import exits, shapes, words
from outlast.cli.screen import Screen, screen
from outlast.cli.show import next_step
from outlast.cli.stores import opened, row_of
from outlast.cli.story import Reader
from outlast.cli.waits import NOTHING, Open, open_in
from outlast.events import tag
from outlast.journal import Journal, Record, RunRow, run_stream

POLL_S: Final = 0.2
"""How often a run that goes on is looked at."""

_UNFINISHED: Final = ("queued", "running", "parked", "waiting", "paused")


def tell_log(store: str, run_id: str, *, follow: bool, as_json: bool) -> int:
    """Print the events of a run; with `follow` until it ends, and then by its exit code."""
    with opened(store) as journal:
        row = row_of(journal, run_id)
        on = None if as_json else screen()
        show = _json_lines if on is None else _story(on, row)
        for records in _batches(journal, run_id, follow=follow):
            show(records)
        row = row_of(journal, run_id)
        still = NOTHING if on is None else open_in(journal, row)
    if on is not None:
        on.line((f"Next: {_next(row, still)}", "quiet"))
    return exits.of_status(row.status) if follow else exits.DONE


def _batches(journal: Journal, run_id: str, *, follow: bool) -> Iterator[Sequence[Record]]:
    after = 0
    while True:
        # In this order: what is there once the run has ended is all there will be.
        ended = row_of(journal, run_id).status not in _UNFINISHED
        records = journal.read(run_stream(run_id), after=after)
        if records:
            after = records[-1].seq
            yield records
        if ended or not follow:
            return
        time.sleep(POLL_S)


def _json_lines(records: Sequence[Record]) -> None:
    for record in records:
        sys.stdout.write(shapes.encode(shapes.event_shape(record)).decode() + "\n")
    sys.stdout.flush()


def _story(on: Screen, row: RunRow) -> Callable[[Sequence[Record]], None]:
    reader = Reader()
    on.line((row.id, "strong"), (f"  started {words.day(row.created_at)}", "quiet"))

    def tell(records: Sequence[Record]) -> None:
        for record in records:
            if gap := reader.gap(record):
                on.line((gap, "doubt"))
            on.line(
                (f"{words.clock(record.at)} {record.seq:>4}  ", "quiet"),
                (f"{tag(record.event):<20}  ", "quiet"),
                *reader.tell(record),
            )
            reader.take(record)

    return tell


def _next(row: RunRow, still: Open) -> str:
    if row.status == "completed":
        return f"outlast show {row.id}"
    step = next_step(row, still)
    return f"outlast show {row.id}" if step.startswith("outlast log") else step
