"""What people and tools give Claude beside text: images, documents and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Raw

from outlast.blocks import (
    MAX_BYTES,
    Put,
    address,
    block,
    encoded,
    encoded_size,
    file_id,
    said,
    stored,
)
from outlast.errors import InvalidInput
from outlast.redaction import Redact, same

__all__ = [
    "MAX_BYTES",
    "Content",
    "Document",
    "File",
    "Image",
    "Input",
    "Medium",
    "Put",
    "Redact",
    "attachment",
    "encoded",
    "rendered",
    "same",
]

MAX_MESSAGE: Final = 33_000_000
"""How many bytes one message may have, as it is sent: a request holds 32 MiB."""

_IMAGES: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}
"""How the images begin that Claude reads; a WebP has its name at the ninth byte."""


class _Read:
    """What was read of a source.  No field, so that it is never compared, or written as JSON."""

    _given: tuple[str, bytes]
    """Its media type and its bytes; both empty where Claude fetches them itself."""


@dataclass(frozen=True)
class Image(_Read):
    """An image for Claude to look at: PNG, JPEG, GIF or WebP.

    Attributes:
        source: a path, the bytes themselves, or an address that begins with `https://`.

    Raises:
        InvalidInput: there is no such file, or it is no image that Claude reads.

    """

    source: str | Path | bytes

    def __post_init__(self) -> None:
        """Read the file, so that a mistake is found where it was made."""
        given = "", b""
        if not _is_address(self.source):
            data = _bytes(self.source)
            given = _image_type(data, self.source), data
        object.__setattr__(self, "_given", given)

    def block(self, put: Put, redact: Redact) -> dict[str, Any]:
        """Return the content block, its bytes put away."""
        kind, data = self._given
        return {
            "type": "image",
            "source": stored(kind, data, put) if kind else _elsewhere(self.source, redact),
        }


@dataclass(frozen=True)
class Document(_Read):
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

    def __post_init__(self) -> None:
        """Read the file, so that a mistake is found where it was made."""
        for told in (self.title, self.context):
            if not isinstance(told, str):
                raise InvalidInput(f"{told!r} is no text that a document can be called")
        given = "", b""
        if not _is_address(self.source):
            data = _bytes(self.source)
            given = _document_type(data, self.source), data
        object.__setattr__(self, "_given", given)

    def block(self, put: Put, redact: Redact) -> dict[str, Any]:
        """Return the content block, its bytes put away."""
        told = {"title": self.title, "context": self.context}
        named = {name: redact(text) for name, text in told.items() if text}
        return {"type": "document", "source": self._source(put, redact)} | named

    def _source(self, put: Put, redact: Redact) -> dict[str, Any]:
        kind, data = self._given
        if not kind:
            return _elsewhere(self.source, redact)
        if kind != _TEXT:
            return stored(kind, data, put)
        return {"type": "text", "media_type": kind, "data": said(data.decode(), redact)}


FileKind: TypeAlias = Literal["document", "image", "container_upload"]


@dataclass(frozen=True)
class File:
    """A file that was uploaded with the Files API.

    Attributes:
        file_id: what the API calls it.
        kind: what it is to Claude: a document (the default), an image, or an upload into the
            container of its code execution tool, which a tool cannot return.

    Raises:
        InvalidInput: the id is empty, or the kind is another.

    """

    file_id: str
    kind: FileKind = "document"

    def __post_init__(self) -> None:
        """Refuse what can be no file."""
        file_id(self.file_id)
        if self.kind not in get_args(FileKind):
            raise InvalidInput(
                f"a file of kind {self.kind!r}: it may be {' or '.join(get_args(FileKind))}"
            )

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


class Attachments:
    """The bytes of one message, until it is known that a request can hold all of them."""

    def __init__(self) -> None:
        self._data: list[bytes] = []

    def put(self, data: bytes) -> str:
        """Take bytes and return the digest that they will be kept under."""
        self._data.append(data)
        return sha256(data).hexdigest()

    def keep(self, content: Raw, put: Put) -> Raw:
        """Keep the bytes of a message and return its content.

        Raises:
            InvalidInput: it is larger than any request.

        """
        size = len(bytes(content)) + sum(encoded_size(len(data)) for data in self._data)
        if size > MAX_MESSAGE:
            raise InvalidInput(
                f"a message of {size} bytes cannot be sent: the limit is {MAX_MESSAGE}, images and "
                "documents as base64 included; give less at a time, or upload files with the "
                "Files API and give a File for each"
            )
        for data in self._data:
            put(data)
        return content


def rendered(given: Input, *, put: Put, redact: Redact = same) -> Raw:
    """Return a message's content as it is journalled and sent: a JSON string or array of blocks.

    Args:
        given: what a user gives.
        put: keeps bytes under the digest it returns, which is their hex SHA-256.
        redact: what every text goes through before anything is kept.

    Raises:
        InvalidInput: the API would not take it.

    """
    attached = Attachments()
    if isinstance(given, str):
        return attached.keep(as_json(said(given, redact)), put)
    pieces = list(given) if isinstance(given, Sequence) and not _is_bytes(given) else [given]
    if not pieces:
        raise InvalidInput("the input is empty, and Claude cannot be asked nothing")
    return attached.keep(as_json([_block(piece, attached.put, redact) for piece in pieces]), put)


def as_json(value: Any) -> Raw:
    """Return content as JSON.

    Raises:
        InvalidInput: something in it cannot be written.

    """
    try:
        return Raw(msgspec.json.encode(value))
    except (UnicodeEncodeError, TypeError, RecursionError) as error:
        raise InvalidInput(f"the input cannot be written as JSON in UTF-8: {error}") from error


def _block(piece: Any, put: Put, redact: Redact) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": said(piece, redact)}
    if isinstance(piece, Medium):
        return piece.block(put, redact)
    if not isinstance(piece, Mapping):
        raise InvalidInput(
            f"the input holds {type(piece).__name__} {str(piece)[:80]!r}; "
            "give text, an Image, a Document, a File or a content block"
        )
    return block(piece, put, redact)


def _elsewhere(source: object, redact: Redact) -> dict[str, Any]:
    return {"type": "url", "url": address(source, redact)}


def _is_bytes(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | memoryview)


def _is_address(source: object) -> bool:
    if not isinstance(source, str) or not source.startswith(("https://", "http://")):
        return False
    address(source, same)
    return True


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


def medium_of(data: bytes) -> Image | Document | None:
    """Return bytes as the image or the PDF that they are; `None` where they are neither."""
    if data.startswith(b"%PDF-"):
        return Document(data)
    try:
        return Image(data)
    except InvalidInput:
        return None


_TEXT: Final = "text/plain"


def _document_type(data: bytes, source: object) -> str:
    if data.startswith(b"%PDF-"):
        return "application/pdf"
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{_name(source)} is neither a PDF nor UTF-8 text: {error}") from error
    if not text.strip():
        raise InvalidInput(f"{_name(source)} is blank, and Claude takes no such text")
    return _TEXT


def _name(source: object) -> str:
    return f"these {len(source)} bytes" if isinstance(source, bytes) else repr(str(source))
