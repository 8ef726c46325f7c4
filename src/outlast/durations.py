"""How long: seconds, a `timedelta`, or such as `"15m"`."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final

from outlast.errors import UsageError

_UNITS: Final = {
    "ms": 0.001,
    "s": 1,
    "m": 60,
    "min": 60,
    "h": 3_600,
    "d": 86_400,
    "w": 604_800,
}
_TEXT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|[smhdw])")
_LONGEST_S: Final = 100 * 365 * 86_400
"""A hundred years: more is a mistake, and does not fit the columns."""


def nanoseconds(duration: float | str | timedelta) -> int:
    """Return a duration in nanoseconds.

    Raises:
        UsageError: it is none, or not between 0 and a hundred years.

    """
    seconds = _seconds(duration)
    if seconds is None or not math.isfinite(seconds) or not 0 <= seconds <= _LONGEST_S:
        raise UsageError(
            f"{duration!r} is not how long to wait; give seconds, a timedelta, or such as '90s', "
            "'15m', '2h', '3d'"
        )
    return round(seconds * 1_000_000_000)


def expiry(duration: float | str | timedelta | None) -> int:
    """Return after how many nanoseconds a question to a person is over; 0 is never.

    Raises:
        UsageError: it is no duration, or leaves no time to answer.

    """
    if duration is None:
        return 0
    if not (length := nanoseconds(duration)):
        raise UsageError(
            f"{duration!r} leaves nobody time to decide; give more than nothing, or None for ever"
        )
    return length


def _seconds(duration: float | str | timedelta) -> float | None:
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, str):
        found = _TEXT.fullmatch(duration.strip())
        return float(found[1]) * _UNITS[found[2]] if found else None
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        return None
    return float(duration)
