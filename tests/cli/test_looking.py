"""`runs`, `show`, `log` and `note`, as people see them; and how commands end."""

import re

import apsw
import pytest

from cli.console import documents, typed
from outlast.cli import exits
from outlast.errors import (
    Busy,
    Conflict,
    Fenced,
    JournalDamaged,
    NotAStore,
    OutlastError,
    RunEnded,
    RunNotFound,
    StoreFull,
)
from outlast.stores import open_store


def test_runs_are_a_table(looked_at):
    """A row for each run, newest first, and why one that stopped did."""
    lines = typed("runs", "--store", looked_at).stdout.splitlines()
    assert lines[0].split() == ["RUN", "STATUS", "AGENT", "COST", "TURNS", "STARTED", "WHY"]
    assert [line.split()[:3] for line in lines[1:-1]] == [
        ["queued", "queued", "finder"],
        ["refused", "failed", "finder"],
        ["out-of-turns", "stopped", "miser"],
        ["done", "completed", "finder"],
    ]
    assert "run budget, needs 1 turn" in lines[3]
    assert lines[-1] == "Next: outlast show queued"


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--status", "completed"], ["done"]),
        (["--agent", "miser"], ["out-of-turns"]),
        (["--agent", "miser", "--status", "failed"], []),
        (["--limit", "2"], ["queued", "refused"]),
    ],
)
def test_runs_are_chosen(looked_at, options, ids):
    """Runs are listed by status, by agent, by both, and up to a number."""
    (listed,) = documents(typed("runs", *options, "--json", "--store", looked_at).stdout)
    assert [run["id"] for run in listed] == ids


def test_a_cut_list_says_so(looked_at):
    """When there are more runs than are shown, the last line says how to see them."""
    assert "--limit 6" in typed("runs", "--limit", "3", "--store", looked_at).stdout
    assert "--limit" not in typed("runs", "--limit", "4", "--store", looked_at).stdout


def test_a_store_that_is_not_there_is_empty(empty):
    """Looking into a store that does not exist shows no runs, and does not make it."""
    result = typed("runs", "--store", empty)
    assert result.exit_code == 0
    assert "No runs yet" in result.stdout
    assert typed("runs", "--store", empty, "--json").stdout == "[]\n"


def test_show_tells_everything(looked_at):
    """A completed run is shown with its question, its cost and its answer."""
    out = typed("show", "done", "--store", looked_at).stdout
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in out.split("\n\n")[0].splitlines())
    assert facts["run"] == "done"
    assert facts["status"] == "completed"
    assert facts["agent"] == "finder on claude-opus-5-5"
    assert facts["asked"] == "What is there?"
    assert facts["tenant"] == "acme"
    assert facts["turns"] == "2"
    assert facts["cost"].startswith("$0.00")
    assert "in doubt" not in facts
    assert "All of it." in out
    assert out.endswith("Next: outlast log done\n")


@pytest.mark.parametrize(
    ("run", "told", "step"),
    [
        ("refused", "the request is not one", "outlast log refused"),
        ("out-of-turns", "needs 1 turn, 0 turns left", "outlast log out-of-turns"),
        ("queued", "Not yet.", "outlast resume queued"),
    ],
)
def test_show_says_why_and_what_next(looked_at, run, told, step):
    """A run without an answer is shown with the reason, and with what to do."""
    result = typed("show", run, "--store", looked_at)
    assert result.exit_code == 0
    assert told in result.stdout
    assert result.stdout.splitlines()[-1].startswith(f"Next: {step}")


def test_a_log_is_a_story(looked_at):
    """Each event is one line: time, place, type, and a sentence with what was called and came."""
    lines = typed("log", "done", "--store", looked_at).stdout.splitlines()
    events = [re.fullmatch(r"\d\d:\d\d:\d\d +(\d+)  (\w+) +(.*)", line) for line in lines[1:-1]]
    assert [int(event[1]) for event in events] == list(range(1, len(events) + 1))
    told = "\n".join(f"{event[2]}: {event[3]}" for event in events)
    assert 'tool_call_started: look_up(keyword="deaf", limit=2)  read' in told
    assert "tool_call_succeeded: look_up → 2 items" in told
    assert (
        "tool_call_failed: ask_website failed (unavailable): ConnectionError: example.org" in told
    )
    assert "model_call_failed: not billed  overloaded (529): Overloaded" in told
    assert "model_call_started: turn 1, attempt 2" in told
    assert re.search(r"model_call_succeeded: \$0\.00\d\d  “Let me look.” → look_up, ask_web", told)
    assert "run_finished: completed  $0.00" in told


def test_a_note_is_written_and_told(store):
    """A remark is in the journal with its author, and changes nothing the run is."""
    before = documents(typed("show", "done", "--json", "--store", store).stdout)[0]
    result = typed("note", "done", "looks right", "--by", "ada", "--store", store)
    assert result.exit_code == 0
    assert result.stdout.endswith("Next: outlast log done\n")
    assert "“looks right”  ada" in typed("log", "done", "--store", store).stdout
    after = documents(typed("show", "done", "--json", "--store", store).stdout)[0]
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"updated_at"}


def test_a_note_as_json_is_its_event(store):
    """`note --json` prints the event that was written."""
    (event,) = documents(typed("note", "queued", "hm", "--json", "--store", store).stdout)
    assert (event["type"], event["text"], event["stream"]) == ("note_added", "hm", "run:queued")


def test_control_characters_do_not_reach_the_terminal(store):
    """What somebody wrote into a journal cannot move the cursor of whoever reads it."""
    typed("note", "done", "red \x1b[31malert\x07\nnew line", "--store", store)
    out = typed("log", "done", "--store", store).stdout
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "“red [31malert new line”" in out


# ── how commands end ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", [["show"], ["log"], ["log", "--follow"], ["resume"]])
def test_an_unknown_run_is_wrong_usage(empty, command):
    """A run that is not there is refused with the store's name, exit 2."""
    result = typed(*command, "nobody", "--store", empty)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: there is no run 'nobody' in {empty}")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["note", "done", "  "], "the note is empty"),
        (["runs", "--status", "gone"], "'gone' is not a status; it is one of queued, running"),
        (["runs", "--limit", "0"], "Invalid value for '--limit'"),
        (["runs", "--nonsense"], "No such option"),
        (["show"], "Missing argument"),
        (["shwo", "x"], "No such command 'shwo'. Did you mean 'show'?"),
    ],
)
def test_wrong_usage_says_what_is_right(looked_at, words, told):
    """Each mistake is answered with a sentence on stderr, exit 2, and no traceback."""
    result = typed(*words, OUTLAST_STORE=looked_at)
    assert result.exit_code == 2
    assert told in result.stderr
    assert "Traceback" not in result.output


def test_a_file_of_something_else_is_left_alone(tmp_path):
    """A file that is no store is refused, exit 2, and not a byte of it changes."""
    (tmp_path / "notes.db").write_text("my notes")
    result = typed("runs", "--store", f"sqlite:///{tmp_path}/notes.db")
    assert result.exit_code == 2
    assert "left alone" in result.stderr
    assert (tmp_path / "notes.db").read_text() == "my notes"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.db"]


@pytest.mark.parametrize(
    ("url", "told"),
    [("runs.db", "is not a store"), ("postgresql://x/y", "PostgreSQL is not in this version")],
)
def test_what_cannot_be_a_store_is_refused(url, told):
    """A store that is not named as one is refused with the forms that are, exit 2."""
    result = typed("runs", "--store", url)
    assert result.exit_code == 2
    assert told in result.stderr
    assert "sqlite:///relative.db" in result.stderr


def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path):
    """A store that cannot be made is refused with what is missing, exit 2."""
    result = typed("demo", "--fast", "--store", f"sqlite:///{tmp_path}/no/where.db")
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr


@pytest.mark.parametrize("command", ["show", "log"])
def test_a_damaged_journal_ends_with_4(store, command):
    """A record that cannot be what was written is not shown as if it were: exit 4."""
    connection = apsw.Connection(store.removeprefix("sqlite:///"))
    connection.execute(
        "update event_bodies set body = x'7b7d' where seq = 3 and stream = 'run:done'"
    )
    connection.close()
    result = typed(command, "done", "--store", store)
    assert result.exit_code == 4
    assert "run:done seq 3" in result.stderr
    assert "backup" in result.stderr


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("completed", 0),
        ("failed", 1),
        ("rejected", 1),
        ("stopped", 3),
        ("cancelled", 3),
        ("queued", 5),
        ("running", 5),
        ("parked", 5),
        ("waiting", 5),
        ("paused", 5),
    ],
)
def test_a_status_has_an_exit_code(status, code):
    """Each status a run can have says whether it is done, by a number."""
    assert exits.of_status(status) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunNotFound("a", store="b"), 2),
        (RunEnded("a", status="failed"), 2),
        (NotAStore("x"), 2),
        (JournalDamaged("a", seq=1, why="x"), 4),
        (Busy("a", holder="b"), 5),
        (Fenced("a", epoch=1, fence=2), 5),
        (Conflict("a", expected_seq=1, actual_seq=2), 5),
        (StoreFull("x"), 1),
        (OutlastError("x"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_has_an_exit_code(error, code):
    """Each error is told apart by a number: usage, damage, somebody else at work, anything else."""
    assert exits.of_error(error) == code


@pytest.mark.parametrize(("run", "code"), [("done", 0), ("refused", 1), ("out-of-turns", 3)])
def test_a_followed_run_ends_the_command_with_its_code(looked_at, run, code):
    """`log --follow` of a run that ended shows it all, and exits as the run did."""
    result = typed("log", run, "--follow", "--json", "--store", looked_at)
    assert result.exit_code == code
    assert documents(result.stdout)[-1]["type"] == "run_finished"


def test_a_run_that_another_drives_ends_with_5(store, tmp_path, monkeypatch):
    """What another process drives is not driven twice: exit 5, with that process's number."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held.py").write_text(
        "import outlast\nfrom cli.console import agent\nfinder = agent()\n"
    )
    other = open_store(store)
    other.claim("run:queued")
    try:
        words = ["resume", "queued", "--agent", "held:finder", "--wait", "0s", "--store", store]
        result = typed(*words, ANTHROPIC_API_KEY="none")
        assert result.exit_code == 5, result.output
        assert re.search(r"driven by process \d+", result.stdout)
        (document,) = documents(typed(*words, "--json", ANTHROPIC_API_KEY="none").stdout)
        assert (document["status"], document["why"][:9]) == ("queued", "driven by")
    finally:
        other.close()
