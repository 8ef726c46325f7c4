"""What kind of failure an exception is: the one closed set, `ErrorClass`.

HTTP clients are told by the names and the attributes of their exceptions, as in `unanswered`, so
none is imported.  Where nobody can tell whether a request was sent, it was.
"""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, get_args

from outlast.errors import ToolError
from outlast.events import ErrorClass
from outlast.unanswered import attribute, chain, status_of, unanswered

STATUSES: Final[dict[int, ErrorClass]] = {
    401: "auth",
    403: "forbidden",
    404: "not_found",
    407: "auth",
    408: "timeout_after_sending",
    409: "conflict",
    410: "not_found",
    412: "conflict",
    413: "too_large",
    414: "too_large",
    423: "conflict",
    425: "rate_limited",
    429: "rate_limited",
    431: "too_large",
}
"""What HTTP statuses say (RFC 9110, 6585); other 4xx are invalid arguments, 5xx unavailable."""

NOT_SENT: Final = frozenset(
    {
        # httpx, and httpx2
        "ConnectError",
        "ConnectTimeout",
        "PoolTimeout",
        # urllib3
        "NewConnectionError",
        "ConnectTimeoutError",
        "NameResolutionError",
        # aiohttp
        "ClientConnectorError",
        # botocore
        "EndpointConnectionError",
    }
)
"""What clients call it when no connection was made: the names of classes."""

TIMEOUTS: Final = frozenset(
    {
        "ReadTimeout",
        "WriteTimeout",
        "TimeoutException",
        "Timeout",
        "ReadTimeoutError",
        "ServerTimeoutError",
        "APITimeoutError",
        "DeadlineExceeded",
    }
)
"""What they call it when a reply did not come in time."""

UNREADABLE: Final = frozenset({"ValidationError", "JSONDecodeError", "DecodeError"})
"""What parsers call it when a reply is not what it should be."""

_ERRNOS: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)

_BUILT_IN: Final[tuple[tuple[type[BaseException], ErrorClass], ...]] = (
    (ConnectionRefusedError, "timeout_before_sending"),
    (socket.gaierror, "timeout_before_sending"),
    (TimeoutError, "timeout_after_sending"),
    (ConnectionError, "unavailable"),
    (PermissionError, "forbidden"),
    (FileNotFoundError, "not_found"),
    (FileExistsError, "conflict"),
    (UnicodeDecodeError, "bad_output"),
)

CLASSES: Final[frozenset[str]] = frozenset(get_args(ErrorClass))
TRANSIENT: Final[frozenset[ErrorClass]] = frozenset(
    {"timeout_before_sending", "timeout_after_sending", "rate_limited", "unavailable"}
)
"""What may pass by itself."""


def classify(error: BaseException) -> ErrorClass:
    """Return what kind of failure an exception is, by what it or its cause says."""
    said = _told(error)
    if said is not None:
        return said
    found = next((known for one in chain(error) if (known := _class_of(one))), None)
    if isinstance(error, ToolError):
        # In its own words it told Claude what to do; only what may pass is more than that.
        return found if found in TRANSIENT else "refused"
    if found is not None:
        return found
    return "unavailable" if unanswered(error) else "bug"


def retry_after(error: BaseException) -> float | None:
    """Return for how long the source wants to be left alone, in seconds, where it says so."""
    for one in chain(error):
        for name in ("retry_after_s", "retry_after"):
            if (wait_s := _seconds(attribute(one, name))) is not None:
                return wait_s
        headers = attribute(attribute(one, "response"), "headers") or attribute(one, "headers")
        if (wait_s := _seconds(_header(headers))) is not None:
            return wait_s
    return None


def _header(headers: object) -> object:
    get = attribute(headers, "get")
    try:
        return (get("retry-after") or get("Retry-After")) if callable(get) else None
    except Exception:  # noqa: BLE001  (headers may be anything)
        return None


def _told(error: BaseException) -> ErrorClass | None:
    """Return what a `ToolError` says itself."""
    if not isinstance(error, ToolError) or not error.error_class:
        return None
    return next((one for one in get_args(ErrorClass) if one == error.error_class), "bug")


def _class_of(error: BaseException) -> ErrorClass | None:
    if (status := status_of(error)) is not None:
        return STATUSES.get(status, "unavailable" if status >= 500 else "invalid_arguments")
    names = {one.__name__ for one in type(error).__mro__}
    refused = isinstance(error, OSError) and error.errno in _ERRNOS
    if refused or any(not NOT_SENT.isdisjoint(one) for one in (names, *_inside(error))):
        return "timeout_before_sending"
    if known := next((one for kind, one in _BUILT_IN if isinstance(error, kind)), None):
        return known
    if names & TIMEOUTS:
        return "timeout_after_sending"
    if names & UNREADABLE:
        return "bad_output"
    return None


def _inside(error: BaseException) -> Iterator[set[str]]:
    """Return the names of the classes of what an exception was made of, as `requests` does it."""
    for one in error.args if isinstance(error.args, tuple) else ():
        if isinstance(one, BaseException):
            yield {each.__name__ for each in type(one).__mro__}
            reason = attribute(one, "reason")
            if isinstance(reason, BaseException):
                yield {each.__name__ for each in type(reason).__mro__}


def _seconds(said: object) -> float | None:
    """Return seconds as they are told: a number, its text, or the date until when."""
    try:
        wait_s = float(said)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None if not isinstance(said, str) else _until(said)
    return wait_s if 0 <= wait_s < math.inf and not isinstance(said, bool) else None


def _until(date: str) -> float | None:
    try:
        until = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
