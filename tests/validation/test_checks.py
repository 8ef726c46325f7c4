"""What checks may say of an answer, and what is done about it."""

import asyncio
import time
from typing import Any, ClassVar

import msgspec
import pytest

import outlast
from outlast.events import (
    AnswerProposed,
    AnswerRejected,
    FeedbackGiven,
    Issue,
    ModelCallStarted,
    VerdictGiven,
)
from outlast.models.script import refuse, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.validation import line
from validation.answering import (
    EMPTY,
    GOOD,
    NOBODY,
    Grant,
    agent,
    answers,
    grants,
    is_judge,
    opinion,
)


@pytest.fixture(autouse=True)
def _closed():
    """Close what a test has opened."""
    yield
    while Told.opened:
        Told.opened.pop().close()


class Told:
    """One run of an agent, and what came of it."""

    opened: ClassVar[list[outlast.Outlast]] = []

    def __init__(self, who: outlast.Agent, script: Any, **more: Any) -> None:
        self.model = ScriptedModel(script)
        self.app = outlast.Outlast("memory://", model=self.model, **more)
        self.opened.append(self.app)
        self.run = self.app.run(who, "Find grants.", run_id="r", wait_s=0.1)
        self.events = [one.event for one in self.app.log("r")]

    def of(self, kind: type) -> list[Any]:
        return [one for one in self.events if isinstance(one, kind)]

    def verdict(self, check: str) -> VerdictGiven:
        return next(one for one in self.of(VerdictGiven) if one.check == check)

    def requests(self) -> list[Any]:
        return [msgspec.json.decode(one) for one in self.model.calls]


def checked(function: Any, **more: Any) -> VerdictGiven:
    """Return what comes of one check of a good answer."""
    told = Told(agent(checks=[function], answer_attempts=1, **more), answers(GOOD))
    return told.of(VerdictGiven)[-1]


def judged(**more: Any) -> outlast.Judge:
    return outlast.Judge("Is it right?", **more)


# ── what a check may return ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("came", "verdict"),
    [
        ([], "passed"),
        ((), "passed"),
        (set(), "passed"),
        (True, "passed"),
        (outlast.Verdict.passed(), "passed"),
        (False, "fixable"),
        ("wrong", "fixable"),
        (["wrong"], "fixable"),
        (outlast.Issue("wrong", path="[0].name"), "fixable"),
        ([outlast.Issue("wrong"), "and this"], "fixable"),
        (outlast.Verdict.fixable("wrong"), "fixable"),
        (outlast.Verdict("fixable"), "fixable"),
        (outlast.Verdict.terminal("hopeless"), "terminal"),
        (outlast.Verdict.unverified("who knows"), "unverified"),
        (outlast.Verdict.needs_person("look at it"), "needs_person"),
        (None, "unverified"),
        (1, "unverified"),
        (0, "unverified"),
        ("", "unverified"),
        ([""], "unverified"),
        ([None], "unverified"),
        ({"issue": "wrong"}, "unverified"),
        (b"wrong", "unverified"),
        (object(), "unverified"),
        (outlast.Verdict("fine"), "unverified"),  # type: ignore[arg-type]
        (outlast.Verdict("passed", (outlast.Issue("wrong"),)), "unverified"),
    ],
)
def test_what_is_returned_is_one_of_five_verdicts(came, verdict):
    """What is none of the things that a check may say is no verdict: nobody can tell."""

    def check(answer: list[Grant]):
        """The answer is right."""
        return came

    said = checked(outlast.check(check))
    assert said.verdict == verdict, said
    assert bool(said.issues) == (verdict in {"fixable", "terminal"})
    assert all(one.message and one.rule for one in said.issues)
    assert said.why or verdict in {"passed", "fixable", "terminal"}


def test_none_says_nothing_unless_it_is_one_of_the_things_to_say():
    """A check that forgot to return is no acceptance; one that is declared so may return None."""

    def forgets(answer: list[Grant]) -> list[str]:  # type: ignore[return]
        """Forget."""

    def optional(answer: list[Grant]) -> str | None:
        return None

    def quoted(answer: list[Grant]) -> "str | None":
        return None

    assert checked(forgets).verdict == "unverified"
    assert "return []" in checked(forgets).why
    assert checked(optional).verdict == checked(quoted).verdict == "passed"


def test_what_raises_or_hangs_or_leaves_is_no_verdict():
    """An exception, an exit, a function that does not return: nobody can tell, and it is said."""

    def raises(answer):
        raise KeyError("eligibility")

    def leaves(answer):
        raise SystemExit("enough")

    @outlast.check(timeout_s=0.05)
    def hangs(answer):
        time.sleep(0.5)

    async def awaits(answer):
        await asyncio.sleep(0)
        raise ValueError("no")

    assert checked(raises).why == "it raised KeyError: 'eligibility'"
    assert checked(leaves).why == "it raised SystemExit: enough"
    assert checked(hangs).why == "it did not return within 0.05 s"
    assert checked(awaits).why == "it raised ValueError: no"
    assert {checked(one).verdict for one in (raises, leaves, hangs, awaits)} == {"unverified"}


def test_async_checks_and_plain_functions_are_checks():
    """Whatever is given as a check and can be called is one; its name is the function's."""

    async def counts(answer):
        await asyncio.sleep(0)
        return [] if len(answer) == 1 else ["not one"]

    assert checked(counts).verdict == "passed"
    assert checked(lambda answer: len(answer) > 0).check == "<lambda>"


def test_a_check_gets_evidence():
    """The task, what tools returned with their arguments and as data, and the application's own."""
    seen: list[outlast.Evidence] = []

    @outlast.tool(effect="read")
    def search(word: str) -> dict[str, Any]:
        """Search."""
        if word == "none":
            raise outlast.ToolError("nothing there")
        return {"name": "Ladder", "max_usd": 10}

    def looks(answer: list[Grant], evidence: outlast.Evidence) -> list[str]:
        seen.append(evidence)
        return []

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) == 1:
            return say(tool_use("search", {"word": "x"}), tool_use("search", {"word": "none"}))
        return say(GOOD)

    who = agent(tools=[search], checks=[looks])
    told = Told(who, script, deps="the app's")
    (evidence,) = seen
    (finding,) = evidence.findings
    assert (finding.tool, finding.arguments, finding.degraded) == ("search", {"word": "x"}, False)
    assert finding.value == {"name": "Ladder", "max_usd": 10}
    assert (evidence.task, evidence.attempt, evidence.deps) == ("Find grants.", 1, "the app's")
    assert evidence.run_id == "r"
    assert told.verdict("looks").evidence == [finding.seq]
    content = told.app.log("r")[finding.seq - 1].event.content
    assert msgspec.json.decode(msgspec.json.decode(content)) == finding.value


def test_what_a_check_says_is_redacted_and_bounded():
    """Issues may hold anything, of any length, with secrets in it; the journal does not."""

    def says(answer):
        return [outlast.Issue(f"sk-secret {n}", got="sk-secret" * 9_999) for n in range(99)]

    told = Told(
        agent(checks=[says], answer_attempts=1),
        answers(GOOD),
        redact=lambda text: text.replace("sk-secret", "[hidden]"),
    )
    said = told.verdict("says")
    assert len(said.issues) == 51
    assert said.issues[-1].message == "and 49 more issues"
    assert b"sk-secret" not in msgspec.json.encode(said)
    assert len(msgspec.json.encode(said)) < 500_000


def test_values_that_are_no_json_do_not_lose_an_issue():
    """What stands there may be an object of the user's own; the issue is kept all the same."""

    def says(answer):
        return [outlast.Issue("wrong", got=answer[0], expected=object())]

    (issue,) = checked(says).issues
    assert issue.got["name"] == "Ladder"
    assert issue.expected


# ── types ───────────────────────────────────────────────────────────────────────────────────────


def test_a_reply_of_another_type_is_a_failed_check():
    """It fails with pydantic's own message and place, and raises nothing; the other checks wait."""
    strange = say_raw('{"answer": [{"funder": 5}]}')
    told = Told(agent(), answers(strange, GOOD))
    assert told.run.status == "completed"
    first = told.of(VerdictGiven)[0]
    assert (first.check, first.kind, first.verdict) == ("schema", "schema", "fixable")
    assert [(one.path, one.message) for one in first.issues] == [
        ("[0].name", "Field required"),
        ("[0].funder", "Input should be a valid string"),
    ]
    assert first.issues[1].got == 5
    told_first = told.requests()[1]["messages"][-1]["content"][0]["text"]
    assert "[0].name: Field required" in told_first
    given = [one.check for one in told.of(VerdictGiven)]
    assert given[:2] == ["schema", "schema"]
    assert sorted(given[2:]) == ["finds_some", "says_who_is_eligible"]


def say_raw(text: str) -> Any:
    from outlast.models.script import Turn  # noqa: PLC0415

    return Turn(content=msgspec.json.encode([{"type": "text", "text": text}]))


@pytest.mark.parametrize(
    "said", [f"```json\n{GOOD}\n```", f"Here it is: {GOOD}", '{"grants": []}', "[1]", "null", "{"]
)
def test_nothing_is_picked_out_of_a_text(said):
    """JSON between fences or in prose is no JSON: it is told what came, and asked again."""
    told = Told(agent(), answers(say_raw(said), GOOD))
    assert told.run.status == "completed"
    assert told.of(VerdictGiven)[0].verdict == "fixable"
    assert len(told.model.calls) == 2


def test_the_schema_is_what_the_model_is_given():
    """Structured outputs where the model has them, and it is frozen with the run."""
    told = Told(agent(), answers(GOOD))
    form = told.requests()[0]["output_config"]["format"]
    assert form["type"] == "json_schema"
    assert form["schema"]["required"] == ["answer"]
    assert form["schema"]["$defs"]["Grant"]["additionalProperties"] is False
    assert "tools" not in told.requests()[0]


def test_effort_stands_beside_the_schema():
    """What else `output_config` says is kept."""
    who = agent(parameters={"output_config": {"effort": "low"}})
    told = Told(who, answers(GOOD))
    assert told.requests()[0]["output_config"]["effort"] == "low"
    assert "format" in told.requests()[0]["output_config"]


@pytest.fixture
def old(monkeypatch):
    """Let no model have structured outputs."""
    monkeypatch.setattr("outlast.agent.structured", lambda model: False)


def by_tool(said: str) -> Any:
    return say(tool_use("give_answer", msgspec.json.decode(said)))


@pytest.mark.usefixtures("old")
def test_without_structured_outputs_a_tool_is_called():
    """A strict tool takes the answer; what is wrong is its result, and the right one has one."""
    told = Told(agent(), answers(by_tool(NOBODY), by_tool(GOOD)))
    assert told.run.answer[0].eligibility == "charities"
    first, second = told.requests()
    (tool,) = first["tools"]
    assert (tool["name"], tool["strict"]) == ("give_answer", True)
    (result,) = second["messages"][-1]["content"]
    assert (result["type"], result["is_error"]) == ("tool_result", True)
    assert "eligibility is missing" in result["content"]
    again = told.app.send("r", "And more?", agent=agent())
    assert again.status == "completed"
    accepted = told.requests()[2]["messages"][-2]["content"][0]
    assert accepted["content"] == "The answer was accepted."


@pytest.mark.usefixtures("old")
def test_an_answer_in_words_is_told_how_it_is_given():
    """Who answers without calling the tool is told to; it is a failed check, not an error."""
    told = Told(agent(), answers("Ladder, I think.", by_tool(GOOD)))
    assert told.run.status == "completed"
    assert "calling the tool give_answer" in told.of(VerdictGiven)[0].issues[0].message


@pytest.mark.usefixtures("old")
def test_an_answer_beside_other_calls_waits_for_them():
    """All calls of a reply have their results in one message, and the last answer counts."""
    called: list[str] = []

    @outlast.tool(effect="read")
    def search(word: str) -> str:
        """Search."""
        called.append(word)
        return "Ladder"

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return by_tool(GOOD)
        bad = msgspec.json.decode(EMPTY), msgspec.json.decode(NOBODY)
        return say(
            tool_use("give_answer", bad[0]),
            tool_use("search", {"word": "x"}),
            tool_use("give_answer", bad[1]),
        )

    told = Told(agent(tools=[search]), script)
    assert (told.run.status, called) == ("completed", ["x"])
    proposed = bytes(told.of(AnswerProposed)[0].answer)
    assert msgspec.json.decode(proposed) == msgspec.json.decode(NOBODY)["answer"]
    results = told.requests()[1]["messages"][-1]["content"]
    assert [one["content"][:20] for one in results] == [
        "Another answer was g", "Ladder", "Your answer was chec",
    ]  # fmt: skip


# ── protocol comes first ────────────────────────────────────────────────────────────────────────


def test_what_is_no_answer_is_not_checked():
    """A refusal fails the run, and a reply that was cut off is asked for again, whole."""
    told = Told(agent(), answers(refuse("No.", category="cyber")))
    assert (told.run.status, told.of(VerdictGiven)) == ("failed", [])
    cut = say(GOOD[:30], stop_reason="max_tokens")

    def script(request: dict[str, Any], attempt: int) -> Any:
        return cut if turn_number(request) == 1 else say(GOOD)

    told = Told(agent(), script)
    assert told.run.answer == [
        Grant.model_validate(one) for one in msgspec.json.decode(GOOD)["answer"]
    ]
    (feedback,) = told.of(FeedbackGiven)
    assert feedback.why == "max_tokens"
    assert "whole answer again" in bytes(feedback.content).decode()
    assert "thorough" not in bytes(feedback.content).decode()
    empty = Told(agent(), answers(say()))
    assert (empty.run.status, empty.of(VerdictGiven)) == ("failed", [])


# ── all at once, the cheapest first ─────────────────────────────────────────────────────────────


def test_all_cheap_checks_run_and_the_feedback_names_every_issue():
    """One retry can mend it all; a judge is not asked while a function objects."""
    two = grants({"name": "A"}, {"name": "B"})

    def has_funder(answer):
        return [outlast.Issue("no funder", path=f"[{n}].funder") for n, _ in enumerate(answer)]

    checks = [judged(), *agent().checks, has_funder]
    told = Told(agent(checks=checks), answers(two, GOOD, judge=[opinion()]))
    first = told.requests()[1]["messages"][-1]["content"][0]["text"]
    for issue in ("A: eligibility", "B: eligibility", "[0].funder: no", "[1].funder: no"):
        assert issue in first
    assert not any(is_judge(one) for one in told.requests()[:2])


def test_the_cheaper_judge_is_asked_first():
    """And the dear one not at all, where that one objects."""
    dear = judged(name="dear", model="claude-opus-5-5")
    cheap = judged(name="cheap", model="claude-sonnet-5-5")
    who = agent(checks=[dear, cheap], answer_attempts=1)
    told = Told(who, answers(GOOD, judge=[opinion("wrong")]))
    assert [one.check for one in told.of(VerdictGiven)] == ["schema", "cheap"]


# ── judges ──────────────────────────────────────────────────────────────────────────────────────


def test_a_judge_sees_the_task_the_evidence_and_the_answer():
    """It is another model in a conversation of its own, and hears nothing the agent says."""

    @outlast.tool(effect="read")
    def search(word: str) -> str:
        """Search."""
        return "Ladder by Trust"

    def script(request: dict[str, Any], attempt: int) -> Any:
        if is_judge(request):
            return say(opinion())
        if turn_number(request) == 1:
            return say("I am SURE that I will be right.", tool_use("search", {"word": "x"}))
        return say(GOOD)

    who = agent(tools=[search], checks=[judged()], instructions="Secret instructions.")
    told = Told(who, script)
    asked = told.requests()[-1]
    assert asked["model"] == "claude-sonnet-5-5" != who.model
    assert "Is it right?" in str(asked["system"])
    (message,) = asked["messages"]
    text = message["content"][0]["text"]
    task, evidence, answer = (part.partition(":\n")[2] for part in text.split("\n\n"))
    assert msgspec.json.decode(task) == "Find grants."
    assert msgspec.json.decode(evidence) == [
        {"tool": "search", "arguments": {"word": "x"}, "result": "Ladder by Trust"}
    ]
    assert msgspec.json.decode(answer) == msgspec.json.decode(GOOD)["answer"]
    assert "SURE" not in str(asked)
    assert "Secret" not in str(asked)


def test_nobody_judges_his_own_answers():
    """Where the agent is of the judge's model, another one judges, unless it is said."""
    assert judged().model_for("claude-opus-5-5") == "claude-sonnet-5-5"
    assert judged().model_for("claude-sonnet-5-5") == "claude-opus-5-5"
    assert judged(model="claude-haiku-5-5").model_for("claude-haiku-5-5") == "claude-haiku-5-5"


@pytest.mark.parametrize(
    ("sure", "status"), [(0.8, "completed"), (0.79, "rejected"), (1, "completed")]
)
def test_as_sure_as_it_has_to_be_is_sure_enough(sure, status):
    """Exactly `at_least` passes."""
    who = agent(checks=[judged(at_least=0.8)], answer_attempts=1)
    assert Told(who, answers(GOOD, judge=[opinion(confidence=sure)])).run.status == status


def test_what_a_judge_finds_is_told_and_may_be_mended():
    """Its issues and its suggestion are feedback like any other."""

    def judge(request: dict[str, Any]) -> str:
        return opinion("Ladder gives 10, not 99") if "99" in str(request["messages"]) else opinion()

    poor = GOOD.replace("10", "99")
    told = Told(agent(checks=[judged()]), answers(poor, GOOD, judge=judge))
    assert told.run.status == "completed"
    feedback = bytes(told.of(FeedbackGiven)[0].content).decode()
    assert "Ladder gives 10, not 99" in feedback
    assert "look again" in feedback


def test_votes_are_asked_until_it_is_decided():
    """Two of three that agree decide; what was not judged counts for nothing."""
    from outlast.judges import Vote, counted  # noqa: PLC0415

    yes, no, open_ = Vote(kind="passed"), Vote(kind="fixable"), Vote(kind="unverified")

    def kind(*votes: Vote, of: int = 3) -> str | None:
        came = counted(votes, of)
        return came and came.kind

    assert kind(yes) is kind(yes, no) is kind(open_) is kind(yes, open_) is None
    assert kind(yes, yes) == kind(yes, no, yes) == kind(open_, yes, yes) == "passed"
    assert kind(no, no) == kind(no, yes, no) == "fixable"
    assert kind(open_, open_) == kind(yes, no, open_) == kind(yes, open_, no) == "unverified"
    assert [kind(one, of=1) for one in (yes, no, open_)] == ["passed", "fixable", "unverified"]
    told = Told(agent(checks=[judged(votes=3)]), answers(GOOD, judge=[opinion()]))
    assert told.run.status == "completed"
    assert sum(is_judge(one) for one in told.requests()) == 2
    assert told.verdict("judge").why == "2 of 3 votes"


def test_what_validation_cost_stands_in_the_ledger():
    """The verdict says it, and so does the roll-up, under the agent that pays and the check."""
    told = Told(agent(checks=[judged()]), answers(GOOD, judge=[opinion()]))
    spent = {line.tool: line.settled_nano for line in told.app.journal.rollup()}
    assert spent["check:judge"] == told.verdict("judge").cost_nano > 0
    assert sum(spent.values()) == told.run.cost_nano
    assert {line.agent for line in told.app.journal.rollup()} == {"grant-researcher"}


def test_a_judge_never_takes_a_run_over_its_budget():
    """What does not fit is not asked: the answer is not judged, and nothing is overspent."""
    judge = judged(max_evidence_tokens=10**6, max_tokens=20_000)
    free = Told(agent(checks=[judge], answer_attempts=1), answers(GOOD, judge=[opinion()]))
    assert free.run.status == "completed"
    price = free.of(ModelCallStarted)[0].hold_nano
    budget = outlast.Budget(usd=f"{price / 1e9:.9f}")
    with pytest.raises(outlast.BudgetTooSmall):
        Told(agent(checks=[judge], budget=budget), answers(GOOD, judge=[opinion()]))
    small = judged(budget=outlast.Budget(usd="0.000001"), max_tokens=20_000)
    told = Told(agent(checks=[small]), answers(GOOD, judge=[opinion()]))
    said = told.verdict("judge")
    assert (said.verdict, said.cost_nano, told.run.status) == ("unverified", 0, "rejected")
    assert "budget of judge" in said.why
    assert not any(is_judge(one) for one in told.requests())


def test_the_cap_of_a_judge_holds_for_the_whole_run():
    """It may judge so often, over all answers together."""

    def judge(request: dict[str, Any]) -> str:
        return opinion("not yet")

    who = agent(checks=[judged(budget=outlast.Budget(turns=2))], answer_attempts=5)
    changing = [GOOD.replace("10", str(number)) for number in range(5)]
    told = Told(who, answers(*changing, judge=judge))
    assert sum(is_judge(one) for one in told.requests()) == 2
    assert [one.verdict for one in told.of(VerdictGiven) if one.check == "judge"] == [
        "fixable", "fixable", "unverified",
    ]  # fmt: skip


def test_turns_for_the_judge_are_there_from_the_start():
    """A budget in which not one answer could be judged is refused before anything is paid."""
    with pytest.raises(outlast.BudgetTooSmall, match="turns=4"):
        Told(agent(checks=[judged(votes=3)], budget=outlast.Budget(turns=3)), answers(GOOD))


# ── how another answer is asked for, and when not ───────────────────────────────────────────────


def test_a_fresh_conversation_holds_no_rejected_answer():
    """Asked afresh, Claude sees the task, what was wrong and what tools returned, and no answer."""

    @outlast.tool(effect="read")
    def search(word: str) -> str:
        """Search."""
        return "Ladder by Trust"

    def script(request: dict[str, Any], attempt: int) -> Any:
        if "What was wrong with answer 1" in str(request):
            return say(GOOD)
        return (
            say(tool_use("search", {"word": "x"}))
            if turn_number(request) == 1
            else say(NOBODY.replace("Ladder", "Quixotic"))
        )

    told = Told(agent(tools=[search], retry="resample"), script)
    assert told.run.status == "completed"
    last = told.requests()[-1]["messages"]
    assert [one["role"] for one in last] == ["user", "user"]
    assert last[0]["content"][0]["text"] == "Find grants."
    text = last[1]["content"][0]["text"]
    assert "Quixotic: eligibility is missing" in text
    assert "Ladder by Trust" in text
    assert NOBODY.replace("Ladder", "Quixotic") not in str(last)
    assert told.of(AnswerRejected)[0].action == "resample"


def test_the_same_answer_again_is_the_last():
    """With the same issues, a third time would be the same: it is not paid for."""
    told = Told(agent(answer_attempts=9), answers(NOBODY))
    assert (told.run.status, len(told.model.calls)) == ("rejected", 2)
    assert "the same answer came back with the same issues" in told.run.why


def test_answers_that_get_worse_are_not_waited_out():
    """More issues than before, found by the same kind of check, ends it; further on is no worse."""
    worse = grants({"name": "A"}, {"name": "B"})
    told = Told(agent(answer_attempts=9), answers(NOBODY, worse, GOOD))
    assert (told.run.status, len(told.model.calls)) == ("rejected", 2)
    assert "get worse: 1 issues, and then 2" in told.run.why
    broken = say_raw('{"answer": [{}]}')
    told = Told(agent(answer_attempts=9), answers(broken, worse, GOOD))
    assert told.run.status == "completed"


def test_terminal_is_terminal():
    """What no other answer would mend is not tried again."""

    def hopeless(answer):
        return outlast.Verdict.terminal("there are no such grants")

    told = Told(agent(checks=[hopeless]), answers(GOOD))
    assert (told.run.status, len(told.model.calls)) == ("rejected", 1)


def test_degraded_is_marked():
    """The last resort may be the last answer all the same, and nobody takes it for a good one."""
    told = Told(agent(last_resort="degrade", answer_attempts=2), answers(NOBODY, EMPTY))
    assert (told.run.status, told.run.degraded, told.run.answer) == ("completed", True, [])
    assert len(told.run.rejected_answers) == 1
    broken = say_raw('{"answer": [{}]}')
    told = Told(agent(last_resort="degrade", answer_attempts=1), answers(broken))
    assert (told.run.status, told.run.answer) == ("rejected", None), "it is of no type"


def test_text_answers_are_checked_as_text():
    """Without `answer=` a check gets the text, and the answer is that."""

    def short(answer: str) -> list[str]:
        return ["too long"] if len(answer) > 10 else []

    who = outlast.Agent("a", model="claude-haiku-5-5", checks=[short])
    told = Told(who, answers("far too long an answer", "short"))
    assert (told.run.answer, told.run.rejected_answers[0].answer) == (
        "short",
        "far too long an answer",
    )
    assert "output_config" not in told.requests()[0]


def test_an_agent_without_checks_writes_nothing_of_them():
    """Neither a type nor a check: the journal is as it ever was."""
    who = outlast.Agent("a", model="claude-haiku-5-5")
    told = Told(who, answers("Well."))
    assert not told.of(AnswerProposed)
    assert told.run.answer == "Well."


def test_failures_of_one_question_do_not_leak_into_the_next():
    """Attempts count for each question anew."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        said = [str(one) for one in request["messages"] if one["role"] == "user"]
        return say(GOOD if "is not accepted" in said[-1] else NOBODY)

    told = Told(agent(answer_attempts=2), script)
    assert told.run.status == "completed"
    again = told.app.send("r", "And more?", agent=agent(answer_attempts=2))
    assert again.status == "completed"
    log = [one.event for one in told.app.log("r")]
    proposed = [one for one in log if isinstance(one, AnswerProposed)]
    assert [(one.ask_id, one.attempt) for one in proposed] == [
        ("ask-1", 1), ("ask-1", 2), ("ask-2", 1), ("ask-2", 2),
    ]  # fmt: skip
    assert len(again.rejected_answers) == 2


def test_what_is_declared_wrong_is_refused():
    """Said when it is declared, with the value and what to give."""
    for wrong in (
        {"checks": "not_empty"},
        {"checks": [3]},
        {"checks": [judged(), judged()]},
        {"checks": [dict]},
        {"answer_attempts": 0},
        {"retry": "again"},
        {"last_resort": "shrug"},
        {"answer_expires": "soon"},
        {"parameters": {"output_config": {"format": {}}}},
    ):
        with pytest.raises(outlast.InvalidAgent):
            agent(**wrong)
    for wrong in (
        {"rubric": " "},
        {"at_least": 1.1},
        {"at_least": "0.8"},
        {"votes": 2},
        {"votes": 0},
        {"on_unjudged": "shrug"},
        {"timeout_s": 0},
        {"max_tokens": True},
    ):
        with pytest.raises(outlast.InvalidAgent):
            outlast.Judge(**({"rubric": "Is it right?"} | wrong))
    with pytest.raises(outlast.InvalidAgent):
        outlast.check(lambda answer, more: [])


@pytest.mark.parametrize(
    "kind",
    [dict, dict[str, int], list[dict[str, Any]], object],
    ids=["any", "ints", "list", "object"],
)
def test_types_that_no_schema_can_say_are_refused_at_the_start(kind):
    """Nothing is written and nothing is paid."""
    with pytest.raises(outlast.InvalidAgent):
        Told(agent(answer=kind, checks=[]), answers(GOOD))


def test_an_unknown_price_of_a_judge_is_refused_at_the_start():
    """Nothing about its cost could be promised."""
    with pytest.raises(outlast.UnknownModel):
        Told(agent(checks=[judged(model="claude-judge-9")]), answers(GOOD))


@pytest.mark.parametrize(
    ("issue", "told"),
    [
        (Issue("is missing", path="[0].name"), "[0].name: is missing"),
        (Issue("[0].name: 'X' occurs nowhere", path="[0].name"), "[0].name: 'X' occurs nowhere"),
        (Issue("is missing"), "is missing"),
    ],
)
def test_the_place_of_an_issue_is_told_once(issue: Issue, told: str) -> None:
    """A message that begins with the place is not told with it once more."""
    assert line(issue) == told
