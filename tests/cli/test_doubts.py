"""`outlast reconcile`: what people say of calls in doubt, as they type it."""

import getpass
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import outlast
from cli.console import typed
from outlast.cli import exits
from outlast.events import ToolCallReconciled
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from stubs import MODEL


@outlast.tool(effect="once")
def pay(to: str, pounds: int = 5) -> str:
    """Pay somebody."""
    raise TimeoutError("the bank did not reply")


def find_mail(to: str) -> None:
    """Say that nobody knows."""


@outlast.tool(effect="once", reconcile=find_mail)
def mail(to: str) -> str:
    """Mail somebody."""
    raise TimeoutError("sent, and nothing came")


clerk = outlast.Agent("clerk", model=MODEL, tools=[pay, mail])


@outlast.flow
async def parent(run: outlast.Run) -> Any:
    return await run.map(clerk, ["Go."])


def paying(*to: str, tool: str = "pay") -> Any:
    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return say("Done.")
        return say(*(tool_use(tool, {"to": one}) for one in to))

    return ScriptedModel(script)


TO = {"one": ("ann",), "two": ("bob", "carol")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with runs that wait: of one call in doubt, of two, and of one below a flow."""
    file = tmp_path_factory.mktemp("doubts") / "a.db"
    url = f"sqlite:///{file}"
    for run_id, to in TO.items():
        with outlast.Outlast(url, model=paying(*to)) as app:
            assert app.run(clerk, "Go.", run_id=run_id).status == "waiting"
    with outlast.Outlast(url, model=paying("dan", tool="mail")) as app:
        assert app.run(parent, run_id="parent").status == "waiting"
    return file


@pytest.fixture
def url(made: Path, tmp_path: Path) -> str:
    """A copy of that store."""
    return f"sqlite:///{shutil.copy(made, tmp_path)}"


def out(*words: str, code: int = exits.DONE) -> str:
    told = typed(*words)
    assert told.exit_code == code, told.output
    return str(told.output)


def reconciled(url: str, run_id: str) -> list[ToolCallReconciled]:
    with outlast.Outlast(url, model=paying()) as app:
        events = [record.event for record in app.log(run_id)]
    return [event for event in events if isinstance(event, ToolCallReconciled)]


def results(url: str, run_id: str) -> list[Any]:
    """Go on with a run to its end, and return what Claude is told of its calls."""
    seen: list[Any] = []

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            seen[:] = request["messages"][-1]["content"]
            return say("Done.")
        return say(*(tool_use("pay", {"to": one}) for one in TO[run_id]))

    with outlast.Outlast(url, model=ScriptedModel(script)) as app:
        run = app.resume(run_id, clerk)
        assert run.answer == "Done.", run.why
    return [one for one in seen if one["type"] == "tool_result"]


def test_doubts_are_listed(url: str) -> None:
    """Runs with a call in doubt are listed with those that ask something, the oldest first."""
    told = out("runs", "--waiting", "--store", url)
    runs = [line.split()[0] for line in told.splitlines() if not line.startswith((" ", "Next"))]
    assert runs[:2] == ["one", "two"]
    assert runs[2].startswith("parent/")
    assert 'Did pay happen?  pay(to="ann")  --call ask-1.m1.t1' in told
    assert told.splitlines()[-1].startswith("Next: outlast reconcile one ")
    listed = json.loads(out("runs", "--waiting", "--json", "--store", url))
    assert [len(one["doubts"]) for one in listed] == [1, 2, 1]
    assert [one["waiting"] for one in listed] == [[], [], []]
    (doubt,) = listed[0]["doubts"]
    assert doubt.pop("since").endswith("Z")
    assert len(doubt.pop("idempotency_key")) == 32
    assert doubt == {"call_id": "ask-1.m1.t1", "tool": "pay", "arguments": {"to": "ann"}}


def test_it_is_shown(url: str) -> None:
    """`show` has the calls in doubt, and the command; so has `log`."""
    told = out("show", "one", "--store", url)
    assert 'asks    Did pay happen?  pay(to="ann")' in told
    assert told.splitlines()[-1].startswith("Next: outlast reconcile one ")
    assert "Next: outlast reconcile one " in out("log", "one", "--store", url)
    (doubt,) = json.loads(out("show", "one", "--json", "--store", url))["doubts"]
    assert doubt["error"] == "TimeoutError: the bank did not reply"
    out("reconcile", "one", "--outcome", "did-not", "--store", url)
    shown = json.loads(out("show", "one", "--json", "--store", url))
    assert (shown["doubts"], shown["in_doubt"]) == ([], [])


def test_without_an_outcome_it_says_what_to_look_for(url: str) -> None:
    """It shows the call, since when and why nobody knows, its key, and both commands."""
    told = out("reconcile", "one", "--store", url)
    assert 'pay(to="ann")' in told
    assert "the bank did not reply" in told
    (doubt,) = json.loads(out("reconcile", "one", "--json", "--store", url))["doubts"]
    assert doubt["idempotency_key"] in told
    assert "outlast reconcile one --outcome did-not" in told
    assert reconciled(url, "one") == []
    told = out("reconcile", "two", "--call", "ask-1.m1.t2", "--store", url)
    assert "carol" in told
    assert "bob" not in told
    out("reconcile", "two", "--call", "none", "--store", url, code=exits.USAGE)


def test_what_its_function_could_not_say_is_told(url: str) -> None:
    """Where `reconcile=` could not tell, that is among what the person sees."""
    below = json.loads(out("runs", "--waiting", "--json", "--store", url))[-1]["id"]
    assert "cannot tell" in out("reconcile", below, "--store", url)
    error = out("reconcile", "parent", "--outcome", "did-not", "--store", url, code=exits.USAGE)
    assert f"`outlast reconcile {below}` shows it" in error


def test_it_happened(url: str) -> None:
    """Claude gets what the call gave as if it had come at once, and nobody pays twice."""
    told = out("reconcile", "one", "--outcome", "happened", "--result", "paid £5", "--store", url)
    assert told.splitlines()[-1] == "Next: a worker goes on with it, or: outlast resume one"
    (event,) = reconciled(url, "one")
    assert (event.outcome, event.by, event.function) == ("happened", getpass.getuser(), False)
    (result,) = results(url, "one")
    assert result["content"] == "paid £5"
    assert "is_error" not in result


def test_it_happened_and_nobody_knows_what_it_gave(url: str) -> None:
    """Without a result Claude is told that it happened, and the note."""
    out("reconcile", "one", "--outcome", "happened", "--note", "See the book.", "--store", url)
    (result,) = results(url, "one")
    assert "found out that it happened; its result is lost. See the book." in result["content"]
    assert result["is_error"]


def test_it_did_not_happen(url: str) -> None:
    """Claude is told that it did not, as an error."""
    shape = out("reconcile", "one", "--outcome", "did-not", "--by", "ann", "--json", "--store", url)
    assert (json.loads(shape)["id"], json.loads(shape)["status"]) == ("one", "queued")
    (result,) = results(url, "one")
    assert "did not happen" in result["content"]
    assert result["is_error"]


@pytest.mark.parametrize(
    ("typed_as", "content"),
    [
        ('{"id": 7}', '{"id":7}'),
        ("[1, 2]", "[1,2]"),
        ("7", "7"),
        ("null", "null"),
        ("12E4", "12E4"),
        ("1.10", "1.10"),
        ('"quoted"', "quoted"),
        ("{not json", "{not json"),
        ("@FILE", "from a file"),
    ],
)
def test_results_are_text_or_json(url: str, tmp_path: Path, typed_as: str, content: str) -> None:
    """`--result` takes a text, JSON, or a file with either; numbers stay as they are spelled."""
    (tmp_path / "r.txt").write_text("from a file")
    given = typed_as.replace("FILE", f"{tmp_path}/r.txt")
    out("reconcile", "one", "--outcome", "happened", "--result", given, "--store", url)
    (result,) = results(url, "one")
    assert result["content"] == content


def test_one_of_two(url: str) -> None:
    """Of two calls one is named; Claude is told once both are settled."""
    error = out("reconcile", "two", "--outcome", "did-not", "--store", url, code=exits.USAGE)
    assert "--call CALL_ID" in error
    second = ("--call", "ask-1.m1.t2", "--store", url)
    told = out("reconcile", "two", "--outcome", "did-not", *second)
    assert 'still in doubt: Did pay happen?  pay(to="bob")' in told
    assert told.splitlines()[-1].startswith("Next: outlast reconcile two ")
    with outlast.Outlast(url, model=paying("bob", "carol")) as app:
        assert app.resume("two", clerk, wait_s=0.0).status == "waiting"
    out("reconcile", "two", "--outcome", "happened", "--result", "ok", "--store", url)
    assert [one["content"][:8] for one in results(url, "two")] == ["ok", "This cal"]


def test_the_first_answer_counts(url: str) -> None:
    """Said again it changes nothing; said otherwise it is refused, with who was first and when."""
    said = ("reconcile", "one", "--outcome", "happened", "--result", "ok", "--store", url)
    out(*said, "--by", "ann")
    out(*said, "--by", "bob")
    error = out("reconcile", "one", "--outcome", "did-not", "--store", url, code=exits.USAGE)
    assert "was said to have happened by ann at 20" in error
    assert "the first answer counts" in error
    error = out("reconcile", "one", "--outcome", "happened", "--store", url, code=exits.USAGE)
    assert "with another result" in error
    assert len(reconciled(url, "one")) == 1
    results(url, "one")
    out(*said)  # also when the run has ended


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["none", "--outcome", "did-not"], "no run 'none'"),
        (["one", "--outcome", "perhaps"], "give 'happened' or 'did-not'"),
        (["one", "--outcome", "did-not", "--result", "x"], "has no result"),
        (["one", "--result", "x"], "--outcome happened, or did-not"),
        (["one", "--outcome", "happened", "--result", "@none"], "cannot be read"),
        (["one", "--outcome", "happened", "--result", "a\udcff"], "cannot be written as UTF-8"),
        (["one", "--outcome", "did-not", "--call", "ask-9"], "no call 'ask-9' in doubt"),
        (["one", "--outcome", "did-not", "--dry-run"], "--dry-run for --execute"),
        (["one", "--tool", "pay"], "--tool is for --plan"),
        ([], "needs the ID of a run"),
    ],
)
def test_what_cannot_be_said(url: str, words: list[str], why: str) -> None:
    """What makes no sense is refused with what to do, and nothing is written."""
    assert why in out("reconcile", *words, "--store", url, code=exits.USAGE)
    assert reconciled(url, "one") == []


def test_where_nothing_is_in_doubt(url: str) -> None:
    """A run that ended, was cancelled, or has nothing in doubt is told nothing."""
    out("cancel", "one", "--store", url)
    error = out("reconcile", "one", "--outcome", "did-not", "--store", url, code=exits.USAGE)
    assert "is cancelled" in error
    assert "No call of run one is in doubt" in out("reconcile", "one", "--store", url)
    with outlast.Outlast(url, model=ScriptedModel(lambda *_: say("Hello."))) as app:
        app.run(clerk, "Go.", run_id="easy")
        app.start(clerk, "Go.", run_id="new")
    for run_id, why in [("easy", "is completed"), ("new", "is in doubt")]:
        error = out("reconcile", run_id, "--outcome", "did-not", "--store", url, code=2)
        assert why in error


def test_a_paused_run_is_told_too(url: str) -> None:
    """What is said of a paused run is written, and it goes on when it is resumed."""
    out("pause", "one", "--store", url)
    told = out("reconcile", "one", "--outcome", "happened", "--result", "ok", "--store", url)
    assert told.splitlines()[-1].startswith("Next: outlast resume one   (it is paused")
    (result,) = results(url, "one")
    assert result["content"] == "ok"
