"""What `redact=` takes out is in no journal and in no request, wherever it stood."""

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import pytest
from pydantic import AfterValidator

import outlast
from outlast.errors import InvalidInput
from outlast.events import NoteAdded, RunStarted, StepFinished, ToolCallFailed, encode
from outlast.models.script import Block, tool_use
from outlast.models.scripted import ScriptedModel
from outlast.redaction import within
from stubs import agent, asking, results

SECRET = 'p"w\\d'  # noqa: S105  (of nobody)
TEXT = {"type": "text", "text": "What is it?"}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def hide(text: str) -> str:
    return text.replace(SECRET, "[gone]")


class Told:
    """A run with a redaction: its events, and what Claude was given."""

    def __init__(
        self,
        given: Any = "Go.",
        *tools: outlast.Tool[..., Any],
        uses: tuple[Block, ...] = (),
        redact: Callable[[str], str] = hide,
        **more: Any,
    ) -> None:
        self.model = ScriptedModel(asking(*uses))
        with outlast.Outlast("memory://", model=self.model, redact=redact) as app:
            self.run = app.run(agent(*tools), given, run_id="r", **more)
            app.note("r", f"It was {SECRET}.", by=f"{SECRET}@example.com")
            self.events = [record.event for record in app.log("r")]

    def leaks(self) -> list[bytes]:
        """Return what holds the secret, as it is or as JSON spells it, however deep."""
        spelled = [SECRET]
        for _ in range(3):
            spelled.append(msgspec.json.encode(spelled[-1]).decode()[1:-1])
        bodies = [encode(event) for event in self.events] + self.model.calls
        return [body for body in bodies if any(form.encode() in body for form in spelled)]


def document(source: Any, **more: Any) -> Block:
    return {"type": "document", "source": source} | more


GIVEN: dict[str, Any] = {
    "a text": f"It is {SECRET}.",
    "a block of text": TEXT | {"text": SECRET},
    "a text with citations": TEXT
    | {"citations": [{"type": "char_location", "cited_text": SECRET, "deep": {"er": [SECRET]}}]},
    "a document of text": outlast.Document(SECRET.encode(), title=SECRET, context=SECRET),
    "a document's text": document({"type": "text", "media_type": "text/plain", "data": SECRET}),
    "a document of a string": document({"type": "content", "content": f"a {SECRET}"}),
    "a document of blocks": document({"type": "content", "content": [TEXT | {"text": SECRET}]}),
    "a title": document({"type": "url", "url": "https://a.example"}, title=SECRET, context=SECRET),
    "an image elsewhere": outlast.Image(f"https://a.example/?k={SECRET}"),
    "a PDF elsewhere": outlast.Document(f"https://a.example/?k={SECRET}"),
    "an address": document({"type": "url", "url": f"https://a.example/?k={SECRET}"}),
    "a search result": {
        "type": "search_result",
        "source": f"https://a.example/?k={SECRET}",
        "title": SECRET,
        "content": [TEXT | {"text": SECRET}],
        "citations": {"enabled": True},
    },
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_every_text_of_an_input_is_redacted(given: Any) -> None:
    """No text of what a user gives is kept or sent with the secret in it."""
    told = Told([given, TEXT])
    assert told.run.status == "completed", told.run.why
    assert told.leaks() == []
    assert b"[gone]" in told.model.calls[0]


def test_what_a_validator_says_is_redacted() -> None:
    """A validator's own message reaches Claude and the journal without the secret."""

    def check(value: str) -> str:
        raise ValueError(f"the database at {SECRET} has no {value}")

    @outlast.tool(effect="read")
    def find(key: Annotated[str, AfterValidator(check)]) -> str:
        return key

    told = Told("Go.", find, uses=(tool_use("find", {"key": "x"}),))
    assert told.leaks() == []
    (result,) = results(told.model)
    assert "- key: Value error, the database at [gone] has no x" in result["content"]
    (failed,) = [event for event in told.events if isinstance(event, ToolCallFailed)]
    assert failed.kind == "invalid_arguments"


def test_where_a_redaction_fails_a_validator_says_nothing() -> None:
    """A redaction that raises on a validator's message withholds it, and the run goes on."""

    def broken(text: str) -> str:
        if "fit" in text:
            raise LookupError("no dictionary")
        return hide(text)

    @outlast.tool(effect="read")
    def find(key: int) -> int:
        return key

    told = Told("Go.", find, uses=(tool_use("find", {"key": "x"}),), redact=broken)
    assert told.run.status == "completed"
    assert results(told.model)[0]["content"] == "[withheld: redact= raised LookupError]"


RESULTS: dict[str, Any] = {
    "a member": {"a": SECRET},
    "a name": {SECRET: 1},
    "deep": [{"a": [{"b": f"it is {SECRET}!"}]}],
    "beside an image": [outlast.Image(PNG), {"a": {"b": SECRET}}, SECRET],
    "around an image": {"chart": outlast.Image(PNG), SECRET: SECRET},
}


@pytest.mark.parametrize("value", RESULTS.values(), ids=RESULTS)
def test_a_secret_that_json_spells_otherwise(value: Any) -> None:
    """Strings and names of data are redacted as they are read, not as JSON spells them."""

    @outlast.tool(effect="read")
    def look() -> Any:
        return value

    told = Told("Go.", look, uses=(tool_use("look", {}),))
    assert told.leaks() == []
    assert "[gone]" in str(results(told.model)[0]["content"])


def test_what_is_no_string_is_found_in_the_whole() -> None:
    """A number, and what stands in several members, is redacted in the JSON as a whole."""
    card = '{"card":4111,"of":{"a\\"b":"c\\nd"},"n":1.50}'
    assert within(card, lambda text: text.replace("4111", "0")) == card.replace("4111", "0")
    assert within(card, lambda text: text.replace('"b', "")) == card.replace('a\\"b', "a")
    assert within(card, lambda text: text) == card


def test_names_of_a_run_are_redacted_or_refused() -> None:
    """Tags and the author of a note are redacted; a tenant is a name, so it is refused."""
    told = Told(tags={SECRET: SECRET, "a": "b"}, tenant="acme")
    assert told.leaks() == []
    (started,) = [event for event in told.events if isinstance(event, RunStarted)]
    assert started.tags == {"[gone]": "[gone]", "a": "b"}
    assert started.tenant == "acme"
    (note,) = [event for event in told.events if isinstance(event, NoteAdded)]
    assert note.by == "[gone]@example.com"
    with pytest.raises(InvalidInput, match="redact= takes something out of its tenant"):
        Told(tenant=SECRET)


def test_a_step_and_the_input_of_a_flow_are_redacted() -> None:
    """What a flow is given and what its steps return is redacted as it is read."""

    @outlast.flow
    async def fetched(run: Any, given: dict[str, str]) -> str:
        await run.step("one", lambda: {"k": SECRET, "was": given["k"]})
        return "done"

    with outlast.Outlast("memory://", model=ScriptedModel(asking()), redact=hide) as app:
        assert app.run(fetched, {"k": SECRET}, run_id="r").status == "completed"
        events = [record.event for record in app.log("r")]
    (step,) = [event for event in events if isinstance(event, StepFinished)]
    assert msgspec.json.decode(step.result) == {"k": "[gone]", "was": "[gone]"}
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    assert msgspec.json.decode(started.input) == {"k": "[gone]"}


def test_an_error_about_a_result_is_redacted() -> None:
    """Why a step's result cannot be had or written may quote it, so that is redacted, too."""

    class Rude:
        def __iter__(self) -> Any:
            raise ValueError(SECRET)

        __next__ = __iter__

    @outlast.flow
    async def fetched(run: Any) -> str:
        for name, function in (("made", Rude), ("written", lambda: {"a": {"b": Rude()}})):
            with suppress(outlast.StepFailed):
                await run.step(name, function)
        return "done"

    with outlast.Outlast("memory://", model=ScriptedModel(asking()), redact=hide) as app:
        app.run(fetched, run_id="r")
        events = [record.event for record in app.log("r")]
    made, written = [event for event in events if isinstance(event, StepFinished)]
    assert made.error == "ValueError: [gone]"
    assert written.error == (
        "it returned dict, which cannot be written as JSON: "
        "Error serializing to JSON: ValueError: [gone]"
    )


LEFT: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "nothing": ("Go.", lambda text: " ", InvalidInput, "redact= leaves nothing of the input"),
    "nothing of a block": (TEXT, lambda text: "", InvalidInput, "redact= leaves nothing"),
    "no address": (
        outlast.Image("https://a.example"),
        lambda text: "[gone]",
        InvalidInput,
        "redact= leaves no address",
    ),
    "no text": ("Go.", lambda text: None, outlast.UsageError, "redact= returned NoneType; it is"),
}


@pytest.mark.parametrize(("given", "redact", "error", "why"), LEFT.values(), ids=LEFT)
def test_a_redaction_that_leaves_no_input(
    given: Any, redact: Any, error: type[Exception], why: str
) -> None:
    """Where nothing is left to ask, it is the redaction that is named."""
    with pytest.raises(error, match=why):
        Told(given, redact=redact)


WHY: dict[str, tuple[Any, str]] = {
    "raises": (
        "zzz",
        "(str) cannot be shown: it is withheld, because redact= raised ValueError.",
    ),
    "raises on a member": (
        {"a": "zzz"},
        "(dict) cannot be shown: it is withheld, because redact= raised ValueError.",
    ),
    "no JSON": (object, "(type) cannot be written as JSON, so it is not known what it said."),
}


@pytest.mark.parametrize(("value", "why"), WHY.values(), ids=WHY)
def test_claude_is_told_why_there_is_no_result(value: Any, why: str) -> None:
    """A redaction that fails is not told as JSON that cannot be written, nor the other way."""

    def broken(text: str) -> str:
        if "zzz" in text:
            raise ValueError("cannot redact")
        return text

    @outlast.tool(effect="once")
    def work() -> Any:
        return value

    told = Told("Go.", work, uses=(tool_use("work", {}),), redact=broken)
    assert results(told.model)[0]["content"] == (
        f"work was called and returned, but its result {why}"
    )
