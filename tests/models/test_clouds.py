"""Claude in other clouds: the same request, the same reply, and what goes wrong there."""

from __future__ import annotations

import asyncio
import json
import struct
from base64 import b64encode
from binascii import crc32
from collections.abc import AsyncIterator, Callable, Iterable

import anthropic
import httpx2
import msgspec
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

import outlast
from outlast.errors import ModelFailure
from outlast.models import RETRYABLE, UNBILLED, Reply, Request
from outlast.models.anthropic import AnthropicModel

AWS_KEY, AWS_SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/EXAMPLEKEY"
KEY = "key-of-the-test"
USER = {"anthropic-user-profile-id": "uprof_1"}


def aws(**more):
    return {"aws_access_key": AWS_KEY, "aws_secret_key": AWS_SECRET, "aws_region": "eu-west-1"} | (
        more
    )


CLOUDS = {
    # name: how its client is made, given the transport
    "bedrock": lambda **more: anthropic.AsyncAnthropicBedrock(**aws(), **more),
    "bedrock-key": lambda **more: anthropic.AsyncAnthropicBedrock(
        api_key=KEY, aws_region="eu-west-1", **more
    ),
    "bedrock-profile": lambda **more: anthropic.AsyncAnthropicBedrock(
        **aws(), default_headers=USER, **more
    ),
    "mantle": lambda **more: anthropic.AsyncAnthropicBedrockMantle(**aws(), **more),
    "mantle-profile": lambda **more: anthropic.AsyncAnthropicBedrockMantle(
        api_key=KEY, aws_region="eu-west-1", default_headers=USER, **more
    ),
    "vertex": lambda **more: anthropic.AsyncAnthropicVertex(
        region="europe-west1", project_id="acme", access_token=KEY, **more
    ),
    "foundry": lambda **more: anthropic.AsyncAnthropicFoundry(
        base_url="https://acme.example/anthropic/", api_key=KEY, **more
    ),
    "foundry-token": lambda **more: anthropic.AsyncAnthropicFoundry(
        resource="acme", azure_ad_token_provider=lambda: KEY, **more
    ),
    "aws": lambda **more: anthropic.AsyncAnthropicAWS(**aws(workspace_id="w"), **more),
    "google-cloud": lambda **more: anthropic.AsyncAnthropicGoogleCloud(
        project="acme", workspace_id="w", token_provider=lambda: KEY, **more
    ),
}
MODELS = {"bedrock": "eu.anthropic.claude-opus-5-5-v1:0", "vertex": "claude-opus-5-5@20260601"}
FRAMED = frozenset({"bedrock", "bedrock-key", "bedrock-profile"})
SIGNED = {"bedrock": "bedrock", "mantle": "bedrock-mantle", "aws": "aws-external-anthropic"}

EVENTS = [
    (
        '{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
        '"model":"claude-opus-5-5","content":[],"usage":{"input_tokens":10,"output_tokens":1}}}'
    ),
    '{"type":"content_block_start","index":0,"content_block":{"type":"hologram","x":1.50}}',
    '{"type":"content_block_stop","index":0}',
    '{"type":"ping"}',
    '{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}',
    '{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"h\\u00e9"}}',
    '{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"llo ☂"}}',
    '{"type":"content_block_stop","index":1}',
    (
        '{"type":"message_delta","delta":{"stop_reason":"end_turn","later":[1e2]},'
        '"usage":{"output_tokens":7,"new":{"a":0.10}}}'
    ),
    '{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":10}}',
]
CONTENT = '[{"type":"hologram","x":1.50},{"type":"text","text":"h\\u00e9llo ☂"}]'.encode()


def request(model: str = "claude-opus-5-5", more: str = "") -> Request:
    return Request(
        run_id="r",
        ask_id="a",
        call_id="c",
        attempt=1,
        model=model,
        max_tokens=100,
        head=f'"model":"{model}","system":"é","thinking":{{"type":"adaptive"}}{more}'.encode(),
        messages=[
            b'{"role":"user","content":"caf\\u00e9"}',
            b'{"role":"assistant","content":[{"type":"hologram","x":1.50}]}',
            b'{"role":"user","content":[{"text":"And?","type":"text"}]}',
        ],
    )


# ── streams ─────────────────────────────────────────────────────────────────────────────────────


def sse(*events: str) -> list[bytes]:
    named = ((json.loads(event)["type"], event) for event in events)
    return [f"event: {name}\ndata: {event}\n\n".encode() for name, event in named]


def frame(payload: bytes, **headers: str) -> bytes:
    """Return a frame of `application/vnd.amazon.eventstream`."""
    head = b"".join(
        struct.pack("!B", len(name) + 1)
        + b":"
        + name.replace("_", "-").encode()
        + struct.pack("!BH", 7, len(value))
        + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(head) + len(payload), len(head))
    whole = prelude + struct.pack("!I", crc32(prelude)) + head + payload
    return whole + struct.pack("!I", crc32(whole))


def chunk(event: str) -> bytes:
    payload = json.dumps({"bytes": b64encode(event.encode()).decode(), "p": "abcdef"}).encode()
    return frame(payload, event_type="chunk", content_type="application/json", message_type="event")


def frames(*events: str) -> list[bytes]:
    return [chunk(event) for event in events]


def exception(kind: str, message: str) -> bytes:
    return frame(
        json.dumps({"message": message}).encode(),
        exception_type=kind,
        content_type="application/json",
        message_type="exception",
    )


# ── asking ──────────────────────────────────────────────────────────────────────────────────────

Answer = Callable[[httpx2.Request], httpx2.Response]


async def pieces(given: Iterable[bytes | Exception]) -> AsyncIterator[bytes]:
    for piece in given:
        if isinstance(piece, Exception):
            raise piece
        yield piece


def streaming(cloud: str, given: Iterable[bytes | Exception]) -> httpx2.Response:
    kind = "application/vnd.amazon.eventstream" if cloud in FRAMED else "text/event-stream"
    headers = {"content-type": kind, "request-id": "req_1"}
    return httpx2.Response(200, headers=headers, content=pieces(given))


def answering(cloud: str) -> Answer:
    """Return the answer that this cloud gives where all is well."""
    in_pieces = frames if cloud in FRAMED else sse
    return lambda asked: streaming(cloud, in_pieces(*EVENTS))


class World:
    """A client of a cloud, the answer it gets, and the requests that were sent."""

    def __init__(self, cloud: str, answer: Answer | None = None, make=None) -> None:
        self.sent: list[httpx2.Request] = []
        answer = answer or answering(cloud)

        def asked(sent: httpx2.Request) -> httpx2.Response:
            self.sent.append(sent)
            return answer(sent)

        transport = httpx2.AsyncClient(transport=httpx2.MockTransport(asked))
        self.client = (make or CLOUDS[cloud])(http_client=transport)
        self.model = AnthropicModel(self.client)


def reply_of(world: World, asked: Request | None = None) -> Reply:
    return asyncio.run(world.model.call(asked or request(), on_part=None))


def failure_of(world: World) -> ModelFailure:
    with pytest.raises(ModelFailure) as failed:
        reply_of(world)
    for secret in (KEY, AWS_SECRET):
        assert secret not in str(failed.value)
    return failed.value


def sent_by_the_sdk(cloud: str, body: dict, *, counting: bool = False) -> httpx2.Request:
    """Return what the SDK's own method sends for the same body."""

    def answer(asked: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"input_tokens": 3}) if counting else well(asked)

    well = answering(cloud)
    world = World(cloud, answer)
    client = world.client.with_options(max_retries=0)

    async def ask() -> None:
        if counting:
            await client.messages.count_tokens(**body)
        else:
            await client.messages.create(**body, stream=True)

    asyncio.run(ask())
    return world.sent[0]


OWN = frozenset({"authorization", "x-amz-date", "content-length", "traceparent"})


def told(sent: httpx2.Request) -> dict[str, str]:
    """Return the headers, without those that follow from time and spelling."""
    return {name: value for name, value in sent.headers.items() if name not in OWN}


# ── a request ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_request_is_the_one_the_sdk_would_send(cloud):
    """Address, headers and members are those of `messages.create(stream=True)`."""
    asked = request(MODELS.get(cloud, "claude-opus-5-5"))
    world = World(cloud)
    reply_of(world, asked)
    (ours,) = world.sent
    body = json.loads(asked.body())
    body.pop("stream")
    theirs = sent_by_the_sdk(cloud, body)
    assert (ours.method, ours.url) == (theirs.method, theirs.url)
    assert json.loads(ours.content) == json.loads(theirs.content)
    # The user profile that AWS wants in the body is a header as well, which says the same.
    assert told(ours) == told(theirs) | (USER if "profile" in cloud else {})
    assert bool(ours.headers.get("authorization")) == bool(theirs.headers.get("authorization"))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_history_is_sent_as_it_was_stored(cloud):
    """Every message is in the body byte for byte, and so is every other member of the head."""
    world = World(cloud)
    asked = request()
    reply_of(world, asked)
    (sent,) = world.sent
    assert b'"messages":[%b]' % b",".join(asked.messages) in sent.content
    assert '"system":"é","thinking":{"type":"adaptive"}'.encode() in sent.content


@pytest.mark.parametrize(
    ("cloud", "url", "members"),
    [
        (
            "bedrock",
            (
                "https://bedrock-runtime.eu-west-1.amazonaws.com"
                "/model/claude-opus-5-5/invoke-with-response-stream"
            ),
            {"anthropic_version"},
        ),
        (
            "bedrock-profile",
            (
                "https://bedrock-runtime.eu-west-1.amazonaws.com"
                "/model/claude-opus-5-5/invoke-with-response-stream"
            ),
            {"anthropic_version", "user_profile_id"},
        ),
        (
            "mantle",
            "https://bedrock-mantle.eu-west-1.api.aws/anthropic/v1/messages",
            {"model", "stream"},
        ),
        (
            "vertex",
            (
                "https://europe-west1-aiplatform.googleapis.com/v1/projects/acme/locations/europe-west1"
                "/publishers/anthropic/models/claude-opus-5-5:streamRawPredict"
            ),
            {"anthropic_version", "stream"},
        ),
        ("foundry", "https://acme.example/anthropic/v1/messages", {"model", "stream"}),
    ],
)
def test_where_the_model_goes_depends_on_the_cloud(cloud, url, members):
    """Bedrock and Vertex have the model in the address, the others in the body."""
    world = World(cloud)
    reply_of(world)
    (sent,) = world.sent
    assert str(sent.url) == url
    rest = {"system", "thinking", "max_tokens", "messages"}
    assert json.loads(sent.content).keys() == rest | members


def test_a_member_that_the_agent_sets_itself_is_there_once():
    """What an agent's parameters say of the version wins, as it does with the SDK."""
    world = World("vertex")
    reply_of(world, request(more=',"anthropic_version":"vertex-2023-10-16"'))
    (sent,) = world.sent
    assert sent.content.count(b"anthropic_version") == 1
    assert json.loads(sent.content)["anthropic_version"] == "vertex-2023-10-16"


@pytest.mark.parametrize(("cloud", "service"), SIGNED.items())
def test_what_is_signed_is_what_is_sent(cloud, service):
    """AWS's signature is over the very bytes that leave."""
    world = World(cloud)
    reply_of(world)
    (sent,) = world.sent
    scheme, _, given = sent.headers["authorization"].partition(" ")
    parts = dict(part.strip().split("=", 1) for part in given.split(","))
    assert scheme == "AWS4-HMAC-SHA256"
    assert parts["Credential"].startswith(f"{AWS_KEY}/")
    signer = SigV4Auth(Credentials(AWS_KEY, AWS_SECRET), service, "eu-west-1")
    signed = {name: sent.headers[name] for name in parts["SignedHeaders"].split(";")}
    again = AWSRequest(method="POST", url=str(sent.url), headers=signed, data=sent.content)
    again.context["timestamp"] = sent.headers["x-amz-date"]
    text = signer.string_to_sign(again, signer.canonical_request(again))
    assert signer.signature(text, again) == parts["Signature"]


@pytest.mark.parametrize(
    ("cloud", "headers"),
    [
        ("bedrock-key", {"authorization": f"Bearer {KEY}"}),
        ("mantle-profile", {"authorization": f"Bearer {KEY}"}),
        ("vertex", {"authorization": f"Bearer {KEY}"}),
        ("foundry", {"x-api-key": KEY, "api-key": KEY}),
        ("foundry-token", {"authorization": f"Bearer {KEY}"}),
        ("google-cloud", {"authorization": f"Bearer {KEY}"}),
    ],
)
def test_a_key_is_sent_the_way_of_the_cloud(cloud, headers):
    """A key or token stands in the header that this cloud looks at."""
    world = World(cloud)
    reply_of(world)
    assert headers.items() <= dict(world.sent[0].headers).items()


def test_nothing_is_sent_again_unseen():
    """A cloud's client does not repeat an attempt by itself, whatever it was configured for."""

    def answer(asked: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(503, json={"message": "later"})

    for cloud in CLOUDS:
        world = World(cloud, answer)
        assert failure_of(world).kind == "unavailable"
        assert len(world.sent) == 1


# ── a reply ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_reply_is_kept_as_it_came(cloud):
    """Unknown blocks and members, spellings and escapes come through, whatever the framing."""
    reply = reply_of(World(cloud))
    assert bytes(reply.content) == CONTENT
    assert bytes(reply.usage) == b'{"input_tokens":10,"output_tokens":7,"new":{"a":0.10}}'
    assert bytes(reply.extra) == b'{"later":[1e2]}'
    assert (reply.stop_reason, reply.model) == ("end_turn", "claude-opus-5-5")
    assert (reply.request_id, reply.message_id) == ("req_1", "msg_1")


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_frames_may_come_in_any_pieces(size):
    """A chunk of the network may end anywhere in a frame, or hold many."""
    whole = b"".join(frames(*EVENTS))
    cut = [whole[at : at + size] for at in range(0, len(whole), size)]
    reply = reply_of(World("bedrock", lambda asked: streaming("bedrock", cut)))
    assert bytes(reply.content) == CONTENT


def test_the_id_of_a_request_to_aws_is_kept():
    """AWS calls the id of a request otherwise, and support asks for it."""

    def answer(asked: httpx2.Request) -> httpx2.Response:
        response = streaming("bedrock", frames(*EVENTS))
        del response.headers["request-id"]
        response.headers["x-amzn-requestid"] = "aws-1"
        return response

    assert reply_of(World("bedrock", answer)).request_id == "aws-1"


TORN = frames(*EVENTS)[5][:-9]
DAMAGED = bytearray(frames(*EVENTS)[5])
DAMAGED[-10] ^= 1
BROKEN = {
    # name: what comes after five events, kind, type, part of the message
    "truncated": ([], "cut", "", "before message_stop"),
    "torn frame": ([TORN], "cut", "", "before message_stop"),
    "connection cut": (
        [TORN, httpx2.RemoteProtocolError("peer closed")],
        "cut",
        "",
        "peer closed",
    ),
    "throttled": (
        [exception("throttlingException", "Too many tokens")],
        "cut",
        "throttlingException",
        "Too many tokens",
    ),
    "model error": (
        [exception("modelStreamErrorException", "The model broke off")],
        "cut",
        "modelStreamErrorException",
        "The model broke off",
    ),
    "exception without a word": (
        [frame(b"", message_type="exception", exception_type="internalServerException")],
        "cut",
        "internalServerException",
        "",
    ),
    "error": (
        [frame(b"", message_type="error", error_code="InternalError", error_message="Oh")],
        "cut",
        "InternalError",
        "Oh",
    ),
    "error event of Claude": (
        [chunk('{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')],
        "cut",
        "overloaded_error",
        "Overloaded",
    ),
    "damaged frame": ([bytes(DAMAGED)], "malformed", "", "a frame is damaged"),
    "unknown frame": (
        [frame(b"{}", message_type="event", event_type="zebra")],
        "malformed",
        "",
        "'zebra'",
    ),
    "unknown event": ([chunk('{"type":"zebra"}')], "malformed", "", "'zebra'"),
    "event without a type": ([chunk('{"x":1}')], "malformed", "", "unknown type ''"),
    "frame without bytes": (
        [frame(b"{}", message_type="event", event_type="chunk")],
        "malformed",
        "",
        "`bytes`",
    ),
    "bytes that are no base64": (
        [frame(b'{"bytes":"e"}', message_type="event", event_type="chunk")],
        "malformed",
        "",
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_stream_of_aws_that_breaks_is_in_doubt(name):
    """Whatever ends a stream before its end, what was written by then may be billed."""
    rest, kind, error_type, said = BROKEN[name]
    given = [*frames(*EVENTS[:5]), *rest]
    failure = failure_of(World("bedrock", lambda asked: streaming("bedrock", given)))
    assert (failure.kind, failure.error_type) == (kind, error_type)
    assert said in failure.message
    assert failure.kind not in UNBILLED
    assert failure.kind in RETRYABLE
    assert (failure.status, failure.request_id) == (200, "req_1")


@pytest.mark.parametrize("cloud", ["vertex", "foundry", "mantle"])
def test_a_stream_that_is_cut_is_in_doubt(cloud):
    """A stream of another cloud is cut as one of Anthropic's is."""
    given = [*sse(*EVENTS[:5]), httpx2.RemoteProtocolError("peer closed")]
    assert failure_of(World(cloud, lambda asked: streaming(cloud, given))).kind == "cut"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_page_is_no_reply(cloud):
    """A 200 that is neither kind of stream is malformed, so in doubt."""
    page = httpx2.Response(200, html="<p>Log in")
    failure = failure_of(World(cloud, lambda asked: page))
    assert failure.kind == "malformed"
    assert "Log in" in failure.message


# ── answers with an error status ────────────────────────────────────────────────────────────────

ANSWERS = {
    # how each cloud words it: status, headers, body, kind, type, message
    "bedrock throttled": (
        *("bedrock", 429, {"x-amzn-errortype": "ThrottlingException:http://internal.aws/"}),
        {"message": "Too many requests"},
        *("rate_limited", "ThrottlingException", "Too many requests"),
    ),
    "bedrock invalid": (
        *("bedrock", 400, {"x-amzn-errortype": "ValidationException"}),
        {"message": "extraneous key"},
        *("invalid_request", "ValidationException", "extraneous key"),
    ),
    "bedrock denied": (
        *("bedrock", 403, {"x-amzn-errortype": "ExpiredTokenException"}),
        {"Message": "expired"},
        *("auth", "ExpiredTokenException", ""),
    ),
    "bedrock model error": (
        *("bedrock", 424, {"x-amzn-errortype": "ModelErrorException"}),
        {"message": "the model failed"},
        *("unavailable", "ModelErrorException", "the model failed"),
    ),
    "bedrock model timeout": (
        *("bedrock", 408, {"x-amzn-errortype": "ModelTimeoutException"}),
        {"message": "too slow"},
        *("timeout", "ModelTimeoutException", "too slow"),
    ),
    "vertex quota": (
        *("vertex", 429, {"retry-after": "7"}),
        [{"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}],
        *("rate_limited", "RESOURCE_EXHAUSTED", "Quota exceeded"),
    ),
    "vertex of Claude": (
        *("vertex", 529, {}),
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        *("overloaded", "overloaded_error", "Overloaded"),
    ),
    "vertex not found": (
        *("vertex", 404, {}),
        {"error": {"code": 404, "message": "no such model", "status": "NOT_FOUND"}},
        *("not_found", "NOT_FOUND", "no such model"),
    ),
    "foundry denied": (
        *("foundry", 401, {"apim-request-id": "req_2"}),
        {"error": {"code": "PermissionDenied", "message": "wrong key"}},
        *("auth", "PermissionDenied", "wrong key"),
    ),
    "foundry spend limit": (
        *("foundry", 429, {}),
        {
            "type": "error",
            "error": {
                "type": "rate_limit_error",
                "message": "limit",
                "details": {"error_code": "enforced_spend_limit_reached"},
            },
        },
        *("spend_limit", "rate_limit_error", "limit"),
    ),
    "gateway": ("bedrock", 502, {}, "Bad gateway", "unavailable", "", "Bad gateway"),
    "gateway's list": ("vertex", 500, {}, [], "unavailable", "", ""),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_error_of_a_cloud_is_understood(name):
    """Each cloud words its errors otherwise; status, type, message and id are found."""
    cloud, status, headers, body, kind, error_type, said = ANSWERS[name]

    def answer(asked: httpx2.Request) -> httpx2.Response:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        named = {"x-amzn-requestid": "req_2"} | headers
        return httpx2.Response(status, headers=named, content=content)

    failure = failure_of(World(cloud, answer))
    assert (failure.kind, failure.status) == (kind, status)
    assert failure.error_type == error_type
    assert said in failure.message
    assert failure.request_id == "req_2"
    assert failure.retry_after_s == (7.0 if "retry-after" in headers else None)


def test_a_secret_that_a_cloud_repeats_does_not_reach_the_message():
    """A message is journalled for ever, and the keys of a cloud are not for it."""
    for cloud in CLOUDS:
        secret = AWS_SECRET if cloud in {*SIGNED, "bedrock-profile"} else KEY
        echo = {"message": f"bad {secret}."}
        failure = failure_of(World(cloud, lambda asked, echo=echo: httpx2.Response(403, json=echo)))
        assert failure.kind == "auth"
        assert "bad ***." in failure.message


# ── before anything is sent ─────────────────────────────────────────────────────────────────────


class Flaky(Exception):
    """A token that cannot be had now, in the manner of Google's library."""

    retryable = True


def raising(error: Exception):
    def provide() -> str:
        raise error

    return lambda **more: anthropic.AsyncAnthropicFoundry(
        resource="acme", azure_ad_token_provider=provide, **more
    )


UNSENT = {
    # name: client, kind, part of the message
    "no such profile": (
        lambda **more: anthropic.AsyncAnthropicBedrock(
            aws_profile="nobody", aws_region="eu-west-1", **more
        ),
        "auth",
        "nobody",
    ),
    "no project": (
        lambda **more: anthropic.AsyncAnthropicVertex(region="eu", access_token=KEY, **more),
        "auth",
        "No project_id was given",
    ),
    "no credentials": (
        lambda **more: anthropic.AsyncAnthropicVertex(region="eu", project_id="acme", **more),
        "auth",
        "",
    ),
    "no token": (raising(LookupError("not logged in")), "auth", "not logged in"),
    "no token now": (raising(Flaky("no route")), "unreachable", "no route"),
}


@pytest.mark.parametrize("name", UNSENT)
def test_what_cannot_be_signed_is_not_sent_and_not_billed(name, monkeypatch, tmp_path):
    """Missing credentials stop a run at no cost; a token that cannot be had now is worth a wait."""
    make, kind, said = UNSENT[name]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    world = World("", answering("vertex"), make)
    failure = failure_of(world)
    assert (failure.kind, world.sent) == (kind, [])
    assert said in failure.message
    assert failure.kind in UNBILLED


def test_a_missing_package_is_found_before_a_reply_is_paid_for(monkeypatch):
    """Without what decodes the reply, nothing is asked."""
    world = World("bedrock-key")

    def missing(client) -> None:
        raise ModuleNotFoundError("No module named 'botocore'", name="botocore")

    monkeypatch.setattr(anthropic.AsyncAnthropicBedrock, "_make_sse_decoder", missing)
    failure = failure_of(world)
    assert (failure.kind, world.sent) == ("auth", [])
    assert "needs the package botocore: pip install 'anthropic[bedrock]'" in failure.message


def test_a_mistake_after_sending_stays_in_doubt():
    """What a middleware raises may come after the reply was paid for."""

    async def middleware(asked, call_next):
        await call_next(asked)
        raise LookupError("my own mistake")

    def make(**more):
        return CLOUDS["bedrock"](middleware=[middleware], **more)

    world = World("bedrock", make=make)
    failure = failure_of(world)
    assert (failure.kind, len(world.sent)) == ("bug", 1)


# ── a run ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cloud", ["bedrock", "vertex", "foundry"])
def test_a_run_in_a_cloud_sends_the_history_as_it_came(cloud):
    """Two turns over a cloud's client: the second begins with the first, byte for byte."""
    used = (
        '{"type":"content_block_start","index":0,"content_block":{"type":"tool_use",'
        '"id":"toolu_1","name":"look","input":{},"kg":1.50}}'
    )
    called = [EVENTS[0], used, EVENTS[2], EVENTS[8].replace("end_turn", "tool_use"), EVENTS[9]]
    said = [EVENTS[0], *(event.replace('"index":1', '"index":0') for event in EVENTS[4:])]
    replies = iter([called, said])
    in_pieces = frames if cloud in FRAMED else sse
    world = World(cloud, lambda asked: streaming(cloud, in_pieces(*next(replies))))

    @outlast.tool(effect="read")
    def look() -> str:
        """Look."""
        return "there"

    async def main() -> outlast.Run:
        with outlast.Outlast("memory://", client=world.client) as app:
            agent = outlast.Agent("a", model="claude-opus-5-5", tools=[look])
            return await app.arun(agent, "Well?", run_id="r")

    run = asyncio.run(main())
    assert (run.status, run.answer) == ("completed", "héllo ☂")
    bodies = [msgspec.json.decode(sent.content) for sent in world.sent]
    assert [len(body["messages"]) for body in bodies] == [1, 3]
    assert b'"name":"look","input":{},"kg":1.50}' in world.sent[1].content
