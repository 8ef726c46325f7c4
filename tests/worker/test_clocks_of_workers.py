"""Workers whose clocks are minutes apart share a store and take nothing from each other."""

from __future__ import annotations

from collections import Counter

import shop
from yard import Yard, until

APART_S = 300.0


def test_apart(yard: Yard) -> None:
    """Two workers drive, park and wake each other's runs, and everything is done once."""
    ids = [yard.app.start(shop.user, f"q{n} use look keep send", run_id=f"a{n}").id for n in range(8)]
    ids += [yard.app.start(shop.family, f"f{n}", run_id=f"f{n}").id for n in range(4)]
    # Each answer takes longer than the leases would last.
    pair = [
        yard.worker("--lease", "0.5", "--at-once", "6", skew_s=skew_s, pace_s=0.7)
        for skew_s in (APART_S / 2, -APART_S / 2)
    ]
    yard.until_are("completed", yard.rows())
    until(lambda: not yard.journal.leases(), "leases that are let go")
    begun = pair[0].begun + pair[1].begun
    agents = {run_id: times for run_id, times in begun.items() if run_id.startswith("a")}
    assert set(agents.values()) == {1}, "a run was taken from a worker that was alive"
    assert all(worker.begun for worker in pair)
    done = Counter((line["run"], line["what"]) for line in yard.lines("effects"))
    asked = Counter((line["run"], line["call"]) for line in yard.lines("requests"))
    assert set(done.values()) == set(asked.values()) == {1}
    assert len(yard.did("send")) == 8 + 4 * 3
    assert yard.are("completed", ids)
    yard.judge()


def test_woken(yard: Yard) -> None:
    """A parked run wakes too early or too late, by no more than the clocks are apart."""
    yard.app.start(shop.sleeper, 100, run_id="early")
    slow = yard.worker("--lease", "1")
    yard.until_are("parked", ["early"])
    ahead = yard.worker("--lease", "1", skew_s=APART_S)
    yard.until_are("completed", ["early"])
    assert slow.begun["early"] == ahead.begun["early"] == 1
    ahead.kill()
    ahead.ended()
    slow.kill()
    slow.ended()
    yard.app.start(shop.sleeper, 0.2, run_id="late")
    yard.worker("--lease", "1", skew_s=3.0, modules=("shopfront", "shop"), ).kill()
    judged = yard.worker("--lease", "1")
    yard.until_are("completed", ["late"])
    assert len(yard.lines("woke")) == 2
    assert judged.begun["late"] >= 1
