"""`outlast label` and `outlast judge report`: what people say, and what they see of it."""

import getpass
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from checked_runs import ASK, AT, label, run_of, verdict, write
from cli.console import documents, typed
from outlast.cli import exits, judge
from outlast.errors import JournalDamaged, JournalTooNew
from outlast.events import AnyEvent, LabelGiven
from outlast.journal import run_stream
from outlast.stores import open_store
from outlast.views.calibration import Interval

M1 = f"{ASK}.m1"


def out(*words: str, code: int = exits.DONE) -> str:
    told = typed(*words)
    assert told.exit_code == code, told.output
    return str(told.stdout)


def checked(said: str, *, good: bool | None = None, **more: Any) -> list[AnyEvent]:
    after = [] if good is None else [label(M1, good=good)]
    return run_of(("A fund.\x1b[2J", [verdict(M1, said, **more)]), after=after)


def fill(url: str, runs: Sequence[list[AnyEvent]]) -> str:
    journal = open_store(url)
    for number, events in enumerate(runs):
        write(journal, f"r{number:02}", events, AT + number * 10**9)
    journal.close()
    return url


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A rule that is calibrated, a judge whose prompt was changed, and a run of two attempts."""
    old: dict[str, Any] = {"check": "fair", "kind": "judge", "model": "m", "cost_nano": 1_500_000}
    runs = [checked("fixable", good=number < 2) for number in range(12)]
    runs += [checked("passed", good=number > 0) for number in range(12)]
    runs += [checked("passed") for _ in range(28)]
    runs += [checked("terminal", good=False, **old), checked("unverified", good=True, **old)]
    runs += [checked("passed", **old | {"version": "v2"})]
    runs.append(
        run_of(
            ("one", [verdict(M1, "fixable"), verdict(M1, "passed", **old | {"version": "v2"})]),
            ("two", [verdict(f"{ASK}.m2", "passed")]),
        )
    )
    return fill(f"sqlite:///{tmp_path}/judged.db", runs)


# ── labelling ───────────────────────────────────────────────────────────────────────────────────


def labels(url: str, run_id: str) -> list[LabelGiven]:
    journal = open_store(url)
    events = [record.event for record in journal.read(run_stream(run_id))]
    journal.close()
    return [event for event in events if isinstance(event, LabelGiven)]


def test_a_label_is_written_and_shown(url: str) -> None:
    """The command says what was labelled, and what comes next; `--attempt` names another answer."""
    shown = out("label", "r55", "--good", "--store", url)
    assert shown == "good  r55  ask-1, attempt 2, accepted  two\nNext: outlast judge report\n"
    more = ("--attempt", "1", "--why", "closed", "--by", "ann")
    shown = out("label", "r55", "--bad", *more, "--store", url)
    assert shown.startswith("bad  r55  ask-1, attempt 1, not accepted  one\n")
    assert labels(url, "r55") == [
        label(f"{ASK}.m2", good=True, by=getpass.getuser()),
        label(M1, good=False, why="closed", by="ann"),
    ]
    assert "\x1b" not in out("label", "r00", "--bad", "--store", url)


def test_programs_get_the_run_and_its_label(url: str) -> None:
    """With `--json` it is the run, and beside it which answer was labelled, and how."""
    told = json.loads(out("label", "r55", "--bad", "--by", "ann", "--json", "--store", url))
    assert (told["id"], told["status"]) == ("r55", "completed")
    assert told["label"] == {
        "ask_id": ASK,
        "call_id": f"{ASK}.m2",
        "attempt": 2,
        "accepted": True,
        "good": False,
        "why": "",
        "by": "ann",
    }


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("r55",), exits.USAGE, "--good or --bad, one of both"),
        (("r55", "--good", "--bad"), exits.USAGE, "--good or --bad, one of both"),
        (("r55", "--good", "--attempt", "3"), exits.USAGE, "no attempt 3"),
        (("none", "--good"), exits.USAGE, "none"),
    ],
)
def test_what_is_no_label_is_refused(
    url: str, words: tuple[str, ...], code: int, told: str
) -> None:
    """The error says what there is, and nothing is written."""
    refused = typed("label", *words, "--store", url)
    assert refused.exit_code == code
    assert told in refused.stderr
    assert labels(url, "r55") == []


# ── the report ──────────────────────────────────────────────────────────────────────────────────


def test_people_see_what_checks_are_worth(url: str) -> None:
    """Verdicts and costs, labels, the corrected rate as a line, and one answer to label next."""
    shown = out("judge", "report", "--store", url)
    lines = shown.splitlines()
    rows = [line.split() for line in lines]
    assert ["grounded", "rule", "finder", "v1", "54", "41", "13"] in rows
    assert any(row[:5] == ["fair", "judge", "finder", "v2", "2"] for row in rows)
    assert any(row[:4] == ["fair", "v1", "(old)", "1"] for row in rows)
    assert ["grounded", "v1", "12", "of", "13", "12", "of", "41", "10", "2", "1"] in [
        row[:11] for row in rows
    ]
    assert "83% (55–95)" in shown
    assert "1 label of answers of which a check could not tell: counted apart." in shown
    assert "grounded: what it objected to is labelled at another rate" in shown
    (drawn,) = [line for line in lines if "●" in line]
    assert "━●" in drawn
    assert sum(drawn.count(part) for part in "─━●") == 40
    assert "good  where it passes 76%: it catches" in drawn
    assert "1 label of version v1 with m tell nothing of version v2 with m" in shown
    assert lines[-1] == "Next: outlast label r55 --attempt 1 --good|--bad"
    assert "\x1b" not in shown


def test_programs_get_one_document(url: str) -> None:
    """Its names are stable, and it has every version, the newest of each check first."""
    found = json.loads(out("judge", "report", "--json", "--store", url))
    assert list(found) == ["at", "runs", "checks", "next"]
    assert found["runs"] == {"read": 56, "unreadable": []}
    assert found["next"] == {"run": "r55", "ask": None, "attempt": 1}
    new, old, rule = found["checks"]
    assert list(rule) == [
        *("agent", "check", "kind", "version", "model", "current", "answers", "passed", "fixable"),
        *("terminal", "unverified", "needs_person", "labels", "precision", "recall"),
        *("disagreement", "cost_usd", "cost_nano", "per_verdict_usd", "per_verdict_nano"),
        *("per_caught_usd", "per_caught_nano", "calibration", "uncalibrated", "labels_needed"),
        "labels_void",
    ]
    assert rule["labels"] == {
        "objected": 12,
        "objected_of": 13,
        "passed": 12,
        "passed_of": 41,
        "undecided": 0,
        "caught": 10,
        "false_alarms": 2,
        "missed": 1,
        "agreed": 11,
    }
    assert rule["precision"] == {"value": 0.8333, "low": 0.552, "high": 0.953}
    rate = rule["calibration"]["pass_rate"]
    assert rate["value"] == round(1 - (13 / 54 * 10 / 12 + 41 / 54 / 12), 4)
    assert rate["low"] < rate["value"] < rate["high"]
    assert (rule["uncalibrated"], rule["model"], rule["cost_nano"]) == (None, None, 0)
    assert (new["version"], new["current"], old["version"], old["current"]) == (
        *("v2", True),
        *("v1", False),
    )
    assert new["calibration"] is None
    assert new["labels_void"] == [{"version": "v1", "model": "m", "labels": 1}]
    assert old["labels_void"] == []
    assert (old["cost_nano"], old["per_verdict_nano"], old["per_caught_nano"]) == (
        *(3_000_000, 1_500_000),
        3_000_000,
    )
    assert (old["labels"]["undecided"], old["unverified"]) == (1, 1)


def test_labels_change_what_is_next(url: str) -> None:
    """What was labelled is not asked for again; what an attempt is named by is said."""
    shown = ""
    for _ in range(2):
        *_, shown = out("judge", "report", "--store", url, "--check", "fair").splitlines()
        out(*shown.removeprefix("Next: outlast ").replace("|--bad", "").split(), "--store", url)
    assert shown == "Next: outlast label r54 --good|--bad"
    *_, shown = out("judge", "report", "--store", url, "--check", "fair").splitlines()
    assert shown == "Next: outlast costs   (every answer that can be labelled is)"


def test_one_agent_and_one_check(url: str) -> None:
    """What is shown can be one check, or the answers of one agent."""
    found = json.loads(out("judge", "report", "--check", "fair", "--json", "--store", url))
    assert [one["check"] for one in found["checks"]] == ["fair", "fair"]
    shown = out("judge", "report", "--agent", "none", "--check", "x", "--store", url)
    assert f"The check x has said nothing of an answer of the agent none in {url} yet." in shown
    assert shown.endswith("Next: outlast judge report\n")


def test_nothing_yet_is_said_kindly(empty: str) -> None:
    """A store without verdicts is no error, and none is made."""
    shown = out("judge", "report", "--store", empty)
    assert shown == (
        f"No check and no judge has said anything of an answer in {empty} yet.\n"
        "Next: outlast runs\n"
    )
    assert documents(out("judge", "report", "--json", "--store", empty))[0]["checks"] == []


def test_without_labels_it_says_so(tmp_path: Path) -> None:
    """Verdicts alone tell nothing of how right they are, and that is said, with what to do."""
    url = fill(f"sqlite:///{tmp_path}/a.db", [checked("fixable"), checked("passed")])
    shown = out("judge", "report", "--store", url)
    assert "Nobody has labelled any of these answers, so nobody knows how right that is." in shown
    assert "label 1 more of answers that it objected to and 1 more of answers" in shown
    assert "PRECISION" not in shown
    assert shown.endswith("Next: outlast label r01 --good|--bad\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JournalDamaged("run:r05", seq=3, why="it was changed"), exits.DAMAGED),
        (JournalTooNew("run:r05", version=2, ours=1), exits.FAILED),
    ],
)
def test_a_run_that_cannot_be_read_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    """All others are counted, and the exit code tells of it."""
    whole = json.loads(out("judge", "report", "--json", "--store", url))
    journal = open_store(url)
    reads = journal.read

    def read(stream: str, **more: Any) -> Any:
        if stream == "run:r05":
            raise error
        return reads(stream, **more)

    monkeypatch.setattr(type(journal), "read", lambda _, stream, **more: read(stream, **more))
    told = typed("judge", "report", "--json", "--store", url)
    assert told.exit_code == code
    found = json.loads(told.stdout)
    assert found["runs"]["read"] == 55
    assert found["runs"]["unreadable"] == [str(error)]
    assert found["checks"][2]["answers"] == whole["checks"][2]["answers"] - 1
    assert "run:r05" in typed("judge", "report", "--store", url).stdout
    journal.close()


def test_a_line_has_its_width() -> None:
    """Whatever the interval, the line is as wide, and its value is on it."""
    for low, at, high in [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.5, 1.0), (0.98, 0.99, 1.0)]:
        line = "".join(text for text, _ in judge._drawn(Interval(at, low, high)))
        assert len(line) == 40
        assert line.count("●") == 1
