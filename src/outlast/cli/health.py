"""`outlast health`: how runs and tools do, on one screen."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from outlast import breaker, pacing
from outlast.cli import exits, shapes, words
from outlast.cli.reading import read_runs
from outlast.cli.screen import Screen, columns, screen
from outlast.cli.stores import opened
from outlast.cli.story import STATUS_TONES
from outlast.cli.words import Part
from outlast.errors import JournalDamaged, JournalTooNew
from outlast.journal import Journal
from outlast.views.costs import costs
from outlast.views.health import (
    CAME,
    ENDS,
    Asked,
    Latency,
    Reading,
    Tool,
    Trouble,
    standing,
    troubled,
)

_BAR: Final = 40
_MOST: Final = 10
"""How many doubts people are shown; programs get all of them."""


class Health(msgspec.Struct, kw_only=True):
    """What is shown."""

    store: str
    now: int
    since: int
    statuses: Mapping[str, int]
    runs_read: int
    unreadable: Sequence[JournalDamaged | JournalTooNew]
    today_nano: int
    breakers: Sequence[breaker.State]
    freezes: Mapping[tuple[str, str], pacing.Freeze]
    reading: Reading


def show_health(
    store: str, *, since_s: float, tool: str | None, agent: str | None, as_json: bool
) -> int:
    """Print how runs and tools do, and return the exit code."""
    on = screen()
    now = time.time_ns()
    with opened(store) as journal:
        reading = Reading(now - int(since_s * 1e9), tool or "")
        found = _read(journal, reading, now, since_s, agent, None if as_json else on)
    if as_json:
        sys.stdout.write(shapes.encode(_shape(found)).decode() + "\n")
    else:
        _print(on, found, words.duration(int(since_s * 1e9)), tool, agent)
    return max(map(exits.of_error, found.unreadable), default=exits.DONE)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


def _read(  # noqa: PLR0913, PLR0917  (what is read, and how)
    journal: Journal,
    reading: Reading,
    now: int,
    since_s: float,
    agent: str | None,
    on: Screen | None,
) -> Health:
    since = now - int(since_s * 1e9)
    runs = journal.updated(since, agent=agent)
    unreadable = read_runs(journal, reading, runs, on)
    lines = [line for line in journal.rollup() if agent in (None, line.agent)]
    today = shapes.moment(now)[:10]
    freezes = pacing.fold(journal.read(pacing.STREAM), pacing.Pacing()).freezes
    return Health(
        store=journal.url,
        now=now,
        since=since,
        statuses=journal.statuses(agent=agent),
        runs_read=len(runs),
        unreadable=unreadable,
        today_nano=sum(cost.nano for cost in costs(lines, "day") if cost.name == today),
        breakers=_breakers(journal),
        freezes={
            place: one for place, one in freezes.items() if one.until > now and one.holds(now)
        },
        reading=reading,
    )


def _breakers(journal: Journal) -> list[breaker.State]:
    beginning = breaker.stream("")
    return [
        breaker.fold(journal.read(stream), breaker.State(key=stream.removeprefix(beginning)))
        for stream in journal.streams(beginning)
    ]


# ── for programs ────────────────────────────────────────────────────────────────────────────────


def _shape(found: Health) -> dict[str, Any]:
    reading = found.reading
    return {
        "since": shapes.moment(found.since),
        "at": shapes.moment(found.now),
        "runs": {
            "read": found.runs_read,
            "unreadable": [str(error) for error in found.unreadable],
            "waiting": found.statuses.get("waiting", 0),
            "statuses": found.statuses,
        },
        "today_usd": shapes.dollars(found.today_nano),
        "today_nano": found.today_nano,
        "breakers": [_breaker_shape(state) for state in troubled(found.breakers)],
        "freezes": [
            {"group": group, "key": key, "until": shapes.moment(one.until)}
            for (key, group), one in sorted(found.freezes.items())
        ],
        "tools": [_tool_shape(tool) for tool in reading.ranked()],
        "sources": [
            {"source": name, "breaker": standing(name, found.breakers)} | _asked_shape(asked)
            for name, asked in sorted(reading.sources.items())
        ],
        "doubts": [_trouble_shape(one) for one in reading.doubts],
        "newest_failure": reading.failure and _trouble_shape(reading.failure),
    }


def _breaker_shape(state: breaker.State) -> dict[str, Any]:
    return {
        "key": state.key,
        "status": state.status,
        "until": shapes.moment(state.until) if state.until else None,
    }


def _tool_shape(tool: Tool) -> dict[str, Any]:
    return {
        "tool": tool.name,
        "uses": tool.uses,
        "called": tool.called,
        "attempts": tool.attempts,
        "amplification": round(tool.amplification, 4),
        **{end: tool.ends.get(end, 0) for end in ENDS},
        "degraded_share": round(tool.degraded_share, 4),
        "errors": tool.errors,
        "latency_ms": _latency_shape(tool.latency),
        "asked": [
            {"rank": rank, "fallback": asked.name or None, "source": asked.source or None}
            | _asked_shape(asked)
            | {"skipped": asked.skipped}
            for rank, asked in sorted(tool.ranks.items())
        ],
    }


def _asked_shape(asked: Asked) -> dict[str, Any]:
    return {
        "uses": asked.uses,
        "attempts": asked.attempts,
        **{came: asked.came.get(came, 0) for came in CAME},
        "errors": asked.errors,
        "latency_ms": _latency_shape(asked.latency),
    }


def _latency_shape(latency: Latency) -> dict[str, int | None]:
    return {
        "p50": latency.percentile(50),
        "p95": latency.percentile(95),
        "max": latency.percentile(100),
    }


def _trouble_shape(one: Trouble) -> dict[str, Any]:
    return {
        "run": one.run,
        "tool": one.tool,
        "call_id": one.call_id,
        "at": shapes.moment(one.at),
        "error_class": one.error_class,
    }


# ── for people ──────────────────────────────────────────────────────────────────────────────────


def _print(on: Screen, found: Health, span: str, tool: str | None, agent: str | None) -> None:
    reading = found.reading
    if not found.statuses:
        whose = f" of the agent {words.line(agent, 60)}" if agent else ""
        on.line((f"There is no run{whose} in {found.store} yet, so nothing is wrong.", ""))
        on.line((f"Next: outlast {'runs' if agent else 'demo'}", "quiet"))
        return
    _print_store(on, found)
    if reading.tools:
        _print_tools(on, reading.ranked(), found.breakers)
        _chart(on, reading.ranked())
        _print_sources(on, reading.sources, found.breakers)
    else:
        what = words.line(tool, 60) if tool else "a tool"
        on.line((f"No use of {what} in the last {span}.", "quiet"))
    for one in reading.doubts[:_MOST]:
        ago = words.duration(found.now - one.at)
        why = f" ({one.error_class})" if one.error_class else ""
        told = f"did {words.line(one.tool, 60)} ({one.call_id}) happen? in doubt for {ago}{why}"
        on.line((one.run, "strong"), (f"  {told}", "doubt"))
    if (more := len(reading.doubts) - _MOST) > 0:
        on.line((f"and {words.count(more, 'more call')} in doubt", "doubt"))
    for error in found.unreadable:
        on.line((words.line(str(error), 400), "bad"))
    on.line((f"Next: {_next(found)}", "quiet"))


def _next(found: Health) -> str:
    if doubts := found.reading.doubts:
        return f"outlast reconcile {doubts[0].run}"
    if found.statuses.get("waiting"):
        return "outlast runs --waiting"
    if failure := found.reading.failure:
        return f"outlast show {failure.run}"
    return "outlast runs"


def _print_store(on: Screen, found: Health) -> None:
    parts: list[Part] = [("Runs: ", "quiet")]
    for status, number in sorted(found.statuses.items(), key=lambda one: (-one[1], one[0])):
        parts += [(f"{number:,} {status}", STATUS_TONES.get(status, "")), ("   ", "")]
    on.line(*parts)
    if waiting := found.statuses.get("waiting"):
        waits = "run waits" if waiting == 1 else "runs wait"
        on.line((f"{waiting:,} {waits} for a person", "doubt"))
    on.line(("Spent today: ", "quiet"), (words.money(found.today_nano), "money"), (" (UTC)", ""))
    for state in troubled(found.breakers):
        until = f" until {words.clock(state.until)}" if state.status == "open" else ""
        if state.is_due(found.now):
            until = ", and may be tried"
        told = f"{words.line(state.key, 120)}: circuit breaker {_spelled(state.status)}{until}"
        on.line((told, "bad" if state.status == "open" else "doubt"))
    for (_, group), freeze in sorted(found.freezes.items()):
        on.line((f"{words.line(group, 60)}: nobody asks until {words.clock(freeze.until)}", "bad"))


_HEADS: Final = (
    *("USES", "ATTEMPTS", "AMPLIFIED", "OK", "EMPTY", "DEGRADED", "FAILED", "IN DOUBT"),
    *("P50", "P95", "MAX"),
)


def _print_tools(on: Screen, tools: Sequence[Tool], breakers: Sequence[breaker.State]) -> None:
    heads = ("TOOL", *_HEADS, "BREAKER", "ERRORS")
    table = [[(head, "quiet") for head in heads]]
    for tool in tools:
        table.append(_tool_line(tool, breakers))
        if len(tool.ranks) > 1:
            table += [
                _asked_line(f"  {_source_name(rank, one)}", one, breakers)
                for rank, one in sorted(tool.ranks.items())
            ]
    columns(on, table, right=range(1, len(_HEADS) + 1))


def _print_sources(
    on: Screen, sources: Mapping[str, Asked], breakers: Sequence[breaker.State]
) -> None:
    if not sources:
        return
    table = [[(head, "quiet") for head in ("SOURCE", *_HEADS, "BREAKER", "ERRORS")]]
    table += [
        _asked_line(words.line(name, 60), one, breakers) for name, one in sorted(sources.items())
    ]
    columns(on, table, right=range(1, len(_HEADS) + 1))


def _tool_line(tool: Tool, breakers: Sequence[breaker.State]) -> list[Part]:
    ends = tool.ends
    failed = ends.get("failed", 0) + ends.get("given_up", 0)
    doubts = sum(ends.get(end, 0) for end in ("in_doubt", "open_doubts", "happened", "did_not"))
    source = tool.ranks[0].source if 0 in tool.ranks else ""
    share = f" ({tool.degraded_share:.0%})" if ends.get("degraded") else ""
    return [
        (words.line(tool.name, 60), "strong"),
        (f"{tool.uses:,}", ""),
        (f"{tool.attempts:,}", ""),
        (f"{tool.amplification:.2f}×" if tool.called else "", ""),
        *_figures(ends, failed, doubts, share),
        *_times(tool.latency),
        *_standing(source if len(tool.ranks) == 1 else "", breakers),
        (_errors(tool.errors), "quiet"),
    ]


def _source_name(rank: int, asked: Asked) -> str:
    if not rank:
        return "itself"
    return words.line(asked.name, 58) or f"fallback {rank}"  # it was skipped whenever its turn came


def _asked_line(name: str, asked: Asked, breakers: Sequence[breaker.State]) -> list[Part]:
    came = asked.came
    errors = _errors(asked.errors)
    if asked.skipped:
        errors = ", ".join(filter(None, (errors, f"skipped {asked.skipped:,}")))
    each = f"{asked.attempts / asked.uses:.2f}×" if asked.uses else ""
    return [
        (name, ""),
        (f"{asked.uses:,}", ""),
        (f"{asked.attempts:,}", ""),
        (each, ""),
        *_figures(came, came.get("failed", 0), came.get("in_doubt", 0), ""),
        *_times(asked.latency),
        *_standing(asked.source, breakers),
        (errors, "quiet"),
    ]


def _figures(counts: Mapping[str, int], failed: int, doubts: int, share: str) -> list[Part]:
    degraded = counts.get("degraded", 0)
    return [
        (_number(counts.get("ok", 0)), "good"),
        (_number(counts.get("empty", 0)), ""),
        (f"{degraded:,}{share}" if degraded else "", "doubt"),
        (_number(failed), "bad"),
        (_number(doubts), "doubt"),
    ]


def _times(latency: Latency) -> list[Part]:
    told = [latency.percentile(percent) for percent in (50, 95, 100)]
    return [("" if ms is None else words.duration(ms * 1_000_000), "") for ms in told]


def _standing(source: str, breakers: Sequence[breaker.State]) -> list[Part]:
    status = standing(source, breakers) if source else ""
    return [(_spelled(status), {"open": "bad", "half_open": "doubt"}.get(status, "quiet"))]


def _spelled(status: str) -> str:
    return status.replace("_", "-")


def _number(number: int) -> str:
    return f"{number:,}" if number else ""


def _errors(errors: Mapping[str, int]) -> str:
    most = sorted(errors.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{name} {times:,}" for name, times in most)


def _chart(on: Screen, tools: Sequence[Tool]) -> None:
    """Draw a bar for each tool, in which degraded answers are hatched, and what brought none."""
    most = max(tool.uses for tool in tools)
    width = max(len(words.line(tool.name, 30)) for tool in tools)
    for tool in tools:
        cells = max(1, round(tool.uses / most * _BAR))
        bad, fair = (
            min(cells, -(-part * cells // tool.uses))
            for part in (tool.trouble, tool.ends.get("degraded", 0))
        )
        fair = min(fair, cells - bad)
        on.line(
            (f"{words.line(tool.name, 30):<{width}}  ", ""),
            ("█" * (cells - fair - bad), "good"),
            ("▒" * fair, "doubt"),
            ("░" * bad, "bad"),
            (
                f" {tool.trouble / tool.uses:.0%} failed or in doubt",
                "" if tool.trouble else "quiet",
            ),
        )
