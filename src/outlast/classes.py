"""What kind of failure an exception is: the one closed set, `ErrorClass`.

HTTP clients are told by the names and the attributes of their exceptions, as in `unanswered`, so
none is imported.  Where nobody can tell whether a request was sent, it was.
"""

from __future__ import annotations

import errno
import math
import re
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, get_args

from outlast.errors import ToolError
from outlast.events import ErrorClass
from outlast.unanswered import attribute, chain, errno_of, member, status_of, unanswered

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
        "ConnectionTimeoutError",
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

UNREADABLE: Final = frozenset(
    {"ValidationError", "JSONDecodeError", "DecodeError", "DecodingError", "ContentTypeError"}
)
"""What parsers and clients call it when a reply is not what it should be."""

THROTTLED: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
"""What AWS says with a status of 400 to who asks too often (as `botocore.retries.standard`)."""

_ERRNOS: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)

_GAVE_UP: Final = re.compile(r"too many ([45]\d\d) error responses")
_RETRIED: Final = frozenset({"MaxRetryError", "ResponseError", "RetryError"})
"""How urllib3 says, and requests after it, that it got the same status again and again."""

_BUILT_IN: Final[tuple[tuple[type[BaseException], ErrorClass], ...]] = (
    (ConnectionRefusedError, "timeout_before_sending"),
    (socket.gaierror, "timeout_before_sending"),
    (ssl.SSLCertVerificationError, "timeout_before_sending"),
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

_LEAST_KNOWN: Final[tuple[ErrorClass, ...]] = (
    "timeout_after_sending",
    "unavailable",
    "bug",
    "bad_output",
)
"""Of several failures at once, the first of these: it may have happened."""


def classify(error: BaseException) -> ErrorClass:
    """Return what kind of failure an exception is, by what it or its cause says."""
    said = _told(error)
    if said is not None:
        return said
    found = _found(error)
    if isinstance(error, ToolError):
        # In its own words it told Claude what to do; only what may pass is more than that.
        return found if found in TRANSIENT else "refused"
    return found or _unknown(error)


def retry_after(error: BaseException) -> float | None:
    """Return for how long the source wants to be left alone, in seconds, where it says so."""
    for one in chain(error):
        for name in ("retry_after_s", "retry_after"):
            if (wait_s := _seconds(attribute(one, name))) is not None:
                return wait_s
        response = attribute(one, "response")
        for headers in (
            attribute(response, "headers"),
            attribute(one, "headers"),
            member(member(response, "ResponseMetadata"), "HTTPHeaders"),
        ):
            if (wait_s := _seconds(_header(headers))) is not None:
                return wait_s
    return None


def _header(headers: object) -> object:
    get = attribute(headers, "get")
    try:
        return (get("retry-after") or get("Retry-After")) if callable(get) else None
    except (Exception, SystemExit):  # noqa: BLE001  (headers may be anything)
        return None


def _told(error: BaseException) -> ErrorClass | None:
    """Return what a `ToolError` says itself."""
    if not isinstance(error, ToolError) or not error.error_class:
        return None
    return next((one for one in get_args(ErrorClass) if one == error.error_class), "bug")


def _found(error: BaseException) -> ErrorClass | None:
    """Return the class that an exception or what led to it tells, the nearest first."""
    for one in chain(error):
        known = _of_group(one) if isinstance(one, BaseExceptionGroup) else _class_of(one)
        if known is not None:
            return known
    return None


def _of_group(group: BaseExceptionGroup[BaseException]) -> ErrorClass | None:
    """Return the class of several failures at once: that of which least is known."""
    alone = [one for one in chain(group) if not isinstance(one, BaseExceptionGroup)]
    caused = {id(one.__cause__) for one in alone}
    leaves = [one for one in alone if id(one) not in caused]
    told = [_alone(one) for one in leaves]
    return next((one for one in _LEAST_KNOWN if one in told), told[0] if told else None)


def _alone(error: BaseException) -> ErrorClass:
    known = (_class_of(one) for one in chain(error))
    return next((one for one in known if one is not None), None) or _unknown(error)


def _unknown(error: BaseException) -> ErrorClass:
    return "unavailable" if unanswered(error) else "bug"


def _class_of(error: BaseException) -> ErrorClass | None:
    code = member(member(attribute(error, "response"), "Error"), "Code")
    if isinstance(code, str) and code in THROTTLED:
        return "rate_limited"
    if (status := status_of(error) or _gave_up_at(error)) is not None:
        return STATUSES.get(status, "unavailable" if status >= 500 else "invalid_arguments")
    names = {one.__name__ for one in type(error).__mro__}
    refused = errno_of(error) in _ERRNOS
    if refused or any(not NOT_SENT.isdisjoint(one) for one in (names, *_inside(error))):
        return "timeout_before_sending"
    if known := next((one for kind, one in _BUILT_IN if isinstance(error, kind)), None):
        return known
    if names & TIMEOUTS:
        return "timeout_after_sending"
    return "bad_output" if names & UNREADABLE else None


def _gave_up_at(error: BaseException) -> int | None:
    """Return the status at which a client gave up after several attempts of its own."""
    if _RETRIED.isdisjoint(one.__name__ for one in type(error).__mro__):
        return None
    try:
        said = _GAVE_UP.search(str(error))
    except (Exception, SystemExit):  # noqa: BLE001  (an exception may be broken itself)
        return None
    return None if said is None else int(said[1])


def _inside(error: BaseException) -> Iterator[set[str]]:
    """Return the names of the classes of what an exception was made of, as `requests` does it."""
    args = attribute(error, "args")
    for one in args if isinstance(args, tuple) else ():
        if isinstance(one, BaseException):
            yield {each.__name__ for each in type(one).__mro__}
            reason = attribute(one, "reason")
            if isinstance(reason, BaseException):
                yield {each.__name__ for each in type(reason).__mro__}


def _seconds(said: object) -> float | None:
    """Return seconds as they are told: a number, its text, or the date until when."""
    try:
        wait_s = float(said)  # type: ignore[arg-type]
    except (Exception, SystemExit):  # noqa: BLE001  (it may be anything)
        return None if not isinstance(said, str) else _until(said)
    return wait_s if 0 <= wait_s < math.inf and not isinstance(said, bool) else None


def _until(date: str) -> float | None:
    try:
        until = parsedate_to_datetime(date)
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
