"""What a tool returned, as Claude gets it: a text, data as JSON, images and documents as blocks.

The effect has happened by now, so nothing of its result is to be lost: what is too long is cut and
kept whole as a blob, and what cannot be shown is said to be so, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import msgspec
from msgspec import Raw

from outlast.content import Attachments, File, Medium, Put, as_json
from outlast.errors import InvalidInput
from outlast.redaction import Redact, within


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
        limit: bytes of text at most; of more, the beginning is shown, and all is kept.
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


def _text_alone(text: str, limit: int, put: Put) -> Shown:
    whole = text.encode()
    if len(whole) <= limit:
        return Shown(Raw(msgspec.json.encode(text)))
    return Shown(Raw(msgspec.json.encode(_cut(whole, limit))), put(whole))


def json_text(value: Any) -> str:
    """Return a value as JSON."""
    from pydantic_core import to_json  # noqa: PLC0415  (not needed to import outlast)

    return to_json(value).decode()


def _guarded(redact: Redact) -> Redact:
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
    for value in values:
        before = len(found)
        data = _plain(value, found)
        pieces.append(_Piece(data, tuple(found[before:]), isinstance(value, Medium)))
    return pieces


def _plain(value: Any, found: list[Medium]) -> Any:
    """Return a value with a name in the place of each image and document, which are `found`."""
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
    """Cut the texts of blocks to `limit` bytes together; return whether one was too long."""
    left = limit
    for block in blocks:
        source = block.get("source", {})
        place, name = (block, "text") if "text" in block else (source, "data")
        if place is source and source.get("type") != "text":
            continue
        whole = place[name].encode()
        if len(whole) > left:
            place[name] = _cut(whole, max(0, left))
        left -= len(whole)
    return left < 0


def _cut(whole: bytes, limit: int) -> str:
    kept = whole[:limit].decode("utf-8", "ignore")
    return (
        f"{kept}\n[truncated: these are the first {limit} of {len(whole)} bytes; "
        "ask for less at a time]"
    )
