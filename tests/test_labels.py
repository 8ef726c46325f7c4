"""Labels: which answer a person calls good or bad, and that the last word counts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import outlast
from checked_runs import ASK, label, proposed, records, run_of, said, verdict, write
from outlast import labels
from outlast.errors import InvalidInput, RunNotFound, UsageError
from outlast.events import (
    AnyEvent,
    ApprovalGiven,
    ApprovalRequested,
    AskAnswered,
    AskStarted,
    LabelGiven,
)
from outlast.models.script import say
from outlast.models.scripted import ScriptedModel
from stubs import MODEL

AGENT = outlast.Agent("finder", model=MODEL)
THREE = (("one", [verdict(f"{ASK}.m1", "fixable")]), ("two", []), ("three", []))


def answering(*texts: str) -> ScriptedModel:
    """A Claude that says these, one after the other."""
    left = list(texts)
    return ScriptedModel(lambda *_: say(left.pop(0)))


@pytest.fixture
def app() -> Iterator[outlast.Outlast]:
    with outlast.Outlast("memory://", model=answering("Ann's fund.", "Bob's fund.")) as app:
        yield app


def given(app: outlast.Outlast, run_id: str) -> list[LabelGiven]:
    return [one.event for one in app.log(run_id) if isinstance(one.event, LabelGiven)]


def words_of(app: outlast.Outlast, run_id: str) -> list[tuple[str, bool, str, str]]:
    return [(one.call_id, one.good, one.why, one.by) for one in given(app, run_id)]


# ── which answer ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("accepts", "attempt", "meant"),
    [
        (True, None, "m3"),
        (False, None, "m3"),
        (True, 1, "m1"),
        (False, 2, "m2"),
    ],
)
def test_the_accepted_answer_is_meant(*, accepts: bool, attempt: int | None, meant: str) -> None:
    """A label is about the accepted answer, else about the last; or about the attempt named."""
    answers = labels.read(records(run_of(*THREE, accepts=accepts)))
    one = labels.meant(answers, "r", attempt)
    assert one.call_id == f"{ASK}.{meant}"
    assert one.accepted is (accepts and attempt is None)


def test_an_answer_that_was_accepted_before_the_last_is_meant() -> None:
    """Where an earlier answer was accepted after all, it is that one, and not the last."""
    events = run_of(*THREE, accepts=False)[:-2]
    answers = labels.read(records([*events, AskAnswered(ask_id=ASK, answer=said("two"))]))
    assert labels.meant(answers, "r", None).attempt == 2


def test_what_judges_reply_is_no_answer() -> None:
    """The reply of a judge is neither an answer nor a question of the run."""
    judging: list[AnyEvent] = [
        AskStarted(ask_id="judge-1", judges=f"{ASK}.m3", check="fair"),
        *proposed(1, "fine", ask="judge-1")[:2],
        AskAnswered(ask_id="judge-1", answer=said("fine")),
    ]
    answers = labels.read(records([*run_of(*THREE), *judging]))
    assert labels.meant(answers, "r", None).call_id == f"{ASK}.m3"
    assert list(answers.given) == [f"{ASK}.m{number}" for number in (1, 2, 3)]


def test_no_answer_and_no_such_attempt_say_what_there_is() -> None:
    """Who labels what is not there is told what is, and what to do."""
    none = labels.read(records(run_of(accepts=False)))
    with pytest.raises(UsageError, match=r"no answer yet.*`outlast show r`"):
        labels.meant(none, "r", None)
    with pytest.raises(UsageError, match=r"below it there are, in r/a; `outlast label r/a`"):
        labels.meant(none, "r", None, ["r/a"])
    some = labels.read(records(run_of(*THREE)))
    with pytest.raises(UsageError, match=r"no attempt 4 at question .*; there is 1, 2, 3"):
        labels.meant(some, "r", 4)


def test_who_edits_an_answer_says_that_it_was_bad() -> None:
    """An approval with another answer labels the one that Claude gave; the last word counts."""
    asked = ApprovalRequested(question="Is it right?", name="check", ask_id=ASK, answer=said("x"))
    events = run_of(*THREE, accepts=False)[:-2]

    def last(*more: AnyEvent) -> LabelGiven | None:
        return labels.read(records([*events, asked, *more])).labels.get(f"{ASK}.m3")

    edited = ApprovalGiven(approved=True, name="check", answer=said("y"), by="ann", note="no")
    assert last(edited) == label(f"{ASK}.m3", good=False, by="ann", why="no")
    assert last(ApprovalGiven(approved=True, name="check", by="ann")) is None
    assert last(ApprovalGiven(approved=False, name="check", answer=said("y"))) is None
    assert last(edited, later := label(f"{ASK}.m3", good=True, by="bob")) == later


# ── what is written ─────────────────────────────────────────────────────────────────────────────


def test_a_run_without_checks_is_labelled(app: outlast.Outlast) -> None:
    """Its answer is the reply that it ended with; the run itself stays as it was."""
    run = app.run(AGENT, "Find.", run_id="r")
    seen = app.label("r", good=False, why="That fund is closed.", by="ann")
    assert (seen.status, seen.answer, seen.cost_nano) == ("completed", run.answer, run.cost_nano)
    assert words_of(app, "r") == [("ask-1.m1", False, "That fund is closed.", "ann")]
    assert app.run(AGENT, "Find.", run_id="r").answer == run.answer


def test_a_label_is_about_the_last_question(app: outlast.Outlast) -> None:
    """Where a conversation went on, its last answer is meant."""
    app.run(AGENT, "Find.", run_id="r")
    app.send("r", "And another?", agent=AGENT)
    app.label("r", good=True)
    (one,) = given(app, "r")
    assert labels.read(app.log("r")).given[one.call_id].answer == said("Bob's fund.")


def test_the_same_word_of_the_same_person_is_written_once(app: outlast.Outlast) -> None:
    """Said again it changes nothing; another word, another person and a reason are events."""
    app.run(AGENT, "Find.", run_id="r")
    told: list[dict[str, Any]] = [
        {"good": True, "by": "ann"},
        {"good": True, "by": "ann"},
        {"good": True, "by": "bob"},
        {"good": True, "by": "ann"},
        {"good": True, "by": "ann", "why": "I asked them."},
        {"good": True, "by": "ann"},
        {"good": False, "by": "bob"},
        {"good": True, "by": "ann", "why": "I asked them."},
    ]
    written = []
    for one in told:
        before = len(given(app, "r"))
        app.label("r", **one)
        written.append(len(given(app, "r")) - before)
    # The last is written: bob had the last word before, and now ann has it again.
    assert written == [1, 0, 1, 0, 1, 0, 1, 1]
    assert labels.read(app.log("r")).labels["ask-1.m1"].good


def test_labels_are_redacted() -> None:
    """A reason and a name go through `redact=` before they are written, and so say the same."""

    def redact(text: str) -> str:
        return text.replace("Ann", "[a name]")

    model = answering("A fund.")
    with outlast.Outlast("memory://", model=model, redact=redact) as app:
        app.run(AGENT, "Find.", run_id="r")
        for _ in range(2):
            app.label("r", good=True, why="Ann asked.", by="Ann")
        assert words_of(app, "r") == [("ask-1.m1", True, "[a name] asked.", "[a name]")]


def test_an_attempt_of_a_rejected_run_is_labelled(app: outlast.Outlast) -> None:
    """A run that ended without an accepted answer is labelled, too, whichever attempt is named."""
    write(app.journal, "r", run_of(*THREE, accepts=False))
    app.label("r", good=True, attempt=2)
    assert app.label("r", good=False).status == "rejected"
    assert words_of(app, "r") == [(f"{ASK}.m2", True, "", ""), (f"{ASK}.m3", False, "", "")]


@pytest.mark.parametrize(
    ("run_id", "word", "error", "told"),
    [
        ("none", {"good": True}, RunNotFound, "none"),
        ("r", {"good": 1}, UsageError, "give True for a good answer"),
        ("r", {"good": True, "attempt": 0}, UsageError, "counted from 1"),
        ("r", {"good": True, "attempt": True}, UsageError, "counted from 1"),
        ("r", {"good": True, "attempt": 2}, UsageError, "no attempt 2"),
        ("r", {"good": True, "why": 7}, InvalidInput, "not a string"),
        ("r", {"good": True, "by": "\ud800"}, InvalidInput, "UTF-8"),
        ("waits", {"good": True}, UsageError, "has no answer yet"),
    ],
)
def test_what_is_no_label_is_refused(
    app: outlast.Outlast, run_id: str, word: dict[str, Any], error: type[Exception], told: str
) -> None:
    """Nothing is written of what is no label, and the error says what would be one."""
    app.run(AGENT, "Find.", run_id="r")
    app.start(AGENT, "Find.", run_id="waits")
    with pytest.raises(error, match=told):
        app.label(run_id, **word)
    assert given(app, "r") == given(app, "waits") == []


PAGE = (Path(__file__).parents[1] / "docs" / "labels.md").read_text()


def test_the_page_works(app: outlast.Outlast) -> None:
    """What docs/labels.md shows in Python works."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102  (our own page)
    assert names["labelled"](app).status == "completed"
    assert words_of(app, "grants-001") == [
        ("ask-1.m1", False, "The fund closed in May.", "ann"),
    ]


def test_one_sentence_a_line() -> None:
    """Prose stands one sentence a line, so that diffs read well."""
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    for line in prose.splitlines():
        if not line.startswith(("|", "#")):
            assert not re.search(r"[.!?] [A-Z]", line), line
