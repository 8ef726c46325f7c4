"""What only a process of its own shows: imports, signals, pipes, and two at once."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

import outlast
from cli.console import SOURCE, agent, claude, documents, finished, process, read_until, typed
from outlast.models.scripted import ScriptedModel

IMPORTED = """
import sys
from outlast.cli import main
sys.argv[0] = "outlast"
try:
    main()
finally:
    sys.stderr.write(" ".join(sys.modules))
"""


@pytest.mark.parametrize(
    ("words", "never"),
    [
        (["--help"], {"anthropic", "pydantic", "rich", "uvicorn", "genai_prices"}),
        (["runs"], {"anthropic", "rich", "uvicorn"}),
        (["show", "done"], {"anthropic", "rich", "uvicorn"}),
        (["log", "done", "--json"], {"anthropic", "rich", "uvicorn"}),
        (["note", "nobody", "x"], {"anthropic", "rich", "uvicorn"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_looking_imports_nothing_heavy(looked_at, words, never):
    """What only looks never imports the SDK, and help not even what other commands need."""
    command = subprocess.run(
        [sys.executable, "-c", IMPORTED, *words],
        env=os.environ | {"PYTHONPATH": SOURCE, "OUTLAST_STORE": looked_at},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    imported = set(command.stderr.split())
    assert "outlast.cli.commands" in imported
    assert imported & never == set()


def test_shapes_need_no_command_line():
    """A program that only wants the shapes does not import typer."""
    code = "import sys, outlast.cli.shapes; assert 'typer' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": SOURCE},
        check=True,
        timeout=60,
    )


def test_python_m_outlast_is_outlast(tmp_path):
    """`python -m outlast --version` says the version."""
    code, out, _ = finished(process("--version", cwd=tmp_path))
    assert (code, out) == (0, f"outlast {outlast.__version__}\n")


def test_a_log_follows_what_another_process_writes(tmp_path):
    """`log --follow` shows events as another process appends them, and ends with the run's code."""
    with outlast.Outlast(f"sqlite:///{tmp_path}/runs.db", model=ScriptedModel(claude)) as app:
        app.start(agent(), "What is there?", run_id="one")
        words = ("log", "one", "--follow", "--json", "--store", "sqlite:///runs.db")
        follower = process(*words, cwd=tmp_path)
        seen = read_until(follower, lambda line: '"message_received"' in line)
        app.run(agent(), "What is there?", run_id="one")
        code, out, errors = finished(follower)
    assert (code, errors) == (0, "")
    events = documents("".join(seen) + out)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "run_finished"


def test_following_ends_with_an_interrupt(looked_at, tmp_path):
    """Ctrl-C while following ends with 130, for people in silence, for programs with a document."""
    words = ("log", "queued", "--follow", "--store", looked_at)
    for extra in ([], ["--json"]):
        follower = process(*words, *extra, cwd=tmp_path)
        read_until(follower, lambda line: "message_received" in line)
        os.kill(follower.pid, signal.SIGINT)
        code, out, errors = finished(follower)
        assert (code, out) == (130, "")
        told = [document["error"] for document in documents(errors)]
        assert [(error["type"], error["exit_code"]) for error in told] == [
            ("Interrupted", 130) for _ in extra
        ]


def test_a_reader_may_leave(looked_at, tmp_path):
    """When whoever reads the output has gone, the command ends quietly."""
    command = process("log", "done", "--follow", "--store", looked_at, cwd=tmp_path)
    assert command.stdout
    command.stdout.close()
    with command:
        assert command.wait(60) == 141
        assert command.stderr
        assert command.stderr.read() == ""


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_simulate_says_where_it_is(tmp_path, end, code):
    """`simulate` prints the URL and how to use it, answers there, and ends when told to."""
    (tmp_path / "mine.py").write_text(
        "from outlast.models.script import say\ndef script(request, attempt): return say('Mine.')\n"
    )
    words = ("simulate", "--script", "mine:script", "--state", "state")
    command = process(*words, cwd=tmp_path)
    lines = read_until(command, lambda line: line.startswith("Next"))
    (url,) = set(re.findall(r"http://127\.0\.0\.1:\d+", "".join(lines)))
    assert f"  export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=anything\n" in lines
    assert json.loads(_asked(url))["content"][0]["text"] == "Mine."
    os.kill(command.pid, end)
    assert finished(command)[0] == code
    assert len((tmp_path / "state" / "bill.jsonl").read_text().splitlines()) == 1


def _asked(url):
    body = {
        "model": "claude-opus-5-5",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "hi"}],
    }
    headers = {
        "content-type": "application/json",
        "x-api-key": "any",
        "anthropic-version": "2023-06-01",
    }
    request = urllib.request.Request(  # noqa: S310  (loopback)
        f"{url}/v1/messages", json.dumps(body).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  (as above)
        return answer.read()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--script", "nowhere:script"], "cannot load 'nowhere:script'"),
        (["--host", "0.0.0.0"], "not a loopback address"),  # noqa: S104  (refused)
        (["--port", "many"], "Invalid value for '--port'"),
        (["--port", "99999"], "Invalid value for '--port'"),
        (["--port", "-1"], "Invalid value for '--port'"),
    ],
)
def test_simulate_says_what_it_cannot(words, told):
    """A script that is not there, a host elsewhere or a port that is none is refused, exit 2."""
    result = typed("simulate", *words)
    assert result.exit_code == 2
    assert told in result.stderr
