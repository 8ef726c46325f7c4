"""Workers that do not have the code of a run leave it, and say so."""

from __future__ import annotations

import elsewhere
import shop
from yard import LONG, Yard, until


def test_left_to_others(yard: Yard) -> None:
    """Who has not the code leaves the run and says what is missing; who has it drives it."""
    yard.app.start(shop.user, "q use send", run_id="r")
    stranger = yard.worker("--lease", LONG, modules=("shopfront", "elsewhere"))
    until(lambda: "outlast worker shop" in yard.row("r").why, "a worker that says what is missing")
    assert "no worker has shop:user" in yard.row("r").why
    yard.app.start(elsewhere.stranger, "q", run_id="theirs")
    yard.until_are("completed", ["theirs"])
    assert yard.row("r").status == "queued"
    yard.worker("--lease", LONG)
    yard.until_are("completed", ["r"])
    assert not yard.row("r").why
    assert "r" not in stranger.begun
    assert len(yard.did("send")) == 1
    yard.judge()


def test_left_by_the_dead(yard: Yard) -> None:
    """The same for a run in the middle, whose worker was killed; a cancelled one is ended.

    It was told to end while its worker was frozen, so nobody but the next one could end it.
    """
    for run_id in ("r", "gone"):
        yard.app.start(shop.user, "q use send", run_id=run_id)
    victim = yard.worker("--lease", "1", silent_from=1, freeze_asked=2)
    until(victim.is_stopped, "a worker that freezes itself")
    yard.app.cancel("gone", reason="not needed")
    assert yard.row("gone").status == "running"
    victim.kill()
    stranger = yard.worker("--lease", LONG, modules=("shopfront", "elsewhere"))
    until(lambda: "no worker has shop:user" in yard.row("r").why, "what is missing")
    yard.until_are("cancelled", ["gone"])
    assert "r" not in stranger.begun
    yard.worker("--lease", LONG)
    yard.until_are("completed", ["r"])
    assert [line["run"] for line in yard.did("send")] == ["r"]
    yard.judge()
