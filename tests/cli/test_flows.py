"""Flows on the command line: run, parked, shown, listed, told and talked to."""

import json
import re
import sys

import pytest

import outlast
from cli.console import documents, typed
from outlast.cli import run as driving
from outlast.models.script import last_text, say
from outlast.models.scripted import ScriptedModel

MODULE = """
import asyncio
import outlast
from pydantic import BaseModel

writer = outlast.Agent("writer", model="claude-opus-5-5", instructions="Write.")
checker = outlast.Agent("checker", model="claude-opus-5-5")


class Brief(BaseModel):
    topic: str
    pages: int = 1


def save(text: str) -> str:
    return f"saved {len(text)} letters"


@outlast.flow(phases=["drafting", "checking"])
async def proposal(run, brief: str) -> str:
    run.enter("drafting")
    draft = await run.ask(writer, brief)
    run.enter("checking")
    facts, style = await asyncio.gather(
        run.ask(checker, "the facts", name="facts"), run.ask(checker, "the style", name="style")
    )
    await run.step("save", save, draft)
    await run.map(checker, ["one", "two"], name="last")
    return f"{draft} {facts} {style}"


@outlast.flow
def repeated(run, brief: Brief) -> str:
    return brief.topic * brief.pages


@outlast.flow(budget=outlast.Budget(usd="0.50"))
def frugal(run) -> str:
    return run.ask(writer, "little")


@outlast.flow
def sleepy(run, hours: int = 1) -> str:
    run.sleep(hours * 3600, name="night")
    return "awake"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory with flows in it, and a Claude in this process."""

    class Claude(ScriptedModel):
        def __init__(self):
            super().__init__(lambda request, _: say(f"On {last_text(request)}."))

        async def aclose(self):
            """Have nothing to close."""

    (tmp_path / "flowing.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(driving, "AnthropicModel", Claude)
    yield tmp_path
    sys.modules.pop("flowing", None)


def key(*words):
    """Run a command with a key."""
    return typed(*words, ANTHROPIC_API_KEY="any")


@pytest.fixture
def proposed(here):
    """What is printed while a proposal is written, whose run is `one`."""
    result = key("run", "flowing:proposal", "tea", "--id", "one")
    assert result.exit_code == 0, result.output
    return result.stdout


def shown(run_id):
    """Return `show --json` of a run."""
    (document,) = documents(typed("show", run_id, "--json").stdout)
    return document


def test_a_flow_is_shown_as_it_goes(proposed):
    """Phases, asks, steps and child runs have a line each, and what is parallel says its name."""
    lines = [line.strip() for line in proposed.splitlines() if line.strip()]
    assert lines[0] == "── drafting ──"
    assert lines[1] == "▸ writer-1 asks writer on claude-opus-5-5"
    assert re.fullmatch(r"1  On tea\.  \$0\.\d+", lines[2])
    assert lines[3] == "── checking ──"
    assert "▸ facts asks checker on claude-opus-5-5" in lines
    first = next(line for line in lines if line.startswith("2  "))
    assert re.match(r"2  (facts: On the facts|style: On the style)\.", first)
    assert "✓ save → “saved 7 letters”" in lines
    assert "⇢ run one/last/1 as last/1" in lines
    assert "✓ last/2 → “On two.”" in lines
    assert lines[-4] == "completed"
    assert lines[-5] == "On tea. On the facts. On the style."


def test_a_flow_says_first_what_it_can_cost(here):
    """A flow with a budget in dollars begins with it, as an agent does, and only on a page."""
    dear = key("run", "flowing:frugal", "--id", "two")
    assert dear.stdout.splitlines()[0] == "This can cost $0.5000 at most: the budget of frugal."
    assert "This can cost" not in key("run", "flowing:frugal", "--id", "two").stdout
    assert "This can cost" not in key("run", "flowing:frugal", "--id", "three", "--json").stdout


def test_a_flow_is_run_once(proposed):
    """The same flow and input under the same id is shown again, without a key and a call."""
    again = typed("run", "flowing:proposal", "tea", "--id", "one")
    assert again.exit_code == 0
    assert "Run one ended before, so nothing is asked again." in again.stdout


def test_runs_show_phases_and_children(proposed):
    """The list has a phase, and child runs stand below their parent."""
    lines = typed("runs").stdout.splitlines()
    assert lines[0].split()[:4] == ["RUN", "STATUS", "PHASE", "AGENT"]
    assert lines[1].split()[:4] == ["one", "completed", "COMPLETE", "proposal"]
    assert sorted(line[:23] for line in lines[2:4]) == [
        "  one/last/1  completed",
        "  one/last/2  completed",
    ]
    (listed,) = documents(typed("runs", "--json").stdout)
    assert {run["id"]: run["parent"] for run in listed} == {
        "one": "",
        "one/last/1": "one",
        "one/last/2": "one",
    }
    alone = typed("runs", "--agent", "checker").stdout.splitlines()
    assert {line.split()[0] for line in alone[1:3]} == {"one/last/1", "one/last/2"}
    assert not alone[1].startswith(" "), "its parent is not listed, so it stands for itself"


def test_show_tells_phases_children_and_version(proposed):
    """A flow is shown with a bar for each phase, its child runs, and that its code is the same."""
    out = typed("show", "one").stdout
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in out.split("\n\n")[0].splitlines())
    assert facts["flow"] == "proposal"
    assert facts["phase"] == "COMPLETE"
    assert facts["given"] == "tea"
    assert facts["code"] == "flowing:proposal"
    assert re.fullmatch(r"[0-9a-f]{12}, unchanged", facts["version"])
    cost = re.fullmatch(r"\$(0\.\d+), \$(0\.\d+) with its child runs", facts["cost"])
    assert cost
    assert float(cost[1]) < float(cost[2])
    bars = re.findall(r"^(\w+) +( *█+) +(\S.*)$", out, re.MULTILINE)
    assert [bar[0] for bar in bars] == ["drafting", "checking"]
    assert re.search(r"^run one/last/1  completed  \$0\.0\d+  checker", out, re.MULTILINE)
    document = shown("one")
    assert (document["kind"], document["input"], document["model"]) == ("flow", "tea", "")
    assert [phase["phase"] for phase in document["phases"]] == ["drafting", "checking"]
    assert document["phases"][0]["left_at"] == document["phases"][1]["entered_at"]
    assert [child["id"] for child in document["children"]] == ["one/last/1", "one/last/2"]
    assert document["changed"]["status"] == "same"
    assert typed("show", "one/last/1").stdout.splitlines()[1].split() == ["parent", "one"]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('instructions="Write."', 'instructions="Rhyme."', ["instructions of writer"]),
        ('f"saved', 'f"kept', []),
        ('"drafting", "checking"]', '"drafting", "checking", "sent"]', ["phases"]),
        ("{facts} {style}", "{style} {facts}", ["its code"]),
    ],
    ids=["instructions", "a function of a step", "phases", "code"],
)
def test_show_says_what_has_changed_since(proposed, here, old, new, what):
    """What changed since is named; the function of a step is no part of the version."""
    assert MODULE.count(old) == 1
    (here / "flowing.py").write_text(MODULE.replace(old, new))
    del sys.modules["flowing"]
    changed = shown("one")["changed"]
    assert changed["what"] == what
    assert changed["status"] == ("changed" if what else "same")
    if what:
        told = next(line for line in typed("show", "one").stdout.splitlines() if "version" in line)
        assert told.endswith(f"changed: {', '.join(what)}")


def test_show_says_when_the_code_is_gone(proposed, here):
    """A run whose module is gone is still shown, with why its code cannot be compared."""
    (here / "flowing.py").unlink()
    del sys.modules["flowing"]
    changed = shown("one")["changed"]
    assert changed["status"] == "not_found"
    assert "there is no module 'flowing'" in changed["what"][0]
    assert "cannot be told" in typed("show", "one").stdout


def test_what_a_module_prints_is_not_in_the_json(proposed, here):
    """A module that prints while it is imported does not spoil `show --json`."""
    (here / "flowing.py").write_text("print('hello')\n" + MODULE)
    del sys.modules["flowing"]
    assert shown("one")["changed"]["status"] == "same"


def test_the_log_of_a_flow_says_of_which_ask(proposed):
    """Each line of an ask names it, and counts its own turns."""
    lines = typed("log", "one").stdout.splitlines()
    told = "\n".join(re.sub(r"^\S+ +\d+  ", "", line) for line in lines)
    assert "run_started           flow proposal: drafting → checking" in told
    assert "phase_entered         checking" in told
    assert re.search(r"ask_started +facts asks checker on claude-opus-5-5", told)
    assert re.search(r"model_call_started +style: turn 1  holds", told)
    assert re.search(r"ask_answered +facts: “On the facts\.”", told)
    assert re.search(r"step_started +save  once", told)
    assert re.search(r"step_finished +save → “saved 7 letters”", told)
    assert re.search(r"child_started +run one/last/1  as last/1", told)
    assert "flowing" not in told
    child = typed("log", "one/last/1").stdout
    assert "child of run one" in child


def test_the_log_as_json_has_the_events_of_a_flow(proposed):
    """`log --json` has each of them under its type, with its fields."""
    events = documents(typed("log", "one", "--json").stdout)
    of = {event["type"]: event for event in events}
    assert of["run_started"]["kind"] == "flow"
    assert of["run_started"]["input"] == "tea"
    assert of["phase_entered"]["phase"] == "checking"
    assert (of["step_started"]["name"], of["step_started"]["effect"]) == ("save", "once")
    assert of["child_started"]["child"] == "one/last/2"
    assert of["run_finished"]["answer"] == "On tea. On the facts. On the style."


# ── INPUT ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "answer"),
    [('{"topic": "ab", "pages": 2}', "abab"), ('{"topic": "ab"}', "ab"), ("@brief.json", "cdcd")],
)
def test_an_input_that_is_no_text_is_json(here, given, answer):
    """A flow that is declared to take something else gets it from JSON, typed or in a file."""
    (here / "brief.json").write_text('{"topic": "cd", "pages": 2}')
    result = key("run", "flowing:repeated", given, "--id", "one", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["answer"] == answer
    assert shown("one")["input"]["topic"] == answer[:2]
    assert re.search(r'^given +\{"topic":"', typed("show", "one").stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["flowing:repeated", "tea"], "the INPUT is JSON, or @FILE with it"),
        (["flowing:repeated", '{"pages": 1}'], "topic: Field required"),
        (["flowing:repeated", "@gone.json"], "'gone.json' cannot be read"),
        (["flowing:repeated"], "needs an INPUT: its 'brief'"),
        (["flowing:proposal", "a", "--attach", "flowing.py"], "--attach is for an agent"),
        (["flowing:sleepy", "many"], "the INPUT is JSON"),
        (["flowing:save", "x"], "its agents are: flowing:writer, flowing:checker; its flows are:"),
    ],
)
def test_what_no_flow_takes_is_refused(here, words, told):
    """An input that does not fit is a sentence and exit 2, and leaves no store behind."""
    result = key("run", *words)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert not (here / "outlast.db").exists()


# ── parked ────────────────────────────────────────────────────────────────────────────────────


def test_a_park_that_is_too_long_ends_with_5(here):
    """The command says until when, and so do `show`, `runs` and the log; `resume` says it again."""
    result = key("run", "flowing:sleepy", "--id", "one", "--wait", "100ms")
    assert result.exit_code == 5, result.output
    until = shown("one")["wake_at"][:19]
    lines = result.stdout.splitlines()
    assert any(line.strip().startswith("◷ night") for line in lines)
    assert f"parked: sleeping until {until}Z" in lines
    assert re.fullmatch(r"Next: outlast resume one   \(from \d{4}-\S+ \S+ \S+ on\)", lines[-1])
    assert key("resume", "one", "--wait", "0s").exit_code == 5
    assert f"sleeping until {until}Z" in typed("runs", "--status", "parked").stdout
    log = typed("log", "one").stdout
    assert re.search(r"step_started +night  until \d{4}-", log)
    assert re.search(rf"run_parked +sleeping until {until}Z", log)


def test_a_short_park_is_waited_for(here):
    """A run that is parked for less than --wait is gone on with when it may."""
    result = key("run", "flowing:sleepy", "0", "--id", "one", "--json")
    assert json.loads(result.stdout)["answer"] == "awake"


# ── send ──────────────────────────────────────────────────────────────────────────────────────


def test_a_conversation_goes_on(here):
    """`send` says something more, shows what comes, and prints the new answer for programs."""
    assert key("run", "flowing:writer", "tea", "--id", "one").exit_code == 0
    sent = key("send", "one", "milk")
    assert sent.exit_code == 0, sent.output
    assert "goes on from its journal: 1 turn" in sent.stdout
    assert "On milk." in sent.stdout
    (document,) = documents(key("send", "one", "sugar", "--json").stdout)
    assert (document["answer"], document["turns"]) == ("On sugar.", 3)
    assert "ask-3 goes on from ask-2" in typed("log", "one").stdout


def test_a_file_is_sent_along(here):
    """`send --attach` gives Claude a file as what it is."""
    (here / "dot.gif").write_bytes(b"GIF89a")
    key("run", "flowing:writer", "tea", "--id", "one")
    assert key("send", "one", "what is it?", "--attach", "dot.gif").exit_code == 0
    messages = [
        event["content"]
        for event in documents(typed("log", "one", "--json").stdout)
        if event["type"] == "message_received"
    ]
    assert [block["type"] for block in messages[1]] == ["image", "text"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["one", "more"], "run 'one' is of flow 'proposal', which says itself what it asks"),
        (["nobody", "more"], "there is no run 'nobody'"),
        (["one/last/1", " "], "Claude cannot be asked nothing"),
        (["one/last/1", "more", "--agent", "flowing:proposal"], "is no outlast.Agent"),
        (["one/last/1", "more", "--agent", "flowing:writer"], "is a child of run 'one'"),
    ],
)
def test_what_cannot_be_sent_is_refused(proposed, words, told):
    """Each mistake is a sentence and exit 2, and nothing is written."""
    before = typed("log", "one/last/1", "--json").stdout
    result = key("send", *words)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert typed("log", "one/last/1", "--json").stdout == before


def test_a_failed_run_is_not_talked_to(store):
    """`send` to a run that failed is refused, exit 2."""
    result = key("send", "refused", "more", "--store", store)
    assert result.exit_code == 2
    assert "is failed and cannot be continued" in result.stderr


def test_sending_needs_a_key(here, monkeypatch):
    """Without a key nothing is said."""
    monkeypatch.setenv("HOME", str(here))
    key("run", "flowing:writer", "tea", "--id", "one")
    result = typed("send", "one", "milk")
    assert result.exit_code == 2
    assert "set ANTHROPIC_API_KEY" in result.stderr


def test_a_run_that_another_drives_is_not_talked_to(here):
    """While another process drives the run nothing is said, and the command says so: exit 2."""
    key("run", "flowing:writer", "tea", "--id", "one")
    with outlast.Outlast("sqlite:///outlast.db") as other:
        other.journal.claim("run:one")
        result = key("send", "one", "milk", "--wait", "0s")
    assert result.exit_code == 2
    assert re.search(r"was driven by process \d+.*so nothing was said", result.stderr)
    assert shown("one")["turns"] == 1
