"""Tools that Anthropic defines: Claude knows them without being told, by a dated type.

| | who runs it | declared as |
|---|---|---|
| client tools: `bash`, `text_editor`, `memory` | a function of yours | `@outlast.tool(client=…)` |
| server tools: `web_search`, `web_fetch`, `code_execution` | Anthropic | `server_tool(…)` |

Types and members are those of the SDK's 2.12 (`ToolUnionParam`); none of them is in beta there, so
no request needs a header for one.

A server tool runs inside a call: after each use Claude is asked again, with a prompt that nobody
sees.  How often that can be is known where a tool says so itself, and Claude alone may use it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from outlast.errors import InvalidTool

SHOWN_TOKENS: Final = 4_096
"""What the API may put into a prompt for one such tool, of which the request only has the type.

Anthropic's pages say 245 tokens for bash and 700 for the text editor, and nothing of the others.
"""

LOOPS: Final = 10
"""How often a call goes on by itself before it pauses, where no tool says how often it is used.

https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons names it as the default.
"""

DIRECT: Final = "direct"
"""Who calls a tool that is not called from code: Claude itself."""

_COMMON: Final = frozenset({"allowed_callers", "strict"})
_DOMAINS: Final = frozenset({"allowed_domains", "blocked_domains"})
_SEARCH: Final = _COMMON | _DOMAINS | {"user_location"}
_FETCH: Final = _COMMON | _DOMAINS | {"citations", "max_content_tokens", "url_sources"}

SERVER: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "web_search": {
        "web_search_20260318": _SEARCH | {"response_inclusion"},
        "web_search_20260209": _SEARCH,
        "web_search_20250305": _SEARCH,
    },
    "web_fetch": {
        "web_fetch_20260318": _FETCH | {"response_inclusion", "use_cache"},
        "web_fetch_20260309": _FETCH | {"use_cache"},
        "web_fetch_20260209": _FETCH,
        "web_fetch_20250910": _FETCH,
    },
    "code_execution": {
        "code_execution_20260521": _COMMON,
        "code_execution_20260120": _COMMON,
        "code_execution_20250825": _COMMON,
        "code_execution_20250522": _COMMON,
    },
}
"""Tools that Anthropic runs: their types, newest first, and what else each may be given."""

COUNTED: Final = frozenset({"web_search", "web_fetch"})
"""Those that take `max_uses`."""

_OWN: Final = _COMMON | {"input_examples"}

CLIENT: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "bash": {"bash_20250124": _OWN},
    "text_editor": {
        "text_editor_20250728": _OWN | {"max_characters"},
        "text_editor_20250429": _OWN,
        "text_editor_20250124": _OWN,
    },
    "memory": {"memory_20250818": _OWN},
}
"""Tools that we run, in the same way."""

NAMES: Final[Mapping[str, str]] = {
    "text_editor": "str_replace_based_edit_tool",
    "text_editor_20250124": "str_replace_editor",
}
"""What Claude calls a tool by, of a type or of a kind; every other one by its kind."""

_EDITS: Final = {
    "command": True,
    "path": True,
    "file_text": False,
    "old_str": False,
    "new_str": False,
    "insert_line": False,
    "insert_text": False,
    "view_range": False,
}

ARGUMENTS: Final[Mapping[str, Mapping[str, bool]]] = {
    "bash": {"command": False, "restart": False},
    "text_editor": _EDITS,
    "memory": _EDITS | {"path": False, "old_path": False, "new_path": False},
}
"""What Claude calls each with, and whether it always gives it.

Of the SDK's `BetaMemoryTool20250818Command`, and of Anthropic's pages about the other two.
"""


@dataclass(frozen=True)
class ServerTool:
    """A tool that Anthropic runs, for `Agent(tools=[…])`; `server_tool` makes one.

    Attributes:
        name: what Claude calls it by.
        type: its dated type.
        max_uses: how often it may be used in one call; `None` where nothing limits that.

    """

    name: str
    type: str
    max_uses: int | None
    rendered: bytes = field(repr=False)
    """The tool as the API takes it, as JSON."""

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as the API takes it: `type`, `name` and options."""
        schema: dict[str, Any] = msgspec.json.decode(self.rendered)
        return schema

    @property
    def is_bounded(self) -> bool:
        """Whether it says how often it is used: not where code may call it, again and again."""
        return _bound(msgspec.json.decode(self.rendered, type=_Rendered)) is not None


def server_tool(tool: str, /, *, max_uses: int | None = None, **options: Any) -> ServerTool:
    """Return a tool that Anthropic runs, for `Agent(tools=[…])`.

    Args:
        tool: `web_search`, `web_fetch` or `code_execution`, which is the newest type of it, or a
            type with its date, such as `web_search_20250305`.
        max_uses: how often it may be used in one call.  An agent with a budget of dollars or tokens
            needs it: each use is held as one more prompt that fills the context window, and each
            search with its fee.  Code execution has no such limit.
        **options: what else the API takes for that type, such as `allowed_domains`,
            `blocked_domains`, `user_location`, `max_content_tokens` or `citations`.  Where
            `allowed_callers` is left out, web tools are for Claude alone (`["direct"]`): code that
            calls them runs in a loop that nothing bounds.

    Raises:
        InvalidTool: there is no such tool, or it does not take an option.

    """
    kind, type_ = _found(SERVER, tool, "server tool")
    if max_uses is not None:
        if kind not in COUNTED:
            raise InvalidTool(f"server tool {kind!r} takes no max_uses: the API does not limit it")
        if not isinstance(max_uses, int) or isinstance(max_uses, bool) or max_uses < 1:
            raise InvalidTool(
                f"server tool {kind!r}: max_uses is {max_uses!r}, but must be a whole number of at "
                "least 1, or None for no limit"
            )
        options["max_uses"] = max_uses
    if kind in COUNTED:
        options.setdefault("allowed_callers", [DIRECT])
    if options.keys() >= _DOMAINS:
        raise InvalidTool(
            f"server tool {kind!r}: the API takes allowed_domains or blocked_domains, not both"
        )
    known = SERVER[kind][type_] | ({"max_uses"} if kind in COUNTED else set())
    rendered = _rendered(type_, kind, options, known)
    return ServerTool(name=kind, type=type_, max_uses=max_uses, rendered=rendered)


class ClientTool(msgspec.Struct, frozen=True):
    """Which of Anthropic's client tools a function is."""

    name: str
    kind: str
    rendered: bytes

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as the API takes it: `type`, `name` and options."""
        schema: dict[str, Any] = msgspec.json.decode(self.rendered)
        return schema


Client: TypeAlias = str | Mapping[str, Any]
"""A client tool by name or dated type; or as the API takes it, with `type` and options."""


def client_tool(given: Client, name: str | None) -> ClientTool:
    """Return which client tool is meant.

    Args:
        given: what `@outlast.tool(client=…)` was given.
        name: the name that the tool was given beside, if any.

    Raises:
        InvalidTool: there is no such tool, it does not take an option, or it has another name.

    """
    options = dict(given) if isinstance(given, Mapping) else {"type": given}
    kind, type_ = _found(CLIENT, options.pop("type", None), "client tool")
    fixed = NAMES.get(type_) or NAMES.get(kind) or kind
    for said in (name, options.pop("name", None)):
        if said not in (None, fixed):
            raise InvalidTool(
                f"client tool {kind!r}: its name is {said!r}, but Claude knows it as {fixed!r}; "
                "leave the name out"
            )
    return ClientTool(fixed, kind, _rendered(type_, fixed, options, CLIENT[kind][type_]))


def check_client(tool: ClientTool, parameters: Iterable[inspect.Parameter]) -> None:
    """Refuse a function that cannot be called with what Claude gives.

    Args:
        tool: which client tool it is.
        parameters: the function's own, without what outlast gives it.

    Raises:
        InvalidTool: a parameter is missing, or needs what Claude may leave out.

    """
    taken = {parameter.name: parameter for parameter in parameters}
    asked = ARGUMENTS[tool.kind]
    if missing := [name for name in asked if name not in taken]:
        raise InvalidTool(
            f"client tool {tool.kind!r}: Claude may give it {', '.join(asked)}, and the function "
            f"takes no {' and no '.join(missing)}"
        )
    for name, parameter in taken.items():
        if parameter.default is parameter.empty and not asked.get(name, False):
            raise InvalidTool(
                f"client tool {tool.kind!r}: Claude does not always give {name}; give the "
                f"parameter a default, such as {name}: … | None = None"
            )


# ── as the API takes them ───────────────────────────────────────────────────────────────────────


def _found(
    table: Mapping[str, Mapping[str, frozenset[str]]], given: object, what: str
) -> tuple[str, str]:
    """Return the kind and the type that is meant."""
    if isinstance(given, str):
        for kind, types in table.items():
            if given == kind or given in types:
                return kind, next(iter(types)) if given == kind else given
    names = [*table, *(type_ for types in table.values() for type_ in types)]
    near = get_close_matches(str(given), names, n=1)
    raise InvalidTool(
        f"there is no {what} {given!r}; "
        + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(table)}")
    )


def _rendered(type_: str, name: str, options: Mapping[str, Any], known: frozenset[str]) -> bytes:
    for option in options:
        if option not in known:
            raise InvalidTool(
                f"{type_} takes no {option!r}; it takes {', '.join(sorted(known)) or 'no options'}"
            )
    try:
        return msgspec.json.encode({"type": type_, "name": name, **options})
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTool(f"{type_}: its options cannot be sent as JSON: {error}") from error


# ── what a request with them may cost ───────────────────────────────────────────────────────────


class Uses(msgspec.Struct, frozen=True, gc=False):
    """How often the server tools of a request may be used in one call."""

    loops: int = 0
    """How often Claude may be asked again in it."""
    searches: int = 0
    """How many web searches may be charged."""
    typed: int = 0
    """How many of the request's tools are of a type, server tools or not."""


class _Rendered(msgspec.Struct, gc=False):
    name: str = ""
    type: str = ""
    max_uses: int | None = None
    allowed_callers: list[str] | None = None


def is_server(type_: str) -> bool:
    """Return whether a tool of that type is run by Anthropic."""
    return type_.rpartition("_")[0] in SERVER


def _bound(tool: _Rendered) -> int | None:
    """Return how often a server tool may be used in one call, `None` where nobody knows."""
    return tool.max_uses if tool.allowed_callers == [DIRECT] else None


@lru_cache(maxsize=64)
def uses(tools: bytes) -> Uses:
    """Return how often server tools may be used in a call, by the rendered tools of its request.

    Each use is one more prompt.  Where one of them says nothing, the API's own limit is taken, of
    the loop it runs them in; it is no promise, so a budget that is declared has no such tools.
    """
    if b'"type":' not in tools:
        return Uses()
    told = [tool for tool in msgspec.json.decode(tools, type=list[_Rendered]) if tool.type]
    server = [tool for tool in told if is_server(tool.type)]
    bounds = [_bound(tool) for tool in server]
    loops = sum(bound or 0 for bound in bounds)
    searches = sum(
        LOOPS if (bound := tool.max_uses) is None else bound
        for tool in server
        if tool.name == "web_search"
    )
    if None in bounds:
        loops = max(loops, LOOPS)
    return Uses(loops=loops, searches=searches, typed=len(told))
