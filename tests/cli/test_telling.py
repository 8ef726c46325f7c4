"""How numbers, texts and events are told to people."""

from typing import get_args

import pytest
from msgspec import Raw

from cli.test_shapes import _minimal as minimal
from outlast.cli import words
from outlast.cli.options import seconds
from outlast.cli.progress import Progress
from outlast.cli.screen import screen
from outlast.cli.story import Reader
from outlast.demo.session import Saved, saved
from outlast.events import (
    NULL,
    AnswerProposed,
    AnswerRejected,
    AnyEvent,
    ApprovalGiven,
    AskAnswered,
    AskFailed,
    AskStarted,
    BudgetRefused,
    ChildStarted,
    FeedbackGiven,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    NoteAdded,
    PhaseEntered,
    RunParked,
    RunStarted,
    Spec,
    StepFinished,
    StepStarted,
    ToolCallInDoubt,
    ToolCallStarted,
)
from outlast.journal import Record
from outlast.models import Part

S = 1_000_000_000


@pytest.mark.parametrize(
    ("nano", "told"),
    [
        (0, "$0.0000"),
        (1, "<$0.0001"),
        (50_000, "$0.0001"),
        (134_300_000, "$0.1343"),
        (9_999_900_000, "$9.9999"),
        (12_345_678_900_000, "$12,345.68"),
    ],
)
def test_money_is_read_at_a_glance(nano, told):
    """Small amounts keep four digits, large ones end at the cent; something is never nothing."""
    assert words.money(nano) == told


@pytest.mark.parametrize(
    ("nanoseconds", "told"),
    [
        (-5, "0 ms"),
        (340_000_000, "340 ms"),
        (1_240_000_000, "1.2 s"),
        (28 * S, "28 s"),
        (300 * S, "5 min"),
        (3 * 3600 * S, "3 h"),
        (4 * 86_400 * S, "4 days"),
    ],
)
def test_durations_have_the_unit_that_suits(nanoseconds, told):
    """A length of time is told in one unit."""
    assert words.duration(nanoseconds) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [("30s", 30), ("500ms", 0.5), ("2m", 120), ("2min", 120), ("1h", 3600), ("7", 7), (30.0, 30)],
)
def test_lengths_of_time_are_understood(text, told):
    """A time may be given in the usual units; a bare number is seconds."""
    assert seconds(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\nb\tc", "a b c"),
        ("\x1b[2Jgone", "[2Jgone"),
        ("\u202etxt.exe", "txt.exe"),
        ("x" * 300, "x" * 19 + "…"),
        ("日本語", "日本語"),
    ],
)
def test_a_line_is_safe_and_short(text, told):
    """A line has no line break and no control character, and is cut with an ellipsis."""
    assert words.line(text, 20) == told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (b'{"a":"x","b":[1,2]}', 'f(a="x", b=[1,2])'),
        (b"{}", "f()"),
        (b"[1]", "f([1])"),
        (b'{"a":', 'f({"a":)'),
    ],
)
def test_a_call_is_told_as_it_would_be_written(arguments, told):
    """Arguments are named; what is no object, or not even JSON, is shown as it came."""
    assert words.call("f", arguments) == told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'"[1,2,3]"', "3 items"),
        (b'"[1]"', "1 item"),
        (b'"[]"', "0 items"),
        (b'"{\\"a\\":1}"', "1 field"),
        (b'"it\\nrains"', "“it rains”"),
        (b'""', "nothing"),
        (b'"17"', "17"),
        (b'[{"type":"text","text":"a"},{"type":"image"}]', "“a [image]”"),
        (b'"\\ud800"', "“ ”"),
    ],
)
def test_a_result_is_told_by_its_size(content, told):
    """A list is told by its length, an object by its fields, a text by its beginning."""
    try:
        assert words.result(Raw(content)) == told
    except ValueError:
        assert content == b'"\\ud800"'  # msgspec refuses half a character, so no journal has one


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[1,2]", "2 items"),
        (b'{"a":1}', "1 field"),
        (b'"it\\nrains"', "“it rains”"),
        (b"null", "nothing"),
        (b"17", "17"),
        (b"true", "true"),
    ],
)
def test_what_a_function_returned_is_told_by_its_size(content, told):
    """A list is told by its length, an object by its fields, a text in quotes."""
    assert words.returned(Raw(content)) == told


@pytest.mark.parametrize("kind", get_args(AnyEvent), ids=lambda kind: kind.__name__)
def test_every_event_has_a_sentence(kind):
    """Whatever is in a journal is told with words, also as the very first thing one reads."""
    reader = Reader()
    record = Record("run:a", 1, 1, 0, 1, minimal(kind))
    assert words.plain(reader.tell(record)).strip()
    reader.take(record)


def test_a_new_driver_is_seen():
    """Between two drivers the log says who took over, and after what time."""
    reader = Reader()
    for seq, epoch, at in [(1, 0, 0), (2, 1, 1 * S), (3, 0, 5 * S)]:
        record = Record("run:a", seq, seq, at, epoch, NoteAdded(text="x"))
        assert reader.gap(record) == ""
        reader.take(record)
    later = Record("run:a", 4, 4, 13 * S, 2, NoteAdded(text="x"))
    assert reader.gap(later) == "— driver 2 took over after 12 s —"


@pytest.mark.parametrize(
    ("content", "then"),
    [
        ({}, "called again"),
        ({"content": NULL}, "called again"),
        ({"content": Raw(b'"unknown"')}, "Claude is told"),
    ],
    ids=["default", "null", "told"],
)
def test_doubt_is_marked(content, then, capsys):
    """A call in doubt is marked, with what is done about it: in the log, and while it goes on."""
    started = ToolCallStarted(ask_id="a", call_id="c", tool_use_id="u", tool="pay", effect="read")
    doubt = ToolCallInDoubt(ask_id="a", call_id="c", tool_use_id="u", kind="crash", **content)
    log, live = _told(started, doubt, capsys)
    assert log.startswith("IN DOUBT pay (crash)")
    assert then in log
    assert "? in doubt: pay()" in live
    assert then in live


@pytest.mark.parametrize(
    ("unit", "needed", "left", "line"),
    [
        ("nano", 30_118_000, 5_744_000, "tenant:a needs $0.0301, $0.0057 left"),
        ("tokens", 9_000, 10, "tenant:a needs 9,000 tokens, 10 tokens left"),
        ("turns", 1, 0, "tenant:a needs 1 turn, 0 turns left"),
    ],
)
def test_a_refusal_is_told_in_amounts(unit, needed, left, line):
    """What was needed and what was left are said as the stop of the run says them."""
    event = BudgetRefused(ask_id="a", scope="tenant:a", unit=unit, needed=needed, left=left)
    assert words.plain(Reader().tell(Record("run:r", 1, 0, 0, 1, event))) == line


def test_feedback_is_told(capsys):
    """What outlast itself told Claude is shown with its reason."""
    feedback = FeedbackGiven(
        ask_id="a", why="max_tokens", content=Raw(b'[{"type":"text","text":"It was cut off."}]')
    )
    log, live = _told(NoteAdded(text="x"), feedback, capsys)
    assert log == "Claude is told (max_tokens): “It was cut off.”"
    assert "→ Claude is told: It was cut off." in live
    assert "max_tokens" in live


def _told(before, event, capsys):
    """Return the sentence of the log for an event, and the lines shown while the run goes on."""
    records = [Record("run:a", 1, 1, 0, 1, before), Record("run:a", 2, 2, 0, 2, event)]
    progress = Progress(screen(), records[:1])
    told = words.plain(progress.reader.tell(records[1]))
    progress.on_record(records[1])
    return told, capsys.readouterr().out


# ── what a journal saved ──────────────────────────────────────────────────────────────────────


def _journal(*steps):
    """Return records: a digit is a driver, `r` its reply for 10, `?` one in doubt for 7."""
    records, epoch = [], 0
    for seq, step in enumerate(steps, start=1):
        call = f"c{seq}"
        if step == "r":
            event = ModelCallSucceeded(
                ask_id="a",
                call_id=call,
                content=Raw(b"[]"),
                stop_reason="end_turn",
                usage=Raw(b"{}"),
                cost_nano=10,
                tokens=1,
            )
        elif step == "?":
            event = ModelCallInDoubt(
                ask_id="a", call_id=call, kind="crash", message="", cost_nano=7, tokens=1
            )
        else:
            epoch = int(step)
            event = ModelCallStarted(
                ask_id="a",
                call_id=call,
                max_tokens=1,
                request_hash="",
                hold_nano=7,
                hold_tokens=1,
            )
        records.append(Record("run:a", seq, seq, seq, epoch, event))
    return records


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("", Saved()),
        ("1rrr", Saved()),
        ("1", Saved()),
        ("12r", Saved(drivers=1)),
        ("1rr2?r", Saved(drivers=1, turns=2, nano=20, doubts=1, doubts_nano=7)),
        ("1rr2?r5?r", Saved(drivers=2, turns=5, nano=50, doubts=2, doubts_nano=14)),
    ],
)
def test_savings_are_what_starting_over_repeats(steps, expected):
    """Each time another driver takes over, the replies it finds need not be bought again."""
    assert saved(_journal(*steps)) == expected


# ── what goes on in a flow ────────────────────────────────────────────────────────────────────


SPEC = Spec(agent="writer", model="claude-opus-5-5", max_tokens=1)


def _flowing(*events):
    """Return a progress that was told of these events of a flow."""
    nobody = Spec(agent="f", model="", max_tokens=0)
    started = RunStarted(journal_version=1, agent="f", nonce="n", spec=nobody, kind="flow")
    progress = Progress(screen())
    for seq, event in enumerate((started, *events), start=1):
        progress.on_record(Record("run:a", seq, seq, 0, 1, event))
    return progress


def _asked(ask_id):
    call = ModelCallStarted(
        ask_id=ask_id, call_id=ask_id, max_tokens=1, request_hash="", hold_nano=1, hold_tokens=1
    )
    return [AskStarted(ask_id=ask_id, spec=SPEC), call]


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([], "turn 1 · starting"),
        ([PhaseEntered(phase="drafting")], "drafting · turn 1 · starting"),
        (_asked("draft"), "turn 1 · asking Claude"),
        ([*_asked("facts"), *_asked("style")], "facts: asking Claude, style: asking Claude"),
        (
            [event for n in range(5) for event in _asked(f"ask {n}")],
            "ask 2: asking Claude and 2 more",
        ),
        ([StepStarted(name="save")], "save: at work"),
        ([ChildStarted(name="topics/1", child="a/topics/1")], "topics/1: a run of its own"),
        (
            [*_asked("draft"), StepStarted(name="save"), StepFinished(name="save", kind="step")],
            "turn 1 · asking Claude",
        ),
        ([*_asked("draft"), AskFailed(ask_id="draft", why="no")], "turn 1 · starting"),
    ],
    ids=["begun", "phase", "one", "two", "many", "step", "child", "over", "failed"],
)
def test_what_goes_on_is_named(events, told):
    """The living line says the phase, and of what is parallel which is which."""
    assert told in words.plain(_flowing(*events)._now())


def test_what_is_written_is_shown_of_one_ask_only():
    """While two replies come, neither is shown; then the one that is left, without the other."""
    progress = _flowing(*_asked("facts"), *_asked("style"))
    for ask_id, text in [("facts", "Ri"), ("style", "Fi"), ("facts", "ght"), ("style", "ne")]:
        progress.on_part(
            Part(run_id="a", ask_id=ask_id, call_id="c", attempt=1, kind="text", text=text)
        )
    assert "…" not in words.plain(progress._now())
    failed = AskFailed(ask_id="facts", why="no")
    progress.on_record(Record("run:a", 9, 9, 0, 1, failed))
    assert words.plain(progress._now()).endswith("…Fine")


def test_what_is_parallel_is_told_apart(capsys):
    """A line of an ask says of which while another one is open, and no longer when it is alone."""
    reply = ModelCallSucceeded(
        ask_id="facts",
        call_id="facts",
        content=Raw(b'[{"type":"text","text":"Right."}]'),
        stop_reason="end_turn",
        usage=Raw(b"{}"),
        cost_nano=10**8,
        tokens=1,
    )
    _flowing(*_asked("facts"), *_asked("style"), reply)
    assert "  1  facts: Right.  $0.1000" in capsys.readouterr().out
    answered = AskAnswered(ask_id="style", answer=Raw(b'"Fine."'))
    _flowing(*_asked("style"), answered, *_asked("facts"), reply)
    assert "  1  Right.  $0.1000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (StepFinished(name="save", kind="step", result=Raw(b"[1,2]")), "✓ save → 2 items"),
        (StepFinished(name="now-1", kind="value", result=Raw(b"1")), ""),
        (
            StepFinished(name="save", kind="step", status="failed", error="OSError: full"),
            "✗ save failed: OSError: full",
        ),
        (
            StepFinished(name="send", kind="step", status="in_doubt", error="interrupted"),
            "? IN DOUBT send: interrupted",
        ),
        (RunParked(until=S, why="sleeping until then"), "◷ sleeping until then"),
        (AskFailed(ask_id="draft", why="refused"), "✗ draft has no answer: refused"),
        (PhaseEntered(phase="drafting"), "── drafting ──"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_a_flow_does_is_a_line(event, line, capsys):
    """Each thing a flow does is a line while it goes on; what it merely draws is none."""
    _flowing(event)
    assert capsys.readouterr().out.strip() == line


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (
            AnswerProposed(ask_id="ask-1", call_id="c", answer=Raw(b'[{"n":1}]')),
            'answer 1: “[{"n":1}]”',
        ),
        (AskAnswered(ask_id="ask-1", answer=Raw(b'{"n":[]}')), '“{"n":[]}”'),
        (AskAnswered(ask_id="ask-1", answer=Raw(b"[]")), "“[]”"),
        (
            ApprovalGiven(approved=True, call_id="c", answer=Raw(b"[]"), by="ann"),
            "approved c, with “[]” instead  ann",
        ),
    ],
)
def test_an_answer_of_a_type_is_told_as_its_json(event, told):
    """A list is no message of blocks, and what a person made of an answer is told, too."""
    record = Record("run/r", 1, 1, S, 1, event)
    assert words.plain(Reader().tell(record)) == told


def test_judges_and_what_they_cost_are_told_apart_from_answers(capsys):
    """What a judge replies is not called the answer, and asking afresh has a line."""
    judging = AskStarted(ask_id="j", judges="c", check="strict")
    events = [
        AnswerRejected(ask_id="ask-1", call_id="c", action="resample", why="too short"),
        judging,
        ModelCallSucceeded(
            ask_id="j",
            call_id="j.m1",
            content=Raw(b'[{"type":"text","text":"{\\"valid\\":true}"}]'),
            stop_reason="end_turn",
            usage=Raw(b"{}"),
            cost_nano=900_000,
            tokens=1,
        ),
    ]
    progress = Progress(screen())
    for seq, event in enumerate(events, start=1):
        progress.on_record(Record("run/r", seq, seq, S, 1, event))
    shown = capsys.readouterr().out
    assert "Claude is asked afresh: too short" in shown
    assert 'strict judges: {"valid":true}' in shown
    assert "The answer." not in shown
