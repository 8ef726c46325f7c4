"""What the headers of an answer say."""

from __future__ import annotations

import math
from collections.abc import Mapping


def rate_limits(headers: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return what headers say of rate limits; see `models.Reply.told`."""
    told = {}
    for unit in ("requests", "input_tokens", "output_tokens"):
        name = f"anthropic-ratelimit-{unit.replace('_', '-')}"
        limit, left = (number(headers.get(f"{name}-{what}")) for what in ("limit", "remaining"))
        if limit is not None and limit >= 1 and left is not None:
            told[unit] = (int(limit), int(left))
    return told


def number(text: str | None) -> float | None:
    """Return a number that makes sense, `None` where there is none."""
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
