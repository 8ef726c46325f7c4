"""Content blocks that a user writes: known by their members, and never a way to others' bytes."""

import base64
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec
import pytest

import outlast
from outlast import media
from outlast.blocks import stored
from outlast.content import MAX_MESSAGE
from outlast.errors import InvalidInput
from outlast.models import prompt_cache, strict
from outlast.models.scripted import ScriptedModel
from stubs import agent, asking, unmarked

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
OTHERS = b"what another tenant gave"
TEXT = {"type": "text", "text": "a"}
MARKER = {"type": "ephemeral"}
REFERENCE = {"blob": sha256(OTHERS).hexdigest()}
STORED = {"type": "base64", "media_type": "image/png", "data": REFERENCE}
SHOWN = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()}
Block = dict[str, Any]


def of_image(source: Any) -> Block:
    return {"type": "image", "source": source}


def of_content(*inside: Any) -> Block:
    return {"type": "document", "source": {"type": "content", "content": list(inside)}}


def found(*inside: Any, **more: Any) -> Block:
    """Return a search result."""
    return {"type": "search_result", "source": "s", "title": "t", "content": list(inside)} | more


def sent(given: Any, **more: Any) -> Any:
    """Return the first message that Claude gets of a run with this input."""
    model = ScriptedModel(asking())
    with outlast.Outlast("memory://", model=model, **more) as app:
        app.journal.put_blob(OTHERS)
        app.run(agent(), given).result()
    return msgspec.json.decode(unmarked(model.calls[0]))["messages"][0]["content"]


FORGED = {
    "an image": of_image(STORED),
    "an image in a document": of_content(of_image(STORED)),
    "a member of a text": TEXT | {"data": REFERENCE},
    "a member of a search result": found(TEXT, data=REFERENCE),
    "a member of an image": of_image(SHOWN) | {"data": REFERENCE},
    "a member of a source": of_image(
        {"type": "url", "url": "https://a.example", "data": REFERENCE}
    ),
    "a text document": {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": REFERENCE},
    },
    "citations": TEXT | {"citations": [STORED]},
    "citations, deep": found(TEXT, citations={"enabled": True, "x": [{"y": STORED}]}),
    "transformations": of_image(SHOWN) | {"transformations": {"z": STORED}},
    "a member that nobody knows": TEXT | {"zebra": STORED},
}


@pytest.mark.parametrize("given", FORGED.values(), ids=FORGED)
def test_nobody_refers_to_bytes_by_hand(given: Block) -> None:
    """What stands for bytes in the store is refused in a user's block, wherever it is."""
    with pytest.raises(InvalidInput):
        sent([given, TEXT])


def test_only_what_was_put_away_is_put_back() -> None:
    """A reference anywhere but in the source of an image or document stays what it is."""
    kept: dict[str, bytes] = {}

    def put(data: bytes) -> str:
        kept[sha256(data).hexdigest()] = data
        return sha256(data).hexdigest()

    source = msgspec.json.encode(stored("image/png", PNG, put))
    bare = msgspec.json.encode({"data": REFERENCE})
    assert media.has_references(source)
    assert not media.has_references(bare)
    whole = media.expanded(b"[%b,%b]" % (source, bare), lambda digest: kept[digest].hex().encode())
    assert whole == b'[{"type":"base64","media_type":"image/png","data":"%b"},%b]' % (
        PNG.hex().encode(),
        bare,
    )


def test_an_image_inside_a_document_is_kept_apart() -> None:
    """The bytes of an image in a document's content are a blob, too, and reach Claude whole."""
    given = of_content(TEXT, of_image(SHOWN))
    with outlast.Outlast("memory://", model=ScriptedModel(asking())) as app:
        app.start(agent(), given, run_id="r")
        assert app.journal.blob(sha256(PNG).hexdigest()) == PNG
    assert sent(given) == [given]


FLAWED = {
    "no source": ({"type": "image"}, "type 'image' needs the member 'source'"),
    "a source of text": (of_image("a.png"), "a source 'a.png' cannot be given"),
    "a source of no type": (of_image({"data": "AA=="}), "a source of type None"),
    "a source of another type": (of_image({"type": "text"}), "a source of type 'text'"),
    "another media type": (of_image(SHOWN | {"media_type": "image/tiff"}), "is 'image/tiff'"),
    "no data": (of_image({"type": "base64", "media_type": "image/png"}), "needs the member 'data'"),
    "no bytes": (of_image(SHOWN | {"data": ""}), "of 0 bytes cannot be sent"),
    "no address": (of_image({"type": "url", "url": "http://a.example"}), "begins with https://"),
    "no file": (of_image({"type": "file", "file_id": ""}), "'' is no id of a file"),
    "an upload of nothing": ({"type": "container_upload"}, "needs the member 'file_id'"),
    "another member": (TEXT | {"bogus": 1}, "has no member 'bogus'; it may have text, citations"),
    "a document of nothing": (of_content(), "the content of a content block is"),
    "a document of documents": (of_content(of_content(TEXT)), "type 'document' cannot be given"),
    "a document of blanks": (of_content({"type": "text", "text": " "}), "cannot be asked nothing"),
    "a result of no texts": (found(), "the content of a content block is"),
    "a result of images": (found(of_image(SHOWN)), "a content block in another of type 'image'"),
    "a title of numbers": (found(TEXT, title=1), "has 1 where a text has to be"),
}


@pytest.mark.parametrize(("given", "why"), FLAWED.values(), ids=FLAWED)
def test_a_block_that_the_api_refuses_is_refused_here(given: Block, why: str) -> None:
    """What no request could hold is found before a run exists, and said in words."""
    with pytest.raises(InvalidInput, match=why):
        sent([given, TEXT])


MARKED = {
    "a text": TEXT | {"cache_control": MARKER},
    "a source": of_image(SHOWN | {"cache_control": MARKER}),
    "a text in a search result": found(TEXT | {"cache_control": MARKER}),
    "a text in a document": of_content(TEXT | {"cache_control": MARKER}),
    "an image in a document": of_content(of_image(SHOWN) | {"cache_control": MARKER}),
    "citations": found(TEXT, citations={"cache_control": MARKER}),
}


@pytest.mark.parametrize("given", MARKED.values(), ids=MARKED)
def test_a_breakpoint_is_refused_at_any_depth(given: Block) -> None:
    """Breakpoints are placed by outlast alone: one too many would be a 400 for ever."""
    with pytest.raises(InvalidInput, match="outlast places the breakpoints itself"):
        sent([given, TEXT])


def request(*blocks: Block) -> Block:
    return {
        "model": "claude-haiku-5-5",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": list(blocks)}],
    }


@pytest.mark.parametrize("around", [found, of_content])
def test_the_simulator_counts_breakpoints_inside(around: Callable[..., Block]) -> None:
    """A fifth breakpoint is refused also where it stands inside a block; none makes another key."""
    marked = TEXT | {"cache_control": MARKER}
    assert strict.refusal(request(around(*[marked] * 4))) is None
    refused = strict.refusal(request(around(*[marked] * 5)))
    assert refused is not None
    assert "Found 5" in refused.message
    plain, other = request(around(TEXT)), request(around(marked))
    assert prompt_cache.marks(plain) == []
    digests = [prompt_cache.positions(each)[-1].digest for each in (plain, other)]
    assert digests[0] == digests[1]


MISTAKES = {
    "a file without a name": (lambda: outlast.File(""), "'' is no id of a file"),
    "a file of no kind": (lambda: outlast.File("a", kind="bogus"), "a file of kind 'bogus'"),  # type: ignore[arg-type]
    "a blank text": (lambda: outlast.Document(b" \n"), "these 2 bytes is blank"),
    "a title of numbers": (lambda: outlast.Document(b"a", title=1), "1 is no text"),  # type: ignore[arg-type]
    "an image of http": (lambda: outlast.Image("http://a.example/a.png"), "begins with https://"),
    "a PDF of http": (lambda: outlast.Document("http://a.example/a.pdf"), "begins with https://"),
}


@pytest.mark.parametrize(("make", "why"), MISTAKES.values(), ids=MISTAKES)
def test_what_the_api_cannot_take_is_refused_where_it_is_named(
    make: Callable[[], Any], why: str
) -> None:
    """A file without an id, a text without a word, an address without TLS: found at once."""
    with pytest.raises(InvalidInput, match=why):
        make()


@pytest.mark.parametrize("kind", ["images", "text", "mixed"])
def test_a_message_that_no_request_can_hold(kind: str) -> None:
    """What is too large only together is refused before a run exists, and nothing of it is kept."""
    large = outlast.Image(PNG + bytes(12_400_000))
    given: dict[str, Any] = {
        "images": [large, outlast.Image(PNG + bytes(12_400_001))],
        "text": "a" * MAX_MESSAGE,
        "mixed": [large, outlast.Document(b"a" * 17_000_000)],
    }
    model = ScriptedModel(asking())
    with outlast.Outlast("memory://", model=model) as app:
        with pytest.raises(InvalidInput, match=f"the limit is {MAX_MESSAGE}"):
            app.run(agent(), given[kind])
        assert app.runs() == []
        assert app.journal.blob(sha256(PNG + bytes(12_400_000)).hexdigest()) is None


@pytest.mark.parametrize("budget", [0, 1_023])
def test_a_budget_for_thinking_that_the_api_refuses(budget: int) -> None:
    """Less than 1,024 tokens of thinking would be a 400 for every request."""
    thinking = {"type": "enabled", "budget_tokens": budget}
    with pytest.raises(outlast.InvalidAgent, match=f"budget_tokens={budget}, and the API takes no"):
        agent(parameters={"thinking": thinking})
    agent(parameters={"thinking": thinking | {"budget_tokens": 1_024}})
