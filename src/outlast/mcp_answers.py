"""What an MCP server answered, as a tool gives it to Claude.

Whatever Claude cannot be shown becomes a note that says what was there: nothing is left out, so a
part of a result never passes for all of it.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any, TypeAlias

from outlast.content import Document, Image
from outlast.errors import InvalidInput, ToolError

Piece: TypeAlias = str | Image | Document


def given(result: Any) -> Any:
    """Return what a tool returns for a `CallToolResult`: text, pieces, or data.

    Raises:
        ToolError: the server says that the tool failed; with what it says of that.

    """
    if result.result_type != "complete":
        raise ToolError(
            f"The MCP server answered with a result of the type {result.result_type!r}, which is "
            "none of a tool, so it is not known what came of the call.",
            error_class="bad_output",
        )
    pieces = [_piece(block) for block in result.content]
    if result.is_error:
        raise ToolError(_failure(result.structured_content, pieces))
    if not pieces:
        return "" if result.structured_content is None else result.structured_content
    texts = [piece for piece in pieces if isinstance(piece, str)]
    return "\n".join(texts) if len(texts) == len(pieces) else pieces


def _failure(data: Any, pieces: list[Piece]) -> str:
    said = "\n".join(piece if isinstance(piece, str) else _unsaid(piece) for piece in pieces)
    if said.strip():
        return said
    why = "" if data is None else f": {data!r}"
    return f"The tool failed, and did not say why{why}."


def _unsaid(piece: Image | Document) -> str:
    return f"[The tool gave an {type(piece).__name__} with its error, which is not shown.]"


def _piece(block: Any) -> Piece:
    match block.type:
        case "text":
            return str(block.text)
        case "image":
            return _medium("an image", block.mime_type, block.data)
        case "resource":
            return _resource(block.resource)
        case "resource_link":
            return (
                f"[The tool gave a link to {block.name!r} ({block.mime_type or 'of no known type'})"
                f", which was not followed: {block.uri}]"
            )
    data = getattr(block, "data", "")
    return _unshown(str(block.type), getattr(block, "mime_type", None), len(data) * 3 // 4)


def _resource(resource: Any) -> Piece:
    text = getattr(resource, "text", None)
    if text is not None:
        return str(text)
    return _medium(f"the resource {resource.uri}", resource.mime_type, resource.blob)


def _medium(what: str, kind: str | None, base64: str) -> Piece:
    """Return bytes as the image or the PDF that they are, whatever they are called."""
    try:
        data = b64decode(base64, validate=True)
    except ValueError:
        return f"[The tool gave {what}, whose base64 is damaged, so it cannot be shown.]"
    try:
        return Document(data) if data.startswith(b"%PDF-") else Image(data)
    except InvalidInput:
        return _unshown(what, kind, len(data))


def _unshown(what: str, kind: str | None, size: int) -> str:
    return (
        f"[The tool gave {what} ({kind or 'of no known type'}, {size} bytes), which cannot be "
        "shown to you.]"
    )
