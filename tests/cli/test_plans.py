"""`outlast reconcile --plan` and `--execute`: many calls in doubt, settled at once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import outlast
from cli.console import typed
from outlast import plans, telling
from outlast.cli import exits
from outlast.events import ToolCallReconciled
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from stubs import MODEL

TO = {"one": ("ann",), "two": ("bob", "carol"), "three": ("dan",)}


@outlast.tool(effect="once")
def pay(to: str) -> str:
    """Pay somebody."""
    raise TimeoutError("the bank did not reply")


@outlast.tool(effect="once")
def mail(to: str) -> str:
    """Mail somebody."""
    raise TimeoutError("nothing came")


clerk = outlast.Agent("clerk", model=MODEL, tools=[pay, mail])


def model(run_id: str) -> Any:
    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return say("Done.")
        name = "mail" if run_id == "three" else "pay"
        return say(*(tool_use(name, {"to": one}) for one in TO[run_id]))

    return ScriptedModel(script)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plans") / "a.db"
    for run_id in TO:
        with outlast.Outlast(f"sqlite:///{file}", model=model(run_id)) as app:
            assert app.run(clerk, "Go.", run_id=run_id).status == "waiting"
    return file


@pytest.fixture
def url(made: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(made, tmp_path)}"


def out(*words: str, code: int = exits.DONE) -> str:
    told = typed("reconcile", *words)
    assert told.exit_code == code, told.output
    return str(told.output)


def said(url: str) -> list[tuple[str, str, str]]:
    """Return what was said in the whole store: run, call, outcome."""
    with outlast.Outlast(url, model=model("one")) as app:
        events = [(run_id, record.event) for run_id in TO for record in app.log(run_id)]
    return [
        (run_id, event.call_id, event.outcome)
        for run_id, event in events
        if isinstance(event, ToolCallReconciled)
    ]


def planned(url: str, folder: Path, **rows: dict[str, Any]) -> str:
    """Write a plan in which everything did not happen, but for the runs named."""
    plan = json.loads(out("--plan", "--store", url, "--outcome", "did-not"))
    for row in plan["calls"]:
        row.update(rows.get(row["run"], {}))
    file = folder / "plan.json"
    file.write_text(json.dumps(plan))
    return str(file)


def test_a_plan_has_everything_in_doubt(url: str) -> None:
    """It is JSON with each call, the oldest first: what it was, why, and where its run was."""
    plan = json.loads(out("--plan", "--store", url))
    assert (plan["plan"], plan["store"]) == ("outlast.reconcile/1", url)
    calls = plan["calls"]
    assert [(one["run"], one["call"][-2:]) for one in calls] == [
        ("one", "t1"),
        ("two", "t1"),
        ("two", "t2"),
        ("three", "t1"),
    ]
    first = calls[0]
    assert (first["tool"], first["arguments"]) == ("pay", {"to": "ann"})
    assert first["error"] == "TimeoutError: the bank did not reply"
    assert len(first["idempotency_key"]) == 32
    with outlast.Outlast(url, model=model("one")) as app:
        assert first["seq"] == app.log("one")[-1].seq
    assert {(one["outcome"], one["result"], one["note"]) for one in calls} == {(None, None, "")}
    assert said(url) == []


def test_a_plan_may_be_of_one_tool_and_filled_in(url: str) -> None:
    """`--tool` keeps the calls of a tool, `--outcome` says the same of all of them."""
    words = ("--plan", "--tool", "mail", "--outcome", "happened", "--store", url)
    (row,) = json.loads(out(*words))["calls"]
    assert (row["run"], row["outcome"]) == ("three", "happened")
    out("--plan", "--outcome", "maybe", "--store", url, code=exits.USAGE)


def test_a_plan_is_written_to_a_file_that_is_not_there(url: str, tmp_path: Path) -> None:
    """Its name follows; the next command is told; what is there is not overwritten."""
    file = f"{tmp_path}/plan.json"
    told = out("--plan", file, "--store", url)
    assert "4 calls in doubt" in told
    assert f"Next: outlast reconcile --execute {file} --dry-run" in told
    assert "is there already" in out("--plan", file, "--store", url, code=exits.USAGE)
    missing = f"{tmp_path}/no/plan.json"
    assert "cannot be written" in out("--plan", missing, "--store", url, code=exits.USAGE)
    shape = json.loads(out("--plan", f"{file}2", "--json", "--store", url))
    assert shape == {"file": f"{file}2", "calls": 4}
    error = out("--execute", file, "--store", url, code=exits.USAGE)
    assert "has no outcome in the plan" in error
    assert said(url) == []


def test_executed(url: str, tmp_path: Path) -> None:
    """What is filled in is written, and each run goes on as if it had been said by hand."""
    file = planned(url, tmp_path, one={"outcome": "happened", "result": "paid", "note": "seen"})
    told = out("--execute", file, "--dry-run", "--store", url)
    assert "would be written: ask-1.m1.t1 happened" in told
    assert f"Next: outlast reconcile --execute {file}" in told
    assert said(url) == []
    shape = json.loads(out("--execute", file, "--by", "ann", "--json", "--store", url))
    assert [one["outcome"] for one in shape["settled"]] == ["happened", *["did-not"] * 3]
    assert len(said(url)) == 4
    for run_id in TO:
        with outlast.Outlast(url, model=model(run_id)) as app:
            assert app.get(run_id).status == "queued"
            assert app.resume(run_id, clerk).answer == "Done."
            events = [one.event for one in app.log(run_id)]
            told_of = [one for one in events if isinstance(one, ToolCallReconciled)]
            assert {one.by for one in told_of} == {"ann"}


def test_executed_twice(url: str, tmp_path: Path) -> None:
    """Executed again it says that it was executed before, and nothing is written."""
    file = planned(url, tmp_path)
    out("--execute", file, "--store", url)
    before = said(url)
    assert "This plan was executed before" in out("--execute", file, "--store", url)
    shape = json.loads(out("--execute", file, "--json", "--store", url))
    assert (shape["settled"], len(shape["done_before"])) == ([], 4)
    assert said(url) == before


@pytest.mark.parametrize("change", ["note", "settled", "cancel", "resume"])
def test_nothing_is_written_where_one_run_has_moved(url: str, tmp_path: Path, change: str) -> None:
    """Whatever was written into one of the runs since, the whole plan is refused, naming it."""
    file = planned(url, tmp_path)
    with outlast.Outlast(url, model=model("two")) as app:
        if change == "note":
            app.note("two", "the bank called", by="ann")
        elif change == "settled":
            app.reconcile("two", call="ask-1.m1.t2", outcome="happened", by="ann")
        elif change == "cancel":
            app.cancel("two")
        else:
            app.pause("two")
            app.resume("two", clerk, wait_s=0.0)
    before = said(url)
    error = out("--execute", file, "--store", url, code=exits.USAGE)
    assert "the state has moved since the plan was made, so nothing was written" in error
    assert "'two'" in error
    assert "'one'" not in error
    assert "'three'" not in error
    assert said(url) == before
    wrong = json.loads(out("--execute", file, "--json", "--store", url, code=exits.USAGE))
    assert wrong["error"]["runs"] == ["two"]


def test_a_plan_of_another_store(url: str, tmp_path: Path) -> None:
    """Runs that are not there, or are others of the same name, are refused."""
    file = planned(url, tmp_path)
    other = f"sqlite:///{tmp_path}/b.db"
    with outlast.Outlast(other, model=model("one")) as app:
        app.run(clerk, "Go.", run_id="one")
    error = out("--execute", file, "--store", other, code=exits.USAGE)
    assert "run 'one' is another one of this name" in error
    assert "there is no run 'two' in this store" in error
    with outlast.Outlast(other, model=model("one")) as app:
        assert app.get("one").status == "waiting"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda plan: plan["calls"][0].update(outcom="x"), "unknown field"),
        (lambda plan: plan["calls"][0].pop("seq"), "missing required field"),
        (lambda plan: plan["calls"][0].update(outcome="maybe"), "give 'happened' or 'did-not'"),
        (lambda plan: plan["calls"][0].update(outcome=None), "no outcome"),
        (lambda plan: plan["calls"][0].update(result="x"), "has no result"),
        (lambda plan: plan["calls"].append(plan["calls"][0]), "is in the plan twice"),
        (lambda plan: plan["calls"][0].update(call="ask-9.m1.t1"), "not in doubt any more"),
        (lambda plan: plan["calls"][0].update(tool="mail"), "other arguments than in the plan"),
        (lambda plan: plan.update(plan="outlast.reconcile/2"), "can be executed"),
        (lambda plan: plan.clear(), "this is no plan"),
    ],
)
def test_a_plan_that_was_spoiled(url: str, tmp_path: Path, spoil: Any, why: str) -> None:
    """What was written wrongly into a plan is refused as a whole, saying what it is."""
    plan = json.loads(Path(planned(url, tmp_path)).read_text())
    spoil(plan)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert why in out("--execute", f"{tmp_path}/plan.json", "--store", url, code=exits.USAGE)
    assert said(url) == []


@pytest.mark.parametrize("spoilt", [b"\xff", b"[" * 100_000 + b"]" * 100_000])
@pytest.mark.parametrize("member", ["note", "result", "arguments"])
def test_a_plan_that_cannot_be_read(url: str, tmp_path: Path, member: str, spoilt: bytes) -> None:
    """One that is no UTF-8, or too deep to be read, is refused as any other that is none."""
    plan = json.loads(Path(planned(url, tmp_path)).read_text())
    plan["calls"][0][member] = "HERE"
    whole = json.dumps(plan).encode()
    deep = whole.replace(b'"HERE"', spoilt if len(spoilt) > 1 else b'"%b"' % spoilt)
    (tmp_path / "plan.json").write_bytes(deep)
    told = out("--execute", f"{tmp_path}/plan.json", "--store", url, code=exits.USAGE)
    assert "this is no plan" in told
    assert said(url) == []


def test_who_says_it_can_be_written(url: str, tmp_path: Path) -> None:
    """A name that is no UTF-8 is refused before anything is written."""
    file = planned(url, tmp_path)
    told = out("--execute", file, "--by", "a\udcff", "--store", url, code=exits.USAGE)
    assert "cannot be written as UTF-8" in told
    assert said(url) == []


def test_executed_twice_with_a_result_that_was_cut(tmp_path: Path) -> None:
    """A result that was cut to what there was room for counts as said, as any other."""
    url = f"sqlite:///{tmp_path}/long.db"

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say(*(tool_use("pay", {"to": str(number)}) for number in range(20)))

    with outlast.Outlast(url, model=ScriptedModel(script)) as app:
        assert app.run(clerk, "Go.", run_id="one").status == "waiting"
    plan = json.loads(out("--plan", "--store", url, "--outcome", "happened"))
    plan["calls"] = [{**one, "result": "word " * 15_000} for one in plan["calls"]]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    execute = ("--execute", f"{tmp_path}/plan.json", "--store", url)
    out(*execute)
    with outlast.Outlast(url, model=ScriptedModel(script)) as app:
        events = [record.event for record in app.log("one")]
    cuts = [bytes(one.content) for one in events if isinstance(one, ToolCallReconciled)]
    assert len(cuts) == 20
    assert all(b"[truncated:" in one for one in cuts)
    assert "This plan was executed before" in out(*execute)


def test_interrupted_half_way(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done stays; executed again, the rest is written, and nothing twice."""
    file = planned(url, tmp_path)
    left = [telling.settle, telling.settle]

    def dies(*args: Any, **kwargs: Any) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(plans, "settle", dies)
        out("--execute", file, "--store", url, code=exits.INTERRUPTED)
    assert [run_id for run_id, *_ in said(url)] == ["one", "two", "two"]
    with outlast.Outlast(url, model=model("one")) as app:
        assert app.resume("one", clerk).answer == "Done."  # a worker went on with it
    shape = json.loads(out("--execute", file, "--json", "--store", url))
    assert [one["run"] for one in shape["settled"]] == ["three"]
    assert [one["run"] for one in shape["done_before"]] == ["one", "two", "two"]
    assert len(said(url)) == 4


def test_a_run_that_moves_while_a_plan_is_executed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how far it came; nothing of the run that moved is written."""
    file = planned(url, tmp_path)

    def moves(journal: Any, run_id: str, *args: Any, **kwargs: Any) -> None:
        if run_id == "two":
            outlast.Outlast(journal, model=model("two")).note("two", "the bank called")
        telling.settle(journal, run_id, *args, **kwargs)

    monkeypatch.setattr(plans, "settle", moves)
    error = out("--execute", file, "--store", url, code=exits.FAILED)
    assert "run 'two' moved while the plan was executed: 1 of 3 runs are written" in error
    assert [run_id for run_id, *_ in said(url)] == ["one"]


@pytest.mark.parametrize(
    "words",
    [
        ("--plan", "--execute", "x"),
        ("--execute", "x", "ID"),
        ("--execute", "x", "--outcome", "happened"),
        ("--execute", "none.json"),
        ("--plan", "--dry-run"),
        ("--plan", "--by", "ann"),
        ("--plan", "--call", "c"),
        ("--plan", "--result", "r"),
    ],
)
def test_what_does_not_go_together(url: str, words: tuple[str, ...]) -> None:
    """Options of one call, of a plan and of its execution are not mixed."""
    out(*words, "--store", url, code=exits.USAGE)


def test_nothing_is_in_doubt(empty: str, tmp_path: Path) -> None:
    """A plan of nothing is one, and executes to nothing."""
    file = f"{tmp_path}/plan.json"
    assert "Next: outlast runs" in out("--plan", file, "--store", empty)
    assert "This plan is empty" in out("--execute", file, "--store", empty)
