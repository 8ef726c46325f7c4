"""From what a script wants to say to what is said: ids, signatures, limits, and the tokens.

    Turn ─▶ ids and signatures ─▶ stop sequences ─▶ room ─▶ usage ─▶ Said

Room is what `max_tokens` and the context window leave.  Where it ends a text is broken off, and so
is the JSON of a tool's input; any other block that does not fit is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw

from outlast.models import catalogue, schema, signing
from outlast.models.identity import Identity, content_digest, identify
from outlast.models.prompt_cache import BYTES_PER_TOKEN, NOTHING, Caching, tokens
from outlast.models.script import Turn

SEARCHES: Final = {"web_search": "web_search_requests", "web_fetch": "web_fetch_requests"}
"""Server tools whose calls are counted, and under which name."""

_Block = dict[str, Raw]
_MEMBERS: Final = msgspec.json.Decoder(_Block)


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A whole reply, as it is sent."""

    message_id: str
    model: str
    blocks: tuple[bytes, ...]
    """Each one the JSON of a block, byte for byte as the script gave it."""
    stop_reason: str | None
    usage: dict[str, Any]
    extra: dict[str, Any]
    torn: str | None = None
    """The input of the last block as far as it came, which is no JSON; the block has `{}`."""
    is_literal: bool = False
    """Whether the script spelled the blocks itself, so that nothing may be added."""
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


class _Kept(msgspec.Struct):
    """What is left of the blocks, and why it is not more."""

    blocks: list[bytes]
    size: int
    stop_reason: str | None
    stop_sequence: str | None = None
    torn: str | None = None


def say_to(
    request: dict[str, Any], identity: Identity, turn: Turn, caching: Caching = NOTHING
) -> Said:
    """Return `turn` as it is said in that conversation."""
    blocks = list(_completed(request, identity, turn))
    kept = _Kept(blocks, sum(map(len, blocks)), _stop_reason(turn, blocks))
    if sequences := request.get("stop_sequences"):
        _stop(kept, sequences)
    if "output_tokens" not in turn.usage:
        _fit(kept, request, identity)
    stopped = {"stop_sequence": kept.stop_sequence} if kept.stop_sequence else {}
    return Said(
        message_id="msg_" + short(identity.conversation, "message"),
        model=request["model"],
        blocks=tuple(kept.blocks),
        stop_reason=kept.stop_reason,
        usage=_usage(request, identity, kept, caching) | turn.usage,
        extra=stopped | turn.extra,
        torn=kept.torn,
        is_literal=isinstance(turn.content, bytes),
        first_token_s=turn.first_token_s,
        total_s=turn.total_s,
    )


def unsaid(request: dict[str, Any], identity: Identity, caching: Caching) -> dict[str, Any]:
    """Return the usage of a request that was read, and not answered."""
    return _counted(request, caching.usage(tokens(identity.size)), 0)


def check_format(request: dict[str, Any], said: Said) -> None:
    """See that a finished reply is what `output_config.format` of the request asks for.

    Raises:
        ValueError: it is not, which the real Claude would not do.

    """
    form = (request.get("output_config") or {}).get("format")
    if not form or said.stop_reason != "end_turn" or said.is_literal:
        return  # what a script says as it stands may be what only a broken API would say
    told = "".join(
        block["text"] for block in msgspec.json.decode(said.content) if block["type"] == "text"
    )
    try:
        wrong = schema.misfit(msgspec.json.decode(told), form["schema"])
    except msgspec.DecodeError as error:
        wrong = f"it is not JSON ({error})"
    if wrong:
        raise ValueError(
            f"the request asks for JSON of a schema that {told[:200]!r} breaks: {wrong}"
        )


def short(seed: str, what: str) -> str:
    """Return the part of an id that follows from `seed` and its place."""
    return sha256(f"{seed}/{what}".encode()).hexdigest()[:24]


# ── ids and signatures ──────────────────────────────────────────────────────────────────────────


def _completed(request: dict[str, Any], identity: Identity, turn: Turn) -> Iterator[bytes]:
    """Yield the blocks with everything that the script left to be filled in."""
    conversation = bound = identity.conversation
    display = (request.get("thinking") or {}).get("display")
    called = ""
    for index, raw in enumerate(_split(turn.content)):
        members = _MEMBERS.decode(raw)
        kind = _text(members["type"])
        block = raw
        if kind in ("tool_use", "server_tool_use") and "id" not in members:
            prefix = "toolu_" if kind == "tool_use" else "srvtoolu_"
            block = _opened(raw, "id", prefix + short(conversation, str(index)))
        elif kind.endswith("_tool_result") and "tool_use_id" not in members:
            block = _opened(raw, "tool_use_id", called)
        elif kind == "thinking" and display == "omitted":
            block = msgspec.json.encode(members | {"thinking": Raw(b'""')})
        if kind == "server_tool_use":
            called = _text(_MEMBERS.decode(block)["id"])
        if (member := signing.SIGNED.get(kind)) and member not in members:
            signature = signing.sign(msgspec.json.decode(block), bound)
            block = b'%b,"%b":"%b"}' % (block[:-1], member.encode(), signature.encode())
        if kind == "compaction" and bytes(members.get("content", b"null")) != b"null":
            # What follows is thought from the summary alone, and sent back after nothing else.
            bound = identity.prefixes[0]
        yield block


def _split(content: Any) -> list[bytes]:
    if isinstance(content, bytes):
        return [bytes(block) for block in msgspec.json.decode(content, type=list[Raw])]
    return [msgspec.json.encode(block) for block in content]


def _opened(block: bytes, name: str, value: str) -> bytes:
    return block.replace(b"{", b'{"%b":"%b",' % (name.encode(), value.encode()), 1)


def _text(raw: Raw) -> str:
    return msgspec.json.decode(raw, type=str)


def _kind(block: bytes) -> str:
    return _text(_MEMBERS.decode(block)["type"])


def _stop_reason(turn: Turn, blocks: list[bytes]) -> str | None:
    if turn.stop_reason != "auto":
        return turn.stop_reason
    kinds = {_kind(block) for block in blocks}
    if kinds == {"compaction"}:
        return "compaction"
    return "tool_use" if "tool_use" in kinds else "end_turn"


# ── what is left of it ──────────────────────────────────────────────────────────────────────────


def _stop(kept: _Kept, sequences: list[str]) -> None:
    """End the reply where it says one of `sequences`."""
    for index, block in enumerate(kept.blocks):
        members = _MEMBERS.decode(block)
        if _text(members["type"]) != "text":
            continue
        told = _text(members["text"])
        found = [(told.find(each), each) for each in sequences if each in told]
        if found:
            at, kept.stop_sequence = min(found)
            short_of = msgspec.json.encode(told[:at])
            kept.blocks[index:] = [msgspec.json.encode(members | {"text": Raw(short_of)})]
            kept.size = sum(map(len, kept.blocks))
            kept.stop_reason = "stop_sequence"
            return


def _fit(kept: _Kept, request: dict[str, Any], identity: Identity) -> None:
    """End the reply where there is no more room for it."""
    model = catalogue.find(request["model"])
    left = model.context - tokens(identity.size) if model else request["max_tokens"]
    room = min(request["max_tokens"], left) * BYTES_PER_TOKEN
    if kept.size <= room and request["max_tokens"]:
        return
    kept.stop_reason = "max_tokens"
    if left < request["max_tokens"]:
        kept.stop_reason = "model_context_window_exceeded"
    kept.size = room
    blocks, kept.blocks = kept.blocks, []
    for block in blocks:
        if room < len(block):
            _break_off(kept, block, room)
            return
        kept.blocks.append(block)
        room -= len(block)


def _break_off(kept: _Kept, block: bytes, room: int) -> None:
    members = _MEMBERS.decode(block)
    kind = _text(members["type"])
    if kind == "text":
        told = _text(members["text"]).encode()
        if (left := room - len(block) + len(told)) > 0:
            part = msgspec.json.encode(told[:left].decode(errors="ignore"))
            kept.blocks.append(msgspec.json.encode(members | {"text": Raw(part)}))
    elif kind.endswith("tool_use"):
        given = bytes(members["input"])
        if (left := room - len(block) + len(given)) > 0:
            kept.torn = given[:left].decode(errors="ignore")
            kept.blocks.append(msgspec.json.encode(members | {"input": Raw(b"{}")}))


# ── the tokens ──────────────────────────────────────────────────────────────────────────────────


def _usage(
    request: dict[str, Any], identity: Identity, kept: _Kept, caching: Caching
) -> dict[str, Any]:
    sizes = [(_MEMBERS.decode(block), len(block)) for block in kept.blocks]
    kinds = [(_text(members["type"]), size) for members, size in sizes]
    prompt = caching.usage(tokens(identity.size))
    output = max(kept.size, 1) if request["max_tokens"] else 0
    usage = _counted(request, prompt, tokens(output))
    if thought := sum(size for kind, size in kinds if kind.endswith("thinking")):
        usage["output_tokens_details"] = {"thinking_tokens": tokens(thought)}
    if searched := _searches(members for members, _ in sizes):
        usage["server_tool_use"] = searched
    if compacted := sum(size for kind, size in kinds if kind == "compaction"):
        usage |= _iterations(request, prompt, compacted, output - compacted)
    return usage


def _counted(request: dict[str, Any], prompt: dict[str, Any], output: int) -> dict[str, Any]:
    return prompt | {"output_tokens": output, "service_tier": "standard"} | _terms(request)


def _terms(request: dict[str, Any]) -> dict[str, Any]:
    """Return what the usage of a request says beside counts that changes its price.

    A workspace is global by default; a turn whose `usage` says otherwise is of one that is not.
    """
    speed = {"speed": request["speed"]} if request.get("speed") else {}
    return {"inference_geo": request.get("inference_geo") or "global"} | speed


def _searches(blocks: Iterator[_Block]) -> dict[str, int]:
    names = [
        _text(members["name"]) for members in blocks if _text(members["type"]) == "server_tool_use"
    ]
    counted = {total: names.count(name) for name, total in SEARCHES.items()}
    return counted if any(counted.values()) else {}


def _iterations(
    request: dict[str, Any], prompt: dict[str, Any], compacted: int, rest: int
) -> dict[str, Any]:
    """Return the usage of a reply that compacts, and then may go on from the summary alone.

    What the compaction took stands in `iterations` and nowhere else.
    """
    first = {"type": "compaction", **prompt, "output_tokens": tokens(compacted)}
    if rest <= 0:
        return NOTHING.usage(0) | {"output_tokens": 0, "iterations": [first]}
    shorter = NOTHING.usage(tokens(identify(request | {"messages": []}).size + compacted))
    then = shorter | {"output_tokens": tokens(rest)}
    model = request["model"]
    return then | {"iterations": [first, {"type": "message", "model": model, **then}]}
