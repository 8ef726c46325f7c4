"""Every fault: what the SDK makes of it, that the next attempt is well, and who pays.

The table is checked against `ScriptedModel` too: in process and over HTTP it is the same failure.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, get_args

import anthropic
import httpx2
import msgspec
import pytest
from anthropic.types import CompactionBlockAmbiguousError

from outlast.errors import ModelFailure
from outlast.models import UNBILLED, Request, faults
from outlast.models.script import BATCHED, SLOW, Fault, FaultKind, faulty, once, say, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.testing import simulator
from simulator import scripts
from simulator.asking import HEADERS, TESTS, body, client_of, told

# name                 what the SDK raises in a stream     status  kind               billed
FAULTS = {
    "invalid_request": (anthropic.BadRequestError, 400, "invalid_request", False),
    "invalid_code": (CompactionBlockAmbiguousError, 400, "invalid_request", False),
    "context_too_long": (anthropic.BadRequestError, 400, "invalid_request", False),
    "auth": (anthropic.AuthenticationError, 401, "auth", False),
    "billing": (anthropic.PaymentRequiredError, 402, "spend_limit", False),
    "billing_code": (anthropic.PaymentRequiredError, 402, "spend_limit", False),
    "forbidden": (anthropic.PermissionDeniedError, 403, "auth", False),
    "not_found": (anthropic.NotFoundError, 404, "not_found", False),
    "timed_out": (anthropic.RequestTimeoutError, 408, "timeout", False),
    "conflict": (anthropic.ConflictError, 409, "unavailable", False),
    "conflict_code": (anthropic.ConflictError, 409, "invalid_request", False),
    "too_large": (anthropic.ContentTooLargeError, 413, "too_large", False),
    "unprocessable": (anthropic.UnprocessableEntityError, 422, "invalid_request", False),
    "rate_limited": (anthropic.RateLimitError, 429, "rate_limited", False),
    "rate_limited_bare": (anthropic.RateLimitError, 429, "rate_limited", False),
    "ramp_limit": (anthropic.RateLimitError, 429, "rate_limited", False),
    "spend_limit": (anthropic.RateLimitError, 429, "spend_limit", False),
    "spend_limit_contract": (anthropic.RateLimitError, 429, "spend_limit", False),
    "overloaded": (anthropic.OverloadedError, 529, "overloaded", False),
    "overloaded_code": (anthropic.OverloadedError, 529, "overloaded", False),
    "server_error": (anthropic.InternalServerError, 500, "unavailable", False),
    "server_error_billed": (anthropic.InternalServerError, 500, "unavailable", True),
    "unavailable": (anthropic.ServiceUnavailableError, 503, "unavailable", False),
    "unavailable_code": (anthropic.ServiceUnavailableError, 503, "unavailable", True),
    "gateway_timeout": (anthropic.GatewayTimeoutError, 504, "unavailable", True),
    "reset_after_send": (anthropic.APIConnectionError, 0, "unavailable", True),
    "sse_error": (anthropic.APIStatusError, 200, "cut", True),
    "sse_error_early": (anthropic.APIStatusError, 200, "cut", True),
    "sse_error_code": (anthropic.APIStatusError, 200, "cut", True),
    "cut": (httpx2.RemoteProtocolError, 200, "cut", True),
    "cut_early": (httpx2.RemoteProtocolError, 200, "cut", True),
    "cut_at_once": (httpx2.RemoteProtocolError, 200, "cut", True),
    "cut_unbilled": (httpx2.RemoteProtocolError, 200, "cut", False),
    "truncated": (None, 200, "cut", True),
    "truncated_late": (None, 200, "cut", True),
    "stall": (httpx2.RemoteProtocolError, 200, "cut", True),
    "pings_only": (httpx2.RemoteProtocolError, 200, "cut", True),
    "html": (None, 200, "malformed", False),
    "no_usage": (None, 200, "malformed", False),
    "late": (None, 0, "", True),
    "slow_drip": (None, 0, "", True),
    "plain": (anthropic.OverloadedError, 529, "overloaded", False),
}

NOT_STREAMED = {
    "sse_error": anthropic.OverloadedError,
    "cut": anthropic.APIConnectionError,
    "truncated": anthropic.APIConnectionError,
    "stall": anthropic.APIConnectionError,
    "pings_only": anthropic.APIConnectionError,
    "reset_after_send": anthropic.APIConnectionError,
    "overloaded": anthropic.OverloadedError,
}


def billed(running: simulator.Simulator, question: str) -> list[str]:
    keys = {
        line["key"]: msgspec.json.decode(line["body"])["messages"][0]["content"]
        for line in running.requests()
        if line["attempt"]
    }
    return [line["outcome"] for line in running.bill() if keys[line["key"]] == question]


def request(question: str, attempt: int = 1, model: str = "claude-opus-5-5") -> Request:
    message = msgspec.json.encode({"role": "user", "content": question})
    return Request(
        run_id="r",
        ask_id="a",
        call_id=f"c{attempt}",
        attempt=attempt,
        model=model,
        max_tokens=1_000,
        head=b'"model":"%b"' % model.encode(),
        messages=[message],
    )


def test_the_table_has_every_fault():
    """No fault that has a name is left out, and neither is a kind, but those of batches."""
    assert FAULTS.keys() == scripts.FAULTS.keys()
    assert set(faults.__all__) - BATCHED <= FAULTS.keys()
    assert {fault.kind for fault in scripts.FAULTS.values()} == set(get_args(FaultKind)) - BATCHED


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_befalls_one_attempt_of_a_stream(menu, client, name):
    """The first attempt fails as the SDK would see it from the API, the second is answered."""
    error, status, _kind, is_billed = FAULTS[name]
    if error:
        with pytest.raises(error) as caught, client.messages.stream(**body(name)) as stream:
            stream.until_done()
        if isinstance(caught.value, anthropic.APIStatusError):
            fault = scripts.FAULTS[name]
            assert caught.value.status_code == status
            assert caught.value.type == fault.type
            assert caught.value.error_code == (fault.error_code or None)
            assert caught.value.api_message == fault.message
            assert caught.value.request_id.startswith("req_")
            for header, value in fault.headers.items():
                assert caught.value.response.headers[header] == value
    elif name.startswith("truncated"):
        with client.messages.stream(**body(name)) as stream:
            events = [event.type for event in stream]
        assert "message_stop" not in events
    elif name in ("html", "no_usage"):
        answer = client.messages.with_raw_response.create(**body(name), stream=True)
        kind = {"html": "text/html", "no_usage": "application/json"}[name]
        assert answer.http_response.headers["content-type"] == kind
        answer.http_response.close()
    with client.messages.stream(**body(name)) as stream:
        assert stream.get_final_message().stop_reason == "end_turn"
    kind = scripts.FAULTS[name].kind
    spoilt = [] if kind in SLOW else [kind]
    assert billed(menu, name) == (spoilt if is_billed else []) + ["complete"]


@pytest.mark.parametrize("name", NOT_STREAMED)
def test_a_fault_befalls_a_client_that_does_not_stream(client, name):
    """Without a stream a fault is an error status or a connection that breaks."""
    with pytest.raises(NOT_STREAMED[name]):
        client.messages.create(**body(name, max_tokens=999))
    assert client.messages.create(**body(name, max_tokens=999)).stop_reason == "end_turn"


def test_a_truncated_stream_says_nothing_to_the_sdk(client):
    """The trap of a clean end: no exception, no stop reason, one output token."""
    with client.messages.stream(**body("truncated", max_tokens=998)) as stream:
        message = stream.get_final_message()
    assert (message.stop_reason, message.usage.output_tokens) == (None, 1)


def test_a_late_fault_still_lacks_the_end(menu):
    """However many events a fault lets pass, message_stop is not among them."""
    sent = body("truncated_late", max_tokens=997) | {"stream": True}
    text = httpx2.post(f"{menu.url}/v1/messages", json=sent, headers=HEADERS).text
    assert "message_delta" in text
    assert "message_stop" not in text


@pytest.mark.parametrize("name", FAULTS)
def test_in_process_it_is_the_same_failure(name):
    """`ScriptedModel` raises what the run loop makes of the fault over HTTP, and bills alike."""
    _error, status, kind, is_billed = FAULTS[name]
    model = ScriptedModel(scripts.menu)
    if kind:
        with pytest.raises(ModelFailure) as caught:
            asyncio.run(model.call(request(name), on_part=None))
        failure = caught.value
        assert (failure.kind, failure.status) == (kind, status)
        fault = scripts.FAULTS[name]
        assert failure.error_code == fault.error_code
        assert failure.retry_after_s == {"rate_limited": 7.0, "ramp_limit": 1.5}.get(name)
        # What is billed must be in doubt to the run loop, or it would spend unnoticed.
        assert not (is_billed and kind in UNBILLED)
    else:
        asyncio.run(model.call(request(name), on_part=None))
    assert bool(model.bill) == is_billed
    asyncio.run(model.call(request(name, 2), on_part=None))
    assert model.bill[-1].outcome == "complete"


def test_both_make_the_same_bill_and_the_same_reply(tmp_path):
    """In process and over HTTP: the same blocks, ids, usage, and nano-dollars."""
    model = ScriptedModel(scripts.menu)
    over_http: list[Any] = []
    names = ["hello", "cut", "cut", "plain", "cached", "search-cost", "raw"]
    with simulator.start("simulator.scripts:menu", path=[TESTS], state=tmp_path) as running:
        for name in names:
            call = request(name)
            raw = msgspec.json.decode(call.body()) | {"stream": False}
            try:
                reply = asyncio.run(model.call(call, on_part=None))
            except ModelFailure:
                reply = None
            try:
                answer = httpx2.post(f"{running.url}/v1/messages", json=raw, headers=HEADERS)
            except httpx2.RemoteProtocolError:
                assert reply is None
                continue
            if answer.status_code != 200:
                assert reply is None
                continue
            over_http.append(answer.json())
            assert told(answer.json()["content"]) == told(msgspec.json.decode(reply.content))
            assert told(answer.json()["usage"]) == msgspec.json.decode(reply.usage)
            assert (answer.json()["id"], answer.headers["request-id"]) == (
                reply.message_id,
                reply.request_id,
            )
        bill = [{k: v for k, v in line.items() if k != "at"} for line in running.bill()]
        assert bill == [msgspec.to_builtins(charge) for charge in model.bill]
        assert running.billed_nano == model.billed_nano > 0
    assert len(over_http) == 5


def test_a_reset_is_a_reset_and_not_the_end_of_a_stream(menu):
    """The kernel tells the client that the connection was reset, not that it was closed."""
    asked = msgspec.json.encode(body("reset_after_send", max_tokens=996))
    head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\n"
    head += b"anthropic-version: 2023-06-01\r\n"
    with socket.create_connection(("127.0.0.1", menu.port)) as client:
        client.sendall(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(asked), asked))
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_silent_stream_is_the_clients_to_end(menu):
    """A stall lasts longer than a client that has a read timeout is ready to wait."""
    patient = httpx2.Timeout(20, read=0.2)
    client = anthropic.Anthropic(base_url=menu.url, api_key="k", max_retries=0, timeout=patient)
    with (
        client,
        pytest.raises((httpx2.ReadTimeout, anthropic.APITimeoutError)),
        client.messages.stream(**body("endless", max_tokens=995)) as stream,
    ):
        stream.until_done()


def test_pings_come_for_as_long_as_nothing_else_does(menu):
    """A stream of pings keeps a connection alive, and says nothing."""
    sent = body("pings_only", max_tokens=994) | {"stream": True}
    url, got = f"{menu.url}/v1/messages", bytearray()

    def read() -> None:
        with httpx2.stream("POST", url, json=sent, headers=HEADERS) as answer:
            for chunk in answer.iter_raw():
                got.extend(chunk)

    with pytest.raises(httpx2.RemoteProtocolError):
        read()
    assert got.count(b"event: ping") == 30
    assert got.count(b"event: ") == 31


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_drips_comes_whole_and_in_many_pieces(menu, stream):
    """Nothing is missing, and the pieces end anywhere."""
    sent = body("slow_drip", max_tokens=993 - stream) | {"stream": stream}
    with httpx2.stream("POST", f"{menu.url}/v1/messages", json=sent, headers=HEADERS) as answer:
        pieces = list(answer.iter_raw())
    again = httpx2.post(f"{menu.url}/v1/messages", json=sent, headers=HEADERS)
    whole = b"".join(pieces)  # the script says of one that it is a repeat, in as many bytes
    assert (len(whole), whole[-60:]) == (len(again.content), again.content[-60:])
    assert len(pieces) > 10


def test_rules_are_counted_per_turn_and_attempt(tmp_path):
    """Faults by rule, from a module: two overloads of turn 1, then a cut of turn 2."""
    with (
        simulator.start(
            "simulator.scripts:searcher",
            faults="simulator.scripts:two_faults",
            path=[TESTS],
            state=tmp_path,
        ) as running,
        client_of(running) as client,
    ):
        asked = body("Find it.", tools=[{"name": "search", "input_schema": {"type": "object"}}])
        for _ in range(2):
            with pytest.raises(anthropic.OverloadedError):
                client.messages.create(**asked)
        first = client.messages.create(**asked)
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "x"}
            for block in first.content
            if block.type == "tool_use"
        ]
        asked["messages"] += [
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": results},
        ]
        with pytest.raises(httpx2.RemoteProtocolError), client.messages.stream(**asked) as stream:
            stream.until_done()
        assert client.messages.create(**asked).content[0].text == "Found x and x."
    assert [line["outcome"] for line in running.requests()] == [
        "status",
        "status",
        "complete",
        "cut",
        "complete",
    ]


def test_a_fault_that_spoils_nothing_is_a_mistake_of_the_script():
    """A cut needs a turn to cut; a script that has none is told so."""
    model = ScriptedModel(lambda request, attempt: Fault(kind="cut"))
    with pytest.raises(ValueError, match="there is no turn that 'cut' could spoil"):
        asyncio.run(model.call(request("x"), on_part=None))


def test_a_fault_may_bring_its_turn():
    """`Fault.turn` is what would have been said, and is what is billed."""
    fault = Fault(kind="cut", turn=say("x", usage={"input_tokens": 1, "output_tokens": 2}))
    model = ScriptedModel(faulty(lambda request, attempt: say("y"), once(1, fault)))
    with pytest.raises(ModelFailure):
        asyncio.run(model.call(request("x"), on_part=None))
    assert model.billed_nano == 1 * 4_000 + 2 * 20_000


def test_faults_do_not_change_what_is_said():
    """Attempt 0 asks what is said without faults, so a rule is never asked about it."""
    asked: list[int] = []

    def rule(request: dict[str, Any], attempt: int) -> Fault | None:
        asked.append(attempt)
        return Fault(kind="truncated")

    script = faulty(lambda request, attempt: say(str(turn_number(request))), rule)
    model = ScriptedModel(script)
    with pytest.raises(ModelFailure):
        asyncio.run(model.call(request("x"), on_part=None))
    assert asked == [1]
