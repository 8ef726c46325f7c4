"""A Claude that is overloaded for the first requests, and slow when it is back.

`DOWN` says how many it refuses; the next ones take `SLOW_S` seconds, while callers pile up.
"""

from __future__ import annotations

import itertools
import os
from typing import Any, Final

from outlast.models import faults
from outlast.models.script import Fault, Turn, last_text, say

DOWN: Final = int(os.environ.get("DOWN", "5"))
SLOW_S: Final = float(os.environ.get("SLOW_S", "4"))
PROBES: Final = int(os.environ.get("PROBES", "3"))

_numbers = itertools.count(1)


def script(request: dict[str, Any], attempt: int) -> Turn | Fault:
    """Refuse the first, answer the next slowly, and all others at once."""
    if not attempt:  # what it would have said
        return say(last_text(request))
    number = next(_numbers)
    if number <= DOWN:
        return faults.overloaded()
    slow_s = SLOW_S if number <= DOWN + PROBES else 0.0
    # The bill says by its tokens in which order requests came.
    return say(last_text(request), total_s=slow_s, usage={"output_tokens": number})
