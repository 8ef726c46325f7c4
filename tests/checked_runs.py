"""Writes runs whose answers were checked, event by event, as a driver would have."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from outlast.conversation import request_hash
from outlast.events import (
    JOURNAL_VERSION,
    AnswerProposed,
    AnswerRejected,
    AnyEvent,
    AskAnswered,
    AskRejected,
    AskStarted,
    FeedbackGiven,
    Issue,
    LabelGiven,
    MessageReceived,
    ModelCallStarted,
    ModelCallSucceeded,
    RunFinished,
    RunStarted,
    Spec,
    VerdictGiven,
)
from outlast.journal import Commit, Journal, Record, RunRow, run_stream
from outlast.state import fold

MODEL = "claude-haiku-5-5"
AT = 1_790_000_000 * 10**9
ASK = "ask-1"


def verdict(call: str, said: str, **more: Any) -> VerdictGiven:
    """Return a verdict; by default of version `v1` of the rule `grounded`."""
    issues = [Issue("wrong")] if said in ("fixable", "terminal") else []
    given = {"ask_id": ASK, "check": "grounded", "kind": "rule", "version": "v1"}
    return VerdictGiven(**(given | {"call_id": call, "verdict": said, "issues": issues} | more))


def label(call: str, *, good: bool, **more: Any) -> LabelGiven:
    return LabelGiven(**({"ask_id": ASK, "call_id": call, "good": good} | more))


def proposed(
    number: int, text: str, ask: str = ASK, *, before: Sequence[AnyEvent] = ()
) -> list[AnyEvent]:
    """Return a call of the model, after what was before, and that its reply is to be checked."""
    sent = request_hash(fold(records(before)).asks[ask], 100) if before else ""
    call = f"{ask}.m{number}"
    blocks = msgspec.json.encode([{"type": "text", "text": text}])
    return [
        ModelCallStarted(
            ask_id=ask,
            call_id=call,
            max_tokens=100,
            request_hash=sent,
            hold_nano=0,
            hold_tokens=0,
        ),
        ModelCallSucceeded(
            ask_id=ask,
            call_id=call,
            content=Raw(blocks),
            stop_reason="end_turn",
            usage=Raw(b'{"input_tokens":10,"output_tokens":5}'),
            cost_nano=0,
            tokens=15,
        ),
        AnswerProposed(ask_id=ask, call_id=call, answer=said(text), attempt=number),
    ]


def said(text: str) -> Raw:
    return Raw(msgspec.json.encode(text))


def run_of(
    *attempts: tuple[str, Sequence[VerdictGiven]],
    accepts: bool = True,
    agent: str = "finder",
    after: Sequence[AnyEvent] = (),
) -> list[AnyEvent]:
    """Return the events of a run: its answers, what was said of each, and how it ended."""
    spec = Spec(agent=agent, model=MODEL, max_tokens=100)
    started = RunStarted(journal_version=JOURNAL_VERSION, agent=agent, nonce="0" * 8, spec=spec)
    events: list[AnyEvent] = [
        started,
        AskStarted(ask_id=ASK),
        MessageReceived(ask_id=ASK, content=Raw(b'"Find grants."')),
    ]
    for number, (text, verdicts) in enumerate(attempts, start=1):
        is_last = number == len(attempts)
        events += [*proposed(number, text, before=events), *verdicts]
        if not is_last or not accepts:
            does: Any = "reject" if is_last else "repair"
            rejected = AnswerRejected(ask_id=ASK, call_id=f"{ASK}.m{number}", action=does)
            events.append(rejected)
        if not is_last:
            told = Raw(b'[{"type":"text","text":"That is wrong."}]')
            events.append(FeedbackGiven(ask_id=ASK, why="checks", content=told))
    if accepts:
        events += [
            AskAnswered(ask_id=ASK, answer=said(attempts[-1][0])),
            RunFinished(status="completed"),
        ]
    elif attempts:
        events += [
            AskRejected(ask_id=ASK, why="none was accepted"),
            RunFinished(status="rejected", why="none was accepted"),
        ]
    return [*events, *after]


def records(events: Sequence[AnyEvent], run_id: str = "r", at: int = AT) -> list[Record]:
    """Return events as the records of a run, a second apart."""
    stream = run_stream(run_id)
    return [
        Record(stream, seq, seq, at + seq * 10**9, 0, event)
        for seq, event in enumerate(events, start=1)
    ]


def write(journal: Journal, run_id: str, events: Sequence[AnyEvent], at: int = AT) -> None:
    """Write a run into a store."""
    started, last = events[0], [one for one in events if isinstance(one, RunFinished)]
    assert isinstance(started, RunStarted)
    row = RunRow(
        id=run_id,
        agent=started.agent,
        status=last[-1].status if last else "running",
        created_at=at,
        updated_at=at,
    )
    commit = Commit(stream=run_stream(run_id), events=(started,), at=at, expected_seq=1, row=row)
    journal.append(commit)
    epoch = journal.claim(run_stream(run_id))
    rest = Commit(
        stream=run_stream(run_id), events=tuple(events[1:]), at=at, expected_seq=2, epoch=epoch
    )
    journal.append(rest)
    journal.release(run_stream(run_id))
