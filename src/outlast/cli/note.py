"""`outlast note`: write a remark into a run's journal, whoever is driving it."""

from __future__ import annotations

import sys
import time

from outlast.cli import exits, shapes
from outlast.cli.screen import screen
from outlast.cli.stores import opened, row_of
from outlast.errors import InvalidInput
from outlast.events import NoteAdded
from outlast.journal import Commit, run_stream


def add_note(store: str, run_id: str, text: str, *, by: str, as_json: bool) -> int:
    """Append the remark, print its place and return the exit code."""
    if not text.strip():
        raise InvalidInput("the note is empty; write what should be remembered")
    try:
        (text + by).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the note cannot be written as UTF-8: {error}") from error
    stream = run_stream(run_id)
    with opened(store) as journal:
        row_of(journal, run_id)
        note = NoteAdded(text=text, by=by)
        (record,) = journal.append(Commit(stream=stream, events=(note,), at=time.time_ns()))
    if as_json:
        sys.stdout.write(shapes.encode(shapes.event_shape(record)).decode() + "\n")
        return exits.DONE
    on = screen()
    on.line((f"Noted at seq {record.seq} of run {run_id}.", ""))
    on.line((f"Next: outlast log {run_id}", "quiet"))
    return exits.DONE
