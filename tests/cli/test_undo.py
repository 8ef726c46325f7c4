"""`outlast cancel --undo`, as people type it."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import outlast
from cli.console import typed
from outlast.cli import exits
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

MODULE = '''
from pathlib import Path
import outlast

def wrote(file: Path, line: str) -> None:
    with file.open("a") as effects:
        effects.write(line)

def unsend(to: str, context: outlast.ToolContext) -> None:
    """Take it back."""
    if to == "bob":
        raise RuntimeError("he has read it")
    wrote(context.deps, f"unsend {to}\\n")

@outlast.tool(effect="once", undo=unsend)
def send(to: str, context: outlast.ToolContext) -> str:
    """Send it."""
    wrote(context.deps, f"send {to}\\n")
    return "sent"

@outlast.tool(effect="once", approval="always")
def sign(to: str) -> str:
    """Sign it."""
    return to

clerk = outlast.Agent("clerk", model="claude-haiku-5-5", tools=[send, sign])

@outlast.flow
async def office(run: outlast.Run) -> object:
    return await run.map(clerk, ["Go."])

app = outlast.Outlast("memory://", deps=Path(__file__).with_name("effects"))
'''


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module in the current directory, whose application has what its tools need."""
    (tmp_path / "post_desk.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield importlib.import_module("post_desk")
    sys.modules.pop("post_desk", None)


def sending(*to: str) -> Any:
    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) == 1:
            return say(*(tool_use("send", {"to": one}) for one in to))
        return say(tool_use("sign", {"to": to[0]}))

    return ScriptedModel(script)


def run(desk: Any, *to: str, who: Any = None) -> str:
    """Run it until it waits for a person, and return the store."""
    url = f"sqlite:///{desk.app._deps.with_name('a.db')}"
    with outlast.Outlast(url, model=sending(*to), deps=desk.app._deps) as app:
        given = None if who else "Go."
        assert app.run(who or desk.clerk, given, run_id="r").status == "waiting"
    return url


def effects(desk: Any) -> list[str]:
    return sorted(desk.app._deps.read_text().splitlines())


def out(*words: str, code: int = exits.DONE) -> str:
    told = typed(*words)
    assert told.exit_code == code, told.output
    return str(told.output)


def test_what_was_undone_is_told(desk: Any) -> None:
    """With what its tools depend on, as the module's application has it; and `show` says it, too.

    To cancel it again changes nothing.
    """
    url = run(desk, "ann")
    told = out(
        "cancel", "r", "--undo", "--by", "ann", "--reason", "wrong; all of it", "--store", url
    )
    assert told.splitlines() == [
        "r is cancelled, for good.",
        "1 of 1 calls were undone",
        "Next: outlast show r",
    ]
    assert effects(desk) == ["send ann", "unsend ann"]
    assert "1 of 1 calls were undone" in out("show", "r", "--store", url)
    assert "is undone" in out("log", "r", "--store", url)
    out("cancel", "r", "--undo", "--store", url)
    assert effects(desk) == ["send ann", "unsend ann"]


def test_what_could_not_be_undone_is_told(desk: Any) -> None:
    """It is named with its error, and the others are undone all the same."""
    url = run(desk, "ann", "bob")
    told = out("cancel", "r", "--undo", "--json", "--store", url, code=exits.FAILED)
    shape = json.loads(told)
    assert (shape["id"], shape["status"]) == ("r", "cancelled")
    assert shape["why"].endswith(
        "1 of 2 calls were undone; send (ask-1.m1.t2) was not: RuntimeError: he has read it"
    )
    assert effects(desk) == ["send ann", "send bob", "unsend ann"]


def test_nothing_was_to_be_undone(desk: Any) -> None:
    """Where no tool did anything that can be taken back, it says so."""
    url = f"sqlite:///{desk.app._deps.with_name('a.db')}"
    with outlast.Outlast(url, model=sending("ann")) as app:
        app.start(desk.clerk, "Go.", run_id="r")
    assert "nothing was to be undone" in out("cancel", "r", "--undo", "--store", url)


def test_below_a_flow(desk: Any) -> None:
    """What a run below undid is told with its name."""
    url = run(desk, "ann", who=desk.office)
    told = out("cancel", "r", "--undo", "--store", url)
    assert "r/" in told.splitlines()[1]
    assert "1 of 1 calls were undone" in told
    assert effects(desk) == ["send ann", "unsend ann"]


def test_where_the_code_is_not(desk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stays for a worker, and the command to start one is told; nothing is given up."""
    url = run(desk, "ann")
    (tmp_path / "elsewhere").mkdir()
    with monkeypatch.context() as patched:
        patched.chdir(tmp_path / "elsewhere")
        patched.delitem(sys.modules, "post_desk")
        patched.setattr(sys, "path", [one for one in sys.path if one != str(tmp_path)])
        told = out("cancel", "r", "--undo", "--store", url, code=exits.WAITING)
        assert "first to take back what it did: by whoever has its code" in told
        assert told.splitlines()[-1] == "Next: outlast worker post_desk"
        assert json.loads(out("show", "r", "--json", "--store", url))["status"] == "queued"
    assert effects(desk) == ["send ann"]
    assert "1 of 1 calls were undone" in out("cancel", "r", "--undo", "--store", url)
    assert effects(desk) == ["send ann", "unsend ann"]


def test_told_too_late(desk: Any) -> None:
    """A run that has ended without is refused, and says what is not undone."""
    url = run(desk, "ann")
    out("cancel", "r", "--store", url)
    error = out("cancel", "r", "--undo", "--store", url, code=exits.USAGE)
    assert "what could have been: send (ask-1.m1.t1)" in error
    assert effects(desk) == ["send ann"]
