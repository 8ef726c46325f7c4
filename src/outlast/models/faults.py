"""Everything that goes wrong between a client and Claude, by name.

    script = faulty(answers, any_of(once(1, faults.overloaded()), once(2, faults.cut(after=3))))

A name stands for a `Fault`; what is not said here can be said with that.  Seconds are real ones.
"""

from __future__ import annotations

from typing import Final

from outlast.models.script import Fault

__all__ = [
    "auth",
    "billing",
    "canceled",
    "conflict",
    "context_too_long",
    "cut",
    "expired",
    "forbidden",
    "gateway_timeout",
    "html",
    "invalid_request",
    "late",
    "missing",
    "no_usage",
    "not_found",
    "overloaded",
    "pings_only",
    "ramp_limit",
    "rate_limited",
    "reset_after_send",
    "server_error",
    "slow_drip",
    "spend_limit",
    "sse_error",
    "stall",
    "timed_out",
    "too_large",
    "truncated",
    "unavailable",
    "unprocessable",
]

_BARE: Final = '{"id":"msg_bare","type":"message","role":"assistant","content":[]}'


# ── refused, and not billed ─────────────────────────────────────────────────────────────────────


def invalid_request(message: str = "the request is not valid", *, code: str = "") -> Fault:
    """Return a 400; `code` is one of the API's `error_code`s."""
    return _status(400, message, code)


def context_too_long(tokens: int = 1_000_001, limit: int = 1_000_000) -> Fault:
    """Return the 400 of a prompt that does not fit into the context window."""
    return _status(400, f"prompt is too long: {tokens} tokens > {limit} maximum")


def auth() -> Fault:
    """Return the 401 of a key that is not valid."""
    return _status(401, "invalid x-api-key")


def billing(*, code: str = "") -> Fault:
    """Return the 402 of an account that has nothing left to pay with."""
    return _status(402, "Your credit balance is too low to access the Anthropic API.", code)


def forbidden() -> Fault:
    """Return the 403 of a key that may not do this."""
    return _status(403, "Your API key does not have permission to use the specified resource.")


def not_found(what: str = "model: claude-none") -> Fault:
    """Return the 404 of something that is not there."""
    return _status(404, what)


def conflict(*, code: str = "") -> Fault:
    """Return a 409."""
    return _status(409, "the resource is being changed by another request", code)


def too_large() -> Fault:
    """Return the 413 of a request that is larger than 32 MiB."""
    return _status(413, "Request exceeds the maximum size")


def unprocessable() -> Fault:
    """Return a 422."""
    return _status(422, "the request cannot be processed")


def rate_limited(retry_after: float | None = None) -> Fault:
    """Return a 429 that may say after how many seconds to come back."""
    return _status(429, "This request would exceed your rate limit.", retry_after=retry_after)


def ramp_limit(retry_after: float | None = None) -> Fault:
    """Return the 429 of a client that grew too fast."""
    told = "Your usage grew too fast. Increase it gradually."
    return _status(429, told, "ramp_limit_exceeded", retry_after=retry_after)


def spend_limit(*, contract: bool = False) -> Fault:
    """Return the 429 of a spend limit: of the organisation, or with `contract` of its contract."""
    code = "contract_spend_limit_reached" if contract else "enforced_spend_limit_reached"
    return _status(429, "You have reached your spend limit.", code)


def overloaded(retry_after: float | None = None, *, code: str = "") -> Fault:
    """Return a 529."""
    return _status(529, "Overloaded", code, retry_after=retry_after)


# ── in doubt ────────────────────────────────────────────────────────────────────────────────────


def server_error(*, billed: bool = False) -> Fault:
    """Return a 500; with `billed` one that came after everything was generated and paid for."""
    return _status(500, "Internal server error", billed=billed)


def unavailable(*, billed: bool = False, code: str = "") -> Fault:
    """Return a 503."""
    return _status(503, "Service unavailable", code, billed=billed)


def gateway_timeout(*, billed: bool = False) -> Fault:
    """Return a 504."""
    return _status(504, "The request timed out while processing", billed=billed)


def timed_out(*, billed: bool = False) -> Fault:
    """Return a 408."""
    return _status(408, "Request timeout", billed=billed)


def reset_after_send(*, billed: bool = True) -> Fault:
    """Return a connection that is reset once the request has been read."""
    return Fault(kind="reset", message="the connection was reset", billed=billed)


def cut(after: int | None = None, *, billed: bool = True) -> Fault:
    """Return a stream whose connection closes after so many events, or just before its end."""
    return Fault(kind="cut", message="the stream was cut", after_events=after, billed=billed)


def truncated(after: int | None = None, *, billed: bool = True) -> Fault:
    """Return a stream that ends cleanly, and without `message_stop`."""
    told = "the stream ended early"
    return Fault(kind="truncated", message=told, after_events=after, billed=billed)


def sse_error(
    status: int = 529, message: str = "Overloaded", *, after: int | None = None, code: str = ""
) -> Fault:
    """Return an `error` event in mid-stream, of the type that belongs to `status`."""
    return Fault(
        kind="error_event", status=status, message=message, after_events=after, error_code=code
    )


def stall(seconds: float, after: int | None = None) -> Fault:
    """Return a stream that falls silent after so many events, and is cut when the time is over."""
    told = "the stream fell silent"
    return Fault(kind="stall", message=told, lasts_s=seconds, after_events=after)


def pings_only(seconds: float, after: int = 1) -> Fault:
    """Return a stream in which after so many events only pings come, until it is cut."""
    told = "nothing but pings came"
    return Fault(kind="pings", message=told, lasts_s=seconds, after_events=after)


def html() -> Fault:
    """Return a web page with status 200, as a proxy in between would answer."""
    return Fault(kind="html", message="a web page came")


def no_usage() -> Fault:
    """Return a message with status 200 that says nothing of what it cost."""
    json = {"content-type": "application/json"}
    return Fault(kind="html", message="a message without usage came", body=_BARE, headers=json)


# ── of an entry of a batch ──────────────────────────────────────────────────────────────────────


def expired() -> Fault:
    """Return an entry that was not begun within the batch's 24 hours; it is not billed."""
    return Fault(kind="expired", message="the batch was over before")


def canceled() -> Fault:
    """Return an entry that was not begun when its batch was canceled; it is not billed."""
    return Fault(kind="canceled", message="the batch was canceled before")


def missing() -> Fault:
    """Return an entry that was answered and billed, and whose result is nowhere."""
    return Fault(kind="missing", message="there is no result")


# ── no fault but slowness ───────────────────────────────────────────────────────────────────────


def late(seconds: float) -> Fault:
    """Return the right answer, that much later."""
    return Fault(kind="delay", delay_s=seconds)


def slow_drip(seconds: float) -> Fault:
    """Return the right answer a few bytes at a time, over so many seconds."""
    return Fault(kind="drip", lasts_s=seconds)


def _status(
    status: int,
    message: str,
    code: str = "",
    *,
    retry_after: float | None = None,
    billed: bool = False,
) -> Fault:
    return Fault(
        kind="status",
        status=status,
        message=message,
        error_code=code,
        headers={} if retry_after is None else {"retry-after": f"{retry_after:g}"},
        billed=billed,
    )
