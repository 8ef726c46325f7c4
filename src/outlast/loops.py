"""The same again and again: tool calls that repeat, with nothing new coming back.

    calls    a b a b a b a b a b      period 2, five times
    results  1 2 1 2 1 2 1 2 1 2      the same each time: a loop
    results  1 2 1 3 1 4 1 5 1 6      something new each time: polling, and no loop

Two calls are the same when tool and arguments are, spelling aside; two results when their bytes
are.  Calls that page through something have other arguments each time, so they are no loop either.
A tool that fails with the same words, whatever it is called with, is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec.structs import replace

PERIODS: Final = 5
"""How many different calls a loop may go through."""

NUDGE: Final = 3
"""After so many times Claude is told."""

STOP: Final = 5
"""After so many times the run is stopped."""

KEPT: Final = PERIODS * STOP
"""How many calls have to be remembered."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """The model call that asked for tools: when it was made, what it brought, and its cost."""

    call_id: str
    at: int
    tool: str | None
    """See `ModelCallStarted.tool`."""
    nano: int
    """Nano-dollars, without what is counted as wasted for another reason."""
    model: str = ""
    """The model that was asked."""


class Made(msgspec.Struct, frozen=True, gc=False):
    """A tool call and what came back, as bytes."""

    tool: str
    arguments: bytes
    result: bytes
    failed: bool
    asked: Asked | None = None
    """Who asked for it; `None` once that call is counted as wasted."""


class Loop(msgspec.Struct, frozen=True):
    """What repeats."""

    calls: tuple[str, ...]
    """The tools of one round, in order."""
    times: int
    """How often the round came in a row."""
    error: bool = False
    """It is one error that repeats, whatever the arguments are."""


def remembered(made: tuple[Made, ...], call: Made) -> tuple[Made, ...]:
    """Return the last calls with one more."""
    return (*made[1 - KEPT :], call)


def distinct(calls: Sequence[Made]) -> list[Made]:
    """Return calls that were made beside each other, each of those that are the same once.

    Those that failed with the same words are, too, whatever they were called with: it is one round.
    """
    if len(calls) == 1:
        return [*calls]
    seen: dict[bytes, Made] = {}
    for call in calls:
        arguments = b"" if call.failed else call.arguments
        seen.setdefault(_seen(call.tool, arguments, call.result), call)
    return [*seen.values()]


def found(made: Sequence[Made]) -> Loop | None:
    """Return what repeats at the end of these calls, if it does so at least `NUDGE` times."""
    if not _may_repeat(made):
        return None
    rounds = [_seen(call.tool, call.arguments, call.result) for call in made]
    for period in range(1, PERIODS + 1):
        if (times := _times(rounds, period)) >= NUDGE:
            return Loop(tuple(call.tool for call in made[-period:]), times)
    errors = [(call.tool, call.result) if call.failed else None for call in made]
    if errors[-1] is not None and (times := _times(errors, 1)) >= NUDGE:
        return Loop((made[-1].tool,), times, error=True)
    return None


def wasted(made: Sequence[Made], period: int, times: int) -> tuple[Asked, ...]:
    """Return the model calls whose every tool call is of a round that only repeats the first one.

    Args:
        made: the last calls, the loop at their end.
        period: how many calls a round has.
        times: how often it came in a row.

    """
    new = len(made) - (times - 1) * period
    useful = {call.asked for call in made[: max(0, new)]}
    repeated = {call.asked: None for call in made[max(0, new) :]}
    return tuple(asked for asked in repeated if asked is not None and asked not in useful)


def counted(made: Sequence[Made], calls: Sequence[Asked]) -> tuple[Made, ...]:
    """Return the calls, of which those that `calls` asked for are counted as wasted."""
    return tuple(replace(one, asked=None) if one.asked in calls else one for one in made)


def _may_repeat(made: Sequence[Made]) -> bool:
    """Return whether the last call gave the same twice before, as far apart as in a loop.

    Most work brings something new each time, and then nothing has to be read or hashed.
    """
    for period in range(1, min(PERIODS, (len(made) - 1) // (NUDGE - 1)) + 1):
        came = made[-1].result
        if came == made[-1 - period].result and came == made[-1 - 2 * period].result:
            return True
    return False


def _times(rounds: Sequence[Any], period: int) -> int:
    """Return how often the last `period` entries came in a row."""
    last, times = rounds[-period:], 0
    while rounds[len(rounds) - (times + 1) * period : len(rounds) - times * period] == last:
        times += 1
        if (times + 1) * period > len(rounds):
            break
    return times


@lru_cache(maxsize=256)
def _seen(tool: str, arguments: bytes, result: bytes) -> bytes:
    # Of a call that repeats, this is remembered: only what is new costs anything.
    return sha256(b"\0".join((tool.encode(), _plain(arguments), result))).digest()


def _plain(arguments: bytes) -> bytes:
    """Return arguments without what makes no difference: order, spaces, case, 1 and 1.0."""
    try:
        return msgspec.json.encode(_normal(msgspec.json.decode(arguments)), order="sorted")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return arguments


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.split()).casefold()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_normal(one) for one in value]
    if isinstance(value, dict):
        return {name: _normal(one) for name, one in value.items()}
    return value
