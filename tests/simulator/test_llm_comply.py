"""The simulator is certified by others: the Anthropic suite of llm-comply, whole and unskipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from outlast.models import schema
from outlast.testing import simulator
from outlast.testing.simulator import echo
from simulator.asking import body

SUITE = 9
"""How many tests llm-comply has in Anthropic's format."""


def test_llm_comply_passes_nine_of_nine():
    """Its own command line, against the default script, finds nothing wrong and skips nothing."""
    with simulator.start(check_history=False) as running:
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "llm_comply.cli", "--json", "--format", "anthropic"),
                *("--base-url", f"{running.url}/v1", "--api-key", "any"),
                *("--auth-header", "x-api-key", "--no-bearer"),
                *("--header", "anthropic-version:2023-06-01", "--model", "claude-opus-4-5"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        )
    told = json.loads(ran.stdout[ran.stdout.index("{") :])
    states = {result["id"]: result["status"] for result in told["results"]}
    assert states == dict.fromkeys(states, "passed"), ran.stdout
    assert len(states) == SUITE
    assert ran.returncode == 0


def test_the_default_script_gives_what_a_request_demands():
    """Thinking, a forced call and JSON of a schema are there when they are asked for."""
    wanted = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["owl", "mouse"]},
            "ages": {"type": "array", "items": {"type": "integer"}},
            "name": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
            "is": {"const": 7},
        },
        "required": ["kind", "ages", "name", "place", "is"],
    }
    tools = [{"name": "look", "input_schema": wanted}]
    thought, call = echo.script(
        body("hi", tools=tools, tool_choice={"type": "any"}, thinking={"type": "adaptive"}), 1
    ).content
    assert thought["type"] == "thinking"
    assert schema.misfit(call["input"], wanted) == ""
    named = {"type": "tool", "name": "look"}
    assert echo.script(body("hi", tools=tools, tool_choice=named), 1).content == [call]
    form = {"format": {"type": "json_schema", "schema": wanted}}
    (said,) = echo.script(body("hi", output_config=form), 1).content
    assert json.loads(said["text"]) == call["input"]
