"""What a tool returned, as Claude gets it: a text, data as JSON, images and documents as blocks.

The effect has happened by now, so nothing of its result is to be lost: what is too long is cut and
kept whole as a blob, and what cannot be shown is said to be so, and why.

Of a text that is too long the beginning and the end are shown, and between them how much is
missing: a page begins with what it is about, a log ends with what went wrong.  JSON is cut like any
other text.  Which of its members matter is not known here, and Claude reads what is left of them.
It is measured as what a call holds is, in tokens that it has at most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

import msgspec
from msgspec import Raw

from outlast.content import Attachments, File, Medium, Put, as_json, medium_of
from outlast.errors import InvalidInput, StoreError
from outlast.events import NULL
from outlast.prices import input_bound
from outlast.redaction import Redact, same, within


class Unshowable(Exception):
    """A result cannot be given to Claude; the message says why, to Claude."""


@dataclass(frozen=True)
class Shown:
    """A result: what Claude gets, and where all of it is if that is only a part."""

    content: Raw
    blob: str = ""


@dataclass(frozen=True)
class _Piece:
    """A part of a result: data, and the images and documents that stood in it."""

    data: Any
    media: tuple[Medium, ...]
    is_alone: bool
    """It is an image or a document, and nothing else."""


def shown(value: Any, *, limit: int, put: Put, redact: Redact) -> Shown:
    """Return what Claude gets of what a tool returned.

    Args:
        value: what it returned.
        limit: tokens of text at most; of more, both ends are shown, and all is kept.
        put: keeps bytes under the digest it returns.
        redact: what every text goes through.

    Raises:
        Unshowable: it cannot be given to Claude.
        StoreError: the store would not keep it.

    """
    redact = _guarded(redact)
    if isinstance(value, str):
        return _text_alone(redact(value), limit, put)
    listed = list(value) if isinstance(value, list | tuple | Iterator) else None
    pieces = _pieces([value] if listed is None else listed)
    if any(piece.media for piece in pieces):
        return _blocks(pieces, limit, put, redact)
    data = pieces[0].data if listed is None else [piece.data for piece in pieces]
    return _text_alone(_text(data, redact), limit, put)


def as_content(result: Any, *, limit: int, put: Put, redact: Redact) -> Raw:
    """Return what a person says that a call gave, as the model gets it; `None` is nothing.

    Raises:
        InvalidInput: it cannot be shown.
        StoreError: the store would not keep it.

    """
    if result is None:
        return NULL
    try:
        return shown(result, limit=limit, put=put, redact=redact).content
    except StoreError:
        raise
    except Unshowable as error:
        raise InvalidInput(f"the result cannot be shown to Claude: {error}") from error
    except Exception as error:
        raise InvalidInput(
            f"the result cannot be written ({type(error).__name__}: {error}); give a text or a "
            "JSON value"
        ) from error


def _text_alone(text: str, limit: int, put: Put) -> Shown:
    whole = text.encode()
    if (kept := cut(text, limit)) == text:
        return Shown(Raw(msgspec.json.encode(text)))
    return Shown(Raw(msgspec.json.encode(kept)), put(whole))


def json_text(value: Any) -> str:
    """Return a value as JSON."""
    from pydantic_core import to_json  # noqa: PLC0415  (not needed to import outlast)

    return to_json(value).decode()


def _guarded(redact: Redact) -> Redact:
    if redact is same:
        return redact

    def redacted(text: str) -> str:
        try:
            return redact(text)
        except Exception as error:
            why = f"it is withheld, because redact= raised {type(error).__name__}"
            raise Unshowable(why) from error

    return redacted


def _text(data: Any, redact: Redact) -> str:
    return redact(data) if isinstance(data, str) else within(json_text(data), redact)


# ── images, documents and files ─────────────────────────────────────────────────────────────────


def _pieces(values: list[Any]) -> list[_Piece]:
    found: list[Medium] = []
    pieces = []
    for given in values:
        value = _seen(given)
        before = len(found)
        data = _plain(value, found)
        pieces.append(_Piece(data, tuple(found[before:]), isinstance(value, Medium)))
    return pieces


def _plain(value: Any, found: list[Medium]) -> Any:
    """Return a value with a name in the place of each image and document, which are `found`."""
    value = _seen(value)
    if isinstance(value, Medium):
        found.append(value)
        return f"[{type(value).__name__.lower()} {len(found)}]"
    if isinstance(value, dict):
        return {key: _plain(one, found) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset | Iterator):
        return [_plain(one, found) for one in value]
    if _hides(value):
        raise Unshowable(
            f"it has an image, document or file inside {type(value).__name__}, where it cannot be "
            "shown; the tool has to return it by itself, or in a list or dict"
        )
    return value


def _seen(value: Any) -> Any:
    """Return bytes as the image or the document that they are, and anything else as it is."""
    if not isinstance(value, bytes | bytearray | memoryview):
        return value
    data = bytes(value)
    return medium_of(data) or data


def _hides(value: Any) -> bool:
    """Return whether an object has an image, a document or a file in a field, however deep."""
    return any(_is_or_holds(inside) for inside in _fields(value))


def _is_or_holds(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_is_or_holds, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_is_or_holds, value))
    return isinstance(value, Medium) or _hides(value)


def _fields(value: Any) -> list[Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, each.name, None) for each in fields(value)]
    is_model = hasattr(type(value), "__pydantic_fields__")
    return list(vars(value).values()) if is_model else []


def _blocks(pieces: list[_Piece], limit: int, put: Put, redact: Redact) -> Shown:
    attached = Attachments()
    try:
        blocks = [block for piece in pieces for block in _blocks_of(piece, attached.put, redact)]
        whole = bytes(as_json(blocks))
        is_cut = _cut_texts(blocks, limit)
        content = attached.keep(as_json(blocks), put)
    except InvalidInput as error:
        raise Unshowable(str(error)) from error
    return Shown(content, put(whole) if is_cut else "")


def _blocks_of(piece: _Piece, put: Put, redact: Redact) -> Iterator[dict[str, Any]]:
    text = "" if piece.is_alone else _text(piece.data, redact)
    if text.strip():  # the API takes no blank ones
        yield {"type": "text", "text": text}
    for medium in piece.media:
        if isinstance(medium, File) and medium.kind == "container_upload":
            raise Unshowable(
                "it is a file for the container, which only a user can give; "
                "the tool has to return it as a document or an image"
            )
        yield medium.block(put, redact)


def _cut_texts(blocks: list[dict[str, Any]], limit: int) -> bool:
    """Cut the texts of blocks to `limit` tokens together; return whether one was too long."""
    left = limit
    for block in blocks:
        source = block.get("source", {})
        place, name = (block, "text") if "text" in block else (source, "data")
        if place is source and source.get("type") != "text":
            continue
        whole = place[name]
        place[name] = cut(whole, max(0, left))
        left -= input_bound(whole)
    return left < 0


def cut(text: str, limit: int) -> str:
    """Return a text as it is shown where there is room for `limit` tokens; it is told of as bytes.

    What says that something is missing is not counted.
    """
    if len(text) <= limit and input_bound(text) <= limit:
        return text
    head = text[: _most(text, limit - limit // TAIL)]
    tail = text[len(text) - _most(text, limit // TAIL, at_end=True) :]
    whole, *kept = (len(part.encode("utf-8", "replace")) for part in (text, head, tail))
    missing = whole - sum(kept)
    told = f"[truncated: {missing} of {whole} bytes are missing here; ask for less at a time]"
    return "\n".join(filter(None, (head, told, tail)))


TAIL: Final = 4
"""One part in so many of what is shown of a long text is its end."""


def _most(text: str, limit: int, *, at_end: bool = False) -> int:
    """Return how many characters, from the beginning or at the end, have at most `limit` tokens."""
    most = min(len(text), limit)  # none has less than one

    def tokens(count: int) -> int:
        return input_bound(text[len(text) - count :] if at_end else text[:count])

    if tokens(most) <= limit:
        return most
    return bisect_right(range(most), limit, key=tokens) - 1
