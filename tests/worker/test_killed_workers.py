"""Workers are killed with SIGKILL; others go on at once, though the lease is an hour long."""

from __future__ import annotations

import pytest
import shop
from yard import LONG, Yard, until

from conftest import SOAK

MANY = 50


def enqueue(yard: Yard, many: int) -> list[str]:
    """Start agents that use tools of every effect, and flows with children and sleeps."""
    ids = []
    for number in range(many):
        if number % 5 == 4:
            ids.append(yard.app.start(shop.family, f"f{number}", run_id=f"f{number}").id)
        else:
            asked = f"q{number} use look keep send"
            ids.append(yard.app.start(shop.user, asked, run_id=f"a{number}").id)
    return ids


def doomed(yard: Yard, ids: list[str], silent_from: int) -> None:
    """Start a worker that has all runs when it is killed, most of them in the middle."""
    victim = yard.worker("--at-once", "64", "--lease", LONG, silent_from=silent_from)
    until(lambda: set(victim.begun) >= set(ids), "a worker that has begun with all runs")
    until(lambda: len(yard.lines("requests")) >= silent_from + len(ids) // 5, "runs in the middle")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("silent_from", [20, 70, 110] if SOAK else [70])
def test_another_goes_on(yard: Yard, silent_from: int) -> None:
    """A worker that drives 50 runs is killed, and the one beside it finishes all of them.

    The dead one stays a zombie, which nobody waits for.
    """
    ids = enqueue(yard, MANY)
    doomed(yard, ids, silent_from)
    victim = yard.workers[0]
    other = yard.worker("--at-once", "64", "--lease", LONG)
    assert not other.begun, "a worker took what another drives"
    victim.kill()
    until(
        lambda: set(other.begun) >= {one for one in ids if not yard.are("completed", [one])},
        "a worker that takes over",
    )
    yard.until_are("completed", yard.rows())
    assert victim.process.returncode is None, "the dead one was not a zombie"
    assert {row.root or row.id for row in yard.rows().values()} == set(ids)
    assert {line["run"] for line in yard.did("look")} == set(ids)
    yard.judge()


def test_a_new_one_goes_on(yard: Yard) -> None:
    """The only worker is killed, and one that starts later finds everything it left."""
    ids = enqueue(yard, 15)
    doomed(yard, ids, 20)
    victim = yard.workers[0]
    victim.kill()
    victim.ended()
    yard.worker("--at-once", "64", "--lease", LONG)
    yard.until_are("completed", yard.rows())
    yard.judge()


def test_killed_again_and_again(yard: Yard) -> None:
    """Whoever takes over may be killed, too, and each of the next ones."""
    ids = enqueue(yard, 10)
    for _ in range(10 if SOAK else 2):
        victim = yard.worker("--lease", LONG, silent_from=12)
        asked = len(yard.lines("requests"))
        until(
            lambda before=asked: (
                len(yard.lines("requests")) >= before + 10 or yard.are("completed", ids)
            ),
            "requests",
        )
        victim.kill()
    yard.worker("--lease", LONG)
    yard.until_are("completed", yard.rows())
    yard.judge()
