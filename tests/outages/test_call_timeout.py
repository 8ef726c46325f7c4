"""A call has a deadline of its own, however much trickles in meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import outlast
from flow_stubs import named, of_kind, opened
from outages.trickling import FAULTS
from outlast import decide
from outlast.events import ModelCallInDoubt, ModelCallStarted, ModelCallSucceeded
from outlast.testing import simulator
from outlast.versions import version_of
from stubs import MODEL

HURRIED = named("hurried", call_timeout_s=0.8)
IN_FLOW = named("in-flow", call_timeout_s=0.8, instructions="As a step of something larger.")


@outlast.flow
async def asking(run: outlast.Run, question: str) -> Any:
    """Ask an agent that is in a hurry."""
    return await run.ask(IN_FLOW, question)


@pytest.fixture(scope="module")
def claude() -> Iterator[simulator.Simulator]:
    with (
        simulator.start("outages.trickling:script", path=[Path(__file__).parents[1]]) as started,
        pytest.MonkeyPatch.context() as settings,
    ):
        settings.setenv("ANTHROPIC_BASE_URL", started.url)
        settings.setenv("ANTHROPIC_API_KEY", "any-key-will-do")
        settings.setattr(decide, "BACKOFF_S", (0.01,) * len(decide.BACKOFF_S))
        yield started


TABLE = Path("/proc/net/tcp")


def connections(port: int) -> int:
    """Return how many connections to a port of this machine are open, as the kernel says."""
    end, is_open = f":{port:04X}", "01"
    text = TABLE.read_text() if TABLE.exists() else ""
    lines = [line.split() for line in text.splitlines()[1:]]
    return sum(line[2].endswith(end) and line[3] == is_open for line in lines)


@pytest.mark.parametrize(
    ("fault", "who"), [*((fault, HURRIED) for fault in FAULTS), ("drips", asking)]
)
def test_what_trickles_for_ever_is_given_up(
    claude: simulator.Simulator, fault: str, who: Any, tmp_path: Path
) -> None:
    """It is in doubt, and charged in full; its connection is closed, and Claude is asked again."""
    seen, billed = len(claude.requests()), claude.billed_nano

    async def main(app: outlast.Outlast) -> tuple[outlast.Run, int, int]:
        before = len(asyncio.all_tasks())
        run = await app.arun(who, fault, run_id="r", wait_s=60)
        return run, len(asyncio.all_tasks()) - before, connections(claude.port)

    with outlast.Outlast(f"sqlite:///{tmp_path}/r.db") as app:
        run, tasks, still_open = asyncio.run(main(app))
        assert run.answer == "Well.", run.why
        # On a machine that is busy the next attempt may be late as well.
        late, started = of_kind(app, ModelCallInDoubt), of_kind(app, ModelCallStarted)
        assert late
        assert {event.kind for event in late} == {"timeout"}
        assert {event.message for event in late} == {"no reply within 0.8 s"}
        (answered,) = of_kind(app, ModelCallSucceeded)
    assert len(claude.requests()) - seen == len(started) == len(late) + 1
    assert run.cost_nano == sum(call.hold_nano for call in started[:-1]) + answered.cost_nano
    assert run.cost_nano >= claude.billed_nano - billed
    assert tasks <= 1, "no more than what keeps the connections of this loop"
    assert still_open <= 1, "no more than the one that is kept for the next call"


def test_the_deadline_is_no_part_of_the_version() -> None:
    """It changes nothing that Claude sees, so it can be changed under a run."""
    patient = named("hurried", call_timeout_s=None)
    assert version_of(patient) == version_of(HURRIED) == version_of(named("hurried"))
    assert named("hurried").call_timeout_s == 600.0
    with opened() as app:
        app.start(HURRIED, "x", run_id="r")
        assert app.run(patient, "x", run_id="r", on_change="refuse").answer == "re: x"


@pytest.mark.parametrize("wrong", [0, -1, True, "10", float("inf"), float("nan")])
def test_what_is_no_deadline_is_refused(wrong: Any) -> None:
    """Only a number of seconds above 0, or `None`, is one."""
    with pytest.raises(outlast.InvalidAgent, match="call_timeout_s"):
        outlast.Agent("a", model=MODEL, call_timeout_s=wrong)
