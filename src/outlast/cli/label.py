"""`outlast label`: whether an answer is good, as a person says it."""

from __future__ import annotations

import sys

from outlast import labels
from outlast.app import Outlast
from outlast.cli import exits, shapes, words
from outlast.cli.approvals import login
from outlast.cli.screen import screen
from outlast.cli.stores import opened, row_of
from outlast.errors import UsageError
from outlast.journal import run_stream


def label_run(  # noqa: PLR0913  (the options of a command)
    store: str,
    run_id: str,
    *,
    good: bool,
    bad: bool,
    why: str,
    attempt: int | None,
    ask: str | None,
    by: str | None,
    as_json: bool,
) -> int:
    """Write the label, print what it is about and return the exit code."""
    if good == bad:
        raise UsageError("say what the answer is: --good or --bad, one of both")
    who = login() if by is None else by
    with opened(store) as journal:
        row_of(journal, run_id)
        Outlast(journal).label(run_id, good=good, why=why, by=who, attempt=attempt, ask=ask)
        row = row_of(journal, run_id)
        answers = labels.read(journal.read(run_stream(run_id)))
    one = labels.meant(answers, run_id, attempt, ask=ask)
    if as_json:
        label = {
            "ask_id": one.ask_id,
            "call_id": one.call_id,
            "attempt": one.attempt,
            "accepted": one.accepted,
            "good": good,
            "why": why,
            "by": who,
        }
        sys.stdout.write(shapes.encode(shapes.run_shape(row) | {"label": label}).decode() + "\n")
        return exits.DONE
    on = screen()
    became = "accepted" if one.accepted else "not accepted"
    on.line(
        ("good" if good else "bad", "good" if good else "bad"),
        (f"  {run_id}", "strong"),
        (f"  {one.ask_id}, attempt {one.attempt}, {became}", "quiet"),
        (f"  {words.line(words.given(one.answer), 200)}", ""),
    )
    on.line(("Next: outlast judge report", "quiet"))
    return exits.DONE
