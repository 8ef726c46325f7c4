"""A Claude that answers for a second, has an outage, and is well again, in real time.

`OUTAGE_S` says how long the outage lasts, counted from one second after the first request.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

from outlast.models import faults
from outlast.models.script import Fault, Turn, last_text, say, text_of, tool_use, turn_number

WELL_S: Final = 1.0
OUTAGE_S: Final = float(os.environ.get("OUTAGE_S", "6"))

_first: list[float] = []


def script(request: dict[str, Any], _attempt: int) -> Turn:
    """Use a tool, and answer then."""
    if turn_number(request) == 1:
        return say(tool_use("look", {}), total_s=0.2)
    return say(f"re: {text_of(request['messages'][0]['content'])} {last_text(request)}")


def rule(_request: dict[str, Any], _attempt: int) -> Fault | None:
    """Refuse everybody for as long as the outage lasts."""
    now = time.monotonic()
    if not _first:
        _first.append(now)
    return faults.overloaded() if WELL_S <= now - _first[0] < WELL_S + OUTAGE_S else None
