"""`outlast limits`: how fast the API may be asked, as far as anybody knows."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from outlast.cli import exits, shapes, words
from outlast.cli.screen import columns, screen
from outlast.cli.stores import opened
from outlast.errors import UsageError
from outlast.events import RateLimitsTold
from outlast.journal import Commit, Journal
from outlast.pacing import STREAM, UNITS, Pacing, fold
from outlast.turns import name


def show_limits(store: str, *, fetch: bool, as_json: bool) -> int:
    """Print the rate limits that are known, and return the exit code."""
    with opened(store, create=fetch) as journal:
        if fetch:
            _fetch(journal)
        pacing = fold(journal.read(STREAM), Pacing())
        shown = [_shape(journal, pacing, place) for place in sorted(pacing.limits)]
        shown += [
            _shape(journal, pacing, place)
            for place in sorted(pacing.freezes)
            if place not in pacing.limits
        ]
    if as_json:
        sys.stdout.write(shapes.encode(shown).decode() + "\n")
        return exits.DONE
    on = screen()
    if not shown:
        on.line((f"Nothing is known in {store}: Claude was not asked yet.", ""))
        on.line(("Next: ANTHROPIC_ADMIN_KEY=… outlast limits --fetch", "quiet"))
        return exits.DONE
    heads = ("MODEL", "KEY", "UNIT", "A MINUTE", "TAKEN", "")
    table = [[(head, "quiet") for head in heads]]
    for line in shown:
        table += _lines(line)
    columns(on, table, right=(3,))
    on.line(("Next: outlast runs --status parked", "quiet"))
    return exits.DONE


def _fetch(journal: Journal) -> None:
    """Ask for the limits, and write down what is not known already."""
    from outlast.models.anthropic import AnthropicModel  # noqa: PLC0415  (only here)
    from outlast.models.organization import rate_limits  # noqa: PLC0415  (only here)

    admin_key = os.environ.get("ANTHROPIC_ADMIN_KEY")
    if not admin_key:
        raise UsageError(
            "the rate-limit API takes an Admin API key only: set ANTHROPIC_ADMIN_KEY, and "
            "ANTHROPIC_API_KEY to the key that the runs ask with"
        )
    key = AnthropicModel().key()
    known = fold(journal.read(STREAM), Pacing()).limits
    told = [
        news
        for group, limits in rate_limits(admin_key).items()
        if known.get((key, group)) != (news := RateLimitsTold(group=group, key=key, **limits))
    ]
    if told:
        journal.append(Commit(stream=STREAM, events=told, at=time.time_ns()))


def _shape(journal: Journal, pacing: Pacing, place: tuple[str, str]) -> dict[str, Any]:
    key, group = place
    limits, now = pacing.limits.get(place), time.time_ns()
    units = {}
    for unit in UNITS:
        if limit := getattr(limits, unit, 0):
            (until,) = journal.numbers([name(unit, place)])
            # What was taken is there again by then, and all of it within a minute.
            units[unit] = {"limit": limit, "taken": max(0.0, (until - now) / 60e9)}
    freeze = pacing.freezes.get(place)
    frozen = freeze.until if freeze is not None and freeze.until > now else None
    return {
        "group": group,
        "key": key,
        "units": units,
        "frozen_until": None if frozen is None else shapes.moment(frozen),
    }


def _lines(shape: dict[str, Any]) -> list[list[words.Part]]:
    lines: list[list[words.Part]] = []
    frozen = f"nobody asks until {shape['frozen_until']}" if shape["frozen_until"] else ""
    for unit, said in shape["units"].items() or [("", None)]:
        bar = f"{'█' * min(10, round(said['taken'] * 10)):░<10} {said['taken']:.0%}" if said else ""
        full = said is not None and said["taken"] >= 1
        lines.append(
            [
                (shape["group"], "strong"),
                (shape["key"] or "-", "quiet"),
                (unit.replace("_", " "), ""),
                (f"{said['limit']:,}" if said else "", ""),
                (bar, "bad" if full else "good"),
                (frozen, "doubt"),
            ]
        )
    return lines
