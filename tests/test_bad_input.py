"""Bad input: a sentence that says what happened, the value, and what to do; and nothing is lost."""

import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import outlast
from cli.console import typed
from outlast.cli import exits
from outlast.errors import NotAStore, OutlastError, StoreError, StoreFull, UsageError
from outlast.events import ToolCallSucceeded
from outlast.journal import Commit
from outlast.models.script import tool_use
from outlast.models.scripted import ScriptedModel
from outlast.stores.memory import MemoryJournal
from stubs import agent, asking, results

AGENT = agent()


@pytest.fixture
def model() -> ScriptedModel:
    """Return a Claude that would answer, if it were asked."""
    return ScriptedModel(asking())


@pytest.fixture
def app(model: ScriptedModel, tmp_path: Path) -> Iterator[outlast.Outlast]:
    """Return an application with a store on disk."""
    with outlast.Outlast(f"sqlite:///{tmp_path}/a.db", model=model) as app:
        yield app


def sentence(kind: type[OutlastError], use: Callable[[], Any]) -> str:
    """Return what the error says that `use` must raise."""
    with pytest.raises(kind) as raised:
        use()
    assert type(raised.value) is kind
    return str(raised.value)


# ── agents and tools ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("claude-haiku-55", "'claude-haiku-5-5'"),
        ("claude-opus-5-6", "'claude-opus-5-5'"),
        ("gpt-9", ""),
    ],
)
def test_an_unknown_model(app: outlast.Outlast, model: ScriptedModel, name: str, near: str) -> None:
    """A model without a price is refused before anything is written, with names that are near."""
    said = sentence(outlast.UnknownModel, lambda: app.run(agent(model=name), "Go.", run_id="r"))
    assert said.startswith(f"no price is known for model {name!r}, so no call is made with it")
    assert ("did you mean" in said) == bool(near)
    assert near in said
    assert "Check the spelling, upgrade genai-prices if the model is new" in said
    assert said.endswith("outlast.declare_price.")
    assert app.runs() == []
    assert model.calls == []


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_an_empty_prompt(app: outlast.Outlast, text: str) -> None:
    """Claude cannot be asked nothing."""
    said = sentence(outlast.InvalidInput, lambda: app.run(AGENT, text, run_id="r"))
    assert said == f"the input is {text!r}, and Claude cannot be asked nothing; give it a question"
    assert app.runs() == []


@pytest.mark.parametrize("text", [None, 5, b"Go.", ["Go.", 5]])
def test_a_prompt_that_is_no_text(app: outlast.Outlast, text: Any) -> None:
    """What is neither text nor a content block cannot be asked."""
    said = sentence(outlast.InvalidInput, lambda: app.run(AGENT, text, run_id="r"))
    wrong = text[1] if isinstance(text, list) else text
    assert said == (
        f"the input holds {type(wrong).__name__} {str(wrong)!r}; "
        "give text, an Image, a Document, a File or a content block"
    )
    assert app.runs() == []


def test_a_prompt_that_cannot_be_written(app: outlast.Outlast) -> None:
    """Half a surrogate pair cannot be sent to anybody."""
    said = sentence(outlast.InvalidInput, lambda: app.run(AGENT, "half \ud800", run_id="r"))
    assert said.startswith("the input cannot be written as JSON in UTF-8: ")
    assert app.runs() == []


@pytest.mark.parametrize("run_id", ["", " ", "-a", "a b", "ä", "a\n", "x" * 201, 5])
def test_a_run_id_that_is_none(app: outlast.Outlast, run_id: Any) -> None:
    """A run id that cannot be one is refused, the empty one too: it is a mistake, not a wish."""
    said = sentence(outlast.InvalidInput, lambda: app.run(AGENT, "Go.", run_id=run_id))
    assert said == (
        f"run id {run_id!r}: a run id is 1 to 200 letters, digits or any of '._:@/-', and begins "
        "with a letter or digit"
    )
    assert app.runs() == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tenant": None}, "run 'r': None is not a string; give its text, such as str(…)"),
        ({"tags": {"n": 1}}, "run 'r': 1 is not a string"),
        ({"tags": {1: "n"}}, "run 'r': 1 is not a string"),
        ({"tenant": "\ud800"}, r"run 'r': '\ud800' cannot be written as UTF-8"),
    ],
)
def test_what_could_not_be_read_again(
    app: outlast.Outlast, given: dict[str, Any], said: str
) -> None:
    """What a journal could not be read with never gets into one."""
    assert sentence(
        outlast.InvalidInput, lambda: app.run(AGENT, "Go.", run_id="r", **given)
    ).startswith(said)
    assert app.runs() == []


@pytest.mark.parametrize("given", [{"text": None}, {"text": 5}, {"text": "a", "by": None}])
def test_a_note_that_could_not_be_read_again(app: outlast.Outlast, given: dict[str, Any]) -> None:
    """A remark that is no text is refused, and the run it was for can still be read."""
    app.run(AGENT, "Go.", run_id="r")
    said = sentence(outlast.InvalidInput, lambda: app.note("r", **given))
    assert said.startswith("the note: ")
    assert len(app.log("r")) == 7


def test_a_tool_without_annotations() -> None:
    """A parameter without a type hint is refused where the tool is declared, with what to write."""

    def look(word): ...  # type: ignore[no-untyped-def]

    assert sentence(outlast.InvalidTool, lambda: outlast.tool(look)) == (
        "tool 'look': parameter 'word' has no type hint, so Claude cannot be told what to give; "
        "write word: str, or whatever it takes"
    )


def test_a_tool_whose_types_cannot_be_told(app: outlast.Outlast) -> None:
    """A type without a schema is refused when the run would start, and nothing is written."""

    @outlast.tool
    def look(where: Path, how: OutlastError) -> None: ...

    said = sentence(outlast.InvalidTool, lambda: app.run(agent(look), "Go.", run_id="r"))
    assert said.startswith("tool 'look': a parameter's type has no JSON schema: ")
    assert app.runs() == []


def test_two_tools_with_one_name() -> None:
    """Two tools of one name are refused where the agent is declared, with a way to rename one."""

    @outlast.tool(name="look")
    def one() -> None: ...
    @outlast.tool(name="look")
    def two() -> None: ...

    assert sentence(outlast.InvalidAgent, lambda: agent(one, two)) == (
        "agent 'tester': two tools are named 'look', and Claude could not tell them apart; "
        "give one another name with @outlast.tool(name=…)"
    )


# ── results ───────────────────────────────────────────────────────────────────────────────────


def test_a_result_that_cannot_be_written(tmp_path: Path) -> None:
    """A result that is no JSON does not end the run: Claude is told, and people find out why."""

    @outlast.tool(effect="once")
    def look() -> object:
        return object()

    model = ScriptedModel(asking(tool_use("look", {})))
    with outlast.Outlast(f"sqlite:///{tmp_path}/a.db", model=model) as app:
        assert app.run(agent(look), "Go.", run_id="r").status == "completed"
        errors = [getattr(record.event, "error", "") for record in app.log("r")]
    (told,) = results(model)
    assert told["content"] == (
        "look was called and returned, but its result (object) cannot be written as JSON, so it is "
        "not known what it said."
    )
    assert told["is_error"] is True
    assert any("Unable to serialize unknown type: <class 'object'>" in error for error in errors)


MIB = 1 << 20


def test_a_result_of_50_mb(tmp_path: Path) -> None:
    """Of 50 MB Claude gets both ends and is told so; the whole is in the store, once."""
    whole = "0123456789abcdef" * (50 * MIB // 16)

    @outlast.tool(effect="read", max_result_tokens=1000)
    def look() -> str:
        return whole

    model = ScriptedModel(asking(tool_use("look", {}), tool_use("look", {})))
    path = tmp_path / "a.db"
    with outlast.Outlast(f"sqlite:///{path}", model=model) as app:
        assert app.run(agent(look), "Go.", run_id="r").status == "completed"
        first, second = (r.event for r in app.log("r") if isinstance(r.event, ToolCallSucceeded))
        assert first.blob == second.blob
        assert app.journal.blob(first.blob) == whole.encode()
    for result in results(model):
        missing = f"{50 * MIB - 1000} of {50 * MIB} bytes are missing here"
        told = f"\n[truncated: {missing}; ask for less at a time]\n"
        assert result["content"] == whole[:750] + told + whole[-250:]
    assert path.stat().st_size < 60 * MIB, "the same bytes twice are stored once"


# ── budgets ──────────────────────────────────────────────────────────────────────────────────

SET: dict[str, Any] = {"usd": 1, "reason": "a test"}


def unset(app: outlast.Outlast, scope: Any, **given: Any) -> str:
    """Return why a budget is not set; what was set before is still there, and can be read."""
    app.set_budget("fleet", turns=9, notify=[50], reason="a test")
    before = app.journal.read("~budgets")
    with pytest.raises(UsageError) as raised:
        app.set_budget(scope, **given)
    assert app.journal.read("~budgets") == before
    return str(raised.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *[({"binding": wrong}, f"binding={wrong!r} of fleet: give True") for wrong in (None, "no")],
        ({"binding": 1}, "binding=1 of fleet: give True"),
        ({"tz": None}, "the time zone of a budget: None is not a string"),
        ({"tz": "Berlin"}, "'Berlin' is no time zone; give one such as 'Europe/Berlin'"),
        ({"window": 5}, "the window of a budget: 5 is not a string"),
        ({"window": "02h"}, "'02h' is no window; there are total, day, month, and hours"),
        ({"window": "Noneh"}, "'Noneh' is no window"),
        ({"reason": None}, "the budget of fleet: who sets it, and the reason: None is not a str"),
        (
            {"reason": "\ud800"},
            "the budget of fleet: who sets it, and the reason: '\\ud800' cannot",
        ),
        ({"reason": ""}, "the reason for the budget of fleet is ''; say in a few words why"),
        ({"reason": " \n"}, "the reason for the budget of fleet is ' \\n'; say"),
        ({"by": 5}, "the budget of fleet: who sets it, and the reason: 5 is not a string"),
        ({"by": "\ud800"}, "the budget of fleet: who sets it, and the reason: '\\ud800' cannot"),
        *[
            (
                {"notify": wrong},
                f"notify={wrong!r}: say at how many percent of the budget as a list",
            )
            for wrong in (None, "50", b"50", 0.5)
        ],
        ({"notify": [None]}, "notify=None: say at how many percent"),
        *[
            ({"usd": wrong}, f"usd={wrong!r}: give an amount of US dollars above 0")
            for wrong in "0x"
        ],
        *[({"usd": wrong}, f"usd={wrong!r}: give an amount") for wrong in (-1, True, [], 10**9)],
        *[
            (
                {name: wrong},
                f"{name}={wrong!r}: give a whole number of at least 1, and below 10**18",
            )
            for name in ("calls", "turns", "tokens")
            for wrong in (0, -1, True, 1.5, "9", 10**18)
        ],
    ],
)
def test_a_budget_that_cannot_be_set(
    app: outlast.Outlast, given: dict[str, Any], said: str
) -> None:
    """Whatever is wrong with a budget is told before it is written, with what to give instead."""
    assert unset(app, "fleet", **(SET | given)).startswith(said)
    assert app.run(AGENT, "Go.", run_id="r").status == "completed"


@pytest.mark.parametrize(
    "given", [{"notify": [80]}, {"binding": False}, {"notify": [9], "binding": False}]
)
def test_a_warning_without_an_amount(app: outlast.Outlast, given: dict[str, Any]) -> None:
    """Who changes only when a budget warns does not lose the budget."""
    said = unset(app, "fleet", reason="a test", **given)
    assert "none is given for fleet: give it again, such as usd=10" in said


@pytest.mark.parametrize(
    "scope",
    [
        *("fleet:", "fleet:x", "planet", "", "tenant:", "tenant: x", "tenant:a\nb", "tenant:a\x00"),
        *("agent:x@", "agent:no such!", "agent:@v", "agent:a@b@c", "agent:-x", "agent:ä"),
        *("model:\x1b[1m", "run:r\n", "tree:\x7f", "tenant:\u2028", "tenant:\ud800", None, 5),
    ],
)
def test_what_can_have_no_budget(app: outlast.Outlast, scope: Any) -> None:
    """A budget that nothing could ever pay from is a mistake."""
    said = unset(app, scope, **SET)
    assert re.search("nothing that has a budget|is no agent|not a string|UTF-8", said)


@pytest.mark.parametrize(
    "scope", ["fleet", "tenant:Ärzte & Söhne", "agent:a.b_c-d", "agent:a@0123456789ab", "run:a/b~c"]
)
def test_what_can_have_a_budget(app: outlast.Outlast, scope: str) -> None:
    """Names that there can be are taken as they are."""
    app.set_budget(scope, **SET)
    (record,) = app.journal.read("~budgets")
    assert getattr(record.event, "scope", "") == scope


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--usd", "1", "--reason", " "), "the reason for the budget of fleet is ' '"),
        (("--usd", "0", "--reason", "a test"), "usd='0': give an amount of US dollars above 0"),
        (("--calls", "0", "--reason", "a test"), "calls=0: give a whole number"),
        (("--notify", "50,80", "--reason", "a test"), "on the command line --usd 10"),
        (("--only-notify", "--reason", "a test"), "on the command line --usd 10"),
        (("--usd", "1", "--window", "02h", "--reason", "a test"), "'02h' is no window"),
    ],
)
def test_a_budget_that_cannot_be_typed(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    """On the command line it is exit 2, in words that fit there, and no store is made for it."""
    path = tmp_path / "a.db"
    ended = typed("budget", "set", "fleet", *words, "--store", f"sqlite:///{path}")
    assert ended.exit_code == exits.USAGE
    assert said in ended.stderr
    assert "None" not in ended.stderr
    assert not path.exists()


@pytest.mark.parametrize(
    ("wrong", "instead"),
    [(0.5, "0.5"), ("0.50", "'0.50'"), (2, "2"), ({}, "0.5"), ("", "0.5"), (True, "0.5")],
)
def test_a_budget_that_is_none(wrong: Any, instead: str) -> None:
    """An amount in place of a budget is refused where it is declared, with what it would be."""
    said = (
        f"budget is {wrong!r}, but must be a Budget; give outlast.Budget(usd={instead}), or leave "
        "it out"
    )
    assert sentence(outlast.InvalidAgent, lambda: agent(budget=wrong)) == f"agent 'tester': {said}"

    def proposal(run: outlast.Run) -> None: ...

    declare: Any = outlast.flow(budget=wrong)
    assert sentence(outlast.InvalidFlow, lambda: declare(proposal)) == f"flow 'proposal': {said}"


def test_an_agent_without_a_budget() -> None:
    """`None` is no budget of an agent; it would be as if nothing limited it."""
    said = sentence(outlast.InvalidAgent, lambda: agent(budget=None))
    assert "budget is None, but must be a Budget" in said


@pytest.mark.parametrize("model", [["m"], None, 5, "", " ", "a\nb", "\ud800"])
def test_a_price_of_no_model(model: Any) -> None:
    """A price is declared for one model, by its name."""
    said = sentence(UsageError, lambda: outlast.declare_price(model, input=1, output=2))
    assert said.startswith(f"{model!r} names no model; give its id as agents name it")


# ── stores ────────────────────────────────────────────────────────────────────────────────────


def opened(url: str) -> Callable[[], Any]:
    return lambda: outlast.Outlast(url, model=ScriptedModel(asking())).close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("agents.db", "'agents.db' is not a store; known are sqlite:///relative.db, sqlite:////a"),
        ("", "'' is not a store"),
        ("sqlite://a.db", "'sqlite://a.db' is not a store"),
        ("memory", "'memory' is not a store"),
        ("postgresql://localhost/a", "PostgreSQL is not in this version of outlast; known are"),
        ("mysql://localhost/a", "is not a store; known are"),
    ],
)
def test_a_url_that_names_no_store(url: str, said: str) -> None:
    """A url of no kind that is known is refused, with those that are."""
    assert said in sentence(StoreError, opened(url))


def test_a_store_whose_folder_is_not_there(tmp_path: Path) -> None:
    """A folder that does not exist is named, and is not made."""
    said = sentence(StoreError, opened(f"sqlite:///{tmp_path}/nowhere/a.db"))
    assert f"there is no folder {tmp_path}/nowhere; make it, or give another --store" in said
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_store_that_cannot_be_written(tmp_path: Path, what: str) -> None:
    """A place that may not be written to is named, with what outlast needs to write there."""
    if os.geteuid() == 0:
        place = Path("/proc/version" if what == "file" else "/proc/a.db")
        if not place.parent.is_dir() or sys.platform != "linux":
            pytest.skip("root may write anywhere here")
    else:
        place = tmp_path / "a.db"
        if what == "file":
            place.touch(0o400)
        tmp_path.chmod(0o500)
    try:
        said = sentence(StoreError, opened(f"sqlite:///{place}"))
    finally:
        tmp_path.chmod(0o700)
    assert str(place) in said
    assert re.search(r"must be writable|give another --store", said)


@pytest.mark.parametrize("kind", ["text", "zip", "another SQLite file"])
def test_a_file_that_is_something_else(tmp_path: Path, kind: str) -> None:
    """A file that is no store of outlast is left as it is, to the byte."""
    path = tmp_path / "a.db"
    if kind == "another SQLite file":
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE runs (id TEXT)")
        other.close()
    else:
        path.write_bytes(b"PK\3\4" * 1000 if kind == "zip" else b"Dear diary,\n" * 1000)
    before = path.read_bytes()
    said = sentence(NotAStore, opened(f"sqlite:///{path}"))
    what = "a SQLite file of something else" if "SQLite" in kind else "not a SQLite file"
    assert said == f"{path} is {what}, so it is left alone; give another --store"
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.db"]


def test_a_folder_in_place_of_a_store(tmp_path: Path) -> None:
    """A folder is not a store, and its error asks for a file."""
    said = sentence(NotAStore, opened(f"sqlite:///{tmp_path}"))
    assert said == f"{tmp_path} is a folder; give the path of a file as --store"


class Full(MemoryJournal):
    """A store that takes `room` appends, and then is full."""

    room = 1_000

    def append(self, commit: Commit) -> Any:
        self.room -= 1
        if self.room < 0:
            raise StoreFull("a.db: no space is left, so nothing was written; free some")
        return super().append(commit)


@pytest.mark.parametrize("room", range(5))
def test_a_full_disk(room: int) -> None:
    """Wherever the disk is full, the caller is told; with room again the same call goes on."""
    journal, model = Full(), ScriptedModel(asking(tool_use("look", {})))
    called = []

    @outlast.tool(effect="read")
    def look() -> str:
        called.append(True)
        return "seen"

    with outlast.Outlast(journal, model=model) as app:
        journal.room = room
        said = sentence(StoreFull, lambda: app.run(agent(look), "Go.", run_id="r"))
        assert "no space is left, so nothing was written; free some" in said
        journal.room = 1_000
        assert app.run(agent(look), "Go.", run_id="r").status == "completed"
    assert len(model.calls) <= 3
    assert len(called) <= 2
