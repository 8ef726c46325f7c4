"""What may follow what: a request that the API would refuse is found before it is sent."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw

import outlast
from outlast.conversation import flaw
from outlast.events import AnyEvent, FeedbackGiven, MessageReceived, ModelCallStarted
from outlast.history import misfit
from outlast.journal import Commit, Journal, run_stream
from outlast.models.script import say, tool_use
from outlast.models.scripted import ScriptedModel
from outlast.models.strict import refusal
from outlast.starting import begin
from outlast.state import fold
from outlast.stores import open_store
from stubs import agent, asking

SAID = {"type": "text", "text": "Hm."}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
OTHER = CALL | {"id": "toolu_2"}
DONE = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}
DONE_2 = DONE | {"tool_use_id": "toolu_2"}
BLANK = {"type": "text", "text": " \n"}
ZEBRA = {"type": "zebra", "text": 5, "id": 5}

SAYS: dict[str, tuple[str, list[Any]]] = {
    "asks": ("user", [SAID]),
    "orders": ("system", [SAID]),
    "nothing": ("user", []),
    "blanks": ("user", [SAID, BLANK]),
    "answers": ("assistant", [SAID]),
    "zebra": ("assistant", [ZEBRA]),
    "calls": ("assistant", [CALL]),
    "calls both": ("assistant", [CALL, OTHER]),
    "result": ("user", [DONE]),
    "result twice": ("user", [DONE, DONE]),
    "result, more": ("user", [DONE, SAID]),
    "more, result": ("user", [SAID, DONE]),
    "both results": ("user", [DONE_2, DONE]),
}

CASES = [
    # what is said                          the reply stopped for   what is wrong with the last
    (("asks",), None, ""),
    (("orders",), None, "the first message has the role 'system'"),
    (("nothing",), None, "it is empty"),
    (("blanks",), None, "nothing but blanks"),
    (("result",), None, "it has results for ['toolu_1']"),
    (("asks", "asks"), None, ""),
    (("asks", "orders"), None, ""),
    (("asks", "answers", "asks"), "end_turn", ""),
    (("asks", "zebra", "asks"), "end_turn", ""),
    (("asks", "answers", "asks"), "pause_turn", "paused"),
    (("asks", "calls", "result"), "tool_use", ""),
    (("asks", "calls", "result, more"), "max_tokens", ""),
    (("asks", "calls", "more, result"), "max_tokens", "before its tool results"),
    (("asks", "calls", "asks"), "max_tokens", "it has results for []"),
    (("asks", "calls", "result twice"), "max_tokens", "it has results for"),
    (("asks", "calls", "orders"), "tool_use", "between 1 tool uses and their results"),
    (("asks", "calls both", "result"), "max_tokens", "asked for ['toolu_1', 'toolu_2']"),
    (("asks", "calls both", "both results"), "tool_use", ""),
]
named = pytest.mark.parametrize(
    ("said", "stopped", "wrong"),
    CASES,
    ids=[f"{', '.join(said)} ({why})" for said, why, _ in CASES],
)


def encoded(message: tuple[str, list[Any]]) -> bytes:
    return msgspec.json.encode({"role": message[0], "content": message[1]})


@named
def test_what_may_follow_what(said: tuple[str, ...], stopped: str | None, wrong: str) -> None:
    """A message that the API would refuse is told from one that it takes, with the reason."""
    *_, before, last = [None, *(encoded(SAYS[name]) for name in said)]
    found = misfit(last or b"", before, stopped)
    assert wrong in found if wrong else not found, found


@named
def test_the_api_says_the_same(said: tuple[str, ...], stopped: str | None, wrong: str) -> None:
    """The strict simulator refuses what is found here, and takes what is not."""
    if stopped == "pause_turn":
        return  # that a reply paused does not show in it
    request = {
        "model": "claude-opus-5-5",
        "max_tokens": 10,
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "messages": [dict(zip(("role", "content"), SAYS[name], strict=True)) for name in said],
    }
    assert bool(refusal(request)) == bool(wrong)


def added(journal: Journal, *events: AnyEvent) -> None:
    """Append to the run as a driver would."""
    stream = run_stream("r")
    next_seq = fold(journal.read(stream)).next_seq
    epoch = journal.claim(stream)
    journal.append(Commit(stream=stream, events=events, at=5, expected_seq=next_seq, epoch=epoch))
    journal.release(stream)


def heard(text: str, role: Any = "user") -> MessageReceived:
    content = msgspec.json.encode([{"type": "text", "text": text}])
    return MessageReceived(ask_id="ask-1", role=role, content=Raw(content))


def test_a_request_that_would_be_refused_is_not_sent() -> None:
    """The run fails before the call, is billed nothing, and names the event that is at fault."""
    journal, model = open_store("memory://"), ScriptedModel(asking(answer="Yes."))
    begin(journal, "r", agent(), "Well?")
    stray = [{"type": "tool_result", "tool_use_id": "toolu_9", "content": "?"}]
    added(journal, FeedbackGiven(ask_id="ask-1", why="?", content=Raw(msgspec.json.encode(stray))))
    with outlast.Outlast(journal, model=model) as app:
        run = app.run(agent(), "Well?", run_id="r")
        assert run.status == "failed"
        assert run.why == (
            "the conversation cannot be sent to Claude: the message of event 4 (feedback_given) "
            "does not fit: it has results for ['toolu_9'], and the reply before it asked for []"
        )
        assert not any(isinstance(record.event, ModelCallStarted) for record in app.log("r"))
    assert model.calls == []
    assert run.cost_nano == 0


def test_the_system_speaks_in_the_middle() -> None:
    """A message of the system is sent where it was written, with nothing changed before."""
    journal, model = open_store("memory://"), ScriptedModel(asking(answer="Yes."))
    begin(journal, "r", agent(), "Well?")
    added(journal, heard("Be brief from now on.", role="system"))
    with outlast.Outlast(journal, model=model) as app:
        assert app.run(agent(), "Well?", run_id="r").answer == "Yes."
    messages = msgspec.json.decode(model.calls[0])["messages"]
    assert [message["role"] for message in messages] == ["user", "system"]
    assert messages[1]["content"][0]["text"] == "Be brief from now on."


def test_open_tool_uses_are_found() -> None:
    """A message that came between tool uses and their results is found, too."""
    journal = open_store("memory://")
    begin(journal, "r", agent(), "Well?")
    with outlast.Outlast(
        journal, model=ScriptedModel(lambda *_: say(tool_use("nobody", {})))
    ) as app:
        app.run(agent(budget=outlast.Budget(turns=1)), "Well?", run_id="r")
        (ask,) = fold(app.journal.read(run_stream("r"))).asks.values()
        assert flaw(ask) == ""
        added(app.journal, heard("Wait!"), heard("No!"))
        (ask,) = fold(app.journal.read(run_stream("r"))).asks.values()
        assert flaw(ask) == "", "two messages of a user are one to the API"
