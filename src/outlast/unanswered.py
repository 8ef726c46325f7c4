"""What an exception says of whoever a tool asked: whether it answered at all.

No connection, no reply in time and a status of 500 or more are no answer.  Every other exception
is one, also a refusal with a status from 400 to 499: the circuit breaker of a source opens only
where nobody answers.

HTTP clients are told by the names and the attributes of their exceptions, so none is imported.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final

TRANSPORT: Final = frozenset(
    {
        # httpx, and httpx2, which has the same
        "ConnectError",
        "ConnectTimeout",
        "ReadTimeout",
        "WriteTimeout",
        "ReadError",
        "WriteError",
        "CloseError",
        "RemoteProtocolError",
        "ProxyError",
        # requests
        "ConnectionError",
        "Timeout",
        "ChunkedEncodingError",
        "SSLError",
        "RetryError",
        # urllib3
        "NewConnectionError",
        "MaxRetryError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ProtocolError",
        # aiohttp
        "ClientConnectionError",
        "ClientPayloadError",
        # http.client
        "IncompleteRead",
        "BadStatusLine",
        # the SDKs of Anthropic and OpenAI, and botocore
        "APIConnectionError",
        "EndpointConnectionError",
        "ConnectionClosedError",
    }
)
"""What clients call it when there is no connection, or no reply: the names of classes."""

OURS: Final = frozenset({"LocalProtocolError", "UnsupportedProtocol", "PoolTimeout"})
"""What they call it when the request was never sent, and nobody was asked."""

BUILT_IN: Final = (ConnectionError, TimeoutError, socket.gaierror, socket.herror, ssl.SSLError)
"""What Python itself raises then."""

ERRNOS: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    }
)
"""The errors of the operating system that are of the network."""

MOST: Final = 100
"""How many exceptions are looked at that led to one another."""

_REFUSED: Final = re.compile(r"too many 4\d\d error responses")


def unanswered(error: BaseException) -> bool:
    """Return whether an exception says that nobody answered.

    So may what caused it, what it names as its `reason`, and those of a group.  The first that
    says anything decides: what was refused with a 404 was answered, whatever led to that.
    """
    return next((said for one in chain(error) if (said := _said(one)) is not None), False)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Return an exception and those that led to it, the nearest first."""
    left, seen = [error], set[int]()
    while left and len(seen) < MOST:
        one = left.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        members = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        more = (attribute(one, "__cause__"), attribute(one, "reason"), *members)
        left += [other for other in more if isinstance(other, BaseException)]


def _said(error: BaseException) -> bool | None:
    """Return whether it says that nobody answered; `None` where it says nothing of that."""
    if (status := status_of(error)) is not None:
        return status >= 500
    if isinstance(error, BUILT_IN):
        return True
    if errno_of(error) in ERRNOS:
        return True
    names = {one.__name__ for one in type(error).__mro__}
    is_silent = not TRANSPORT.isdisjoint(names) and OURS.isdisjoint(names)
    return not _is_refusal(error) if is_silent else None


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an exception tells of, from 400 to 599."""
    if isinstance(error, SystemExit):
        return None  # its code is no status
    response = attribute(error, "response")
    told = [attribute(response, name) for name in ("status_code", "status")]
    told.append(member(member(response, "ResponseMetadata"), "HTTPStatusCode"))  # as botocore does
    told += [attribute(error, name) for name in ("status_code", "status", "code")]
    for status in told:
        if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
            return int(status)
    return None


def _is_refusal(error: BaseException) -> bool:
    """Return whether a client gave up because it was refused again and again, as with 429."""
    try:
        return _REFUSED.search(str(error)) is not None
    except (Exception, SystemExit):  # noqa: BLE001  (an exception may be broken itself)
        return False


def attribute(of: object, name: str) -> Any:
    """Return an attribute of something that may be broken; `None` where it cannot be had."""
    try:
        return getattr(of, name, None)
    except (Exception, SystemExit):  # noqa: BLE001  (a property of somebody else's may raise)
        return None


def member(of: object, name: str) -> Any:
    """Return a member of a dict; `None` where it is none, or has no such member."""
    return of.get(name) if isinstance(of, dict) else None


def errno_of(error: BaseException) -> int | None:
    """Return the number of an error of the operating system; `None` of any other."""
    number = attribute(error, "errno") if isinstance(error, OSError) else None
    return number if isinstance(number, int) else None
