"""A Claude that stops for the reason its question names; each once, and then it answers."""

from outlast.models.script import (
    Turn,
    compaction,
    say,
    server_tool_result,
    server_tool_use,
    text,
    text_of,
    tool_use,
    turn_number,
)

THINKING = {"type": "thinking", "thinking": "Let me see."}
SEARCH = {
    "type": "server_tool_use",
    "id": "srvtoolu_1",
    "name": "web_search",
    "input": {"query": "grants"},
}


def script(request, attempt):
    """Answer by what the first message asks for."""
    first = request["messages"][0]
    if first["role"] == "assistant":  # a compaction stands for the question
        return say("Compacted, and done.")
    return _ROWS[text_of(first["content"])](turn_number(request))


def _cut(turn):
    return say("One, two", " and ", stop_reason="max_tokens") if turn == 1 else say("three.")


def _cut_and_paused(turn):
    stops = {1: "max_tokens", 2: "pause_turn"}
    return say(f"Part {turn}. ", stop_reason=stops.get(turn, "end_turn"))


def _paused_before_a_tool(turn):
    if turn == 1:
        return say("Wait. ", SEARCH, stop_reason="pause_turn")
    return say(tool_use("send", {"text": "a"})) if turn == 2 else say("Sent.")


def _cut_in_a_call(turn):
    if turn == 1:
        return say("I send it.", tool_use("send", {"text": "a"}), stop_reason="max_tokens")
    return say(tool_use("send", {"text": "b"})) if turn == 2 else say("Sent.")


def _details(turn):
    return Turn(
        content=[text("I would rather not.")],
        stop_reason="refusal",
        extra={"stop_details": {"category": "bio", "recommended_model": "claude-sonnet-5-5"}},
    )


def _container(turn):
    if turn == 1:
        return Turn(
            content=[tool_use("send", {"text": "a"})], extra={"container": {"id": "container_7"}}
        )
    return say("Contained.")


def _thinking(turn):
    return say(THINKING, "Yes.") if turn > 1 else say(THINKING, tool_use("send", {"text": "a"}))


_ROWS = {
    "end_turn": lambda turn: say("Yes."),
    "stop_sequence": lambda turn: say("Yes", stop_reason="stop_sequence"),
    "tool_use": lambda turn: say("Sent.") if turn > 1 else say(tool_use("send", {"text": "a"})),
    "pause_turn": lambda turn: (
        say("Found it.") if turn > 1 else say("Wait. ", SEARCH, stop_reason="pause_turn")
    ),
    "max_tokens, then pause_turn": _cut_and_paused,
    "pause_turn, then a tool": _paused_before_a_tool,
    "compaction": lambda turn: say(compaction("They asked for a compaction.")),
    "max_tokens": _cut,
    "max_tokens in a call": _cut_in_a_call,
    "max_tokens for ever": lambda turn: say(f"part {turn} ", stop_reason="max_tokens"),
    "refusal": _details,
    "model_context_window_exceeded": lambda turn: say(
        "It is", tool_use("send", {"text": "a"}), stop_reason="model_context_window_exceeded"
    ),
    "null": lambda turn: say("Hm.", tool_use("send", {"text": "a"}), stop_reason=None),
    "zebra": lambda turn: say("Hm.", tool_use("send", {"text": "a"}), stop_reason="zebra"),
    "thinking": _thinking,
    "container": _container,
    "thinking enabled": _thinking,
    "structured": lambda turn: say('{"ok":true}'),
    "server tools": lambda turn: (
        say("Found it.")
        if turn > 1
        else say(
            server_tool_use("web_search", {"query": "grants"}),
            server_tool_result("web_search", []),
            tool_use("send", {"text": "a"}),
        )
    ),
}
