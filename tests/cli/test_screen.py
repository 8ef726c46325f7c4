"""A terminal shows a living line and colours; a pipe gets whole lines and nothing else."""

import io
import re

import pytest
from rich.console import Console

from outlast.cli.progress import Progress
from outlast.cli.screen import Plain, Showing, Terminal, columns, screen
from outlast.events import ModelCallStarted
from outlast.journal import Record
from outlast.models import Part

TABLE = """
| grant | recipient | for |
|---|---|---|
| 360G-LBFEW-95265 | Hafan Dementia Care of Ammanford | the running costs of a respite centre |
"""


def terminal(width=60):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system="standard")
    return Terminal(console), file


def visible(text):
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def test_a_pipe_gets_whole_lines():
    """In a file a line is never cut, and has neither colour nor trailing space."""
    file = io.StringIO()
    on = Plain(file)
    on.line(("x" * 300, "bad"), right=[("$1", "money")])
    on.live(lambda: [("never", "")])
    on.page("# as\nit is", markdown=True)
    columns(on, [[("a", ""), ("b", "good")], [("long", ""), ("", "")]])
    assert file.getvalue() == f"{'x' * 300}  $1\n# as\nit is\na     b\nlong\n"


def test_a_terminal_cuts_a_line_where_it_ends():
    """On a terminal a line takes one row, and what stands at its right end stays."""
    on, file = terminal(40)
    on.line(("x" * 100, ""), right=[("$0.1234", "money")])
    (line,) = visible(file.getvalue()).splitlines()
    assert len(line) <= 40
    assert line.endswith("…  $0.1234")
    assert "\x1b[36m" in file.getvalue()


def test_wide_characters_are_counted_as_wide():
    """A character that takes two cells is cut as two."""
    on, file = terminal(20)
    on.line(("日" * 40, ""), right=[("$1", "")])
    (line,) = visible(file.getvalue()).splitlines()
    assert line.count("日") <= 8


def test_the_living_line_goes_away():
    """The living line ends with a line break, is wiped before anything else, and leaves nothing."""
    on, file = terminal()
    with Showing(on, lambda: [("working", "")]):
        shown = file.getvalue()
        on.line(("done", ""))
    assert visible(shown).endswith("working\n")
    assert shown in file.getvalue()
    after = file.getvalue()[len(shown) :]
    assert after.startswith("\x1b[1A\r\x1b[J")
    assert "working" not in file.getvalue().rpartition("\x1b[J")[2]


def test_the_cursor_is_never_hidden():
    """A kill must not leave a terminal without its cursor."""
    on, file = terminal()
    with Showing(on, lambda: [("working", "")]):
        on.line(("x", ""))
    assert "\x1b[?25l" not in file.getvalue()


def test_an_id_in_a_table_stays_whole():
    """A table of an answer is fitted without cutting a word, when there is room for its words."""
    on, file = terminal(60)
    on.page(TABLE, markdown=True)
    shown = visible(file.getvalue())
    assert "360G-LBFEW-95265" in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 60


def test_no_terminal_no_colour(monkeypatch, capsys):
    """Standard output that is no terminal, or a dumb one, is plain."""
    assert isinstance(screen(), Plain)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(screen(), Plain)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(screen(), Terminal)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([("text", "Once upon")], "Claude writes"),
        ([("thinking", "hm")], "Claude thinks"),
        ([("tool_use", "search")], "Claude asks for search"),
        ([("text", "Once"), ("discarded", "")], "Claude writes"),
    ],
)
def test_the_living_line_tells_what_comes(parts, told):
    """While a reply comes the living line says so, with what was spent and the words so far."""
    progress = Progress(Plain(io.StringIO()))
    progress.on_record(Record("run:a", 1, 1, 0, 1, _intent()))
    for kind, text in parts:
        progress.on_part(Part(run_id="a", ask_id="a", call_id="c", attempt=1, kind=kind, text=text))
    now = "".join(text for text, _ in progress._now())
    assert now.startswith(f"$0.0000 · turn 1 · {told}")
    assert ("Once upon" in now) == (parts == [("text", "Once upon")])


def _intent():
    return ModelCallStarted(
        ask_id="a", call_id="c", max_tokens=1, request_hash="", hold_nano=7, hold_tokens=1
    )
