"""What agents print does not come between programs and the JSON that they asked for."""

import atexit
import json
import sys

import pytest

from cli.console import TESTS, documents, finished, process, typed
from outlast.testing import simulator

SAID = "said aloud"


@pytest.fixture(scope="module")
def simulated():
    """The environment in which a Claude uses both tools."""
    with simulator.start("cli.printing:claude", path=[TESTS]) as running:
        yield {"ANTHROPIC_BASE_URL": running.url, "ANTHROPIC_API_KEY": "any"}


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path}/runs.db"


def test_what_tools_print_is_no_json(simulated, store, tmp_path):
    """Standard output is one document, whatever prints, however, and until the end."""
    command = process(
        *("run", "cli.printing:chatty", "Go.", "--id", "one", "--json", "--store", store),
        cwd=tmp_path,
        **simulated,
    )
    code, out, err = finished(command)
    assert (code, json.loads(out)["answer"]) == (0, "done"), err
    assert f"{SAID} on import" in err
    assert f"{SAID} by its descriptor" in err
    assert f"{SAID} by a process" in err
    assert f"{SAID} at the end" in err


def test_a_program_finds_its_output_as_it_was(store, monkeypatch):
    """In a process that is not ours, what is printed on import is no JSON either."""
    monkeypatch.delitem(sys.modules, "cli.printing", raising=False)
    monkeypatch.setattr(atexit, "register", lambda *_, **__: None)  # this process goes on
    before = sys.stdout
    result = typed("start", "cli.printing:chatty", "Go.", "--id", "one", "--json", "--store", store)
    (document,) = documents(result.stdout)
    assert document["id"] == "one"
    assert f"{SAID} on import" in result.stderr
    assert sys.stdout is before


@pytest.mark.soak
def test_what_a_worker_runs_prints_is_no_json(simulated, store, tmp_path):
    """Each line of a worker is a document."""
    start = ("start", "cli.printing:chatty", "Go.", "--id", "one", "--json", "--store", store)
    code, out, err = finished(process(*start, cwd=tmp_path, **simulated))
    assert (code, json.loads(out)["id"]) == (0, "one"), err
    work = ("worker", "cli.printing", "--until-idle", "--json", "--store", store)
    code, out, err = finished(process(*work, cwd=tmp_path, **simulated))
    assert code == 0, err
    assert documents(out)[-1]["type"] == "worker_ended"
    assert SAID in err
