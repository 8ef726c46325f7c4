"""A Claude whose first answer to some questions never comes to its end."""

from typing import Any, Final

from outlast.models import faults
from outlast.models.script import Fault, Turn, last_text, say

FOR_EVER_S: Final = 3_600.0

FAULTS: Final[dict[str, Fault]] = {
    "pings": faults.pings_only(FOR_EVER_S),
    "drips": faults.slow_drip(FOR_EVER_S),
    "silence": faults.stall(FOR_EVER_S, after=2),
    "nothing": faults.late(FOR_EVER_S),
}


def script(request: dict[str, Any], attempt: int) -> Turn | Fault:
    """Trickle at the first attempt, and answer the next one."""
    asked = last_text(request)
    return FAULTS[asked] if asked in FAULTS and attempt == 1 else say("Well.")
