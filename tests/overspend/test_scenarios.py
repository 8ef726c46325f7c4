"""Many runs in several processes that are killed, and nothing is ever billed beyond a budget.

Judged by the bill of the simulator, which is a process of its own.
"""

import secrets
import shutil
from collections import Counter
from pathlib import Path

import pytest
from auditor import judged
from stage import Stage

from conftest import SOAK

PORTION = 100 if SOAK else 4
"""How many scenarios count, of each portion; others are drawn again."""
PORTIONS = 10 if SOAK else 1
KILLS = 50 if SOAK else 3

BEGIN = secrets.randbelow(10**9) if SOAK else 0
"""The first seed; a soak looks elsewhere each time, and names the seed of what it finds."""

ALWAYS = ("kills", "refused", "in doubt", "completed", "stopped", "in doubt: crash")
CONTAINED = (
    *ALWAYS,
    *("failed: rate_limited", "failed: overloaded"),
    *("in doubt: unavailable", "in doubt: cut", "in doubt: malformed"),
    *("refused by run", "refused by fleet", "refused by tenant", "refused by agent"),
    *(
        "refused by model",
        "refused by tree",
        "tightened",
        "taken over",
        "jumps of a clock",
        "children",
    ),
)
"""What a portion must contain, or the generator is too friendly."""


@pytest.mark.timeout(3_600 if SOAK else 300)
@pytest.mark.parametrize("portion", range(PORTIONS))
def test_no_budget_is_overspent(portion, tmp_path: Path, record_property) -> None:
    """Whatever is killed, lost or done twice: the bill is within every budget and the ledger."""
    found: Counter[str] = Counter()
    seed = BEGIN + portion * 1_000
    stage = Stage(tmp_path)
    try:
        while found["scenarios"] < PORTION:
            outcome = stage.play(seed)
            verdict = judged(outcome)
            assert not verdict.wrong, f"scenario {seed}:\n" + "\n".join(verdict.wrong)
            found += verdict.contained
            found["scenarios" if verdict.counts else "scenarios drawn again"] += 1
            shutil.rmtree(tmp_path / str(stage.played))
            seed += 1
    finally:
        stage.close()
    record_property("told", ", ".join(f"{n} × {what}" for what, n in sorted(found.items())))
    assert found["kills"] >= KILLS
    missing = [what for what in (CONTAINED if SOAK else ALWAYS) if not found[what]]
    assert not missing, f"there was never {', '.join(missing)}"
