"""`outlast reconcile --plan` and `--execute`: what became of many calls in doubt, said at once."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from outlast import plans
from outlast.cli import exits, shapes, words
from outlast.cli.screen import screen
from outlast.cli.stores import opened
from outlast.cli.waits import waiting
from outlast.errors import UsageError
from outlast.operators import check_text
from outlast.plans import Checked, Ready


def write_plan(
    store: str, file: str | None, *, outcome: str | None, tool: str | None, as_json: bool
) -> int:
    """Write down every call in doubt of a store, and return the exit code."""
    with opened(store) as journal:
        runs = [row.id for row, still in waiting(journal) if still.doubts]
        plan = plans.made(journal, runs, now=time.time_ns(), tool=tool, outcome=outcome)
    text = plans.encoded(plan)
    if file is None:
        sys.stdout.write(text)
        return exits.DONE
    _create(file, text)
    if as_json:
        found = {"file": file, "calls": len(plan.calls)}
        sys.stdout.write(shapes.encode(found).decode() + "\n")
        return exits.DONE
    on = screen()
    on.line((f"{words.count(len(plan.calls), 'call')} in doubt", "doubt"), (f" in {file}", ""))
    if not plan.calls:
        on.line(("Next: outlast runs", "quiet"))
        return exits.DONE
    if outcome is None:
        on.line(("Give each its outcome there, happened or did-not; take out what to leave.", ""))
    on.line((f"Next: outlast reconcile --execute {file} --dry-run", "quiet"))
    return exits.DONE


def _create(file: str, text: str) -> None:
    try:
        with Path(file).open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError as error:
        raise UsageError(
            f"{file!r} is there already, and may be filled in; name another file"
        ) from error
    except OSError as error:
        raise UsageError(f"{file!r} cannot be written: {error}") from error


def execute_plan(store: str, file: str, *, by: str | None, dry_run: bool, as_json: bool) -> int:
    """Write what a plan says, if nothing has moved since, and return the exit code."""
    from outlast.cli.approvals import login  # noqa: PLC0415  (as in `doubts`)

    plan = plans.decoded(_read(file))
    who = login() if by is None else by
    check_text("--by", who)
    with opened(store) as journal:
        found = plans.checked(journal, plan, by=who)
        if not dry_run:
            plans.executed(journal, found)
    if as_json:
        sys.stdout.write(shapes.encode(_shape(found, dry_run=dry_run)).decode() + "\n")
    else:
        _print(found, file, dry_run=dry_run)
    return exits.DONE


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file!r} cannot be read: {error}") from error


def _shape(found: Checked, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "settled": [
            {"run": one.run_id, "call_id": event.call_id, "outcome": _outcome(event.outcome)}
            for one in found.ready
            for event in one.events
        ],
        "done_before": [
            {"run": row.run, "call_id": row.call, "outcome": row.outcome} for row in found.done
        ],
    }


def _print(found: Checked, file: str, *, dry_run: bool) -> None:
    on = screen()
    for one in found.ready:
        _print_run(one, dry_run=dry_run)
    for row in found.done:
        on.line((f"{row.run}  ", ""), (f"{row.call} is settled so already", "quiet"))
    if not found.ready:
        what = "is empty"
        if found.done:
            what = "was executed before: the state has moved as it says"
        on.line((f"This plan {what}; nothing is written.", ""))
        on.line(("Next: outlast runs --waiting", "quiet"))
    elif dry_run:
        on.line(("Nothing was written: this is what would be.", "strong"))
        on.line((f"Next: outlast reconcile --execute {file}", "quiet"))
    else:
        on.line(("Next: workers go on with these runs, or: outlast resume ID", "quiet"))


def _print_run(one: Ready, *, dry_run: bool) -> None:
    on = screen()
    would = "would be written: " if dry_run else ""
    for event in one.events:
        did = "happened" if event.outcome == "happened" else "did not happen"
        on.line((f"{one.run_id}  ", ""), (f"{would}{event.call_id} ", ""), (did, "strong"))


def _outcome(outcome: str) -> str:
    return "happened" if outcome == "happened" else "did-not"
