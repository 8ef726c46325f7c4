"""`outlast schedule`: what is set, shown and taken away."""

import json
from pathlib import Path

import pytest

import outlast
from cli.console import typed
from outlast.cli.agents import agent_at
from outlast.firing import Firing

MODULE = """
import outlast
reader = outlast.Agent("reader", model="claude-haiku-5-5")

@outlast.flow
async def nightly(run: outlast.Run, given: dict[str, int]) -> int:
    return len(given)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a module of its own, and no store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "scheduled.py").write_text(MODULE)
    return tmp_path


def set_reader(*more: str):
    words = ("schedule", "set", "digest", "scheduled:reader", "What is new?")
    return typed(*words, "--cron", "0 9 * * MON", "--tz", "Europe/Berlin", *more)


def test_a_schedule_is_set_shown_and_taken_away(here: Path) -> None:
    """Each command says what is so now, on the clock of the zone, and what to do next."""
    result = set_reader("--reason", "the meeting", "--by", "ada", "--tenant", "acme")
    assert result.exit_code == 0, result.stderr
    told, step = result.stdout.splitlines()
    assert told.startswith("digest runs reader next at 20")
    assert " 09:00:00 CE" in told
    assert step.startswith("Next: outlast worker scheduled ")
    lines = typed("schedule", "show").stdout.splitlines()
    assert lines[0].split() == ["NAME", "CRON", "ZONE", "AGENT", "NEXT", "LAST", "RUN"]
    assert lines[1].startswith("digest  0 9 * * MON  Europe/Berlin  reader  20")
    assert lines[-1].startswith("Next: outlast worker scheduled ")
    (shape,) = json.loads(typed("schedule", "show", "--json").stdout)
    assert (shape["code"], shape["kind"]) == ("scheduled:reader", "agent")
    assert (shape["input"], shape["tenant"]) == ("What is new?", "acme")
    assert (shape["reason"], shape["by"]) == ("the meeting", "ada")
    assert shape["next_at"].endswith(":00:00.000000Z")
    assert (shape["last_at"], shape["last_run_id"], shape["last_error"]) == (None, None, "")
    result = typed("schedule", "remove", "digest", "--reason", "no longer")
    assert result.stdout.splitlines()[-1] == "Next: outlast schedule show"
    assert typed("schedule", "show").stdout.startswith("No schedule is set")
    again = typed("schedule", "remove", "digest")
    assert (again.exit_code, "no schedule 'digest'" in again.stderr) == (2, True)


def test_what_it_ran_last_is_shown(here: Path) -> None:
    """The last time and its run, or why that was not begun, stand beside the next."""
    set_reader()
    url = "sqlite:///outlast.db"
    with outlast.Outlast(url, model=object()) as app:  # type: ignore[arg-type]
        (digest,) = app.schedules()
        assert digest.next_at
        worker = Firing(app.journal, lambda schedule: agent_at(schedule.code), app.start)
        following = worker.fire(digest.next_at)
        assert following
        (run,) = app.runs()
        lines = typed("schedule", "show").stdout.splitlines()
        assert lines[1].endswith(run.id)
        assert lines[-1] == f"Next: outlast show {run.id}"

        def find(schedule: outlast.Schedule) -> outlast.Agent:
            raise LookupError("no\x1bagent")

        Firing(app.journal, find, app.start).fire(following)
        lines = typed("schedule", "show").stdout.splitlines()
        assert "not begun: LookupError: no" in lines[1]
        assert "\x1b" not in lines[1]


def test_json_of_what_was_set(here: Path) -> None:
    """A flow takes JSON, and `--json` prints what was set."""
    words = ("schedule", "set", "night", "scheduled:nightly", '{"a": 1}', "--cron", "0 1 * * *")
    shape = json.loads(typed(*words, "--json").stdout)
    assert (shape["kind"], shape["input"], shape["tz"]) == ("flow", {"a": 1}, "UTC")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cron", "0 9 * *"), "is no cron expression"),
        (("--tz", "Mars/Olympus"), "is no time zone"),
        (("--cron", ""), "no cron expression"),
    ],
)
def test_what_cannot_be_set_leaves_no_store(here: Path, words: tuple[str, ...], said: str) -> None:
    """A schedule that cannot work is wrong usage, and makes no file."""
    result = set_reader(*words)
    assert (result.exit_code, said in result.stderr) == (2, True)
    assert not (here / "outlast.db").exists()
    assert typed("schedule", "show").exit_code == 0
    assert not (here / "outlast.db").exists()
