"""Claude over the network: one attempt, its raw stream, and what a failure means for the bill.

The `anthropic` client carries the request and nothing else: its retries are off, because a request
that is sent again unseen is paid for again unseen, and its parsing is not used, because it changes
what came.  It is imported when the first call is made; that takes over a second.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import quote
from weakref import WeakKeyDictionary, ref

import msgspec

from outlast.errors import ModelFailure, UsageError
from outlast.models import Part, Reply, Request, batches, clouds
from outlast.models.headers import number, rate_limits
from outlast.models.stream import Accumulator

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

    from outlast.events import FailureKind
    from outlast.models.clouds import Client

T = TypeVar("T")

BATCHES: Final = "/v1/messages/batches"

DEADLINE_S: Final = 600.0
"""How long anything but a call may take in all.  A read timeout is none: pings reset it."""

KINDS: Final[Mapping[int | str | tuple[int, str], FailureKind]] = {
    # ── the API's answers, by status and `error.details.error_code`; "*" is any code ───────────
    200: "cut",  # an error in the stream: part of the reply was written
    400: "invalid_request",
    (400, "request_body_timeout"): "unreachable",  # the request never arrived as a whole
    401: "auth",
    402: "spend_limit",
    403: "auth",
    404: "not_found",
    408: "timeout",
    # A conflict that has no code may be a lock that is free in a moment: tried again, and as
    # nobody says that such an answer is free of charge, in doubt.  One with a code is final.
    409: "unavailable",
    (409, "*"): "invalid_request",
    412: "invalid_request",
    413: "too_large",
    422: "invalid_request",
    424: "unavailable",  # Bedrock: Claude failed while it was at work
    429: "rate_limited",
    (429, "ramp_limit_exceeded"): "rate_limited",
    (429, "contract_spend_limit_reached"): "spend_limit",
    (429, "enforced_spend_limit_reached"): "spend_limit",
    431: "invalid_request",
    499: "cut",  # a gateway believes that we hung up; what it had sent on is billed
    "4xx": "invalid_request",
    500: "unavailable",
    501: "unavailable",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
    529: "overloaded",
    "5xx": "unavailable",
    "xxx": "malformed",  # a status this API does not have, such as a redirect
    # ── no answer, by exception; a class that is not listed counts as the nearest above it ─────
    # The client found no connection: nothing was sent, so nothing is billed.
    "ConnectError": "unreachable",
    "ConnectTimeout": "unreachable",
    "PoolTimeout": "unreachable",
    "ProxyError": "unreachable",
    "InvalidURL": "not_found",
    "UnsupportedProtocol": "not_found",
    "CredentialsError": "auth",
    "IdentityTokenFileError": "auth",
    "WorkloadIdentityError": "auth",
    # The request may have been sent.
    "APIConnectionError": "unavailable",  # unless its cause says more
    "RetryableError": "unavailable",
    "APITimeoutError": "timeout",
    "TimeoutException": "timeout",
    "ReadTimeout": "timeout",
    "WriteTimeout": "timeout",
    "TimeoutError": "timeout",
    "CloseError": "cut",
    "HTTPError": "cut",
    "NetworkError": "cut",
    "OSError": "cut",
    "ProtocolError": "cut",
    "ReadError": "cut",
    "RemoteProtocolError": "cut",
    "RequestError": "cut",
    "SSEError": "cut",
    "TransportError": "cut",
    "WriteError": "cut",
    "APIResponseValidationError": "malformed",
    "DecodingError": "malformed",
    "TooManyRedirects": "malformed",
    # Somebody's mistake, here or in the client: another attempt would not mend it.
    "APIError": "bug",
    "APIWebhookValidationError": "bug",
    "AnthropicError": "bug",
    "CookieConflict": "bug",
    "LocalProtocolError": "bug",
    "RequestNotRead": "bug",
    "ResponseNotRead": "bug",
    "StreamClosed": "bug",
    "StreamConsumed": "bug",
    "StreamError": "bug",
}
"""What every failure means; see `events.FailureKind`, and `models.UNBILLED` for the bill.

What is in no row is a `bug`, and so in doubt: what is unknown is never taken for unbilled.
"""

_WITH_STATUS: Final = frozenset({"APIStatusError", "HTTPStatusError"})
_LIBRARIES: Final = frozenset({"anthropic", "builtins", "httpcore2", "httpx2"})
_KEY: Final = re.compile(r"sk-ant-[\w-]+")
_CREDENTIALS: Final = frozenset({"authorization", "x-api-key"})
_REQUEST_IDS: Final = ("request-id", "x-amzn-requestid", "apim-request-id", "x-request-id")
_DRAIN_S: Final = 0.2
_LONGEST: Final = 500  # characters of a message; a gateway may answer with a whole page
_SHORTEST: Final = 8  # characters of a secret: less is no key, and stands in many a word


class _Open(NamedTuple):
    """A client of one event loop, and what closes it with the loop; `None` where it is not ours."""

    client: Client
    lease: AsyncGenerator[None] | None


class AnthropicModel:
    """Asks Claude once per call, over an asynchronous client of the `anthropic` package.

    Args:
        client: whom to ask with, those for Bedrock, Vertex, Foundry, AWS and Google Cloud included;
            its own number of retries is not used.  Each event loop has connections of its own, so
            any number of them can be served; but where the client was made with an `http_client`,
            that one serves the loop of the first call, and every other one is refused.  Without a
            client, one is made as the SDK does, from the environment (`ANTHROPIC_API_KEY`,
            `ANTHROPIC_BASE_URL` and so on), when the first call is made.
        deadline_s: how long anything may take in all; by default ten minutes, and a call as long as
            whoever makes it lets it: see `Agent(call_timeout_s=…)`.

    Raises:
        UsageError: `client` is a synchronous one.

    """

    def __init__(self, client: Client | None = None, *, deadline_s: float | None = None) -> None:
        if client is not None and not inspect.iscoroutinefunction(client.post):
            raise UsageError(
                f"client is {type(client).__name__}, which blocks; "
                f"pass an Async{type(client).__name__.removeprefix('Async')}"
            )
        self._given = client
        self._deadline_s = deadline_s
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, _Open] = WeakKeyDictionary()
        self._first: Callable[[], asyncio.AbstractEventLoop | None] | None = None
        self._lock = threading.Lock()

    async def call(self, request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
        """Return the whole reply to one request that is sent once.

        Cancelling passes through, once the connection is closed.

        Raises:
            ModelFailure: there is no reply; its `kind` says why, and what that means for the bill.

        """
        return await self._once(lambda client: _ask(client, request, on_part), None)

    async def count_tokens(self, request: Request) -> int:
        """Return how many input tokens the API counts for `request`; nothing is billed.

        Raises:
            ModelFailure: it did not say, and why; `not_found` where the client's cloud cannot
                count.

        """
        return await self._once(lambda client: _count(client, request))

    def key(self) -> str:
        """Return a hash of the API key or of the client; empty where neither is known yet."""
        if self._given is None:
            named = os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_AUTH_TOKEN")
            return _hashed(named or "")
        keys = (getattr(self._given, name, None) for name in ("api_key", "auth_token"))
        named = next((key for key in keys if isinstance(key, str) and key), None)
        return _hashed(named or f"{type(self._given).__name__} {self._given.base_url}")

    def no_batches(self) -> str:
        """Return why the client cannot send batches; empty where it can."""
        return "" if self._given is None else clouds.no_batches(self._given)

    async def send_batch(self, requests: Mapping[str, Request]) -> str:
        """Send requests as one batch, once, and return its id.

        Raises:
            ModelFailure: it was not accepted, or nobody knows; `not_found` where the client's cloud
                has no batches.

        """
        whole = batches.body(requests)
        heads = [request.head for request in requests.values()]
        raw = await self._once(lambda client: _posted(client, BATCHES, whole, heads))
        return batches.status(raw).id

    async def batch_ended(self, batch_id: str) -> bool:
        """Return whether the results of a batch are there; nothing is billed.

        Raises:
            ModelFailure: it did not say, and why.

        """
        path = f"{BATCHES}/{quote(batch_id, safe='')}"
        return batches.status(await self._once(lambda client: _got(client, path))).ended

    async def batch_results(self, batch_id: str) -> Mapping[str, Reply | ModelFailure]:
        """Return what came of each request of a batch that ended, by its custom id.

        Raises:
            ModelFailure: it did not say, and why.

        """
        # Not from `results_url`: the key goes nowhere but to where the client was told.
        path = f"{BATCHES}/{quote(batch_id, safe='')}/results"
        return batches.results(await self._once(lambda client: _got(client, path)))

    async def aclose(self) -> None:
        """Close the connections of this event loop; an `http_client` that was given stays open."""
        opened = self._open.pop(asyncio.get_running_loop(), None)
        if opened is not None and opened.lease is not None:
            await opened.lease.aclose()

    async def _once(
        self, ask: Callable[[Client], Awaitable[T]], usual_s: float | None = DEADLINE_S
    ) -> T:
        deadline_s = usual_s if self._deadline_s is None else self._deadline_s
        client = None
        try:
            client = await self._client()
            async with asyncio.timeout(deadline_s) as deadline:
                return await ask(client)
        except Exception as error:
            if isinstance(error, TimeoutError) and client is not None and deadline.expired():
                failure = ModelFailure("timeout", f"no reply within {deadline_s:g} s")
            else:
                failure = classify(error)
            raise _cleaned(failure, _secrets(client, error)) from error

    async def _client(self) -> Client:
        # Connections belong to the loop they were opened in, and an app may have two.
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            # In a thread, so that other runs of this loop go on for the second it takes.
            sdk = await asyncio.to_thread(importlib.import_module, "anthropic")
            if loop in self._open:  # to make one takes a while, and the loop stands still for it
                return self._open[loop].client
            client: Any = self._given or sdk.AsyncAnthropic()
            if type(client) is sdk.AsyncAnthropic:  # the clouds' clients sign in their own ways
                _check_credentials(client)
            else:
                await asyncio.to_thread(clouds.check, client)
            if loop not in self._open:  # another call may have been faster meanwhile
                await self._opened(loop, client)
        return self._open[loop].client

    async def _opened(self, loop: asyncio.AbstractEventLoop, like: Client) -> None:
        """Open a client for `loop`, before anything else runs there."""
        # A client refers to its loop, so nothing but this forgets loops that ended without a word.
        for each in (key() for key in self._open.keyrefs()):
            if each is not None and each.is_closed():
                self._open.pop(each, None)
        transport = _fresh(like)
        if transport is None:
            self._claim(loop)
            self._open[loop] = _Open(like.with_options(max_retries=0), None)
            return
        client = like.with_options(max_retries=0, http_client=transport)
        lease = self._lease(loop, client)
        self._open[loop] = _Open(client, lease)
        await anext(lease)  # only begins it, so nothing else runs meanwhile

    async def _lease(self, loop: asyncio.AbstractEventLoop, client: Client) -> AsyncGenerator[None]:
        """Close `client` when this is closed, as a loop does with its generators before it ends."""
        try:
            yield
        finally:
            self._open.pop(loop, None)
            await client.close()

    def _claim(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep a given `http_client` for the first loop that comes; refuse every other one.

        On another loop its connections fail after the request was sent and billed.
        """
        with self._lock:
            if self._first is None:
                self._first = ref(loop)
            if self._first() is loop:
                return
        raise ModelFailure(
            "auth",
            "nothing was sent: the client that was given to Outlast has an http_client of its own, "
            "whose connections belong to the event loop of the first call, and this call is on "
            "another one; give a client without http_client, which works on every loop, or stay on "
            "one: either run, resume and stream, or arun, aresume and astream within one "
            "asyncio.run",
        )


def _hashed(key: str) -> str:
    return sha256(b"outlast " + key.encode("utf-8", "replace")).hexdigest()[:16] if key else ""


def _fresh(client: Client) -> Any:
    """Return a transport as the SDK gave it to `client`, without connections; None if it did not.

    Always a new one: that of a given client may have connections of the user's own loop.
    """
    from anthropic import _base_client  # noqa: PLC0415  (slow, imported already)

    made = _base_client.AsyncHttpxClientWrapper  # the class of those nobody else can have made
    given = client._client  # noqa: SLF001  (there is no other way to know)
    return made(base_url=client.base_url, timeout=client.timeout) if type(given) is made else None


def classify(error: BaseException) -> ModelFailure:
    """Return what an exception of the client, or of its transport, means.

    The message names no key of the usual form; a client's own key is taken out by `call`.
    """
    if isinstance(error, ModelFailure):
        return error
    if "APIStatusError" in _names(error) or "HTTPStatusError" in _names(error):
        return _refused(error)
    return ModelFailure(_kind(error), _KEY.sub("sk-ant-***", _sentence(error)))


def retry_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds the API asks to wait, if it says so in a way that makes sense.

    Args:
        headers: of the answer, found whatever their case.
        now: seconds since the epoch, for a header that gives a date.

    """
    millis = number(headers.get("retry-after-ms"))
    if millis is not None:
        return millis / 1000
    given = headers.get("retry-after")
    seconds = number(given)
    if seconds is None and given is not None:
        try:
            seconds = parsedate_to_datetime(given).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return seconds if seconds is not None and seconds >= 0 else None


async def _ask(client: Client, request: Request, on_part: Callable[[Part], None] | None) -> Reply:
    from anthropic import AsyncStream  # noqa: PLC0415  (slow; `_client` imported it already)

    # As a stream of the SDK's, and not as a bare response, so that the client's middleware sees
    # what it knows; it is never iterated.
    route = await clouds.route(
        client, "/v1/messages", model=request.model, head=request.head, stream=True
    )
    stream: Any = await client.post(
        route.path,
        content=request.body(route.members, without=route.without),
        options={"headers": route.headers},
        cast_to=object,
        stream=True,
        stream_cls=AsyncStream[object],
    )
    if not isinstance(stream, AsyncStream):
        raise ModelFailure(
            "malformed", f"the client's middleware answered with a {type(stream).__name__}"
        )
    try:
        return await _read(stream.response, Accumulator(_watched(request, on_part)))
    finally:
        await stream.close()


async def _count(client: Client, request: Request) -> int:
    import httpx2  # noqa: PLC0415  (slow; the SDK imported it already)

    route = await clouds.route(
        client,
        "/v1/messages/count_tokens",
        model=request.model,
        head=request.head,
        stream=False,
    )
    response = await client.post(
        route.path,
        content=request.counted_body(route.members),
        options={"headers": route.headers},
        cast_to=httpx2.Response,
    )
    try:
        return msgspec.json.decode(response.content, type=_Counted).input_tokens
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        beginning = response.content[:200].decode("utf-8", "replace")
        raise ModelFailure(
            "malformed",
            f"a number of tokens was asked for, and this came: {beginning!r}",
            status=response.status_code,
            request_id=_request_id(response.headers),
        ) from error


async def _posted(client: Client, path: str, body: bytes, heads: Sequence[bytes]) -> bytes:
    import httpx2  # noqa: PLC0415  (slow; the SDK imported it already)

    if told := clouds.no_batches(client):
        raise ModelFailure("not_found", told)
    response = await client.post(
        path,
        content=body,
        options={"headers": clouds.betas(client, *heads)},
        cast_to=httpx2.Response,
    )
    return bytes(response.content)


async def _got(client: Client, path: str) -> bytes:
    import httpx2  # noqa: PLC0415  (slow; the SDK imported it already)

    response = await client.get(path, cast_to=httpx2.Response)
    return bytes(response.content)


class _Counted(msgspec.Struct):
    input_tokens: int


async def _read(response: Any, accumulator: Accumulator) -> Reply:
    request_id = _request_id(response.headers)
    async with aclosing(_chunks(response)) as chunks:
        try:
            feed = await _feeder(response, chunks, accumulator)
            async for chunk in chunks:
                feed(chunk)
                if accumulator.done:
                    break
            reply = accumulator.reply(request_id)
        except Exception as error:
            failure = classify(error)
            failure.request_id = failure.request_id or request_id
            failure.status = failure.status or response.status_code
            failure.told = rate_limits(response.headers)
            raise failure from error
        await _drain(chunks)
    return msgspec.structs.replace(reply, told=rate_limits(response.headers))


def _chunks(response: Any) -> AsyncGenerator[bytes]:
    """Return what is streamed, as it was before its transport compressed it.

    Where that is what comes over the wire, it is taken from where the response would take it: a
    reply comes in hundreds of chunks, and each passes through two more generators there.
    """
    plain = response.headers.get("content-encoding", "identity") == "identity"
    if plain and not response.is_stream_consumed and not response.is_closed:
        chunks = aiter(response.stream)
        if isinstance(chunks, AsyncGenerator):
            return chunks
    whole: AsyncGenerator[bytes] = response.aiter_bytes()
    return whole


async def _feeder(
    response: Any, chunks: AsyncIterator[bytes], accumulator: Accumulator
) -> Callable[[bytes], None]:
    """Return what takes the stream's bytes, by the framing that its content type names."""
    kind = response.headers.get("content-type", "text/event-stream")
    if kind.startswith("text/event-stream"):
        return accumulator.feed
    if kind.startswith(clouds.FRAMED):
        frames = clouds.Frames()

        def feed(chunk: bytes) -> None:
            for name, data in frames.feed(chunk):
                accumulator.event(name, data)

        return feed
    beginning = (await anext(chunks, b""))[:200].decode("utf-8", "replace")
    raise ModelFailure(
        "malformed",
        f"a stream was asked for, and {kind} came: {beginning!r}; "
        "is ANTHROPIC_BASE_URL the Messages API?",
    )


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read what follows the reply, so that the connection can be used again.

    The reply is whole by now, so nothing that goes wrong here counts.
    """
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for _ in chunks:
                pass
    except Exception:  # noqa: BLE001, S110  (see above)
        pass


def _watched(
    request: Request, on_part: Callable[[Part], None] | None
) -> Callable[[str, str], None] | None:
    if on_part is None:
        return None

    def told(kind: str, text: str) -> None:
        on_part(
            Part(
                run_id=request.run_id,
                ask_id=request.ask_id,
                call_id=request.call_id,
                attempt=request.attempt,
                kind=kind,
                text=text,
            )
        )

    return told


def _names(error: BaseException) -> list[str]:
    """Return the names of the error's classes that the table may know, nearest first."""
    return [
        cls.__name__
        for cls in type(error).__mro__
        if cls.__module__.partition(".")[0] in _LIBRARIES
    ]


def _kind(error: BaseException) -> FailureKind:
    kind = _listed(error) or "bug"
    if kind == "bug":
        return clouds.unsent(error) or kind
    if "APIConnectionError" not in _names(error) or error.__cause__ is None:
        return kind
    # The client wraps whatever its transport raises before an answer begins.  Where that says
    # nothing better, the request may have reached Claude.
    cause = _listed(error.__cause__)
    return kind if cause is None or cause == "cut" else cause


def _listed(error: BaseException) -> FailureKind | None:
    return next((KINDS[name] for name in _names(error) if name in KINDS), None)


def _of_status(status: int, code: str) -> FailureKind:
    keys = ((status, code), (status, "*") if code else status, status, f"{status // 100}xx", "xxx")
    return next(KINDS[key] for key in keys if key in KINDS)


def _refused(error: Any) -> ModelFailure:
    """Return the failure of an answer with an error status."""
    response = error.response
    body = getattr(error, "body", None)
    told = _complaint(body)
    details = told.get("details")
    code = _str(details.get("error_code")) if isinstance(details, dict) else ""
    said = _str(told.get("message")) or (body if isinstance(body, str) else "")
    error_type = _error_type(told, response.headers)
    message = f"HTTP {response.status_code} {error_type}".rstrip() + (f": {said}" if said else "")
    return ModelFailure(
        _of_status(response.status_code, code),
        _KEY.sub("sk-ant-***", message),
        status=response.status_code,
        error_type=error_type,
        error_code=code,
        retry_after_s=retry_after_s(response.headers, now=time.time()),
        request_id=_request_id(response.headers),
        told=rate_limits(response.headers),
    )


def _complaint(body: object) -> dict[str, Any]:
    """Return the members of an error: in `error` as everywhere, in a list of one, or bare (AWS)."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return {}
    told = body.get("error", body)
    return told if isinstance(told, dict) else {}


def _error_type(told: dict[str, Any], headers: Mapping[str, str]) -> str:
    """Return `type` as Anthropic has it, `status` as Google, `code` as Azure, or AWS's header."""
    named = (_str(told.get(name)) for name in ("type", "status", "code"))
    aws = headers.get("x-amzn-errortype", "").partition(":")[0]
    return next(filter(None, named), aws)


def _request_id(headers: Mapping[str, str]) -> str:
    return next(filter(None, (headers.get(name) for name in _REQUEST_IDS)), "")


def _sentence(error: BaseException) -> str:
    """Return what happened; the SDK says "Connection error.", its cause says which."""
    cause = error.__cause__ if "APIConnectionError" in _names(error) else None
    told = error if cause is None else cause
    return f"{type(told).__name__}: {told}".rstrip(": ")


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""


def _secrets(client: Client | None, error: Exception) -> list[str]:
    """Return what must not be told: the client's keys, and the token this was sent with.

    A token may be one that a function of the user's gave for this attempt alone.
    """
    keys = [getattr(client, name, None) for name in clouds.SECRETS]
    # Not by attribute: an error of the transport that knows no request raises there.
    request = vars(error).get("request")
    if request is not None:
        keys += [request.headers.get(name, "").rpartition(" ")[2] for name in _CREDENTIALS]
    return [key for key in keys if isinstance(key, str) and len(key) >= _SHORTEST]


def _cleaned(failure: ModelFailure, secrets: list[str]) -> ModelFailure:
    for secret in secrets:
        failure.message = failure.message.replace(secret, "***")
    failure.message = failure.message[:_LONGEST]
    failure.args = (f"{failure.kind}: {failure.message}",)
    return failure


def _check_credentials(client: AsyncAnthropic) -> None:
    headers = {name.lower(): value for name, value in client.default_headers.items()}
    if not headers.keys() & _CREDENTIALS and client.credentials is None:
        raise ModelFailure(
            "auth",
            "there is no key for Claude: set ANTHROPIC_API_KEY, or pass client= to Outlast",
        )
    for name in headers.keys() & _CREDENTIALS:
        value = headers[name]
        if isinstance(value, str) and not (value.isascii() and value.isprintable()):
            raise ModelFailure(
                "auth",
                f"the key for Claude cannot be sent as the header {name}: it contains a line "
                "break or another character that no key has",
            )
