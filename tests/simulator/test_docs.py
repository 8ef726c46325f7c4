"""The page about the simulator is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

from outlast.models.script import FaultKind

PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
SRC = Path(__file__).parents[2] / "src"


def test_the_example_runs(tmp_path):
    """Copied from the page into two files, the example does what the page says."""
    script, test = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
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
