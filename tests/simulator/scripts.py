"""What Claude says in these tests: importable by the simulator's process."""

from __future__ import annotations

from typing import Any

from outlast.models import faults
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
    # what every row of the API's error table is called
    "invalid_request": faults.invalid_request(),
    "invalid_code": faults.invalid_request(code="compaction_block_ambiguous"),
    "context_too_long": faults.context_too_long(),
    "auth": faults.auth(),
    "billing": faults.billing(),
    "billing_code": faults.billing(code="linked_organization_spend_limit_reached"),
    "forbidden": faults.forbidden(),
    "not_found": faults.not_found(),
    "timed_out": faults.timed_out(),
    "conflict": faults.conflict(),
    "conflict_code": faults.conflict(code="scan_pending"),
    "too_large": faults.too_large(),
    "unprocessable": faults.unprocessable(),
    "rate_limited": faults.rate_limited(retry_after=7),
    "rate_limited_bare": faults.rate_limited(),
    "ramp_limit": faults.ramp_limit(retry_after=1.5),
    "spend_limit": faults.spend_limit(),
    "spend_limit_contract": faults.spend_limit(contract=True),
    "overloaded": faults.overloaded(),
    "overloaded_code": faults.overloaded(code="compaction_unavailable"),
    "server_error": faults.server_error(),
    "server_error_billed": faults.server_error(billed=True),
    "unavailable": faults.unavailable(),
    "unavailable_code": faults.unavailable(code="cmek_key_unreachable", billed=True),
    "gateway_timeout": faults.gateway_timeout(billed=True),
    "reset_after_send": faults.reset_after_send(),
    "sse_error": faults.sse_error(),
    "sse_error_early": faults.sse_error(500, "Internal server error", after=1),
    "sse_error_code": faults.sse_error(429, "Slow down.", code="ramp_limit_exceeded"),
    "cut": faults.cut(),
    "cut_early": faults.cut(after=3),
    "cut_at_once": faults.cut(after=0),
    "cut_unbilled": faults.cut(billed=False),
    "truncated": faults.truncated(),
    "truncated_late": faults.truncated(after=99),
    "stall": faults.stall(0.05),
    "pings_only": faults.pings_only(0.05),
    "html": faults.html(),
    "no_usage": faults.no_usage(),
    "late": faults.late(0.05),
    "slow_drip": faults.slow_drip(0.05),
    # and what has no name
    "plain": Fault(kind="status", status=529, headers={"x-should-retry": "true"}),
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
    "on-terms": say(
        "Ok.",
        usage={
            "inference_geo": "us",
            "service_tier": "batch",
            "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
            "iterations": [
                {"type": "message", "model": model, "input_tokens": read, "output_tokens": said}
                for model, read, said in (("claude-opus-5-5", 10, 5), ("claude-haiku-4-5", 20, 6))
            ],
        },
    ),
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
    if asked == "endless" and attempt:
        return faults.stall(600, after=2)
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
