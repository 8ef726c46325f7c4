"""The JSON that programs rely on."""

import json
import re
from decimal import Decimal
from typing import get_args

import msgspec
import pytest
from msgspec import Raw

from cli.console import documents, typed
from outlast import errors
from outlast.cli import shapes
from outlast.events import AnyEvent, ModelCallSucceeded, tag
from outlast.journal import Record, RunRow

RUN = [
    *("id", "agent", "version", "status", "phase", "answer", "rejected_answers"),
    *("cost_usd", "cost_nano", "tokens", "turns", "created_at", "updated_at", "wake_at"),
    *("why", "degraded", "tenant", "parent"),
]
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def test_a_run_has_every_promised_field(looked_at):
    """`show --json` and each element of `runs --json` have the fields of a run, correctly typed."""
    (shown,) = documents(typed("show", "done", "--json", "--store", looked_at).stdout)
    (listed,) = documents(typed("runs", "--json", "--store", looked_at).stdout)
    done = next(run for run in listed if run["id"] == "done")
    assert list(done) == RUN
    assert done.items() <= shown.items()
    assert done["answer"] == "**Found** it.\n\nAll of it."
    assert Decimal(done["cost_usd"]) * 10**9 == done["cost_nano"] > 0
    assert MOMENT.fullmatch(done["created_at"])
    assert MOMENT.fullmatch(done["updated_at"])
    assert (done["turns"], done["tenant"]) == (2, "acme")
    nothing_yet = {"phase": None, "rejected_answers": [], "wake_at": None, "degraded": False}
    assert nothing_yet.items() <= done.items()


def test_runs_come_newest_first(looked_at):
    """The list begins with the run that was started last, and is one document."""
    (listed,) = documents(typed("runs", "--json", "--store", looked_at).stdout)
    assert [run["id"] for run in listed] == ["queued", "refused", "out-of-turns", "done"]


def test_a_log_is_an_object_a_line(looked_at):
    """Each line of `log --json` is an event in its place, and the places have no gap."""
    events = documents(typed("log", "done", "--json", "--store", looked_at).stdout)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    for event in events:
        assert event["stream"] == "run:done"
        assert event["position"] >= event["seq"]
        assert MOMENT.fullmatch(event["at"])
    assert [event["type"] for event in events][:3] == [
        "run_started",
        "ask_started",
        "message_received",
    ]


def test_an_outcome_repeats_its_call(looked_at):
    """Every outcome of a call carries the call id of an intent before it."""
    events = documents(typed("log", "done", "--json", "--store", looked_at).stdout)
    started = set()
    for event in events:
        if event["type"] in ("model_call_started", "tool_call_started"):
            started.add(event["call_id"])
        elif event["type"].startswith(("model_call_", "tool_call_")):
            assert event["call_id"] in started
    assert len(started) == 5


def test_json_from_outside_is_embedded(looked_at):
    """What Claude said stands in an event as JSON, not as a string of JSON."""
    events = documents(typed("log", "done", "--json", "--store", looked_at).stdout)
    reply = next(event for event in events if event["type"] == "model_call_succeeded")
    assert reply["content"][0] == {"type": "text", "text": "Let me look."}
    assert reply["usage"]["output_tokens"] > 0
    assert events[0]["spec"]["tools"][0]["name"] == "look_up"


def test_money_is_told_twice(looked_at):
    """Each amount in an event is there in nano-dollars and as a decimal string."""
    events = documents(typed("log", "done", "--json", "--store", looked_at).stdout)
    amounts = [(event, name) for event in events for name in event if name.endswith("_nano")]
    assert amounts
    for event, name in amounts:
        usd = event[name.removesuffix("_nano") + "_usd"]
        assert isinstance(usd, str)
        assert Decimal(usd) * 10**9 == event[name]


@pytest.mark.parametrize("kind", get_args(AnyEvent), ids=lambda kind: kind.__name__)
def test_an_event_shows_every_field(kind):
    """A field that was left at its default is shown as well, for each type of event."""
    event = _minimal(kind)
    shape = json.loads(shapes.encode(shapes.event_shape(Record("run:a", 1, 2, 3, 4, event))))
    assert shape["type"] == tag(event)
    assert set(kind.__struct_fields__) <= set(shape)


def test_an_event_is_one_line():
    """A line break that came with Claude's JSON does not break the line, and is kept in texts."""
    content = Raw(b'[\n {"type":"text",\r\n "text":"a\\nb"}\n]')
    event = msgspec.structs.replace(_minimal(ModelCallSucceeded), content=content)
    encoded = shapes.encode(shapes.event_shape(Record("run:a", 1, 1, 0, 1, event)))
    assert b"\n" not in encoded
    assert b"\r" not in encoded
    assert json.loads(encoded)["content"] == [{"type": "text", "text": "a\nb"}]


@pytest.mark.parametrize(
    ("nano", "usd"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (10, "0.00000001"),
        (500_000_000, "0.5"),
        (1_000_000_000, "1"),
        (100_000_000_000, "100"),
        (123_456_789_012, "123.456789012"),
    ],
)
def test_dollars_are_exact(nano, usd):
    """Dollars are a decimal string, exact to the nano-dollar, never with an exponent."""
    assert shapes.dollars(nano) == usd


@pytest.mark.parametrize(
    ("at", "moment"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_780_000_000_123_456_789, "2026-05-28T20:26:40.123456Z"),
    ],
)
def test_moments_are_utc(at, moment):
    """A moment is RFC 3339 in UTC with a Z, to the microsecond."""
    assert shapes.moment(at) == moment


def test_an_answer_may_be_any_json():
    """An answer that is not text is embedded as what it is."""
    row = RunRow(
        id="a", agent="b", status="completed", answer='[{"a": 1.50}]', created_at=0, updated_at=0
    )
    assert b'"answer":[{"a": 1.50}]' in shapes.encode(shapes.run_shape(row))


def test_an_error_is_a_document(empty):
    """With --json an error goes to stderr as JSON, with its values, and nothing to stdout."""
    result = typed("show", "nobody", "--json", "--store", empty)
    assert result.stdout == ""
    (document,) = documents(result.stderr)
    assert document["error"]["type"] == "RunNotFound"
    assert document["error"]["run_id"] == "nobody"
    assert document["error"]["exit_code"] == result.exit_code == 2
    assert "nobody" in document["error"]["message"]


def test_wrong_usage_is_a_document_too():
    """A missing argument is told as JSON where JSON was asked for."""
    result = typed("show", "--json")
    (document,) = documents(result.stderr)
    assert "ID" in document["error"]["message"]
    assert result.exit_code == 2


def test_json_after_two_dashes_is_a_word(empty):
    """An input that happens to be `--json` does not change how errors are told."""
    result = typed("note", "--store", empty, "--", "nobody", "--json")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: there is no run 'nobody'")


def test_an_error_carries_plain_values_only():
    """Values of an error that JSON cannot hold are left out, its sentence stays."""
    error = errors.UnknownModel("claude-x", near=("claude-y",))
    error.secret = object()
    shape = shapes.error_shape(error, message=str(error), exit_code=2)["error"]
    assert shape["near"] == ("claude-y",)
    assert "secret" not in shape


def _minimal(kind):
    """Return an event with only its required fields."""
    values = {
        str: "a",
        int: 1,
        Raw: Raw(b"[]"),
        list[str]: ["a"],
    }
    chosen = {"status": "completed", "kind": "crash", "effect": "read", "stop_reason": None}
    given = {}
    for field in msgspec.structs.fields(kind):
        if field.required:
            made = chosen.get(field.name, values.get(field.type))
            given[field.name] = _minimal(field.type) if field.name == "spec" else made
    return kind(**given)
