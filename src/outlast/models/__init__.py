"""What a model is to the run loop: something that takes a `Request` and gives a `Reply`.

Two kinds: `models.anthropic` asks Claude over the network, `models.scripted` answers from a
function, for tests, the demo and the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from msgspec import Raw

from outlast.events import RETRYABLE as RETRYABLE
from outlast.events import UNBILLED as UNBILLED


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of one model call, joined from what the journal holds."""

    run_id: str
    ask_id: str
    call_id: str
    attempt: int
    model: str
    max_tokens: int
    head: bytes
    """The frozen members of the body, without braces: `"model":…,"system":…,"tools":…`."""
    messages: Sequence[bytes]
    """Every message of the conversation as encoded once, oldest first."""

    def body(self) -> bytes:
        """Return the request body: JSON, streaming on."""
        return b'{%b,"max_tokens":%d,"stream":true,"messages":[%b]}' % (
            self.head,
            self.max_tokens,
            b",".join(self.messages),
        )


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole reply, `message_stop` included."""

    content: Raw
    """The blocks as they came: a JSON array."""
    stop_reason: str | None
    usage: Raw
    """The usage object as it came."""
    model: str = ""
    request_id: str = ""
    message_id: str = ""
    extra: Raw = Raw(b"{}")
    """Every other member of the message: a JSON object."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a reply as it comes, for people to watch."""

    run_id: str
    ask_id: str
    call_id: str
    attempt: int
    kind: str
    """`text`, `thinking`, `tool_use` (the name), or `discarded`: this attempt came to nothing."""
    text: str


class Model(Protocol):
    """Asks a model once.  Retries are the run loop's business, never the model's."""

    async def call(self, request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
        """Return the whole reply.

        Raises:
            ModelFailure: there is none, and why.

        """
        ...
