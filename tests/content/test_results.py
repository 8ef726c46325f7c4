"""What tools return beside text: whatever it is, Claude gets it, or is told why not."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

import outlast
from outlast.events import ToolCallFailed, ToolCallSucceeded
from outlast.models.script import tool_use
from outlast.models.scripted import ScriptedModel
from stubs import agent, asking, results

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
GIF = b"GIF89a" + bytes(64)
PDF = b"%PDF-1.7\n/Type /Page\n"
IMAGE = outlast.Image(PNG)


def source(kind: str, data: bytes) -> dict[str, str]:
    return {"type": "base64", "media_type": kind, "data": base64.b64encode(data).decode()}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


PNG_BLOCK = {"type": "image", "source": source("image/png", PNG)}
GIF_BLOCK = {"type": "image", "source": source("image/gif", GIF)}
PDF_BLOCK = {"type": "document", "source": source("application/pdf", PDF)}


class Returned:
    """A run whose Claude calls a tool that returns `value`."""

    def __init__(self, value: Any, **options: Any) -> None:
        self.calls = 0

        @outlast.tool(name="work", effect="once", **options)
        def work() -> Any:
            self.calls += 1
            return value() if callable(value) else value

        model = ScriptedModel(asking(tool_use("work", {})))
        with outlast.Outlast("memory://", model=model) as app:
            self.run = app.run(agent(work, model="claude-opus-5-5"), "Go.", run_id="r")
            self.events = [record.event for record in app.log("r")]
            blobs = [each.blob for each in self.events if isinstance(each, ToolCallSucceeded)]
            self.blob = app.journal.blob(blobs[0]) if blobs and blobs[0] else None
        assert self.run.status == "completed", self.run.why
        assert self.calls == 1
        (self.result,) = results(model)


@dataclass
class Report:
    chart: Any
    title: str = "Grants"


@dataclass(slots=True)
class Slotted:
    chart: Any


class Typed(BaseModel):
    chart: outlast.Document


def each(*values: Any) -> Iterator[Any]:
    yield from values


SHOWN: dict[str, tuple[Any, list[Any]]] = {
    "an image and a blank": ([IMAGE, "\n"], [PNG_BLOCK]),
    "blanks around": (["", " ", IMAGE, "\t"], [PNG_BLOCK]),
    "in a dict": ({"chart": IMAGE}, [text('{"chart":"[image 1]"}'), PNG_BLOCK]),
    "in a list in a list": ([[IMAGE]], [text('["[image 1]"]'), PNG_BLOCK]),
    "in a tuple": ((IMAGE, "a"), [PNG_BLOCK, text("a")]),
    "among others": (
        ["See:", IMAGE, {"more": [outlast.Image(GIF), {"read": outlast.Document(PDF)}]}],
        [
            text("See:"),
            PNG_BLOCK,
            text('{"more":["[image 2]",{"read":"[document 3]"}]}'),
            GIF_BLOCK,
            PDF_BLOCK,
        ],
    ),
    "from a generator": (lambda: each("See:", IMAGE), [text("See:"), PNG_BLOCK]),
    "in a generator in a dict": (
        lambda: {"all": each(1, IMAGE)},
        [text('{"all":[1,"[image 1]"]}'), PNG_BLOCK],
    ),
    "a text in a dict": (
        {"read": outlast.Document(b"A page.")},
        [
            text('{"read":"[document 1]"}'),
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "A page."},
            },
        ],
    ),
    "a file in a dict": (
        {"read": outlast.File("f")},
        [
            text('{"read":"[file 1]"}'),
            {"type": "document", "source": {"type": "file", "file_id": "f"}},
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("value", "content"), SHOWN.values(), ids=SHOWN)
def test_claude_sees_what_stands_anywhere_in_a_result(value: Any, content: list[Any]) -> None:
    """Images and documents are shown wherever they stand, named in the data they stood in."""
    assert Returned(value).result["content"] == content


WITHHELD: dict[str, tuple[Any, str]] = {
    "an upload": (
        outlast.File("f", kind="container_upload"),
        "(File) cannot be shown: it is a file for the container, which only a user can give",
    ),
    "an upload in a dict": (
        {"a": outlast.File("f", kind="container_upload")},
        "(dict) cannot be shown: it is a file for the container",
    ),
    "in a dataclass": (
        Report(IMAGE),
        "(Report) cannot be shown: it has an image, document or file inside Report, where",
    ),
    "in a list in a dataclass": ([1, Report([{"a": IMAGE}])], "inside Report, where it cannot"),
    "in a dataclass in another": (Report(Report(outlast.Document(b"A page."))), "inside Report"),
    "in one with slots": (Slotted(IMAGE), "inside Slotted"),
    "in a model": (Typed(chart=outlast.Document(b"A page.")), "inside Typed"),
    "one that is too large": (
        outlast.Image(PNG + bytes(24_000_000)),
        "(Image) cannot be shown: an image or document of 24000072 bytes cannot be sent",
    ),
    "some that are too large together": (
        [outlast.Image(PNG + bytes(12_400_000)), outlast.Image(GIF + bytes(12_400_000))],
        "(list) cannot be shown: a message of 33",
    ),
}


@pytest.mark.parametrize(("value", "why"), WITHHELD.values(), ids=WITHHELD)
def test_what_cannot_be_shown_is_said_to_be_so(value: Any, why: str) -> None:
    """Claude is told that the call happened, and why it cannot see the result; no request fails."""
    returned = Returned(value)
    told = returned.result["content"]
    assert told.startswith("work was called and returned, but its result (")
    assert why in told
    assert returned.result["is_error"] is True
    (failed,) = [each for each in returned.events if isinstance(each, ToolCallFailed)]
    assert failed.kind == "bad_result"


def test_what_was_read_is_never_written_as_data() -> None:
    """The bytes behind an image or a document are no field of it, whoever writes it as JSON."""
    from pydantic_core import to_json  # noqa: PLC0415  (only here)

    for given in (outlast.Document("https://a.example"), outlast.Document(b"A page.")):
        assert b"_given" not in to_json(given)
        assert "_given" not in repr(given)
    assert outlast.Document(b"a") == outlast.Document(b"a")
    assert outlast.Image(PNG) != outlast.Image(GIF)


def truncated(missing: int, whole: int) -> str:
    return f"[truncated: {missing} of {whole} bytes are missing here; ask for less at a time]"


def test_a_long_text_beside_an_image_is_cut() -> None:
    """Texts beside images are cut where they exceed the limit together; all of it is a blob."""
    page = outlast.Document("é".encode() * 30)
    returned = Returned(["a" * 50, IMAGE, page, "last"], max_result_tokens=81)
    shown = returned.result["content"]
    assert shown == [
        text("a" * 50),
        PNG_BLOCK,
        {
            "type": "document",
            "source": {
                "type": "text",
                "media_type": "text/plain",
                "data": f"{'é' * 12}\n{truncated(30, 60)}\n{'é' * 3}",
            },
        },
        text(truncated(4, 4)),
    ]
    assert returned.blob is not None
    whole = msgspec.json.decode(returned.blob)
    assert whole[0] == text("a" * 50)
    assert whole[2]["source"]["data"] == "é" * 30
    assert whole[3] == text("last")


def test_texts_that_fit_are_not_cut() -> None:
    """The limit is one of text: the bytes of an image do not count."""
    returned = Returned(["a" * 40, IMAGE, "b" * 41], max_result_tokens=81)
    assert returned.result["content"] == [text("a" * 40), PNG_BLOCK, text("b" * 41)]
    assert returned.blob is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_what_they_are(kind: Any) -> None:
    """The bytes of an image or a PDF are shown as that, also in lists; others are no answer."""
    assert Returned(kind(PNG)).result["content"] == [PNG_BLOCK]
    assert Returned([kind(GIF), kind(PDF)]).result["content"] == [GIF_BLOCK, PDF_BLOCK]
    broken = Returned(kind(b"\xff\xfe\x00 no text"))
    assert broken.result["is_error"] is True
    assert "cannot be written as JSON" in broken.result["content"]
