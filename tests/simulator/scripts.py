"""What Claude says in these tests: importable by the simulator's process."""

from __future__ import annotations

from typing import Any

from outlast.models.script import (
    Fault,
    Turn,
    any_of,
    compaction,
    last_text,
    once,
    redacted_thinking,
    refuse,
    say,
    server_tool_result,
    server_tool_use,
    text_of,
    thinking,
    tool_results,
    tool_use,
    turn_number,
)

RAW = (
    b'[{"type":"thinking","thinking":"","signature":"sig\\u00e9"},'
    b'{"type":"thinking","thinking":"Hm, h\\u00e4?","signature":"c2ln","new":1.50},'
    b'{"type":"text","text":"\xf0\x9f\xa7\xbe caf\xc3\xa9","citations":null,"later":[1e2]},'
    b'{"type":"hologram","payload":{"x":1.0,"big":12345678901234567890123}},'
    b'{"type":"tool_use","id":"toolu_given","name":"weigh",'
    b'"input":{"kg": 1.50, "e": 1E+2, "s": "a\\/b"}}]'
)
"""Everything a client could lose: spellings of numbers, unknown blocks and members, unicode."""

FAULTS = {
    "overloaded": Fault(kind="status", status=529, headers={"x-should-retry": "true"}),
    "rate-limited": Fault(
        kind="status", status=429, message="slow down", headers={"retry-after": "7"}
    ),
    "ramp": Fault(kind="status", status=429, error_code="ramp_limit_exceeded"),
    "spend-limit": Fault(kind="status", status=429, error_code="enforced_spend_limit_reached"),
    "payment": Fault(kind="status", status=402),
    "key": Fault(kind="status", status=401),
    "forbidden": Fault(kind="status", status=403),
    "gone": Fault(kind="status", status=404),
    "large": Fault(kind="status", status=413),
    "bad": Fault(kind="status", status=422),
    "down": Fault(kind="status", status=500),
    "down-billed": Fault(kind="status", status=503, billed=True),
    "late-error": Fault(kind="error_event", status=529, message="overloaded in mid-stream"),
    "early-error": Fault(kind="error_event", status=529, after_events=1),
    "cut": Fault(kind="cut"),
    "cut-early": Fault(kind="cut", after_events=3),
    "cut-at-once": Fault(kind="cut", after_events=0),
    "cut-unbilled": Fault(kind="cut", billed=False),
    "truncated": Fault(kind="truncated"),
    "truncated-late": Fault(kind="truncated", after_events=99),
    "reset": Fault(kind="reset"),
    "html": Fault(kind="html"),
    "late": Fault(kind="delay", delay_s=0.05),
}

FOUND = {
    "type": "web_search_result",
    "url": "u",
    "title": "t",
    "encrypted_content": "e",
    "page_age": None,
}

TURNS = {
    "raw": Turn(content=RAW),
    "empty-input": say(tool_use("ping", {})),
    "nothing": say(),
    "null": say("?", stop_reason=None),
    "refusal": refuse("No.", category="cyber", recommended_model="claude-opus-5-5"),
    "odd-stop": say("Hm.", stop_reason="bored"),
    "stop-sequence": say("Done.", stop_reason="stop_sequence", extra={"stop_sequence": "END"}),
    "window": say("So far", stop_reason="model_context_window_exceeded"),
    "thinking": say(thinking("Let me see. " * 4), "Here.", tool_use("look", {"at": 1})),
    "redacted": say(redacted_thinking(), "I may not say."),
    "compaction": say(compaction("We spoke of owls. " * 5)),
    "failed-compaction": say(compaction(None)),
    "compacted-on": say(compaction("We spoke of owls."), "And now, mice."),
    "searched": say(
        "Let me look.",
        server_tool_use("web_search", {"query": "owls"}),
        server_tool_result("web_search", [FOUND]),
        tool_use("look", {}),
        extra={"container": {"id": "container_1", "expires_at": "2030-01-01T00:00:00Z"}},
    ),
    "torn": say("Writing.", tool_use("write", {"text": "word " * 1_000, "more": [1, 2]})),
    "pause": say(
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"q": "x"}},
        stop_reason="pause_turn",
    ),
    "search-cost": say("Found.", usage={"server_tool_use": {"web_search_requests": 3}}),
    "cached": say(
        "Ok.",
        usage={
            "input_tokens": 11,
            "cache_read_input_tokens": 1_000,
            "cache_creation_input_tokens": 300,
            "cache_creation": {
                "ephemeral_5m_input_tokens": 100,
                "ephemeral_1h_input_tokens": 200,
            },
            "output_tokens": 7,
        },
    ),
    "long": say("word " * 400),
}


def menu(request: dict[str, Any], attempt: int) -> Turn | Fault:
    """Answer with the fault or the turn that the last text names; a fault befalls once."""
    asked = last_text(request)
    if asked in FAULTS and attempt == 1:
        return FAULTS[asked]
    if asked == "always-down":
        return Fault(kind="status", status=500, billed=True)
    if asked == "raise":
        raise LookupError("the script is broken")
    if request["messages"][-1]["role"] == "assistant":
        return say("And on.")
    return TURNS.get(asked) or say(f"You said {asked!r}, attempt {min(attempt, 1)}.")


def searcher(request: dict[str, Any], attempt: int) -> Turn:
    """Search twice at once, then answer from what was found."""
    if turn_number(request) == 1:
        return say("Searching.", tool_use("search", {"q": "a"}), tool_use("search", {"q": "b"}))
    found = [text_of(result["content"]) for result in tool_results(request)]
    return say("Found " + " and ".join(found) + ".")


two_faults = any_of(
    once(1, Fault(kind="status", status=529), attempts=(1, 2)),
    once(2, Fault(kind="cut")),
)


NOT_A_FUNCTION = 7
