"""Content blocks as the API takes them: what a `dict` may hold, and where its texts and bytes are.

Every member is known here, so each text is redacted, all bytes are put away, and nobody can write
down by hand what stands for bytes that were put away before.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from outlast.errors import InvalidInput
from outlast.media import reference
from outlast.redaction import Redact

MAX_BYTES: Final = 24_000_000
"""How large one image or document may be: a request holds 32 MB, and base64 takes four thirds."""

IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

Put: TypeAlias = Callable[[bytes], str]


def block(given: Mapping[str, Any], put: Put, redact: Redact) -> dict[str, Any]:
    """Return a content block, its texts redacted and its bytes put away.

    Raises:
        InvalidInput: the API would not take it, or it has a breakpoint for the prompt cache.

    """
    return _read(given, _BLOCKS, "content block", put, redact)


def stored(media_type: str, data: bytes, put: Put) -> dict[str, Any]:
    """Return the source of an image or a PDF, its bytes put away."""
    if not data or len(data) > MAX_BYTES:
        raise InvalidInput(
            f"an image or document of {len(data)} bytes cannot be sent: the limit is {MAX_BYTES}; "
            "make it smaller, or upload it with the Files API and give a File"
        )
    return {"type": "base64", "media_type": media_type, "data": reference(put(data))}


def said(text: Any, redact: Redact) -> str:
    """Return a text of which something is left when it is redacted."""
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(
            f"the input is {_cut(text)}, and Claude cannot be asked nothing; give it a question"
        )
    left = redact(text)
    if not left.strip():
        raise InvalidInput("redact= leaves nothing of the input, and Claude cannot be asked that")
    return left


def address(url: Any, redact: Redact) -> str:
    """Return an address from which Claude can fetch something."""
    if not isinstance(url, str) or not url.startswith("https://"):
        raise InvalidInput(
            f"{_cut(url)} is no address that begins with https://, and Claude fetches no other"
        )
    left = redact(url)
    if not left.startswith("https://"):
        raise InvalidInput("redact= leaves no address of an image or document; give its bytes")
    return left


def file_id(name: Any, _put: Put | None = None, _: Redact | None = None) -> str:
    """Return the name of a file of the Files API, which is no text to redact."""
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput(f"{_cut(name)} is no id of a file; the Files API gives it: 'file_…'")
    return name


def encoded(data: bytes) -> bytes:
    """Return bytes as a request holds them."""
    return base64.standard_b64encode(data)


def encoded_size(size: int) -> int:
    """Return how long so many bytes are in a request."""
    return -(-size // 3) * 4


# ── the members ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Member:
    """How a member is read, and whether it has to be there."""

    read: Callable[[Any, Put, Redact], Any]
    required: bool = True


Members: TypeAlias = Mapping[str, _Member]


def _read(
    given: Any, kinds: Mapping[str, Members], what: str, put: Put, redact: Redact
) -> dict[str, Any]:
    """Return an object of one of these kinds, every member of it read."""
    kind = given.get("type") if isinstance(given, Mapping) else None
    members = kinds.get(kind) if isinstance(kind, str) else None
    if members is None:
        shown = f"of type {kind!r}" if isinstance(given, Mapping) else _cut(given)
        raise InvalidInput(
            f"a {what} {shown} cannot be given to Claude; the types are {', '.join(sorted(kinds))}"
        )
    _refuse_marker(given)
    if unknown := [name for name in given if name != "type" and name not in members]:
        raise InvalidInput(
            f"a {what} of type {kind!r} has no member {unknown[0]!r}; "
            f"it may have {', '.join(members)}"
        )
    for name, member in members.items():
        if member.required and given.get(name) is None:
            raise InvalidInput(f"a {what} of type {kind!r} needs the member {name!r}")
    if kind == "base64":
        return stored(
            members["media_type"].read(given["media_type"], put, redact), _decoded(given), put
        )
    return {
        name: one if name == "type" or one is None else members[name].read(one, put, redact)
        for name, one in given.items()
    }


def _refuse_marker(given: Mapping[str, Any]) -> None:
    if "cache_control" in given:
        raise InvalidInput(
            "a content block has cache_control, but outlast places the breakpoints itself; "
            "leave it out, and see Agent(cache=…)"
        )


def _decoded(source: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(source["data"], validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InvalidInput(f"the data of a base64 source is not base64: {error!r}") from error


def _said(value: Any, _: Put, redact: Redact) -> str:
    return said(value, redact)


def _text(value: Any, _: Put, redact: Redact) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"a content block has {_cut(value)} where a text has to be")
    return redact(value)


def _address(value: Any, _: Put, redact: Redact) -> str:
    return address(value, redact)


def _one_of(allowed: frozenset[str]) -> _Member:
    def read(value: Any, _put: Put, _: Redact) -> str:
        if value not in allowed:
            raise InvalidInput(f"a media_type is {_cut(value)}; it may be {_listed(allowed)}")
        return str(value)

    return _Member(read)


_HIDDEN: Final = frozenset({"data", "blob"})
"""Names by which bytes are referred to: nothing that may stand in a block freely has them."""


def _free(value: Any, put: Put, redact: Redact) -> Any:
    """Return what the API alone knows the members of, such as citations, its texts redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list | tuple):
        return [_free(one, put, redact) for one in value]
    if not isinstance(value, Mapping):
        return value
    _refuse_marker(value)
    for name in _HIDDEN.intersection(value):
        raise InvalidInput(f"a content block has a member {name!r} where none can be")
    return {
        name: one if name == "type" and isinstance(one, str) else _free(one, put, redact)
        for name, one in value.items()
    }


def _texts(value: Any, put: Put, redact: Redact) -> list[dict[str, Any]]:
    return _several(value, {"text": _BLOCKS["text"]}, put, redact)


def _content(value: Any, put: Put, redact: Redact) -> str | list[dict[str, Any]]:
    if isinstance(value, str):
        return said(value, redact)
    kinds = {kind: _BLOCKS[kind] for kind in ("text", "image")}
    return _several(value, kinds, put, redact)


def _several(
    value: Any, kinds: Mapping[str, Members], put: Put, redact: Redact
) -> list[dict[str, Any]]:
    if not isinstance(value, list | tuple) or not value:
        raise InvalidInput(f"the content of a content block is {_cut(value)}; give blocks of text")
    return [_read(one, kinds, "content block in another", put, redact) for one in value]


def _source(kinds: Mapping[str, Members]) -> _Member:
    return _Member(lambda value, put, redact: _read(value, kinds, "source", put, redact))


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _listed(names: frozenset[str]) -> str:
    return " or ".join(sorted(names))


_OPTIONAL: Final = _Member(_text, required=False)
_FREE: Final = _Member(_free, required=False)
_DATA: Final = _Member(_text)
_ELSEWHERE: Final[dict[str, Members]] = {
    "url": {"url": _Member(_address)},
    "file": {"file_id": _Member(file_id)},
}
_BLOCKS: Final[dict[str, Members]] = {
    "text": {"text": _Member(_said), "citations": _FREE},
    "image": {
        "source": _source({"base64": {"media_type": _one_of(IMAGES), "data": _DATA}} | _ELSEWHERE),
        "transformations": _FREE,
    },
    "document": {
        "source": _source(
            {
                "base64": {"media_type": _one_of(frozenset({"application/pdf"})), "data": _DATA},
                "text": {
                    "media_type": _one_of(frozenset({"text/plain"})),
                    "data": _Member(_said),
                },
                "content": {"content": _Member(_content)},
            }
            | _ELSEWHERE
        ),
        "title": _OPTIONAL,
        "context": _OPTIONAL,
        "citations": _FREE,
    },
    "search_result": {
        "source": _Member(_text),
        "title": _Member(_text),
        "content": _Member(_texts),
        "citations": _FREE,
    },
    "container_upload": {"file_id": _Member(file_id)},
}
"""The blocks that a user may give, and their members, as of the SDK's 2.12."""
