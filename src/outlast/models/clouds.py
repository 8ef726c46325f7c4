"""Claude in other clouds: where a client posts to, what it adds, and how AWS frames a reply.

The clients for Bedrock and Vertex rewrite the body they are given: the model goes into the address,
a version into the body.  The history is not theirs to rewrite, so each is asked what it makes of a
request that has none, and the real one is joined accordingly and posted to the address it named;
signing happens on what is sent.  The clients for Foundry, AWS and Google Cloud post what they get.

One thing differs from what the SDK sends by itself: a default header that a client moves into the
body, which is the user profile's on AWS, is in the body and stays a header as well.
"""

from __future__ import annotations

import importlib
from base64 import b64decode
from collections.abc import Iterator
from traceback import walk_tb
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import msgspec

from outlast.context import BETA
from outlast.errors import ModelFailure
from outlast.models import members_of

if TYPE_CHECKING:
    from anthropic import (
        AsyncAnthropic,
        AsyncAnthropicBedrock,
        AsyncAnthropicBedrockMantle,
        AsyncAnthropicVertex,
    )

    from outlast.events import FailureKind

    Client: TypeAlias = (
        AsyncAnthropic | AsyncAnthropicBedrock | AsyncAnthropicBedrockMantle | AsyncAnthropicVertex
    )

FRAMED: Final = "application/vnd.amazon.eventstream"
"""The content type of a stream in the frames of AWS."""

SECRETS: Final = ("api_key", "auth_token", "access_token", "aws_secret_key", "aws_session_token")
"""Attributes of clients that nobody may read in a message."""

_PLATFORMS: Final = tuple(
    f"anthropic.lib.{name}."
    for name in ("_extras", "aws", "bedrock", "foundry", "google_cloud", "vertex")
)
_BETAS: Final = "anthropic-beta"
_PASSING: Final = frozenset({"HTTPClientError", "TransportError"})


class Route(msgspec.Struct, frozen=True):
    """How a client wants one request posted.

    Attributes:
        path: where to, relative to the client's base URL.
        members: what it adds to the body, as JSON without braces.
        without: members of the head that the body must not have.
        headers: what it sends beside its own headers.

    """

    path: str
    members: bytes = b""
    without: frozenset[str] = frozenset()
    headers: dict[str, str] = {}


async def route(client: Client, path: str, *, model: str, head: bytes, stream: bool) -> Route:
    """Return how `client` wants a request to `path` posted.

    Raises:
        ModelFailure: this cloud does not offer it.
        Exception: whatever else the client raises; nothing was sent.

    """
    from anthropic import AnthropicError, AsyncAnthropic  # noqa: PLC0415  (slow, imported already)
    from anthropic._models import FinalRequestOptions  # noqa: PLC0415  (see below)

    asked: dict[str, Any] = {"stream": True} if stream else {}
    headers = betas(client, head)
    if isinstance(client, AsyncAnthropic):
        return Route(path, _json(asked), headers=headers)
    asked["model"] = model
    # The SDK's hook for its own platforms; what it does for a body in JSON is asked for here,
    # because it refuses one in bytes, and copying its rules would let them drift apart.
    options = FinalRequestOptions.construct(
        method="post", url=path, json_data=dict(asked), headers=headers
    )
    try:
        prepared = await client._prepare_options(options)  # noqa: SLF001  (see above)
    except AnthropicError as error:
        raise ModelFailure("not_found", f"{type(client).__name__}: {error}") from error
    told = cast("dict[str, Any]", prepared.json_data)  # what it made of ours
    own = members_of(head)
    return Route(
        path=prepared.url,
        members=_json({name: value for name, value in told.items() if name not in own}),
        without=frozenset(asked.keys() - told.keys()),
        headers=headers,
    )


def betas(client: Client, *heads: bytes) -> dict[str, str]:
    """Return the header that names what requests with these heads ask for that is in beta.

    A header of a request replaces the client's own, so what that names is in it, too.
    """
    if not any(b'"compact_20260112"' in head for head in heads):
        return {}
    own = client.default_headers.get(_BETAS)
    named = [each.strip() for each in own.split(",")] if isinstance(own, str) else []
    return {_BETAS: ",".join([*filter(None, named), *({BETA} - set(named))])}


def check(client: Client) -> None:
    """Raise what would keep `client` from reading a reply, before one is paid for.

    Raises:
        ModelFailure: a package is missing; the message names it.

    """
    try:
        client._make_sse_decoder()  # noqa: SLF001  (made for every stream; it imports botocore)
    except ImportError as error:
        name = type(client).__name__
        told = f"{name} needs the package {error.name}: pip install 'anthropic[bedrock]'"
        raise ModelFailure("auth", told) from error


def no_batches(client: Client) -> str:
    """Return why a client cannot send batches; empty where it can."""
    from anthropic import AsyncAnthropic  # noqa: PLC0415  (slow, but the client imported it)

    # Bedrock and Vertex refuse at the first request, Foundry has no such thing at all.
    if isinstance(client, AsyncAnthropic) and client.messages.batches is not None:
        return ""
    return f"{type(client).__name__} has no Message Batches API"


def unsent(error: BaseException) -> FailureKind | None:
    """Return what an error means that a cloud's client raised while it prepared a request.

    Finding credentials, asking for a token and signing come before sending, so nothing is billed;
    where the network failed on the way to a token, another attempt may go well.
    """
    if not _raised_by_platform(error.__traceback__):
        return None
    names = {cls.__name__ for cls in type(error).__mro__}
    passing = bool(names & _PASSING) or getattr(error, "retryable", False) is True
    return "unreachable" if passing else "auth"


def _raised_by_platform(traceback: TracebackType | None) -> bool:
    modules = (str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(traceback))
    return any(f"{module}.".startswith(_PLATFORMS) for module in modules)


class Frames:
    """Cuts a stream in AWS's frames, in chunks of any size, into the events they carry."""

    def __init__(self) -> None:
        self._buffer = importlib.import_module("botocore.eventstream").EventStreamBuffer()

    def feed(self, chunk: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield the name, where there is one, and the data of each event that is complete.

        Raises:
            ModelFailure: `malformed` where a frame is damaged or of an unknown kind.

        """
        self._buffer.add_data(chunk)
        frames = iter(self._buffer)
        while True:
            try:
                frame = next(frames)
            except StopIteration:
                return
            except Exception as error:
                raise _malformed(f"a frame is damaged: {error}") from error
            yield _event(frame.headers, frame.payload)


class _Chunk(msgspec.Struct):
    bytes: str


class _Complaint(msgspec.Struct):
    message: str = ""


def _event(headers: dict[str, Any], payload: bytes) -> tuple[str, bytes]:
    try:
        match headers.get(":message-type"), headers.get(":event-type"):
            case "event", "chunk":
                return "", b64decode(msgspec.json.decode(payload, type=_Chunk).bytes)
            case "exception", _:
                said = msgspec.json.decode(payload or b"{}", type=_Complaint).message
                return "error", _error(headers.get(":exception-type"), said)
            case "error", _:
                return "error", _error(headers.get(":error-code"), headers.get(":error-message"))
            case kind, name:
                raise _malformed(f"a frame of the unknown kind {kind!r}, {name!r}")
    except (msgspec.DecodeError, ValueError) as error:
        raise _malformed(f"a frame cannot be read: {error}") from error


def _error(kind: object, said: object) -> bytes:
    """Return what an exception in the stream is as an event of the Messages API."""
    error = {"type": str(kind or ""), "message": str(said or "")}
    return msgspec.json.encode({"type": "error", "error": error})


def _malformed(what: str) -> ModelFailure:
    return ModelFailure("malformed", f"the stream is not one of AWS: {what}", status=200)


def _json(members: dict[str, Any]) -> bytes:
    return msgspec.json.encode(members)[1:-1]
