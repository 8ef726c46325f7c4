"""Part 4: what goes wrong when tools are called."""

import msgspec

import outlast
from outlast.models.script import Turn, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from stubs import agent

QUESTION = "Look at both."
RAN: list[str] = []


@outlast.tool(effect="once")
async def look(word: str) -> str:
    """Look a word up."""
    RAN.append(word)
    return word * 3


def both(request: dict, attempt: int) -> Turn:
    """Use the tool twice in one reply, and then answer."""
    if turn_number(request) > 1:
        return say("Both.")
    return say("Looking.", tool_use("look", {"word": "a"}), tool_use("look", {"word": "b"}))


def second_request() -> list[dict]:
    """Return the messages of the request after the tools."""
    claude = ScriptedModel(both)
    with outlast.Outlast("memory://", model=claude) as app:
        assert app.run(agent(look), QUESTION).answer == "Both."
    messages: list[dict] = msgspec.json.decode(claude.calls[-1])["messages"]
    return messages


def test_4_01_a_reply_is_said_once() -> None:
    """A reply with two tool uses stands in the history once."""
    assert [message["role"] for message in second_request()] == ["user", "assistant", "user"]


def test_4_02_all_results_are_in_one_message() -> None:
    """Every tool use has its one result, all of them in the message right after, in order."""
    _, reply, results = second_request()
    uses = [block["id"] for block in reply["content"] if block["type"] == "tool_use"]
    assert [block["tool_use_id"] for block in results["content"]] == uses
    assert [block["content"] for block in results["content"]] == ["aaa", "bbb"]


def test_4_11_a_turn_that_did_not_end_is_no_answer() -> None:
    """What was cut off or paused begins an answer, what was refused is none; no tool runs."""
    for stop_reason, answer in (
        ("max_tokens", "Half. The rest."),
        ("pause_turn", "Half. The rest."),
        ("refusal", None),
    ):
        RAN.clear()

        def stop(request: dict, attempt: int, why: str = stop_reason) -> Turn:
            if turn_number(request) > 1:
                return say("The rest.")
            use = [tool_use("look", {"word": "a"})] if why != "pause_turn" else []
            return say("Half. ", *use, stop_reason=why)

        with outlast.Outlast("memory://", model=ScriptedModel(stop)) as app:
            assert app.run(agent(look), QUESTION).answer == answer
        assert RAN == []
