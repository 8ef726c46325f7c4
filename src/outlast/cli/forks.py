"""`outlast fork ID --at SEQ`: a new run that shares what another one did up to an event."""

from __future__ import annotations

import sys

from outlast.app import Outlast
from outlast.cli import exits, shapes
from outlast.cli.screen import screen
from outlast.cli.stores import opened, row_of


def fork_run(  # noqa: PLR0913  (the options of a command)
    store: str, run_id: str, *, at: int, new_id: str | None, reason: str, by: str, as_json: bool
) -> int:
    """Fork a run, print what it is then, and return the exit code."""
    with opened(store) as journal:
        row_of(journal, run_id)
        run = Outlast(journal).fork(run_id, at=at, new_id=new_id, reason=reason, by=by)
        row = row_of(journal, run.id)
    if as_json:
        found = shapes.run_shape(row) | {"forked_from": run_id, "forked_at": at}
        sys.stdout.write(shapes.encode(found).decode() + "\n")
        return exits.DONE
    on = screen()
    shares = f" shares events 1 to {at} of {run_id}, and is {row.status}."
    on.line((row.id, "strong"), (shares, ""))
    then = f'send {row.id} "…"' if row.status == "completed" else f"resume {row.id}"
    on.line((f"Next: outlast {then}", "quiet"))
    return exits.DONE
