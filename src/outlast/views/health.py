"""How tools do: what came of their uses, how often they are asked, and how long they take.

A tool use is what Claude asks for: one `tool_use` block.  An attempt is one call of a function for
it, of the tool itself or of a fallback: a `tool_call_started`.  A source that is skipped, because
its circuit breaker is open, is not asked, so that is no attempt.  Steps of flows are none either.

| a use ended | when |
|---|---|
| ok | a source answered |
| empty | it answered that nothing matched |
| degraded | the answer is less than what was asked for, empty or not |
| failed | Claude was told of the failure, or of a call that was not made |
| given_up | Claude was told that every source failed |
| in_doubt | Claude was told that nobody knows whether it happened, or nobody will be |
| happened, did_not | it was in doubt, and somebody said so, or a function of the tool's |
| open_doubts | not yet: somebody has to say whether it happened |
| unfinished | not yet, or never: its run, or the ask, was over before |

Each use is in one row, so they add up to the uses; likewise what came of attempts adds up to those.

- amplification: attempts of all sources ÷ uses for which there was at least one
- degraded share: degraded ÷ answered, which are ok, empty and degraded together
- errors: of uses, the class of the last failure of those that failed or were given up; of attempts,
  of those that failed or are in doubt.  Where a failure has no class, it is its kind, as `denied`
- latency: of attempts that ended by themselves, not by a crash or a cancellation; milliseconds, of
  which the percentiles (the nearest rank) are rounded up to three digits, and the longest is exact

Where only a time is looked at, a use counts as a whole, with every attempt, if anything of it was
written in that time, or if it is an open doubt.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Raw

from outlast import breaker
from outlast.conversation import blocks
from outlast.events import (
    NULL,
    AskFailed,
    Event,
    ModelCallSucceeded,
    RunFinished,
    RunStarted,
    ToolCallFailed,
    ToolCallGivenUp,
    ToolCallInDoubt,
    ToolCallReconciled,
    ToolCallStarted,
    ToolCallSucceeded,
)
from outlast.journal import Record
from outlast.state import ENDED

End: TypeAlias = Literal[
    "ok",
    "empty",
    "degraded",
    "failed",
    "given_up",
    "in_doubt",
    "happened",
    "did_not",
    "open_doubts",
    "unfinished",
]
"""How a tool use ended, or has not."""

Came: TypeAlias = Literal["ok", "empty", "degraded", "failed", "in_doubt", "unfinished"]
"""What came of an attempt."""

ENDS: Final[tuple[End, ...]] = get_args(End)
CAME: Final[tuple[Came, ...]] = get_args(Came)

_ANSWERED: Final = ("ok", "empty", "degraded")
_TROUBLE: Final = ("failed", "given_up", "in_doubt", "open_doubts", "did_not")
_BROKEN_OFF: Final = frozenset({"crash", "cancelled"})
"""Kinds of failures after which nobody knows how long the call would have taken."""


# ── what is counted ─────────────────────────────────────────────────────────────────────────────


class Latency(msgspec.Struct):
    """How long attempts took, in milliseconds; it grows with the digits, not with the attempts."""

    most: int = 0
    """The longest, exact."""
    counts: dict[int, int] = {}

    def add(self, ms: int) -> None:
        """Count one that took so long."""
        self.most = max(self.most, ms)
        rounded = _three_digits(ms)
        self.counts[rounded] = self.counts.get(rounded, 0) + 1

    def percentile(self, percent: int) -> int | None:
        """Return how long so many percent took at most; `None` where none is known."""
        rank = -(-sum(self.counts.values()) * percent // 100)
        for ms, times in sorted(self.counts.items()):
            rank -= times
            if rank <= 0:
                return min(ms, self.most)
        return None


class Asked(msgspec.Struct, kw_only=True):
    """What came of the attempts at one source."""

    name: str = ""
    """Of the fallback, empty for the tool itself; or of what tools depend on."""
    source: str = ""
    """What it depends on, as it was declared last."""
    uses: int = 0
    """For how many uses it was asked."""
    attempts: int = 0
    skipped: int = 0
    """How often it was not asked, because its circuit breaker was open."""
    came: dict[str, int] = {}
    errors: dict[str, int] = {}
    latency: Latency = msgspec.field(default_factory=Latency)


class Tool(msgspec.Struct, kw_only=True):
    """What came of the uses of one tool."""

    name: str
    uses: int = 0
    called: int = 0
    """For how many of them there was an attempt."""
    attempts: int = 0
    ends: dict[str, int] = {}
    errors: dict[str, int] = {}
    latency: Latency = msgspec.field(default_factory=Latency)
    ranks: dict[int, Asked] = {}
    """Its sources: 0 is the tool itself, 1 its first fallback."""

    @property
    def answered(self) -> int:
        """How many uses brought an answer."""
        return sum(self.ends.get(end, 0) for end in _ANSWERED)

    @property
    def trouble(self) -> int:
        """How many brought none, and are over or wait for somebody."""
        return sum(self.ends.get(end, 0) for end in _TROUBLE)

    @property
    def degraded_share(self) -> float:
        """The part of the answers that are degraded, from 0 to 1."""
        return self.ends.get("degraded", 0) / self.answered if self.answered else 0.0

    @property
    def amplification(self) -> float:
        """How many attempts there are for each use; 1 is no repetition and no fallback."""
        return self.attempts / self.called if self.called else 0.0


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """A use that needs somebody to look at it."""

    run: str
    tool: str
    call_id: str
    at: int
    """Nanoseconds since the epoch."""
    error_class: str = ""


# ── one use ─────────────────────────────────────────────────────────────────────────────────────


class _Attempt(msgspec.Struct):
    rank: int
    fallback: str
    source: str
    came: Came = "unfinished"
    error: str = ""
    latency_ms: int | None = None


class _Use(msgspec.Struct):
    tool: str
    call_id: str = ""
    at: int = 0
    attempts: list[_Attempt] = []
    skipped: list[int] = []
    error: str = ""
    """The class of its last failure."""
    end: End = "unfinished"
    doubt_at: int = 0


class Reading:
    """What the runs tell that it was given, one after the other.

    Args:
        since: nanoseconds since the epoch; what was over before does not count.
        tool: only this tool; empty for all.

    Attributes:
        tools: what came of their uses, by name.
        sources: what came of attempts, by what their functions depend on.
        doubts: the uses of which somebody has to say whether they happened, oldest first.
        failure: the newest use that failed or was given up.

    """

    def __init__(self, since: int = 0, tool: str = "") -> None:
        self.tools: dict[str, Tool] = {}
        self.sources: dict[str, Asked] = {}
        self.doubts: list[Trouble] = []
        self.failure: Trouble | None = None
        self._since = since
        self._tool = tool

    def take(self, run_id: str, records: Iterable[Record]) -> None:
        """Read all records of a run."""
        run = _Run()
        for record in records:
            if (use := run.take(record)) is not None:
                self._count(run_id, use)
        for use in run.rest():
            self._count(run_id, use)

    def ranked(self) -> list[Tool]:
        """Return the tools, those that brought no answer most often first."""
        return sorted(self.tools.values(), key=lambda one: (-one.trouble, -one.uses, one.name))

    def _count(self, run_id: str, use: _Use) -> None:
        is_open = use.end == "open_doubts"
        if (use.at < self._since and not is_open) or self._tool not in ("", use.tool):
            return
        tool = self.tools.setdefault(use.tool, Tool(name=use.tool))
        tool.uses += 1
        tool.called += bool(use.attempts)
        tool.attempts += len(use.attempts)
        _add(tool.ends, use.end)
        self._attempted(tool, use)
        trouble = Trouble(
            run=run_id,
            tool=use.tool,
            call_id=use.call_id,
            at=use.doubt_at if is_open else use.at,
            error_class=use.error,
        )
        if is_open:
            insort(self.doubts, trouble, key=lambda one: one.at)
        if use.end in ("failed", "given_up"):
            _add(tool.errors, use.error)
            if self.failure is None or self.failure.at <= use.at:
                self.failure = trouble

    def _attempted(self, tool: Tool, use: _Use) -> None:
        for rank in use.skipped:
            tool.ranks.setdefault(rank, Asked()).skipped += 1
        for rank in {one.rank for one in use.attempts}:
            tool.ranks.setdefault(rank, Asked()).uses += 1
        for source in {one.source for one in use.attempts} - {""}:
            self.sources.setdefault(source, Asked(name=source, source=source)).uses += 1
        for one in use.attempts:
            of_rank = tool.ranks[one.rank]
            of_rank.name, of_rank.source = one.fallback, one.source
            asked = [of_rank, self.sources[one.source]] if one.source else [of_rank]
            for each in asked:
                _count(each, one)
            if one.latency_ms is not None:
                tool.latency.add(one.latency_ms)


def _count(asked: Asked, one: _Attempt) -> None:
    asked.attempts += 1
    _add(asked.came, one.came)
    if one.came in ("failed", "in_doubt"):
        _add(asked.errors, one.error)
    if one.latency_ms is not None:
        asked.latency.add(one.latency_ms)


# ── one run ─────────────────────────────────────────────────────────────────────────────────────


class _Run:
    """The uses of a run that are not over yet, and what is needed to know whose they are."""

    def __init__(self) -> None:
        self._uses: dict[tuple[str, str], _Use] = {}
        self._replies: dict[str, Raw] = {}
        """The last reply of each ask: it names the tools that were never begun."""
        self._lost: set[str] = set()
        """The asks that are over without an answer."""
        self._is_over = False
        self._shared = 0
        """Up to where the run is a fork's, and another run has made its calls."""

    def take(self, record: Record) -> _Use | None:
        """Read a record, and return the use that is over with it."""
        event = record.event
        if isinstance(event, ModelCallSucceeded):
            self._replies[event.ask_id] = event.content
        elif isinstance(event, AskFailed):
            self._lost.add(event.ask_id)
        elif isinstance(event, RunFinished):
            self._is_over = event.status in ENDED
        elif isinstance(event, RunStarted):
            self._shared = event.forked_at
        rule = _RULES.get(type(event))
        used = None if rule is None else self._used(record, event, rule)
        return used if record.seq > self._shared else None

    def rest(self) -> Iterable[_Use]:
        """Yield the uses that are not over at the run's end, or now."""
        for (ask_id, _), use in self._uses.items():
            # Nobody is asked any more what became of it.
            if use.end == "open_doubts" and (self._is_over or ask_id in self._lost):
                use.end = "in_doubt"
            yield use

    def _used(self, record: Record, event: Any, rule: Callable[[_Use, Any], bool]) -> _Use | None:
        place = (event.ask_id, event.tool_use_id)
        use = self._uses.get(place)
        if use is None:
            if not _begins(event):
                return None  # nobody waits for it any more
            tool = event.tool if isinstance(event, ToolCallStarted) else self._named(*place)
            use = self._uses[place] = _Use(tool, event.call_id)
        use.at = record.at
        was_open = use.end == "open_doubts"
        is_over = rule(use, event)
        if use.end == "open_doubts" and not was_open:
            use.call_id, use.doubt_at = event.call_id, record.at
        return self._uses.pop(place) if is_over else None

    def _named(self, ask_id: str, tool_use_id: str) -> str:
        said = blocks(self._replies.get(ask_id, Raw(b"[]")))
        names = (one.name for one in said if (one.type, one.id) == ("tool_use", tool_use_id))
        return next(names, "(unknown)")


NOT_CALLED: Final = frozenset({"unknown_tool", "invalid_arguments", "denied", "breaker"})
"""Kinds of failures before any attempt."""


def _begins(event: Event) -> bool:
    """Return whether it may be the first that is written of a use."""
    if isinstance(event, ToolCallFailed):
        return event.kind in NOT_CALLED
    return isinstance(event, ToolCallStarted)


def _started(use: _Use, event: ToolCallStarted) -> bool:
    use.attempts.append(_Attempt(event.rank, event.fallback, event.source))
    return False


def _succeeded(use: _Use, event: ToolCallSucceeded) -> bool:
    came: Came = "empty" if event.empty else "ok"
    if event.degraded is not None:
        came = "degraded"
    _ended(use, came, event.latency_ms)
    use.end = came
    return True


def _failed(use: _Use, event: ToolCallFailed) -> bool:
    use.error = event.error_class or event.kind
    if event.kind == "breaker":
        use.skipped.append(event.rank)
    elif event.kind not in NOT_CALLED:
        _ended(use, "failed", None if event.kind in _BROKEN_OFF else event.latency_ms)
    use.end = "unfinished" if event.content == NULL else "failed"
    return event.content != NULL


def _in_doubt(use: _Use, event: ToolCallInDoubt) -> bool:
    use.error = event.error_class or event.kind
    _ended(use, "in_doubt", None if event.kind in _BROKEN_OFF else event.latency_ms)
    if event.content != NULL:
        use.end = "in_doubt"
        return True
    use.end = "open_doubts" if event.open else "unfinished"
    return False


def _reconciled(use: _Use, event: ToolCallReconciled) -> bool:
    # The first answer counts, and `unknown` is none: then a person is asked.
    if use.end != "open_doubts" or event.call_id != use.call_id or event.outcome == "unknown":
        return False
    use.end = event.outcome
    return True


def _given_up(use: _Use, event: ToolCallGivenUp) -> bool:
    use.error = event.error_class or use.error
    use.end = "given_up"
    return True


_RULES: Final[dict[type[Event], Callable[[_Use, Any], bool]]] = {
    ToolCallStarted: _started,
    ToolCallSucceeded: _succeeded,
    ToolCallFailed: _failed,
    ToolCallInDoubt: _in_doubt,
    ToolCallReconciled: _reconciled,
    ToolCallGivenUp: _given_up,
}
"""What each event makes of its use, and whether that is over."""


def _ended(use: _Use, came: Came, latency_ms: int | None) -> None:
    last = next((one for one in reversed(use.attempts) if one.came == "unfinished"), None)
    if last is None:
        return
    last.came, last.latency_ms = came, latency_ms
    if came in ("failed", "in_doubt"):
        last.error = use.error


# ── circuit breakers ────────────────────────────────────────────────────────────────────────────


def troubled(states: Iterable[breaker.State]) -> list[breaker.State]:
    """Return the circuit breakers that are not closed."""
    return [state for state in states if state.status != "closed"]


def standing(source: str, states: Sequence[breaker.State]) -> str:
    """Return what the circuit breaker of a source is, of any tenant the worst: `half_open`, say."""
    of_it = {one.status for one in states if breaker.source_of(one.scope) == source}
    return reduce(lambda so_far, one: one if one in of_it else so_far, _WORSE, "closed")


_WORSE: Final = ("half_open", "open")


def _add(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _three_digits(ms: int) -> int:
    size: int = 10 ** max(0, len(str(ms)) - 3)
    return -(-ms // size) * size
