"""Fifty turns, a crash and a resume: what the prompt cache is worth, by the simulator's bill."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import loop
import pytest

import outlast
from outlast.events import CacheMissed, ModelCallInDoubt
from outlast.testing import simulator
from outlast.testing.simulator.placement import Judged

HERE = Path(__file__).parent
KILL_AT = 25


def judged(folder: Path, cache: str) -> Judged:
    """Return what a killed and resumed run was billed, and what it could have been."""
    store = f"sqlite:///{folder}/book.db"
    with (
        simulator.start(script="loop:script", path=[HERE], state=folder / "claude") as claude,
        pytest.MonkeyPatch.context() as settings,
    ):
        settings.setenv("ANTHROPIC_BASE_URL", claude.url)
        settings.setenv("ANTHROPIC_API_KEY", "any-key-will-do")
        leg = [sys.executable, HERE / "loop.py", store, cache, str(KILL_AT)]
        died = subprocess.run(leg, env=dict(os.environ), timeout=120, check=False)
        assert died.returncode == -signal.SIGKILL
        with outlast.Outlast(store) as app:
            run = app.run(loop.agent(cache or None), "What is in it?", run_id="book")
            events = [record.event for record in app.log("book")]
        assert run.status == "completed", run.why
        assert sum(isinstance(event, ModelCallInDoubt) for event in events) == 1
        assert len(claude.requests()) == loop.TURNS + 1
        assert not [event for event in events if isinstance(event, CacheMissed)]
        assert run.cost_nano >= claude.billed_nano
        return claude.judged(ttl=cache or None)


@pytest.mark.parametrize("cache", ["5m", "1h"])
def test_a_crashed_run_is_billed_hardly_more_than_the_cheapest(
    tmp_path: Path, cache: str, record_property: Callable[[str, object], None]
) -> None:
    """With crash and resume, the bill is at most 1.05 times that of the best breakpoints.

    The best of the kind that was asked for: an hour costs more to write, whoever sets it.
    """
    found = judged(tmp_path, cache)
    ratio = found.billed_nano / found.cheapest_nano
    told = (
        f"${found.billed_nano / 1e9:.4f} billed, ${found.cheapest_nano / 1e9:.4f} at best "
        f"({ratio:.3f}), ${found.uncached_nano / 1e9:.4f} without caching"
    )
    record_property("told", told)
    assert found.billed_nano < found.uncached_nano / 2
    assert ratio <= 1.05


def test_no_caching_is_no_caching(tmp_path: Path) -> None:
    """An agent with `cache=None` sets no breakpoint and is billed what that costs."""
    found = judged(tmp_path, "")
    assert found.billed_nano == found.uncached_nano
