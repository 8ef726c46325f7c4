"""The circuit breaker: whether a dependency answers, as every run and process of the store sees it.

    closed ──too many calls fail──▶ open ──its time is over──▶ half-open ──they succeed──▶ closed
                                     ▲                            │
                                     └──────── they fail ─────────┘

While it is open nobody asks: runs wait without a process.  Half-open, so many calls as were agreed
try it, of all runs and processes together; what comes of them decides.

Each breaker is a fold over a stream of its own, `~breaker:KEY`, so a change is made by one and seen
by all.  What came of calls is counted in numbers that all processes share, in twelve parts of a
window that slides on with time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final, Literal, TypeAlias

import msgspec

from outlast.errors import UsageError
from outlast.events import (
    BreakerChanged,
    FailureKind,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallSucceeded,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallSucceeded,
)
from outlast.journal import Advance, Record
from outlast.pacing import NS, Ramp, group

PARTS: Final = 12
"""In how many parts a window slides on."""

ERAS: Final = 64
"""How many changes of a breaker have numbers of their own, before they are used again."""

KINDS: Final = ("calls", "failures", "slow")
"""What is counted."""

PROBE_NS: Final = 300 * NS
"""How long those who try a dependency may take; then others may."""

SKEW_NS: Final = 60 * NS
"""By how much clocks may differ; of what is further ahead nobody knows when its time is over."""

PROBES: Final = "probes"
"""The unit in which calls hold a place among those that try a dependency."""

FAILURES: Final[frozenset[FailureKind]] = frozenset(
    {"overloaded", "unavailable", "unreachable", "cut", "timeout", "malformed"}
)
"""What says that a dependency does not answer: no connection, 5xx, 529, and no reply in time.

Anything with a status from 400 to 499 is an answer, whatever it says."""

NOTHING_SAID: Final[frozenset[FailureKind]] = frozenset(
    {"crash", "cancelled", "bug", "store", "errored", "canceled", "expired"}
)
"""What says nothing of a dependency: it is our doing, or of a batch."""

Verdict = Literal["ok", "failure", "slow"]
"""What a call says of its dependency."""


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """When a circuit breaker opens, and for how long.

    Attributes:
        failure_rate: the share of calls, above 0 and up to 1, that fail when it opens; default 0.5.
        slow_s: seconds after which a reply is slow; `None`, the default, is never.
        slow_rate: the share of calls that are slow when it opens; default 0.9.
        calls: how many calls there must be in the window before anything is judged; default 5.
        window_s: how long the window is, in seconds; default 60.
        open_s: how long it is open at first, in seconds; twice as long with every time that those
            who try it fail; default 10.
        longest_s: how long it is open at most, in seconds; default 300.
        probes: how many calls try the dependency then, of all processes together; default 3.
        per_tenant: whether each tenant has breakers of its own; default false.

    Raises:
        UsageError: a number makes no sense.

    """

    failure_rate: float = 0.5
    slow_s: float | None = None
    slow_rate: float = 0.9
    calls: int = 5
    window_s: float = 60.0
    open_s: float = 10.0
    longest_s: float = 300.0
    probes: int = 3
    per_tenant: bool = False

    def __post_init__(self) -> None:
        """Refuse what could only be a mistake."""
        for name in ("failure_rate", "slow_rate"):
            if not 0 < _number(getattr(self, name)) <= 1:
                raise UsageError(
                    f"Breaker({name}={getattr(self, name)!r}): give a share above 0 and up to 1"
                )
        for name in ("calls", "probes"):
            given = getattr(self, name)
            if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= 10_000:
                raise UsageError(f"Breaker({name}={given!r}): give a whole number from 1 to 10,000")
        for name in ("window_s", "open_s", "longest_s", "slow_s"):
            given = getattr(self, name)
            if name == "slow_s" and given is None:
                continue
            # The numbers of parts that are shorter would not fit into 64 bits with what is counted.
            least = 0.1 if name == "window_s" else 0.001
            if not least <= _number(given) <= 86_400:
                raise UsageError(
                    f"Breaker({name}={given!r}): give seconds, from {least:g} to 86,400"
                )
        if not isinstance(self.per_tenant, bool):
            raise UsageError(f"Breaker(per_tenant={self.per_tenant!r}): give True or False")
        if self.longest_s < self.open_s:
            raise UsageError(
                f"Breaker(longest_s={self.longest_s!r}) is less than open_s={self.open_s!r}"
            )


class Tally(msgspec.Struct, frozen=True, gc=False):
    """What came of calls."""

    calls: int = 0
    failures: int = 0
    slow: int = 0


class State(msgspec.Struct, frozen=True):
    """What a breaker is."""

    key: str
    status: Literal["closed", "open", "half_open"] = "closed"
    until: int = 0
    """When it may be tried, where it is open, in nanoseconds since the epoch."""
    rounds: int = 0
    """How often in a row those who tried it failed."""
    probes: int = 0
    """How many may try it, where it is half-open."""
    at: int = 0
    """When it became what it is."""
    seq: int = 0
    """How far its stream was read."""

    @property
    def stream(self) -> str:
        """The name of its stream."""
        return stream(self.key)

    @property
    def scope(self) -> str:
        """In which scope of the ledger those who try it hold their places."""
        return f"breaker:{self.key}"

    @property
    def window(self) -> str:
        """In which window of that scope they do this time."""
        return f"probe:{self.seq}"

    @property
    def ramp(self) -> Ramp | None:
        """How calls begin again after it was open."""
        return Ramp(self.at, self.seq, self.key) if self.status == "closed" and self.seq else None

    def is_tried(self, now: int) -> bool:
        """Return whether a call that is made now tries the dependency."""
        return self.status == "half_open" or self.is_due(now)

    def is_due(self, now: int) -> bool:
        """Return whether it is open and its time is over, or some clock was wrong."""
        return self.status == "open" and not self.at - SKEW_NS <= now < self.until

    def waits(self, who: str, now: int) -> int:
        """Return until when a call waits that would be made now; 0 where it need not."""
        if self.status != "open" or self.is_due(now):
            return 0
        # One after the other, so that few are awake before it is known whether it answers.
        return self.until + int((self.until - self.at) * _share(f"{who}:{self.seq}") / 2)

    def waits_for_others(self, who: str, now: int) -> int:
        """Return until when a call waits for those that try the dependency just now."""
        # Ever longer, but no longer than a clock may be off.
        passed = min(SKEW_NS, max(2 * NS, now - self.at))
        return now + int(passed * (1 + _share(f"{who}:{now}")))


def stream(key: str) -> str:
    """Return the name of the stream of a breaker."""
    return f"~breaker:{key}"


@lru_cache(maxsize=256)
def model_key(model: str, *, key: str = "", tenant: str = "") -> str:
    """Return what tells the breaker of a model from others.

    Args:
        model: the model.
        key: whose limits its calls count against; see `RateFrozen.key`.
        tenant: whose run it is, where each has breakers of its own.

    """
    parts = (f"model:{group(model)}", f"key:{key}" if key else "", _tenant(tenant))
    return ":".join(filter(None, parts))


def source_key(source: str, *, tenant: str = "") -> str:
    """Return what tells the breaker of a source of tools from others.

    Args:
        source: what tools depend on.
        tenant: whose run it is, where each has breakers of its own.

    """
    return ":".join(filter(None, (f"tool:{source}", _tenant(tenant))))


def source_of(scope: str) -> str:
    """Return of which source of tools a scope of the ledger is; empty where it is of none."""
    kind, _, key = scope.partition(":")
    what, _, name = key.partition(":")
    return name.partition(":")[0] if (kind, what) == ("breaker", "tool") else ""


def _tenant(tenant: str) -> str:
    return f"tenant:{tenant}" if tenant else ""


def evolve(state: State, record: Record) -> State:
    """Return what `record` makes of it."""
    event = record.event
    if not isinstance(event, BreakerChanged):
        return msgspec.structs.replace(state, seq=record.seq)
    return State(
        key=state.key,
        status=event.status,
        until=event.until,
        rounds=event.rounds,
        probes=event.probes,
        at=record.at,
        seq=record.seq,
    )


def fold(records: Iterable[Record], state: State) -> State:
    """Return what `records` make of it."""
    for record in records:
        state = evolve(state, record)
    return state


Over: TypeAlias = (
    ModelCallSucceeded
    | ModelCallFailed
    | ModelCallInDoubt
    | ToolCallSucceeded
    | ToolCallFailed
    | ToolCallInDoubt
)
"""What a call ends with."""


def says_nothing(event: Over) -> bool:
    """Return whether a call that is over says nothing of its dependency."""
    if isinstance(event, ModelCallSucceeded | ToolCallSucceeded | ToolCallFailed):
        return False
    return event.kind in NOTHING_SAID


def verdict(event: Over, breaker: Breaker) -> Verdict | None:
    """Return what a call says of its dependency, `None` where that is nothing."""
    if isinstance(event, ModelCallSucceeded | ToolCallSucceeded):
        is_slow = breaker.slow_s is not None and event.latency_ms >= breaker.slow_s * 1_000
        return "slow" if is_slow else "ok"
    if says_nothing(event):
        return None
    if isinstance(event, ToolCallInDoubt):
        return "failure"  # a timeout, or a connection that broke
    if isinstance(event, ToolCallFailed):
        return "failure" if event.kind == "timeout" or event.unanswered else "ok"
    return "failure" if event.kind in FAILURES and not 400 <= event.status < 500 else "ok"


# ── counting ────────────────────────────────────────────────────────────────────────────────────


def counts(
    state: State, said: Verdict, *, probe: bool, breaker: Breaker, now: int
) -> list[Advance]:
    """Return what is counted of a call, in numbers that all processes share."""
    counted = ["calls", *({"failure": ["failures"], "slow": ["slow"], "ok": []}[said])]
    if probe:
        least = state.seq << 32
        return [Advance(name=_tried(state, kind), by=1, least=least) for kind in counted]
    part = _part(breaker, now)
    return [Advance(name=_name(state, part, kind), by=1, least=part << 24) for kind in counted]


def window_names(state: State, breaker: Breaker, now: int) -> list[str]:
    """Return the names of the numbers that `tallied` is told the values of."""
    last = _part(breaker, now)
    parts = range(last - PARTS + 1, last + 1)
    return [_name(state, part, kind) for part in parts for kind in KINDS]


def tallied(values: Sequence[int], breaker: Breaker, now: int) -> Tally:
    """Return what came of the calls of the window."""
    last = _part(breaker, now)
    oldest = last - PARTS + 1
    # Each place is used again after a window, and what is in it may be older than that.
    recent = [value & 0xFFFFFF if oldest <= value >> 24 <= last else 0 for value in values]
    return Tally(*(sum(recent[at :: len(KINDS)]) for at in range(len(KINDS))))


def mended(
    names: Sequence[str], values: Sequence[int], breaker: Breaker, now: int
) -> list[Advance]:
    """Return how the numbers are put right that a clock far ahead has counted with."""
    ahead = _part(breaker, now + SKEW_NS) + 1
    pairs = zip(names, values, strict=True)
    return [Advance(name=name, by=-value) for name, value in pairs if value >> 24 > ahead]


def probe_names(state: State) -> list[str]:
    """Return the names of the numbers that `tried` is told the values of."""
    return [_tried(state, kind) for kind in KINDS]


def tried(values: Sequence[int], state: State) -> Tally:
    """Return what came of the calls that tried the dependency."""
    return Tally(*(value & 0xFFFFFFFF if value >> 32 == state.seq else 0 for value in values))


def _part(breaker: Breaker, now: int) -> int:
    return now * PARTS // int(breaker.window_s * NS)


def _name(state: State, part: int, kind: str) -> str:
    # What was counted before it opened last says nothing once it was closed again.
    return f"breaker:{state.key}:{state.seq % ERAS}:{part % PARTS}:{kind}"


def _tried(state: State, kind: str) -> str:
    # Who tried it the time before, and ends only now, says nothing of this time.
    return f"breaker:{state.key}:{state.seq % ERAS}:probe:{kind}"


# ── the transitions ─────────────────────────────────────────────────────────────────────────────


def tripped(
    state: State, tally: Tally, breaker: Breaker, *, now: int, run_id: str
) -> BreakerChanged | None:
    """Return the opening of a closed breaker, `None` where it stays closed."""
    if state.status != "closed" or tally.calls < breaker.calls or not _fails(tally, breaker):
        return None
    return _opened(state, tally, breaker, now=now, rounds=0, run_id=run_id)


def begun(state: State, breaker: Breaker, *, now: int, run_id: str) -> BreakerChanged | None:
    """Return the trial of an open breaker, `None` where it is not its time."""
    if not state.is_due(now):
        return None
    return BreakerChanged(
        key=state.key,
        status="half_open",
        probes=breaker.probes,
        rounds=state.rounds,
        run_id=run_id,
    )


def judged(
    state: State, tally: Tally, breaker: Breaker, *, now: int, run_id: str
) -> BreakerChanged | None:
    """Return what comes of those who tried the dependency, `None` while that is not certain."""
    if state.status != "half_open":
        return None
    left = max(0, state.probes - tally.calls)
    if now - state.at >= PROBE_NS:  # who has not answered by now has not answered
        tally = Tally(tally.calls + left, tally.failures + left, tally.slow)
        left = 0
    worst = Tally(state.probes, tally.failures + left, tally.slow + left)
    best = Tally(state.probes, tally.failures, tally.slow)
    if not _fails(worst, breaker):
        return BreakerChanged(
            key=state.key,
            status="closed",
            calls=tally.calls,
            failures=tally.failures,
            slow=tally.slow,
            run_id=run_id,
        )
    if _fails(best, breaker):
        rounds = state.rounds + 1
        return _opened(state, tally, breaker, now=now, rounds=rounds, run_id=run_id)
    return None


def _fails(tally: Tally, breaker: Breaker) -> bool:
    # Divided, since 0.07 * 100 is more than 7.
    slow = breaker.slow_s is not None and tally.slow / tally.calls >= breaker.slow_rate
    return slow or tally.failures / tally.calls >= breaker.failure_rate


def _opened(  # noqa: PLR0913  (keywords)
    state: State, tally: Tally, breaker: Breaker, *, now: int, rounds: int, run_id: str
) -> BreakerChanged:
    length_s = min(breaker.longest_s, breaker.open_s * 2 ** min(rounds, 30))
    return BreakerChanged(
        key=state.key,
        status="open",
        until=now + int(length_s * NS),
        rounds=rounds,
        calls=tally.calls,
        failures=tally.failures,
        slow=tally.slow,
        run_id=run_id,
    )


def _share(seed: str) -> float:
    """Return a number from 0 to 1: always the same for the same seed."""
    return int.from_bytes(sha256(seed.encode()).digest()[:4], "big") / 2**32


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return -1.0
    return float(value) if -(10**9) < value < 10**9 else -1.0


DEFAULT: Final = Breaker()
"""When breakers open where nobody says otherwise."""
