"""docs/cli.md is complete, and names nothing that is not there."""

import re
from pathlib import Path

import pytest
import typer.main

from outlast.cli import app, exits
from outlast.cli.runs import STATUSES

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
COMMANDS = typer.main.get_command(app).commands


def section(command: str) -> str:
    """Return what the page says about a command."""
    found = re.search(rf"^## `outlast {command}\b.*?(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md says nothing about `outlast {command}`"
    return found[0]


def test_every_command_has_a_section():
    """The page has a section for each command there is, and for no other."""
    assert re.findall(r"^## `outlast (\w+)", PAGE, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name):
    """A section names every option of its command, and only those."""
    command = COMMANDS[name]
    whole = [command, *getattr(command, "commands", {}).values()]  # a group has commands of its own
    params = [param for one in whole for param in one.params]
    given = {option for param in params for option in param.opts if option.startswith("--")}
    everywhere = {"--store", "--json", "--help"}
    described = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", section(name)))
    assert given - everywhere <= described
    assert described <= given | everywhere


def test_every_exit_code_is_in_the_table():
    """The page lists each exit code once."""
    codes = {value for name, value in vars(exits).items() if name.isupper() and name[0] != "_"}
    listed = re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)
    assert sorted(map(int, listed)) == sorted(codes)


def test_every_status_is_named():
    """The page names each status that a run can have."""
    for status in STATUSES:
        assert f"`{status}`" in PAGE


def test_one_sentence_a_line():
    """Prose stands one sentence a line, so that diffs read well."""
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    for line in prose.splitlines():
        if not line.startswith(("|", "#")):
            assert not re.search(r"[.!?] [A-Z]", line), line
