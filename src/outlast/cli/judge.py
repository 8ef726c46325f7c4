"""`outlast judge report`: how often checks and judges are right, by what people say."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from outlast.cli import exits, shapes, words
from outlast.cli.reading import read_runs
from outlast.cli.screen import Screen, columns, screen
from outlast.cli.stores import opened
from outlast.cli.words import Part
from outlast.errors import JournalDamaged, JournalTooNew
from outlast.views.calibration import Calibration, Interval, Uncalibrated
from outlast.views.verdicts import KINDS, Judged, Reading, Worth, current, void

_BAR: Final = 40


class Report(msgspec.Struct, kw_only=True):
    """What is shown."""

    store: str
    runs_read: int
    unreadable: Sequence[JournalDamaged | JournalTooNew]
    rows: Sequence[Judged]
    newest: Mapping[tuple[str, str], Judged]
    next: Worth | None

    def is_newest(self, row: Judged) -> bool:
        """Return whether it is the version that judges now."""
        return self.newest[row.agent, row.check] is row


def show_report(store: str, *, agent: str | None, check: str | None, as_json: bool) -> int:
    """Print how checks and judges do, and return the exit code."""
    on = screen()
    with opened(store) as journal:
        reading = Reading(agent or "", check or "")
        runs = journal.updated(0)
        unreadable = read_runs(journal, reading, runs, None if as_json else on)
    rows = reading.rows()
    newest = current(rows)
    report = Report(
        store=journal.url,
        runs_read=len(runs) - len(unreadable),
        unreadable=unreadable,
        rows=rows,
        newest=newest,
        next=reading.worth(newest.values()),
    )
    if as_json:
        sys.stdout.write(shapes.encode(_shape(report)).decode() + "\n")
    else:
        _print(on, report, agent, check)
    return max(map(exits.of_error, unreadable), default=exits.DONE)


# ── for programs ────────────────────────────────────────────────────────────────────────────────


def _shape(report: Report) -> dict[str, Any]:
    return {
        "at": shapes.moment(time.time_ns()),
        "runs": {
            "read": report.runs_read,
            "unreadable": [str(error) for error in report.unreadable],
        },
        "checks": [_row_shape(report, row) for row in report.rows],
        "next": report.next and _worth(report.next),
    }


def _worth(one: Worth) -> dict[str, Any]:
    return {"run": one.run, "ask": one.ask or None, "attempt": one.attempt or None}


def _row_shape(report: Report, row: Judged) -> dict[str, Any]:
    table = row.table
    return {
        "agent": row.agent,
        "check": row.check,
        "kind": row.kind,
        "version": row.version,
        "model": row.model or None,
        "current": report.is_newest(row),
        "answers": row.answers,
        **{kind: row.verdicts.get(kind, 0) for kind in KINDS},
        "labels": {
            "objected": table.objected_labelled,
            "objected_of": table.objected,
            "passed": table.passed_labelled,
            "passed_of": table.passed,
            "undecided": row.undecided,
            "caught": row.caught,
            "false_alarms": row.false_alarms,
            "missed": row.missed,
            "agreed": row.agreed,
        },
        "precision": _interval_shape(table.precision),
        "recall": _interval_shape(table.recall),
        "disagreement": _interval_shape(table.disagreement),
        **_money("cost", row.cost_nano),
        **_money("per_verdict", row.nano_per_verdict),
        **_money("per_caught", row.nano_per_caught),
        **_calibration_shape(report, row),
    }


def _money(name: str, nano: int | None) -> dict[str, Any]:
    return {f"{name}_usd": None if nano is None else shapes.dollars(nano), f"{name}_nano": nano}


def _interval_shape(one: Interval | None) -> dict[str, float] | None:
    if one is None:
        return None
    return {"value": round(one.value, 4), "low": round(one.low, 4), "high": round(one.high, 4)}


def _calibration_shape(report: Report, row: Judged) -> dict[str, Any]:
    told = row.calibration
    done = told if isinstance(told, Calibration) else None
    lacks = told if isinstance(told, Uncalibrated) else Uncalibrated(why="")
    return {
        "calibration": done
        and {
            "pass_rate": _interval_shape(done.pass_rate),
            "sensitivity": round(done.sensitivity, 4),
            "specificity": round(done.specificity, 4),
        },
        "uncalibrated": lacks.why or None,
        "labels_needed": {"objected": lacks.objected_needed, "passed": lacks.passed_needed},
        "labels_void": [
            {"version": one.version, "model": one.model or None, "labels": one.table.labelled}
            for one in (void(report.rows, row) if report.is_newest(row) else ())
        ],
    }


# ── for people ──────────────────────────────────────────────────────────────────────────────────


def _print(on: Screen, report: Report, agent: str | None, check: str | None) -> None:
    if report.rows:
        _print_verdicts(on, report)
        _print_people(on, report)
        _print_rates(on, report)
    else:
        whose = f" {words.line(check, 60)}" if check else ""
        of = f" of the agent {words.line(agent, 60)}" if agent else ""
        what = f"The check{whose}" if check else "No check and no judge"
        said = "has said nothing" if check else "has said anything"
        on.line((f"{what} {said} of an answer{of} in {report.store} yet.", ""))
    for error in report.unreadable:
        on.line((words.line(str(error), 400), "bad"))
    on.line((f"Next: {_next(report, agent or check)}", "quiet"))


def _next(report: Report, chosen: str | None) -> str:
    if not report.rows:
        # Without anything of it, one sees first what there is.
        return "outlast judge report" if chosen else "outlast runs"
    if report.next is None:
        return "outlast costs   (every answer that can be labelled is)"
    which = f" --ask {shlex.quote(report.next.ask)}" if report.next.ask else ""
    which += f" --attempt {report.next.attempt}" if report.next.attempt else ""
    return f"outlast label {report.next.run}{which} --good|--bad"


_SAID: Final = {
    "passed": ("PASSED", "good"),
    "fixable": ("FIXABLE", "bad"),
    "terminal": ("TERMINAL", "bad"),
    "unverified": ("UNVERIFIED", "doubt"),
    "needs_person": ("PERSON", "doubt"),
}


def _print_verdicts(on: Screen, report: Report) -> None:
    said = [_SAID[kind][0] for kind in KINDS]
    heads = ["CHECK", "KIND", "AGENT", "VERSION", "ANSWERS", *said, "COST", "EACH", "MODEL"]
    table: list[list[Part]] = [[(head, "quiet") for head in heads]]
    table += [
        [
            (words.line(row.check, 40), "strong"),
            (row.kind, ""),
            (words.line(row.agent, 40), "quiet"),
            (_version(report, row), "" if report.is_newest(row) else "quiet"),
            (f"{row.answers:,}", ""),
            *((_number(row.verdicts.get(kind, 0)), _SAID[kind][1]) for kind in KINDS),
            (words.money(row.cost_nano) if row.cost_nano else "", "money"),
            (words.money(row.nano_per_verdict or 0) if row.cost_nano else "", "money"),
            (words.line(row.model, 40), "quiet"),
        ]
        for row in report.rows
    ]
    columns(on, table, right=range(4, 12))


def _print_people(on: Screen, report: Report) -> None:
    labelled = [row for row in report.rows if row.table.labelled or row.undecided]
    if not labelled:
        told = "Nobody has labelled any of these answers, so nobody knows how right that is."
        on.line((told, "doubt"))
        return
    heads = ["CHECK", "VERSION", "LABELLED: OBJECTED", "PASSED", "CAUGHT", "FALSE ALARMS"]
    heads += ["MISSED", "PRECISION", "RECALL", "DISAGREES", "PER CAUGHT"]
    table: list[list[Part]] = [[(head, "quiet") for head in heads]]
    table += [_people_line(report, row) for row in labelled]
    columns(on, table, right=range(2, len(heads)))
    if any(row.undecided for row in labelled):
        apart = sum(row.undecided for row in labelled)
        told = f"{words.count(apart, 'label')} of answers of which a check could not tell"
        on.line((f"{told}: counted apart.", "quiet"))
    if lopsided := [row for row in labelled if _is_lopsided(row)]:
        names = ", ".join(dict.fromkeys(words.line(row.check, 40) for row in lopsided))
        told = (
            f"{names}: what it objected to is labelled at another rate than what it passed, so "
            "RECALL and DISAGREES are off; the rates below allow for that."
        )
        on.line((told, "doubt"))


def _people_line(report: Report, row: Judged) -> list[Part]:
    table, per_caught = row.table, row.nano_per_caught
    return [
        (words.line(row.check, 40), "strong"),
        (_version(report, row), "" if report.is_newest(row) else "quiet"),
        (f"{table.objected_labelled:,} of {table.objected:,}", ""),
        (f"{table.passed_labelled:,} of {table.passed:,}", ""),
        (_number(row.caught), "good"),
        (_number(row.false_alarms), "bad"),
        (_number(row.missed), "bad"),
        (_spread(table.precision), ""),
        (_spread(table.recall), ""),
        (_spread(table.disagreement), ""),
        (words.money(per_caught) if per_caught else "", "money"),
    ]


def _is_lopsided(row: Judged) -> bool:
    """Return whether of what it objected to another part is labelled than of what it let pass."""
    table = row.table
    if not table.objected or not table.passed or not table.labelled:
        return False
    one = table.objected_labelled / table.objected
    other = table.passed_labelled / table.passed
    return max(one, other) > 1.5 * min(one, other)


def _print_rates(on: Screen, report: Report) -> None:
    """Draw which share of the answers is good, between what that is, and what the check says."""
    shown = [row for row in report.rows if report.is_newest(row)]
    names = {_key(row): _name(report, row) for row in shown}
    width = max(len(name) for name in names.values())
    for row in shown:
        name = (f"{names[_key(row)]:<{width}}  ", "strong")
        told = row.calibration
        if isinstance(told, Calibration):
            _print_rate(on, name, row, told)
        else:
            on.line(name, (_lacking(report, row, told), "doubt"))


def _print_rate(on: Screen, name: Part, row: Judged, told: Calibration) -> None:
    table = row.table
    raw = table.passed / (table.objected + table.passed)
    rate = told.pass_rate
    beside = (
        f"  where it passes {raw:.0%}: it catches {told.sensitivity:.0%} of the bad, and passes "
        f"{told.specificity:.0%} of the good"
    )
    on.line(name, *_drawn(rate), (f" {_spread(rate)} good", "strong"), (beside, "quiet"))


def _drawn(rate: Interval) -> list[Part]:
    """Return a line from 0 to 1, on which the interval is thick, and the value a dot."""
    low, at, high = (min(_BAR - 1, int(x * _BAR)) for x in (rate.low, rate.value, rate.high))
    return [
        ("─" * low, "quiet"),
        ("━" * (at - low), "good"),
        ("●", "good"),
        ("━" * (high - at), "good"),
        ("─" * (_BAR - 1 - high), "quiet"),
    ]


def _lacking(report: Report, row: Judged, told: Uncalibrated) -> str:
    parts = [f"not calibrated: {told.why}"]
    if others := void(report.rows, row):
        those = ", ".join(
            f"{words.count(one.table.labelled, 'label')} of {_versioned(one)}" for one in others
        )
        parts.append(f"{those} tell nothing of {_versioned(row)}")
    needed = [
        f"{number} more of answers that it {did}"
        for number, did in (
            (told.objected_needed, "objected to"),
            (told.passed_needed, "passed"),
        )
        if number
    ]
    if needed:
        parts.append(f"label {' and '.join(needed)}")
    return "; ".join(parts)


def _versioned(row: Judged) -> str:
    model = f" with {words.line(row.model, 40)}" if row.model else ""
    return f"version {words.line(row.version, 12)}{model}"


def _version(report: Report, row: Judged) -> str:
    old = "" if report.is_newest(row) else " (old)"
    return f"{words.line(row.version, 12)}{old}"


def _key(row: Judged) -> tuple[str, str]:
    return row.agent, row.check


def _name(report: Report, row: Judged) -> str:
    """Return what a check is called, with its agent where several have one of that name."""
    several = sum(check == row.check for _, check in report.newest) > 1
    name = words.line(row.check, 30)
    return f"{name} of {words.line(row.agent, 30)}" if several else name


def _spread(one: Interval | None) -> str:
    """Return a share and its interval: `83% (66–93)`."""
    if one is None:
        return ""
    return f"{one.value:.0%} ({100 * one.low:.0f}–{100 * one.high:.0f})"


def _number(number: int) -> str:
    return f"{number:,}" if number else ""
