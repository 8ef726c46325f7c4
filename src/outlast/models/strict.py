"""What the Messages API refuses: the 400s a client can run into, found without a network.

The first thing that is wrong is named, with its place in the request, in the API's manner.  What
the API accepts but this simulation could not bill rightly is refused too, rather than billed
wrongly.  Blocks of Claude's own are taken back as they are: they may be of a type nobody knows.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any, Final

from outlast.models import UNCOUNTED, catalogue, prompt_cache
from outlast.models.script import Fault

FIELDS: Final = frozenset(
    {
        "billing_policy",
        "cache_control",
        "compaction",
        "container",
        "context_management",
        "diagnostics",
        "fallbacks",
        "fallback_credit_token",
        "inference_geo",
        "max_tokens",
        "mcp_servers",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "thinking",
        "thread",
        "tool_choice",
        "tools",
    }
)
"""Members of a request that the API knows."""

TERMS: Final[dict[str, tuple[str, ...]]] = {
    "speed": ("standard", "fast"),
    "inference_geo": ("global", "us"),
    "service_tier": ("auto", "standard_only"),
}
"""Members on which the price of a request depends, and what they may be."""

USER_BLOCKS: Final[dict[str, frozenset[str] | None]] = {
    "text": frozenset({"text", "citations"}),
    "tool_result": frozenset({"tool_use_id", "content", "is_error", "toolset_name"}),
    "image": frozenset({"source", "transformations"}),
    "document": frozenset({"source", "title", "context", "citations"}),
    "search_result": None,
    "container_upload": None,
    "tool_addition": None,
    "tool_removal": None,
    "mid_conv_system": None,
}
"""Blocks that a user may send, and their members beside type and cache_control where checked."""

_IMAGES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

SOURCES: Final[dict[str, dict[str, tuple[str, frozenset[str]]]]] = {
    "image": {
        "base64": ("data", _IMAGES),
        "url": ("url", frozenset()),
        "file": ("file_id", frozenset()),
    },
    "document": {
        "base64": ("data", frozenset({"application/pdf"})),
        "text": ("data", frozenset({"text/plain"})),
        "content": ("content", frozenset()),
        "url": ("url", frozenset()),
        "file": ("file_id", frozenset()),
    },
}
"""Where an image or a document comes from: the member that says so, and the media types."""

RESULT_BLOCKS: Final = frozenset(
    {"text", "image", "document", "search_result", "tool_reference", "browser_state"}
)
"""Blocks that a tool result may hold."""

SAID_TEXTS: Final = {
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
}
"""Strings that Claude's own blocks must have; whatever else they hold is taken as it is."""

TOOL_FIELDS: Final = frozenset(
    {
        "type",
        "name",
        "description",
        "input_schema",
        "cache_control",
        "strict",
        "defer_loading",
        "allowed_callers",
        "eager_input_streaming",
        "input_examples",
    }
)
"""Members of a tool of the client's own."""

_ANY_TYPED: Final = frozenset(
    {"type", "name", "cache_control", "strict", "defer_loading", "allowed_callers"}
)
_EXAMPLES: Final = frozenset({"input_examples"})
_WEB: Final = frozenset({"max_uses", "allowed_domains", "blocked_domains"})
_PAGES: Final = _WEB | {"citations", "max_content_tokens", "url_sources"}

TYPED_TOOLS: Final[dict[str, tuple[str, frozenset[str]]]] = {
    "bash_20250124": ("bash", _EXAMPLES),
    "text_editor_20250124": ("str_replace_editor", _EXAMPLES),
    "text_editor_20250429": ("str_replace_based_edit_tool", _EXAMPLES),
    "text_editor_20250728": ("str_replace_based_edit_tool", _EXAMPLES | {"max_characters"}),
    "memory_20250818": ("memory", _EXAMPLES),
    "web_search_20250305": ("web_search", _WEB | {"user_location"}),
    "web_search_20260209": ("web_search", _WEB | {"user_location"}),
    "web_search_20260318": ("web_search", _WEB | {"user_location", "response_inclusion"}),
    "web_fetch_20250910": ("web_fetch", _PAGES),
    "web_fetch_20260209": ("web_fetch", _PAGES),
    "web_fetch_20260309": ("web_fetch", _PAGES | {"use_cache"}),
    "web_fetch_20260318": ("web_fetch", _PAGES | {"use_cache", "response_inclusion"}),
    "code_execution_20250522": ("code_execution", frozenset()),
    "code_execution_20250825": ("code_execution", frozenset()),
    "code_execution_20260120": ("code_execution", frozenset()),
    "code_execution_20260521": ("code_execution", frozenset()),
}
"""Anthropic's tools: the name that goes with a type, and what else it takes than the others."""

CALLERS: Final = frozenset(
    {
        "direct",
        "code_execution_20250825",
        "code_execution_20260120",
        "code_execution_20260521",
    }
)
"""Who may call a tool."""

UNCHECKED_TOOLS: Final = (
    "advisor_",
    "browser_toolset_",
    "computer_",
    "mcp_toolset",
    "tool_search_tool_",
)
"""How types begin of tools that are taken as they are."""

THINKING: Final = frozenset({"enabled", "adaptive", "disabled", "between_tools"})

EFFORTS: Final = frozenset({"low", "medium", "high", "xhigh", "max"})

COMPACT: Final = "compact_20260112"
EDITS: Final = frozenset({COMPACT, "clear_tool_uses_20250919", "clear_thinking_20251015"})
"""What `context_management` may ask for."""

COMPACT_FIELDS: Final = frozenset({"type", "instructions", "pause_after_compaction", "trigger"})

MIN_TRIGGER: Final = 50_000
"""The shortest prompt, in tokens, that the API may be asked to condense."""

MAX_BREAKPOINTS: Final = 4
MAX_MESSAGES: Final = 100_000
MIN_THINKING: Final = 1_024

_ID: Final = re.compile(r"[a-zA-Z0-9_-]+")
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")


class _Wrong(Exception):
    """The request is refused: reason, status, and `error_code` where the API has one."""

    def __init__(self, message: str, status: int = 400, code: str = "") -> None:
        self.status = status
        self.code = code
        super().__init__(message)


def refusal(request: dict[str, Any], *, counting: bool = False) -> Fault | None:
    """Return the error with which the API answers `request`, `None` when it takes it.

    With `counting` it is one that only counts tokens, so nothing is said of an answer.
    """
    try:
        _check(request, UNCOUNTED if counting else frozenset())
    except _Wrong as wrong:
        return invalid(str(wrong), status=wrong.status, code=wrong.code)
    return None


def invalid(message: str, *, status: int = 400, code: str | None = None) -> Fault:
    """Return the error that refuses a request for `message`."""
    return Fault(kind="status", status=status, message=message, error_code=code or "")


def _check(request: dict[str, Any], without: frozenset[str]) -> None:
    for name in request:
        _need(name in FIELDS - without, f"{name}: Extra inputs are not permitted")
    for name in ("model", "max_tokens", "messages"):
        _need(name in request or name in without, f"{name}: Field required")
    _check_model(request, counting=bool(without))
    _check_context(request.get("context_management"))
    _check_system(request.get("system"))
    _check_tools(request.get("tools"), request.get("tool_choice"))
    _check_messages(request["messages"])
    _check_breakpoints(request)


def _need(condition: object, message: str) -> None:
    if not condition:
        raise _Wrong(message)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# ── model and limits ────────────────────────────────────────────────────────────────────────────


def _check_model(request: dict[str, Any], *, counting: bool) -> None:
    name = request["model"]
    _need(_is_text(name), "model: Input should be a valid string")
    model = catalogue.find(name)
    if model is None:
        raise _Wrong(f"model: {name}", status=404)
    _check_output(request.get("output_config"))
    if counting:
        return
    max_tokens = request["max_tokens"]
    _need(_is_count(max_tokens), "max_tokens: Input should be a valid integer")
    _need(max_tokens >= 0, "max_tokens: Input should be greater than or equal to 0")
    _need(
        max_tokens <= model.max_output,
        f"max_tokens: {max_tokens} > {model.max_output}, which is the maximum allowed number of "
        f"output tokens for {name}",
    )
    _need(isinstance(request.get("stream", False), bool), "stream: Input should be a valid boolean")
    _check_thinking(request.get("thinking"), max_tokens)
    if max_tokens == 0:
        _check_warming(request)
    for member, known in TERMS.items():
        given = request.get(member)
        _need(given in (None, *known), f"{member}: Input should be one of {', '.join(known)}")
    _need(request.get("speed") != "fast" or model.fast, f"speed: {name} has no fast mode")


def _check_warming(request: dict[str, Any]) -> None:
    # Nothing is to be said, only the cache to be filled, so nothing may ask for an answer.
    choice, output = request.get("tool_choice") or {}, request.get("output_config") or {}
    asks = {
        "stream": request.get("stream"),
        "thinking": (request.get("thinking") or {}).get("type") == "enabled",
        "tool_choice": choice.get("type") in ("any", "tool") if isinstance(choice, dict) else True,
        "output_config.format": output.get("format"),
    }
    for name, asked in asks.items():
        _need(not asked, f"max_tokens: 0 is not supported together with {name}")


def _check_output(output: Any) -> None:
    if output is None:
        return
    _need(isinstance(output, dict), "output_config: Input should be a valid object")
    for name in output:
        _need(name in ("effort", "format"), f"output_config.{name}: Extra inputs are not permitted")
    effort, form = output.get("effort"), output.get("format")
    _need(
        effort is None or effort in EFFORTS,
        f"output_config.effort: {effort!r} is none of {', '.join(sorted(EFFORTS))}",
    )
    if form is not None:
        _need(
            isinstance(form, dict)
            and form.get("type") == "json_schema"
            and isinstance(form.get("schema"), dict),
            "output_config.format: Input should have type 'json_schema' and a schema",
        )


def _check_context(managed: Any) -> None:
    if managed is None:
        return
    edits = managed.get("edits", []) if isinstance(managed, dict) else None
    if not isinstance(edits, list):
        raise _Wrong("context_management.edits: Input should be a valid list")
    for index, edit in enumerate(edits):
        place = f"context_management.edits.{index}"
        kind = edit.get("type") if isinstance(edit, dict) else None
        _need(kind in EDITS, f"{place}: Input tag {kind!r} does not match any of the expected tags")
        if kind == COMPACT:
            _check_compaction(edit, f"{place}.{COMPACT}")


def _check_compaction(edit: dict[str, Any], place: str) -> None:
    for name in edit:
        _need(name in COMPACT_FIELDS, f"{place}.{name}: Extra inputs are not permitted")
    pauses, trigger = edit.get("pause_after_compaction", False), edit.get("trigger")
    _need(
        isinstance(pauses, bool), f"{place}.pause_after_compaction: Input should be a valid boolean"
    )
    if trigger is None:
        return
    value: Any = trigger.get("value") if isinstance(trigger, dict) else None
    _need(
        isinstance(trigger, dict) and trigger.get("type") == "input_tokens" and _is_count(value),
        f"{place}.trigger: Input should have type 'input_tokens' and a value",
    )
    _need(
        value >= MIN_TRIGGER,
        f"{place}.trigger.value: Input should be greater than or equal to {MIN_TRIGGER}",
    )


def _check_thinking(thinking: Any, max_tokens: int) -> None:
    if thinking is None:
        return
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    _need(kind in THINKING, f"thinking.type: {kind!r} does not match any of the expected tags")
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        _need(_is_count(budget), "thinking.enabled.budget_tokens: Field required")
        _need(
            MIN_THINKING <= budget < max_tokens,
            f"thinking.enabled.budget_tokens: {budget} is not at least {MIN_THINKING} and less "
            f"than max_tokens ({max_tokens})",
        )


def _check_system(system: Any) -> None:
    if system is None or _is_text(system):
        return
    _need(isinstance(system, list), "system: Input should be a valid string or list of text blocks")
    for index, block in enumerate(system):
        _check_text_block(block, f"system.{index}")


# ── tools ───────────────────────────────────────────────────────────────────────────────────────


def _check_tools(tools: Any, choice: Any) -> None:
    _need(tools is None or isinstance(tools, list), "tools: Input should be a valid list")
    names: set[str] = set()
    for index, tool in enumerate(tools or ()):
        place = f"tools.{index}"
        _need(isinstance(tool, dict), f"{place}: Input should be a valid object")
        if tool.get("type") in (None, "custom"):
            _check_tool(tool, place)
        else:
            _check_typed(tool, place)
        name = str(tool.get("name") or tool.get("mcp_server_name") or tool.get("type"))
        _need(name not in names, f"tools: Tool names must be unique, {name!r} is there twice")
        names.add(name)
    if choice is not None:
        _check_choice(choice, names)


def _check_tool(tool: dict[str, Any], place: str) -> None:
    for member in tool:
        _need(member in TOOL_FIELDS, f"{place}.custom.{member}: Extra inputs are not permitted")
    name, schema = tool.get("name"), tool.get("input_schema")
    _need(
        isinstance(name, str) and _NAME.fullmatch(name),
        f"{place}.custom.name: {name!r} should match pattern '^{_NAME.pattern}$'",
    )
    _need(
        isinstance(schema, dict) and schema.get("type") == "object",
        f"{place}.custom.input_schema: Field required, an object schema (type 'object')",
    )
    _need(
        _is_text(tool.get("description", "")),
        f"{place}.custom.description: Input should be a valid string",
    )


def _check_typed(tool: dict[str, Any], place: str) -> None:
    kind = tool["type"]
    if isinstance(kind, str) and kind.startswith(UNCHECKED_TOOLS):
        return
    if kind not in TYPED_TOOLS:
        raise _Wrong(f"{place}: Input tag {kind!r} does not match any of the expected tags")
    name, members = TYPED_TOOLS[kind]
    _need(tool.get("name") == name, f"{place}.{kind}.name: Input should be {name!r}")
    for member in tool:
        _need(
            member in _ANY_TYPED | members,
            f"{place}.{kind}.{member}: Extra inputs are not permitted",
        )
    for member in ("max_uses", "max_content_tokens", "max_characters"):
        count = tool.get(member)
        _need(
            count is None or (_is_count(count) and count > 0),
            f"{place}.{kind}.{member}: Input should be greater than 0",
        )
    _need(
        tool.get("allowed_domains") is None or tool.get("blocked_domains") is None,
        f"{place}.{kind}: only one of allowed_domains and blocked_domains may be given",
    )
    callers = tool.get("allowed_callers", ["direct"])
    _need(
        isinstance(callers, list) and callers and CALLERS.issuperset(callers),
        f"{place}.{kind}.allowed_callers: Input should be {' or '.join(sorted(CALLERS))}",
    )


def _check_choice(choice: Any, names: set[str]) -> None:
    kind = choice.get("type") if isinstance(choice, dict) else None
    _need(
        kind in ("auto", "any", "tool", "none"),
        f"tool_choice: {kind!r} does not match any of the expected tags",
    )
    _need(names, "tool_choice: may only be specified while providing tools")
    if kind == "tool":
        name = choice.get("name")
        _need(name in names, f"tool_choice: Tool {name!r} not found in provided tools")


# ── messages ────────────────────────────────────────────────────────────────────────────────────


def _check_messages(messages: Any) -> None:
    _need(isinstance(messages, list), "messages: Input should be a valid list")
    _need(messages, "messages: at least one message is required")
    _need(len(messages) <= MAX_MESSAGES, f"messages: at most {MAX_MESSAGES} messages are allowed")
    for index, message in enumerate(messages):
        _check_message(message, f"messages.{index}")
    _need(_may_be_first(messages[0]), "messages: first message must use the user role")
    _check_pairs(messages)


def _may_be_first(message: dict[str, Any]) -> bool:
    if message["role"] == "user":
        return True
    content = message["content"]
    # A compaction stands for everything before it, so it may open the conversation.
    return isinstance(content, list) and _is_summary(content[0])


def _is_summary(block: dict[str, Any]) -> bool:
    """Return whether a block is a compaction that came about: one without content is a no-op."""
    return block.get("type") == "compaction" and block.get("content") is not None


def _check_message(message: Any, place: str) -> None:
    _need(isinstance(message, dict), f"{place}: Input should be a valid object")
    for name in message:
        _need(name in ("role", "content"), f"{place}.{name}: Extra inputs are not permitted")
    role, content = message.get("role"), message.get("content")
    _need(
        role in ("user", "assistant", "system"),
        f"{place}.role: Input should be 'user', 'assistant' or 'system'",
    )
    _need(
        isinstance(content, str | list),
        f"{place}.content: Input should be a valid string or list of blocks",
    )
    _need(content, f"{place}: all messages must have non-empty content")
    if isinstance(content, str):
        _need(content.strip(), f"{place}: text content blocks must contain non-whitespace text")
        return
    for index, block in enumerate(content or ()):
        at = f"{place}.content.{index}"
        _need(isinstance(block, dict), f"{at}: Input should be a valid object")
        _need(_is_text(block.get("type")), f"{at}.type: Field required")
        _need(
            block.get("cache_control") is None or prompt_cache.is_markable(block),
            f"{at}.{block['type']}.cache_control: cannot be set on thinking or empty text blocks",
        )
        if role == "system":
            _check_text_block(block, at)
        elif role == "user":
            _check_user_block(block, at)
        else:
            _check_said(block, at)


def _check_text_block(block: Any, place: str) -> None:
    _need(isinstance(block, dict), f"{place}: Input should be a valid object")
    kind = block.get("type")
    _need(kind == "text", f"{place}: Input tag {kind!r} found, only 'text' is allowed here")
    _need(_is_text(block.get("text")), f"{place}.text: Field required, a string")
    _need(block["text"], f"{place}: text content blocks must be non-empty")
    _need(block["text"].strip(), f"{place}: text content blocks must contain non-whitespace text")
    _check_members(block, place)


def _check_user_block(block: dict[str, Any], place: str) -> None:
    kind = block["type"]
    _need(
        kind in USER_BLOCKS,
        f"{place}: Input tag {kind!r} found using 'type' does not match any of the expected tags",
    )
    if kind == "text":
        _check_text_block(block, place)
    elif kind == "tool_result":
        _check_tool_result(block, f"{place}.tool_result")
    else:
        _check_members(block, place)
        if kind in SOURCES:
            _check_source(block, f"{place}.{kind}.source")


def _check_source(block: dict[str, Any], place: str) -> None:
    source: Any = block.get("source")
    _need(isinstance(source, dict), f"{place}: Field required")
    kind = source.get("type")
    allowed = SOURCES[block["type"]]
    _need(
        kind in allowed,
        f"{place}: Input tag {kind!r} found using 'type' does not match any of the expected tags: "
        f"{', '.join(sorted(allowed))}",
    )
    member, media_types = allowed[kind]
    _need(
        _is_text(source.get(member)) or kind == "content",
        f"{place}.{kind}.{member}: Input should be a valid string",
    )
    _need(
        not media_types or source.get("media_type") in media_types,
        f"{place}.{kind}.media_type: Input should be {' or '.join(sorted(media_types))}",
    )
    if kind == "base64":
        _need(_is_base64(source["data"]), f"{place}.base64.data: Input should be valid base64")


def _is_base64(data: str) -> bool:
    try:
        return bool(base64.b64decode(data, validate=True))
    except ValueError:
        return False


def _check_members(block: dict[str, Any], place: str) -> None:
    members = USER_BLOCKS[block["type"]]
    for name in block if members is not None else ():
        _need(
            name in ("type", "cache_control") or (members and name in members),
            f"{place}.{block['type']}.{name}: Extra inputs are not permitted",
        )


def _check_said(block: dict[str, Any], place: str) -> None:
    kind = block["type"]
    if kind == "tool_use":
        _check_tool_use(block, place)
    elif _is_summary(block) and place != "messages.0.content.0":
        raise _Wrong(
            f"{place}: a `compaction` block must be the first block of the conversation",
            code="compaction_block_misplaced",
        )
    for name in SAID_TEXTS.get(kind, ()):
        _need(_is_text(block.get(name)), f"{place}.{kind}.{name}: Field required, a string")


def _check_tool_use(block: dict[str, Any], place: str) -> None:
    identifier, name = block.get("id"), block.get("name")
    _need(
        isinstance(identifier, str) and _ID.fullmatch(identifier),
        f"{place}.tool_use.id: String should match pattern '^{_ID.pattern}$'",
    )
    _need(_is_text(name) and name, f"{place}.tool_use.name: Field required, a string")
    _need(
        isinstance(block.get("input"), dict),
        f"{place}.tool_use.input: Input should be a valid dictionary",
    )


def _check_tool_result(block: dict[str, Any], place: str) -> None:
    _check_members(block, place.removesuffix(".tool_result"))
    content, is_error = block.get("content"), block.get("is_error", False)
    _need(_is_text(block.get("tool_use_id")), f"{place}.tool_use_id: Field required, a string")
    _need(isinstance(is_error, bool), f"{place}.is_error: Input should be a valid boolean")
    _need(
        content is None or isinstance(content, str | list),
        f"{place}.content: Input should be a valid string or list of blocks",
    )
    _need(content or not is_error, f"{place}: content cannot be empty if `is_error` is true")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        at = f"{place}.content.{index}"
        kind = part.get("type") if isinstance(part, dict) else None
        _need(kind in RESULT_BLOCKS, f"{at}: Input tag {kind!r} is not allowed in a tool result")
        if kind == "text":
            _check_text_block(part, at)
        elif kind in SOURCES:
            _check_source(part, f"{at}.{kind}.source")


# ── every call has one result, in the next message, before anything else ────────────────────────


def _check_pairs(messages: list[dict[str, Any]]) -> None:
    seen: set[str] = set()
    for index, message in enumerate(messages):
        asked = [block["id"] for block in _blocks(message, "assistant", "tool_use")]
        for identifier in asked:
            _need(
                identifier not in seen,
                f"messages.{index}.content: `tool_use` ids must be unique, {identifier} is not",
            )
            seen.add(identifier)
        _check_results(messages, index, asked)
    _check_unasked(messages)


def _check_results(messages: list[dict[str, Any]], index: int, asked: list[str]) -> None:
    following = messages[index + 1] if index + 1 < len(messages) else {}
    results = [block["tool_use_id"] for block in _blocks(following, "user", "tool_result")]
    missing = [identifier for identifier in asked if identifier not in results]
    _need(
        not missing,
        f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately "
        f"after: {', '.join(missing)}. Each `tool_use` block must have a corresponding "
        "`tool_result` block in the next message.",
    )
    for identifier in results:
        _need(
            identifier in asked,
            f"messages.{index + 1}.content: unexpected `tool_use_id` found in `tool_result` "
            f"blocks: {identifier}. Each `tool_result` block must have a corresponding `tool_use` "
            "block in the previous message.",
        )
        _need(
            results.count(identifier) == 1,
            f"messages.{index + 1}.content: each `tool_use` must have a single result; "
            f"{identifier} has {results.count(identifier)}",
        )
    kinds = [block["type"] for block in _blocks(following, "user")]
    first_other = next((n for n, kind in enumerate(kinds) if kind != "tool_result"), len(kinds))
    _need(
        "tool_result" not in kinds[first_other:],
        f"messages.{index + 1}.content: `tool_result` blocks must come before any other block",
    )


def _check_unasked(messages: list[dict[str, Any]]) -> None:
    # The first message follows nothing, so no pass over the calls has looked at it.
    for block in _blocks(messages[0], "user", "tool_result"):
        raise _Wrong(
            "messages.0.content: unexpected `tool_use_id` found in `tool_result` blocks: "
            f"{block['tool_use_id']}. There is no `tool_use` before it."
        )


def _blocks(
    message: dict[str, Any], role: str, kind: str | None = None
) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") != role or not isinstance(content, list):
        return
    for block in content:
        if kind is None or block["type"] == kind:
            yield block


# ── cache breakpoints ───────────────────────────────────────────────────────────────────────────


def _check_breakpoints(request: dict[str, Any]) -> None:
    found = prompt_cache.marks(request)
    lives = []
    for mark in found:
        _need(
            isinstance(mark, dict)
            and mark.get("type") == "ephemeral"
            and mark.get("ttl", "5m") in ("5m", "1h"),
            f"cache_control: {mark!r} is not ephemeral with a ttl of '5m' or '1h'",
        )
        lives.append(mark.get("ttl", "5m"))
    last = prompt_cache.automatic(request)
    if last and last.get("cache_control") is not None:
        _need(
            lives[-1] == last["cache_control"].get("ttl", "5m"),
            "cache_control: the last block has a marker of another ttl than the request's own",
        )
        lives.pop()  # both name the same breakpoint
    _need(
        len(lives) <= MAX_BREAKPOINTS,
        f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. "
        f"Found {len(lives)}.",
    )
    _need(
        lives == sorted(lives),
        "cache_control: a ttl='1h' cache_control block must not come after a ttl='5m' "
        "cache_control block. Blocks are processed in the order `tools`, `system`, `messages`.",
    )
