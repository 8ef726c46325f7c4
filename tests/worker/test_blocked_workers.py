"""A function keeps the thread it runs on, and the worker drives everything else meanwhile."""

from __future__ import annotations

import shop
from yard import Yard, until

LEASE_S = 0.6


def test_blocked(yard: Yard) -> None:
    """Tools and steps that block keep nothing but themselves: runs go on, and none is lost.

    They wait at a gate that is opened once everything else was seen.
    """
    blocked = [
        yard.app.start(shop.user, "q use blocks", run_id="tool").id,
        yard.app.start(shop.user, "q use slow", run_id="thread").id,
        yard.app.start(shop.blocking_step, run_id="step").id,
    ]
    worker = yard.worker("--lease", str(LEASE_S))
    until(lambda: len({line["run"] for line in yard.lines("effects")}) == 3, "what blocks")
    others = [
        yard.app.start(shop.user, "q use look keep send", run_id=f"a{n}").id for n in range(4)
    ]
    others.append(yard.app.start(shop.family, "f", run_id="f").id)
    others.append(yard.app.start(shop.user, "q", run_id="plain").id)
    yard.until_are("completed", others)
    beside = yard.worker("--lease", str(LEASE_S))
    streams = {f"run:{run_id}" for run_id in blocked}
    # Those of runs that are over go with the next beat.
    until(lambda: {lease.stream for lease in yard.leases(worker)} == streams, "three leases")
    first = {lease.stream: lease.beats for lease in yard.leases(worker)}
    until(
        lambda: all(lease.beats > first[lease.stream] + 12 for lease in yard.leases(worker)),
        "leases that are renewed for four times as long as they last",
    )
    assert not beside.begun, "a run was taken from a worker that was alive"
    assert not yard.did("blocks") + yard.did("slow"), "they wait at the gate"
    yard.open_gate()
    yard.until_are("completed", blocked)
    assert {line["pid"] for line in yard.lines("effects")} == {worker.pid}
    assert len(yard.did("blocks")) == 2
    yard.judge()
