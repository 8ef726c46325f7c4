"""`outlast pause` and `outlast cancel`: tell one run something, whoever is driving it."""

from __future__ import annotations

import sys
from typing import Literal

from outlast.app import Outlast
from outlast.cli import exits, shapes
from outlast.cli.screen import screen
from outlast.cli.stores import opened, row_of


def tell(  # noqa: PLR0913  (the options of a command)
    store: str,
    run_id: str,
    verb: Literal["pause", "cancel"],
    *,
    reason: str,
    by: str,
    as_json: bool,
) -> int:
    """Tell a run to pause or to end, print what it is then, and return the exit code."""
    with opened(store) as journal:
        row_of(journal, run_id)
        app = Outlast(journal)
        told = app.pause if verb == "pause" else app.cancel
        told(run_id, reason=reason, by=by)
        row = row_of(journal, run_id)
    if as_json:
        sys.stdout.write(shapes.encode(shapes.run_shape(row)).decode() + "\n")
        return exits.DONE
    on = screen()
    if verb == "pause":
        on.line((run_id, "strong"), (" is paused: nothing more is begun, until it is resumed.", ""))
        on.line((f"Next: outlast resume {run_id}", "quiet"))
        return exits.DONE
    is_over = row.status == "cancelled"
    told_of = " is cancelled, for good." if is_over else " is told to end; its driver does that."
    on.line((run_id, "strong"), (told_of, ""))
    on.line((f"Next: outlast show {run_id}", "quiet"))
    return exits.DONE
