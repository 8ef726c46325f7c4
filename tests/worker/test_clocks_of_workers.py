"""Workers whose clocks are minutes apart share a store and take nothing from each other."""

from __future__ import annotations

import time
from collections import Counter

import shop
from yard import Yard, until

APART_S = 300.0


def test_apart(yard: Yard) -> None:
    """Two workers drive, park and wake each other's runs, and everything is done once."""
    # Each answer takes longer than the leases would last.
    pair = [
        yard.worker("--lease", "0.5", "--at-once", "6", skew_s=skew_s, pace_s=0.7)
        for skew_s in (APART_S / 2, -APART_S / 2)
    ]
    ids = [
        yard.app.start(shop.user, f"q{n} use look keep send", run_id=f"a{n}").id for n in range(8)
    ]
    ids += [yard.app.start(shop.family, f"f{n}", run_id=f"f{n}").id for n in range(4)]
    yard.until_are("completed", yard.rows())
    until(lambda: not yard.journal.leases(), "leases that are let go")
    drivers = {(line["run"], line["pid"]) for line in yard.lines("requests")}
    agents = Counter(run_id for run_id, _ in drivers if run_id.startswith("a"))
    assert set(agents.values()) == {1}, "a run was taken from a worker that was alive"
    assert {pid for _, pid in drivers} == {worker.pid for worker in pair}
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
    for worker in (ahead, slow):
        worker.kill()
        worker.ended()
    began = time.monotonic_ns()
    yard.app.start(shop.sleeper, 1.5, run_id="late")
    parked = {"event": "run_parked", "nth": 1, "when": "after", "signal": "SIGKILL"}
    yard.worker("--lease", "1", skew_s=3.0, at=parked).ended()
    yard.worker("--lease", "1")
    yard.until_are("completed", ["late"])
    late = next(line["at"] for line in yard.lines("woke") if line["run"] == "late")
    assert late - began >= 3_000_000_000, "it slept by the clock of whom it was parked by"
    assert len(yard.lines("woke")) == 2
