"""The four agents of examples/: each does its work, and two are killed and go on."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import outlast
from outlast.demo import grants
from outlast.events import ModelCallSucceeded

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = Path(outlast.__file__).parents[1]


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load an example as a module, with a store and files of its own."""

    def loaded(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return loaded


def environment(folder):
    """Return the environment in which an example writes into a folder."""
    return {
        "OUTLAST_STORE": f"sqlite:///{folder}/example.db",
        "OUTBOX": f"{folder}/outbox.jsonl",
        "PROPOSALS": str(folder),
    }


def script(name, folder, before=""):
    """Run an example as a script, with some code before it; return its exit code and output."""
    given = {name: value for name, value in os.environ.items() if name != "ANTHROPIC_API_KEY"}
    path = os.pathsep.join(map(str, (SOURCE, EXAMPLES)))
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import os, signal, {name} as it\n{before}\nit.main(*{ARGS[name]})",
        ],
        env=given | environment(folder) | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


ARGS = {"donor_mail": [], "proposal_writing": ["A café", "cafe"]}
DIE = "os.kill(os.getpid(), signal.SIGKILL)"
DIE_IN_THE_FIFTH_CALL = f"""
script, it.count = it.script, 0
def dying(request, attempt):
    it.count += 1
    if it.count == 5: {DIE}
    return script(request, attempt)
it.script = dying
"""


def replies(folder, run_id):
    """Return how many replies of Claude's are in the journal of a run."""
    with outlast.Outlast(f"sqlite:///{folder}/example.db") as app:
        return sum(isinstance(one.event, ModelCallSucceeded) for one in app.log(run_id))


def test_grants_are_researched(load, capsys):
    """The answer names real grants, again without a call; the conversation goes on in its run."""
    example = load("grant_research")
    example.main("dementia")
    first = capsys.readouterr().out
    ids = re.findall(r"360G-\w+-\d+", first)
    assert len(set(ids)) == 3
    assert "dementia" in grants.details(ids[0]).purpose.lower()
    assert "completed, 2 turns" in first
    example.main("dementia")
    assert capsys.readouterr().out == first
    example.main("dementia", "And under £10,000?")
    more = capsys.readouterr().out
    assert "completed, 4 turns" in more
    smaller = set(re.findall(r"360G-\w+-\d+", more))
    assert smaller
    assert all(grants.details(grant_id).amount_gbp <= 10_000 for grant_id in smaller)


def test_hallucinated_grants_are_rejected(load, capsys):
    """A wrong amount and a wrong funder are caught; what is answered is as the tools have it."""
    example = load("checked_grants")
    example.main("dementia")
    said = capsys.readouterr().out
    assert "✗ answer 1: [0].amount_gbp" in said
    assert "'The Generous Foundation' occurs in no tool result" in said
    assert said.count("✓") == 3
    assert "completed, 5 turns" in said
    example.main("dementia")
    assert capsys.readouterr().out == said


def test_a_proposal_is_written(load, tmp_path, capsys):
    """Three sections and an ending are written in three phases, and the file is the proposal."""
    example = load("proposal_writing")
    example.main("A café", "cafe")
    assert "completed, 5 turns" in capsys.readouterr().out
    text = (tmp_path / "cafe.md").read_text()
    sections = re.findall(r"^## (.+)\n\nThis is about (.+), for A café\.$", text, re.MULTILINE)
    assert [title.lower() for title, _ in sections] == [about for _, about in sections]
    assert len(sections) == 3


@pytest.mark.parametrize(
    ("before", "bought"),
    [
        (DIE_IN_THE_FIFTH_CALL, 4),
        (f"it.save = lambda *_: {DIE}", 5),
    ],
    ids=["while the ending is asked for", "while it is saved"],
)
def test_a_proposal_outlasts_a_kill(tmp_path, before, bought):
    """Killed in its last phase it goes on there: what was written is not bought again."""
    code, out = script("proposal_writing", tmp_path, before)
    assert code == -signal.SIGKILL, out
    assert replies(tmp_path, "cafe") == bought
    code, out = script("proposal_writing", tmp_path)
    assert code == 0, out
    assert replies(tmp_path, "cafe") == 5
    assert (tmp_path / "cafe.md").read_text().count("This is about") == 4


def sent(folder):
    """Return the gifts that the outbox has mails for, in order."""
    lines = (folder / "outbox.jsonl").read_text().splitlines()
    return [json.loads(line)["gift"] for line in lines]


def test_donors_are_thanked(load, tmp_path, capsys):
    """Each donor gets one mail, however often the example runs."""
    example = load("donor_mail")
    for _ in range(2):
        example.main()
        assert re.findall(r"^(\w+: \w+)", capsys.readouterr().out, re.MULTILINE) == [
            "Ada: sent",
            "Grace: sent",
        ]
    assert sent(tmp_path) == ["2031", "2032"]


@pytest.mark.parametrize(
    ("before", "told", "mails"),
    [
        (f"send = it.send\nit.send = lambda *a: (send(*a), {DIE})", "Ada: sent", ["2031", "2032"]),
        (f"it.send = lambda *_: {DIE}", "Ada: nobody knows whether it was sent", ["2032"]),
    ],
    ids=["after the mail went out", "before it went out"],
)
def test_no_donor_is_thanked_twice(tmp_path, before, told, mails):
    """Killed while it sends, a mail is looked for and never sent again; the next goes out."""
    code, out = script("donor_mail", tmp_path, before)
    assert code == -signal.SIGKILL, out
    code, out = script("donor_mail", tmp_path)
    assert code == 0, out
    assert told in out
    assert "Grace: sent" in out
    assert sent(tmp_path) == mails


def test_proposals_are_checked(load, capsys):
    """What breaks a rule is named, each proposal in a run of its own, each rule in an ask."""
    example = load("compliance_check")
    example.main()
    out = capsys.readouterr().out
    assert "Café: keeps all rules" in out
    assert re.search(r"Choir: \{'sum': 'NO.*'charity': 'NO.*'privacy': 'NO", out)
    assert "in 3 runs" in out
    with outlast.Outlast(example.STORE) as app:
        children = [run for run in app.runs() if run.parent == "check"]
        assert {run.id for run in children} == {"check/proposal/1", "check/proposal/2"}
        assert {run.turns for run in children} == {3}


def test_every_example_is_listed():
    """examples/README.md has a line for each example."""
    listed = re.findall(r"^\| \[(\S+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(
        path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")
    )
