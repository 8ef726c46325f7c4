"""What is tried after a call of a tool came to nothing: the same source, the next one, or none.

| error class | read, idempotent | once | next source |
|---|---|---|---|
| timeout before sending | again | again | yes |
| timeout after sending | again | in doubt | for a read |
| rate limited | again | again | yes |
| unavailable | again | in doubt | for a read |
| auth, forbidden, not found, stale | no | no | yes |
| bad output, bug | no | no | for a read |
| invalid arguments, conflict, too large, refused | no | no | no: back to Claude |

A source is asked again after a pause that doubles, or as long as it says itself.  How often that
may be in a run is limited for each source, so that no outage is answered with a storm.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Protocol

import msgspec

from outlast.conversation import Pending, Tally, Try, surely_not
from outlast.events import UNDONE, Effect, ErrorClass

NS: Final = 1_000_000_000

BACKOFF_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before the second, third, … attempt; up to half as much again is added as jitter."""

LONGEST_S: Final = 60.0
"""A source that wants to be left alone for longer, in seconds, is not asked again."""

RETRIES: Final = 10
"""So often a source may be asked again in a run, whatever it was asked."""

SHARE: Final = 5
"""And once more for so many calls (a retry budget of 20 %, as Finagle's, and a few to begin with;
https://twitter.github.io/finagle/guide/Clients.html#retries)."""

REPEATS: Final = 2
"""How often a `read` whose process died under it is repeated before something else is done."""


PASSES: Final[frozenset[str]] = frozenset(
    {"timeout_before_sending", "timeout_after_sending", "rate_limited", "unavailable"}
)
"""Failures that may pass by themselves, so they are worth trying again."""

GOES_ON: Final[frozenset[str]] = PASSES | {
    "auth",
    "forbidden",
    "not_found",
    "bad_output",
    "stale",
    "bug",
}
"""Failures after which another source may do better."""


class Source(Protocol):
    """Who answers a call: the tool itself, or one of its fallbacks."""

    @property
    def effect(self) -> Effect: ...  # noqa: D102  (see `Tool`)
    @property
    def attempts(self) -> int: ...  # noqa: D102
    @property
    def retry_on(self) -> frozenset[str]: ...  # noqa: D102


class Next(msgspec.Struct, frozen=True, gc=False):
    """Which source is asked next, and when."""

    rank: int
    at: int = 0
    """In nanoseconds since the epoch; 0 is at once."""


def doubtful(error_class: ErrorClass, effect: Effect) -> bool:
    """Return whether nobody knows if a call happened, and may not just repeat it."""
    return effect != "read" and error_class in PASSES - UNDONE


def following(pending: Pending, sources: Sequence[Source], tally: Tally, seed: str) -> Next | None:
    """Return what is tried next; `None` is nothing.

    Args:
        pending: the tool use, and what was tried.
        sources: the tool, and its fallbacks.
        tally: how often the source that was asked last was asked in the run.
        seed: what tells the call from others.

    """
    if not pending.tried:
        return Next(0)
    last = pending.tried[-1]
    if last.rank >= len(sources):
        return None  # the declaration was changed, and has fewer
    source = sources[last.rank]
    if last.kind == "crash" and source.effect != "once":
        again = source.effect == "idempotent" or pending.crashes <= REPEATS
        return Next(last.rank) if again else _next_source(pending, sources)
    if (at := _again_at(pending, source, tally, seed)) is not None:
        return Next(last.rank, at)
    return _next_source(pending, sources)


def _again_at(pending: Pending, source: Source, tally: Tally, seed: str) -> int | None:
    """Return when the source that was asked last is asked again; `None` is never."""
    last = pending.tried[-1]
    made = sum(one.rank == last.rank and one.kind != "crash" for one in pending.tried)
    if last.kind == "breaker" or made >= source.attempts:
        return None
    if not _worth_it(pending, source) or tally.retries >= RETRIES + tally.calls // SHARE:
        return None
    if last.retry_after_s > LONGEST_S:
        return None
    jitter = sha256(f"{seed}:{made}".encode()).digest()[0] / 512
    wait_s = BACKOFF_S[min(made, len(BACKOFF_S)) - 1] * (1 + jitter)
    return last.at + int(max(wait_s, last.retry_after_s) * NS)


def _worth_it(pending: Pending, source: Source) -> bool:
    last = pending.tried[-1]
    error_class = last.error_class
    if source.effect == "once":
        # It may have been idempotent when it was tried before, so all attempts count.
        return error_class in PASSES and surely_not(pending, last.rank)
    return error_class in PASSES or error_class in source.retry_on


def _next_source(pending: Pending, sources: Sequence[Source]) -> Next | None:
    last = pending.tried[-1]
    rank = last.rank + 1
    if rank >= len(sources):
        return None
    acted = sources[last.rank].effect != "read" or _acted(pending, last.rank)
    if acted and not surely_not(pending, last.rank):
        return None  # what another source did then would be done twice
    goes_on = last.kind in ("breaker", "crash") or last.error_class in GOES_ON
    return Next(rank) if goes_on else None


def _acted(pending: Pending, rank: int) -> bool:
    """Return whether a source was no `read` when it was tried, whatever it is declared now."""
    return any(one.acted for one in pending.tried if one.rank == rank)


HINTS: Final[dict[ErrorClass, str]] = {
    "timeout_before_sending": "Nobody could be reached.",
    "timeout_after_sending": "No reply came in time.",
    "rate_limited": "It was asked too often for now.",
    "unavailable": "It does not work at the moment.",
    "auth": "Its credentials were not accepted, which you cannot mend.",
    "forbidden": "It is not allowed to do that, which you cannot mend.",
    "not_found": "What was asked for is not there; look at the arguments.",
    "invalid_arguments": "The arguments were not accepted; look at them.",
    "conflict": "Something else was changed meanwhile; look at what there is now.",
    "too_large": "It was too much at once; ask for less.",
    "bad_output": "What it gave is not what it promised.",
    "stale": "What is kept of earlier answers is too old.",
    "refused": "It said no.",
    "bug": "It failed with an error of its own.",
}
"""What Claude is told of each class."""


def given_up(tool: str, names: Sequence[str], pending: Pending, effects: Sequence[Effect]) -> str:
    """Return what Claude is told of a call that came to nothing: what was tried, and what now.

    Args:
        tool: the name of the tool.
        names: those of its sources.
        pending: the tool use, and what was tried.
        effects: what each of them does to the world.

    """
    ranks = dict.fromkeys(one.rank for one in pending.tried)
    acted = [
        rank
        for rank in ranks
        if rank >= len(effects) or effects[rank] != "read" or _acted(pending, rank)
    ]
    perhaps = not all(surely_not(pending, rank) for rank in acted)
    tried = [one for one in pending.tried if one.kind != "crash"]
    last = pending.tried[-1]
    if len(pending.tried) == 1 and last.hint and not perhaps:
        return last.hint
    what = "every source failed" if len(ranks) > 1 else "it failed"
    if left := [name for rank, name in enumerate(names) if rank not in ranks]:
        what += f", and nothing else was asked ({', '.join(left)})"
    lines = [f"{tool} has no result: {what}. This is a failure, not an empty answer."]
    for rank in ranks:
        of_rank = [one for one in tried if one.rank == rank]
        crashed = sum(one.rank == rank and one.kind == "crash" for one in pending.tried)
        name = names[rank] if rank < len(names) else "a source that there is no more"
        lines.append(f"- {name}: {_told(of_rank, crashed)}")
    if perhaps:
        lines.append("It may or may not have happened: do not assume either.")
    lines.append("Do without it and say so, or try something else.")
    return "\n".join(lines)


def _told(tried: Sequence[Try], crashed: int) -> str:
    times = len([one for one in tried if one.kind != "breaker"])
    said = f"tried {times} times. " if times > 1 else ""
    if crashed:
        said += "It was interrupted, and its outcome is unknown. "
    if not tried:
        return said.strip()
    last = tried[-1]
    if last.kind == "breaker":
        return f"{said}Nobody asks it at the moment, because it keeps failing."
    what = last.hint or (HINTS[last.error_class] if last.error_class else "It failed.")
    return f"{said}{what}" + (f" ({last.error_class})" if last.error_class else "")
