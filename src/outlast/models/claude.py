"""A Claude that answers from a script: strict, deterministic, and with a bill of its own.

    request ──▶ identity ──▶ strict ──▶ history ──▶ script ──▶ saying ──▶ Answer
                   │                       ▲                       │
                   └─ attempts             └─────── replies ◀──────┘

It knows no network, and the time only from the clock it is given.  The simulator sends its answers
over HTTP; `ScriptedModel` hands them over in process; so the two cannot disagree.

Tokens are counted as a quarter of the UTF-8 bytes, rounded up: of system, tools and messages for
the input, of the blocks for the output.  What of the input is read from the prompt cache or
written to it changes how it is billed, never how many tokens it is.  An answer that does not fit
into `max_tokens` is cut there, as the API does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from outlast.models import batched, catalogue, prompt_cache, signing, strict
from outlast.models.identity import Identity, content_digest, identify
from outlast.models.prompt_cache import NOTHING, Caching, PromptCache, tokens
from outlast.models.quotas import Quota, Quotas
from outlast.models.saying import Said, check_format, say_to, short, unsaid
from outlast.models.script import (
    BATCHED,
    SLOW,
    STREAMED,
    Fault,
    Rule,
    Script,
    Turn,
    answered_by,
    without_fault,
)

MAX_BODY: Final = 32 * 1024 * 1024
"""The largest request the API reads, in bytes."""

CONTINUED: Final = frozenset({"pause_turn", "compaction"})
"""Stop reasons after which a conversation may end with what Claude said, and Claude goes on."""


_CODES: Final = {"compaction": "compaction_signature_invalid"}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What comes of one request.

    Attributes:
        request: the decoded body.
        attempt: how often this very request came, this time included.
        said: the reply, also when `fault` spoils it; `None` when there is none.
        fault: what goes wrong; for a request that was refused, the API's own refusal.
        outcome: `complete`, the kind of the fault, `refused`, or `rate_limited` by the quota.
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


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What comes of sending a batch.

    Attributes:
        batch: what was accepted; `None` when nothing was.
        answers: the body of each entry and what came of it.
        fault: why it was not accepted, or what spoils the answer that it was.

    """

    batch: batched.Batch | None = None
    answers: tuple[tuple[bytes, Answer], ...] = ()
    fault: Fault | None = None


class Claude:
    """Answers requests from `script`, and remembers how often each came and what it said.

    With `check_history` an assistant message that is not what Claude said at that point of the
    conversation is refused, as the API does where thinking is bound to it, and so is anything but
    Claude's own words after a turn that was paused.  `clock` gives the
    time in nanoseconds since the epoch, by which the prompt cache forgets.  `quota` is what each
    key may ask for; a request beyond it is answered 429 and not counted as an attempt.
    `batch_faults` is the rule of what goes wrong with sending a batch: it is asked with the body,
    and with the number of batches that were sent so far, this one included.
    """

    def __init__(
        self,
        script: Script,
        *,
        check_history: bool = True,
        clock: Callable[[], int] = time.time_ns,
        quota: Quota | None = None,
        batch_faults: Rule | None = None,
    ) -> None:
        self._script = script
        self._batch_faults = batch_faults
        self._batches = 0
        self.quota = quota or Quota()
        self._quotas = Quotas(self.quota)
        self._clock = clock
        self._cache = PromptCache()
        self._check_history = check_history
        self._attempts: dict[str, int] = {}
        self._replies: dict[str, dict[str, str | None]] = {}
        self._said: dict[str, str | None] = {}

    def answer(self, body: bytes, key: str = "", *, batch: bool = False) -> Answer:
        """Return what comes of the request of an API key; it counts as seen from now on.

        With `batch` it is an entry of one, for which the quotas of messages do not count.

        Raises:
            Exception: whatever the script raises.

        """
        request = _read(body)
        if isinstance(request, Fault):
            return self._unread(body, request)
        identity = identify(request)
        attempt = self._attempts.get(identity.key, 0) + 1
        refusal = _streamed(request) if batch else None
        refusal = refusal or strict.refusal(request) or self._too_long(request, identity)
        refusal = refusal or self._forged(request, identity)
        refusal = refusal or self._changed_history(request, identity)
        now = self._clock()
        caching = NOTHING
        if not refusal and b"cache_control" in body:
            caching = self._caching(request, now)
        if not refusal and not batch:
            needed = tokens(identity.size) - caching.read
            limited = self._quotas.refusal(key, request["model"], needed, now)
            if limited:
                return _refused(request, identity, attempt, limited, "rate_limited")
        self._attempts[identity.key] = attempt
        if refusal:
            return _refused(request, identity, attempt, refusal)
        turn = self._turn(request, attempt)
        if batch:
            return self._scripted(request, identity, attempt, caching, _entered(turn))
        if isinstance(turn, Fault) and turn.kind in BATCHED:
            raise ValueError(f"the fault {turn.kind!r} befalls entries of batches only")
        answer = self._scripted(request, identity, attempt, caching, turn)
        self._quotas.take(key, request["model"], answer.usage or {}, now)
        return answer

    def batch(self, body: bytes, key: str = "") -> Sent:
        """Return what comes of sending a batch; each of its entries counts as seen from now on.

        Raises:
            Exception: whatever the script or the rule raises.

        """
        posted = batched.read(body)
        if isinstance(posted, str):
            return Sent(fault=strict.invalid(posted))
        self._batches += 1
        number, now = self._batches, self._clock()
        rule = self._batch_faults
        fault = rule(msgspec.json.decode(body), number) if rule else None
        if fault and fault.kind not in SLOW and not fault.is_billed:
            return Sent(fault=fault)
        answers = {
            entry.custom_id: (
                bytes(entry.params),
                self.answer(bytes(entry.params), key, batch=True),
            )
            for entry in posted.requests
        }
        results = {
            name: answer.said if answer.usage is not None and answer.said else answer.fault
            for name, (_, answer) in answers.items()
            if answer.outcome != "missing"
        }
        slowest_s = max(_lasts_s(answer) for _, answer in answers.values())
        batch = batched.Batch(
            id="msgbatch_" + short(sha256(body).hexdigest(), f"{number} {now}"),
            created_at=now,
            ends_at=now + int(slowest_s * 1e9),
            results={name: result for name, result in results.items() if result is not None},
        )
        return Sent(batch=batch, answers=tuple(answers.values()), fault=fault)

    def now(self) -> int:
        """Return the time, in nanoseconds since the epoch."""
        return self._clock()

    def count(self, body: bytes) -> int | Fault:
        """Return how many tokens the input of a request is, or why the API refuses to count."""
        request = _read(body)
        if isinstance(request, Fault):
            return request
        return strict.refusal(request, counting=True) or tokens(identify(request).size)

    def limits(self, key: str, model: str) -> dict[str, str]:
        """Return the headers that tell an API key what it has left."""
        return self._quotas.headers(key, model, self._clock())

    def remember_attempt(self, key: str) -> None:
        """Count a request of an earlier life of this Claude."""
        self._attempts[key] = self._attempts.get(key, 0) + 1

    def remember_reply(self, conversation: str, digest: str, stop_reason: str | None) -> None:
        """Know a reply to `conversation` again when a client sends it back."""
        self._replies.setdefault(conversation, {})[digest] = stop_reason
        self._said[digest] = stop_reason

    def remember_cached(self, digest: str, ttl: str, at: int) -> None:
        """Keep an entry of the prompt cache that was written or used at that time."""
        self._cache.use(digest, ttl, at)

    def _scripted(
        self,
        request: dict[str, Any],
        identity: Identity,
        attempt: int,
        caching: Caching,
        turn: Turn | Fault,
    ) -> Answer:
        now = self._clock()
        fault = turn if isinstance(turn, Fault) else None
        said_turn = fault.turn if fault else turn
        said = None
        if isinstance(said_turn, Turn):
            said = say_to(request, identity, said_turn, caching)
        if said and (fault is None or fault.kind in SLOW):
            self.remember_reply(identity.conversation, said.digest, said.stop_reason)
            if fault is None or fault.kind in SLOW:
                check_format(request, said)
        usage = said.usage if said else unsaid(request, identity, caching)
        is_billed = fault is None or fault.is_billed
        for digest, ttl in caching.used.items() if is_billed else ():
            self._cache.use(digest, ttl, now)
        return Answer(
            request=request,
            identity=identity,
            attempt=attempt,
            request_id=_request_id(identity.key, attempt),
            outcome="complete" if fault is None or fault.kind in SLOW else fault.kind,
            said=said,
            fault=fault,
            usage=usage if is_billed else None,
            at=now,
            cached=caching.used if is_billed else {},
        )

    def _turn(self, request: dict[str, Any], attempt: int) -> Turn | Fault:
        turn = self._script(request, attempt)
        if isinstance(turn, Fault):
            turn = answered_by(turn, self._script, request)
            _check_fault(turn)
        return turn

    def _caching(self, request: dict[str, Any], now: int) -> Caching:
        model = catalogue.find(request["model"])
        if model is None:
            return NOTHING
        return self._cache.look(prompt_cache.positions(request), model.cacheable, now)

    def _too_long(self, request: dict[str, Any], identity: Identity) -> Fault | None:
        model = catalogue.find(request["model"])
        size, limit = tokens(identity.size), model.context if model else 0
        if size <= limit:
            return None
        return strict.invalid(f"prompt is too long: {size} tokens > {limit} maximum")

    def _forged(self, request: dict[str, Any], identity: Identity) -> Fault | None:
        """Return the refusal of thinking or a compaction that is not as Claude signed it."""
        model = catalogue.find(request["model"])
        for index, message in enumerate(request["messages"]):
            if message["role"] != "assistant" or isinstance(message["content"], str):
                continue
            before = identity.prefixes[index]
            for at, block in enumerate(message["content"]):
                if block["type"] not in signing.SIGNED:
                    continue
                wrong = ""
                if signing.is_ours(block):
                    wrong = signing.fault(block, before, binds=model is not None and model.binds)
                elif not (self._check_history or self._was_said(message, before)) and (
                    block.get(signing.SIGNED[block["type"]]) is not None
                ):
                    wrong = f"Invalid signature in `{block['type']}` block"
                if wrong:
                    return strict.invalid(
                        f"messages.{index}.content.{at}: {wrong}", code=_CODES.get(block["type"])
                    )
        return None

    def _was_said(self, message: dict[str, Any], conversation: str) -> bool:
        return content_digest(message["content"]) in self._replies.get(conversation, {})

    def _changed_history(self, request: dict[str, Any], identity: Identity) -> Fault | None:
        if not self._check_history:
            return None
        messages = request["messages"]
        stop_reason: str | None = None
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                if stop_reason == "pause_turn":
                    return strict.invalid(
                        f"messages.{index}: the turn before was paused (stop_reason `pause_turn`). "
                        "Send it back as it came, with nothing after it, and Claude goes on."
                    )
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
        if not length:
            return self._compacted(request["messages"][0])
        if conversation not in self._replies:
            prefix = request | {"messages": request["messages"][:length]}
            turn = without_fault(self._script, prefix)
            if turn is None:
                return None
            # It may have had more room then: a budget that shrinks leaves a client less.
            for room in ({}, {"max_tokens": sys.maxsize}):
                said = say_to(prefix | room, identify(prefix), turn)
                self.remember_reply(conversation, said.digest, said.stop_reason)
        return self._replies[conversation]

    def _compacted(self, message: dict[str, Any]) -> dict[str, str | None]:
        """Return what may open a conversation: a reply that begins with a compaction.

        One that nobody remembers is known by its signature, if it is nothing but a compaction.
        """
        digest = content_digest(message["content"])
        if digest not in self._said and len(message["content"]) == 1:
            return {digest: "compaction"} if signing.is_ours(message["content"][0]) else {}
        return {digest: self._said[digest]} if digest in self._said else {}

    def _unread(self, body: bytes, refusal: Fault) -> Answer:
        key = sha256(body).hexdigest()
        self.remember_attempt(key)
        return _refused({}, Identity(key, ("",), 0), self._attempts[key], refusal)


def _read(body: bytes) -> dict[str, Any] | Fault:
    if len(body) > MAX_BODY:
        too_large = f"Request exceeds the maximum size: {len(body)} bytes > {MAX_BODY}"
        return strict.invalid(too_large, status=413)
    try:
        request = msgspec.json.decode(body)
        if not isinstance(request, dict):
            raise msgspec.DecodeError("the body must be an object")  # noqa: TRY301
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return strict.invalid(f"The request body is not valid JSON: {error}")
    return request


def _refused(
    request: dict[str, Any],
    identity: Identity,
    attempt: int,
    refusal: Fault,
    outcome: str = "refused",
) -> Answer:
    return Answer(
        request=request,
        identity=identity,
        attempt=attempt,
        request_id=_request_id(identity.key, attempt),
        outcome=outcome,
        fault=refusal,
    )


def _streamed(request: dict[str, Any]) -> Fault | None:
    """Return the refusal of an entry of a batch that asks for a stream."""
    return strict.invalid("stream: not available in a batch") if request.get("stream") else None


def _entered(turn: Turn | Fault) -> Turn | Fault:
    """Return what is said to an entry of a batch, or befalls it.

    Its usage names the batch, and what errored is not billed.
    """
    if isinstance(turn, Turn):
        return _batched(turn)
    said = None if turn.turn is None else _batched(turn.turn)
    return replace(turn, turn=said, billed=turn.kind in SLOW or turn.kind == "missing")


def _batched(turn: Turn) -> Turn:
    return replace(turn, usage={"service_tier": "batch"} | turn.usage)


def _lasts_s(answer: Answer) -> float:
    """Return after how many seconds the answer to an entry of a batch is there."""
    pace = max(answer.said.first_token_s, answer.said.total_s) if answer.said else 0.0
    return pace + (answer.fault.delay_s + answer.fault.lasts_s if answer.fault else 0.0)


def _check_fault(fault: Fault) -> None:
    if fault.turn is None and fault.kind in STREAMED | SLOW:
        raise ValueError(
            f"the script answers attempt 0 with a fault, so there is no turn that {fault.kind!r} "
            "could spoil: give Fault(turn=…), or answer attempt 0 with a Turn"
        )


def _request_id(key: str, attempt: int) -> str:
    return "req_" + short(key, str(attempt))
