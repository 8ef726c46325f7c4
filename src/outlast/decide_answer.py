"""What is done about an answer before anyone believes it, as one pure function.

| the answer | the next step |
|---|---|
| is new | written down, and read as the type it is to have |
| is not of that type | as where a check finds something that could be mended |
| has checks that were not called | all of them are, at the same time |
| has checks under which the process died, again and again | nobody can tell |
| waits for checks | wait |
| has something wrong that no other answer would mend | the last resort |
| has something wrong that could be mended | Claude is told, or asked afresh |
| the same, and there were answers enough | the last resort |
| needs a person | a person is asked |
| has a check that cannot tell | as that check declares: rejected, a person, or accepted |
| passed every check, and has judges that were not asked | the next one is, vote by vote |
| passed them all | it is the answer |

The last resort is declared: no answer, a person, or this one all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast.actions import WAIT, Action, CheckAnswer, Step, World, awaited, check_id
from outlast.agent import Agent
from outlast.answers import TOOL, AnswerType, InvalidAnswer, given, is_json
from outlast.approvals import Given, Request
from outlast.checks import Check, Evidence
from outlast.conversation import Conversation, Pending, blocks, words
from outlast.events import (
    NULL,
    AnswerProposed,
    AnswerRejected,
    AnyEvent,
    ApprovalRequested,
    AskAnswered,
    AskRejected,
    AskResampled,
    AskStarted,
    FeedbackGiven,
    Issue,
    LabelGiven,
    MessageReceived,
    OnUnjudged,
    RunFinished,
    VerdictGiven,
)
from outlast.evidence import gathered, shown
from outlast.judges import Judge, Vote, counted, read
from outlast.redaction import Redact, redacted
from outlast.state import RunState
from outlast.validation import Attempt, afresh, feedback, no_more, summary

LOOKS: Final = 5
"""How often a process may die under the checks of an answer, before nobody can tell."""

SCHEMA: Final = "schema"
"""What the check of an answer's type is called."""

MOST_EVIDENCE: Final = 32_768
"""So many bytes of what tools returned are shown again to whoever is asked afresh."""

AskJudge: TypeAlias = Callable[[Judge, Conversation], Step]
"""Returns the next step of a vote."""


def is_answer(ask: Conversation, pending: Pending) -> bool:
    """Return whether a tool use is how an answer is given."""
    return ask.spec.answers == "tool" and pending.name == TOOL


def proposal(ask: Conversation) -> Raw | None:
    """Return the answer that a reply gives by calling a tool, once its other calls are over."""
    answers = [one for one in ask.pending if is_answer(ask, one)]
    if not answers or not all(one.result or is_answer(ask, one) for one in ask.pending):
        return None
    return given(bytes(answers[-1].arguments), wrapped=ask.spec.wrapped)


def answer_step(  # noqa: PLR0913, PLR0917  (everything an answer depends on)
    state: RunState,
    agent: Agent,
    ask: Conversation,
    proposed: Raw,
    now: int,
    world: World,
    judge: AskJudge,
) -> Step:
    """Return the next step of a question to which there is an answer that nobody believes yet."""
    assert ask.asked_by is not None, "an answer without a call"  # noqa: S101
    call_id = ask.asked_by.call_id
    attempts = state.validation.of(ask.ask_id)
    if not attempts or attempts[-1].call_id != call_id:
        return _propose(state, agent, ask, call_id, proposed, len(attempts) + 1, world)
    trial = attempts[-1]
    if trial.action == "escalate":
        return _escalated(state, agent, ask, trial, now)
    return (
        _type_step(agent, ask, trial, world)
        or _rules_step(state, agent, ask, trial, world)
        or _objected(state, agent, ask, attempts, now)
        or _judges_step(state, agent, ask, trial, judge)
        or Step(_accepted(agent, ask, trial))
    )


def _propose(  # noqa: PLR0913, PLR0917  (what an answer is made of)
    state: RunState,
    agent: Agent,
    ask: Conversation,
    call_id: str,
    proposed: Raw,
    number: int,
    world: World,
) -> Step:
    fresh = AnswerProposed(ask_id=ask.ask_id, call_id=call_id, answer=proposed, attempt=number)
    read_as = _read(agent.answers, ask, call_id, proposed, world.redact)
    events: tuple[AnyEvent, ...] = (fresh,) if read_as is None else (fresh, read_as)
    if not agent.rules or (read_as is not None and read_as.verdict != "passed"):
        return Step(events)
    evidence = gathered(state.asks, ask, number)
    calls = [_call(ask, call_id, rule, proposed, evidence) for rule in agent.rules]
    return Step(events, tuple(calls))


def _call(
    ask: Conversation, call_id: str, rule: Check[..., Any], answer: Raw, evidence: Evidence
) -> Action:
    return CheckAnswer(
        ask_id=ask.ask_id,
        answered_by=call_id,
        check=rule.name,
        answer=answer,
        evidence=evidence,
        typed=bool(ask.spec.answers),
    )


def _type_step(agent: Agent, ask: Conversation, trial: Attempt, world: World) -> Step | None:
    """Read an answer as the type that it is to have, where that was not done."""
    if any(one.check == SCHEMA for one in trial.verdicts):
        return None
    verdict = _read(agent.answers, ask, trial.call_id, trial.answer, world.redact)
    return None if verdict is None else Step((verdict,))


def _read(
    answers: AnswerType | None, ask: Conversation, call_id: str, answer: Raw, redact: Redact
) -> VerdictGiven | None:
    if answers is None or not ask.spec.answers:
        return None  # Claude was not told of a type that was declared since
    issues = _formless(ask)
    try:
        answers.read(answer)
    except InvalidAnswer as error:
        told = issues if ask.spec.answers == "tool" else []
        # A validator of the user's own may say anything.
        issues = [*told, *(_redacted(one, redact) for one in error.issues)]
    return VerdictGiven(
        ask_id=ask.ask_id,
        call_id=call_id,
        check=SCHEMA,
        kind="schema",
        version=answers.version,
        verdict="fixable" if issues else "passed",
        issues=issues,
    )


def _redacted(issue: Issue, redact: Redact) -> Issue:
    return replace(issue, message=redacted(issue.message, redact))


def _formless(ask: Conversation) -> list[Issue]:
    """Return what is wrong with how an answer is given: a type that has texts would take any."""
    if ask.pending:
        return []
    if ask.spec.answers == "tool":
        return [Issue(f"an answer is given by calling the tool {TOOL}", rule="schema:tool")]
    reply = msgspec.json.decode(ask.messages[-1], type=_Message)
    if is_json(ask.before + words(blocks(reply.content))):
        return []
    return [Issue("the answer is not JSON of the schema", rule="schema:json_invalid")]


class _Message(msgspec.Struct, gc=False):
    content: Raw


def _rules_step(
    state: RunState, agent: Agent, ask: Conversation, trial: Attempt, world: World
) -> Step | None:
    """Return the calls of checks that have no verdict; `None` where all have one."""
    if any(one.kind == "schema" and one.verdict != "passed" for one in trial.verdicts):
        return None  # there is nothing that they could look at
    said = {one.check for one in trial.verdicts}
    missing = [rule for rule in agent.rules if rule.name not in said]
    if not missing:
        return None
    if any(check_id(trial.call_id, rule.name) in world.in_flight for rule in missing):
        return WAIT
    if trial.times >= LOOKS:
        why = f"the process ended under the checks {trial.times} times"
        return Step(tuple(_undecided(ask, trial, rule, why) for rule in missing))
    again = AnswerProposed(
        ask_id=ask.ask_id,
        call_id=trial.call_id,
        answer=trial.answer,
        attempt=trial.number,
        times=trial.times + 1,
    )
    evidence = gathered(state.asks, ask, trial.number)
    calls = [_call(ask, trial.call_id, rule, trial.answer, evidence) for rule in missing]
    return Step((again,), tuple(calls))


def _undecided(ask: Conversation, trial: Attempt, rule: Check[..., Any], why: str) -> VerdictGiven:
    return VerdictGiven(
        ask_id=ask.ask_id,
        call_id=trial.call_id,
        check=rule.name,
        kind="rule",
        version=rule.version,
        verdict="unverified",
        why=why,
    )


# ── judges ──────────────────────────────────────────────────────────────────────────────────────


def vote_id(call_id: str, judge: Judge, number: int) -> str:
    """Return what the ask of a vote on an answer is called."""
    return f"{call_id}.{judge.name}.v{number}"


def is_asked(state: RunState, agent: Agent, vote: Conversation) -> bool:
    """Return whether a vote counts yet: its judge is still one, and the answer still undecided."""
    trial = state.validation.of(vote.judged)[-1]
    return (
        trial.call_id == vote.judges
        and not (trial.action or trial.accepted)
        and all(one.check != vote.check for one in trial.verdicts)
        and any(
            vote.ask_id == vote_id(vote.judges, judge, number)
            for judge in agent.judges
            for number in range(1, judge.votes + 1)
        )
    )


def _judges_step(
    state: RunState, agent: Agent, ask: Conversation, trial: Attempt, ask_judge: AskJudge
) -> Step | None:
    """Return the next step of the judges, one after the other; `None` where all have passed it."""
    said = {one.check for one in trial.verdicts}
    for judge in agent.judges:
        if judge.name not in said:
            return _votes_step(state, ask, trial, judge, ask_judge)
    return None


def _votes_step(
    state: RunState, ask: Conversation, trial: Attempt, judge: Judge, ask_judge: AskJudge
) -> Step:
    votes: list[Vote] = []
    asked: list[Conversation] = []
    for number in range(1, judge.votes + 1):
        name = vote_id(trial.call_id, judge, number)
        vote = state.asks.get(name)
        if vote is None:
            evidence = gathered(state.asks, ask, trial.number)
            return Step(_opened(name, ask, trial, judge, evidence))
        if vote.answer is None and not vote.failed:
            return ask_judge(judge, vote)
        asked.append(vote)
        votes.append(_cast(judge, vote))
        if (came := counted(votes, judge.votes)) is not None:
            evidence = gathered(state.asks, ask, trial.number)
            return Step((_sentence(ask, trial, judge, came, asked, evidence),))
    raise AssertionError("votes that come to nothing")  # pragma: no cover


def _cast(judge: Judge, vote: Conversation) -> Vote:
    if vote.answer is None:
        return Vote(kind="unverified", why=f"it was not judged: {vote.failed}")
    return read(judge, msgspec.json.decode(vote.answer, type=str))


def _opened(
    name: str, ask: Conversation, trial: Attempt, judge: Judge, evidence: Evidence
) -> tuple[AnyEvent, ...]:
    author = ask.declared or ask.spec.model
    return (
        AskStarted(
            ask_id=name,
            spec=judge.spec(ask.spec.agent, author),
            version=ask.version,
            judges=trial.call_id,
            check=judge.name,
        ),
        MessageReceived(ask_id=name, content=judge.question(trial.answer, evidence)),
    )


def _sentence(  # noqa: PLR0913, PLR0917  (what a verdict is made of)
    ask: Conversation,
    trial: Attempt,
    judge: Judge,
    came: Vote,
    asked: list[Conversation],
    evidence: Evidence,
) -> VerdictGiven:
    return VerdictGiven(
        ask_id=ask.ask_id,
        call_id=trial.call_id,
        check=judge.name,
        kind="judge",
        version=judge.version,
        verdict=came.kind,
        issues=list(came.issues),
        why=came.why,
        evidence=[one.seq for one in evidence.findings],
        model=asked[0].spec.model,
        confidence=came.confidence,
        suggestion=came.suggestion if came.kind != "passed" else "",
        cost_nano=sum(one.spent_nano for one in asked),
    )


# ── what is done about it ───────────────────────────────────────────────────────────────────────


def _policy(agent: Agent, verdict: VerdictGiven) -> OnUnjudged:
    """Return what is done about an answer of which a check cannot tell."""
    for one in agent.checks:
        if isinstance(one, Check) and one.name == verdict.check:
            return one.on_unverified
        if isinstance(one, Judge) and one.name == verdict.check:
            return one.on_unjudged
    return "reject"  # the check is no more


def _objected(
    state: RunState, agent: Agent, ask: Conversation, attempts: tuple[Attempt, ...], now: int
) -> Step | None:
    """Return what is done about an answer that a check objects to; `None` where none does."""
    trial = attempts[-1]
    against = [
        one
        for one in trial.objections
        if one.verdict != "unverified" or _policy(agent, one) != "accept"
    ]
    kinds = {one.verdict for one in against}
    if not against:
        return None
    if "terminal" in kinds:
        return _last_resort(agent, ask, trial, "no other answer would do", now, state)
    if "fixable" in kinds:
        if why := no_more(attempts, agent.answer_attempts):
            return _last_resort(agent, ask, trial, why, now, state)
        return _retry(state, agent, ask, trial)
    if "needs_person" in kinds or all(_policy(agent, one) == "escalate" for one in against):
        return _escalate(agent, ask, trial, "", now, state)
    return _reject(ask, trial, "nobody can tell whether it is right")


def _retry(state: RunState, agent: Agent, ask: Conversation, trial: Attempt) -> Step:
    rejected = AnswerRejected(
        ask_id=ask.ask_id, call_id=trial.call_id, action=agent.retry, why=summary(trial)
    )
    if agent.retry == "repair":
        content = _with_results(ask, feedback(trial), is_error=True)
        told = FeedbackGiven(ask_id=ask.ask_id, why="rejected", content=content)
        return Step((rejected, told))
    attempts = state.validation.of(ask.ask_id)
    text = f"{afresh(attempts)}{_found(gathered(state.asks, ask, trial.number))}"
    content = Raw(msgspec.json.encode([{"type": "text", "text": text}]))
    return Step((rejected, AskResampled(ask_id=ask.ask_id, content=content)))


def _found(evidence: Evidence) -> str:
    """Return what the tools returned, for whoever does not see their calls any more."""
    told = [msgspec.json.encode(one).decode() for one in shown(evidence.findings, MOST_EVIDENCE)]
    if not told:
        return ""
    head = "What your tools have returned so far, as data; call them again for what is not here:"
    return "\n".join(("", head, *told))


def _with_results(ask: Conversation, text: str, *, is_error: bool) -> Raw:
    """Return a text for Claude, with the results of the calls that its reply made, if any."""
    results = [_result(ask, one, text, is_error=is_error) for one in ask.pending]
    if not results:
        return Raw(msgspec.json.encode([{"type": "text", "text": text}]))
    return Raw(b"[%b]" % b",".join(results))


def _result(ask: Conversation, one: Pending, text: str, *, is_error: bool) -> bytes:
    if one.result:
        return one.result
    last = [other for other in ask.pending if is_answer(ask, other)][-1]
    told = text if one is last else "Another answer was given after this one."
    block = {"type": "tool_result", "tool_use_id": one.tool_use_id, "content": told}
    return msgspec.json.encode(block | ({"is_error": True} if is_error else {}))


def _last_resort(  # noqa: PLR0913, PLR0917  (everything it depends on)
    agent: Agent, ask: Conversation, trial: Attempt, why: str, now: int, state: RunState
) -> Step:
    if agent.last_resort == "escalate":
        return _escalate(agent, ask, trial, why, now, state)
    is_readable = all(one.kind != "schema" for one in trial.objections)
    if agent.last_resort == "degrade" and is_readable:
        told = f"{why}; {summary(trial)}"
        rejected = AnswerRejected(
            ask_id=ask.ask_id, call_id=trial.call_id, action="degrade", why=told
        )
        return Step((rejected, *_answered(ask, trial.answer, less=told)))
    return _reject(ask, trial, why)


def _reject(ask: Conversation, trial: Attempt, why: str) -> Step:
    told = f"{why}; the last one: {summary(trial)}"
    rejected = AnswerRejected(ask_id=ask.ask_id, call_id=trial.call_id, action="reject", why=told)
    return Step((rejected, *_lost(ask, told)))


def _lost(ask: Conversation, why: str) -> tuple[AnyEvent, ...]:
    return (
        AskRejected(ask_id=ask.ask_id, why=why),
        RunFinished(status="rejected", why=f"rejected: {why}"),
    )


def _accepted(agent: Agent, ask: Conversation, trial: Attempt) -> tuple[AnyEvent, ...]:
    unsure = [one for one in trial.objections if _policy(agent, one) == "accept"]
    less = "; ".join(f"{one.check} could not tell: {one.why}" for one in unsure)
    return _answered(ask, trial.answer, less=less)


def _answered(
    ask: Conversation, answer: Raw, *, less: str = "", by: str = "", edited: bool = False
) -> tuple[AnyEvent, ...]:
    done = AskAnswered(ask_id=ask.ask_id, answer=answer, degraded=less, by=by)
    if edited:
        # Whoever goes on talking talks of that one.
        told = f"A person changed your answer, which is now: {bytes(answer).decode()}"
        content = _with_results(ask, told, is_error=False)
        return FeedbackGiven(ask_id=ask.ask_id, why="edited", content=content), done
    if not ask.pending:
        return (done,)
    # Claude called a tool to give it, and every call has a result.
    content = _with_results(ask, "The answer was accepted.", is_error=False)
    return FeedbackGiven(ask_id=ask.ask_id, why="accepted", content=content), done


# ── a person ────────────────────────────────────────────────────────────────────────────────────


def _escalate(  # noqa: PLR0913, PLR0917  (everything it depends on)
    agent: Agent, ask: Conversation, trial: Attempt, why: str, now: int, state: RunState
) -> Step:
    evidence = gathered(state.asks, ask, trial.number)
    told = f"{why}; {summary(trial)}" if why else summary(trial)
    context = {
        "task": evidence.task,
        "issues": trial.issues,
        "why": [f"{one.check}: {one.why}" for one in trial.objections if one.why],
        "evidence": [
            {"seq": one.seq, "tool": one.tool, "arguments": one.arguments}
            for one in evidence.findings
        ],
    }
    question = ApprovalRequested(
        question=f"Is this the answer? {told}",
        call_id=trial.call_id,
        ask_id=ask.ask_id,
        answer=trial.answer,
        context=Raw(msgspec.json.encode(context)),
        expires_at=now + agent.answer_ns if agent.answer_ns else 0,
    )
    rejected = AnswerRejected(ask_id=ask.ask_id, call_id=trial.call_id, action="escalate", why=told)
    return Step((rejected, question))


def _escalated(state: RunState, agent: Agent, ask: Conversation, trial: Attempt, now: int) -> Step:
    asked = state.approvals.of_call(trial.call_id)
    assert asked is not None, "escalated to nobody"  # noqa: S101  (both are in one append)
    if asked.given is None and not asked.late(now):
        return Step(actions=(awaited(asked),))
    if asked.given is None:
        return Step(_lost(ask, f"nobody decided in time; {summary(trial)}"))
    return _decided(agent, ask, trial, asked, asked.given)


def _decided(agent: Agent, ask: Conversation, trial: Attempt, asked: Request, said: Given) -> Step:
    """Return what a person's word comes to: an answer or none, and a label in any case."""
    answer = trial.answer if said.answer == NULL else said.answer
    by = said.by or "a person"
    is_edited = answer != trial.answer
    label = LabelGiven(
        ask_id=ask.ask_id,
        call_id=asked.call_id,
        good=said.approved and not is_edited,
        why=said.note or ("it was edited" if is_edited else ""),
        by=said.by,
    )
    if not said.approved:
        note = f": {said.note}" if said.note else ""
        return Step((label, *_lost(ask, f"{by} denied the answer{note}")))
    if agent.answers is not None and ask.spec.answers and not _fits(agent.answers, answer):
        why = f"{by} approved an answer that is not of the type it has to be"
        return Step((label, *_lost(ask, why)))
    return Step((label, *_answered(ask, answer, by=by, edited=is_edited)))


def _fits(answers: AnswerType, answer: Raw) -> bool:
    try:
        answers.read(answer)
    except InvalidAnswer:
        return False
    return True
