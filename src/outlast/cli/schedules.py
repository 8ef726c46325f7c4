"""`outlast schedule set`, `remove` and `show`: what is run at which times."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

from outlast.app import Outlast
from outlast.cli import exits, shapes, words
from outlast.cli.agents import app_of, declared_at, store_of
from outlast.cli.inputs import input_of
from outlast.cli.screen import columns, screen
from outlast.cli.stores import opened
from outlast.limits import zone
from outlast.schedules import Schedule


def set_schedule(
    store: str, name: str, location: str, text: str | None, *, as_json: bool, **given: Any
) -> int:
    """Set a schedule, and return the exit code."""
    who = declared_at(location)
    asked = input_of(who, text, [])
    store = store_of(who, store)
    with Outlast("memory://") as nowhere:
        nowhere.schedule(name, who, asked, **given)  # what cannot be set leaves no store behind
    with opened(store, create=True) as journal:
        is_set = app_of(who, journal).schedule(name, who, asked, **given)
    if as_json:
        sys.stdout.write(shapes.encode(_shape(is_set)).decode() + "\n")
        return exits.DONE
    on = screen()
    module = location.partition(":")[0]
    on.line((name, "strong"), (f" runs {who.name} next at {_when(is_set, is_set.next_at)}.", ""))
    on.line((f"Next: outlast worker {module}   (a worker starts it when it is due)", "quiet"))
    return exits.DONE


def remove_schedule(store: str, name: str, *, reason: str, by: str) -> int:
    """Take a schedule away, and return the exit code."""
    with opened(store) as journal:
        Outlast(journal).unschedule(name, reason=reason, by=by)
    on = screen()
    on.line((name, "strong"), (" is no schedule any more; what it has begun stays.", ""))
    on.line(("Next: outlast schedule show", "quiet"))
    return exits.DONE


def show_schedules(store: str, *, as_json: bool) -> int:
    """Print every schedule, when it is due and what it ran last, and return the exit code."""
    with opened(store) as journal:
        listed = Outlast(journal).schedules()
    if as_json:
        sys.stdout.write(shapes.encode([_shape(one) for one in listed]).decode() + "\n")
        return exits.DONE
    on = screen()
    if not listed:
        on.line((f"No schedule is set in {store}.", ""))
        more = 'NAME MODULE:AGENT INPUT --cron "0 9 * * MON"'
        on.line((f"Next: outlast schedule set {more}", "quiet"))
        return exits.DONE
    heads = ("NAME", "CRON", "ZONE", "AGENT", "NEXT", "LAST", "RUN")
    columns(on, [[(head, "quiet") for head in heads], *map(_line, listed)])
    on.line((_next(listed), "quiet"))
    return exits.DONE


def _line(one: Schedule) -> list[words.Part]:
    failed = words.line(one.last_error, 200)
    return [
        (one.name, "strong"),
        (words.line(one.cron), ""),
        (one.tz, ""),
        (one.agent, ""),
        (_when(one, one.next_at), ""),
        (_when(one, one.last_at), ""),
        (f"not begun: {failed}" if failed else one.last_run_id, "bad" if failed else ""),
    ]


def _when(one: Schedule, at: int | None) -> str:
    """Return a moment on the clock that a schedule goes by."""
    if at is None:
        return ""
    return datetime.fromtimestamp(at // words.NANO, zone(one.tz)).strftime("%Y-%m-%d %H:%M:%S %Z")


def _next(listed: list[Schedule]) -> str:
    began = [one for one in listed if one.last_run_id and not one.last_error]
    if began:
        last = max(began, key=lambda one: one.last_at or 0)
        return f"Next: outlast show {last.last_run_id}"
    module = next((one.code.partition(":")[0] for one in listed if one.code), "MODULE")
    return f"Next: outlast worker {module}   (a worker starts them when they are due)"


def _shape(one: Schedule) -> dict[str, Any]:
    return {
        "name": one.name,
        "cron": one.cron,
        "tz": one.tz,
        "agent": one.agent,
        "kind": one.kind,
        "code": one.code,
        "input": one.input,
        "tenant": one.tenant,
        "tags": one.tags,
        "reason": one.reason,
        "by": one.by,
        "set_at": shapes.moment(one.set_at),
        "next_at": _moment(one.next_at),
        "last_at": _moment(one.last_at),
        "last_run_id": one.last_run_id or None,
        "last_error": one.last_error,
    }


def _moment(at: int | None) -> str | None:
    return None if at is None else shapes.moment(at)
