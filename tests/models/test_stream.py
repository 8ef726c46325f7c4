"""Replies put together from raw server-sent events: verbatim, or not at all."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.errors import ModelFailure
from outlast.models import RETRYABLE, UNBILLED
from outlast.models.stream import Accumulator, Events

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-5-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 1},
    },
}
STOP = {"type": "message_stop"}


def sse(event: object, name: str | None = None) -> bytes:
    data = event if isinstance(event, bytes) else msgspec.json.encode(event)
    if name is None:
        name = "written_out" if isinstance(event, bytes) else event["type"]
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data.replace(b"\n", b"\ndata: "))


def begun(index: int, block: object) -> dict[str, object]:
    block = msgspec.Raw(block) if isinstance(block, bytes) else block
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **members: object) -> dict[str, object]:
    return {
        "type": "content_block_delta",
        "index": index,
        "delta": {"type": kind, **members},
    }


def ended(index: int) -> dict[str, object]:
    return {"type": "content_block_stop", "index": index}


def totals(stop_reason: str | None = "end_turn", **members: object) -> dict[str, object]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason, "stop_sequence": None},
        "usage": {"output_tokens": 7},
        **members,
    }


def accumulated(*events: object) -> Accumulator:
    stream = Accumulator()
    for event in events:
        stream.feed(sse(event))
    return stream


def reply_of(*events: object):
    return accumulated(START, *events, STOP).reply()


def failure_of(*events: object) -> ModelFailure:
    with pytest.raises(ModelFailure) as failed:
        accumulated(*events).reply()
    assert failed.value.kind not in UNBILLED  # the status was 200: something may be billed
    return failed.value


# ── any reply, however it is cut ────────────────────────────────────────────────────────────────

texts = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from('"\\\n\r\u2028\ufdfa\N{PILE OF POO}'),
    max_size=30,
)
numbers = st.sampled_from(
    ["0", "-0", "1.0", "1e5", "1E+5", "1e-7", "0.10", "10000000000000000000000", "1e999"]
)
spaces = st.sampled_from(["", " ", "\n  "])


def object_of(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.lists(st.tuples(texts.map(json.dumps), spaces, values), max_size=4)
    return members.map(lambda all_: "{" + ",".join(f"{k}:{s}{v}" for k, s, v in all_) + "}")


values = st.recursive(
    numbers | st.sampled_from(["true", "false", "null"]) | texts.map(json.dumps),
    lambda inner: object_of(inner) | st.lists(inner, max_size=3).map(lambda v: f"[{','.join(v)}]"),
    max_leaves=8,
)
objects = object_of(values)
"""JSON with the spelling it happens to have: numbers, escapes, spaces, repeated members."""


@st.composite
def parted(draw, text: str) -> list[str]:
    """Cut a text anywhere, into pieces some of which may be empty."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def blocks(draw) -> tuple[bytes, bytes, list[dict[str, object]]]:
    """Draw a block as it should come out, as it starts, and the deltas that bring the rest."""
    unknown = draw(values)
    kind = draw(st.sampled_from(["text", "thinking", "tool_use", "server_tool_use", "unheard_of"]))
    if kind in ("text", "thinking"):
        text = draw(texts)
        deltas = [{"type": f"{kind}_delta", kind: piece} for piece in draw(parted(text))]
        whole = {"type": kind, kind: text, "new": msgspec.Raw(unknown.encode())}
        start = {**whole, kind: ""}
        if kind == "thinking":
            signature = draw(st.text("ab+/=", max_size=12))
            pieces = draw(parted(signature))
            deltas += [{"type": "signature_delta", "signature": piece} for piece in pieces]
            whole["signature"], start["signature"] = signature, ""
        return msgspec.json.encode(whole), msgspec.json.encode(start), deltas
    if kind == "unheard_of":
        block = b'{"type":"unheard_of","payload":%b}' % unknown.encode()
        return block, block, []
    given_input = draw(objects)
    form = b'{"type":"%b","id":"toolu_1","name":"f","input":%b,"new":%b}'
    pieces = draw(parted(given_input)) if given_input != "{}" else draw(st.sampled_from([[], [""]]))
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return (
        form % (kind.encode(), given_input.encode(), unknown.encode()),
        form % (kind.encode(), b"{}", unknown.encode()),
        deltas,
    )


def raw_members(block: msgspec.Raw | bytes) -> dict[str, bytes]:
    return {
        name: bytes(raw)
        for name, raw in msgspec.json.decode(block, type=dict[str, msgspec.Raw]).items()
    }


@given(
    drawn=st.lists(blocks(), max_size=4),
    ends=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    data=st.data(),
)
def test_what_comes_out_is_what_came(drawn, ends, data):
    """Blocks cut into deltas anywhere, and the stream into chunks anywhere, come out as they were.

    Inputs and members nobody has heard of to the byte, texts in their meaning.
    """
    events: list[object] = [START]
    for at, (_, start, deltas) in enumerate(drawn):
        events += [begun(at, start), {"type": "ping"}]
        events += [{"type": "content_block_delta", "index": at, "delta": each} for each in deltas]
        events.append(ended(at))
    stream = b": hello\n\n" + b"".join(map(sse, [*events, totals("tool_use"), STOP]))
    stream = stream.replace(b"\n", ends)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    accumulator = Accumulator()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        accumulator.feed(stream[start:end])
    came = msgspec.json.decode(accumulator.reply().content, type=list[msgspec.Raw])
    assert len(came) == len(drawn)
    for got, (expected, _, _) in zip(map(raw_members, came), drawn, strict=True):
        wanted = raw_members(expected)
        assert list(got) == list(wanted)  # the order of members, too
        for member in ("text", "thinking", "signature"):
            if member in wanted:
                assert json.loads(got.pop(member)) == json.loads(wanted.pop(member))
        assert got == wanted


# ── single facts ────────────────────────────────────────────────────────────────────────────────


def test_a_block_without_deltas_is_kept_as_it_began():
    """Blocks that come whole, results of server tools for example, are not touched."""
    block = b'{"type": "web_search_tool_result", "content":[{"page_age":1.0}] , "x":null}'
    reply = reply_of(begun(0, block), ended(0), totals())
    assert raw_members(bytes(reply.content)[1:-1]) == {
        "type": b'"web_search_tool_result"',
        "content": b'[{"page_age":1.0}]',
        "x": b"null",
    }


def test_escapes_in_a_text_are_kept_as_they_are_spelled():
    """A text is joined without being decoded, so that it stays the text that was signed."""
    event = (
        rb'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\u00e9\/"}}'
    )
    reply = reply_of(begun(0, {"type": "text", "text": "é"}), event, ended(0), totals())
    assert bytes(reply.content) == '[{"type":"text","text":"é\\u00e9\\/"}]'.encode()


@pytest.mark.parametrize("pieces", [[], [""], ["", ""], [" "]])
def test_no_input_is_an_empty_input(pieces):
    """A tool without arguments has the input it began with: an empty object."""
    deltas = [delta(0, "input_json_delta", partial_json=piece) for piece in pieces]
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    reply = reply_of(begun(0, block), *deltas, ended(0), totals("tool_use"))
    assert msgspec.json.decode(reply.content) == [block]
    bare = {"type": "tool_use", "id": "t", "name": "f"}
    reply = reply_of(begun(0, bare), *deltas, ended(0), totals("tool_use"))
    assert msgspec.json.decode(reply.content) == [block]


@pytest.mark.parametrize("first", [None, [], [{"n": 1.0}]])
def test_citations_are_collected(first):
    """Each citation is appended, verbatim, to those the block began with."""
    block = {"type": "text", "text": "", "citations": first}
    cited = [delta(0, "citations_delta", citation={"n": n}) for n in (2, 3)]
    reply = reply_of(begun(0, block), *cited, ended(0), totals())
    assert msgspec.json.decode(reply.content) == [
        {**block, "citations": [*(first or []), {"n": 2}, {"n": 3}]}
    ]


def test_a_compaction_comes_whole():
    """The one delta of a compaction sets its members."""
    block = {"type": "compaction", "content": None}
    whole = delta(0, "compaction_delta", content="summary", encrypted_content="zzz")
    reply = reply_of(begun(0, block), whole, ended(0), totals("compaction"))
    assert msgspec.json.decode(reply.content) == [
        {"type": "compaction", "content": "summary", "encrypted_content": "zzz"}
    ]


def test_counts_are_totals_and_overwrite():
    """Later counts replace earlier ones, null replaces nothing, unknown members stay."""
    usage = {
        "input_tokens": 10,
        "output_tokens": 1,
        "cache_read_input_tokens": 5,
        "cache_creation": {"ephemeral_5m_input_tokens": 3},
        "unheard_of": 1.0,
    }
    start = {**START, "message": {**START["message"], "usage": usage}}
    later = {"output_tokens": 50, "input_tokens": 12, "cache_read_input_tokens": None, "new": None}
    events = (start, totals(None, usage={"output_tokens": 3}), totals(usage=later), STOP)
    reply = accumulated(*events).reply()
    assert msgspec.json.decode(reply.usage) == usage | {
        "input_tokens": 12,
        "output_tokens": 50,
        "new": None,
    }
    assert b'"unheard_of":1.0' in bytes(reply.usage)


def test_every_other_member_of_the_message_is_kept():
    """What nobody has heard of is kept with what people read; what says nothing is left out."""
    start = {**START, "message": {**START["message"], "input_transformations": [], "novel": 1.0}}
    change = totals("refusal", context_management={"applied_edits": []})
    change["delta"] |= {"stop_details": {"category": "x"}, "container": {"id": "c"}}
    reply = accumulated(start, change, STOP).reply("req_1")
    assert (reply.message_id, reply.model, reply.request_id) == (
        "msg_1",
        "claude-opus-5-5",
        "req_1",
    )
    assert reply.stop_reason == "refusal"
    assert msgspec.json.decode(reply.extra) == {
        "input_transformations": [],
        "novel": 1.0,
        "stop_details": {"category": "x"},
        "container": {"id": "c"},
        "context_management": {"applied_edits": []},
    }
    assert bytes(reply_of(totals()).extra) == b"{}"


@pytest.mark.parametrize("reason", [None, "end_turn", "tool_use", "never_heard_of"])
def test_the_stop_reason_is_passed_on_as_it_is(reason):
    """What a stop reason means, null and unknown ones too, is decided elsewhere."""
    assert reply_of(totals(reason)).stop_reason == reason


@pytest.mark.parametrize(
    "reason", ["max_tokens", "model_context_window_exceeded", "refusal", "new"]
)
def test_an_input_cut_off_by_a_limit_is_kept_aside(reason):
    """A truncated reply was paid for and is kept; its fragment of an input is no input."""
    events = (
        begun(0, {"type": "text", "text": "so"}),
        ended(0),
        begun(1, {"type": "tool_use", "id": "t", "name": "f", "input": {}}),
        delta(1, "input_json_delta", partial_json='{"query": "gra'),
        ended(1),
    )
    reply = reply_of(*events, totals(reason))
    assert reply.stop_reason == reason
    assert msgspec.json.decode(reply.content)[1]["input"] == {}
    assert msgspec.json.decode(reply.extra) == {"partial_json": {"1": '{"query": "gra'}}


@pytest.mark.parametrize("reason", ["tool_use", "end_turn", "pause_turn"])
@pytest.mark.parametrize("partial", ['{"query": "gra', "{]", "[1]", "1", '{"a":1}}', '{"a":NaN}'])
def test_an_input_that_is_no_object_is_malformed(reason, partial):
    """A reply that claims to be whole must have whole inputs."""
    events = (
        begun(0, {"type": "tool_use", "id": "t", "name": "f", "input": {}}),
        delta(0, "input_json_delta", partial_json=partial),
        ended(0),
        totals(reason),
    )
    failure = failure_of(START, *events, STOP)
    assert failure.kind == "malformed"
    assert "the input of block 0" in failure.message


TEXT = begun(0, {"type": "text", "text": ""})


@pytest.mark.parametrize(
    ("events", "named"),
    [
        pytest.param([START, TEXT, delta(0, "hologram_delta")], "hologram_delta", id="delta-type"),
        pytest.param([START, {"type": "epilogue"}], "epilogue", id="event-type"),
        pytest.param([START, b'{"type":'], "written_out", id="not-json"),
        pytest.param([START, b'{"type":"ping","x":"\xff"}'], "utf-8", id="not-utf8"),
        pytest.param([START, b'{"type":"ping","x":' + b"[" * 9999], "read", id="too-deep"),
        pytest.param([START, b"[]"], "array", id="not-an-object"),
        pytest.param([START, START], "second", id="two-starts"),
        pytest.param([TEXT], "before message_start", id="block-before-start"),
        pytest.param([totals()], "before message_start", id="totals-before-start"),
        pytest.param([STOP], "without message_start", id="stop-first"),
        pytest.param([START, STOP], "message_delta", id="stop-without-totals"),
        pytest.param([START, TEXT, totals(), STOP], "block 0 is open", id="stop-with-open-block"),
        pytest.param([START, begun(1, {"type": "text"})], "block 1", id="block-skipped"),
        pytest.param([START, TEXT, TEXT], "block 0", id="block-twice"),
        pytest.param([START, delta(0, "text_delta", text="")], "block 0", id="delta-of-no-block"),
        pytest.param([START, TEXT, delta(-1, "text_delta", text="")], "-1", id="negative-index"),
        pytest.param(
            [START, TEXT, ended(0), delta(0, "text_delta", text="")],
            "block 0",
            id="delta-after-end",
        ),
        pytest.param([START, TEXT, delta(0, "text_delta", text=1)], "string", id="text-no-string"),
        pytest.param([START, TEXT, delta(0, "text_delta")], "text", id="delta-without-text"),
        pytest.param([START, begun(0, {"text": ""})], "type", id="block-without-type"),
        pytest.param(
            [{**START, "message": {"id": "m"}}, totals(), STOP], "usage", id="start-without-usage"
        ),
        pytest.param(
            [START, {**totals(), "usage": {"output_tokens": -1}}, STOP], "output", id="bad-usage"
        ),
    ],
)
def test_a_stream_that_is_not_the_apis_is_malformed(events, named):
    """What cannot be understood is never taken for a reply, and the failure names it."""
    failure = failure_of(*events)
    assert failure.kind == "malformed"
    assert named in failure.message
    assert failure.status == 200


def test_a_stream_is_only_believed_at_message_stop():
    """Cut after any byte before the end of message_stop, a stream is a cut one."""
    events = [START, TEXT, delta(0, "text_delta", text="hé"), ended(0), totals(), STOP]
    stream = b"".join(map(sse, events))
    for end in range(len(stream)):
        accumulator = Accumulator()
        accumulator.feed(stream[:end])
        assert not accumulator.done
        with pytest.raises(ModelFailure, match="before message_stop") as failed:
            accumulator.reply()
        assert failed.value.kind == "cut"
    accumulator.feed(stream[-1:])
    assert accumulator.reply().stop_reason == "end_turn"
    accumulator.feed(sse({"type": "anything"}))  # nothing after the end changes it
    assert accumulator.reply().stop_reason == "end_turn"


@pytest.mark.parametrize("before", [[], [START], [START, TEXT]])
@pytest.mark.parametrize(
    ("error_type", "code"),
    [("overloaded_error", ""), ("api_error", "x"), ("rate_limit_error", "ramp_limit_exceeded")],
)
def test_an_error_in_the_stream_is_in_doubt_whatever_its_type(before, error_type, code):
    """A 429 or 529 is unbilled as a status, but not once a reply had begun."""
    details = {"details": {"error_code": code}} if code else {}
    error = {"type": error_type, "message": "no more", **details}
    failure = failure_of(*before, {"type": "error", "error": error})
    assert failure.kind == "cut"
    assert failure.kind in RETRYABLE
    assert (failure.error_type, failure.error_code) == (error_type, code)
    assert "no more" in failure.message


def test_an_error_event_that_is_not_json_is_an_error_all_the_same():
    """Gateways write errors of their own into a stream."""
    stream = Accumulator()
    with pytest.raises(ModelFailure, match="upstream gone") as failed:
        stream.feed(sse(b"upstream gone", "error"))
    assert failed.value.kind == "cut"


def test_pieces_are_told_as_they_come():
    """Text, thinking and the names of tools are told once each, at once."""
    told: list[tuple[str, str]] = []
    stream = Accumulator(lambda kind, text: told.append((kind, text)))
    for event in (
        START,
        begun(0, {"type": "thinking", "thinking": "", "signature": ""}),
        delta(0, "thinking_delta", thinking="hm"),
        delta(0, "signature_delta", signature="s"),
        ended(0),
        begun(1, {"type": "text", "text": "so"}),
        delta(1, "text_delta", text=" be"),
        delta(1, "text_delta", text=" it"),
        ended(1),
        begun(2, {"type": "tool_use", "id": "t", "name": "search", "input": {}}),
        delta(2, "input_json_delta", partial_json="{}"),
        ended(2),
    ):
        stream.feed(sse(event))
    assert told == [
        ("thinking", "hm"),
        ("text", "so"),
        ("text", " be"),
        ("text", " it"),
        ("tool_use", "search"),
    ]


@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_a_piece_that_cannot_be_shown_costs_nobody_the_reply(kind):
    """Half a character in an escape is not shown; the reply has it whole, watched or not."""
    halves = [
        b'{"type":"content_block_delta","index":0,"delta":{"type":"%b_delta","%b":"%b"}}'
        % (kind.encode(), kind.encode(), half)
        for half in (b"ab", rb"c\ud83d", rb"\ude00d", b"e")
    ]
    block = begun(0, {"type": kind, kind: ""})
    events = [sse(event) for event in (START, block)]
    events += [sse(half, "content_block_delta") for half in halves]
    events += [sse(event) for event in (ended(0), totals(), STOP)]
    told: list[tuple[str, str]] = []
    contents = []
    for on_piece in (None, lambda kind, text: told.append((kind, text))):
        stream = Accumulator(on_piece)
        for event in events:
            stream.feed(event)
        contents.append(bytes(stream.reply().content))
    assert (
        contents
        == [b'[{"type":"%b","%b":"%b"}]' % (*[kind.encode()] * 2, rb"abc\ud83d\ude00de")] * 2
    )
    assert told == [(kind, "ab"), (kind, "e")]


def test_what_a_watcher_raises_is_not_taken_for_a_broken_stream():
    """The exception of a callback passes through as it is."""

    def broken(kind: str, text: str) -> None:
        raise KeyError(text)

    stream = Accumulator(broken)
    stream.feed(sse(START))
    with pytest.raises(KeyError, match="so"):
        stream.feed(sse(begun(0, {"type": "text", "text": "so"})))


# ── server-sent events ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"event: a\ndata: 1\n\n", [("a", b"1")]),
        (b"data:1\n\n", [("", b"1")]),
        (b"data:  1\n\n", [("", b" 1")]),
        (b"data: 1\ndata: 2\ndata:\n\n", [("", b"1\n2\n")]),
        (b": comment\n\n:\n\ndata: 1\n\n", [("", b"1")]),
        (b"id: 3\nretry: 9\nnews: x\ndata: 1\n\n", [("", b"1")]),
        (b"event: a\n\ndata: 1\n\n", [("", b"1")]),
        (b"event: a\r\ndata: 1\r\n\r\nevent: b\rdata: 2\r\r", [("a", b"1"), ("b", b"2")]),
        (b"data: \xe2\x80\xa8\x0b\x0c\x85\n\n", [("", b"\xe2\x80\xa8\x0b\x0c\x85")]),
        (b"data: 1\n", []),
        (b"data: 1", []),
        (b"", []),
    ],
)
def test_events_are_read_as_the_format_says(stream, events):
    """Whatever the line ends and wherever the chunks are cut, the events are the same."""
    assert list(Events().feed(stream)) == events
    reader = Events()
    singly = [event for at in range(len(stream)) for event in reader.feed(stream[at : at + 1])]
    assert singly == events
    for cut in range(len(stream)):
        reader = Events()
        chunks = (stream[:cut], b"", stream[cut:])
        assert [event for chunk in chunks for event in reader.feed(chunk)] == events
