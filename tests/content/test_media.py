"""What images, documents and files may count beside their bytes, wherever they stand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import outlast
from outlast import media
from outlast.events import BoundExceeded, ModelCallStarted, TokensCounted
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
ELSEWHERE = {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}
FILED = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
PLAIN = {"type": "text", "media_type": "text/plain", "data": "words"}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}


def document(source: dict[str, Any]) -> dict[str, Any]:
    return {"type": "document", "source": source}


def result(*content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": list(content)}


@pytest.mark.parametrize(
    ("blocks", "images", "known"),
    [
        pytest.param([{"type": "text", "text": "image"}], 0, True, id="text"),
        pytest.param([{"type": "text", "text": '{"type":"image"}'}], 0, True, id="json-as-text"),
        pytest.param([IMAGE], 1, True, id="image"),
        pytest.param([IMAGE, ELSEWHERE, FILED], 3, True, id="images-anywhere"),
        pytest.param([result(IMAGE, IMAGE)], 2, True, id="images-of-a-tool"),
        pytest.param([document(PLAIN)], 0, True, id="text-document"),
        pytest.param([document({"type": "content", "content": [IMAGE]})], 1, True, id="its-image"),
        pytest.param([document(PDF)], 0, False, id="pdf"),
        pytest.param([result(document(PDF), IMAGE)], 1, False, id="pdf-of-a-tool"),
        pytest.param([document({"type": "url", "url": "u"})], 0, False, id="pdf-elsewhere"),
        pytest.param([document({"type": "file", "file_id": "f"})], 0, False, id="filed"),
        pytest.param([document({"type": "new"})], 0, False, id="unknown-source"),
        pytest.param([{"type": "document"}], 0, False, id="no-source"),
        pytest.param([{"type": "container_upload", "file_id": "f"}], 0, False, id="upload"),
    ],
)
def test_what_counts_beside_the_bytes(blocks: list[Any], images: int, known: bool) -> None:  # noqa: FBT001
    """Each image its most; and whether the bytes bound the rest, or the API has to count."""
    message = msgspec.json.encode({"role": "user", "content": blocks})
    assert media.bound(message) == (images * media.IMAGE_TOKENS, known)


def test_images_and_documents_of_tools_are_held_in_a_loop() -> None:
    """Where a tool shows two images, then a PDF, each next call holds what they can count."""

    @outlast.tool(effect="read")
    def show(what: str) -> list[Any]:
        """Show something."""
        gif = outlast.Image(b"GIF89a" + what.encode())
        return [gif, gif] if what == "images" else [outlast.Document(b"%PDF-1.7 /Type /Page")]

    def script(request: dict[str, Any], attempt: int) -> Any:
        turn = turn_number(request)
        return say("Seen.") if turn == 3 else say(tool_use("show", {"what": _WHAT[turn - 1]}))

    model = ScriptedModel(script)
    asker = outlast.Agent("asker", model="claude-opus-5-5", tools=[show], cache=None)
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(asker, "Show me.", run_id="r").answer == "Seen."
        events = [record.event for record in app.log("r")]
    held = [event for event in events if isinstance(event, ModelCallStarted)]
    first, second, third = (event.hold_tokens - event.max_tokens for event in held)
    images = 2 * media.IMAGE_TOKENS
    assert first + images < second < first + images + 500
    (counted,) = (event for event in events if isinstance(event, TokensCounted))
    assert third == counted.tokens + counted.tokens // media.COUNTED_MARGIN + 1_024
    for line, bound in zip(model.bill, (first, second, third), strict=True):
        assert line.usage["input_tokens"] <= bound
    assert not any(isinstance(event, BoundExceeded) for event in events)


_WHAT = ("images", "a document")
