"""Images, documents and files: given to Claude and by tools, kept once, sent whole every time."""

import base64
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import outlast
from outlast.content import MAX_BYTES
from outlast.errors import InvalidInput
from outlast.events import (
    MessageReceived,
    ModelCallFailed,
    ModelCallStarted,
    TokensCounted,
    ToolCallSucceeded,
    encode,
)
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.prices import context_window
from stubs import agent, asking, unmarked

PNG = b"\x89PNG\r\n\x1a\n" + zlib.compress(bytes(range(256)) * 64)
PDF = b"%PDF-1.7\n" + b"/Type /Page\n" * 3 + zlib.compress(b"words " * 1000)
MODEL = "claude-opus-5-5"


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(asking(answer="I see."))


@pytest.fixture
def app(model: ScriptedModel) -> Iterator[outlast.Outlast]:
    with outlast.Outlast("memory://", model=model) as app:
        yield app


def first(model: ScriptedModel) -> list[dict[str, Any]]:
    """Return the blocks of the first message that Claude got."""
    content: list[dict[str, Any]] = msgspec.json.decode(unmarked(model.calls[0]))["messages"][0][
        "content"
    ]
    return content


def events(app: outlast.Outlast, kind: type) -> list[Any]:
    return [record.event for record in app.log("r") if isinstance(record.event, kind)]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_an_image_is_kept_once_and_sent_whole(app: outlast.Outlast, model: ScriptedModel) -> None:
    """The bytes of an image are a blob; the journal holds its hash, and Claude gets the bytes."""
    run = app.run(agent(model=MODEL), [outlast.Image(PNG), "What is it?"], run_id="r")
    assert run.answer == "I see."
    assert first(model) == [image(**PNG_SOURCE), {"type": "text", "text": "What is it?"}]
    (message,) = events(app, MessageReceived)
    digest = msgspec.json.decode(message.content)[0]["source"]["data"]["blob"]
    assert app.journal.blob(digest) == PNG
    assert not any(b64(PNG).encode()[:60] in encode(record.event) for record in app.log("r"))


def image(**source: str) -> dict[str, Any]:
    """Return an image as Claude gets it."""
    return {"type": "image", "source": source}


def document(source: dict[str, str], **more: str) -> dict[str, Any]:
    """Return a document as Claude gets it."""
    return {"type": "document", "source": source} | more


ADDRESS = "https://a.example/b"
PNG_SOURCE = {"type": "base64", "media_type": "image/png", "data": b64(PNG)}
PDF_SOURCE = {"type": "base64", "media_type": "application/pdf", "data": b64(PDF)}
TEXT_SOURCE = {"type": "text", "media_type": "text/plain", "data": "words"}
TEXT = {"type": "text", "text": "a"}
FOUND = {"type": "search_result", "source": "a", "title": "b", "content": [TEXT]}
KINDS = {
    "an image": (outlast.Image(PNG), image(**PNG_SOURCE)),
    "an image elsewhere": (outlast.Image(ADDRESS), image(type="url", url=ADDRESS)),
    "an uploaded image": (
        outlast.File("file_1", kind="image"),
        image(type="file", file_id="file_1"),
    ),
    "a PDF": (
        outlast.Document(PDF, title="A", context="B"),
        document(PDF_SOURCE, title="A", context="B"),
    ),
    "a text": (outlast.Document(b"words"), document(TEXT_SOURCE)),
    "a PDF elsewhere": (outlast.Document(ADDRESS), document({"type": "url", "url": ADDRESS})),
    "an uploaded document": (
        outlast.File("file_1"),
        document({"type": "file", "file_id": "file_1"}),
    ),
    "an upload": (
        outlast.File("file_1", kind="container_upload"),
        {"type": "container_upload", "file_id": "file_1"},
    ),
    "a block of text": (TEXT, TEXT),
    "a block of an image": (image(**PNG_SOURCE), image(**PNG_SOURCE)),
    "a search result": (FOUND, FOUND),
}


@pytest.mark.parametrize(("given", "block"), KINDS.values(), ids=KINDS)
def test_every_kind_of_content(
    app: outlast.Outlast, model: ScriptedModel, given: Any, block: dict[str, Any]
) -> None:
    """Each kind of content reaches Claude as the API takes it, alone or in a list."""
    assert app.run(agent(model=MODEL), given, run_id="r").status == "completed"
    assert first(model) == [block]
    assert app.run(agent(model=MODEL), [given], run_id="r").status == "completed", "the same run"
    assert len(model.calls) == 1


def test_a_file_is_read_when_it_is_named(tmp_path: Path, app: outlast.Outlast) -> None:
    """A path is read when it is given, so that what is sent later is what was meant."""
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    image = outlast.Image(path)
    path.unlink()
    assert app.run(agent(model=MODEL), image).status == "completed"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: outlast.Image("nowhere.png"), "'nowhere.png' cannot be read"),
        (lambda: outlast.Image(b"BM"), "these 2 bytes is not a PNG, JPEG, GIF or WebP"),
        (lambda: outlast.Image(b""), "these 0 bytes is empty"),
        (lambda: outlast.Document(b"\xff\xfe"), "neither a PDF nor UTF-8 text"),
    ],
)  # fmt: skip
def test_what_claude_cannot_read(make: Callable[[], Any], why: str) -> None:
    """What is no image and no document is refused where it is named."""
    with pytest.raises(InvalidInput, match=why):
        make()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "the input is empty"),
        ([{"type": "zebra"}], "type 'zebra' cannot be given"),
        ([{"type": "tool_result", "tool_use_id": "a"}], "type 'tool_result' cannot be given"),
        ([{"type": "text", "text": " "}], "cannot be asked nothing"),
        (["a", ""], "cannot be asked nothing"),
        ([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}], "outlast places"),
        ([{"type": "image", "source": PNG_SOURCE | {"data": "!"}}], "is not base64"),
        ([outlast.Image(PNG + bytes(MAX_BYTES))], "the limit is 24000000"),
        ([{"type": "text", "text": object()}], "cannot be asked nothing"),
        ([{"type": "text", "text": "a", "citations": object()}], "cannot be written as JSON"),
    ],
)  # fmt: skip
def test_what_claude_cannot_be_given(app: outlast.Outlast, given: Any, why: str) -> None:
    """What the API would refuse is refused before a run exists."""
    with pytest.raises(InvalidInput, match=why):
        app.run(agent(model=MODEL), given, run_id="r")
    assert app.runs() == []


# ── tools ───────────────────────────────────────────────────────────────────────────────────────


@outlast.tool(effect="read")
def photograph(mixed: bool) -> Any:  # noqa: FBT001  (Claude gives it)
    """Take a photograph."""
    return ["Here:", outlast.Image(PNG), {"at": "noon"}] if mixed else outlast.Image(PNG)


def looked(request: dict[str, Any], attempt: int) -> Any:
    """Photograph in the first two turns, and then answer."""
    turn = turn_number(request)
    if turn == 3:
        return say("Nice.")
    return say(tool_use("photograph", {"mixed": turn == 2}))


def test_a_tool_shows_images(tmp_path: Path) -> None:
    """A tool may return images, alone or among texts and data; a resume sends the same again."""
    url = f"sqlite:///{tmp_path}/a.db"
    shooter = agent(photograph, model=MODEL, budget=outlast.Budget(turns=2))
    model = ScriptedModel(looked)
    with outlast.Outlast(url, model=model) as app:
        assert app.run(shooter, "Show me.", run_id="r").status == "stopped"
    with outlast.Outlast(url, model=model) as app:
        assert app.run(agent(photograph, model=MODEL), "Show me.", run_id="r").answer == "Nice."
        results = events(app, ToolCallSucceeded)
    assert all(b64(PNG).encode() not in bytes(result.content) for result in results)
    messages = msgspec.json.decode(unmarked(model.calls[-1]))["messages"]
    shown = image(**PNG_SOURCE)
    assert messages[2]["content"][0]["content"] == [shown]
    assert messages[4]["content"][0]["content"] == [
        {"type": "text", "text": "Here:"},
        shown,
        {"type": "text", "text": '{"at":"noon"}'},
    ]


def test_what_looks_like_a_reference_is_text(app: outlast.Outlast, model: ScriptedModel) -> None:
    """Nobody can have a blob put into a message by writing what a reference looks like."""
    digest = app.journal.put_blob(PNG)
    text = f'see {{"type":"base64","data":{{"blob":"{digest}"}}}}'
    app.run(agent(model=MODEL), [outlast.Image(PNG), text], run_id="r").result()
    assert first(model)[1] == {"type": "text", "text": text}


def test_a_lost_blob_is_said_to_be_lost(app: outlast.Outlast, model: ScriptedModel) -> None:
    """A run whose image is gone stops before anything is sent or billed, until it is back."""
    app.start(agent(model=MODEL), outlast.Image(PNG), run_id="r")
    blob = app.journal.blob
    app.journal.blob = lambda digest: None  # type: ignore[method-assign]
    run = app.run(agent(model=MODEL), outlast.Image(PNG), run_id="r")
    assert run.status == "stopped"
    assert "nothing was sent (store): the journal has no blob" in run.why
    assert model.calls == []
    assert run.cost_nano == 0
    assert [event.kind for event in events(app, ModelCallFailed)] == ["store"]
    app.journal.blob = blob  # type: ignore[method-assign]
    assert app.resume("r", agent=agent(model=MODEL)).answer == "I see."


# ── what it may cost ────────────────────────────────────────────────────────────────────────────


def test_an_image_is_held_at_its_most(app: outlast.Outlast) -> None:
    """What is held for an image is the most an image counts, however few bytes stand for it."""
    app.run(agent(model=MODEL), [outlast.Image(PNG)] * 3, run_id="r").result()
    (intent,) = events(app, ModelCallStarted)
    assert 3 * 4_784 < intent.hold_tokens < 3 * 4_784 + 8_192 + 4_000
    assert events(app, TokensCounted) == []


@pytest.mark.parametrize(
    "given",
    [
        outlast.Document(PDF),
        outlast.Document("https://a.example/b.pdf"),
        outlast.File("file_1"),
        outlast.File("file_1", kind="container_upload"),
    ],
    ids=["pdf", "url", "file", "upload"],
)
def test_a_document_is_counted_by_the_api(
    app: outlast.Outlast, model: ScriptedModel, given: Any
) -> None:
    """What cannot be counted here is counted there, once, before the call it is held for."""
    app.run(agent(model=MODEL), [given, "Read."], run_id="r").result()
    (counted,), (intent,) = events(app, TokensCounted), events(app, ModelCallStarted)
    billed = sum(charge.nano_usd for charge in model.bill)
    assert counted.why == ""
    assert intent.hold_tokens == counted.tokens + counted.tokens // 20 + 1_024 + 8_192
    assert intent.hold_nano >= billed


def test_what_nobody_counts_is_held_as_a_whole_context(app: outlast.Outlast) -> None:
    """Where the API does not count, the context window is held: no prompt can be longer."""

    async def busy(request: Any) -> int:
        raise ConnectionError("no line")

    app._own._model.count_tokens = busy  # type: ignore[attr-defined]
    app.run(agent(model=MODEL), outlast.Document(PDF), run_id="r").result()
    (counted,), (intent,) = events(app, TokensCounted), events(app, ModelCallStarted)
    assert counted.tokens == context_window(MODEL) == 1_000_000
    assert counted.why == "ConnectionError: no line"
    assert intent.hold_tokens > 1_000_000


# ── redaction ───────────────────────────────────────────────────────────────────────────────────


def test_nothing_redacted_is_written_or_sent(tmp_path: Path) -> None:
    """What `redact=` takes out is in no byte of the store and in no request."""

    @outlast.tool(effect="read")
    def lookup(fail: bool) -> Any:  # noqa: FBT001  (Claude gives it)
        """Look somebody up."""
        if fail:
            raise outlast.ToolError("no hunter2 here")
        return {"password": "hunter2", "note": "x" * 300_000 + "hunter2"}

    def script(request: dict[str, Any], attempt: int) -> Any:
        uses = [tool_use("lookup", {"fail": fail}) for fail in (False, True)]
        return say(*uses) if turn_number(request) == 1 else say("Done.")

    model = ScriptedModel(script)
    secret = "hunter2"  # noqa: S105
    store = tmp_path / "a.db"
    asked = [
        f"My password is {secret}.",
        {"type": "text", "text": secret},
        outlast.Document(secret.encode(), title=secret),
        FOUND | {"title": secret, "content": [{"type": "text", "text": secret}]},
    ]
    with outlast.Outlast(
        f"sqlite:///{store}", model=model, redact=lambda text: text.replace(secret, "[gone]")
    ) as app:
        assert app.run(agent(lookup, model=MODEL), asked, run_id="r").status == "completed"
        assert app.run(agent(lookup, model=MODEL), asked, run_id="r").status == "completed"
        app.note("r", f"it was {secret}")
        told = msgspec.json.decode(model.calls[-1])["messages"][2]["content"]
    assert told[1]["content"] == "no [gone] here"
    assert all(secret.encode() not in call for call in model.calls)
    for path in tmp_path.iterdir():
        assert secret.encode() not in path.read_bytes(), path.name


def test_a_redaction_that_fails_keeps_everything_back() -> None:
    """Where the redaction raises, the text is withheld: from the journal and from Claude."""

    def broken(text: str) -> str:
        if "secret" in text:
            raise LookupError("no dictionary")
        return text

    @outlast.tool(effect="read")
    def lookup(word: str) -> str:
        """Look a word up."""
        if word == "raise":
            raise outlast.ToolError("secret")
        return "secret"

    uses = [tool_use("lookup", {"word": word}) for word in ("tell", "raise")]
    model = ScriptedModel(asking(*uses))
    with outlast.Outlast("memory://", model=model, redact=broken) as app:
        app.run(agent(lookup), "Go.", run_id="r").result()
        assert not any(b"secret" in encode(record.event) for record in app.log("r"))
        with pytest.raises(LookupError):
            app.run(agent(lookup), "secret", run_id="s")
        assert [run.id for run in app.runs()] == ["r"]
    told = msgspec.json.decode(model.calls[-1])["messages"][2]["content"]
    assert told[0]["content"] == (
        "lookup was called and returned, but its result (str) cannot be shown: "
        "it is withheld, because redact= raised LookupError."
    )
    assert told[1]["content"] == "[withheld: redact= raised LookupError]"


# ── counting ────────────────────────────────────────────────────────────────────────────────────


def test_a_prompt_is_counted_before_it_is_asked(app: outlast.Outlast, model: ScriptedModel) -> None:
    """`count_tokens` tells what the first request will be metered at, and writes nothing."""
    reader = agent(photograph, model=MODEL, instructions="Read it. " * 200)
    asked = [outlast.Document(PDF), outlast.Image(PNG), "What is it?"]
    tokens = app.count_tokens(reader, asked)
    assert app.runs() == []
    app.run(reader, asked, run_id="r").result()
    used = model.bill[0].usage
    billed = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    assert tokens == sum(used[name] for name in billed)


def test_a_model_that_cannot_count(model: ScriptedModel) -> None:
    """A model without `count_tokens` says so, rather than to guess."""

    class Uncounting:
        call = model.call

    with outlast.Outlast("memory://", model=Uncounting()) as app:
        with pytest.raises(outlast.OutlastError, match="Uncounting has no count_tokens"):
            app.count_tokens(agent(), "How long is this?")
        assert app.run(agent(), outlast.Document(PDF), run_id="r").status == "completed"
        assert events(app, TokensCounted)[0].why.endswith("Uncounting has no count_tokens")
