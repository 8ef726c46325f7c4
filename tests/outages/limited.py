"""A Claude that has a rate limit once: its very first request is refused for a while."""

from typing import Any, Final

from outlast.models import faults
from outlast.models.script import Fault, Turn, last_text, say

AWAY_S: Final = 3.0


def script(request: dict[str, Any], attempt: int) -> Turn | Fault:
    """Refuse the first attempt at the question `first-0`."""
    if last_text(request) == "first-0" and attempt == 1:
        return faults.rate_limited(retry_after=AWAY_S)
    return say(last_text(request))
