"""`outlast pause` and `outlast cancel`: tell one run something, whoever is driving it."""

from __future__ import annotations

import sys
from contextlib import suppress

from outlast.app import Outlast
from outlast.cli import exits, shapes, words
from outlast.cli.agents import app_of, declared_at, here
from outlast.cli.screen import Screen, screen
from outlast.cli.stores import opened, row_of
from outlast.errors import UsageError
from outlast.journal import Journal, RunRow, run_stream
from outlast.state import FINAL, fold, owes
from outlast.undoing import failed, told


def pause_run(store: str, run_id: str, *, reason: str, by: str, as_json: bool) -> int:
    """Tell a run to pause, print what it is then, and return the exit code."""
    with opened(store) as journal:
        row_of(journal, run_id)
        Outlast(journal).pause(run_id, reason=reason, by=by)
        row = row_of(journal, run_id)
    if as_json:
        _print_json(row)
        return exits.DONE
    on = screen()
    on.line((run_id, "strong"), (" is paused: nothing more is begun, until it is resumed.", ""))
    on.line((f"Next: outlast resume {run_id}", "quiet"))
    return exits.DONE


def cancel_run(  # noqa: PLR0913  (the options of a command)
    store: str, run_id: str, *, undo: bool, reason: str, by: str, as_json: bool
) -> int:
    """Tell a run to end, print what it is then, and return the exit code."""
    with opened(store) as journal:
        row_of(journal, run_id)
        app = _app(journal, run_id) if undo else Outlast(journal)
        app.cancel(run_id, reason=reason, by=by, undo=undo)
        row = row_of(journal, run_id)
        owing = _owing(journal, row)
        undone = _undone(journal, row) if undo else []
        code = _exit(journal, row, owing) if undo else exits.DONE
    if as_json:
        _print_json(row)
        return code
    on = screen()
    if row.status in FINAL:
        on.line((run_id, "strong"), (" is cancelled, for good.", ""))
        for line in undone:
            on.line((words.line(line, 2_000), ""))
    if owing:
        _print_owing(on, owing)
        return code
    if row.status not in FINAL:
        on.line((run_id, "strong"), (" is told to end; its driver does that.", ""))
    on.line((f"Next: outlast show {run_id}", "quiet"))
    return code


def _exit(journal: Journal, row: RunRow, owing: dict[str, str]) -> int:
    """Return how it is with what is to be taken back: all of it was, or not yet, or never will."""
    if owing or row.status not in FINAL:
        return exits.WAITING
    family = (row, *journal.below(row.id))
    states = [fold(journal.read(run_stream(one.id))) for one in family]
    is_left = any(failed(one.undoing, one.asks.values()) for one in states)
    return exits.FAILED if is_left else exits.DONE


def _app(journal: Journal, run_id: str) -> Outlast:
    """Return an application that has what a run's tools depend on, where its code is here."""
    here()
    started = fold(journal.read(run_stream(run_id), limit=1)).started
    if started is not None and started.code:
        with suppress(UsageError):  # a worker that has its code takes back what it did
            return app_of(declared_at(started.code), journal)
    return Outlast(journal)


def _owing(journal: Journal, row: RunRow) -> dict[str, str]:
    """Return the runs that are to take back what they did before they end, and their modules."""
    found = {}
    for one in (row, *journal.below(row.id)):
        if one.status in FINAL or one.status == "completed":
            continue
        state = fold(journal.read(run_stream(one.id)))
        if owes(state) and state.started is not None:
            found[one.id] = state.started.code.partition(":")[0] or "MODULE"
    return found


def _undone(journal: Journal, row: RunRow) -> list[str]:
    """Return what was taken back of a run and of those below it, and what could not be."""
    found = []
    for one in (row, *journal.below(row.id)):
        state = fold(journal.read(run_stream(one.id)))
        if one.status == "cancelled" and (
            undone := told(state.undoing, state.asks.values(), undo=True)
        ):
            found.append(undone if one is row else f"{one.id}: {undone}")
    return found or ["nothing was to be undone"]


def _print_owing(on: Screen, owing: dict[str, str]) -> None:
    for run_id in owing:
        then = " is told to end, and first to take back what it did: by whoever has its code."
        on.line((run_id, "strong"), (then, ""))
    on.line((f"Next: outlast worker {next(iter(owing.values()))}", "quiet"))


def _print_json(row: RunRow) -> None:
    sys.stdout.write(shapes.encode(shapes.run_shape(row)).decode() + "\n")
