"""A Claude that answers from a script: strict, deterministic, and with a bill of its own.

    request ──▶ identity ──▶ strict ──▶ history ──▶ script ──▶ Answer
                   │                       ▲                     │
                   └─ attempts             └────── replies ◀─────┘

It knows no network, and the time only from the clock it is given.  The simulator sends its answers
over HTTP; `ScriptedModel` hands them over in process; so the two cannot disagree.

Tokens are counted as a quarter of the UTF-8 bytes, rounded up: of system, tools and messages for
the input, of the blocks for the output.  What of the input is read from the prompt cache or
written to it changes how it is billed, never how many tokens it is.  An answer that does not fit
into `max_tokens` is cut there, as the API does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw

from outlast.models import catalogue, prompt_cache, strict
from outlast.models.identity import Identity, content_digest, identify
from outlast.models.prompt_cache import BYTES_PER_TOKEN, NOTHING, Caching, PromptCache, tokens
from outlast.models.script import (
    STREAMED,
    Block,
    Fault,
    Script,
    Turn,
    answered_by,
    without_fault,
)

MAX_BODY: Final = 32 * 1024 * 1024
"""The largest request the API reads, in bytes."""

CONTINUED: Final = frozenset({"pause_turn", "compaction"})
"""Stop reasons after which a conversation may end with what Claude said, and Claude goes on."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A whole reply, as it is sent."""

    message_id: str
    model: str
    blocks: tuple[bytes, ...]
    """Each one the JSON of a block, byte for byte as the script gave it."""
    stop_reason: str | None
    usage: dict[str, Any]
    extra: dict[str, Any]
    first_token_s: float = 0.0
    total_s: float = 0.0

    @property
    def content(self) -> bytes:
        """The JSON array of the blocks."""
        return b"[%b]" % b",".join(self.blocks)

    @property
    def digest(self) -> str:
        """The hash by which it is recognised when a client sends it back."""
        return content_digest(msgspec.json.decode(self.content))


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What comes of one request.

    Attributes:
        request: the decoded body.
        attempt: how often this very request came, this time included.
        said: the reply, also when `fault` spoils it; `None` when there is none.
        fault: what goes wrong; for a request that was refused, the API's own refusal.
        outcome: `complete`, the kind of the fault, or `refused`.
        usage: what is billed; `None` when nothing is.
        at: when it was answered, in nanoseconds since the epoch.
        cached: the entries of the prompt cache that it wrote or used, and the `ttl` of each.

    """

    request: dict[str, Any]
    identity: Identity
    attempt: int
    request_id: str
    outcome: str
    said: Said | None = None
    fault: Fault | None = None
    usage: dict[str, Any] | None = None
    at: int = 0
    cached: Mapping[str, str] = {}

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return self.request.get("stream") is True

    @property
    def nano(self) -> int:
        """What it costs, in nano-dollars."""
        return catalogue.cost_nano(self.request["model"], self.usage) if self.usage else 0


class Claude:
    """Answers requests from `script`, and remembers how often each came and what it said.

    With `check_history` an assistant message that is not what Claude said at that point of the
    conversation is refused, as the API does where thinking is bound to it.  `clock` gives the
    time in nanoseconds since the epoch, by which the prompt cache forgets.
    """

    def __init__(
        self,
        script: Script,
        *,
        check_history: bool = True,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._script = script
        self._clock = clock
        self._cache = PromptCache()
        self._check_history = check_history
        self._attempts: dict[str, int] = {}
        self._replies: dict[str, dict[str, str | None]] = {}

    def answer(self, body: bytes) -> Answer:
        """Return what comes of the request; it counts as seen from now on.

        Raises:
            Exception: whatever the script raises.

        """
        if len(body) > MAX_BODY:
            too_large = f"Request exceeds the maximum size: {len(body)} bytes > {MAX_BODY}"
            return self._unread(body, strict.invalid(too_large, status=413))
        try:
            request = msgspec.json.decode(body)
            if not isinstance(request, dict):
                raise msgspec.DecodeError("the body must be an object")  # noqa: TRY301
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return self._unread(
                body, strict.invalid(f"The request body is not valid JSON: {error}")
            )
        identity = identify(request)
        attempt = self._attempts.get(identity.key, 0) + 1
        self._attempts[identity.key] = attempt
        refusal = strict.refusal(request) or self._too_long(request, identity)
        refusal = refusal or self._changed_history(request, identity)
        if refusal:
            return _refused(request, identity, attempt, refusal)
        return self._scripted(request, identity, attempt)

    def remember_attempt(self, key: str) -> None:
        """Count a request of an earlier life of this Claude."""
        self._attempts[key] = self._attempts.get(key, 0) + 1

    def remember_reply(self, conversation: str, digest: str, stop_reason: str | None) -> None:
        """Know a reply to `conversation` again when a client sends it back."""
        self._replies.setdefault(conversation, {})[digest] = stop_reason

    def remember_cached(self, digest: str, ttl: str, at: int) -> None:
        """Keep an entry of the prompt cache that was written or used at that time."""
        self._cache.use(digest, ttl, at)

    def _scripted(self, request: dict[str, Any], identity: Identity, attempt: int) -> Answer:
        turn = self._script(request, attempt)
        fault = None
        if isinstance(turn, Fault):
            fault = answered_by(turn, self._script, request)
            _check_fault(fault)
        said_turn = fault.turn if fault else turn
        now = self._clock()
        caching = self._caching(request, now)
        said = None
        if isinstance(said_turn, Turn):
            said = say_to(request, identity, said_turn, caching)
        if said and not (fault and fault.kind != "delay"):
            self.remember_reply(identity.conversation, said.digest, said.stop_reason)
        usage = said.usage if said else _usage(identity, 0, caching)
        is_billed = fault is None or fault.is_billed
        for digest, ttl in caching.used.items() if is_billed else ():
            self._cache.use(digest, ttl, now)
        return Answer(
            request=request,
            identity=identity,
            attempt=attempt,
            request_id=_request_id(identity.key, attempt),
            outcome="complete" if fault is None or fault.kind == "delay" else fault.kind,
            said=said,
            fault=fault,
            usage=usage if is_billed else None,
            at=now,
            cached=caching.used if is_billed else {},
        )

    def _caching(self, request: dict[str, Any], now: int) -> Caching:
        model = catalogue.find(request["model"])
        if model is None or not prompt_cache.marks(request):
            return NOTHING
        return self._cache.look(prompt_cache.positions(request), model.cacheable, now)

    def _too_long(self, request: dict[str, Any], identity: Identity) -> Fault | None:
        model = catalogue.find(request["model"])
        size, limit = tokens(identity.size), model.context if model else 0
        if size <= limit:
            return None
        return strict.invalid(f"prompt is too long: {size} tokens > {limit} maximum")

    def _changed_history(self, request: dict[str, Any], identity: Identity) -> Fault | None:
        if not self._check_history:
            return None
        messages = request["messages"]
        stop_reason: str | None = None
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            known = self._known(request, identity.prefixes[index], index)
            digest = content_digest(message["content"])
            if known is not None and digest not in known:
                return strict.invalid(
                    f"messages.{index}: the history was changed: Claude said something else here. "
                    "Send what came back as it came, unknown blocks and fields included."
                )
            stop_reason = (known or {}).get(digest)
        if messages[-1]["role"] == "assistant" and stop_reason not in CONTINUED:
            return strict.invalid(
                "This model does not support assistant message prefill. "
                "The conversation must end with a user message."
            )
        return None

    def _known(
        self, request: dict[str, Any], conversation: str, length: int
    ) -> dict[str, str | None] | None:
        """Return what Claude may have said after the first `length` messages, `None` if unknown."""
        if conversation not in self._replies:
            prefix = request | {"messages": request["messages"][:length]}
            turn = without_fault(self._script, prefix)
            if turn is None:
                return None
            said = say_to(prefix, identify(prefix), turn)
            self.remember_reply(conversation, said.digest, said.stop_reason)
        return self._replies[conversation]

    def _unread(self, body: bytes, refusal: Fault) -> Answer:
        key = sha256(body).hexdigest()
        self.remember_attempt(key)
        return _refused({}, Identity(key, ("",), 0), self._attempts[key], refusal)


def say_to(
    request: dict[str, Any], identity: Identity, turn: Turn, caching: Caching = NOTHING
) -> Said:
    """Return `turn` as it is said in that conversation: with ids, counted, within `max_tokens`."""
    seed = identity.conversation
    blocks = [_with_id(block, seed, index) for index, block in enumerate(_split(turn.content))]
    size, limit = sum(map(len, blocks)), request["max_tokens"] * BYTES_PER_TOKEN
    stop_reason = _stop_reason(turn, blocks)
    if size > limit and "output_tokens" not in turn.usage:
        blocks, size, stop_reason = _cut(blocks, limit), limit, "max_tokens"
    return Said(
        message_id="msg_" + _short(seed, "message"),
        model=request["model"],
        blocks=tuple(blocks),
        stop_reason=stop_reason,
        usage=_usage(identity, max(size, 1), caching) | turn.usage,
        extra=turn.extra,
        first_token_s=turn.first_token_s,
        total_s=turn.total_s,
    )


def _split(content: Any) -> list[bytes]:
    if isinstance(content, bytes):
        return [bytes(block) for block in msgspec.json.decode(content, type=list[Raw])]
    return [msgspec.json.encode(block) for block in content]


def _with_id(block: bytes, seed: str, index: int) -> bytes:
    members = msgspec.json.decode(block, type=dict[str, Raw])
    if bytes(members["type"]) != b'"tool_use"' or "id" in members:
        return block
    name = b'"id":"toolu_%b",' % _short(seed, str(index)).encode()
    return block.replace(b"{", b"{" + name, 1)


def _stop_reason(turn: Turn, blocks: list[bytes]) -> str | None:
    if turn.stop_reason != "auto":
        return turn.stop_reason
    uses = any(msgspec.json.decode(block)["type"] == "tool_use" for block in blocks)
    return "tool_use" if uses else "end_turn"


def _cut(blocks: list[bytes], limit: int) -> list[bytes]:
    # A block that does not fit is left out, but a text is broken off where the room ends.
    kept: list[bytes] = []
    for block in blocks:
        if limit < len(block):
            decoded: Block = msgspec.json.decode(block)
            room = limit - len(block) + len(decoded.get("text", "").encode())
            if decoded["type"] == "text" and room > 0:
                part = decoded["text"].encode()[:room].decode(errors="ignore")
                kept.append(msgspec.json.encode(decoded | {"text": part}))
            break
        kept.append(block)
        limit -= len(block)
    return kept


def _usage(identity: Identity, output_bytes: int, caching: Caching) -> dict[str, Any]:
    return caching.usage(tokens(identity.size)) | {
        "output_tokens": tokens(output_bytes),
        "service_tier": "standard",
    }


def _refused(request: dict[str, Any], identity: Identity, attempt: int, refusal: Fault) -> Answer:
    return Answer(
        request=request,
        identity=identity,
        attempt=attempt,
        request_id=_request_id(identity.key, attempt),
        outcome="refused",
        fault=refusal,
    )


def _check_fault(fault: Fault) -> None:
    if fault.turn is None and fault.kind in (*STREAMED, "delay"):
        raise ValueError(
            f"the script answers attempt 0 with a fault, so there is no turn that {fault.kind!r} "
            "could spoil: give Fault(turn=…), or answer attempt 0 with a Turn"
        )


def _request_id(key: str, attempt: int) -> str:
    return "req_" + _short(key, str(attempt))


def _short(seed: str, what: str) -> str:
    return sha256(f"{seed}/{what}".encode()).hexdigest()[:24]
