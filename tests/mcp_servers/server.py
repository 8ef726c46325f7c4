"""An MCP server of tests: `server.py HOME [--port PORT] [--stateful] [--stubborn]`.

In HOME it leaves a line with its pid in `pids` when it begins, and in `done` a line for each thing
that it really does.  A file `HOME/down` says what of it does not work, in words.
"""

import argparse
import asyncio
import base64
import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvicorn
from mcp import MCPError, types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from starlette.responses import PlainTextResponse, Response

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
PDF = base64.b64encode(b"%PDF-1.7 and so on").decode()
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"$ref": "#/$defs/n"}},
    "required": ["a"],
    "additionalProperties": False,
    "$defs": {"n": {"type": "integer", "title": "kept as it is"}},
}
HEADED = {
    "type": "object",
    "properties": {"text": {"type": "string", "x-mcp-header": "Said"}},
    "required": ["text"],
}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}


def said(text: str) -> types.TextContent:
    return types.TextContent(text=text)


def blob(kind: str, data: str) -> types.EmbeddedResource:
    inside = types.BlobResourceContents(uri="file:///x", mime_type=kind, blob=data)
    return types.EmbeddedResource(resource=inside)


def written() -> types.EmbeddedResource:
    inside = types.TextResourceContents(uri="file:///a.txt", text="inside")
    return types.EmbeddedResource(resource=inside)


def link() -> types.ResourceLink:
    return types.ResourceLink(name="a.txt", uri="file:///a.txt", mime_type="text/plain")


Result = types.CallToolResult
ANSWERS = {
    "picture": Result(content=[said("look"), types.ImageContent(data=PNG, mime_type="image/png")]),
    "drawing": Result(content=[types.ImageContent(data=PNG[8:], mime_type="image/svg+xml")]),
    "damaged": Result(content=[types.ImageContent(data="!", mime_type="image/png")]),
    "sound": Result(content=[types.AudioContent(data=PNG, mime_type="audio/wav")]),
    "page": Result(content=[blob("application/pdf", PDF)]),
    "archive": Result(content=[blob("application/zip", PNG[8:])]),
    "written": Result(content=[written()]),
    "link": Result(content=[link()]),
    "nothing": Result(content=[]),
    "lines": Result(content=[said("one"), said("two")]),
    "data": Result(content=[], structured_content={"found": []}),
    "both": Result(content=[said("text")], structured_content={"n": 1}),
    "fails": Result(content=[said("no such file: a.txt")], is_error=True),
    "fails_silently": Result(content=[], is_error=True),
}
TOOLS = [
    types.Tool(
        name="add",
        description="Add two numbers.",
        input_schema=NUMBERS,
        annotations=types.ToolAnnotations(read_only_hint=True),
    ),
    types.Tool(name="note", description="Write it down.", input_schema=TEXT),
    types.Tool(name="die", input_schema=TEXT),
    types.Tool(name="hang", input_schema=TEXT),
    types.Tool(name="headed", input_schema=HEADED),
    types.Tool(name="dotted.name", input_schema=NOTHING),
    types.Tool(name="raises", input_schema=NOTHING),
    types.Tool(name="asks", input_schema=NOTHING),
    *(types.Tool(name=name, input_schema=NOTHING) for name in ANSWERS),
]
PAGE = 5
HEADERS = {"retry-after": "7", "location": "https://elsewhere.test/"}


class Serving:
    """What the tools do."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def put(self, name: str, line: object) -> None:
        with (self.home / name).open("a") as file:
            file.write(f"{line}\n")

    def down(self) -> str:
        file = self.home / "down"
        return file.read_text() if file.exists() else ""

    async def list(self, _: Any, params: types.PaginatedRequestParams | None) -> Any:
        self.put("listed", "")
        if "listing" in self.down():
            raise MCPError(-32603, "the index is down")
        begin = int(params.cursor) if params is not None and params.cursor else 0
        more = str(begin + PAGE) if begin + PAGE < len(TOOLS) else None
        if "last page" in self.down():
            more = more or "0"
        return types.ListToolsResult(tools=TOOLS[begin : begin + PAGE], next_cursor=more)

    async def call(self, ctx: Any, params: types.CallToolRequestParams) -> Any:
        given = params.arguments or {}
        key = (ctx.meta or {}).get("outlast/idempotency-key", "")
        match params.name:
            case "add":
                return Result(content=[said(str(given["a"] + given.get("b", 0)))])
            case "note" | "headed":
                self.put("done", given["text"])
                self.put("keys", key)
                return Result(content=[said(f"noted {given['text']}")])
            case "die":
                self.put("done", given["text"])
                if "dying" not in self.down():
                    if given["text"] == "and then live":
                        (self.home / "down").write_text("dying")
                    os._exit(1)
                return Result(content=[said("still here")])
            case "hang":
                self.put("done", given["text"])
                try:
                    while not (self.home / "release").exists():  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    self.put("cancelled", given["text"])
                    raise
                return Result(content=[said("released")])
            case "raises":
                raise MCPError(-32603, "internal")
            case "asks":
                form = types.ElicitRequestFormParams(message="who?", requested_schema=NOTHING)
                ask = types.ElicitRequest(params=form)
                return types.InputRequiredResult(input_requests={"who": ask})
        return ANSWERS[params.name]


def asgi(serving: Serving, app: Any) -> Any:
    """Return the app with a status, or half an answer, where `down` says so."""

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            serving.put("headers", headers.get("authorization", ""))
            if serving.down() == "break":  # which ends the connection in the middle of an answer
                length = [(b"content-type", b"application/json"), (b"content-length", b"99")]
                await send({"type": "http.response.start", "status": 200, "headers": length})
                return
            if said := serving.down().partition("says ")[2]:
                status, kind, body = said.split(" ", 2)
                await Response(body, int(status), HEADERS, kind)(scope, receive, send)
                return
            status = serving.down().partition("status ")[2]
            if status:
                await PlainTextResponse("no", int(status))(scope, receive, send)
                return
        await app(scope, receive, send)

    return answering


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--stateful", action="store_true")
    parser.add_argument("--stubborn", action="store_true")
    args = parser.parse_args()
    serving = Serving(args.home)
    serving.put("pids", os.getpid())
    serving.put("environ", sorted(os.environ))
    while "slowly" in serving.down():  # noqa: ASYNC110  (a file)
        await asyncio.sleep(0.01)
    if "start" in serving.down():
        sys.exit(3)
    server = Server("test", on_list_tools=serving.list, on_call_tool=serving.call)
    if args.port is not None:
        app = asgi(serving, server.streamable_http_app(stateless_http=not args.stateful))
        config = uvicorn.Config(app, host="127.0.0.1", port=args.port, log_level="error")
        config.timeout_graceful_shutdown = 1
        await uvicorn.Server(config).serve()
        return
    if args.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())
    if args.stubborn:
        await asyncio.Event().wait()


asyncio.run(main())
