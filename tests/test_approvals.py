"""What people are asked before a tool is called or a flow goes on, and what their answers do."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Raw

import outlast
from flow_stubs import of_kind, opened
from outlast import wants
from outlast.actions import NAP_NS, CallTool, Sleep, Step, World
from outlast.answering import Answer, questions
from outlast.answering import given as given_to
from outlast.approvals import Approvals, Given, Request
from outlast.decide import decide, moment
from outlast.errors import FlowChanged, InvalidInput, UsageError
from outlast.events import (
    ApprovalGiven,
    ApprovalRequested,
    ChildStarted,
    ControlGiven,
    ModelCallSucceeded,
    RunFinished,
    RunParked,
    RunWoken,
    StepFinished,
    ToolCallFailed,
    ToolCallStarted,
)
from outlast.journal import Record
from outlast.models.script import last_text, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.state import RunState, evolve
from stubs import MODEL, agent, results
from test_decide import AT, after, known, replied
from test_decide_flow import NOW, decided
from test_decide_flow import known as flow_knows

DAY_NS = 86_400 * 1_000_000_000
CALL = "a.m1.t1"


# ── what an agent's run does next ───────────────────────────────────────────────────────────────


@outlast.tool(effect="once", approval="always", approval_expires="1d")
def send(word: str) -> str: ...
@outlast.tool(effect="read")
def look(word: str) -> str: ...


ASKER = agent(send, look, max_tokens=100)


def wanting(*names: str, **arguments: Any) -> RunState:
    """Return the run whose Claude wants these tools called."""
    uses = [tool_use(name, {"word": "w"} | arguments) | {"id": f"u-{name}"} for name in names]
    return replied(known(asked=ASKER), *uses)


def asked(name: str = "send", expires_at: int = AT + DAY_NS) -> ApprovalRequested:
    return ApprovalRequested(
        question=f"May {name} be called?",
        call_id=CALL,
        ask_id="a",
        tool=name,
        arguments=Raw(b'{"word":"w"}'),
        expires_at=expires_at,
    )


def said(approved: bool, **more: Any) -> ApprovalGiven:  # noqa: FBT001  (what was said)
    return ApprovalGiven(approved=approved, call_id=CALL, **more)


def next_step(state: RunState, *, now: int = AT, world: World | None = None) -> Step:
    return decide(state, ASKER, now, world or World())


def refusal(step: Step) -> str:
    (event,) = step.events
    assert isinstance(event, ToolCallFailed)
    assert (event.kind, event.call_id) == ("denied", CALL)
    return bytes(event.content).decode()


def test_a_person_is_asked_first() -> None:
    """A tool that has to be allowed is asked for, with its arguments and until when."""
    assert next_step(wanting("send")) == Step((asked(),))


def test_a_tool_that_nobody_can_call_is_asked_of_nobody() -> None:
    """Arguments that do not fit go back to Claude, before any person sees them."""
    (event,) = next_step(wanting("send", word=1)).events
    assert isinstance(event, ToolCallFailed)
    assert event.kind == "invalid_arguments"


def test_a_run_that_waits_for_a_person_is_parked() -> None:
    """It is parked at once, until the time is over, and says for whom it waits, and for what."""
    state = after(wanting("send"), asked())
    why = f"waiting for a person until {moment(AT + DAY_NS)}: May send be called?"
    parked = RunParked(until=AT + DAY_NS, why=why, person=True)
    assert next_step(state) == Step((parked,))
    state = after(state, parked)
    assert (state.status, state.why) == ("waiting", why)
    assert next_step(state).rest
    assert next_step(state, now=AT + DAY_NS) == Step((RunWoken(),))


def test_a_run_that_waits_for_ever_has_no_time() -> None:
    """Without an expiry nothing but an answer wakes it."""
    state = after(wanting("send"), asked(expires_at=0))
    (parked,) = next_step(state).events
    assert isinstance(parked, RunParked)
    assert (parked.until, parked.person) == (0, True)
    state = after(state, parked)
    assert next_step(state, now=AT + 10_000 * DAY_NS).rest


def test_a_short_time_is_waited_for() -> None:
    """What is over in a moment is waited for without being parked."""
    state = after(wanting("send"), asked(expires_at=AT + NAP_NS))
    (nap,) = next_step(state).actions
    assert isinstance(nap, Sleep)
    assert nap.person


def test_what_was_allowed_is_called() -> None:
    """It is called with what Claude gave, with the intent first."""
    step = next_step(after(wanting("send"), asked(), said(approved=True)))
    (intent,) = step.events
    (call,) = step.actions
    assert isinstance(intent, ToolCallStarted)
    assert isinstance(call, CallTool)
    assert (intent.call_id, bytes(intent.arguments)) == (CALL, b"null")
    assert call.given == {"word": "w"}


def test_what_was_changed_is_called_as_it_was_changed() -> None:
    """The intent has the arguments of the person, and the call is made with them."""
    other = Raw(b'{"word":"x"}')
    step = next_step(after(wanting("send"), asked(), said(approved=True, arguments=other)))
    (intent,) = step.events
    (call,) = step.actions
    assert isinstance(intent, ToolCallStarted)
    assert isinstance(call, CallTool)
    assert (intent.arguments, call.given) == (other, {"word": "x"})


def test_what_was_changed_is_checked_again() -> None:
    """Arguments that the tool does not take now are no call, and Claude learns whose they were."""
    other = Raw(b'{"words":"x"}')
    step = next_step(after(wanting("send"), asked(), said(approved=True, arguments=other)))
    (event,) = step.events
    assert isinstance(event, ToolCallFailed)
    assert event.kind == "invalid_arguments"
    assert b"A person changed the arguments, and nothing was called" in bytes(event.content)


@pytest.mark.parametrize(("note", "told"), [("", "not made."), ("no mail", "not made: no mail")])
def test_what_was_denied_is_told(note: str, told: str) -> None:
    """Nothing is called, and Claude is told, with the note."""
    step = next_step(after(wanting("send"), asked(), said(approved=False, note=note)))
    assert refusal(step) == f'"A person did not allow this call of send, and it was {told}"'


def test_late_is_denied() -> None:
    """When the time is over nothing is called, whatever is said after that."""
    state = after(wanting("send"), asked())
    told = refusal(next_step(state, now=AT + DAY_NS))
    assert told == '"Nobody allowed this call of send in time, and it was not made."'
    late = Record("run:r", state.next_seq, 0, AT + DAY_NS, 0, said(approved=True))
    assert refusal(next_step(evolve(state, late), now=AT + DAY_NS)) == told


def test_the_first_answer_counts() -> None:
    """What is said after an answer changes nothing."""
    state = after(wanting("send"), asked(), said(approved=False), said(approved=True))
    assert "did not allow" in refusal(next_step(state))


def test_the_others_are_called() -> None:
    """Of several tools in one reply those that need nobody are called while one waits."""
    state = after(wanting("send", "look"), asked())
    step = next_step(state)
    (intent,) = step.events
    assert isinstance(intent, ToolCallStarted)
    assert intent.tool == "look"
    state = after(state, intent)
    step = next_step(state, world=World(in_flight=frozenset({intent.call_id})))
    assert not step.events, "it is parked while a tool is at work"
    assert [type(one) for one in step.actions] == [Sleep]


def test_an_answer_makes_a_parked_run_ready() -> None:
    """A run that was parked is queued by an answer, and a paused one stays paused."""
    state = after(wanting("send"), asked(), RunParked(until=0, why="w", person=True))
    for approved in (True, False):
        told = after(state, said(approved), epoch=0)
        assert (told.status, told.parking.status) == ("queued", "")


@pytest.mark.parametrize(
    ("request_of", "now", "is_late", "is_open"),
    [
        (Request("q", 1), 10**18, False, True),
        (Request("q", 1, expires_at=5), 4, False, True),
        (Request("q", 1, expires_at=5), 5, True, False),
        (Request("q", 1, given=Given(approved=False)), 4, False, False),
        (Request("q", 1, expires_at=5, given=Given(approved=True)), 9, True, False),
    ],
    ids=["for ever", "in time", "at its time", "answered", "answered before"],
)
def test_when_a_question_is_open(
    request_of: Request, now: int, *, is_late: bool, is_open: bool
) -> None:
    """A question is open until it was answered, or its time has come."""
    assert (request_of.late(now), request_of.open(now)) == (is_late, is_open)
    all_ = Approvals({("n", ""): request_of})
    assert (all_.of_name("n"), all_.of_call("n")) == (request_of, None)
    assert all_.open(now) == ((request_of,) if is_open else ())


# ── what a flow's run does next ─────────────────────────────────────────────────────────────────


WANT = wants.Approval(question="Send it?", context=Raw(b"1"), given="g", length=DAY_NS)
REQUEST = ApprovalRequested(
    question="Send it?", name="n", context=Raw(b"1"), given="g", expires_at=NOW + DAY_NS
)


def flow_step(*events: Any, now: int = NOW, quiet: bool = True) -> Step:
    return decided(flow_knows(*events), steps={"n": WANT}, now=now, quiet=quiet)


def test_a_flow_wants_a_person() -> None:
    """It is asked with its context, waited for, and parked once nothing else is wanted."""
    assert flow_step() == Step((REQUEST,))
    (parked,) = flow_step(REQUEST).events
    assert isinstance(parked, RunParked)
    assert (parked.until, parked.person) == (NOW + DAY_NS, True)
    (nap,) = flow_step(REQUEST, quiet=False).actions
    assert isinstance(nap, Sleep)
    assert (nap.until, nap.person) == (NOW + DAY_NS, True)


@pytest.mark.parametrize(
    ("given", "now", "result"),
    [
        ({"approved": True, "by": "b"}, NOW, b'{"approved":true,"by":"b","note":""}'),
        ({"approved": False, "note": "no"}, NOW, b'{"approved":false,"by":"","note":"no"}'),
        (
            None,
            NOW + DAY_NS,
            b'{"approved":false,"by":"","note":"nobody decided in time"}',
        ),
        ({"approved": True, "by": "b"}, NOW + DAY_NS, b'{"approved":true,"by":"b","note":""}'),
    ],
    ids=["approved", "denied", "late", "approved in time and driven later"],
)
def test_a_flow_gets_what_was_said(given: Any, now: int, result: bytes) -> None:
    """What a person said is what the flow gets; after the time that is no."""
    told = [] if given is None else [ApprovalGiven(name="n", **given)]
    (over,) = flow_step(REQUEST, *told, now=now).events
    assert isinstance(over, StepFinished)
    assert (over.name, over.kind, bytes(over.result)) == ("n", "approval", result)


# ── which answers count ─────────────────────────────────────────────────────────────────────────


def refused(deed: Callable[[], Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        deed()


YES = Answer(approved=True)
OVER = StepFinished(name="n", kind="approval", result=Raw(b'{"approved":false}'))
DENIED = ToolCallFailed(
    ask_id="a", call_id=CALL, tool_use_id="u-send", kind="denied", content=Raw(b'"late"')
)
PARKED = RunParked(until=0, why="w", person=True)
CANCEL = ControlGiven(verb="cancel")


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        (flow_knows(REQUEST), ""),
        (flow_knows(REQUEST, PARKED), ""),
        (flow_knows(REQUEST, RunFinished(status="stopped", why="s")), ""),
        (flow_knows(REQUEST, ControlGiven(verb="pause")), ""),
        (flow_knows(REQUEST, OVER), "went on without an answer to approval 'n'"),
        (flow_knows(REQUEST, CANCEL), "is told to end, so there is nothing to approve"),
        (
            flow_knows(REQUEST, RunFinished(status="failed", why="f")),
            "is failed, so there is nothing to approve",
        ),
        (after(wanting("send"), asked()), ""),
        (after(wanting("send"), asked(), DENIED), "went on without an answer to call 'a.m1.t1'"),
        (wanting("send"), "asks nobody anything"),
    ],
    ids=[
        "a flow",
        "parked",
        "stopped",
        "paused",
        "a flow that went on",
        "cancelled",
        "failed",
        "a tool",
        "a tool that was denied",
        "nothing asked",
    ],
)
def test_which_answers_count(state: RunState, complaint: str) -> None:
    """An answer counts while the run waits for it, and nobody is asked for it after that."""
    assert len(questions(state, NOW)) == (not complaint)
    if complaint:
        refused(lambda: given_to(state, "r", YES, NOW), complaint)
        return
    _, told = given_to(state, "r", YES, NOW)
    assert told is not None
    assert told.approved


# ── real runs ───────────────────────────────────────────────────────────────────────────────────


class Desk:
    """An application whose agent mails only what somebody allows."""

    def __init__(self, url: str = "memory://", **more: Any) -> None:
        self.mailed: list[tuple[str, int]] = []

        @outlast.tool(effect="once", **({"approval": "always"} | more))
        def mail(to: str, copies: int = 1) -> str:
            """Mail it."""
            self.mailed.append((to, copies))
            return f"mailed to {to}"

        self.who = outlast.Agent("desk", model=MODEL, tools=[mail])
        self.claude = ScriptedModel(self.script)
        self.uses = [{"to": "ann"}]
        self.app = outlast.Outlast(url, model=self.claude)

    def script(self, request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return say("Done.")
        return say(*(tool_use("mail", one) for one in self.uses))

    def run(self, run_id: str = "r") -> outlast.Run:
        return self.app.run(self.who, "Go.", run_id=run_id)

    def resume(self) -> outlast.Run:
        return self.app.resume("r", self.who)

    @property
    def answers(self) -> list[ApprovalGiven]:
        return of_kind(self.app, ApprovalGiven)


@pytest.fixture(params=["memory", "sqlite"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = Desk("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db")
    with made.app:
        yield made


def test_approved(desk: Desk) -> None:
    """A run waits for a person without a process, and goes on once one has allowed it."""
    waiting = desk.run()
    assert waiting.status == "waiting"
    assert "May mail be called?" in waiting.why
    assert waiting.wake_at is not None
    assert desk.resume().status == "waiting", "driven again, it waits on"
    allowed = desk.app.approve("r", note="fine", by="bob")
    assert allowed.status == "queued"
    assert (desk.mailed, len(desk.claude.calls)) == ([], 1), "to say it drives nothing"
    assert desk.resume().answer == "Done."
    assert desk.mailed == [("ann", 1)]
    assert [(one.approved, one.note, one.by) for one in desk.answers] == [(True, "fine", "bob")]


def test_denied(desk: Desk) -> None:
    """A denial reaches Claude as a result that is an error, with the note."""
    desk.run()
    assert desk.app.deny("r", note="ask ann first", by="bob").status == "queued"
    assert desk.resume().status == "completed"
    assert desk.mailed == []
    (result,) = results(desk.claude)
    assert result["is_error"]
    assert result["content"].endswith("it was not made: ask ann first")


def test_edited(desk: Desk) -> None:
    """The tool is called with what a person made of its arguments, and Claude is told."""
    desk.run()
    desk.app.approve("r", arguments={"to": "carol", "copies": 2})
    assert desk.resume().status == "completed"
    assert desk.mailed == [("carol", 2)]
    (result,) = results(desk.claude)
    told, came = result["content"]
    assert told["text"].endswith('a person changed its arguments to {"to":"carol","copies":2}')
    assert came["text"] == "mailed to carol"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"to": "carol", "colour": "red"}, "colour"),
        ({"copies": 2}, "to"),
        ({"to": "carol", "copies": "many"}, "copies"),
        (["carol"], "a JSON object"),
        ({"to": object()}, "cannot be written as JSON"),
        ({"to": "x" * 2_000_000}, "at most 1,000,000"),
    ],
    ids=["unknown", "missing", "of another type", "no object", "no JSON", "too long"],
)
def test_arguments_that_do_not_fit(desk: Desk, arguments: Any, complaint: str) -> None:
    """What the tool does not take is refused before anything is written."""
    desk.run()
    with pytest.raises(InvalidInput, match=complaint):
        desk.app.approve("r", arguments=arguments)
    assert desk.answers == []
    assert desk.app.get("r").status == "waiting"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [({"copies": 2}, "to is missing"), ({"to": "a", "x": 1}, "x is none of them.*to, copies")],
)
def test_arguments_of_a_tool_that_is_not_here(arguments: Any, complaint: str) -> None:
    """Where the code of a run is not to be had, the names that the journal knows are checked."""
    desk = Desk()
    desk.run()
    elsewhere = outlast.Outlast(desk.app.journal, model=desk.claude)
    with pytest.raises(InvalidInput, match=complaint):
        elsewhere.approve("r", arguments=arguments)
    assert desk.answers == []
    elsewhere.approve("r", arguments={"to": "carol"})
    assert desk.resume().status == "completed"
    assert desk.mailed == [("carol", 1)]


def test_what_cannot_be_answered() -> None:
    """Every refusal says what to do next, and nothing is written."""
    desk = Desk()
    app = desk.app
    with pytest.raises(outlast.RunNotFound):
        app.approve("r")
    app.start(desk.who, "Go.", run_id="r")
    refused(lambda: app.approve("r"), "asks nobody anything.*`outlast runs --waiting`")
    desk.run()
    refused(lambda: app.approve("r", name="n"), "asked nothing by name='n'.*call='ask-1.m1.t1'")
    refused(lambda: app.deny("r", call="c"), "asked nothing by call='c'")
    refused(lambda: app.deny("r", call="c", name="n"), "give one of both")
    with pytest.raises(InvalidInput):
        app.approve("r", note=b"x")  # type: ignore[arg-type]
    assert desk.answers == []
    app.approve("r", by="bob")
    app.approve("r", by="carol", note="me too")
    refused(lambda: app.deny("r"), r"was approved by bob at 20\S+Z, and the first answer counts")
    refused(
        lambda: app.approve("r", arguments={"to": "x"}), "was approved by bob .*, with other argum"
    )
    assert [one.by for one in desk.answers] == ["bob"]
    desk.resume()
    app.approve("r")
    refused(lambda: app.deny("r"), "was approved by bob")
    assert len(desk.answers) == 1
    app.run(agent(), "Go.", run_id="other")
    refused(lambda: app.approve("other"), "'other' is completed, so there is nothing to approve")


def test_late() -> None:
    """When its time is over nobody can allow it any more, whether or not the run was driven."""
    desk = Desk(approval_expires="20ms")
    app = desk.app
    app.start(desk.who, "Go.", run_id="r")
    assert desk.run().status == "completed", "what is over in a moment is waited for"
    assert desk.mailed == []
    refused(lambda: app.approve("r"), "is completed")
    desk = Desk(approval_expires="1h")
    assert desk.run().status == "waiting"
    in_an_hour = time.time_ns() + 3_600 * 10**9
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("outlast.telling.time", SimpleNamespace(time_ns=lambda: in_an_hour))
        refused(lambda: desk.app.approve("r"), r"expired at 20\S+Z and counts as denied")
        refused(lambda: desk.app.deny("r"), "expired")
    assert desk.answers == []


@pytest.mark.parametrize("expires", [0, "0s", -1, "soon"])
def test_an_expiry_leaves_time(expires: Any) -> None:
    """Nothing is asked that is over before it is asked, and 0 is not for ever."""
    with pytest.raises(UsageError):
        Desk(approval_expires=expires)


def test_several_are_told_apart() -> None:
    """With several open questions one has to say which, and how is in the message."""
    desk = Desk()
    desk.uses = [{"to": "ann"}, {"to": "bob"}]
    assert desk.run().status == "waiting"
    refused(
        lambda: desk.app.approve("r"),
        r"asks 2 things: call='ask-1.m1.t1' \(May mail be called\?\), call='ask-1.m1.t2'",
    )
    desk.app.deny("r", call="ask-1.m1.t1")
    assert desk.resume().status == "waiting", "it waits for the other one"
    assert desk.mailed == []
    desk.app.approve("r")
    assert desk.resume().status == "completed"
    assert desk.mailed == [("bob", 1)]


@pytest.mark.parametrize(
    ("approval", "to", "asks"),
    [
        (lambda to, copies: to == "all", "all", True),
        (lambda to, copies: to == "all", "ann", False),
        (lambda to, copies: 1 / 0, "ann", True),
        (lambda to: True, "ann", True),
        (None, "ann", False),
    ],
    ids=["for these", "not for those", "raises", "takes too little", "none"],
)
def test_which_calls_are_asked_for(approval: Any, to: str, *, asks: bool) -> None:
    """A function of the arguments says which calls are asked for; one that cannot tell, all."""
    desk = Desk(approval=approval)
    desk.uses = [{"to": to}]
    assert desk.run().status == ("waiting" if asks else "completed")
    assert desk.mailed == ([] if asks else [(to, 1)])


def test_what_is_said_is_redacted() -> None:
    """Notes, names and arguments go through `redact` before they are kept."""
    desk = Desk()
    desk.app = outlast.Outlast(
        "memory://", model=desk.claude, redact=lambda t: t.replace("s3", "*")
    )
    desk.run()
    desk.app.approve("r", note="s3 it is", by="s3", arguments={"to": "s3"})
    (kept,) = desk.answers
    assert (kept.note, kept.by, bytes(kept.arguments)) == ("* it is", "*", b'{"to":"*"}')
    assert desk.resume().status == "completed"
    assert desk.mailed == [("*", 1)]


def test_a_paused_run_keeps_its_answer(desk: Desk) -> None:
    """What is said to a paused run counts once it is resumed, and does not resume it."""
    desk.run()
    desk.app.pause("r", by="ann")
    assert desk.app.approve("r").status == "paused"
    assert (desk.run().status, desk.mailed) == ("paused", [])
    assert desk.resume().status == "completed"
    assert desk.mailed == [("ann", 1)]


def test_a_paused_run_waits_on(desk: Desk) -> None:
    """A run that is paused and resumed while it waits is asked nothing twice."""
    desk.run()
    desk.app.pause("r")
    assert desk.resume().status == "waiting"
    assert len(of_kind(desk.app, ApprovalRequested)) == 1
    desk.app.approve("r")
    assert desk.resume().status == "completed"


def test_a_cancelled_run_is_over(desk: Desk) -> None:
    """A run that waits for a person can be cancelled, and then nobody can answer it."""
    desk.run()
    assert desk.app.cancel("r").status == "cancelled"
    refused(lambda: desk.app.approve("r"), "is cancelled, so there is nothing to approve")
    assert desk.mailed == []


def test_whoever_drives_hears_of_it(tmp_path: Path) -> None:
    """An answer that another application writes is acted on by whoever waits for it."""

    @outlast.tool(effect="read")
    async def wait(word: str) -> str:
        """Wait until somebody has allowed the other one."""
        for _ in range(600):
            if desk.mailed:
                return "mailed meanwhile"
            await asyncio.sleep(0.05)
        return "never"

    desk = Desk(f"sqlite:///{tmp_path}/a.db")
    desk.who = outlast.Agent("desk", model=MODEL, tools=[*desk.who.tools, wait])

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return say(last_text(request) or "Done.")
        return say(tool_use("mail", {"to": "ann"}), tool_use("wait", {"word": "w"}))

    async def both() -> outlast.Run:
        claude = ScriptedModel(script)
        async with outlast.Outlast(desk.app.journal, model=claude) as app:
            driving = asyncio.create_task(app.arun(desk.who, "Go.", run_id="r"))
            with outlast.Outlast(f"sqlite:///{tmp_path}/a.db", model=claude) as other:
                while True:
                    try:
                        await asyncio.to_thread(other.approve, "r")
                        break
                    except UsageError:
                        await asyncio.sleep(0.02)
            run = await asyncio.wait_for(driving, 60)
            assert "mailed meanwhile" in claude.calls[-1].decode()
            return run

    assert asyncio.run(both()).status == "completed"
    assert desk.mailed == [("ann", 1)]


# ── flows ───────────────────────────────────────────────────────────────────────────────────────


class Ask:
    """A flow that asks a person, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.question = "Send it?"
        self.context: Any = {"to": "ann"}
        self.more: dict[str, Any] = {}

        @outlast.flow(name="letter")
        async def letter(run: outlast.Run) -> str:
            got = await run.approval(self.question, context=self.context, **self.more)
            self.got.append(got)
            return "sent" if got else f"not sent: {got.note}"

        self.flow: Any = letter


@pytest.mark.parametrize("approves", [True, False])
def test_a_flow_asks_a_person(*, approves: bool) -> None:
    """`run.approval` returns what was said, as something that is true where it was allowed."""
    ask, app = Ask(), opened()
    assert app.run(ask.flow, None, run_id="r").status == "waiting"
    assert ask.got == []
    (asked_,) = of_kind(app, ApprovalRequested)
    assert (asked_.name, bytes(asked_.context)) == ("approval-1", b'{"to":"ann"}')
    verb = app.approve if approves else app.deny
    refused(lambda: app.approve("r", arguments={"a": 1}), "has no arguments to change")
    assert verb("r", note="well", by="bob").status == "queued"
    assert app.resume("r", ask.flow).answer == ("sent" if approves else "not sent: well")
    assert ask.got == [outlast.Approval(approved=approves, by="bob", note="well")]


def test_a_sync_flow_asks_a_person() -> None:
    """In a sync flow `approval` returns the `Approval` itself."""

    @outlast.flow
    def letter(run: outlast.Run) -> str:
        return run.approval("Send it?").by

    app = opened()
    assert app.run(letter, None, run_id="r").status == "waiting"
    app.approve("r", by="bob")
    assert app.resume("r", letter).answer == "bob"


def test_what_nobody_decided_is_denied() -> None:
    """After its time an approval of a flow is a denial by nobody."""
    ask, app = Ask(), opened()
    ask.more = {"expires": "1.2s"}
    run = app.run(ask.flow, None, run_id="r")
    assert run.answer == "not sent: nobody decided in time"
    assert [(one.approved, one.by) for one in ask.got] == [(False, "")]
    assert len(of_kind(app, RunParked)) == 1


@pytest.mark.parametrize("change", ["question", "context"])
@pytest.mark.parametrize("when", ["open", "answered"])
def test_another_question_is_another(change: str, when: str) -> None:
    """A question or a context that was changed under the same name is not answered by the old."""
    ask, app = Ask(), opened()
    app.run(ask.flow, None, run_id="r")
    if when == "answered":
        app.approve("r")
    before = ask.question, ask.context
    setattr(ask, change, "Send it to all?")
    if when == "open":
        app.pause("r")  # resumed, it is executed again though nobody has answered
        app.approve("r")
    with pytest.raises(FlowChanged, match="approval-1"):
        app.resume("r", ask.flow)
    assert ask.got == []
    ask.question, ask.context = before
    assert app.resume("r", ask.flow).answer == "sent"


@pytest.mark.parametrize("expires", [0, "0s", "never"])
def test_a_flow_leaves_time(expires: Any) -> None:
    """An approval that is over before it is asked is refused, and 0 is not for ever."""
    ask, app = Ask(), opened()
    ask.more = {"expires": expires}
    run = app.run(ask.flow, None, run_id="r")
    assert (run.status, repr(expires) in run.why) == ("failed", True)
    assert of_kind(app, ApprovalRequested) == []


def test_side_by_side() -> None:
    """Approvals, an ask and a sleep at once: the earliest time wakes, and each has its answer."""
    writer = outlast.Agent("writer", model=MODEL)

    @outlast.flow
    async def four(run: outlast.Run) -> list[Any]:
        one, two, said_, _ = await asyncio.gather(
            run.approval("One?", name="one", expires="1h"),
            run.approval("Two?", name="two", expires=None),
            run.ask(writer, "Hello."),
            run.sleep("1.5s"),
        )
        return [one.by, two.by, said_]

    app = opened()
    waiting = app.run(four, None, run_id="r", wait_s=0)
    assert waiting.status == "waiting"
    assert waiting.wake_at is not None
    left_s = (waiting.wake_at - time.time_ns()) / 1e9
    assert left_s < 1.5, "the sleep is over first"
    refused(lambda: app.approve("r"), r"name='one' \(One\?\), name='two' \(Two\?\)")
    app.approve("r", name="two", by="t")
    again = app.resume("r", four, wait_s=20)
    assert again.status == "waiting"
    assert again.wake_at is not None
    assert 3000 < (again.wake_at - time.time_ns()) / 1e9 < 3600, "the hour of the other one"
    app.approve("r", by="o")
    assert app.resume("r", four).answer == ["o", "t", "re: Hello."]
    assert [one.name for one in of_kind(app, StepFinished) if one.kind == "approval"] == [
        "two",
        "one",
    ]


def test_a_child_run_asks() -> None:
    """A parent waits with its child; the answer is given to the child, and the parent goes on."""
    ask, app = Ask(), opened()

    @outlast.flow
    async def parent(run: outlast.Run) -> Any:
        return await run.map(ask.flow, [None])

    assert app.run(parent, None, run_id="p").status == "waiting"
    (born,) = of_kind(app, ChildStarted, "p")
    child = born.child
    assert app.get(child).status == "waiting"
    refused(lambda: app.approve("p"), f"asks nobody itself, but below it do: {child}; `outlast app")
    assert app.approve(child, by="bob").status == "queued"
    assert app.resume("p", parent).answer == ["sent"]
    assert len(ask.got) == 1


def test_a_sub_agent_asks() -> None:
    """An agent that waits for a sub-agent that waits for a person is parked with it."""
    desk = Desk()
    sub = desk.who.as_tool()

    def script(request: dict[str, Any], attempt: int) -> Any:
        names = [tool["name"] for tool in request["tools"]]
        if turn_number(request) > 1:
            return say("Done.")
        if "mail" in names:
            return say(tool_use("mail", {"to": "ann"}))
        return say(tool_use(names[0], {"question": "mail it"}))

    lead = outlast.Agent("lead", model=MODEL, tools=[sub])
    app = outlast.Outlast("memory://", model=ScriptedModel(script))
    assert app.run(lead, "Go.", run_id="p").status == "waiting"
    (born,) = of_kind(app, ChildStarted, "p")
    assert app.get(born.child).status == "waiting"
    app.approve(born.child)
    assert desk.mailed == []
    assert app.resume("p", lead).answer == "Done."
    assert desk.mailed == [("ann", 1)]


def test_an_ask_of_a_flow_asks(tmp_path: Path) -> None:
    """The tools of an agent that a flow asks are allowed as any, with the names checked."""
    desk = Desk(f"sqlite:///{tmp_path}/a.db")

    @outlast.flow
    async def office(run: outlast.Run) -> Any:
        return await run.ask(desk.who, "Go.", name="the desk")

    assert desk.app.run(office, None, run_id="r").status == "waiting"
    with pytest.raises(InvalidInput, match="x is none of them"):
        desk.app.approve("r", arguments={"to": "bob", "x": 1})
    desk.app.approve("r", call="the desk.m1.t1", arguments={"to": "bob"})
    assert desk.app.resume("r", office).answer == "Done."
    assert desk.mailed == [("bob", 1)]


def test_a_child_hears_of_it_beside_its_parent(tmp_path: Path) -> None:
    """While a parent has something else to do, its child goes on as soon as somebody answers."""
    ask, url = Ask(), f"sqlite:///{tmp_path}/a.db"

    async def until_said() -> str:
        for _ in range(600):
            if ask.got:
                return "said meanwhile"
            await asyncio.sleep(0.05)
        return "never"

    @outlast.flow
    async def parent(run: outlast.Run) -> Any:
        both = run.map(ask.flow, [None]), run.step("wait", until_said, effect="read")
        return await asyncio.gather(*both)

    async def said_beside() -> outlast.Run:
        async with opened(url) as app:
            driving = asyncio.create_task(app.arun(parent, None, run_id="p"))
            with opened(url) as other:
                while not driving.done():
                    for one in other.runs(status="waiting"):
                        other.approve(one.id)
                    await asyncio.sleep(0.05)
            run: outlast.Run = await driving
            return run

    assert asyncio.run(said_beside()).answer == [["sent"], "said meanwhile"]


@pytest.mark.parametrize("whose", ["its own", "a child's"])
def test_a_worker_goes_on_with_what_was_answered(whose: str, tmp_path: Path) -> None:
    """A worker parks who asks, and goes on by itself once somebody has answered."""
    ask, url = Ask(), f"sqlite:///{tmp_path}/a.db"

    @outlast.flow
    async def parent(run: outlast.Run) -> Any:
        return await run.map(ask.flow, [None])

    who = ask.flow if whose == "its own" else parent
    with opened(url) as app, opened(url) as other:
        app.start(who, None, run_id="r")
        with outlast.Worker(app, [who, ask.flow]):
            give_up_at = time.monotonic() + 30
            while other.get("r").status != "waiting" and time.monotonic() < give_up_at:
                time.sleep(0.02)
            asking = "r" if whose == "its own" else of_kind(app, ChildStarted)[0].child
            other.approve(asking, by="ann")
            while other.get("r").status != "completed" and time.monotonic() < give_up_at:
                time.sleep(0.02)
        answer = other.get("r").answer
    assert answer == ("sent" if whose == "its own" else ["sent"])
    assert [one.by for one in ask.got] == ["ann"] * len(ask.got)


# ── functions that decide ───────────────────────────────────────────────────────────────────────


def leaves(word: str) -> bool:
    raise SystemExit(3)


def meddles(words: list[str]) -> bool:
    words.append("and more")
    return False


def test_a_function_that_leaves_cannot_tell() -> None:
    """One that raises `SystemExit` ends neither the run nor its driver: the person is asked."""

    @outlast.tool(approval=leaves)
    def left(word: str) -> str: ...

    assert left.needs_approval({"word": "a"})


def test_a_function_that_decides_changes_nothing() -> None:
    """It gets a copy of the arguments."""

    @outlast.tool(approval=meddles)
    def told(words: list[str]) -> str: ...

    given = {"words": ["one"]}
    assert not told.needs_approval(given)
    assert given == {"words": ["one"]}


def test_an_async_function_cannot_decide() -> None:
    """It is refused when it is declared, rather than to be taken for a yes."""

    async def later(word: str) -> bool:
        return True

    with pytest.raises(outlast.InvalidTool, match="approval is an async function"):

        @outlast.tool(approval=later)
        def told(word: str) -> str: ...


def test_what_was_paid_for_is_written_before_a_function_decides() -> None:
    """Claude's reply is durable before the function is called, which may take its time, or die."""

    @outlast.tool(effect="once", approval=lambda word: False)
    def checked(word: str) -> str: ...

    asker = agent(checked, max_tokens=100)
    state = replied(known(), tool_use("checked", {"word": "a"}))
    waits = decide(state, asker, AT, World(run_id="r", uncommitted=True))
    assert waits == Step(actions=(Sleep(until=AT),))
    step = decide(state, asker, AT, World(run_id="r"))
    assert isinstance(step.events[0], ToolCallStarted)


def test_a_function_decides_after_the_reply_is_durable() -> None:
    """Whoever is asked whether a call needs a person finds Claude's reply in the journal."""
    seen: list[bool] = []

    def looks(word: str) -> bool:
        events = [record.event for record in app.journal.read("run:r")]
        seen.append(any(isinstance(event, ModelCallSucceeded) for event in events))
        return False

    @outlast.tool(effect="read", approval=looks)
    def checked(word: str) -> str:
        return word

    def script(request: dict[str, Any], attempt: int) -> Any:
        done = turn_number(request) > 1
        return say("Done.") if done else say(tool_use("checked", {"word": "a"}))

    with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
        assert app.run(agent(checked), "Go.", run_id="r").answer == "Done."
    assert seen
    assert all(seen)


def test_what_cannot_be_compared_is_not_asked() -> None:
    """An answer must not count for something else, so a context has to be the same when read again.

    The run stays where it was, for it is the code that has to be mended.
    """

    @outlast.flow
    async def asks(run: outlast.Run) -> bool:
        return bool(await run.approval("Now?", context=iter([1, 2])))

    with outlast.Outlast("memory://", model=ScriptedModel(lambda r, a: say("No."))) as app:
        with pytest.raises(UsageError, match="tell its context from another one"):
            app.run(asks, run_id="r", wait_s=0)
        assert of_kind(app, ApprovalRequested) == []
