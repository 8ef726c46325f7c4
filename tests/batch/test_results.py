"""What the API says of a batch, read: replies verbatim, and failures as they count for the bill."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from outlast.errors import ModelFailure
from outlast.events import RETRYABLE, UNBILLED, FailureKind
from outlast.models import Reply
from outlast.models.batches import ERRORED, custom_id, results, status

MESSAGE = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"claude-opus-5-5","content":'
    b'[{"type":"zebra","id":5,"stripes":[1.0,1e5,-0.0,12345678901234567890]},'
    b'{"type":"text","text":"\\u00e4\\/","citations":null}],"stop_reason":"end_turn",'
    b'"stop_sequence":null,"stop_details":null,"container":{"id":"c"},"usage":'
    b'{"input_tokens":10,"output_tokens":5,"service_tier":"batch","news":1.50}}'
)


def came(result: bytes) -> Any:
    (one,) = results(b'{"custom_id":"a","result":%b}\n' % result).values()
    return one


def succeeded(message: bytes) -> Any:
    return came(b'{"type":"succeeded","message":%b}' % message)


def test_a_reply_is_kept_as_it_came() -> None:
    """Unknown blocks and fields, escapes and the spelling of numbers are those of the result."""
    reply = succeeded(MESSAGE)
    assert isinstance(reply, Reply)
    assert bytes(reply.content) in MESSAGE
    assert bytes(reply.usage) in MESSAGE
    assert (reply.message_id, reply.model, reply.stop_reason) == (
        "msg_1",
        "claude-opus-5-5",
        "end_turn",
    )
    assert json.loads(bytes(reply.extra)) == {"container": {"id": "c"}}


@pytest.mark.parametrize(
    "message",
    [
        b"{}",
        b"null",
        MESSAGE.replace(b'"input_tokens":10,', b""),
        MESSAGE.replace(b'"content":[', b'"content":5,"c":['),
        MESSAGE.replace(b'"stop_reason":"end_turn"', b'"stop_reason":5'),
    ],
)
def test_a_message_that_is_none_is_in_doubt(message: bytes) -> None:
    """What was billed, and cannot be read, may not be taken for an answer, nor for free."""
    failure = succeeded(message)
    assert isinstance(failure, ModelFailure)
    assert failure.kind == "malformed"


@pytest.mark.parametrize("kind", [*ERRORED, "zebra_error", ""])
def test_an_errored_entry(kind: str) -> None:
    """Each type of error has its kind, which is unbilled; one that nobody knows is in doubt."""
    error = {"type": kind, "message": "no", "details": {"error_code": "c"}}
    told = {"type": "errored", "error": {"type": "error", "error": error, "request_id": "req_1"}}
    failure = came(json.dumps(told).encode())
    assert failure.kind == ERRORED.get(kind, "unavailable")
    assert (failure.kind in UNBILLED) == (kind in ERRORED)
    assert (failure.error_type, failure.error_code, failure.request_id) == (kind, "c", "req_1")


@pytest.mark.parametrize(("kind"), ["expired", "canceled"])
def test_an_entry_that_was_not_begun(kind: str) -> None:
    """It is surely not billed, and worth another attempt."""
    failure = came(b'{"type":"%b"}' % kind.encode())
    assert failure.kind == kind
    assert kind in get_args(FailureKind)
    assert kind in UNBILLED & RETRYABLE


@pytest.mark.parametrize(
    "result", [b'{"type":"paused"}', b'{"type":"errored"}', b'{"type":"errored","error":5}']
)
def test_a_result_that_nobody_knows_is_in_doubt(result: bytes) -> None:
    """What is unknown is neither an answer nor free."""
    assert came(result).kind == "malformed"


@pytest.mark.parametrize(
    "raw", [b"<html>", b'{"custom_id":"a"}', b'{"custom_id":"a","result":{"type":"exp', b"\xff"]
)
def test_a_torn_download_says_nothing(raw: bytes) -> None:
    """A download that was cut is no reason to believe that anything is missing: it is repeated."""
    whole = b'{"custom_id":"b","result":{"type":"expired"}}\n'
    with pytest.raises(ModelFailure) as failed:
        results(whole + raw)
    assert failed.value.kind in RETRYABLE


@pytest.mark.parametrize(
    ("told", "ended"), [("in_progress", False), ("canceling", False), ("ended", True)]
)
def test_a_status(told: str, ended: bool) -> None:  # noqa: FBT001
    """A batch has results when it has ended, and not before."""
    read = status(b'{"id":"msgbatch_1","processing_status":"%b","zebra":1}' % told.encode())
    assert (read.id, read.ended) == ("msgbatch_1", ended)
    with pytest.raises(ModelFailure, match="a batch was asked for"):
        status(b"<html>")


def test_a_custom_id_is_one() -> None:
    """It has 64 characters of those that the API takes, and is another one for every attempt."""
    names = {custom_id("r/ä", f"ask-1.m{number}") for number in range(100)}
    assert len(names) == 100
    assert all(len(name) == 64 and name.isalnum() for name in names)
