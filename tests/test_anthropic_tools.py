"""Tools that Anthropic defines: how they are declared, what is sent of them, and who runs them."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest
from anthropic.types import tool_union_param

import outlast
from outlast import anthropic_tools
from outlast.agent import Budget
from outlast.errors import InvalidAgent, InvalidTool
from outlast.models import strict
from outlast.models.script import say, server_tool_result, server_tool_use, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.tools import InvalidArguments
from stubs import asking, results

# ── what the SDK says ───────────────────────────────────────────────────────────────────────────


def members_of(param: Any) -> dict[str, Any]:
    """Return the members of a TypedDict of the SDK, with their types."""
    return typing.get_type_hints(param, include_extras=False)


def literal(hint: Any) -> str:
    for inner in (hint, *typing.get_args(hint)):
        if typing.get_origin(inner) is typing.Literal:
            return str(typing.get_args(inner)[0])
    return str(typing.get_args(hint)[0])


PARAMS = {
    literal(members["type"]): members
    for param in typing.get_args(tool_union_param.ToolUnionParam)
    if "name" in (members := members_of(param)) and "input_schema" not in members
}
"""The tools of the API that no beta is needed for, by type."""

TABLES = {**anthropic_tools.CLIENT, **anthropic_tools.SERVER}


@pytest.mark.parametrize("kind", TABLES)
def test_the_types_are_those_of_the_sdk(kind: str) -> None:
    """Every dated type without a beta is known, newest first, with no member the SDK lacks."""
    ours, theirs = TABLES[kind], [one for one in PARAMS if one.rpartition("_")[0] == kind]
    assert sorted(ours, reverse=True) == list(ours) == sorted(theirs, reverse=True)
    for type_, options in ours.items():
        own = {"type", "name", "cache_control", "defer_loading"}
        counted = {"max_uses"} if kind in anthropic_tools.COUNTED else set()
        assert options | own | counted == PARAMS[type_].keys(), type_
        names = anthropic_tools.NAMES
        assert (names.get(type_) or names.get(kind) or kind) == literal(PARAMS[type_]["name"])


def test_the_simulator_takes_what_the_sdk_can_send() -> None:
    """Its table, which is its own, has the types, the names and the members of the SDK."""
    for type_, (name, more) in strict.TYPED_TOOLS.items():
        assert literal(PARAMS[type_]["name"]) == name
        assert {"type", "name", "cache_control", "strict", "defer_loading", "allowed_callers"} | (
            more
        ) == PARAMS[type_].keys(), type_
    assert {t for types in TABLES.values() for t in types} == strict.TYPED_TOOLS.keys()


# ── client tools ────────────────────────────────────────────────────────────────────────────────


@outlast.tool(client="bash")
def shell(command: str = "", *, restart: bool = False) -> str:
    """Run a command."""
    return "restarted" if restart else f"$ {command}"


def edit(  # noqa: PLR0917  (what Claude may give)
    command: str,
    path: str = "",
    file_text: str | None = None,
    old_str: str | None = None,
    new_str: str | None = None,
    insert_line: int | None = None,
    insert_text: str | None = None,
    view_range: list[int] | None = None,
) -> str:
    return f"{command} {path}"


def remember(  # noqa: PLR0917  (what Claude may give)
    command: str,
    context: outlast.ToolContext,
    path: str = "",
    file_text: str | None = None,
    old_str: str | None = None,
    new_str: str | None = None,
    insert_line: int | None = None,
    insert_text: str | None = None,
    view_range: list[int] | None = None,
    old_path: str | None = None,
    new_path: str | None = None,
) -> str:
    return f"{command} {path or old_path} {context.run_id}"


NEWEST_EDITOR = {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}


@pytest.mark.parametrize(
    ("function", "client", "rendered"),
    [
        (shell.function, "bash", {"type": "bash_20250124", "name": "bash"}),
        (edit, "text_editor", NEWEST_EDITOR),
        (
            edit,
            {"type": "text_editor", "max_characters": 9_000},
            NEWEST_EDITOR | {"max_characters": 9_000},
        ),
        (
            edit,
            "text_editor_20250124",
            {"type": "text_editor_20250124", "name": "str_replace_editor"},
        ),
        (remember, "memory", {"type": "memory_20250818", "name": "memory"}),
        (remember, {"type": "memory", "name": "memory"}, None),
    ],
)
def test_a_client_tool_is_a_type_and_a_name(function: Any, client: Any, rendered: Any) -> None:
    """The newest type unless one is named; no description and no schema, which Claude knows."""
    declared = outlast.tool(client=client)(function)
    assert declared.schema == (rendered or {"type": "memory_20250818", "name": "memory"})
    assert declared.name == declared.schema["name"]
    assert declared.effect == "once"
    assert strict.refusal(asked_with(declared.schema)) is None


def asked_with(*tools: dict[str, Any]) -> dict[str, Any]:
    """Return a request with these tools."""
    said = [{"role": "user", "content": "hi"}]
    return {"model": "claude-opus-5-5", "max_tokens": 9, "messages": said, "tools": list(tools)}


def deaf(command: str = "") -> str: ...


def eager(command: str, *, restart: bool = False) -> str: ...


def curious(who: str, command: str = "", *, restart: bool = False) -> str: ...


@pytest.mark.parametrize(
    ("given", "function", "said"),
    [
        (
            {"client": "bash"},
            deaf,
            "Claude may give it command, restart, and the function takes no",
        ),
        ({"client": "bash"}, eager, "does not always give command; give the parameter a default"),
        ({"client": "bash"}, curious, "does not always give who"),
        ({"client": "memory"}, edit, "takes no old_path and no new_path"),
        ({"client": "bahs"}, shell.function, "no client tool 'bahs'; did you mean 'bash'"),
        ({"client": "web_search"}, shell.function, "there is no client tool 'web_search'"),
        ({"client": 3}, shell.function, "there is no client tool 3"),
        ({"client": {"type": "bash", "timeout": 3}}, shell.function, "takes no 'timeout'"),
        (
            {"client": {"type": "bash", "strict": object()}},
            shell.function,
            "cannot be sent as JSON",
        ),
        ({"client": "bash", "name": "shell"}, shell.function, "Claude knows it as 'bash'"),
        ({"client": {"type": "bash", "name": "sh"}}, shell.function, "Claude knows it as 'bash'"),
    ],
)
def test_a_client_tool_that_could_not_work(given: Any, function: Any, said: str) -> None:
    """What Claude gives has to fit the function, and the tool has to be one of Anthropic's."""
    with pytest.raises(InvalidTool) as raised:
        outlast.tool(**given)(function)
    assert said in str(raised.value)


def test_a_client_tool_is_run_as_any_other() -> None:
    """Its arguments are checked, its function is called, and its result goes back."""
    uses = [
        tool_use("bash", {"command": "ls"}),
        tool_use("bash", {"restart": True}),
        tool_use("bash", {"command": ["ls"]}),
        tool_use("memory", {"command": "rename", "old_path": "/a", "new_path": "/b"}),
    ]
    of = outlast.Agent(
        "a", model="claude-opus-5-5", tools=[shell, outlast.tool(client="memory")(remember)]
    )
    model = ScriptedModel(asking(*uses))
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(of, "Go.", run_id="r").status == "completed"
    came = results(model)
    assert [bool(one.get("is_error")) for one in came] == [False, False, True, False]
    assert [one["content"] for one in came if not one.get("is_error")] == [
        "$ ls",
        "restarted",
        "rename /a r",
    ]
    assert msgspec.json.decode(model.calls[0])["tools"] == [
        {"type": "bash_20250124", "name": "bash"},
        {
            "type": "memory_20250818",
            "name": "memory",
            "cache_control": {"type": "ephemeral"},
        },
    ]
    with pytest.raises(InvalidArguments, match="do not fit bash"):
        shell.arguments(b'{"script":"ls"}')


def test_a_person_may_give_a_client_tool_other_arguments(tmp_path: Any) -> None:
    """Also where the function is not there: the journal knows no schema of it."""
    url = f"sqlite:///{tmp_path}/a.db"
    asks = outlast.tool(client="bash", approval="always")(shell.function)
    of = outlast.Agent("a", model="claude-opus-5-5", tools=[asks])
    model = ScriptedModel(asking(tool_use("bash", {"command": "rm"})))
    with outlast.Outlast(url, model=model) as app:
        assert app.run(of, "Go.", run_id="r").status == "waiting"
    with outlast.Outlast(url, model=model) as app:
        app.approve("r", arguments={"command": "ls"})
        assert app.resume("r", of).status == "completed"
    assert "$ ls" in str(results(model)[0]["content"])


# ── server tools ────────────────────────────────────────────────────────────────────────────────

SEARCH = outlast.server_tool("web_search", max_uses=2)


@pytest.mark.parametrize(
    ("made", "rendered"),
    [
        (
            SEARCH,
            {
                "type": "web_search_20260318",
                "name": "web_search",
                "allowed_callers": ["direct"],
                "max_uses": 2,
            },
        ),
        (
            outlast.server_tool("web_fetch_20250910", citations={"enabled": True}),
            {
                "type": "web_fetch_20250910",
                "name": "web_fetch",
                "allowed_callers": ["direct"],
                "citations": {"enabled": True},
            },
        ),
        (
            outlast.server_tool("web_search", allowed_callers=["code_execution_20260521"]),
            {
                "type": "web_search_20260318",
                "name": "web_search",
                "allowed_callers": ["code_execution_20260521"],
            },
        ),
        (
            outlast.server_tool("code_execution"),
            {"type": "code_execution_20260521", "name": "code_execution"},
        ),
    ],
)
def test_a_server_tool_is_a_type_and_a_name(made: Any, rendered: dict[str, Any]) -> None:
    """The newest type unless one is named; web tools are for Claude alone unless it is said."""
    assert made.schema == rendered
    assert strict.refusal(asked_with(made.schema)) is None


@pytest.mark.parametrize(
    ("tool", "given", "said"),
    [
        ("web_serch", {}, "no server tool 'web_serch'; did you mean 'web_search'"),
        ("bash", {}, "there is no server tool 'bash'"),
        ("code_execution", {"max_uses": 3}, "takes no max_uses: the API does not limit it"),
        ("web_search", {"max_uses": 0}, "max_uses is 0, but must be a whole number"),
        ("web_search", {"max_uses": True}, "max_uses is True"),
        ("web_search", {"citations": {}}, "web_search_20260318 takes no 'citations'"),
        ("web_fetch_20260209", {"use_cache": False}, "web_fetch_20260209 takes no 'use_cache'"),
        ("web_fetch", {"allowed_domains": ["a"], "blocked_domains": ["b"]}, "not both"),
        ("web_fetch", {"citations": object()}, "cannot be sent as JSON"),
    ],
)
def test_a_server_tool_that_the_api_would_refuse(
    tool: str, given: dict[str, Any], said: str
) -> None:
    """It is refused where it is declared."""
    with pytest.raises(InvalidTool) as raised:
        outlast.server_tool(tool, **given)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ({"type": "web_search_20990101", "name": "web_search"}, "does not match any of the"),
        ({"type": "bash_20250124", "name": "shell"}, "bash_20250124.name: Input should be 'bash'"),
        ({"type": "bash_20250124"}, "bash_20250124.name: Input should be 'bash'"),
        ({"type": "bash_20250124", "name": "bash", "input_schema": {}}, "Extra inputs are not"),
        ({"type": "web_search_20250305", "name": "web_search", "max_uses": 0}, "greater than 0"),
        (
            {"type": "web_fetch_20250910", "name": "web_fetch", "allowed_callers": ["me"]},
            "allowed_callers: Input should be",
        ),
        (
            {
                "type": "web_fetch_20250910",
                "name": "web_fetch",
                "allowed_domains": ["a"],
                "blocked_domains": ["b"],
            },
            "only one of allowed_domains and blocked_domains",
        ),
    ],
)
def test_the_simulator_refuses_what_the_api_would(tool: dict[str, Any], said: str) -> None:
    """A typed tool with another name, an unknown type, or a member that it does not have."""
    refused = strict.refusal(asked_with(tool))
    assert refused is not None
    assert said in refused.message


def agent(*tools: Any, **more: Any) -> outlast.Agent:
    return outlast.Agent("a", **({"model": "claude-opus-5-5", "tools": tools} | more))


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word * 2


def test_nobody_calls_a_server_tool_here() -> None:
    """A `tool_use` of its name is a tool that there is not, and the run goes on."""
    of = agent(SEARCH, look)
    assert of.tool("web_search") is None
    assert of.tool("look") is look
    model = ScriptedModel(asking(tool_use("web_search", {"query": "owls"})))
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(of, "Go.").status == "completed"
    (came,) = results(model)
    assert came["is_error"]


def test_names_of_server_tools_are_taken() -> None:
    """Two tools of one name are refused, whoever runs them; what is no tool is, too."""
    with pytest.raises(InvalidAgent, match="two tools are named 'web_search'"):
        agent(SEARCH, outlast.server_tool("web_search_20250305"))
    with pytest.raises(InvalidAgent, match=r"outlast\.server_tool"):
        agent({"type": "web_search_20260318", "name": "web_search"})


FOUND = {"type": "web_search_result", "url": "https://a.example/", "title": "Owls"}
FOUND |= {"encrypted_content": "b3dscw==", "page_age": None}
CONTAINER = {"container": {"id": "container_7", "expires_at": "2030-01-01T00:00:00Z"}}


def beside(request: dict[str, Any], attempt: int) -> Any:
    """Search, and look up beside it; pause; then answer."""
    turn = turn_number(request)
    if turn == 1:
        return say(
            server_tool_use("web_search", {"query": "owls"}),
            server_tool_result("web_search", [FOUND]),
            tool_use("look", {"word": "owl"}),
            extra=CONTAINER,
        )
    if turn == 2:
        asked = server_tool_use("web_search", {"query": "more owls"})
        return say("One moment. ", asked, stop_reason="pause_turn")
    return say(server_tool_result("web_search", [FOUND]) | {"tool_use_id": "srv"}, "Two.")


def test_a_server_tool_beside_one_of_ours() -> None:
    """Ours alone is called and answered, all is sent back as it came, and a pause goes on."""
    model = ScriptedModel(beside)
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(agent(SEARCH, look), "Go.", run_id="r")
    assert run.answer == "One moment. Two."
    _, second, third = (msgspec.json.decode(body) for body in model.calls)
    said, given = second["messages"][1:]
    assert [block["type"] for block in said["content"]] == [
        "server_tool_use",
        "web_search_tool_result",
        "tool_use",
    ]
    assert said["content"][1]["content"] == [FOUND]
    assert [(one["type"], one["content"]) for one in given["content"]] == [
        ("tool_result", "owlowl")
    ]
    assert second["container"] == third["container"] == "container_7"
    assert third["messages"][-1]["role"] == "assistant"


def test_a_run_goes_on_without_the_server_tool() -> None:
    """It needs nothing of ours, and the model is told of it as before; a function is needed."""
    before, after = agent(SEARCH, look, budget=Budget(turns=1)), agent(look)
    model = ScriptedModel(beside)
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(before, "Go.", run_id="r").status == "stopped"
        with pytest.raises(outlast.UsageError, match="no longer has: look"):
            app.resume("r", agent(SEARCH))
        assert app.resume("r", after).answer == "One moment. Two."
    told = [msgspec.json.decode(body)["tools"] for body in model.calls]
    assert [one["name"] for one in told[0]] == ["web_search", "look"]
    assert told[0] == told[1] == told[2]


def test_another_server_tool_is_another_version() -> None:
    """What the model sees is part of the agent's version."""
    with outlast.Outlast("memory://", model=ScriptedModel(beside)) as app:
        once = agent(SEARCH, look, budget=Budget(turns=1))
        app.run(once, "Go.", run_id="r")
        other = agent(outlast.server_tool("web_search", max_uses=3), look)
        with pytest.raises(outlast.VersionChanged, match="tools"):
            app.resume("r", other, on_change="refuse")
