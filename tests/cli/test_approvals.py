"""`outlast approve`, `deny` and `runs --waiting`: what people see, and say."""

import getpass
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import outlast
from cli.console import typed
from outlast.cli import exits
from outlast.events import ApprovalGiven, RunParked
from outlast.journal import Commit
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from stubs import MODEL


@outlast.tool(effect="once", approval="always", approval_expires=None)
def mail(to: str, copies: int = 1) -> str:
    """Mail it."""
    return f"mailed to {to}"


clerk = outlast.Agent("clerk", model=MODEL, tools=[mail])


@outlast.flow
async def letter(run: outlast.Run) -> Any:
    return bool(await run.approval("Send it?", context={"to": "ann\x1b[2J"}, name="the letter"))


@outlast.flow
async def parent(run: outlast.Run) -> Any:
    return await run.map(letter, [None])


def mailing(*to: str) -> Any:
    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return say("Done.")
        return say(*(tool_use("mail", {"to": one}) for one in to))

    return ScriptedModel(script)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with runs that wait: of an agent, of a flow, of a parent, and of two questions."""
    url = f"sqlite:///{tmp_path}/a.db"
    for run_id, who, to in [
        ("one", clerk, ("ann",)),
        ("flow", letter, ()),
        ("parent", parent, ()),
        ("two", clerk, ("bob", "carol")),
    ]:
        with outlast.Outlast(url, model=mailing(*to)) as app:
            given = "Go." if who is clerk else None
            assert app.run(who, given, run_id=run_id).status == "waiting"
    return url


def out(*words: str, code: int = exits.DONE) -> str:
    told = typed(*words)
    assert told.exit_code == code, told.output
    return str(told.output)


def given(url: str, run_id: str) -> list[ApprovalGiven]:
    with outlast.Outlast(url, model=mailing()) as app:
        events = [record.event for record in app.log(run_id)]
    return [event for event in events if isinstance(event, ApprovalGiven)]


def test_what_waits_is_listed(url: str) -> None:
    """Runs that wait for a person are listed with each question, the oldest first."""
    told = out("runs", "--waiting", "--store", url)
    runs = [line.split()[0] for line in told.splitlines() if not line.startswith((" ", "Next"))]
    assert runs[:2] == ["one", "flow"]
    assert runs[2].startswith("parent/"), "the question is shown at the run that asks"
    assert runs[3:] == ["two"]
    assert 'May mail be called?  mail(to="ann")' in told
    assert 'Send it?  {"to":"ann' in told
    assert "\x1b" not in told
    assert "--call ask-1.m1.t2" in told
    assert "--name the letter" in told
    assert told.splitlines()[-1] == "Next: outlast approve one"
    assert "parent" not in out("runs", "--waiting", "--store", url, "--agent", "clerk")
    assert "there are more: --limit 2" in out("runs", "--waiting", "--limit", "1", "--store", url)


def test_what_waits_is_listed_for_programs(url: str) -> None:
    """With `--json` each is a run, and what it asks beside it."""
    listed = json.loads(out("runs", "--waiting", "--json", "--store", url))
    one, flow, child, two = listed
    assert (one["id"], one["status"], one["agent"]) == ("one", "waiting", "clerk")
    (asked,) = one["waiting"]
    assert asked.pop("asked_at").endswith("Z")
    assert asked == {
        "question": "May mail be called?",
        "name": None,
        "call_id": "ask-1.m1.t1",
        "tool": "mail",
        "arguments": {"to": "ann"},
        "answer": None,
        "context": None,
        "expires_at": None,
    }
    (asked,) = flow["waiting"]
    assert (asked["name"], asked["context"]) == ("the letter", {"to": "ann\x1b[2J"})
    assert asked["expires_at"].endswith("Z")
    assert child["parent"] == "parent"
    assert [each["call_id"] for each in two["waiting"]] == ["ask-1.m1.t1", "ask-1.m1.t2"]


def test_nothing_waits(empty: str) -> None:
    """Where nobody is asked anything, the command says so."""
    assert "waits for a person" in out("runs", "--waiting", "--store", empty)
    assert out("runs", "--waiting", "--json", "--store", empty) == "[]\n"
    out("runs", "--waiting", "--status", "parked", "--store", empty, code=exits.USAGE)


def test_approved_by_whoever_typed_it(url: str) -> None:
    """Without `--by` it is the login name; the next command is told; nothing waits any more."""
    told = out("approve", "one", "--note", "fine", "--store", url)
    assert told.splitlines()[-1] == "Next: a worker goes on with it, or: outlast resume one"
    (event,) = given(url, "one")
    assert (event.approved, event.note, event.by) == (True, "fine", getpass.getuser())
    assert "one" not in out("runs", "--waiting", "--store", url).split()
    with outlast.Outlast(url, model=mailing("ann")) as app:
        assert app.resume("one", clerk).answer == "Done."


def test_denied(url: str) -> None:
    """`deny` says no, and prints the run for programs."""
    shape = json.loads(out("deny", "flow", "--by", "ann", "--json", "--store", url))
    assert (shape["id"], shape["status"]) == ("flow", "queued")
    (event,) = given(url, "flow")
    assert (event.approved, event.name, event.by) == (False, "the letter", "ann")
    error = out("approve", "flow", "--store", url, code=exits.USAGE)
    assert "was denied by ann at 20" in error


def test_one_of_two(url: str) -> None:
    """Of two questions one is named, and then the other one is the next."""
    error = out("approve", "two", "--store", url, code=exits.USAGE)
    assert "--call or --name" in error
    told = out("approve", "two", "--call", "ask-1.m1.t2", "--store", url)
    assert "it still asks: May mail be called?" in told
    assert told.splitlines()[-1] == "Next: outlast approve two"
    out("deny", "two", "--store", url)
    assert [(one.call_id[-1], one.approved) for one in given(url, "two")] == [
        ("2", True),
        ("1", False),
    ]


def test_edited(url: str, tmp_path: Path) -> None:
    """Arguments are given as JSON or in a file, and are checked by the tool before."""
    edit = ("approve", "one", "--store", url, "--edit-arguments")
    for wrong, why in [
        ("{", "is a JSON object"),
        ("[1]", "a JSON object"),
        ("null", "a JSON object"),
        ('{"copies": 2}', "- to: Field required"),
        ('{"to": "a", "copies": "many"}', "copies"),
        (f"@{tmp_path}/none.json", "cannot be read"),
    ]:
        assert why in out(*edit, wrong, code=exits.USAGE)
    assert given(url, "one") == []
    (tmp_path / "edit.json").write_text('{"to": "carol"}')
    out(*edit, f"@{tmp_path}/edit.json")
    out(*edit, '{"to":"carol"}')
    (event,) = given(url, "one")
    assert bytes(event.arguments) == b'{"to":"carol"}'
    with outlast.Outlast(url, model=mailing("ann")) as app:
        assert app.resume("one", clerk).answer == "Done."
    story = out("log", "one", "--store", url).splitlines()
    (called,) = (line for line in story if "tool_call_started" in line)
    assert 'mail(to="carol")' in called, "the log tells what was called, not what was asked for"


def test_what_cannot_be_answered(url: str) -> None:
    """What is asked of nobody is refused with what to do, as text and as JSON."""
    assert "no run 'none'" in out("approve", "none", "--store", url, code=exits.USAGE)
    told = out("approve", "parent", "--store", url, code=exits.USAGE)
    assert "`outlast approve parent/" in told
    error = json.loads(out("deny", "parent", "--json", "--store", url, code=exits.USAGE))
    assert error["error"]["type"] == "UsageError"


def test_it_is_shown(url: str) -> None:
    """`show` has the open questions and the exact next command, `log` has the command too."""
    told = out("show", "one", "--store", url)
    assert 'asks    May mail be called?  mail(to="ann")' in told
    assert told.splitlines()[-1] == "Next: outlast approve one   (or outlast deny)"
    assert "Next: outlast approve one" in out("log", "one", "--store", url)
    told = out("show", "two", "--store", url)
    assert "Next: outlast approve two --call ask-1.m1.t1" in told
    assert "Next: outlast approve flow" in out("log", "flow", "--store", url)
    assert "Next: outlast runs --waiting" in out("show", "parent", "--store", url)
    (asked,) = json.loads(out("show", "flow", "--json", "--store", url))["waiting"]
    assert asked["question"] == "Send it?"
    out("approve", "flow", "--store", url)
    told = out("show", "flow", "--store", url)
    assert "asks" not in told
    assert told.splitlines()[-1] == "Next: outlast resume flow"
    assert json.loads(out("show", "flow", "--json", "--store", url))["waiting"] == []


def test_a_paused_run_is_among_them(url: str) -> None:
    """A paused run is answered as any, and goes on only when it is resumed."""
    out("pause", "one", "--store", url)
    assert "one  clerk  paused" in out("runs", "--waiting", "--store", url)
    told = out("approve", "one", "--store", url)
    assert (
        told.splitlines()[-1] == "Next: outlast resume one   (it is paused, and goes on from there)"
    )
    with outlast.Outlast(url, model=mailing("ann")) as app:
        assert app.run(clerk, "Go.", run_id="one").status == "paused"
        assert app.resume("one", clerk).answer == "Done."


def test_a_cancelled_run_asks_nothing(url: str) -> None:
    """What was cancelled is not listed, and cannot be answered."""
    out("cancel", "one", "--store", url)
    assert "one" not in out("runs", "--waiting", "--store", url).split()
    out("approve", "one", "--store", url, code=exits.USAGE)


def test_what_a_worker_put_down_is_among_them(url: str) -> None:
    """A run that was parked because its worker was shut down still asks what it asked."""
    with outlast.Outlast(url, model=mailing()) as app:
        row = app.journal.run("one")
        assert row is not None
        parked = RunParked(until=1, why="its worker was shut down")
        app.journal.append(
            Commit(
                stream="run:one",
                events=(parked,),
                at=row.updated_at,
                expected_seq=row.next_seq,
                epoch=app.journal.claim("run:one"),
                row=replace(row, status="parked", wake_at=1),
            )
        )
    assert "one  clerk  parked" in out("runs", "--waiting", "--store", url)
    out("approve", "one", "--store", url)
