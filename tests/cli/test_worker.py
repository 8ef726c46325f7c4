"""`outlast worker` and `outlast start`: what is driven, what is told, and what is wrong usage."""

import json
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import outlast
from cli.console import documents, typed

MODULE = """
import outlast
from outlast.models.script import say
from outlast.models.scripted import ScriptedModel

app = outlast.Outlast("sqlite:///own.db", model=ScriptedModel(lambda request, attempt: say("42")))
reader = outlast.Agent("reader", model="claude-haiku-5-5")

@outlast.flow
async def nightly(run: outlast.Run, given: dict[str, int]) -> int:
    return len(given)

@outlast.flow
async def broken(run: outlast.Run) -> None:
    raise ValueError("it broke")
"""

FLOWS = """
import outlast

@outlast.flow
async def nightly(run: outlast.Run, given: dict[str, int]) -> int:
    return len(given)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with modules of its own, and no store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in (
        ("worked_app", MODULE),
        ("worked_flows", FLOWS),
        ("worked_twice", MODULE + '\nother = outlast.Outlast("memory://", model=app)\n'),
        ("worked_none", "import outlast\n"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


OWN = ("--store", "sqlite:///own.db")
IDLE = ("--until-idle",)


def test_what_was_started_is_driven(here: Path) -> None:
    """Runs are left in the store, and a worker drives each with the module's own application."""
    told = typed("start", "worked_app:reader", "What is it?", "--id", "r", *OWN)
    assert told.exit_code == 0, told.stderr
    assert told.stdout.splitlines() == [
        "r is queued, until a worker drives it.",
        "Next: outlast worker worked_app",
    ]
    given = typed("start", "worked_app:nightly", '{"a": 1}', "--id", "n", "--json", *OWN)
    assert json.loads(given.stdout)["status"] == "queued"
    assert typed("start", "worked_app:broken", "--id", "b", *OWN).exit_code == 0
    before = signal.getsignal(signal.SIGTERM)
    ended = typed("worker", "worked_app", *IDLE)
    assert ended.exit_code == 0, ended.stderr
    assert signal.getsignal(signal.SIGTERM) is before
    lines = ended.stdout.splitlines()
    assert lines[0] == "Driving the runs of sqlite:///own.db until Ctrl-C."
    assert lines[1] == "It knows broken, nightly, reader."
    assert any(line.startswith("✓ r completed") and "$" in line for line in lines)
    assert any(line.startswith("✗ b failed: ") and "it broke" in line for line in lines)
    assert lines[-2:] == ["The worker has ended: 2 completed, 1 failed.", "Next: outlast runs"]
    assert "42" in typed("show", "r", *OWN).stdout


def test_json_is_an_object_a_line(here: Path) -> None:
    """Programs are told of the worker's begin and end, and of each run's between."""
    typed("start", "worked_app:reader", "What is it?", "--id", "r", *OWN)
    told = documents(typed("worker", "worked_app:app", "--json", *IDLE).stdout)
    assert [one["type"] for one in told] == [
        "worker_started",
        "run_begun",
        "run_rests",
        "worker_ended",
    ]
    assert told[0]["worker"] == told[3]["worker"]
    assert told[0]["store"] == "sqlite:///own.db"
    assert told[1]["id"] == "r"
    rests = {key: told[2][key] for key in ("id", "status", "why")}
    assert rests == {"id": "r", "status": "completed", "why": ""}
    assert told[2]["cost_nano"] > 0


def test_a_time_to_come(here: Path) -> None:
    """A run of later is not driven now, and its time is said, whatever its zone."""
    later = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    told = typed("start", "worked_app:reader", "Hm?", "--id", "r", "--at", later.isoformat(), *OWN)
    assert told.exit_code == 0, told.stderr
    assert told.stdout.startswith("r is parked: starts at ")
    assert typed("worker", "worked_app", *IDLE).exit_code == 0
    (run,) = json.loads(typed("runs", "--json", *OWN).stdout)
    assert run["status"] == "parked"
    assert datetime.fromisoformat(run["wake_at"]) == later
    local = later.astimezone().replace(tzinfo=None).isoformat()
    typed("start", "worked_app:reader", "Hm?", "--id", "s", "--at", local, *OWN)
    runs = {one["id"]: one for one in json.loads(typed("runs", "--json", *OWN).stdout)}
    assert runs["s"]["wake_at"] == runs["r"]["wake_at"]


def test_only_what_was_named_is_driven(here: Path) -> None:
    """A worker of one name leaves other runs alone, with a reason that says what to do."""
    typed("start", "worked_app:reader", "Hm?", "--id", "r", *OWN)
    typed("start", "worked_flows:nightly", "{}", "--id", "n", *OWN)
    key = {"ANTHROPIC_API_KEY": "sk-test"}
    ended = typed("worker", "worked_flows:nightly", "--json", *IDLE, *OWN, **key)
    assert ended.exit_code == 0, ended.stderr
    assert [one["id"] for one in documents(ended.stdout) if one["type"] == "run_rests"] == ["n"]
    with outlast.Outlast("sqlite:///own.db", model=object()) as app:  # type: ignore[arg-type]
        assert app.get("r").why == (
            "no worker has worked_app:reader; start one that does: outlast worker worked_app"
        )


def test_caps_are_taken(here: Path) -> None:
    """All options of how many are understood, and everything is driven all the same."""
    for n in range(5):
        typed("start", "worked_app:nightly", "{}", "--id", f"n{n}", "--tenant", "a:b", *OWN)
    caps = ("--cap", "agent:nightly=2", "--cap", "tenant:a:b=1", "--per-agent", "3")
    more = ("--per-tenant", "2", "--at-once", "4", "--lease", "2s", "--grace", "1m")
    told = documents(typed("worker", "worked_app", *caps, *more, "--json", *IDLE).stdout)
    kinds = [one["type"] for one in told if one["type"].startswith("run_")]
    assert kinds == ["run_begun", "run_rests"] * 5, "one of the tenant at a time"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("worker",), "Missing argument"),
        (("worker", "worked_nowhere"), "worked_nowhere"),
        (("worker", "worked_none"), "declare no agent and no flow: write one with"),
        (("worker", "worked_twice"), "there are several: worked_twice:app, worked_twice:other"),
        (("worker", "worked_app:nobody"), "but not there"),
        (("worker", "worked_app:say"), "is no Outlast, no agent and no flow, but of type"),
        (("worker", "worked_flows"), "ANTHROPIC_API_KEY"),
        (("worker", "worked_app", "--cap", "reader=3"), "write agent:NAME=N or tenant:NAME=N"),
        (("worker", "worked_app", "--cap", "agent:reader=0"), "with N above 0"),
        (("worker", "worked_app", "--cap", "agent:reader=²"), "with N above 0"),
        (("worker", "worked_app", "--cap", "agent:=1"), "write agent:NAME=N"),
        (("worker", "worked_app", "--at-once", "0"), "--at-once"),
        (("worker", "worked_app", "--lease", "0.1s"), "give at least 0.3 s"),
        (("worker", "worked_app", "--lease", "soon"), "--lease"),
        (("start", "worked_app:reader", "x", "--at", "tomorrow"), "write 2026-12-24T18:00"),
        (("start", "worked_app:reader", "x", "--id", "no id"), "a run id is"),
        (("start", "worked_app:reader"), "reader"),
        (("start", "worked_app:nobody", "x"), "nobody"),
        (("start", "worked_flows:nightly", "[1]"), "nightly"),
    ],
)
def test_wrong_usage_says_what_is_right(here: Path, words: tuple[str, ...], said: str) -> None:
    """What cannot work is wrong usage, and the message says how to go on."""
    result = typed(*words)
    assert (result.exit_code, result.exception) == (2, result.exception), result.output
    assert isinstance(result.exception, SystemExit | None)
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr


def test_the_application_of_several_can_be_named(here: Path) -> None:
    """Where a module has several, `MODULE:APP` says which."""
    assert typed("worker", "worked_twice:app", *IDLE).exit_code == 0


def test_a_module_s_application_is_used(here: Path) -> None:
    """`start` writes into its store, and a worker told of another store says that it has one."""
    typed("start", "worked_app:reader", "What?", "--id", "r")
    assert (here / "own.db").exists()
    assert not (here / "outlast.db").exists()
    told = typed("worker", "worked_app", *IDLE, "--store", "sqlite:///other.db")
    assert told.exit_code == 2
    assert "is on sqlite:///own.db, not on sqlite:///other.db" in told.stderr
    typed("worker", "worked_app", *IDLE)
    told = typed("start", "worked_app:reader", "What?", "--id", "r")
    assert "r is completed already, and is not run again." in told.stdout
    assert told.stdout.splitlines()[-1] == "Next: outlast show r"


def test_a_cap_of_nobody_is_refused(here: Path) -> None:
    """A mistyped agent is no cap at all, so it is an error that names the known ones."""
    told = typed("worker", "worked_app", *IDLE, "--cap", "agent:readr=1")
    assert told.exit_code == 2
    assert "agent:readr=…: this worker knows broken, nightly, reader" in told.stderr
