"""What a model is to the run loop: something that takes a `Request` and gives a `Reply`.

Two kinds: `models.anthropic` asks Claude over the network, `models.scripted` answers from a
function, for tests, the demo and the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Protocol, runtime_checkable

import msgspec
from msgspec import Raw

from outlast.errors import ModelFailure
from outlast.events import RETRYABLE as RETRYABLE
from outlast.events import UNBILLED as UNBILLED

UNCOUNTED: Final = frozenset(
    {
        "billing_policy",
        "container",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "max_tokens",
        "metadata",
        "service_tier",
        "stop_sequences",
        "stream",
        "temperature",
        "thread",
        "top_k",
        "top_p",
    }
)
"""Members of a request that say nothing of its input, so that counting its tokens refuses them."""


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

    def body(
        self, members: bytes = b'"stream":true', *, without: frozenset[str] = frozenset()
    ) -> bytes:
        """Return the request body as JSON, joined from what was encoded once.

        Args:
            members: what the body has beside its head, limit and messages, without braces.
            without: members of the head that are left out, where a client says them elsewhere.

        """
        head = thinned(self.head, without) if without else self.head
        return _joined(self.messages, head, b'"max_tokens":%d' % self.max_tokens, members)

    def counted_body(self, members: bytes = b"") -> bytes:
        """Return the body that asks how many tokens the input is; see `body`."""
        return _joined(self.messages, thinned(self.head, UNCOUNTED), members)


def _joined(messages: Sequence[bytes], *members: bytes) -> bytes:
    """Return a body, joined at once: each copy of a long one costs as much as a whole commit."""
    opening = b'{%b,"messages":[' % b",".join(filter(None, members))
    pieces = list(messages) or [b""]
    pieces[0] = opening + pieces[0]
    pieces[-1] += b"]}"
    return b",".join(pieces)


@lru_cache(maxsize=64)
def thinned(head: bytes, without: frozenset[str]) -> bytes:
    """Return a head without some of its members; the others are as they were."""
    members = members_of(head)
    if without.isdisjoint(members):
        return head
    kept = (
        b"%b:%b" % (msgspec.json.encode(name), raw)
        for name, raw in members.items()
        if name not in without
    )
    return b",".join(kept)


@lru_cache(maxsize=64)
def members_of(head: bytes) -> Mapping[str, Raw]:
    """Return the members of a head, each as it was encoded."""
    return _MEMBERS.decode(b"{%b}" % head)


_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])


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
    told: Mapping[str, tuple[int, int]] = {}
    """What the headers said of rate limits: of `requests`, `input_tokens` and `output_tokens` how
    many a minute the API takes, and how many it has left."""


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


@runtime_checkable
class Keyed(Protocol):
    """A model that can say whose rate limits its calls count against.  Not every one can."""

    def key(self) -> str:
        """Return what tells the API key, or the client, from others, and not the key itself.

        Empty where it is not known.
        """
        ...


@runtime_checkable
class Batcher(Protocol):
    """A model that takes many requests at once, at half price, and answers within a day."""

    def no_batches(self) -> str:
        """Return why it cannot after all, as with the clients of some clouds; empty if it can."""
        ...

    async def send_batch(self, requests: Mapping[str, Request]) -> str:
        """Send requests, each under a custom id, and return the id of the batch they are.

        Raises:
            ModelFailure: it was not accepted, or nobody knows.

        """
        ...

    async def batch_ended(self, batch_id: str) -> bool:
        """Return whether the results of a batch are there; nothing is billed.

        Raises:
            ModelFailure: that was not to be learned.

        """
        ...

    async def batch_results(self, batch_id: str) -> Mapping[str, Reply | ModelFailure]:
        """Return what came of each request of a batch that ended, by its custom id.

        Raises:
            ModelFailure: that was not to be learned.

        """
        ...


@runtime_checkable
class TokenCounter(Protocol):
    """A model that can say how large a request is.  Not every one can."""

    async def count_tokens(self, request: Request) -> int:
        """Return how many input tokens the API would count for `request`; nothing is billed.

        Raises:
            ModelFailure: it did not say, and why; `not_found` where nobody there can count.

        """
        ...
