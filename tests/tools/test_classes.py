"""What kind of failure an exception is, of whatever client, and for how long to leave it alone."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import socket
import ssl
import urllib.error
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from typing import Any, get_args

import anthropic
import botocore.exceptions
import httpx2
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.classes import CLASSES, STATUSES, TRANSIENT, classify, retry_after
from outlast.errors import ToolError
from outlast.events import ErrorClass
from outlast.recovery import PASSES

REQUEST = httpx2.Request("GET", "http://127.0.0.1/")


def raised(function: Any, *args: Any) -> BaseException:
    """Return what a function raises."""
    try:
        function(*args)
    except BaseException as error:  # noqa: BLE001  (whatever it is)
        return error
    raise AssertionError("it raised nothing")


def httpx_status(status: int, **headers: str) -> httpx2.HTTPStatusError:
    response = httpx2.Response(status, request=REQUEST, headers=headers)
    error = raised(response.raise_for_status)
    assert isinstance(error, httpx2.HTTPStatusError)
    return error


def urllib_status(status: int, **headers: str) -> urllib.error.HTTPError:
    said = Message()
    for name, value in headers.items():
        said[name] = value
    return urllib.error.HTTPError("http://127.0.0.1/", status, "no", said, None)


def aws(code: str, status: int, **headers: str) -> Exception:
    """Return what botocore raises of a service that says no."""
    told = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return botocore.exceptions.ClientError(told, "GetItem")  # type: ignore[arg-type]


def named(names: str, *args: Any, **told: Any) -> Exception:
    """Return an exception of a class of that name, derived from classes of the others."""
    base: type[Exception] = Exception
    for name in reversed(names.split()):
        base = type(name, (base,), {})
    error = base(*(args or ("no",)))
    vars(error).update(told)
    return error


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


TIMED_OUT: ErrorClass = "timeout_after_sending"


class Grant(pydantic.BaseModel):
    name: str


def parsed(what: str) -> BaseException:
    """Return what a parser raises of a reply that is something else."""
    return raised(
        {
            "json": lambda: json.loads("<html>"),
            "pydantic": lambda: Grant.model_validate({}),
            "msgspec": lambda: msgspec.json.decode(b"<html>"),
            "msgspec type": lambda: msgspec.json.decode(b"{}", type=list),
            "utf-8": b"\xff".decode,
            "httpx": lambda: httpx2.Response(200, content=b"<html>", request=REQUEST).json(),
        }[what]
    )


TABLE: dict[str, tuple[BaseException, ErrorClass]] = {
    # Python's own
    "refused": (ConnectionRefusedError("no"), "timeout_before_sending"),
    "errno refused": (OSError(errno.ECONNREFUSED, "no"), "timeout_before_sending"),
    "no route": (OSError(errno.EHOSTUNREACH, "no"), "timeout_before_sending"),
    "no network": (OSError(errno.ENETUNREACH, "no"), "timeout_before_sending"),
    "host is down": (OSError(errno.EHOSTDOWN, "no"), "timeout_before_sending"),
    "no such name": (socket.gaierror(-2, "no"), "timeout_before_sending"),
    "certificate": (ssl.SSLCertVerificationError(1, "no"), "timeout_before_sending"),
    "tls": (ssl.SSLError(1, "no"), "unavailable"),
    "tls ended": (ssl.SSLEOFError(8, "no"), "unavailable"),
    "socket timeout": (socket.timeout("timed out"), "timeout_after_sending"),  # noqa: UP041
    "timeout": (TimeoutError("no"), "timeout_after_sending"),
    "asyncio timeout": (asyncio.TimeoutError("no"), "timeout_after_sending"),  # noqa: UP041
    "errno timeout": (OSError(errno.ETIMEDOUT, "no"), "timeout_after_sending"),
    "reset": (ConnectionResetError("no"), "unavailable"),
    "aborted": (ConnectionAbortedError("no"), "unavailable"),
    "pipe": (BrokenPipeError("no"), "unavailable"),
    "host error": (socket.herror(1, "no"), "unavailable"),
    "permission": (PermissionError("no"), "forbidden"),
    "no file": (FileNotFoundError("no"), "not_found"),
    "a file": (FileExistsError("no"), "conflict"),
    "no space": (OSError(errno.ENOSPC, "no"), "bug"),
    "value": (ValueError("no"), "bug"),
    "key": (KeyError("no"), "bug"),
    "exit": (SystemExit(503), "bug"),
    "interrupt": (KeyboardInterrupt(), "bug"),
    "assertion": (AssertionError("no"), "bug"),
    # http.client
    "http hung up": (http.client.RemoteDisconnected("no"), "unavailable"),
    "http incomplete": (http.client.IncompleteRead(b""), "unavailable"),
    "http bad line": (http.client.BadStatusLine("no"), "unavailable"),
    "http own fault": (http.client.CannotSendRequest(), "bug"),
    # urllib
    "urllib refused": (
        urllib.error.URLError(ConnectionRefusedError("no")),
        "timeout_before_sending",
    ),
    "urllib no name": (urllib.error.URLError(socket.gaierror(-2, "no")), "timeout_before_sending"),
    "urllib timeout": (urllib.error.URLError(TimeoutError("no")), "timeout_after_sending"),
    "urllib reset": (urllib.error.URLError(ConnectionResetError("no")), "unavailable"),
    "urllib words": (urllib.error.URLError("unknown url type: x"), "bug"),
    "urllib 404": (urllib_status(404), "not_found"),
    "urllib 429": (urllib_status(429), "rate_limited"),
    "urllib 503": (urllib_status(503), "unavailable"),
    # httpx, as httpx2 has it
    "httpx connect": (httpx2.ConnectError("no"), "timeout_before_sending"),
    "httpx connect timeout": (httpx2.ConnectTimeout("no"), "timeout_before_sending"),
    "httpx pool": (httpx2.PoolTimeout("no"), "timeout_before_sending"),
    "httpx read timeout": (httpx2.ReadTimeout("no"), "timeout_after_sending"),
    "httpx write timeout": (httpx2.WriteTimeout("no"), "timeout_after_sending"),
    "httpx read": (httpx2.ReadError("no"), "unavailable"),
    "httpx write": (httpx2.WriteError("no"), "unavailable"),
    "httpx close": (httpx2.CloseError("no"), "unavailable"),
    "httpx proxy": (httpx2.ProxyError("no"), "unavailable"),
    "httpx protocol": (httpx2.RemoteProtocolError("no"), "unavailable"),
    "httpx own fault": (httpx2.LocalProtocolError("no"), "bug"),
    "httpx scheme": (httpx2.UnsupportedProtocol("no"), "bug"),
    "httpx decoding": (httpx2.DecodingError("no"), "bad_output"),
    # requests, by names
    "requests connect timeout": (
        named("ConnectTimeout ConnectionError Timeout RequestException"),
        "timeout_before_sending",
    ),
    "requests read timeout": (named("ReadTimeout Timeout"), "timeout_after_sending"),
    "requests new connection": (
        named("ConnectionError", named("MaxRetryError", reason=named("NewConnectionError"))),
        "timeout_before_sending",
    ),
    "requests reset": (
        named("ConnectionError", named("ProtocolError", "aborted", ConnectionResetError("no"))),
        "unavailable",
    ),
    "requests chunked": (named("ChunkedEncodingError RequestException"), "unavailable"),
    "requests json": (named("JSONDecodeError InvalidJSONError RequestException"), "bad_output"),
    "requests 401": (named("HTTPError", response=httpx2.Response(401)), "auth"),
    "requests retries": (named("RetryError", "too many 500 error responses"), "unavailable"),
    # urllib3, by names
    "urllib3 new connection": (named("NewConnectionError HTTPError"), "timeout_before_sending"),
    "urllib3 name": (
        named("NameResolutionError NewConnectionError HTTPError"),
        "timeout_before_sending",
    ),
    "urllib3 gave up connecting": (
        named("MaxRetryError", reason=named("ConnectTimeoutError")),
        "timeout_before_sending",
    ),
    "urllib3 read timeout": (named("ReadTimeoutError TimeoutError"), "timeout_after_sending"),
    "urllib3 gave up reading": (
        named("MaxRetryError", reason=named("ReadTimeoutError")),
        "timeout_after_sending",
    ),
    "urllib3 gave up at 429": (
        named("MaxRetryError", reason=named("ResponseError", "too many 429 error responses")),
        "rate_limited",
    ),
    "urllib3 gave up at 503": (
        named("MaxRetryError", "too many 503 error responses"),
        "unavailable",
    ),
    # aiohttp, by names
    "aiohttp connect": (named("ClientConnectorError ClientOSError"), "timeout_before_sending"),
    "aiohttp name": (
        named("ClientConnectorDNSError ClientConnectorError"),
        "timeout_before_sending",
    ),
    "aiohttp connect timeout": (
        named("ConnectionTimeoutError ServerTimeoutError ServerConnectionError"),
        "timeout_before_sending",
    ),
    "aiohttp read timeout": (
        named("SocketTimeoutError ServerTimeoutError ServerConnectionError"),
        "timeout_after_sending",
    ),
    "aiohttp hung up": (
        named("ServerDisconnectedError ServerConnectionError ClientConnectionError"),
        "unavailable",
    ),
    "aiohttp payload": (named("ClientPayloadError ClientError"), "unavailable"),
    "aiohttp 403": (named("ClientResponseError", status=403), "forbidden"),
    "aiohttp html": (named("ContentTypeError ClientResponseError", status=200), "bad_output"),
    # botocore
    "aws endpoint": (
        botocore.exceptions.EndpointConnectionError(endpoint_url="x", error="no"),
        "timeout_before_sending",
    ),
    "aws connect timeout": (
        botocore.exceptions.ConnectTimeoutError(endpoint_url="x", error="no"),
        "timeout_before_sending",
    ),
    "aws read timeout": (
        botocore.exceptions.ReadTimeoutError(endpoint_url="x", error="no"),
        "timeout_after_sending",
    ),
    "aws closed": (
        botocore.exceptions.ConnectionClosedError(endpoint_url="x"),
        "unavailable",
    ),
    "aws 404": (aws("NoSuchKey", 404), "not_found"),
    "aws 403": (aws("AccessDenied", 403), "forbidden"),
    "aws 500": (aws("InternalError", 500), "unavailable"),
    "aws 400": (aws("ValidationException", 400), "invalid_arguments"),
    "aws throttled": (aws("ThrottlingException", 400), "rate_limited"),
    "aws slow down": (aws("SlowDown", 503), "rate_limited"),
    # SDKs
    "sdk connection": (anthropic.APIConnectionError(request=REQUEST), "unavailable"),
    "sdk timeout": (anthropic.APITimeoutError(request=REQUEST), "timeout_after_sending"),
    "google": (named("DeadlineExceeded GoogleAPICallError"), "timeout_after_sending"),
    # replies that are something else
    **{
        f"parsed by {what}": (parsed(what), "bad_output")
        for what in ("json", "pydantic", "msgspec", "msgspec type", "utf-8", "httpx")
    },
    # what led to it
    "cause": (caused(ValueError("no"), httpx2.ConnectError("no")), "timeout_before_sending"),
    "cause of cause": (
        caused(KeyError("no"), caused(ValueError("no"), httpx_status(503))),
        "unavailable",
    ),
    "a 404 after a timeout": (caused(httpx_status(404), TimeoutError("no")), "not_found"),
    # several at once: the one of which least is known
    "group": (
        ExceptionGroup("x", [ValueError("no"), httpx2.ReadTimeout("no")]),
        TIMED_OUT,
    ),
    "group of one": (ExceptionGroup("x", [httpx_status(404)]), "not_found"),
    "group in a group": (
        ExceptionGroup("x", [ExceptionGroup("y", [httpx_status(429)])]),
        "rate_limited",
    ),
    "group, one was not sent": (
        ExceptionGroup("x", [ConnectionRefusedError("no"), TimeoutError("no")]),
        TIMED_OUT,
    ),
    "group, one is a bug": (
        ExceptionGroup("x", [ConnectionRefusedError("no"), ValueError("no")]),
        "bug",
    ),
    "group, none was sent": (
        ExceptionGroup("x", [ConnectionRefusedError("no"), httpx2.ConnectError("no")]),
        "timeout_before_sending",
    ),
    "group with a cause": (
        ExceptionGroup("x", [caused(ValueError("no"), ConnectionRefusedError("no"))]),
        "timeout_before_sending",
    ),
    "cause is a group": (
        caused(ValueError("no"), ExceptionGroup("x", [TimeoutError("no")])),
        TIMED_OUT,
    ),
    # of a tool itself
    "tool": (ToolError("no"), "refused"),
    "tool, of its class": (ToolError("no", error_class="stale"), "stale"),
    "tool, of no class": (ToolError("no", error_class="odd"), "bug"),
    "tool, because of a reset": (
        caused(ToolError("no"), ConnectionResetError("no")),
        "unavailable",
    ),
    "tool, because of a 404": (caused(ToolError("no"), httpx_status(404)), "refused"),
    "tool, because of a 429": (caused(ToolError("no"), httpx_status(429)), "rate_limited"),
    "tool, its class before its cause": (
        caused(ToolError("no", error_class="refused"), TimeoutError("no")),
        "refused",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_class_of_an_exception(name: str) -> None:
    """Of every client, each exception has the one class of what it says."""
    error, error_class = TABLE[name]
    assert classify(error) == error_class


STATUS_TABLE: list[tuple[int, ErrorClass]] = [
    (400, "invalid_arguments"),
    (401, "auth"),
    (402, "invalid_arguments"),
    (403, "forbidden"),
    (404, "not_found"),
    (405, "invalid_arguments"),
    (407, "auth"),
    (408, "timeout_after_sending"),
    (409, "conflict"),
    (410, "not_found"),
    (412, "conflict"),
    (413, "too_large"),
    (414, "too_large"),
    (418, "invalid_arguments"),
    (422, "invalid_arguments"),
    (423, "conflict"),
    (425, "rate_limited"),
    (429, "rate_limited"),
    (431, "too_large"),
    (499, "invalid_arguments"),
    (500, "unavailable"),
    (501, "unavailable"),
    (502, "unavailable"),
    (503, "unavailable"),
    (504, "unavailable"),
    (529, "unavailable"),
    (599, "unavailable"),
]


@pytest.mark.parametrize(("status", "error_class"), STATUS_TABLE)
def test_the_class_of_a_status(status: int, error_class: ErrorClass) -> None:
    """A status is of the same class whichever client tells of it, and however it names it."""
    told = [
        httpx_status(status),
        urllib_status(status),
        aws("Odd", status),
        named("ClientResponseError", status=status),
        named("ApiError", status_code=status),
        named("ApiError", code=status),
        named("HTTPError", response=named("Response", status_code=status)),
        named("MaxRetryError", f"too many {status} error responses"),
    ]
    assert {classify(error) for error in told} == {error_class}


def test_every_class_is_told_of_something() -> None:
    """No class of the closed set is without a row, and no row is of any other."""
    seen = {error_class for _, error_class in (*TABLE.values(), *STATUS_TABLE)}
    assert seen == CLASSES == set(get_args(ErrorClass))
    assert set(STATUSES) == {status for status, _ in STATUS_TABLE} & set(STATUSES)
    assert PASSES == TRANSIENT


@pytest.mark.parametrize(
    "name", ["status", "status_code", "code", "response", "errno", "args", "__cause__", "reason"]
)
@pytest.mark.parametrize("base", [Exception, OSError, ExceptionGroup])
def test_an_exception_may_be_broken(name: str, base: type[Exception]) -> None:
    """One whose attributes raise, or are anything, is a bug, and breaks nothing else."""

    def broken(self: object) -> Any:
        raise RuntimeError("not to be asked")

    def mute(self: object) -> str:
        raise RuntimeError("nor this")

    raising = type("Broken", (base,), {name: property(broken), "__str__": mute})
    odd = type("Odd", (base,), {name: [object()]} if name != "__cause__" else {})
    for kind in (raising, odd):
        error = kind("no", [ValueError("no")]) if base is ExceptionGroup else kind("no")
        assert classify(error) == "bug"
        assert retry_after(error) is None


def test_exceptions_that_lead_to_one_another_end() -> None:
    """Circles of causes, and of groups, and thousands of them, are no work without end."""
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert classify(one) == "bug"
    group = ExceptionGroup("x", [one, other])
    one.__cause__ = group
    assert classify(group) == classify(one) == "bug"
    deep: Exception = TimeoutError("no")
    for _ in range(50):
        deep = ExceptionGroup("x", [deep])
    assert classify(deep) == "timeout_after_sending"
    for _ in range(20_000):
        deep = ExceptionGroup("x", [deep])
    assert classify(deep) in {"bug", "timeout_after_sending"}
    assert classify(ExceptionGroup("x", [ValueError(n) for n in range(10_000)])) == "bug"


# ── for how long to leave it alone ──────────────────────────────────────────────────────────────


def ahead(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def told_429(said: str) -> BaseException:
    return httpx_status(429, **{"Retry-After": said})


WAITS: dict[str, tuple[BaseException, float | None]] = {
    "httpx": (told_429("7"), 7.0),
    "httpx 503": (httpx_status(503, **{"retry-after": "0"}), 0.0),
    "urllib": (urllib_status(429, **{"Retry-After": "2.5"}), 2.5),
    "aiohttp": (named("ClientResponseError", headers={"Retry-After": "3"}), 3.0),
    "requests": (named("HTTPError", response=named("Response", headers={"retry-after": 4})), 4.0),
    "aws": (aws("SlowDown", 503, **{"retry-after": "5"}), 5.0),
    "attribute": (named("RateLimited", retry_after=6), 6.0),
    "tool": (ToolError("no", retry_after_s=1.5), 1.5),
    "cause": (caused(ValueError("no"), told_429("8")), 8.0),
    "group": (ExceptionGroup("x", [told_429("9")]), 9.0),  # type: ignore[list-item]
    "a date that is over": (told_429("Wed, 21 Oct 2015 07:28:00 GMT"), 0.0),
    "no header": (httpx_status(429), None),
    "empty": (told_429(""), None),
    "words": (told_429("soon"), None),
    "negative": (told_429("-1"), None),
    "nan": (told_429("nan"), None),
    "inf": (told_429("inf"), None),
    "huge": (told_429("9" * 400), None),
    "no date": (told_429("Mon, 99 Foo 99999 99:99:99 GMT"), None),
    "huge number": (named("RateLimited", retry_after=10**400), None),
    "bool": (named("RateLimited", retry_after=True), None),
    "list": (named("RateLimited", retry_after=[1]), None),
    "headers of a kind": (named("RateLimited", headers=named("Headers", get=3)), None),
    "ValueError": (ValueError("no"), None),
}


@pytest.mark.parametrize("name", WAITS)
def test_how_long_to_leave_it_alone(name: str) -> None:
    """Seconds are told as a number or a date, by a header or an attribute; or not at all."""
    error, wait_s = WAITS[name]
    assert retry_after(error) == wait_s


@pytest.mark.parametrize("zone", [UTC, None])
def test_until_a_date(zone: Any) -> None:
    """A date ahead is so many seconds, whether it says that it is of Greenwich or nothing."""
    said = format_datetime(ahead(3_600).replace(tzinfo=zone), usegmt=zone is UTC)
    wait_s = retry_after(httpx_status(429, **{"Retry-After": said}))
    assert wait_s is not None
    assert 3_400 < wait_s <= 3_600


@given(said=st.text("0159.-+:, eMonJaGTZ\xff\n", max_size=40))
def test_whatever_is_said(said: str) -> None:
    """No header breaks anything: it says how long, or nothing."""
    wait_s = retry_after(named("ApiError", headers={"Retry-After": said}))
    assert wait_s is None or 0 <= wait_s < float("inf")
