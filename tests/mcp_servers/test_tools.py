"""The tools of an MCP server are tools like any other."""

import asyncio
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from mcp import types
from served import Home, Port

import outlast
from outlast import mcp_servers
from outlast.mcp_answers import given
from outlast.models.script import Block, say, tool_use
from outlast.models.scripted import ScriptedModel
from outlast.tools import InvalidArguments
from stubs import agent, asking, results

EFFECTS = {"add": "read", "note": "idempotent"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return where the server of this module leaves what it did."""
    return Home(tmp_path_factory.mktemp("stdio"))


@pytest.fixture(scope="module", params=["stdio", "http"])
def server(request: pytest.FixtureRequest, home: Home) -> Iterator[outlast.MCPServer]:
    """Return a server, over its standard input and output, and over HTTP."""
    if request.param == "stdio":
        with home.server() as server:
            yield server
        return
    port = Port(home)
    port.begin()
    try:
        with outlast.MCPServer(url=port.url, headers={"Authorization": "Bearer b"}) as server:
            yield server
    finally:
        port.kill()


@pytest.fixture(scope="module")
def tools(server: outlast.MCPServer) -> dict[str, outlast.Tool[..., Any]]:
    """Return its tools."""
    return {tool.name: tool for tool in server.tools(effects=EFFECTS)}


def called(tool: outlast.Tool[..., Any], **arguments: Any) -> Any:
    return asyncio.run(tool(**arguments))


def told(tool: outlast.Tool[..., Any], given: dict[str, Any]) -> Block:
    """Return the result that Claude gets of a call in a run."""
    model = ScriptedModel(asking(tool_use(tool.name, given)))
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(agent(tool), "Go.").status == "completed"
    (result,) = results(model)
    return result


# ── which tools there are ─────────────────────────────────────────────────────────────────────


def test_every_page_of_the_list_is_read(tools):
    """All tools of the server are there, however many pages it lists them on."""
    assert len(tools) == 22
    assert {"add", "note", "fails_silently"} <= tools.keys()


def test_the_effects_are_those_declared(tools):
    """A tool has the effect that was declared; any other is `once`, whatever the server hints."""
    assert {name: tools[name].effect for name in ("add", "note", "die")} == {
        "add": "read",
        "note": "idempotent",
        "die": "once",
    }


def test_hints_of_the_server_are_not_believed(server):
    """A tool that the server calls read-only is `once` all the same."""
    (add,) = server.tools(only=["add"])
    assert add.effect == "once"


def test_the_effect_of_all_others(server):
    """`effect` is that of every tool that has none of its own, and other options go to each."""
    tools = server.tools(
        effect="read", effects={"die": "once"}, only=["add", "die"], source="s", timeout_s=3
    )
    assert [(tool.name, tool.effect) for tool in tools] == [("add", "read"), ("die", "once")]
    assert {(tool.source, tool.timeout_s) for tool in tools} == {("s", 3)}


@pytest.mark.parametrize("given", [{"effects": {"remove": "read"}}, {"only": ["add", "remove"]}])
def test_a_tool_that_is_not_there_is_an_error(server, given):
    """A name that the server does not know is refused, with those that it does."""
    with pytest.raises(outlast.InvalidTool, match=r"has no tool 'remove'; it has 'add', .*'note'"):
        server.tools(**given)


def test_an_effect_that_is_none_is_an_error(server):
    """An effect has to be one of the three."""
    with pytest.raises(outlast.InvalidTool, match="effect is 'write'"):
        server.tools(effects={"add": "write"}, only=["add"])


def test_names_are_those_that_claude_can_say(server):
    """A name gets its prefix, and has `_` where Claude's names cannot have what it has."""
    (tool,) = server.tools(only=["dotted.name"], prefix="files_")
    assert tool.name == "files_dotted_name"


def test_two_tools_of_one_name_are_an_error(server, monkeypatch):
    """Tools that Claude could not tell apart are refused."""
    listed = [types.Tool(name=name, input_schema={"type": "object"}) for name in ("a.b", "a/b")]
    monkeypatch.setattr(mcp_servers._Line, "tools", lambda _: listed)
    with pytest.raises(outlast.InvalidTool, match="more than one tool a_b"):
        server.tools()


def test_a_schema_that_is_none_is_an_error(server, monkeypatch):
    """A tool whose schema cannot be one is refused by its name."""
    listed = [types.Tool(name="odd", input_schema={"type": "nonsense"})]
    monkeypatch.setattr(mcp_servers._Line, "tools", lambda _: listed)
    with pytest.raises(outlast.InvalidTool, match="tool 'odd': what the server gave is no schema"):
        server.tools()


def test_arguments_may_have_any_name(server, monkeypatch):
    """A tool takes of another's arguments those in its schema, whatever they are called."""
    schema = {"type": "object", "properties": {"a-b": {}, "class": {}}, "required": ["a-b"]}
    listed = [types.Tool(name="odd", input_schema=schema)]
    monkeypatch.setattr(mcp_servers._Line, "tools", lambda _: listed)
    (odd,) = server.tools()
    assert odd.takes({"a-b": 1, "class": 2, "c": 3}) == ({"a-b": 1, "class": 2}, ("c",))


def test_the_schema_is_the_servers_own(tools):
    """Claude is told the name, the description and the very schema that the server gave."""
    assert tools["add"].schema == {
        "name": "add",
        "description": "Add two numbers.",
        "input_schema": {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"$ref": "#/$defs/n"}},
            "required": ["a"],
            "additionalProperties": False,
            "$defs": {"n": {"type": "integer", "title": "kept as it is"}},
        },
    }
    assert "description" not in tools["die"].schema


# ── what they are given ───────────────────────────────────────────────────────────────────────

REFUSED = [
    (b'{"a":-1}', "- a: -1 is less than the minimum of 0"),
    (b'{"a":"x"}', "- a: 'x' is not of type 'integer'"),
    (b'{"a":1,"b":0.5}', "- b: 0.5 is not of type 'integer'"),
    (b"{}", "- arguments: 'a' is a required property"),
    (b'{"a":1,"c":2}', "- arguments: Additional properties"),
    (b"[]", "they must be a JSON object"),
    (b"{", "cannot be read as JSON"),
]


@pytest.mark.parametrize(("raw", "why"), REFUSED, ids=lambda value: str(value)[:30])
def test_arguments_that_do_not_fit_are_refused(tools, raw, why):
    """What does not fit the schema is told to Claude by its place, and never sent."""
    with pytest.raises(InvalidArguments) as refused:
        tools["add"].arguments(raw)
    assert str(refused.value).startswith("The arguments do not fit add, so it was not called:\n")
    assert why in str(refused.value)


def test_arguments_are_handed_on_as_they_are(tools):
    """Arguments that fit go to the server as Claude gave them."""
    assert tools["add"].arguments(b'{"a":1}') == {"a": 1}
    assert told(tools["add"], {"a": 40, "b": 2})["content"] == "42"
    assert told(tools["add"], {"a": "x"})["is_error"]


def test_a_reference_that_leads_nowhere_is_refused(monkeypatch):
    """A schema that refers to somewhere else is not followed there, and nothing escapes."""
    followed = []
    monkeypatch.setattr("urllib.request.urlopen", followed.append)
    validator = mcp_servers._validator("odd", {"$ref": "http://127.0.0.1:1/schema.json"})
    (line,) = mcp_servers._wrong(validator, {})
    assert line.startswith("- checking them failed with ")
    assert not followed


def test_the_server_finds_the_key_of_a_call(tools, home):
    """What may be repeated has a key in `_meta`, the same for each attempt; a read has none."""
    assert told(tools["note"], {"text": "keyed"})["content"] == "noted keyed"
    assert home.lines("keys")[-1]
    called(tools["note"], text="outside of a run")
    assert home.lines("keys")[-1] == ""


def test_calls_run_side_by_side(tools, home):
    """Many calls at once go through one session, and each is done once."""
    texts = [f"side {number}" for number in range(20)]
    before = len(home.pids), len(home.done)

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(tools["note"](text=text) for text in texts))

    assert asyncio.run(all_of_them()) == [f"noted {text}" for text in texts]
    assert sorted(home.done[before[1] :]) == sorted(texts)
    assert len(home.pids) == before[0]


# ── what they answer ──────────────────────────────────────────────────────────────────────────

CANNOT = "which cannot be shown to you.]"
UNSHOWN = [
    (
        "drawing",
        "[The tool gave an image (image/svg+xml, 22 bytes), which cannot be shown to you.]",
    ),
    ("damaged", "[The tool gave an image, whose base64 is damaged, so it cannot be shown.]"),
    ("sound", "[The tool gave audio (audio/wav, 30 bytes), which cannot be shown to you.]"),
    ("archive", "[The tool gave the resource file:///x (application/zip, 22 bytes), " + CANNOT),
    (
        "link",
        "[The tool gave a link to 'a.txt' (text/plain), which was not followed: file:///a.txt]",
    ),
]
TEXTS = [
    ("written", "inside"),
    ("nothing", ""),
    ("lines", "one\ntwo"),
    ("data", '{"found":[]}'),
    ("both", "text"),
    *UNSHOWN,
]


@pytest.mark.parametrize(("name", "text"), TEXTS)
def test_what_claude_is_told(tools, name, text):
    """Text is text, data is JSON, nothing is nothing, and what cannot be shown is told of."""
    result = told(tools[name], {})
    assert result.get("content", "") == text
    assert not result.get("is_error")


def test_an_image_is_shown(tools):
    """An image goes to Claude as one, in its place among the texts."""
    text, image = told(tools["picture"], {})["content"]
    assert text == {"type": "text", "text": "look"}
    assert (image["type"], image["source"]["media_type"]) == ("image", "image/png")


def test_a_pdf_is_shown(tools):
    """A PDF goes to Claude as a document."""
    (page,) = told(tools["page"], {})["content"]
    assert (page["type"], page["source"]["media_type"]) == ("document", "application/pdf")


FAILURES = [
    ("fails", "no such file: a.txt"),
    ("fails_silently", "The tool failed, and did not say why."),
    ("raises", "The MCP server answered with an error: internal (-32603)"),
    ("asks", "The MCP server asks a person for more, and there is nobody to ask."),
]


@pytest.mark.parametrize(("name", "text"), FAILURES)
def test_a_failure_is_an_error(tools, name, text):
    """What the server calls an error reaches Claude as one, in the server's words."""
    result = told(tools[name], {})
    assert (result["is_error"], result["content"]) == (True, text)


def test_a_result_that_is_not_complete_is_an_error():
    """A result of a type that nobody knows is no answer, and least of all an empty one."""
    with pytest.raises(outlast.ToolError, match="a result of the type 'partial'"):
        given(types.CallToolResult(content=[], result_type="partial"))


# ── how it is begun ───────────────────────────────────────────────────────────────────────────


def test_headers_are_sent_and_keys_are_not_inherited(tools, home):
    """Each HTTP request has the headers; a program gets no environment but what it needs."""
    for line in home.lines("headers"):
        assert line == "Bearer b"
    allowed = {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LC_CTYPE"}
    first = home.lines("environ")[0]
    assert set(msgspec.json.decode(first.replace("'", '"'))) <= allowed


def test_env_and_cwd(tmp_path):
    """A program gets the variables and the directory that it was given."""
    program = "import os; open('here', 'w').write(os.environ['MARK'])"
    server = outlast.MCPServer(
        command=[sys.executable, "-c", program], env={"MARK": "m"}, cwd=tmp_path
    )
    with server, pytest.raises(outlast.MCPServerUnreachable):
        server.tools()
    assert (tmp_path / "here").read_text() == "m"


NAMES = [
    ({"command": ["npx", "-y", "thing", "--key=s3cret"]}, "npx"),
    ({"command": ["python", "server.py", "--key=s3cret"]}, "python server.py"),
    ({"command": ["env", "KEY=s3cret", "server"]}, "env"),
    ({"command": ["proxy", "https://host/sse?token=s3cret"]}, "proxy"),
    ({"url": "http://me:s3cret@127.0.0.1:80/mcp?key=s3cret"}, "http://127.0.0.1:80/mcp"),
    ({"url": "http://127.0.0.1/mcp", "name": "files"}, "files"),
]


@pytest.mark.parametrize(("given", "name"), NAMES)
def test_a_name_tells_no_secret(given, name):
    """What a server is called in errors has nothing of its options, or of a query."""
    assert outlast.MCPServer(**given).name == name


@pytest.mark.parametrize("given", [{}, {"command": ["x"], "url": "y"}, {"command": "x y"}])
def test_a_server_is_a_command_or_an_address(given):
    """Neither, both, or a command in one string is refused."""
    with pytest.raises(outlast.UsageError, match="give"):
        outlast.MCPServer(**given)


def test_without_the_package(monkeypatch):
    """Where `mcp` is not installed, the error says how it is."""
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "outlast.mcp_session", raising=False)
    monkeypatch.delattr(outlast, "mcp_session", raising=False)
    with pytest.raises(outlast.UsageError, match=r"pip install 'outlast\[mcp\]'"):
        outlast.MCPServer(command=["x"])


def test_a_flow_can_call_one(tools):
    """A step of a flow can be a tool of a server."""

    @outlast.flow
    async def adding(run: outlast.Run, _: str) -> str:
        return await run.step("add", tools["add"], a=1, b=2)

    with outlast.Outlast("memory://", model=ScriptedModel(lambda *_: say("x"))) as app:
        assert app.run(adding, "go").result() == "3"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"command": ["x"], "headers": {"a": "b"}}, "headers is for a server with an address"),
        ({"url": "http://x", "env": {"a": "b"}}, "env is for a server with a command"),
        ({"url": "http://x", "cwd": "/"}, "cwd is for a server with a command"),
    ],
)
def test_what_the_other_kind_of_server_has_is_refused(given, why):
    """Headers of a program and variables of an address would be dropped, unnoticed."""
    with pytest.raises(outlast.UsageError, match=why):
        outlast.MCPServer(**given)


# ── the page about it ─────────────────────────────────────────────────────────────────────────


def test_the_page_works(tmp_path, monkeypatch, capsys):
    """What docs/mcp.md shows works: its server, and the agent that has its tools."""
    page = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("notes.py").write_text(blocks[0])
    model = ScriptedModel(asking(tool_use("count_notes", {}), tool_use("add_note", {"text": "x"})))
    monkeypatch.setattr(outlast, "Outlast", partial(outlast.Outlast, model=model))
    names: dict[str, Any] = {}
    command = blocks[1].replace('"python"', repr(sys.executable))
    exec(compile(command, "mcp.md", "exec"), names)  # noqa: S102  (the page's code)
    names["notes"].close()
    assert capsys.readouterr().out == "done\n"
    assert Path("notes.txt").read_text() == "x\n"
    assert [result["content"] for result in results(model)] == ["0", "noted"]


@pytest.mark.parametrize(
    ("effect", "raised"), [("read", outlast.ToolError), ("once", outlast.MCPServerLost)]
)
def test_an_answer_that_says_nothing_leaves_a_call_in_doubt(effect, raised):
    """What the tool did nobody knows then, unless it changes nothing."""

    class Strange:
        async def call(self, *_: object) -> None:
            raise outlast.ToolError("a result of another type", error_class="bad_output")

    listed = SimpleNamespace(name="pay", input_schema={"type": "object"}, description="", title="")
    tool = mcp_servers._MCPTool(Strange, listed, name="pay", effect=effect)
    with pytest.raises(raised, match="of another type"):
        asyncio.run(tool.function())
