"""Claude over the network: what is sent, what comes back, and what each failure means."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from types import SimpleNamespace

import anthropic
import httpx2
import msgspec
import pytest
from anthropic._error_classes import ERROR_CLASSES

from outlast.errors import ModelFailure, UsageError
from outlast.events import FailureKind
from outlast.models import RETRYABLE, UNBILLED, Part, Request
from outlast.models.anthropic import KINDS, AnthropicModel, classify, retry_after_s

KEY = "sk-ant-api03-secret_of-the-test"
REQUEST = Request(
    run_id="r",
    ask_id="a",
    call_id="c",
    attempt=2,
    model="claude-opus-5-5",
    max_tokens=100,
    head='"model":"claude-opus-5-5","system":"é","temperature":1.0'.encode(),
    messages=[b'{"role":"user","content":"hi"}'],
)
EVENTS = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-opus-5-5",
            "content": [],
            "usage": {"input_tokens": 10, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "hello"},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 7},
    },
    {"type": "message_stop"},
]
STREAM = [b"data: " + msgspec.json.encode(event) + b"\n\n" for event in EVENTS]
OVERLOADED = (
    b'event: error\ndata: {"type":"error",'
    b'"error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
)


class Peer:
    """One connection to the test's own server, request already read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self, status: int = 200, kind: str = "text/event-stream", **headers: str):
        lines = [f"HTTP/1.1 {status} Whatever", f"content-type: {kind}", "request-id: req_1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        await self.writer.drain()

    async def chunked(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await self.writer.drain()

    async def whole(self, status: int, body: bytes, kind: str = "application/json", **headers: str):
        await self.head(status, kind, content_length=str(len(body)), **headers)
        self.writer.write(body)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the client hangs up."""
        assert await self.reader.read() == b""


Answer = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer, *, deadline_s: float | None = 30):
    """Serve `answer` on loopback; yields the model that asks there and the requests that came."""
    seen: list[tuple[str, dict[str, str], bytes]] = []
    tasks: list[asyncio.Task] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                seen.append((lines[0], headers, body))
                await answer(Peer(reader, writer))
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = anthropic.AsyncAnthropic(api_key=KEY, base_url=f"http://127.0.0.1:{port}")
    model = AnthropicModel(client, deadline_s=deadline_s)
    try:
        yield SimpleNamespace(model=model, seen=seen, tasks=tasks, port=port)
        await model.aclose()
        await asyncio.wait_for(asyncio.gather(*tasks), 20)  # the server saw every connection end
    finally:
        server.close()
        for task in tasks:
            task.cancel()


def reply_to(answer: Answer, **options):
    """Return the reply, the requests seen, and the parts told."""

    async def main():
        parts: list[Part] = []
        async with serving(answer, **options) as world:
            reply = await world.model.call(REQUEST, on_part=parts.append)
        return reply, world.seen, parts

    return asyncio.run(asyncio.wait_for(main(), 60))


def failure_of(answer: Answer, **options) -> ModelFailure:
    """Return how the call failed, which sent exactly one request."""

    async def main():
        async with serving(answer, **options) as world:
            with pytest.raises(ModelFailure) as failed:
                await world.model.call(REQUEST, on_part=None)
        assert len(world.seen) == 1  # nothing is sent again unseen
        return failed.value

    failure = asyncio.run(asyncio.wait_for(main(), 60))
    assert KEY not in str(failure)
    assert KEY not in failure.message
    return failure


async def answer_well(peer: Peer) -> None:
    await peer.head(transfer_encoding="chunked")
    await peer.chunked(*STREAM, b"")


# ── a call ──────────────────────────────────────────────────────────────────────────────────────


def test_a_call_sends_the_bytes_of_the_request_and_returns_what_came():
    """The body goes out as it was joined, and the reply comes back as it was streamed."""
    reply, seen, parts = reply_to(answer_well)
    ((line, headers, body),) = seen
    assert line == "POST /v1/messages HTTP/1.1"
    assert body == REQUEST.body()
    assert headers["content-type"] == "application/json"
    assert headers["x-stainless-retry-count"] == "0"
    assert headers["authorization"] == f"bearer {KEY}".lower()
    assert bytes(reply.content) == b'[{"type":"text","text":"hello"}]'
    assert bytes(reply.usage) == b'{"input_tokens":10,"output_tokens":7}'
    assert reply.stop_reason == "end_turn"
    assert (reply.request_id, reply.message_id) == ("req_1", "msg_1")
    assert parts == [
        Part(run_id="r", ask_id="a", call_id="c", attempt=2, kind="text", text="hello")
    ]


def test_a_compressed_stream_is_read():
    """The transport's compression is undone before the stream is read."""

    async def answer(peer: Peer) -> None:
        body = gzip.compress(b"".join(STREAM))
        await peer.whole(200, body, "text/event-stream", content_encoding="gzip")

    assert reply_to(answer)[0].stop_reason == "end_turn"


def test_a_reply_counts_from_message_stop_on_whatever_follows():
    """A connection that is cut, or held open, after the last event loses nothing."""

    async def cut(peer: Peer) -> None:
        await peer.head(transfer_encoding="chunked")
        await peer.chunked(*STREAM)
        peer.writer.transport.abort()

    async def held(peer: Peer) -> None:
        await peer.head(transfer_encoding="chunked")
        await peer.chunked(*STREAM)
        await peer.gone()

    assert reply_to(cut)[0].stop_reason == "end_turn"
    assert reply_to(held)[0].stop_reason == "end_turn"


def test_a_connection_is_used_again():
    """Reading a reply to its end leaves the connection fit for the next call."""

    async def main():
        async with serving(answer_well) as world:
            for _ in range(3):
                await world.model.call(REQUEST, on_part=None)
        assert len(world.seen) == 3
        assert len(world.tasks) == 1

    asyncio.run(asyncio.wait_for(main(), 60))


def test_middleware_of_a_given_client_sees_the_call():
    """A given client's own middleware runs, once per attempt, and errors mean what they mean."""
    statuses: list[int] = []

    async def watch(request, call_next):
        response = await call_next(request)
        statuses.append(response.http_response.status_code)
        return response

    async def answer(peer: Peer) -> None:
        if statuses:
            await peer.whole(529, b"{}")
        else:
            await answer_well(peer)

    async def main():
        async with serving(answer) as world:
            client = anthropic.AsyncAnthropic(
                api_key=KEY, base_url=f"http://127.0.0.1:{world.port}", middleware=[watch]
            )
            model = AnthropicModel(client)
            assert (await model.call(REQUEST, on_part=None)).stop_reason == "end_turn"
            with pytest.raises(ModelFailure, match="overloaded"):
                await model.call(REQUEST, on_part=None)
            await model.aclose()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert statuses == [200, 529]


def test_a_middleware_may_read_the_reply_first():
    """A reply that a middleware has read to its end is a reply all the same."""
    lengths: list[int] = []

    async def read(request, call_next):
        response = await call_next(request)
        lengths.append(len(await response.http_response.aread()))
        return response

    async def main():
        async with serving(answer_well) as world:
            client = anthropic.AsyncAnthropic(
                api_key=KEY, base_url=f"http://127.0.0.1:{world.port}", middleware=[read]
            )
            model = AnthropicModel(client)
            reply = await model.call(REQUEST, on_part=None)
            await model.aclose()
        return reply

    reply = asyncio.run(asyncio.wait_for(main(), 60))
    assert bytes(reply.content) == b'[{"type":"text","text":"hello"}]'
    assert lengths == [len(b"".join(STREAM))]


def test_cancelling_closes_the_connection_and_passes_through():
    """A cancelled call is cancelled, not failed, and the server sees the connection end."""

    async def main():
        begun = asyncio.Event()

        async def answer(peer: Peer) -> None:
            await peer.head(transfer_encoding="chunked")
            await peer.chunked(*STREAM[:3])
            await peer.gone()

        async with serving(answer) as world:
            call = asyncio.create_task(world.model.call(REQUEST, on_part=lambda part: begun.set()))
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.wait_for(asyncio.gather(*world.tasks), 20)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_stream_that_is_given_up_is_closed():
    """What is left of a broken stream is not read: the server sees the connection end."""

    async def answer(peer: Peer) -> None:
        await peer.head(transfer_encoding="chunked")
        await peer.chunked(b'data: {"type":"unheard_of"}\n\n')
        await peer.gone()

    async def main():
        async with serving(answer) as world:
            with pytest.raises(ModelFailure, match="unheard_of"):
                await world.model.call(REQUEST, on_part=None)
            await asyncio.wait_for(asyncio.gather(*world.tasks), 20)  # while the client is open

    asyncio.run(asyncio.wait_for(main(), 60))


# ── failures over the wire ──────────────────────────────────────────────────────────────────────


def told(error_type: str, code: str = "", message: str = "no") -> bytes:
    error: dict[str, object] = {"type": error_type, "message": message}
    if code:
        error["details"] = {"error_code": code}
    return json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "wait_s"),
    [
        (400, told("invalid_request_error"), {}, "invalid_request", None),
        (400, told("invalid_request_error", "request_body_timeout"), {}, "unreachable", None),
        (401, told("authentication_error"), {}, "auth", None),
        (402, told("billing_error"), {}, "spend_limit", None),
        (403, told("permission_error"), {}, "auth", None),
        (404, told("not_found_error"), {}, "not_found", None),
        (408, told("timeout_error"), {}, "timeout", None),
        (409, told("conflict_error"), {}, "unavailable", None),
        (409, told("conflict_error", "scan_pending"), {}, "invalid_request", None),
        (413, told("request_too_large"), {}, "too_large", None),
        (422, told("invalid_request_error"), {}, "invalid_request", None),
        (418, b"", {}, "invalid_request", None),
        (429, told("rate_limit_error"), {"retry_after": "7"}, "rate_limited", 7.0),
        (429, told("rate_limit_error"), {"retry_after_ms": "250"}, "rate_limited", 0.25),
        (429, told("rate_limit_error", "ramp_limit_exceeded"), {}, "rate_limited", None),
        (429, told("rate_limit_error", "enforced_spend_limit_reached"), {}, "spend_limit", None),
        (429, told("rate_limit_error", "contract_spend_limit_reached"), {}, "spend_limit", None),
        (429, b"<html>slow down</html>", {"retry_after": "3"}, "rate_limited", 3.0),
        (500, told("api_error"), {}, "unavailable", None),
        (502, b"<html>bad gateway</html>", {}, "unavailable", None),
        (503, told("api_error"), {"retry_after": "2"}, "unavailable", 2.0),
        (504, told("timeout_error"), {}, "unavailable", None),
        (529, told("overloaded_error"), {}, "overloaded", None),
        (529, told("overloaded_error", "compaction_unavailable"), {}, "overloaded", None),
        (599, b"", {}, "unavailable", None),
        (304, b"", {}, "malformed", None),
    ],
)
def test_every_answer_with_an_error_status_means_one_thing(status, body, headers, kind, wait_s):
    """The status and the error code decide, never the text; one request was sent."""

    async def answer(peer: Peer) -> None:
        await peer.whole(status, body, **headers)

    failure = failure_of(answer)
    assert (failure.kind, failure.status) == (kind, status)
    assert failure.retry_after_s == wait_s
    assert failure.request_id == "req_1"
    if body.startswith(b"{"):
        error = json.loads(body)["error"]
        assert failure.error_type == error["type"]
        assert failure.error_code == error.get("details", {}).get("error_code", "")
    assert str(status) in failure.message


async def cut_in_the_stream(peer: Peer) -> None:
    await peer.head(transfer_encoding="chunked")
    await peer.chunked(*STREAM[:3])
    peer.writer.transport.abort()


async def truncate_the_stream(peer: Peer) -> None:
    await peer.head(transfer_encoding="chunked")
    await peer.chunked(*STREAM[:5], b"")


async def break_off_with_an_error(peer: Peer) -> None:
    await peer.head(transfer_encoding="chunked")
    await peer.chunked(*STREAM[:2], OVERLOADED, b"")


async def answer_with_a_page(peer: Peer) -> None:
    await peer.whole(200, b"<html>Please log in</html>", "text/html")


async def answer_with_json(peer: Peer) -> None:
    await peer.whole(200, b'{"type":"message"}')


async def answer_with_garbage(peer: Peer) -> None:
    await peer.whole(200, b"data: {\n\n", "text/event-stream")


async def answer_with_false_compression(peer: Peer) -> None:
    await peer.whole(200, b"plain", "text/event-stream", content_encoding="gzip")


async def hang_up_before_an_answer(peer: Peer) -> None:
    peer.writer.transport.abort()


async def answer_in_another_protocol(peer: Peer) -> None:
    peer.writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    await peer.writer.drain()
    peer.writer.transport.abort()


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (cut_in_the_stream, "cut", "RemoteProtocolError|ReadError"),
        (truncate_the_stream, "cut", "before message_stop"),
        (break_off_with_an_error, "cut", "Overloaded"),
        (answer_with_a_page, "malformed", "text/html.*Please log in"),
        (answer_with_json, "malformed", "application/json"),
        (answer_with_garbage, "malformed", "cannot be read"),
        (answer_with_false_compression, "malformed", "DecodingError"),
        (hang_up_before_an_answer, "unavailable", "RemoteProtocolError|ReadError"),
        (answer_in_another_protocol, "unavailable", "RemoteProtocolError|ReadError"),
    ],
)
def test_a_reply_that_does_not_come_whole_is_in_doubt(answer, kind, message):
    """Once the request was sent, whatever goes wrong may have been billed, and is worth a retry."""
    failure = failure_of(answer)
    assert failure.kind == kind
    assert failure.kind not in UNBILLED
    assert failure.kind in RETRYABLE
    assert re.search(message, failure.message)
    begun = kind != "unavailable"
    assert failure.request_id == ("req_1" if begun else "")
    assert failure.status == (200 if begun else 0)
    if answer is break_off_with_an_error:
        assert failure.error_type == "overloaded_error"


@pytest.mark.parametrize("sent", [None, 0, 3])
def test_a_call_ends_at_its_deadline(sent):
    """A server that keeps silent, or keeps sending pings, is left when the deadline is over."""

    async def answer(peer: Peer) -> None:
        if sent is None:
            await peer.gone()
            return
        await peer.head(transfer_encoding="chunked")
        await peer.chunked(*STREAM[:sent])
        while True:  # the read timeout never fires: only the client can end this
            await peer.chunked(b'event: ping\ndata: {"type":"ping"}\n\n')
            await asyncio.sleep(0.01)

    async def until_gone(peer: Peer) -> None:
        try:
            await answer(peer)
        except ConnectionError:
            raise asyncio.IncompleteReadError(b"", None) from None

    failure = failure_of(until_gone, deadline_s=0.3)
    assert failure.kind == "timeout"
    assert "0.3 s" in failure.message
    assert failure.kind not in UNBILLED


def test_a_client_with_a_short_read_timeout_times_out():
    """The client's own timeouts are kept, and mean the same."""

    async def main():
        async with serving(Peer.gone) as world:
            client = anthropic.AsyncAnthropic(
                api_key=KEY, base_url=f"http://127.0.0.1:{world.port}", timeout=0.2
            )
            model = AnthropicModel(client)
            with pytest.raises(ModelFailure) as failed:
                await model.call(REQUEST, on_part=None)
            await model.aclose()
        assert len(world.seen) == 1
        return failed.value

    failure = asyncio.run(asyncio.wait_for(main(), 60))
    assert (failure.kind, failure.status) == ("timeout", 0)


def called(**options: object) -> ModelFailure:
    """Return how a call over a client of these options fails, none of which reaches a server."""

    async def main():
        client = anthropic.AsyncAnthropic(**{"api_key": KEY, **options}) if options else None
        with pytest.raises(ModelFailure) as failed:
            await AnthropicModel(client).call(REQUEST, on_part=None)
        return failed.value

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_a_refused_connection_is_unbilled_and_worth_a_retry():
    """Where no connection was made, nothing can have been billed."""

    async def closed_port() -> int:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return port

    failure = called(base_url=f"http://127.0.0.1:{asyncio.run(closed_port())}")
    assert failure.kind == "unreachable"
    assert "ConnectError" in failure.message
    assert failure.kind in UNBILLED & RETRYABLE


@pytest.mark.parametrize("base_url", ["ftp://127.0.0.1", "127.0.0.1:8000"])
def test_an_address_that_is_none_is_final(base_url):
    """A base URL that cannot be called is not tried again."""
    failure = called(base_url=base_url)
    assert failure.kind == "not_found"
    assert failure.kind in UNBILLED - RETRYABLE


@pytest.mark.parametrize("key", ["sk-ant-one\nsk-ant-two", "sk-ant-\N{PILE OF POO}", "sk-ant-a\0"])
def test_a_key_that_cannot_be_sent_is_said_without_showing_it(key):
    """A pasted line break is the usual mistake, and the key is not repeated."""
    failure = called(api_key=key, base_url="http://127.0.0.1:9")
    assert failure.kind == "auth"
    assert "line break" in failure.message
    assert "sk-ant" not in failure.message


def test_without_a_key_the_message_says_what_to_do(monkeypatch, tmp_path):
    """No key is found: the sentence names the variable and the option, and nothing is sent."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where the SDK would find a profile
    failure = called()
    assert failure.kind == "auth"
    assert "set ANTHROPIC_API_KEY" in failure.message
    assert failure.kind in UNBILLED - RETRYABLE


def test_the_environment_is_honoured_as_the_sdk_does(monkeypatch):
    """Key, address and headers come from the environment; each loop has its own connections."""

    async def main():
        async with serving(answer_well) as world:
            monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
            monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{world.port}")
            monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Tenant: acme")
            await model.call(REQUEST, on_part=None)
            await asyncio.to_thread(lambda: asyncio.run(in_a_loop_of_its_own()))
            await model.call(REQUEST, on_part=None)
            await model.aclose()
        return world

    async def in_a_loop_of_its_own() -> None:
        await model.call(REQUEST, on_part=None)
        await model.aclose()

    model = AnthropicModel()
    world = asyncio.run(asyncio.wait_for(main(), 60))
    assert [headers["x-tenant"] for _, headers, _ in world.seen] == ["acme"] * 3
    assert len(world.tasks) == 2
    assert world.seen[0][1]["authorization"] == f"bearer {KEY}".lower()


def test_a_key_that_a_server_repeats_does_not_reach_the_message():
    """Gateways echo headers in their errors; a journal keeps messages for ever."""

    async def main():
        async def answer(peer: Peer) -> None:
            header = world.seen[-1][1]["authorization"]
            await peer.whole(401, told("authentication_error", message=f"bad key {header}"))

        async with serving(answer) as world:
            for key in (KEY, "a-key-of-another-form"):
                client = anthropic.AsyncAnthropic(
                    api_key=key, base_url=f"http://127.0.0.1:{world.port}"
                )
                model = AnthropicModel(client)
                with pytest.raises(ModelFailure) as failed:
                    await model.call(REQUEST, on_part=None)
                await model.aclose()
                for said in (str(failed.value), failed.value.message):
                    assert "bad key bearer" in said
                    assert key not in said

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_key_too_short_to_be_one_blots_out_no_words():
    """A stand-in such as "x" is no secret; taken out, it would take letters out of every word."""

    async def main(key: str) -> str:
        async def answer(peer: Peer) -> None:
            await peer.whole(400, told("invalid_request_error", message="exceeds x allowance"))

        async with serving(answer) as world:
            client = anthropic.AsyncAnthropic(
                api_key=key, base_url=f"http://127.0.0.1:{world.port}"
            )
            model = AnthropicModel(client)
            with pytest.raises(ModelFailure) as failed:
                await model.call(REQUEST, on_part=None)
            await model.aclose()
        return failed.value.message

    for key, said in (
        ("x", "exceeds x allowance"),
        ("exceeds", "exceeds x allowance"),
        ("allowance", "exceeds x ***"),
    ):
        assert said in asyncio.run(asyncio.wait_for(main(key), 60))


def test_a_synchronous_client_is_refused():
    """A client that would block the loop is refused where it is given."""
    with pytest.raises(UsageError, match="AsyncAnthropic"):
        AnthropicModel(anthropic.Anthropic(api_key=KEY))


def test_importing_the_model_does_not_import_the_sdk():
    """The SDK takes over a second to import, and is loaded by the first call."""
    script = "import sys, outlast.models.anthropic; sys.exit('anthropic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


# ── the table is complete ───────────────────────────────────────────────────────────────────────

# What the SDK knows in version 2.12.  A code that is new there fails the test below until
# somebody has decided what it means for the bill.
CODES = {
    "invalid_request": {
        400: """already_member available_tools_limit_exceeded bundle_attachment_not_supported
            bundle_on_call cannot_invite_emails_with_unverified_domains cannot_remove_last_member
            cannot_sign_out_primary_owner cannot_sign_out_self claude_code_key_creator_not_member
            claude_code_version_too_old cmek_feature_unsupported cmek_key_disabled
            cmek_key_network_blocked compaction_block_ambiguous compaction_block_misplaced
            compaction_content_mismatch compaction_incomplete_turn compaction_nothing_to_summarize
            compaction_signature_invalid compaction_too_many_tool_references
            compaction_tool_changes_mismatch email_domain_not_allowed environment_archived
            external_key_in_workspace_policy external_key_validation_failed
            external_key_validation_timed_out file_not_downloadable image_dimensions_too_large
            invalid_config_type_change invalid_metadata invite_already_exists key_profile_mismatch
            org_api_key_limit_exceeded org_member_limit_exceeded organization_not_enrolled_in_beta
            organization_on_hold organization_type_not_supported parent_organization_required
            rbac_group_grants_owner_access rbac_group_order_limit_exceeded
            rbac_group_owner_access_unconfirmed request_body_encoding_invalid
            request_body_encoding_unsupported scan_failed settings_document_limit_exceeded
            settings_history_limit_exceeded slack_channel_set_up_settings_refused
            storage_quota_exceeded thread_already_continued thread_continue_in_flight
            thread_fingerprint_mismatch thread_unsupported_request tool_name_conflict
            tool_reference_unresolved unsupported_charset user_profile_not_found
            user_profile_required workspace_api_key_limit_exceeded workspace_member_limit_exceeded
            workspace_policy_violation""",
        409: """concurrent_membership_change external_key_changed plugin_name_taken scan_pending
            skill_name_taken skill_read_blocked_undecryptable
            slack_channel_set_up_settings_conflict""",
        412: "heartbeat_precondition_failed",
        422: "",
        431: "",
    },
    "unreachable": {400: "request_body_timeout"},
    "auth": {
        401: "",
        403: """api_key_scope_missing cannot_sign_out_managed_member
            cannot_sign_out_membership_admin cannot_sign_out_owner cannot_sign_out_privileged_member
            claude_tag_writes_not_enabled compliance_configuration_restricted
            environment_create_disabled environment_update_disabled
            organization_level_scoped_api_key_required sandbox_egress_restricted
            spend_limits_admin_api_writes_not_enabled user_profile_billing_not_authorized
            user_profile_not_billable""",
    },
    "spend_limit": {
        402: "linked_organization_billing_unavailable linked_organization_spend_limit_reached",
        429: "contract_spend_limit_reached enforced_spend_limit_reached",
    },
    "not_found": {
        404: """environment_not_found file_expired rbac_group_managed_settings_not_found
            rbac_group_not_found rbac_role_not_found slack_channel_set_up_environment_not_found
            thread_not_found""",
    },
    "too_large": {413: "request_body_too_large_after_decoding"},
    "rate_limited": {429: "ramp_limit_exceeded"},
    "overloaded": {529: "compaction_unavailable"},
    "timeout": {408: ""},
    "cut": {499: ""},
    "unavailable": {
        501: "",
        503: "cmek_context_unavailable cmek_key_unreachable registration_pending",
        504: "",
    },
}
MEANING = {
    (status, code): kind
    for kind, by_status in CODES.items()
    for status, codes in by_status.items()
    for code in codes.split()
}
BARE = {
    400: "invalid_request",
    401: "auth",
    402: "spend_limit",
    403: "auth",
    404: "not_found",
    408: "timeout",
    409: "unavailable",
    412: "invalid_request",
    413: "too_large",
    422: "invalid_request",
    429: "rate_limited",
    431: "invalid_request",
    499: "cut",
    501: "unavailable",
    503: "unavailable",
    504: "unavailable",
    529: "overloaded",
}


def answered(status: int, code: str | None) -> httpx2.Response:
    details = {"details": {"error_code": code}} if code else {}
    body = {"type": "error", "error": {"type": "some_error", "message": "no", **details}}
    return httpx2.Response(status, json=body, request=httpx2.Request("POST", "http://localhost"))


@pytest.mark.parametrize(("status", "code"), ERROR_CLASSES, ids=str)
def test_every_error_code_of_the_sdk_has_a_meaning(status, code):
    """Status and code of every error class the SDK has were looked at and decided on."""
    response = answered(status, code)
    error = ERROR_CLASSES[status, code]("no", response=response, body=response.json())
    expected = BARE[status] if code is None else MEANING[status, code]
    assert classify(error).kind == expected


def test_no_error_code_is_listed_that_the_sdk_does_not_have():
    """The list above is the SDK's, no more."""
    assert set(MEANING) == {key for key in ERROR_CLASSES if key[1] is not None}


def exported(module) -> list[type[BaseException]]:
    return [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, BaseException)
    ]


SDK_CLASSES = sorted(set(exported(anthropic)), key=lambda cls: cls.__name__)
TRANSPORT_CLASSES = exported(httpx2)
NO_RESPONSE = [cls for cls in SDK_CLASSES if not issubclass(cls, anthropic.APIStatusError)]


@pytest.mark.parametrize("cls", SDK_CLASSES + TRANSPORT_CLASSES, ids=lambda cls: cls.__name__)
def test_every_exception_class_is_in_the_table(cls):
    """Each class has a row of its own, or a status that has one."""
    if issubclass(cls, anthropic.APIStatusError):
        status = getattr(cls, "status_code", None)
        assert status is None or status in KINDS
    elif cls is not httpx2.HTTPStatusError:
        assert cls.__name__ in KINDS


def test_every_row_of_the_table_is_of_something():
    """A row whose class or status no longer exists would hide what took its place."""
    names = {cls.__name__ for cls in SDK_CLASSES + TRANSPORT_CLASSES}
    names |= {"TimeoutError", "OSError", "4xx", "5xx", "xxx"}
    assert {key for key in KINDS if isinstance(key, str)} <= names
    assert {key for key in KINDS if isinstance(key, tuple)} <= set(ERROR_CLASSES) | {(409, "*")}
    assert set(KINDS.values()) <= set(FailureKind.__args__)


SENT_NOTHING = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}
CANNOT_BE_SENT = {"InvalidURL", "UnsupportedProtocol"}


def raised(cls: type[BaseException]) -> BaseException:
    error = cls.__new__(cls)
    Exception.__init__(error, "what happened")
    return error


@pytest.mark.parametrize(
    "cls",
    [cls for cls in TRANSPORT_CLASSES if cls is not httpx2.HTTPStatusError],
    ids=lambda cls: cls.__name__,
)
def test_only_what_fails_before_sending_is_unbilled(cls):
    """Bare or wrapped by the SDK, a transport error is unbilled only where nothing was sent."""
    wrapped = anthropic.APIConnectionError(request=httpx2.Request("POST", "http://localhost"))
    wrapped.__cause__ = raised(cls)
    for error in (raised(cls), wrapped):
        failure = classify(error)
        assert (failure.kind in UNBILLED) == (cls.__name__ in SENT_NOTHING | CANNOT_BE_SENT)
        assert (failure.kind == "unreachable") == (cls.__name__ in SENT_NOTHING)
        assert "what happened" in failure.message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError("t"), "timeout"),
        (ConnectionResetError("r"), "cut"),
        (RuntimeError("r"), "bug"),
        (type("ReadError", (Exception,), {"__module__": "elsewhere"})("r"), "bug"),
        (type("Own", (httpx2.ConnectError,), {})("r"), "unreachable"),
        (ExceptionGroup("g", [httpx2.ConnectError("c")]), "bug"),
        (anthropic.AnthropicError("a"), "bug"),
        (anthropic.IdentityTokenFileError("a"), "auth"),
        (anthropic.RetryableError("a"), "unavailable"),
    ],
)
def test_what_nobody_listed_is_in_doubt(error, kind):
    """An exception nobody foresaw is a bug, never unbilled; a subclass means what its base does."""
    assert classify(error).kind == kind
    assert kind in {"unreachable", "auth"} or kind not in UNBILLED


def test_an_unknown_cause_of_a_connection_error_is_in_doubt():
    """Whatever a transport raises while sending may have been sent."""
    error = anthropic.APIConnectionError(request=httpx2.Request("POST", "http://localhost"))
    assert classify(error).kind == "unavailable"
    error.__cause__ = RuntimeError("transport of my own")
    assert classify(error).kind == "unavailable"
    assert "transport of my own" in classify(error).message


def test_an_error_status_inside_a_stream_is_in_doubt():
    """The SDK raises such an error with status 200, whatever its type."""
    response = httpx2.Response(200, request=httpx2.Request("POST", "http://localhost"))
    body = {"type": "error", "error": {"type": "rate_limit_error", "message": "m"}}
    failure = classify(anthropic.APIStatusError("m", response=response, body=body))
    assert (failure.kind, failure.error_type) == ("cut", "rate_limit_error")


def test_a_failure_is_what_it_is():
    """What was classified once is passed on."""
    failure = ModelFailure("cut", "m")
    assert classify(failure) is failure


def test_unbilled_and_retryable_are_kinds():
    """The two sets name kinds that exist, and a crash is in doubt and repeated."""
    kinds = set(FailureKind.__args__)
    assert kinds >= UNBILLED
    assert kinds >= RETRYABLE
    in_doubt = RETRYABLE - UNBILLED
    assert in_doubt == {"unavailable", "cut", "timeout", "malformed", "crash"}
    transient = RETRYABLE & UNBILLED
    of_batches = {"errored", "canceled", "expired"}
    assert transient == {"rate_limited", "overloaded", "unreachable", *of_batches}


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": " 3 "}, 3.0),
        ({"retry-after": "4233600"}, 4_233_600.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Fri, 99 Foo 9999 99:99:99 GMT"}, None),
    ],
)
def test_the_wait_is_what_the_headers_say(headers, wait_s):
    """Seconds, milliseconds or a date; what makes no sense is no wait; nothing is capped here."""
    assert retry_after_s(httpx2.Headers(headers), now=NOW) == wait_s
