"""The language in which a scripted Claude is told what to say.

A script is a function of the request: the same request always gets the same reply, however often
it comes, in whatever order, and from whichever process.  Only a fault may depend on the attempt,
the number of times that identical request has been seen.  So a run that is killed and resumed
hears the same Claude as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

Block: TypeAlias = dict[str, Any]
"""A content block as the API writes it."""

FaultKind: TypeAlias = Literal[
    "status",  # an HTTP error with Anthropic's error body
    "error_event",  # 200, then an SSE `error` event in mid-stream
    "cut",  # the connection is closed in mid-stream
    "truncated",  # the stream ends cleanly, but without message_stop
    "reset",  # the connection is reset after the request came, before any answer
    "html",  # 200 with an HTML page, as a proxy in between would answer
    "stall",  # silence in mid-stream, then the connection is closed
    "pings",  # nothing but pings in mid-stream, then the connection is closed
    "delay",  # the right answer, late
    "drip",  # the right answer, a few bytes at a time
    "expired",  # in a batch: its time was over before this entry was begun
    "canceled",  # in a batch: it was canceled before this entry was begun
    "missing",  # in a batch: the entry was answered, and its result is not among the others
]

STREAMED: Final[frozenset[FaultKind]] = frozenset(
    {"error_event", "cut", "truncated", "stall", "pings"}
)
"""Faults that break an answer off, so they need one to break."""

SLOW: Final[frozenset[FaultKind]] = frozenset({"delay", "drip"})
"""Faults that are an answer all the same."""

ERROR_TYPES: Final[dict[int, str]] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""The API's `error.type` of a status; other 4xx are `invalid_request_error`, 5xx `api_error`."""


BATCHED: Final[frozenset[FaultKind]] = frozenset({"expired", "canceled", "missing"})
"""Faults of an entry of a batch; of those that others meet, all but a status are an api_error."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What Claude says next.  `say` makes one from blocks.

    Attributes:
        content: the blocks, or the JSON array of them as bytes, which is then sent as it stands.
            What is left out follows from the conversation: the `id` of a `tool_use` or a
            `server_tool_use`, the `tool_use_id` of a server tool's result, the signature of
            thinking and of a compaction, the data of redacted thinking.
        stop_reason: `auto` is `tool_use` when there is one, `compaction` when there is nothing
            else, or `end_turn`; `None` is null.
        usage: replaces members of the usage that is counted; also what is billed.
        extra: further members of the message, such as `stop_details` or `container`.
        first_token_s: seconds until the first event leaves.
        total_s: seconds until the last one has left.

    """

    content: Sequence[Block] | bytes
    stop_reason: str | None = "auto"
    usage: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    first_token_s: float = 0.0
    total_s: float = 0.0


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something goes wrong with one attempt.

    Attributes:
        status: the HTTP status of `status`, and of `error_event` for a client that does not stream.
        error_type: the API's `error.type`; by default the one that belongs to `status`.
        error_code: the API's `error.details.error_code`.
        headers: added to the answer, such as `retry-after`.
        after_events: how many SSE events leave before a streamed fault; by default all that come
            before `message_delta`, so that everything was said and only the end is missing.
        delay_s: seconds before anything leaves; for every kind.
        lasts_s: how many seconds `stall` and `pings` last before the cut, and `drip` to its end.
        body: what `html` answers instead of its own page.
        billed: whether the attempt is on the bill, in full.  By default it is when generation had
            begun, and is not for `status` and `html`.  `delay` and `drip` are an answer, so they
            always are.
        turn: what would have been answered; by default the script is asked, with attempt 0.

    """

    kind: FaultKind
    status: int = 529
    error_type: str = ""
    error_code: str = ""
    message: str = "a fault of the script"
    headers: dict[str, str] = {}
    after_events: int | None = None
    delay_s: float = 0.0
    lasts_s: float = 0.0
    body: str = ""
    billed: bool | None = None
    turn: Turn | None = None

    @property
    def is_billed(self) -> bool:
        """Whether the attempt is on the bill."""
        if self.kind in SLOW or self.kind == "missing":
            return True
        return self.kind in STREAMED or self.kind == "reset" if self.billed is None else self.billed

    @property
    def type(self) -> str:
        """The API's `error.type`."""
        return self.error_type or error_type(self.status)


Script: TypeAlias = Callable[[dict[str, Any], int], Turn | Fault]
"""`(request, attempt) -> Turn | Fault`: the decoded body, and how often this very request came.

Attempts count from 1.  Attempt 0 asks what would be said if nothing went wrong: to break a stream
off, to bill it, and to check that a client sends back what it was told.
"""

Rule: TypeAlias = Callable[[dict[str, Any], int], Fault | None]
"""`(request, attempt) -> Fault | None`: whether this attempt fails, and how."""


def say(
    *blocks: Block | str,
    stop_reason: str | None = "auto",
    usage: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
    first_token_s: float = 0.0,
    total_s: float = 0.0,
) -> Turn:
    """Return a turn of these blocks; a string is a text block."""
    return Turn(
        content=[text(block) if isinstance(block, str) else block for block in blocks],
        stop_reason=stop_reason,
        usage=usage or {},
        extra=extra or {},
        first_token_s=first_token_s,
        total_s=total_s,
    )


def text(value: str) -> Block:
    """Return a text block."""
    return {"type": "text", "text": value}


def tool_use(name: str, input: dict[str, Any]) -> Block:  # noqa: A002  (the API's word)
    """Return a call of a tool; its id follows from the conversation and its place in the reply."""
    return {"type": "tool_use", "name": name, "input": input}


def server_tool_use(name: str, input: dict[str, Any]) -> Block:  # noqa: A002  (the API's word)
    """Return a call that Anthropic itself runs, such as of `web_search`; searches are billed."""
    return {"type": "server_tool_use", "name": name, "input": input}


def server_tool_result(kind: str, content: Any) -> Block:
    """Return the result of the server tool call before it; `kind` is `web_search` and so on."""
    return {"type": f"{kind}_tool_result", "content": content}


def thinking(value: str) -> Block:
    """Return a block of thinking, signed over everything that was said before it."""
    return {"type": "thinking", "thinking": value}


def redacted_thinking() -> Block:
    """Return a block of thinking that nobody may read, bound like thinking."""
    return {"type": "redacted_thinking"}


def compaction(summary: str | None) -> Block:
    """Return the block that stands for everything before it; `None` is one that failed."""
    return {"type": "compaction", "content": summary}


def refuse(*blocks: Block | str, category: str | None = None, **details: Any) -> Turn:
    """Return a refusal, with what was said before it, and `stop_details` that say why.

    `details` are further members of them: `explanation`, `recommended_model` and so on.
    """
    stop_details = {"type": "refusal", "category": category, "explanation": None} | details
    return say(*blocks, stop_reason="refusal", extra={"stop_details": stop_details})


def faulty(script: Script, rule: Rule) -> Script:
    """Return `script` with the faults of `rule`; what is said otherwise stays the same."""

    def answer(request: dict[str, Any], attempt: int) -> Turn | Fault:
        fault = rule(request, attempt) if attempt else None
        return fault or script(request, attempt)

    return answer


def once(turn: int, fault: Fault, *, attempts: Sequence[int] = (1,)) -> Rule:
    """Return the rule that `fault` befalls those attempts of the conversation's n-th turn."""

    def rule(request: dict[str, Any], attempt: int) -> Fault | None:
        return fault if turn_number(request) == turn and attempt in attempts else None

    return rule


def any_of(*rules: Rule) -> Rule:
    """Return the rule that asks `rules` in order and takes the first fault."""

    def rule(request: dict[str, Any], attempt: int) -> Fault | None:
        return next((fault for ask in rules if (fault := ask(request, attempt))), None)

    return rule


def without_fault(script: Script, request: dict[str, Any]) -> Turn | None:
    """Return what `script` says when nothing goes wrong; `None` if it has no answer."""
    said = script(request, 0)
    return said if isinstance(said, Turn) else said.turn


def answered_by(fault: Fault, script: Script, request: dict[str, Any]) -> Fault:
    """Return `fault` with the turn it spoils filled in, where there is one."""
    return fault if fault.turn else replace(fault, turn=without_fault(script, request))


# ── what a script may want to know about a request ──────────────────────────────────────────────


def turn_number(request: dict[str, Any]) -> int:
    """Return which turn of Claude's this request asks for, from 1."""
    return 1 + [message["role"] for message in request["messages"]].count("assistant")


def last_text(request: dict[str, Any]) -> str:
    """Return what the last message with text from the user says, empty when there is none."""
    for message in reversed(request["messages"]):
        if message["role"] == "user" and (said := text_of(message["content"])):
            return said
    return ""


def tool_results(request: dict[str, Any]) -> list[Block]:
    """Return the `tool_result` blocks of the last message, in order."""
    content = request["messages"][-1]["content"]
    if isinstance(content, str):
        return []
    return [block for block in content if block.get("type") == "tool_result"]


def text_of(content: str | Sequence[Block] | None) -> str:
    """Return the text of a message's or a tool result's content."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(block["text"] for block in content if block.get("type") == "text")


def error_type(status: int) -> str:
    """Return the API's `error.type` of an HTTP status."""
    return ERROR_TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
