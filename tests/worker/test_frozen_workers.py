"""Workers are frozen with SIGSTOP, lose their runs, and do nothing more of them once they thaw."""

from __future__ import annotations

import signal

import pytest
import shop
from yard import LONG, Worker, Yard, until

from outlast.events import ToolCallInDoubt
from outlast.journal import run_stream

LEASE = "1"


def thawed(yard: Yard, zombie: Worker, other: Worker) -> None:
    """Let a frozen worker go on, and wait until it has done what it would do.

    It gets a run that nobody else can drive: when that is over, it has long come to the others.
    """
    other.signal(signal.SIGTERM)
    assert other.ended() == 0
    zombie.signal(signal.SIGCONT)
    yard.app.start(shop.user, "later use look keep send", run_id="later")
    yard.until_are("completed", ["later"])
    assert "later" in zombie.begun


def test_frozen_in_the_middle(yard: Yard) -> None:
    """Runs of a frozen worker, and those below them, are finished by another; it does no more.

    It is frozen while Claude answers its flows, their children and its agents, and hears the
    answers when it thaws.
    """
    ids = [yard.app.start(shop.family, f"f{n}", run_id=f"f{n}").id for n in range(3)]
    ids += [yard.app.start(shop.user, f"q{n} use send", run_id=f"a{n}").id for n in range(4)]
    # Seven first answers, seven second ones, and the first ones of six children.
    zombie = yard.worker("--lease", LEASE, pace_s=1.5, freeze_asked=20)
    until(zombie.is_stopped, "a worker that freezes itself")
    left = [one for one in ids if not yard.are("completed", [one])]
    assert len(left) >= 3
    assert [one for one in yard.rows().values() if one.parent and one.status == "running"]
    before = yard.lines("effects")
    other = yard.worker("--lease", LEASE)
    yard.until_are("completed", yard.rows())
    assert set(other.begun) >= set(left)
    thawed(yard, zombie, other)
    news = yard.lines("effects")[len(before) :]
    theirs = {line["run"] for line in news if line["pid"] == zombie.pid}
    assert theirs == {"later"}, "a worker that was fenced went on"
    assert not yard.leases(other)
    yard.judge()


@pytest.mark.parametrize(
    ("event", "effect"),
    [("tool_call_started", "send"), ("step_started", "blocks begins"), ("model_call_started", "")],
)
def test_frozen_before_an_effect(yard: Yard, event: str, effect: str) -> None:
    """Who was frozen between an intent and its effect does not begin it when he thaws."""
    if event == "step_started":
        yard.open_gate()
        yard.app.start(shop.blocking_step, run_id="r")
    else:
        yard.app.start(shop.user, "q use send", run_id="r")
    at = {"event": event, "run": "r", "nth": 1, "when": "after", "signal": "SIGSTOP"}
    zombie = yard.worker("--lease", LEASE, at=at)
    until(zombie.is_stopped, "a worker that freezes itself")
    other = yard.worker("--lease", LEASE)
    until(lambda: yard.row("r").status in ("completed", "failed"), "an end of the run")
    thawed(yard, zombie, other)
    theirs = [line for line in yard.lines("effects") if line["pid"] == zombie.pid]
    assert {line["run"] for line in theirs} == {"later"}, "an effect was begun by who was fenced"
    asked = [line for line in yard.lines("requests") if line["pid"] == zombie.pid]
    assert effect or {line["run"] for line in asked} == {"later"}, "Claude was asked twice"
    if effect:
        assert not yard.did(effect, "r"), "nobody could know that it had not been done"
        events = [record.event for record in yard.journal.read(run_stream("r"))]
        doubts = [
            one
            for one in events
            if isinstance(one, ToolCallInDoubt) or getattr(one, "status", "") == "in_doubt"
        ]
        assert len(doubts) == 1
    yard.judge()


def test_not_frozen_for_long(yard: Yard) -> None:
    """Who is frozen for less than the lease of others keeps his runs, and finishes them."""
    ids = [yard.app.start(shop.user, f"q{n} use send", run_id=f"a{n}").id for n in range(4)]
    sleepy = yard.worker("--lease", LEASE, pace_s=0.7, freeze_asked=4)
    until(sleepy.is_stopped, "a worker that freezes itself")
    other = yard.worker("--lease", LONG)
    for number in range(4):
        yard.app.start(shop.sleeper, 0.4, run_id=f"probe-{number}")
        yard.until_are("completed", [f"probe-{number}"])
    sleepy.signal(signal.SIGCONT)
    yard.until_are("completed", yard.rows())
    assert not set(other.begun) & set(ids), "runs were taken from who was frozen for a moment"
    assert len(yard.did("send")) == 4
    yard.judge()


def test_dead_while_frozen(yard: Yard) -> None:
    """A frozen worker that is killed loses its runs at once, whatever the lease."""
    ids = [yard.app.start(shop.user, f"q{n} use send", run_id=f"a{n}").id for n in range(4)]
    victim = yard.worker("--lease", LEASE, silent_from=1, freeze_asked=4)
    until(victim.is_stopped, "a worker that freezes itself")
    yard.worker("--lease", LONG)
    victim.kill()
    yard.until_are("completed", ids)
    yard.judge()


def test_the_next_one_dies(yard: Yard) -> None:
    """Who took runs from a frozen worker may be killed: a third one finishes them.

    The frozen one has the locks of the system for as long as it is there.
    """
    yard.app.start(shop.user, "q use look send", run_id="r")
    zombie = yard.worker("--lease", LEASE, silent_from=1, freeze_asked=1)
    until(zombie.is_stopped, "a worker that freezes itself")
    second = yard.worker("--lease", LEASE, silent_from=2)
    until(lambda: len(yard.lines("requests")) == 3, "a run that was taken over")
    second.kill()
    yard.worker("--lease", LEASE)
    yard.until_are("completed", ["r"])
    yard.judge()


@pytest.mark.parametrize("then", ["thaws", "dies"])
def test_who_took_over_keeps_the_run(yard: Yard, then: str) -> None:
    """When the frozen one lets go of its lock, the run stays with the one that took it."""
    yard.app.start(shop.user, "q use slow", run_id="r")
    zombie = yard.worker("--lease", LEASE)
    until(lambda: yard.did("slow begins"), "the tool")
    zombie.signal(signal.SIGSTOP)
    until(zombie.is_stopped, "a worker that is frozen")
    # The answers of this one never come, so it is at work for as long as is looked.
    other = yard.worker("--lease", LEASE, silent_from=1)
    until(lambda: len(yard.lines("requests")) == 2, "a worker that asks Claude again")
    third = yard.worker("--lease", LEASE)
    (lease,) = yard.leases(other)
    zombie.signal(signal.SIGCONT if then == "thaws" else signal.SIGKILL)
    until(lambda: yard.leases(other)[0].beats > lease.beats + 6, "two leases that go by")
    assert yard.row("r").fence == 2
    assert not third.begun
    assert len(yard.lines("requests")) == 2
