"""What tools do to the world is done once, whatever fails, and whoever is told of it is told so.

Judged by the world: what the functions did, and what Claude was sent.
"""

from collections.abc import Callable

import pytest
from effects import BACK, EFFECTS, Scene, doubts

from conftest import SOAK

SCHEDULES = 10_000 if SOAK else 300
HAPPENED = "It was found out that it happened"
DID_NOT = "It was found out that it did not happen"
MAYBE = (
    "may or may not",
    "Nobody knows what it did",
    "outcome is unknown",
    "was called and returned",
)


def check(scene: Scene) -> None:
    """Compare what was told with what was done."""
    plot, where = scene.plot, f"seed {scene.seed}"
    assert not plot.repeated, f"{where}: executed though in doubt: {plot.repeated}"
    assert len(plot.sent) == len({use for use, _ in plot.sent}), f"{where}: a call happened twice"
    for use, effects in plot.done.items():
        assert len(effects) <= 1, f"{where}: {use} had more than one effect: {effects}"
    assert all(len(keys) == 1 for keys in plot.keys.values()), f"{where}: a key was changed"
    assert len({*map(frozenset, plot.keys.values())}) == len(plot.keys), f"{where}: a shared key"
    assert plot.surfaced <= plot.doubtful, f"{where}: asked of what is known"
    if scene.state.status == "cancelled":
        for use in plot.doubtful - plot.surfaced:
            assert use in scene.state.why, f"{where}: {use} was lost: {scene.state.why!r}"
        check_undone(scene)
    else:
        assert scene.state.status == "completed", f"{where}: {scene.state.status}"
        assert plot.doubtful <= plot.surfaced, f"{where}: told nobody of {plot.doubtful}"
        assert not doubts(scene.state)
    for use, tool, text, is_error in scene.told():
        truth = bool(plot.done.get(use))
        why = f"{where}: {use} ({tool.name}): happened is {truth}, Claude was told {text!r}"
        if use in plot.doubtful:
            found = (
                HAPPENED in text
                or DID_NOT in text
                or text.removesuffix("I looked.").strip() in (f"ann saw {use}", f"found {use}")
            )
            assert found, why
            assert truth == (DID_NOT not in text), why
        elif not is_error:
            by = next((name for name in EFFECTS if f"{name} did" in text), tool.name)
            by = next((name for name in EFFECTS if f"from {name}," in text), by)
            assert truth == (EFFECTS[by] != "read"), why
        elif not any(said in text for said in MAYBE):
            assert not truth, why


def check_undone(scene: Scene) -> None:
    """Compare what was taken back with what was done; nobody may be told less than that."""
    plot, where = scene.plot, f"seed {scene.seed}"
    if not scene.state.control.undo:
        assert not plot.undone, f"{where}: taken back unasked"
        return
    done = {use for use, effects in plot.done.items() if any(name in BACK for name, _ in effects)}
    for use in done:
        told = scene.state.why
        assert use in plot.undone or use in told, f"{where}: {use} was not taken back: {told!r}"
    assert plot.undone.keys() <= done, f"{where}: taken back, and never done"
    assert all(len(keys) == 1 for keys in plot.undone.values()), f"{where}: a key was changed"


@pytest.mark.timeout(3_600 if SOAK else 120)
def test_schedules(record_property: Callable[[str, object], None]) -> None:
    """Whatever fails and dies: nothing is done twice, and all that is in doubt is asked for."""
    names = ("executions", "crashes", "doubtful", "asked", "cancelled", "undone")
    figures = {"schedules": SCHEDULES, **dict.fromkeys(names, 0)}
    for seed in range(SCHEDULES):
        scene = Scene(seed)
        check(scene)
        figures["executions"] += len(scene.plot.executions)
        figures["crashes"] += scene.crashes
        figures["doubtful"] += len(scene.plot.doubtful)
        figures["asked"] += scene.asked
        figures["cancelled"] += scene.state.status == "cancelled"
        figures["undone"] += len(scene.plot.undone)
    record_property("told", figures)
    assert figures["doubtful"] > SCHEDULES / 5
    assert figures["crashes"] > SCHEDULES
    assert figures["cancelled"] > SCHEDULES / 100
    assert figures["undone"] > 0
