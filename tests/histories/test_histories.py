"""Whatever is said and whatever goes wrong, Claude never finds fault with a request."""

import secrets
from collections import Counter
from pprint import pformat
from typing import get_args

import pytest
from judged import contents, smallest, wrong
from plans import Plan, drawn
from played import Played

from conftest import SOAK
from outlast.events import (
    AnswerProposed,
    AnswerRejected,
    AnyEvent,
    ApprovalGiven,
    ApprovalRequested,
    AskFailed,
    AskRejected,
    AskResampled,
    BoundExceeded,
    BoundRaised,
    BreakerChanged,
    BudgetPassed,
    BudgetSet,
    ChildStarted,
    CompactionRequested,
    ControlGiven,
    LabelGiven,
    ModelCallBatched,
    ModelCallReconciled,
    NoteAdded,
    PhaseEntered,
    RateFrozen,
    RateLimitsTold,
    RunForked,
    RunLeft,
    ScheduleFired,
    ScheduleSet,
    StepFinished,
    StepStarted,
    ToolCallGivenUp,
    TreeJoined,
    UndoFinished,
    UndoStarted,
    VerdictGiven,
    tag,
)

ELSEWHERE = frozenset(
    # of people, of operators, of what must not happen, of long conversations, which tests/context
    # has, and of flows, which have histories of their own in tests/flows
    {
        NoteAdded,
        CompactionRequested,
        ControlGiven,
        BudgetPassed,
        BoundExceeded,
        BoundRaised,
        RateFrozen,
        RateLimitsTold,
        BreakerChanged,
        BudgetSet,
        ScheduleSet,
        ScheduleFired,
        ModelCallBatched,
        ModelCallReconciled,
        PhaseEntered,
        StepStarted,
        StepFinished,
        ChildStarted,
        AskFailed,
        ApprovalRequested,
        ApprovalGiven,
        RunLeft,
        ToolCallGivenUp,
        UndoStarted,
        UndoFinished,
        AnswerProposed,
        VerdictGiven,
        AnswerRejected,
        AskResampled,
        AskRejected,
        LabelGiven,
        RunForked,
        TreeJoined,
    }
)

PORTION = 1_250
PORTIONS = 16 if SOAK else 1
CONTAINED = {
    "drivers": ["before an append", "after an append", "crash", "cancel", "overtaken", "mended"],
    "ended": ["completed", "failed", "stopped"],
    "stop reason": [
        *("end_turn", "stop_sequence", "tool_use", "pause_turn", "compaction", "max_tokens"),
        *("model_context_window_exceeded", "refusal", "None", "unknown"),
    ],
    "block": [
        *("text", "thinking", "redacted_thinking", "tool_use", "compaction", "unknown"),
        *("server_tool_use", "web_fetch_tool_result", "code_execution_tool_result"),
    ],
    "thinking": ["adaptive", "enabled", "omitted", "signed", "of others"],
    "reply": [
        *(
            "unknown field",
            "empty reply",
            "parallel tool uses",
            "torn input of a tool",
            "container",
        ),
        *("compaction failed", "compaction that goes on", "sent again as it came"),
    ],
    "tool uses of a reply that stopped for": ["max_tokens", "refusal", "end_turn"],
    "fault": [
        *("cut", "truncated", "error_event", "reset", "html", "stall", "pings", "delay", "drip"),
        *(f"status {code}" for code in (401, 402, 403, 404, 408, 409, 413)),
        *(f"status {code}" for code in (429, 500, 503, 504, 529)),
    ],
    "call of the model lost": ["crash", "cut", "timeout", "malformed", "unavailable", "overloaded"],
    "call of a tool lost": [
        *("crash", "timeout", "raised", "refused", "bad_result"),
        *("unknown_tool", "invalid_arguments"),
    ],
    "results": ["out of order", "cut short"],
    "result with": ["text", "image", "document"],
    "message": ["of the user received", "of the system received", "of the system last"],
    "sent": ["tool_result", "image", "document", "search_result"],
    "cache": ["creation", "read"],
    "event": [tag(event) for event in get_args(AnyEvent) if event not in ELSEWHERE],
}
"""What every portion must contain, or the generator is too friendly: names by what they are of."""

BEGIN = secrets.randbelow(10**9) if SOAK else 0
"""The first seed; a soak looks elsewhere each time, and names the seed of what it finds."""


def history(plan: Plan) -> tuple[list[str], Counter[str]]:
    """Return what is wrong with the history of a plan, and what it contains."""
    try:
        played = Played(plan)
        return wrong(played), contents(played)
    except Exception as error:  # noqa: BLE001  (nothing at all may go wrong)
        return [f"{type(error).__name__}: {error}"], Counter()


def told(plan: Plan, complaints: list[str]) -> str:
    """Return a failure for people: the seed, what it was, and the smallest plan that shows it."""
    least = smallest(plan, lambda smaller: bool(history(smaller)[0]))
    what = "\n".join(history(least)[0])
    return (
        f"the history of seed {plan.seed}:\n{'; '.join(complaints)}\nand the least that shows it:\n"
        f"{what}\n{pformat(least)}"
    )


def listed(found: Counter[str]) -> str:
    """Return how often everything occurred."""
    return ", ".join(f"{times} × {name}" for name, times in sorted(found.items()))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("portion", range(PORTIONS))
def test_histories(portion, record_property):
    """No request is refused, every run comes to an end, and what is billed is charged."""
    found: Counter[str] = Counter()
    for seed in range(BEGIN + portion * PORTION, BEGIN + (portion + 1) * PORTION):
        complaints, contained = history(drawn(seed))
        if complaints:
            pytest.fail(told(drawn(seed), complaints))
        found += contained
    if SOAK:
        record_property("told", f"{PORTION} histories with {listed(found)}")
    for what, names in CONTAINED.items():
        bare = what in ("drivers", "reply")
        missing = [name for name in names if not found[name if bare else f"{what} {name}"]]
        assert not missing, f"{what}: there was never {', '.join(missing)}"
