"""The page about the simulator is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import get_args

import anthropic
import pytest

from outlast.models import catalogue, faults
from outlast.models.script import FaultKind
from outlast.testing import simulator
from simulator.asking import body, client_of

PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
SRC = Path(__file__).parents[2] / "src"


def test_the_example_runs(tmp_path):
    """Copied from the page into two files, the example does what the page says."""
    script, test, judged = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert "judged()" in judged
    (tmp_path / "my_claude.py").write_text(script)
    (tmp_path / "example.py").write_text(test)
    path = os.pathsep.join(filter(None, [str(SRC), os.environ.get("PYTHONPATH", "")]))
    printed = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.splitlines()
    assert printed[0] == "overloaded, as the script says, and not billed"
    assert printed[1].startswith("cut, and billed: peer closed connection")
    assert printed[2] == "I found two owls."
    assert printed[3].startswith("['complete', 'cut', 'complete'] ")


def test_every_fault_is_on_the_page():
    """The table has a row for each kind, and no other."""
    assert re.findall(r"^\| `(\w+)` \| [^|]+\| (?:yes|no|always)", PAGE, re.MULTILINE) == list(
        get_args(FaultKind)
    )


def test_every_name_of_a_fault_is_on_the_page():
    """The table has a row for each name, in the order of the statuses, and no other."""
    named = re.findall(r"^\| `faults\.(\w+)\(", PAGE, re.MULTILINE)
    assert sorted(named) == sorted(faults.__all__)


def test_the_rules_run(tmp_path):
    """Copied from the page into a file, the rules do what they say, faults included."""
    (rules,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_claude.yaml").write_text(rules)
    search = {"name": "search", "input_schema": {"type": "object"}}
    asked = body("What of owls?", tools=[search])
    with (
        simulator.start(str(tmp_path / "my_claude.yaml")) as running,
        client_of(running) as client,
    ):
        for _ in range(2):
            with pytest.raises(anthropic.OverloadedError):
                client.messages.create(**asked)
        first = client.messages.create(**asked)
        assert [block.type for block in first.content] == ["thinking", "text", "tool_use"]
        result = {"type": "tool_result", "tool_use_id": first.content[2].id, "content": "two"}
        asked["messages"] += [
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        with pytest.raises(anthropic.APIConnectionError):
            client.messages.create(**asked)
        assert client.messages.create(**asked).content[0].text == "I found two."
        for _ in range(2):
            with pytest.raises(anthropic.OverloadedError):
                client.messages.create(**body("Mice?"))
        other = client.messages.create(**body("Mice?")).content[0].text
        assert other == "I only know owls, and you said: Mice?"


def test_every_option_is_on_the_page():
    """Whatever `start` takes is explained."""
    for name in signature(simulator.start).parameters:
        assert f"`{name}=" in PAGE or name == "script", name


def test_the_minimums_on_the_page_are_the_catalogues():
    """The page says from how many tokens on each model caches."""
    (line,) = (line for line in PAGE.splitlines() if "is not cached: 512 tokens" in line)
    told = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]{2,}", line)}
    assert told == {model.cacheable for model in catalogue.MODELS.values()}
