"""What an agent of forty lines gets wrong, by number; each number has a test named after it.

`STATE[1]` is 1.1 and is proved by a test `test_1_01_…` in `test_state.py`, and so on.  An issue
that is done owes nothing: `test_complete.py` sees to that.
"""

from typing import NamedTuple

DONE = frozenset({"1/15", "2/15", "3/15", "4/15", "6/15", "7/15", "8/15"})
"""The issues that are done."""


class Pitfall(NamedTuple):
    """One way to go wrong, and the issue that owes the test of it."""

    what: str
    owed_by: str


STATE = {
    1: Pitfall("saving loses when a run was created", "1/15"),
    2: Pitfall("a failed call leaves its question behind, and a retry asks twice", "1/15"),
    3: Pitfall("the question is not on disk before the call that is paid for", "1/15"),
    4: Pitfall("a crash just after a phase begins leaves a run that never moves", "3/15"),
    5: Pitfall("two processes drive one run, and a paid reply is overwritten", "1/15"),
    6: Pitfall("the first block of a reply is taken for text", "2/15"),
    7: Pitfall("blocks after the first are thrown away", "2/15"),
    8: Pitfall("why the model stopped is not looked at", "2/15"),
    9: Pitfall("a checkpoint does not hold what is needed to go on", "1/15"),
    10: Pitfall("saving rewrites the whole conversation", "1/15"),
    11: Pitfall("phases follow each other in any order", "3/15"),
    12: Pitfall("failing is not a state, and errors are cut short", "3/15"),
    13: Pitfall("a conversation with tool calls cannot be saved", "1/15"),
    14: Pitfall("times are local and do not say so", "1/15"),
    15: Pitfall("the database blocks, gives up at once, or leaks connections", "1/15"),
    16: Pitfall("a resumed run may be another agent", "3/15"),
    17: Pitfall("the stored form has no version", "1/15"),
    18: Pitfall("what people wrote ends up where only reasons belong", "1/15"),
}

BUDGET = {
    1: Pitfall("tokens are guessed too low, and tools are not counted", "4/15"),
    2: Pitfall("what is spent passes the limit", "4/15"),
    3: Pitfall("an error after billing costs nothing", "4/15"),
    4: Pitfall("cached tokens are free", "4/15"),
    5: Pitfall("the message that the money is gone is handed out as an answer", "4/15"),
    6: Pitfall("an answer paid for with the last token is thrown away", "4/15"),
    7: Pitfall("there is no money, only tokens", "4/15"),
    8: Pitfall("callers at the same time spend the limit several times", "4/15"),
    9: Pitfall("a restart resets what was spent; tenants, days and months are unknown", "4/15"),
    10: Pitfall("a circuit breaker that has no states", "6/15"),
    11: Pitfall("a long conversation can never be continued", "4/15"),
    12: Pitfall("the client's own retries are not counted", "4/15"),
}

VALIDATION = {
    1: Pitfall("JSON between fences", "8/15"),
    2: Pitfall("one missing key loses an answer that was paid for", "8/15"),
    3: Pitfall("a confidence in words", "8/15"),
    4: Pitfall("JSON of another shape", "8/15"),
    5: Pitfall("the answer gives its judge orders", "8/15"),
    6: Pitfall("the judge does not know the question", "8/15"),
    7: Pitfall("the author is its own judge", "8/15"),
    8: Pitfall("the threshold itself is rejected, and nobody calibrated it", "8/15"),
    9: Pitfall("judging is outside the budget", "8/15"),
    10: Pitfall("rejected answers stay in the conversation", "8/15"),
    11: Pitfall("failures of one question reach the next", "8/15"),
    12: Pitfall("an outage of the judge ends the run", "8/15"),
    13: Pitfall("a judge that was cut short means a bad answer", "8/15"),
    14: Pitfall("every exception is caught", "8/15"),
    15: Pitfall("the model judges what plain code could", "8/15"),
    16: Pitfall("a rejected answer is handed out", "8/15"),
    17: Pitfall("what judging cost is in no budget and no log", "8/15"),
    18: Pitfall("a retry is told to try harder, and nothing else", "8/15"),
}

TOOLS = {
    1: Pitfall("a reply with two tool calls enters the conversation twice", "2/15"),
    2: Pitfall("results are spread over several messages", "2/15"),
    3: Pitfall("a tool nobody has answers null", "7/15"),
    4: Pitfall("an outage looks like nothing found", "7/15"),
    5: Pitfall("nothing found is replaced by something old", "7/15"),
    6: Pitfall("the fallback forgets a condition of the search", "7/15"),
    7: Pitfall("a fallback does not say how old it is, nor where it is from", "7/15"),
    8: Pitfall("nothing ends a loop", "7/15"),
    9: Pitfall("an exception among the tools loses a turn that was paid for", "7/15"),
    10: Pitfall("a result that is not JSON leaves a call without an answer", "7/15"),
    11: Pitfall("a turn that was cut, refused or paused is an answer", "2/15"),
    12: Pitfall("a placeholder is an answer", "7/15"),
    13: Pitfall("no retry, no backoff, no timeout, no breaker", "7/15"),
    14: Pitfall("exceptions are swallowed", "7/15"),
    15: Pitfall("arguments are not checked, effects are not declared", "7/15"),
    16: Pitfall("errors are printed and forgotten", "7/15"),
    17: Pitfall("tools run one by one and cannot be stopped between", "7/15"),
    18: Pitfall("results of any size and content are trusted", "7/15"),
}

LOGGING = {
    1: Pitfall("the log stays empty", "9/15"),
    2: Pitfall("no line of the log can be parsed", "9/15"),
    3: Pitfall("the log lacks what an audit asks for", "9/15"),
    4: Pitfall("the log holds what people wrote, cut short", "9/15"),
    5: Pitfall("the model in the log is not the model that answered", "2/15"),
    6: Pitfall("lines come twice after a second import", "9/15"),
    7: Pitfall("a call that was billed but not understood is not logged", "9/15"),
    8: Pitfall("two sessions share one id", "9/15"),
    9: Pitfall("no order, no chain, no sync; details overwrite what happened", "9/15"),
    10: Pitfall("logging blocks the event loop", "9/15"),
}

PATTERNS = {1: STATE, 2: BUDGET, 3: VALIDATION, 4: TOOLS, 5: LOGGING}
FILES = {
    1: "test_state.py",
    2: "test_budget.py",
    3: "test_validation.py",
    4: "test_tools.py",
    5: "test_logging.py",
}
