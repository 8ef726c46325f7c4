"""`outlast fork` and `outlast replay` on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import outlast
from cli.console import SOURCE, typed
from outlast.checks import Evidence, check
from outlast.cli import exits
from outlast.errors import JournalDamaged
from outlast.journal import run_stream
from outlast.models.script import say
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from outlast.stores.sqlite import SqliteJournal

TALKER = outlast.Agent("talker", model="claude-haiku-5-5", instructions="Talk.", max_tokens=300)
QUIETER = outlast.Agent("talker", model="claude-haiku-5-5", max_tokens=300)


@outlast.tool(effect="once")
def never(word: str) -> str:
    """Never be called."""
    raise AssertionError("a tool was called")


@outlast.flow
def other(run: outlast.Run) -> None:
    """Be no agent."""


@check
def brief(answer: str, evidence: Evidence) -> list[str]:
    """Be brief."""
    return [f"{len(answer)} letters"] if len(answer) > 5 else []


BOTH = [brief, brief]


@pytest.fixture
def talked(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/runs.db"
    with outlast.Outlast(url, model=ScriptedModel(lambda request, attempt: say("Hello."))) as app:
        app.run(TALKER, "Hi.", run_id="r")
        app.run(TALKER, "Ho.", run_id="s")
    return url


def test_fork_says_what_is_next(talked: str) -> None:
    """A fork is told of with what goes on with it, as a page and as a document."""
    said = typed("fork", "r", "--at", "3", "--reason", "why", "--by", "ann", "--store", talked)
    assert said.exit_code == 0, said.output
    assert said.output == (
        "r~3 shares events 1 to 3 of r, and is queued.\nNext: outlast resume r~3\n"
    )
    done = typed("fork", "r", "--at", "7", "--id", "new", "--json", "--store", talked)
    found = json.loads(done.stdout)
    assert (found["id"], found["status"], found["forked_from"]) == ("new", "completed", "r")
    told = typed("fork", "r", "--at", "7", "--id", "new", "--store", talked).output
    assert told.endswith('Next: outlast send new "…"\n')
    log = typed("log", "r~3", "--store", talked).output
    assert "run r up to its event 3" in log
    assert "here the fork begins: why" in log


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["r", "--at", "4"], "the model call ask-1.m1 is in flight"),
        (["r", "--at", "0"], "from 2 to 7"),
        (["none", "--at", "4"], "there is no run 'none'"),
        (["r", "--at", "3", "--id", "s"], "exists with another fork"),
        (["r", "--at", "3", "--id", "-x"], "a run id is"),
    ],
)
def test_what_cannot_be_forked_is_refused(talked: str, words: list[str], told: str) -> None:
    """Nothing is written where a run cannot be forked."""
    said = typed("fork", *words, "--store", talked)
    assert said.exit_code == 2
    assert told in said.output
    assert len(json.loads(typed("runs", "--json", "--store", talked).stdout)) == 2


def test_replay_tells_what_would_be_decided_otherwise(talked: str) -> None:
    """Exit 0 where all is as recorded, and 1 with what is not."""
    same = typed("replay", "r", "--store", talked)
    assert (same.exit_code, same.output) == (
        0,
        "3 decisions, all as recorded.\nNext: outlast log r\n",
    )
    found = json.loads(typed("replay", "r", "--json", "--store", talked).stdout)
    assert (found["decisions"], found["same"], found["differences"]) == (3, 3, [])
    told = typed("replay", "r", "--agent", f"{__name__}:STINGY", "--store", talked)
    assert told.exit_code == 1, told.output
    assert "1 of them otherwise now" in told.output
    assert "recorded  model_call_started" in told.output
    with_flow = typed("replay", "r", "--agent", f"{__name__}:other", "--store", talked)
    assert with_flow.exit_code == 2
    assert typed("replay", "--store", talked).exit_code == 2
    assert typed("replay", "none", "--store", talked).exit_code == 2


STINGY = outlast.Agent(
    "talker",
    model="claude-haiku-5-5",
    instructions="Talk.",
    max_tokens=300,
    budget=outlast.Budget(tokens=10),
)


def test_replay_runs_checks_over_what_was_answered(talked: str) -> None:
    """New checks say which past answers they would reject, of one run or of all of an agent."""
    told = typed("replay", "r", "--checks", f"{__name__}:brief", "--store", talked)
    assert told.exit_code == 0, told.output
    assert "r  event 6, attempt 1: not checked → rejected" in told.output
    assert "brief: 6 letters" in told.output
    assert "1 answer, 1 would change." in told.output
    words = ("--checks", f"{__name__}:BOTH", "--agent", "talker", "--json", "--store", talked)
    found = json.loads(typed("replay", *words).stdout)
    assert (found["answers"], found["changed"], found["says"]) == (2, 2, {"rejected": 2})
    assert [one["run"] for one in found["results"]] == ["r", "s"]
    for wrong in (f"{__name__}:TALKER", f"{__name__}:nothing", __name__):
        assert typed("replay", "--checks", wrong, "--store", talked).exit_code == 2
    assert typed("replay", "--checks", f"{__name__}:brief", "--store", talked).exit_code == 2


class Word(BaseModel):
    """An answer."""

    word: str


@check
def known(answer: Word, evidence: Evidence) -> list[str]:
    """Be a word that is known."""
    return [] if answer.word in evidence.deps else [f"{answer.word} is not known"]


TYPED = outlast.Agent("typed", model="claude-haiku-5-5", answer=Word, checks=[known])


@outlast.flow
async def asking(run: outlast.Run) -> str:
    """Ask."""
    return (await run.ask(TYPED, "Hi.")).word + (await run.ask(TALKER, "Ho."))


def _says(request: dict[str, Any], _: int) -> Any:
    return say('{"word": "yes"}' if "output_config" in request else "Hello.")


HERE = outlast.Outlast("memory://", deps={"yes"})


@pytest.mark.parametrize("what", ["TYPED", "known"])
def test_checks_get_answers_as_their_agent_does(tmp_path: Path, what: str) -> None:
    """By its agent or alone, a check is given objects of the type, and `deps`, of flows as well."""
    url = f"sqlite:///{tmp_path}/runs.db"
    with outlast.Outlast(url, model=ScriptedModel(_says), deps={"yes"}) as app:
        assert app.run(TYPED, "Hi.", run_id="r").status == "completed"
        assert app.run(asking, run_id="s").status == "completed"
    words = ("--checks", f"{__name__}:{what}", "--agent", "typed", "--json", "--store", url)
    found = json.loads(typed("replay", *words).stdout)
    assert [one["run"] for one in found["results"]] == ["r", "s"]
    assert found["says"] == {"accepted": 2}, found
    assert found["changed"] == 0


def test_a_run_that_cannot_be_read_is_left_out_and_named(
    talked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are checked, and the exit code says that the journal is broken."""
    reads = SqliteJournal.read

    def read(self: SqliteJournal, stream: str, **more: Any) -> Any:
        if stream == run_stream("s"):
            raise JournalDamaged(stream, seq=3, why="it was changed")
        return reads(self, stream, **more)

    monkeypatch.setattr(SqliteJournal, "read", read)
    words = ("--checks", f"{__name__}:brief", "--agent", "talker", "--store", talked)
    told = typed("replay", *words)
    assert told.exit_code == exits.DAMAGED, told.output
    assert "1 answer, 1 would change." in told.output
    assert "it was changed" in told.output
    found = json.loads(typed("replay", *words, "--json").stdout)
    assert (found["answers"], len(found["unreadable"])) == (1, 1)


def test_costs_by_run_have_what_is_shared_once(talked: str) -> None:
    """A fork stands with what it spent itself, though its row has the whole."""
    typed("fork", "r", "--at", "7", "--id", "new", "--store", talked)
    found = json.loads(typed("costs", "--by", "run", "--json", "--store", talked).stdout)
    spent = {one["run"]: one["cost_nano"] for one in found}
    shown = json.loads(typed("runs", "--json", "--store", talked).stdout)
    whole = {one["id"]: one["cost_nano"] for one in shown}
    assert spent["r"] == whole["r"] == whole["new"]
    assert spent.get("new", 0) == 0


DYING = """
import os, signal, sys
from outlast.cli import app
from outlast.stores.sqlite import SqliteJournal
left, when, append = [int(sys.argv[1])], sys.argv[2], SqliteJournal.append
def dying(self, commit):
    left[0] -= 1
    if left[0] == 0 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    records = append(self, commit)
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return records
SqliteJournal.append = dying
app(["fork", "r", "--at", "3", "--store", sys.argv[3]])
"""


@pytest.mark.parametrize(
    ("number", "when", "is_there"),
    [("1", "before", False), ("1", "after", False), ("2", "before", False), ("2", "after", True)],
)
def test_a_command_that_is_killed_leaves_no_half_run(
    talked: str, number: str, when: str, *, is_there: bool
) -> None:
    """Killed before or after any commit, a fork is whole or missing; the same again is the run."""
    dead = subprocess.run(
        [sys.executable, "-c", DYING, number, when, talked],
        env=os.environ | {"PYTHONPATH": SOURCE},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    journal = open_store(talked)
    assert (journal.run("r~3") is not None) == is_there
    journal.close()
    assert typed("fork", "r", "--at", "3", "--store", talked).exit_code == 0
    model = ScriptedModel(lambda request, attempt: say("Hello."))
    with outlast.Outlast(talked, model=model) as app:
        assert app.resume("r~3", TALKER).status == "completed"
