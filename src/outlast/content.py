"""What people and tools give Claude beside text: images, documents and files."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Raw

from outlast.errors import InvalidInput
from outlast.media import reference

MAX_BYTES: Final = 24_000_000
"""How large one image or document may be: a request holds 32 MB, and base64 takes four thirds."""

_IMAGES: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}
"""How the images begin that Claude reads; a WebP has its name at the ninth byte."""

Put: TypeAlias = Callable[[bytes], str]
Redact: TypeAlias = Callable[[str], str]


@dataclass(frozen=True)
class Image:
    """An image for Claude to look at: PNG, JPEG, GIF or WebP.

    Attributes:
        source: a path, the bytes themselves, or an address that begins with `https://`.

    Raises:
        InvalidInput: there is no such file, or it is no image that Claude reads.

    """

    source: str | Path | bytes
    _given: tuple[str, bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the file, so that a mistake is found where it was made."""
        given = "", b""
        if not _is_address(self.source):
            data = _bytes(self.source)
            given = _image_type(data, self.source), data
        object.__setattr__(self, "_given", given)

    def block(self, put: Put, _: Redact) -> dict[str, Any]:
        """Return the content block, its bytes put away."""
        kind, data = self._given
        if not kind:
            return {"type": "image", "source": {"type": "url", "url": str(self.source)}}
        return {"type": "image", "source": _stored(kind, data, put)}


@dataclass(frozen=True)
class Document:
    """A document for Claude to read: a PDF or a text.

    Attributes:
        source: a path, the bytes themselves, or the address of a PDF that begins with `https://`.
        title: what Claude is told it is called.
        context: what Claude is told about it.

    Raises:
        InvalidInput: there is no such file, or it is neither a PDF nor UTF-8 text.

    """

    source: str | Path | bytes
    title: str = ""
    context: str = ""
    _given: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the file, so that a mistake is found where it was made."""
        data = b"" if _is_address(self.source) else _bytes(self.source)
        if data and not data.startswith(b"%PDF-"):
            _text_in(data, self.source)
        object.__setattr__(self, "_given", data)

    def block(self, put: Put, redact: Redact) -> dict[str, Any]:
        """Return the content block, its bytes put away."""
        told = {"title": redact(self.title), "context": redact(self.context)}
        named = {name: text for name, text in told.items() if text}
        return {"type": "document", "source": self._source(put, redact)} | named

    def _source(self, put: Put, redact: Redact) -> dict[str, Any]:
        if not self._given:
            return {"type": "url", "url": str(self.source)}
        if self._given.startswith(b"%PDF-"):
            return _stored("application/pdf", self._given, put)
        text = redact(_text_in(self._given, self.source))
        return {"type": "text", "media_type": "text/plain", "data": text}


@dataclass(frozen=True)
class File:
    """A file that was uploaded with the Files API.

    Attributes:
        file_id: what the API calls it.
        kind: what it is to Claude: a document (the default), an image, or an upload into the
            container of its code execution tool.

    """

    file_id: str
    kind: Literal["document", "image", "container_upload"] = "document"

    def block(self, _put: Put, _: Redact) -> dict[str, Any]:
        """Return the content block."""
        if self.kind == "container_upload":
            return {"type": "container_upload", "file_id": self.file_id}
        return {"type": self.kind, "source": {"type": "file", "file_id": self.file_id}}


Medium: TypeAlias = Image | Document | File
Content: TypeAlias = str | Medium | Mapping[str, Any]
"""A piece of a message: text, one of the above, or a content block as the API takes it."""

Input: TypeAlias = Content | Sequence[Content]


def attachment(path: str | Path) -> Image | Document:
    """Return a file as what it is: an image, a PDF or a text.

    Raises:
        InvalidInput: it cannot be read, or it is none of these.

    """
    data = _bytes(path)
    is_image = data.startswith(tuple(_IMAGES)) or data[8:12] == b"WEBP"
    return Image(path) if is_image else Document(path, title=Path(path).name)


def same(text: str) -> str:
    """Return the text as it is: what redacts nothing."""
    return text


def rendered(given: Input, *, put: Put, redact: Redact = same) -> Raw:
    """Return a message's content as it is journalled and sent: a JSON string or array of blocks.

    Args:
        given: what a user or a tool gives.
        put: keeps bytes under the digest it returns.
        redact: what every text goes through before anything is kept.

    Raises:
        InvalidInput: the API would not take it.

    """
    if isinstance(given, str):
        return _json(_said(redact(given)))
    pieces = list(given) if isinstance(given, Sequence) and not _is_bytes(given) else [given]
    if not pieces:
        raise InvalidInput("the input is empty, and Claude cannot be asked nothing")
    return _json([_block(piece, put, redact) for piece in pieces])


def holds_media(value: Any) -> bool:
    """Return whether a tool's result has something in it that is not to be written as JSON."""
    if isinstance(value, list | tuple):
        return any(isinstance(one, Medium) for one in value)
    return isinstance(value, Medium)


def encoded(data: bytes) -> bytes:
    """Return bytes as a request holds them."""
    return base64.standard_b64encode(data)


def _block(piece: Any, put: Put, redact: Redact) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": _said(redact(piece))}
    if isinstance(piece, Medium):
        return piece.block(put, redact)
    if not isinstance(piece, Mapping):
        raise InvalidInput(
            f"the input holds {type(piece).__name__} {str(piece)[:80]!r}; "
            "give text, an Image, a Document, a File or a content block"
        )
    return _raw_block(dict(piece), put, redact)


_GIVEN: Final = frozenset({"text", "image", "document", "search_result", "container_upload"})


def _raw_block(block: dict[str, Any], put: Put, redact: Redact) -> dict[str, Any]:
    """Return a content block as the API takes it, its texts redacted and its bytes put away."""
    kind = block.get("type")
    if kind not in _GIVEN:
        raise InvalidInput(
            f"a content block of type {kind!r} cannot be given to Claude; "
            f"the types are {', '.join(sorted(_GIVEN))}"
        )
    if "cache_control" in block:
        raise InvalidInput(
            "a content block has cache_control, but outlast places the breakpoints itself; "
            "leave it out, and see Agent(cache=…)"
        )
    redacted: dict[str, Any] = _redacted(block, redact)
    if kind == "text":
        _said(redacted.get("text"))
    source = redacted.get("source")
    if isinstance(source, dict) and source.get("type") == "base64":
        given = block["source"]
        redacted["source"] = _stored(str(given.get("media_type")), _decoded(given), put)
    return redacted


def _redacted(value: Any, redact: Redact) -> Any:
    if isinstance(value, Mapping):
        if value.get("type") == "base64":
            return dict(value)
        return {name: _member(name, one, redact) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(one, redact) for one in value]
    return value


_TEXTS: Final = frozenset({"text", "title", "context", "data"})


def _member(name: str, value: Any, redact: Redact) -> Any:
    if name in _TEXTS and isinstance(value, str):
        return redact(value)
    return _redacted(value, redact)


def _decoded(source: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(source["data"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise InvalidInput(f"the data of a base64 source is not base64: {error!r}") from error


def _stored(media_type: str, data: bytes, put: Put) -> dict[str, Any]:
    if not data or len(data) > MAX_BYTES:
        raise InvalidInput(
            f"an image or document of {len(data)} bytes cannot be sent: the limit is {MAX_BYTES}; "
            "make it smaller, or upload it with the Files API and give a File"
        )
    return {"type": "base64", "media_type": media_type, "data": reference(put(data))}


def _said(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(
            f"the input is {text!r}, and Claude cannot be asked nothing; give it a question"
        )
    return text


def _json(value: Any) -> Raw:
    try:
        return Raw(msgspec.json.encode(value))
    except (UnicodeEncodeError, TypeError, RecursionError) as error:
        raise InvalidInput(f"the input cannot be written as JSON in UTF-8: {error}") from error


def _is_bytes(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | memoryview)


def _is_address(source: object) -> bool:
    return isinstance(source, str) and source.startswith(("https://", "http://"))


def _bytes(source: str | Path | bytes) -> bytes:
    if isinstance(source, bytes):
        data = source
    else:
        try:
            data = Path(source).read_bytes()
        except (OSError, ValueError, TypeError) as error:
            raise InvalidInput(f"{source!r} cannot be read: {error}") from error
    if not data:
        raise InvalidInput(f"{_name(source)} is empty")
    return data


def _image_type(data: bytes, source: object) -> str:
    for begins, kind in _IMAGES.items():
        if data.startswith(begins):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise InvalidInput(
        f"{_name(source)} is not a PNG, JPEG, GIF or WebP, which is what Claude sees"
    )


def _text_in(data: bytes, source: object) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{_name(source)} is neither a PDF nor UTF-8 text: {error}") from error


def _name(source: object) -> str:
    return f"these {len(source)} bytes" if isinstance(source, bytes) else repr(str(source))
