"""`outlast limits`: what is known of rate limits, and asking for them beforehand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import outlast
from flow_stubs import named
from outlast.models.organization import _by_group
from outlast.testing import simulator

KEY = "any-key-will-do"
ADMIN = "sk-ant-admin-any"


def limits(url: str, store: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": KEY,
        "OUTLAST_STORE": f"sqlite:///{store}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "outlast", "limits", *args]
    return subprocess.run(
        command, env=env | more, check=False, capture_output=True, text=True, timeout=60
    )


def test_limits_are_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an Admin API key they are fetched, once; the first call of a store keeps to them."""
    store = tmp_path / "s.db"
    with simulator.start(rpm=600, itpm=90_000) as claude:
        nothing = limits(claude.url, store)
        assert nothing.returncode == 0
        assert "Claude was not asked yet" in nothing.stdout
        assert not store.exists()
        for _ in range(2):
            told = limits(claude.url, store, "--fetch", "--json", ANTHROPIC_ADMIN_KEY=ADMIN)
            assert told.returncode == 0, told.stderr
        shown = {line["group"]: line for line in json.loads(told.stdout)}
        assert shown["claude-haiku-5-5"]["units"] == {
            "requests": {"limit": 600, "taken": 0.0},
            "input_tokens": {"limit": 90_000, "taken": 0.0},
        }
        assert ADMIN not in told.stdout
        monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        with outlast.Outlast(f"sqlite:///{store}") as app:
            told_before = len(app.journal.read("~limits"))
            assert app.run(named("one"), "hello", run_id="r").status == "completed"
            (number,) = app.journal.numbers(
                [f"rate:{shown['claude-haiku-5-5']['key']}:claude-haiku-5-5:requests"]
            )
            assert number > 0, "the call counted against what was fetched"
            assert len(app.journal.read("~limits")) - told_before == 1, "output tokens are new"
        table = limits(claude.url, store)
        assert "claude-haiku-5-5" in table.stdout
        assert "Next: " in table.stdout


@pytest.mark.parametrize(
    ("admin", "why"),
    [("", "set ANTHROPIC_ADMIN_KEY"), ("sk-ant-api-any", "HTTP 403"), ("\u00e9", "UsageError")],
)
def test_what_cannot_be_fetched_is_said(admin: str, why: str, tmp_path: Path) -> None:
    """Without the right key nothing is written, and the message says what to give."""
    with simulator.start() as claude:
        more = {"ANTHROPIC_ADMIN_KEY": admin} if admin else {}
        told = limits(claude.url, tmp_path / "s.db", "--fetch", **more)
    assert told.returncode == 2
    if why != "UsageError":
        assert why in told.stderr
    assert "ANTHROPIC_ADMIN_KEY" in told.stderr
    assert "Traceback" not in told.stderr


def test_limits_of_another_kind_are_left_out() -> None:
    """A group without models, and a limiter nobody knows, say nothing of calls."""

    class One:
        def __init__(self, **facts: Any) -> None:
            self.__dict__ = facts

    entries = [
        One(models=None, limits=[One(type="requests_per_minute", value=5)]),
        One(
            models=["claude-opus-5-5", "claude-opus-5-5-20260101"],
            limits=[One(type="concurrency", value=5), One(type="requests_per_minute", value=7)],
        ),
    ]
    assert _by_group(entries) == {"claude-opus-5-5": {"requests": 7}}
