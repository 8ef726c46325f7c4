"""Which of several verdicts counts, when it ends early, and what exactly a judge has said."""

import importlib.util
import linecache
from typing import Any

import msgspec
import pytest
from msgspec import Raw

import outlast
from outlast.checks import Evidence, Finding
from outlast.events import AnswerRejected, FeedbackGiven, VerdictGiven
from outlast.judges import Vote, counted, read
from outlast.models.scripted import ScriptedModel
from outlast.validation import MOST_LINES, Attempt, no_more
from outlast.versions import version_of
from validation.answering import GOOD, agent, answers, grants, opinion

FIXABLE = outlast.Verdict.fixable("wrong")
TERMINAL = outlast.Verdict.terminal("hopeless")
PERSON = outlast.Verdict.needs_person("look at it")
UNKNOWN = outlast.Verdict.unverified("who knows")
PASSED = outlast.Verdict.passed()


def says(name: str, came: Any, policy: Any = "reject") -> Any:
    """Return a check that says the same of every answer."""

    def function(answer: Any) -> Any:
        return came

    return outlast.check(name=name, on_unverified=policy)(function)


def driven(who: outlast.Agent, script: Any) -> tuple[outlast.Run, list[Any], ScriptedModel]:
    model = ScriptedModel(script)
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(who, "Find grants.", run_id="r", wait_s=0.1)
        return run, [one.event for one in app.log("r")], model


def different(count: int) -> list[str]:
    """Return answers that are not the same."""
    return [grants({"name": f"Ladder {n}", "eligibility": "charities"}) for n in range(count)]


# ── several verdicts ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("first", "second", "status", "asked"),
    [
        ((TERMINAL,), (FIXABLE,), "rejected", 1),
        ((TERMINAL,), (PERSON,), "rejected", 1),
        ((TERMINAL,), (UNKNOWN,), "rejected", 1),
        ((TERMINAL, "accept"), (PASSED,), "rejected", 1),
        ((FIXABLE,), (PERSON,), "rejected", 2),
        ((FIXABLE,), (UNKNOWN,), "rejected", 2),
        ((FIXABLE,), (UNKNOWN, "escalate"), "rejected", 2),
        ((FIXABLE,), (UNKNOWN, "accept"), "rejected", 2),
        ((FIXABLE, "accept"), (PASSED,), "rejected", 2),
        ((PERSON,), (UNKNOWN,), "waiting", 1),
        ((PERSON,), (UNKNOWN, "accept"), "waiting", 1),
        ((PERSON, "accept"), (PASSED,), "waiting", 1),
        ((UNKNOWN,), (PASSED,), "rejected", 1),
        ((UNKNOWN,), (UNKNOWN, "escalate"), "rejected", 1),
        ((UNKNOWN,), (UNKNOWN, "accept"), "rejected", 1),
        ((UNKNOWN, "escalate"), (UNKNOWN, "escalate"), "waiting", 1),
        ((UNKNOWN, "escalate"), (UNKNOWN, "accept"), "waiting", 1),
        ((UNKNOWN, "accept"), (UNKNOWN, "accept"), "completed", 1),
        ((UNKNOWN, "accept"), (PASSED,), "completed", 1),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_gravest_verdict_counts(first, second, status, asked, turned):
    """Hopeless, then what can be mended, then a person, then what nobody can tell; in any order.

    What is declared for answers of which a check cannot tell is for those, and for no others.
    """
    checks = [says("first", *first), says("second", *second)]
    who = agent(checks=checks[::-1] if turned else checks, answer_attempts=2)
    run, events, model = driven(who, answers(*different(2)))
    assert (run.status, len(model.calls)) == (status, asked), run.why
    assert run.degraded == (status == "completed")
    assert (run.answer is not None) == (status == "completed")
    assert len([one for one in events if isinstance(one, AnswerRejected)]) == (
        0 if status == "completed" else asked
    )


@pytest.mark.parametrize(
    ("last", "status"), [("reject", "rejected"), ("escalate", "waiting"), ("degrade", "completed")]
)
def test_hopeless_answers_have_a_last_resort_too(last, status):
    """It is reached after the first of them, and the one that is declared."""
    who = agent(checks=[says("never", TERMINAL)], last_resort=last)
    run, _, model = driven(who, answers(*different(3)))
    assert (run.status, len(model.calls)) == (status, 1)
    assert run.degraded == (last == "degrade")


def test_a_check_that_is_no_more_accepts_nothing():
    """What it could not tell was to be accepted; nobody declares that any more."""
    model = ScriptedModel(answers(GOOD))
    who = agent(checks=[says("gone", UNKNOWN, "accept")])
    with outlast.Outlast("memory://", model=model) as app:
        app.run(who, "Find grants.", run_id="r")
        said = next(
            one.seq
            for one in app.log("r")
            if isinstance(one.event, VerdictGiven) and one.event.check == "gone"
        )
        app.fork("r", at=said, new_id="with")
        app.fork("r", at=said, new_id="without")
        assert app.resume("with", who).status == "completed"
        run = app.resume("without", agent(checks=[]), on_change="recorded")
        assert (run.status, run.answer) == ("rejected", None)


# ── another answer, or none ─────────────────────────────────────────────────────────────────────


def attempt(number: int, *issues: str, answer: str = "", kind: Any = "rule") -> Attempt:
    said = VerdictGiven(
        ask_id="ask-1",
        call_id=f"ask-1.m{number}",
        check="check",
        kind=kind,
        version="1",
        verdict="fixable",
        issues=[outlast.Issue(one) for one in issues],
    )
    return Attempt(said.call_id, Raw((answer or f'"{number}"').encode()), number, verdicts=(said,))


@pytest.mark.parametrize(
    ("attempts", "why"),
    [
        ([attempt(1, "a")], ""),
        ([attempt(1, "a", answer="[1]"), attempt(2, "a", answer="[1]")], "the same answer"),
        ([attempt(1, "a", answer="[1, 2]"), attempt(2, "a", answer="[1,2]")], "the same answer"),
        ([attempt(1, "a", answer="[1]"), attempt(2, "b", answer="[1]")], ""),
        ([attempt(1, "a"), attempt(2, "a")], ""),
        ([attempt(1, "a"), attempt(2, "b", "c")], "get worse: 1 issues, and then 2"),
        ([attempt(1, "a", "b"), attempt(2, "a", "c")], ""),
        ([attempt(1, "a", "b", "c"), attempt(2, "a"), attempt(3, "a", "b")], "get worse"),
        ([attempt(1, "a"), attempt(2, "b", "c", kind="judge")], ""),
        ([attempt(1, "a"), attempt(2, "b", "c", kind="schema")], ""),
        ([attempt(n, f"{n}") for n in range(1, 4)], ""),
        ([attempt(n, f"{n}") for n in range(1, 5)], "4 answers were not accepted"),
    ],
)
def test_it_ends_where_nothing_better_is_to_be_expected(attempts, why):
    """The same again, worse than the one before by the same kind of check, or one too many."""
    said = no_more(tuple(attempts), 4)
    assert why in said if why else not said


def test_who_was_faster_makes_no_difference():
    """The same issues are the same, in whichever order the checks came to them."""
    one, other = (
        msgspec.structs.replace(attempt(1, name).verdicts[0], check=name) for name in ("a", "b")
    )
    before = Attempt("ask-1.m1", Raw(b"[]"), 1, verdicts=(one, other))
    after = Attempt("ask-1.m2", Raw(b"[]"), 2, verdicts=(other, one))
    assert no_more((before, after), 9)
    assert [issue.message for issue in after.issues] == ["a", "b"]


def test_how_far_an_answer_came_is_told_by_the_last_check_that_objects():
    """What an earlier one could not tell, and was accepted so, is no measure of it."""
    seen: list[int] = []

    @outlast.check(on_unverified="accept")
    def unsure(answer: Any) -> Any:
        seen.append(1)
        return ["wrong"] if len(seen) == 1 else UNKNOWN

    def judge(request: dict[str, Any]) -> str:
        return opinion("this", "that") if "Ladder 1" in str(request["messages"]) else opinion()

    who = agent(checks=[unsure, outlast.Judge("Is it right?")])
    run, _, _ = driven(who, answers(*different(3), judge=judge))
    assert (run.status, run.degraded) == ("completed", True)
    assert len(run.rejected_answers) == 2


def test_feedback_is_bounded():
    """A model is not told of issues without end, but of how many there are."""
    many = [f"wrong {n}" for n in range(MOST_LINES + 5)]
    _, events, _ = driven(agent(checks=[says("many", many)]), answers(*different(2)))
    told = bytes(next(one for one in events if isinstance(one, FeedbackGiven)).content).decode()
    assert f"wrong {MOST_LINES - 1}" in told
    assert f"wrong {MOST_LINES}" not in told
    assert "and 5 more" in told


# ── what a judge has said ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reply", "kind", "issues"),
    [
        (opinion(), "passed", 0),
        (opinion("no", "nor this"), "fixable", 2),
        (opinion("no", valid=True), "unverified", 1),
        (opinion(valid=False), "unverified", 0),
        (opinion(" ", valid=False), "unverified", 0),
        (opinion("", valid=True), "passed", 0),
        (opinion(confidence=0), "fixable", 1),
        (opinion(confidence=1), "passed", 0),
        (opinion(confidence=1.001), "unverified", 0),
        (opinion(confidence=-0.001), "unverified", 0),
        (opinion("no", confidence=2), "unverified", 0),
        (opinion(confidence="0.9"), "unverified", 0),
        (opinion(confidence=None), "unverified", 0),
        (opinion(more=1), "unverified", 0),
        (opinion(valid="true"), "unverified", 0),
        (f"{opinion()} ", "passed", 0),
        (f"{opinion()}{opinion()}", "unverified", 0),
        ("", "unverified", 0),
        ("[" * 10_000, "unverified", 0),
    ],
)
def test_a_reply_is_an_opinion_or_none(reply, kind, issues):
    """Only what is exactly one opinion, and does not contradict itself, says anything."""
    vote = read(outlast.Judge("Is it right?"), reply)
    assert (vote.kind, len(vote.issues)) == (kind, issues)
    assert vote.why or kind != "unverified"


@pytest.mark.parametrize("at_least", [0, 0.3, 0.5, 0.95, 1])
def test_the_bar_is_the_one_that_is_declared(at_least):
    """The number itself passes, the least bit less does not."""
    judge = outlast.Judge("Is it right?", at_least=at_least)
    assert read(judge, opinion(confidence=at_least)).kind == "passed"
    if at_least:
        assert read(judge, opinion(confidence=at_least - 1e-9)).kind == "fixable"


def test_votes_that_agree_are_one_verdict():
    """It is as sure as the least sure of them, and has the issues of all, each once."""
    issues = [outlast.Issue(one, rule="judge") for one in "abc"]
    votes = [
        Vote(kind="fixable", issues=(issues[0], issues[1]), confidence=0.9, suggestion="do this"),
        Vote(kind="passed", confidence=0.1),
        Vote(kind="fixable", issues=(issues[1], issues[2]), confidence=0.6, suggestion="do that"),
    ]
    came = counted(votes, 3)
    assert came is not None
    assert [one.message for one in came.issues] == ["a", "b", "c"]
    assert (came.confidence, came.suggestion, came.why) == (0.6, "do this", "2 of 3 votes")


def test_the_evidence_of_a_judge_is_bounded_as_a_whole():
    """Of a result that does not fit it sees both ends, and how much is missing between them."""
    judge = outlast.Judge("Is it right?", max_evidence_tokens=100)
    long = "".join(chr(ord("a") + n % 26) for n in range(1_000))
    findings = [Finding(tool="search", text=text, value=text) for text in (long, "short", long)]
    asked = judge.question(Raw(b"1"), Evidence(task="t", findings=tuple(findings)))
    (block,) = msgspec.json.decode(asked)
    shown = msgspec.json.decode(block["text"].split("\n\n")[1].partition(":\n")[2])
    assert shown[1]["result"] == "short"
    for one in (shown[0], shown[2]):
        assert long.startswith(one["result_begins"])
        assert long.endswith(one["result_ends"])
        kept = len(one["result_begins"]) + len(one["result_ends"])
        assert kept + one["bytes_left_out"] == len(long)
        assert kept <= 100 // 3


# ── versions ────────────────────────────────────────────────────────────────────────────────────


def _strict(answer: Any) -> list[str]:
    return [] if answer else ["nothing"]


def _stricter(answer: Any) -> list[str]:
    return [] if len(answer) > 1 else ["not enough"]


def test_what_judges_an_answer_is_a_part_of_the_version():
    """Another check, other code of it, or another judge is another version of the agent."""

    def of(*checks: Any) -> str:
        return version_of(agent(answer=str, checks=checks))

    strict = outlast.check(name="strict")
    plain = version_of(outlast.Agent("grant-researcher", model="claude-haiku-5-5"))
    assert of() == plain, "without checks it is the version that it ever was"
    declared = [
        (),
        (strict(_strict),),
        (strict(_stricter),),
        (outlast.check(name="other")(_strict),),
        (outlast.Judge("Is it right?"),),
        (outlast.Judge("Is it wrong?"),),
        (strict(_strict), outlast.Judge("Is it right?")),
    ]
    versions = [of(*one) for one in declared]
    assert len(set(versions)) == len(declared)
    assert versions == [of(*one) for one in declared]


def test_other_code_of_a_check_is_another_version(tmp_path):
    """Of the same name, in the same place, with the same settings."""
    path = tmp_path / "of_checks.py"
    versions = []
    for least in (1, 2, 1):
        path.write_text(f"def strict(answer):\n    return len(answer) > {least}\n")
        linecache.checkcache()
        spec = importlib.util.spec_from_file_location("of_checks", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        exec(compile(path.read_text(), str(path), "exec"), vars(module))  # noqa: S102
        versions.append(outlast.check(module.strict).version)
    assert versions[0] == versions[2] != versions[1]


def test_what_changes_a_judgement_changes_the_version_of_the_judge():
    """What it is told, what passes, how many votes, and how much evidence it sees."""
    judges = [
        outlast.Judge("Is it right?"),
        outlast.Judge("Is it right? "),
        outlast.Judge("Is it wrong?"),
        outlast.Judge("Is it right?", at_least=0.9),
        outlast.Judge("Is it right?", votes=3),
        outlast.Judge("Is it right?", max_evidence_tokens=9),
        outlast.Judge("Is it right?", name="other", attempts=9, on_unjudged="accept"),
    ]
    versions = [one.version for one in judges]
    assert versions[0] == versions[1] == versions[6], "a judge of another name judges alike"
    assert len(set(versions)) == 5


def test_another_wording_around_the_rubric_is_another_version(monkeypatch):
    """Its number stands for what is told beside the rubric, so labels of the old one are void."""
    before = outlast.Judge("Is it right?").version
    monkeypatch.setattr("outlast.judges.PROMPT", 2)
    assert outlast.Judge("Is it right?").version != before
