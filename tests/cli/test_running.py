"""`run` and `resume`, over HTTP with the real SDK, against a simulated Claude."""

import json
import os
import signal
import sys
import time

import pytest

from cli.console import TESTS, documents, finished, process, typed
from outlast.testing import simulator

MODULE = """
import outlast
from cli.console import ask_website, look_up
tools = [look_up, ask_website]
finder = outlast.Agent("finder", model="claude-opus-5-5", tools=tools)
miser = outlast.Agent(
    "miser", model="claude-opus-5-5", tools=tools, budget=outlast.Budget(turns=1)
)
misspelt = outlast.Agent("finder", model="claude-opux-5-5")
number = 3
"""


@pytest.fixture(scope="module")
def answering():
    """A Claude that says what `console.claude` says."""
    with simulator.start("cli.console:claude", path=[TESTS]) as running:
        yield running


@pytest.fixture
def simulated(answering):
    """The environment in which it is Claude."""
    return {"ANTHROPIC_BASE_URL": answering.url, "ANTHROPIC_API_KEY": "any"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory with a module of agents in it."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    for name in ("mine", "broken"):
        sys.modules.pop(name, None)


def test_a_run_is_shown_as_it_goes(here, simulated):
    """Each reply, call and wait is a line, then come the answer, the cost and what to do next."""
    result = typed("run", "mine:finder", "What is there?", "--id", "one", **simulated)
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    assert lines.pop(0).startswith("This can cost $")
    assert lines[0].startswith("↻ overloaded (529): Overloaded")
    assert lines[1].startswith("1  Let me look.  $0.00")
    tools = "\n".join(lines[2:5])
    assert '✓ look_up(keyword="deaf", limit=2)  2 items' in tools
    assert '✗ ask_website(url="example.org")  raised' in tools
    assert "ConnectionError: example.org does not answer" in tools
    assert lines[5].startswith("2  The answer.  $0.00")
    assert lines[6:9] == ["**Found** it.", "All of it.", "completed"]
    assert ", 2 turns, " in lines[9]
    assert lines[10] == "journal: run one in sqlite:///outlast.db"
    assert lines[11] == "Next: outlast log one"
    assert "\x1b" not in result.stdout


def test_files_are_attached(here, simulated, answering):
    """`--attach` gives Claude a file as what it is, and says where one cannot be read."""
    (here / "page.pdf").write_bytes(b"%PDF-1.7 /Type /Page")
    (here / "dot.gif").write_bytes(b"GIF89a")
    given = ["--attach", "page.pdf", "--attach", "dot.gif"]
    result = typed("run", "mine:finder", "What is there?", *given, "--id", "shown", **simulated)
    assert result.exit_code == 0, result.output
    sent = json.loads(answering.requests()[-1]["body"])["messages"][0]["content"]
    assert [block["type"] for block in sent] == ["document", "image", "text"]
    assert sent[0]["title"] == "page.pdf"
    missing = typed("run", "mine:finder", "What?", "--attach", "gone.png", **simulated)
    assert missing.exit_code == 2
    assert "'gone.png' cannot be read" in missing.stderr


def test_the_same_id_again_asks_nothing(here, simulated):
    """A run that is done is shown again, without a call and without a key."""
    (first,) = documents(
        typed("run", "mine:finder", "Why?", "--id", "one", "--json", **simulated).stdout
    )
    result = typed("run", "mine:finder", "Why?", "--id", "one")
    assert result.exit_code == 0
    assert "ended before, so nothing is asked again" in result.stdout
    (again,) = documents(typed("run", "mine:finder", "Why?", "--id", "one", "--json").stdout)
    assert again == first


def test_a_run_without_an_id_gets_one(here, simulated):
    """The run's own id begins with its agent's name, and its tenant is kept."""
    words = ("run", "mine:finder", "Why?", "--tenant", "acme", "--json")
    (run,) = documents(typed(*words, **simulated).stdout)
    assert run["id"].startswith("finder-")
    assert (run["status"], run["tenant"]) == ("completed", "acme")
    assert run["answer"].startswith("**Found**")


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["mine:finder", "Please fail."], "failed", 1),
        (["mine:miser", "What is there?"], "stopped", 3),
    ],
)
def test_a_run_without_an_answer_says_so(here, simulated, words, status, code):
    """A run that failed or was stopped ends the command with its code, and says why."""
    (run,) = documents(typed("run", *words, "--id", "one", "--json", **simulated).stdout)
    assert (run["status"], run["answer"]) == (status, None)
    result = typed("run", *words, "--id", "one", **simulated)
    assert result.exit_code == code
    assert f"{status}: {run['why'].removeprefix('stopped: ')}" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Next: outlast log one")


def test_a_stopped_run_goes_on_when_it_may(here, simulated):
    """`resume` of a stopped run is stopped again, until its agent has the turns."""
    typed("run", "mine:miser", "What is there?", "--id", "one", **simulated)
    assert typed("resume", "one", **simulated).exit_code == 3
    (here / "richer.py").write_text(MODULE.replace("turns=1", "turns=5"))
    result = typed("resume", "one", "--agent", "richer:miser", **simulated)
    assert result.exit_code == 0, result.output
    assert "Run one goes on from its journal: 1 turn, $0.00" in result.stdout
    assert "  2  The answer." in result.stdout
    sys.modules.pop("richer")


def test_an_interrupted_run_is_resumed(here, simulated, answering):
    """Ctrl-C ends a run with 130 and says how to go on; `resume` does, and counts the doubt."""
    command = process("run", "mine:finder", "Please wait.", "--id", "one", cwd=here, **simulated)
    while "Please wait." not in str(answering.requests()):
        assert command.poll() is None, finished(command)
        time.sleep(0.02)
    os.kill(command.pid, signal.SIGINT)
    code, out, errors = finished(command)
    assert (code, errors) == (130, "")
    assert out.splitlines()[-1] == "Next: outlast resume one"
    result = typed("resume", "one", **simulated)
    assert result.exit_code == 0
    assert "? in doubt: the reply of turn 1 was never written" in result.stdout
    assert "At last." in result.stdout
    (shown,) = documents(typed("show", "one", "--json").stdout)
    (doubt,) = shown["in_doubt"]
    assert doubt["kind"] == "crash"
    assert doubt["cost_nano"] < shown["cost_nano"]
    assert f"counted as ${doubt['cost_nano'] / 1e9:.4f}" in typed("show", "one").stdout


def test_an_interrupted_run_tells_programs_so(here, simulated, answering):
    """With --json Ctrl-C leaves a document on stderr: what goes on with which run."""
    words = ("run", "mine:finder", "Please wait for two.", "--id", "two", "--json")
    command = process(*words, cwd=here, **simulated)
    while "wait for two" not in str(answering.requests()):
        assert command.poll() is None, finished(command)
        time.sleep(0.02)
    os.kill(command.pid, signal.SIGINT)
    code, out, errors = finished(command)
    assert (code, out) == (130, "")
    ((error,),) = [document.values() for document in documents(errors)]
    assert (error["type"], error["exit_code"], error["run_id"]) == ("Interrupted", 130, "two")
    assert "`outlast resume two` goes on" in error["message"]


@pytest.mark.parametrize("run", ["done", "refused"])
def test_what_has_ended_is_not_resumed(store, run):
    """`resume` of a completed or failed run is refused, exit 2, and says what can be done."""
    result = typed("resume", run, "--store", store)
    assert result.exit_code == 2
    assert "cannot be continued; `outlast show" in result.stderr


def test_a_run_finds_its_agent_again(here, simulated):
    """`resume` imports the agent from where the run says it was declared."""
    typed("run", "mine:miser", "What is there?", "--id", "one", **simulated)
    (shown,) = documents(typed("show", "one", "--json").stdout)
    assert shown["code"] == "mine:miser"
    (here / "mine.py").unlink()
    sys.modules.pop("mine")
    result = typed("resume", "one", **simulated)
    assert result.exit_code == 2
    assert "run 'one' was started with 'mine:miser': there is no module 'mine'" in result.stderr
    assert "--agent MODULE:AGENT" in result.stderr


def test_an_agent_of_nowhere_must_be_named(store):
    """A run whose agent cannot be imported asks for --agent."""
    result = typed("resume", "queued", "--store", store, ANTHROPIC_API_KEY="any")
    assert result.exit_code == 2
    assert "does not say where its agent 'finder' is declared" in result.stderr
    assert "--agent MODULE:AGENT" in result.stderr


def test_another_agent_cannot_resume(here, store):
    """A run is only driven by the agent it was started with."""
    words = ("resume", "queued", "--agent", "mine:miser", "--store", store)
    result = typed(*words, ANTHROPIC_API_KEY="any")
    assert result.exit_code == 2
    assert "was started with agent 'finder', not 'miser'" in result.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mine", "hi"], "'mine' is not MODULE:AGENT"),
        (["mine.py", "hi"], "such as mine:AGENT"),
        (["", "hi"], "such as research.agents:researcher"),
        (["mine.py:finder", "hi"], "write it as Python imports it: mine:AGENT"),
        (["nowhere:finder", "hi"], "there is no module 'nowhere', neither in"),
        (["broken:finder", "hi"], "cannot be imported: ZeroDivisionError"),
        (["needy:finder", "hi"], "needs 'nonexistent_thing', which is not installed"),
        (["untold:finder", "hi"], "parameter 'x' has no type hint"),
        (["mine:number", "hi"], "no flow, but of type int; its agents are: mine:find"),
        (["mine:nobody", "hi"], "module 'mine' has no 'nobody'; its agents are: mine:finder"),
        (["json:dumps", "hi"], "it declares no agent and no flow"),
        (["mine:finder", "  "], "Claude cannot be asked nothing"),
        (["mine:misspelt", "hi"], "no price is known for model 'claude-opux-5-5'"),
        (["mine:finder", "hi", "--id", "a b"], "run id 'a b': a run id is"),
        (["mine:finder", "hi", "--wait", "soon"], "'soon' is not a length of time; write 30s"),
        (["mine:finder", "hi", "--store", "runs.db"], "'runs.db' is not a store"),
        (["mine:finder"], "agent 'finder' needs an INPUT"),
    ],
)
def test_what_cannot_run_leaves_nothing(here, words, told):
    """Each mistake is a sentence on stderr and exit 2; no store is made, nothing is asked."""
    (here / "broken.py").write_text("1 / 0\n")
    (here / "needy.py").write_text("import nonexistent_thing\n")
    (here / "untold.py").write_text("import outlast\n@outlast.tool\ndef f(x): ...\n")
    result = typed("run", *words, ANTHROPIC_API_KEY="any")
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert not (here / "outlast.db").exists()


def test_without_a_key_nothing_starts(here, monkeypatch):
    """Without a key the command says what to set, or how to try without one, and makes no store."""
    monkeypatch.setenv("HOME", str(here))  # the SDK looks for credentials there, too
    result = typed("run", "mine:finder", "hi")
    assert result.exit_code == 2
    assert "set ANTHROPIC_API_KEY" in result.stderr
    assert "outlast simulate" in result.stderr
    assert not (here / "outlast.db").exists()


def test_another_input_is_another_run(here, simulated):
    """The id of a run that was asked something else is refused, with both questions."""
    typed("run", "mine:finder", "Why?", "--id", "one", **simulated)
    result = typed("run", "mine:finder", "How?", "--id", "one", **simulated)
    assert result.exit_code == 2
    assert "Why?" in result.stderr
    assert "How?" in result.stderr
    assert result.stdout == ""
