"""The Message Batches API as text: the body that sends a batch, and what its results mean.

    requests ──body──▶ POST /v1/messages/batches ──▶ its id, and some time later its end
                       GET  …/results, JSONL     ──results──▶ Reply or ModelFailure, by custom id

https://platform.claude.com/docs/en/build-with-claude/batch-processing: a batch is over within 24
hours, its results can be had for 29 days, and only what succeeded is billed, at half price.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Raw

from outlast.errors import ModelFailure
from outlast.events import FailureKind
from outlast.models import Reply, Request
from outlast.models.stream import whole

MOST: Final = 10_000
"""How many calls are put into one batch; the API takes 100,000, whose results are one answer."""

MOST_BYTES: Final = 100_000_000
"""How many bytes of requests are; the API takes 256 MB."""

ERRORED: Final[Mapping[str, FailureKind]] = {
    "invalid_request_error": "invalid_request",
    "authentication_error": "auth",
    "billing_error": "spend_limit",
    "permission_error": "auth",
    "not_found_error": "not_found",
    "request_too_large": "too_large",
    "rate_limit_error": "rate_limited",
    "overloaded_error": "overloaded",
    "api_error": "errored",
    "timeout_error": "errored",
}
"""What the `error.type` of an errored result means; none is billed.

A type that is not listed is in doubt: what is unknown is never taken for unbilled.
"""


def custom_id(run_id: str, call_id: str) -> str:
    """Return what a call is named in its batch: 1 to 64 letters, digits, `_` or `-`."""
    return sha256(f"{run_id}/{call_id}".encode()).hexdigest()


def body(requests: Mapping[str, Request]) -> bytes:
    """Return the body that sends `requests`, each under its custom id."""
    entries = (
        b'{"custom_id":"%b","params":%b}' % (name.encode(), request.body(b""))
        for name, request in requests.items()
    )
    return b'{"requests":[%b]}' % b",".join(entries)


class Status(msgspec.Struct, frozen=True):
    """What the API says of a batch; every other member is ignored."""

    id: str
    processing_status: str

    @property
    def ended(self) -> bool:
        """Whether its results are there."""
        return self.processing_status == "ended"


class _Result(msgspec.Struct, frozen=True):
    type: str
    message: Raw = Raw(b"null")
    error: Raw = Raw(b"null")


class _Line(msgspec.Struct, frozen=True):
    custom_id: str
    result: _Result


class _Details(msgspec.Struct, frozen=True):
    error_code: str | None = None


class _Error(msgspec.Struct, frozen=True):
    type: str = ""
    message: str = ""
    details: _Details | None = None


class _Errored(msgspec.Struct, frozen=True):
    error: _Error
    request_id: str | None = None


def status(raw: bytes) -> Status:
    """Return what the API says of a batch.

    Raises:
        ModelFailure: `malformed` where that cannot be read.

    """
    try:
        return msgspec.json.decode(raw, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        beginning = raw[:200].decode("utf-8", "replace")
        told = f"a batch was asked for, and this came: {beginning!r}"
        raise ModelFailure("malformed", told, status=200) from error


def results(raw: bytes) -> dict[str, Reply | ModelFailure]:
    """Return what came of each call of a batch that ended, by its custom id.

    Raises:
        ModelFailure: `malformed` where a line is no result, as the last one of a download that was
            cut is none; then nothing is known of any.

    """
    try:
        lines = [msgspec.json.decode(line, type=_Line) for line in raw.splitlines() if line.strip()]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        told = f"the results of a batch were asked for, and a line cannot be read: {error}"
        raise ModelFailure("malformed", told, status=200) from error
    return {line.custom_id: _result(line.result) for line in lines}


def _result(result: _Result) -> Reply | ModelFailure:
    match result.type:
        case "succeeded":
            try:
                return whole(bytes(result.message))
            except ModelFailure as failure:
                return failure
        case "errored":
            return _errored(bytes(result.error))
        case "canceled":
            return ModelFailure("canceled", "the batch was canceled before this call was begun")
        case "expired":
            return ModelFailure("expired", "the batch was over before this call was begun")
        case unknown:
            return ModelFailure("malformed", f"a result of the unknown type {unknown!r}")


def _errored(raw: bytes) -> ModelFailure:
    try:
        told = msgspec.json.decode(raw, type=_Errored)
    except msgspec.DecodeError as error:
        return ModelFailure("malformed", f"an error that cannot be read: {error}")
    code = told.error.details.error_code if told.error.details is not None else ""
    return ModelFailure(
        ERRORED.get(told.error.type, "unavailable"),
        f"{told.error.type}: {told.error.message}",
        error_type=told.error.type,
        error_code=code or "",
        request_id=told.request_id or "",
    )
