"""The demo survives what it invites people to do to it."""

import fcntl
import json
import os
import re
import signal
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from cli.console import documents, finished, process, read_until, typed
from outlast.cli import demo
from outlast.cli.screen import screen
from outlast.demo import session
from outlast.errors import UsageError
from outlast.stores import open_store

STORE = "sqlite:///runs.db"


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A folder with a demo that was interrupted, killed twice, and went on to its end."""
    folder = tmp_path_factory.mktemp("demo")
    ends = [
        _ended(folder, signal.SIGINT, "overloaded (529)"),
        _ended(folder, signal.SIGKILL, "  3  "),
        _ended(folder, signal.SIGKILL, "── reviewing ──"),
        finished(process("demo", "--fast", "--store", STORE, cwd=folder)),
    ]
    return folder, ends


def _ended(folder, how, at):
    """Send a signal to a demo as soon as it shows a line, and return how it ended.

    It is played with its pauses, so that many seconds are left when the line is seen.
    """
    command = process("demo", "--store", STORE, cwd=folder)
    lines = read_until(command, lambda line: at in line)
    children = psutil.Process(command.pid).children()
    os.kill(command.pid, how)
    code, rest, errors = finished(command)
    psutil.wait_procs(children, timeout=20)
    assert not [child for child in children if child.is_running()], "the simulator lives on"
    return code, "".join(lines) + rest, errors


def _found(ends):
    """Return how many turns each demo that went on found in the journal."""
    said = (re.search(r"goes on from its journal: (\d) turn", out) for _, out, _ in ends)
    return [int(found[1]) for found in said if found]


def _log(folder, run="demo"):
    store = f"sqlite:///{folder}/runs.db"
    return documents(typed("log", run, "--json", "--store", store).stdout)


def _shown(folder, run="demo"):
    (shape,) = documents(
        typed("show", run, "--json", "--store", f"sqlite:///{folder}/runs.db").stdout
    )
    return shape


def _lines(folder, name):
    (state,) = (folder / "runs.db-demo").glob("demo-????????")
    return [json.loads(line) for line in (state / name).read_text().splitlines()]


def test_the_demo_goes_on(played):
    """Ctrl-C ends it with 130, kill -9 as it does, and run again it goes on to its answer."""
    _, ends = played
    assert [code for code, _, _ in ends] == [130, -signal.SIGKILL, -signal.SIGKILL, 0]
    assert [errors for _, _, errors in ends] == [""] * 4
    assert ends[0][1].splitlines()[-2:] == [
        "Interrupted. Everything so far is in the journal.",
        "Next: outlast demo   (it goes on right here)",
    ]
    found = _found(ends)
    assert len(found) == 3
    assert 1 <= found[0] < 3 <= found[1] < 6 <= found[2] < 9
    assert "We ask for £15,000" in ends[-1][1]


def test_no_turn_is_asked_twice(played):
    """Each of the nine replies is in the journal once, whoever was driving."""
    folder, ends = played
    events = _log(folder)
    replies = [event for event in events if event["type"] == "model_call_succeeded"]
    assert len(replies) == 9
    told = re.findall(r"^ +(\d)  ", "".join(out for _, out, _ in ends), re.MULTILINE)
    assert sorted(set(told)) == list("123456789")
    assert max(event["epoch"] for event in events) == 4


def test_the_bill_fits_the_journal(played):
    """Claude's own bill is what the journal settled, plus at most what it counts in doubt."""
    folder, _ = played
    events = _log(folder)
    settled = sum(e["cost_nano"] for e in events if e["type"] == "model_call_succeeded")
    doubted = sum(e["cost_nano"] for e in events if e["type"] == "model_call_in_doubt")
    billed = sum(line["nano_usd"] for line in _lines(folder, "bill.jsonl"))
    assert settled <= billed <= settled + doubted
    assert _shown(folder)["cost_nano"] == settled + doubted


def test_it_goes_through_its_phases_once(played):
    """However often it was killed, each phase was entered once, and the proposal is saved."""
    folder, _ = played
    events = _log(folder)
    phases = [event["phase"] for event in events if event["type"] == "phase_entered"]
    assert phases == ["researching", "drafting", "reviewing"]
    (saved,) = [e for e in events if e["type"] == "step_finished"]
    assert (folder / saved["result"]).read_text() == _shown(folder)["answer"] + "\n"


def test_faults_come_once(played):
    """Claude is overloaded once and limits the rate once, however often the demo is killed."""
    folder, _ = played
    statuses = [line["status"] for line in _lines(folder, "requests.jsonl")]
    assert statuses.count(529) == 1
    assert statuses.count(429) == 1


def test_the_last_lines_say_what_was_saved(played):
    """The savings are computed from the journal: each time, what was there already."""
    folder, ends = played
    with closing(open_store(f"sqlite:///{folder}/runs.db")) as journal:
        saved = session.saved(journal.read("run:demo"))
    assert saved.drivers == 3
    assert saved.turns == sum(_found(ends))
    out = ends[-1][1]
    assert "Interrupted 3 times, and it went on where it was." in out
    assert f"{saved.turns} turns not repeated, ${saved.nano / 1e9:.4f} not paid twice" in out
    assert (f"{saved.doubts} repl" in out) == (saved.doubts > 0)
    assert out.splitlines()[-1].startswith("Next: outlast log demo")


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        (
            session.Saved(drivers=1, doubts=1, doubts_nano=7_000_000),
            [
                "Interrupted once, and it went on where it was.",
                "No turn was finished by then, so none had to be saved: kill it later.",
                "1 reply was cut off by it: counted as $0.0070, the most that can have cost.",
            ],
        ),
        (
            session.Saved(drivers=2, turns=1, nano=5_000_000),
            [
                "Interrupted 2 times, and it went on where it was.",
                "Saved against starting over: 1 turn not repeated, $0.0050 not paid twice.",
            ],
        ),
        (
            session.Saved(),
            ["It was never interrupted, so nothing had to be saved: kill it next time."],
        ),
    ],
    ids=["before the first turn", "after it", "never"],
)
def test_savings_are_told_as_they_were(saved, told, capsys):
    """Where nothing was there to be saved yet, no zeros are praised."""
    demo._count_savings(screen(), saved)
    assert capsys.readouterr().out.splitlines() == told


def test_its_log_tells_the_story(played):
    """The log shows who took over, and marks what is in doubt."""
    folder, _ = played
    told = typed("log", "demo", "--store", f"sqlite:///{folder}/runs.db").stdout
    assert re.findall(r"^— driver (\d) took over after .* —$", told, re.MULTILINE) == list("234")
    doubts = [e for e in _log(folder) if e["type"].endswith("_in_doubt")]
    assert told.count("IN DOUBT") == len(doubts)


def test_once_finished_it_calls_nobody(played):
    """Run again it shows its result, without a simulator, a call or a word in the journal."""
    folder, _ = played
    before = (_log(folder), _lines(folder, "requests.jsonl"))
    code, out, _ = finished(process("demo", "--store", STORE, cwd=folder))
    assert code == 0
    assert "Run demo ended before, so nothing is asked again." in out
    assert "Interrupted 3 times" in out
    assert (_log(folder), _lines(folder, "requests.jsonl")) == before


def test_again_is_another_run_with_the_same_answer(played):
    """--again starts demo-2, whose faults are its own; never interrupted, it saved nothing."""
    folder, _ = played
    code, out, _ = finished(process("demo", "--fast", "--again", "--store", STORE, cwd=folder))
    assert code == 0
    assert "overloaded (529)" in out
    assert "It was never interrupted, so nothing had to be saved: kill it next time." in out
    assert _shown(folder, "demo-2")["answer"] == _shown(folder)["answer"]
    with closing(open_store(f"sqlite:///{folder}/runs.db")) as journal:
        assert session.next_id(journal) == "demo-3"


def test_what_it_keeps_is_private(played):
    """The store is the owner's alone, and so is the folder of the simulator beside it."""
    folder, _ = played
    assert (folder / "runs.db").stat().st_mode & 0o777 == 0o600
    assert (folder / "runs.db-demo").stat().st_mode & 0o777 == 0o700


# ── without a simulator ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def begun(tmp_path):
    """A store in which the demo has begun."""
    url = f"sqlite:///{tmp_path}/runs.db"
    with closing(open_store(url)) as journal:
        session.begin(journal, "demo", live=False)
    return url


def test_two_demos_at_once_are_one(begun, monkeypatch):
    """While another process plays the run, this one does not: exit 5."""
    monkeypatch.setattr(demo, "WAIT_S", 0.0)
    with closing(open_store(begun)) as journal:
        nonce = journal.read("run:demo")[0].event.nonce
    folder = Path(begun.removeprefix("sqlite:///") + "-demo") / f"demo-{nonce[:8]}"
    folder.mkdir(parents=True)
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = typed("demo", "--fast", "--store", begun)
    assert result.exit_code == 5
    assert "being driven by another `outlast demo`" in result.stderr


def test_an_interrupted_demo_tells_programs_so(begun, monkeypatch):
    """With --json Ctrl-C leaves a document on stderr that says what goes on."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "drive", interrupted)
    result = typed("demo", "--json", "--store", begun)
    assert (result.exit_code, result.stdout) == (130, "")
    (document,) = documents(result.stderr)
    assert document["error"]["run_id"] == "demo"
    assert "`outlast demo` goes on" in document["error"]["message"]


def test_a_simulated_demo_never_asks_the_real_claude(begun):
    """A run keeps the Claude it began with, whatever is typed."""
    result = typed("demo", "--live", "--store", begun, ANTHROPIC_API_KEY="any")
    assert result.exit_code == 2
    assert "`outlast demo` goes on with it" in result.stderr
    assert "`outlast demo --again --live` begins another" in result.stderr


def test_a_live_demo_is_not_simulated(tmp_path):
    """A run that began with the real Claude is not continued by a simulated one."""
    with closing(open_store(f"sqlite:///{tmp_path}/runs.db")) as journal:
        session.begin(journal, "demo", live=True)
        with pytest.raises(UsageError, match=r"`outlast demo --live` goes on with it"):
            session.begin(journal, "demo", live=False)


def test_a_live_demo_needs_a_key(tmp_path, monkeypatch):
    """Without a key --live says what to set, and begins nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    store = f"sqlite:///{tmp_path}/runs.db"
    result = typed("demo", "--live", "--store", store)
    assert result.exit_code == 2
    assert "set ANTHROPIC_API_KEY" in result.stderr
    assert typed("runs", "--json", "--store", store).stdout == "[]\n"


def test_a_run_that_only_has_its_name_is_left_alone(store):
    """A run of somebody else's that is called demo is not played."""
    with closing(open_store(store)) as journal:
        with pytest.raises(UsageError, match="is not the demo's"):
            session.begin(journal, "done", live=False)
        assert session.next_id(journal) == "demo"


def test_again_goes_on_with_what_again_began(begun):
    """--again after an interrupted --again plays the same run, and never `demo` itself."""
    with closing(open_store(begun)) as journal:
        assert session.next_id(journal) == "demo-2"
        session.begin(journal, "demo-2", live=False)
        assert session.next_id(journal) == "demo-2"
    assert session.command("demo-2", live=False) == "outlast demo --again"
    assert session.command("demo", live=True) == "outlast demo --live"
