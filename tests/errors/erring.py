"""A Claude that fails as its question says: the rows of the API's error table, each a fault."""

from typing import Any, Final

from outlast.models import faults
from outlast.models.script import Fault, Turn, say

AT_ONCE: Final = 0.05

# row of the table, then what happens there: (name of the fault, its arguments)
ROWS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    # ── refused for what was sent ───────────────────────────────────────────────────────────────
    "400": ("invalid_request", {}),
    "400 with a code": ("invalid_request", {"code": "compaction_incomplete_turn"}),
    "400 prompt is too long": ("context_too_long", {}),
    "401": ("auth", {}),
    "403": ("forbidden", {}),
    "404": ("not_found", {}),
    "409 with a code": ("conflict", {"code": "scan_pending"}),
    "413": ("too_large", {}),
    "422": ("unprocessable", {}),
    # ── nothing left to pay with ────────────────────────────────────────────────────────────────
    "402": ("billing", {}),
    "402 with a code": ("billing", {"code": "linked_organization_spend_limit_reached"}),
    "429 enforced_spend_limit_reached": ("spend_limit", {}),
    "429 contract_spend_limit_reached": ("spend_limit", {"contract": True}),
    # ── come back later ─────────────────────────────────────────────────────────────────────────
    "429 rate_limit_error": ("rate_limited", {"retry_after": 4 * AT_ONCE}),
    "429 without retry-after": ("rate_limited", {}),
    "429 ramp_limit_exceeded": ("ramp_limit", {"retry_after": 4 * AT_ONCE}),
    "529 overloaded_error": ("overloaded", {}),
    "529 with a code": ("overloaded", {"code": "compaction_unavailable"}),
    # ── unknown whether billed ──────────────────────────────────────────────────────────────────
    "500": ("server_error", {}),
    "500 after billing": ("server_error", {"billed": True}),
    "503": ("unavailable", {"code": "cmek_key_unreachable"}),
    "503 after billing": ("unavailable", {"billed": True}),
    "504": ("gateway_timeout", {"billed": True}),
    "408": ("timed_out", {"billed": True}),
    "409": ("conflict", {}),
    "connection reset after sending": ("reset_after_send", {}),
    "reset, and not billed": ("reset_after_send", {"billed": False}),
    # ── partly billed ───────────────────────────────────────────────────────────────────────────
    "SSE error: overloaded": ("sse_error", {}),
    "SSE error: rate limit": ("sse_error", {"status": 429, "code": "ramp_limit_exceeded"}),
    "SSE error before a word": ("sse_error", {"status": 500, "after": 1}),
    "cut": ("cut", {}),
    "cut before a word": ("cut", {"after": 0}),
    "cut after silence": ("stall", {"seconds": AT_ONCE}),
    "cut after pings": ("pings_only", {"seconds": AT_ONCE}),
    "no message_stop": ("truncated", {}),
    # ── a 200 that is no reply ──────────────────────────────────────────────────────────────────
    "200 that is not JSON": ("html", {}),
    "200 without usage": ("no_usage", {}),
    # ── no error, only slow ─────────────────────────────────────────────────────────────────────
    "late": ("late", {"seconds": AT_ONCE}),
    "slow": ("slow_drip", {"seconds": AT_ONCE}),
}

FOR_EVER: Final = {
    "529 for ever": ("overloaded", {}),
    "500 for ever": ("server_error", {"billed": True}),
}

TIMEOUT: Final = "timeout"


def fault(row: str) -> Fault:
    """Return what happens in a row of the table."""
    name, arguments = (ROWS | FOR_EVER)[row]
    made: Fault = getattr(faults, name)(**arguments)
    return made


def script(request: dict[str, Any], attempt: int) -> Turn | Fault:
    """Fail the first attempt at the question that names a row, and answer the next."""
    asked = request["messages"][0]["content"]
    asked = asked if isinstance(asked, str) else asked[0]["text"]
    if asked == TIMEOUT and attempt == 1:
        return faults.stall(600, after=2)
    if attempt and (asked in FOR_EVER or (asked in ROWS and attempt == 1)):
        return fault(asked)
    return say("Well.")
