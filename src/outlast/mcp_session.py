"""A session with an MCP server: of each request, whether it was sent and whether it was answered.

The client library tells neither by itself, and with a tool that must not be called twice all
depends on it.  So the streams to its transport, and its HTTP client, are looked at in passing:
each request has a `_Letter`, found through a context variable, in which they note what they see.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import httpx2
import msgspec
from mcp import Client, MCPError, StdioServerParameters, stdio_client, types
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED, HEADER_MISMATCH, INVALID_REQUEST, PARSE_ERROR
from pydantic import TypeAdapter, ValidationError

from outlast import __version__
from outlast.errors import MCPServerLost, MCPServerRefused, MCPServerUnreachable, ToolError

MODE: Literal["auto", "legacy"] = "auto"
"""How versions of the protocol are negotiated: what the server has, or as before 2026."""

NOT_SENT: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
)
"""What the HTTP client raises where not a byte of a request has left."""

_RESULT: Final[TypeAdapter[Any]] = TypeAdapter(types.CallToolResult | types.InputRequiredResult)


class NotSent(Exception):
    """A request did not leave, or was turned away unread; it can be sent in another session."""


class _Mismatch(ToolError):
    """The headers of a request are not those that its arguments demand."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a server is, and how it is begun."""

    name: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | Path | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    connect_timeout_s: float = 30.0


@dataclass
class _Letter:
    """What has been seen of a request on its way."""

    sent: bool = False
    status: int = 0
    """The HTTP status of the response; 0 is none."""
    answered: bool = True
    """Whether there was an answer of the protocol with that status."""
    streamed: bool = False
    """Whether the answer is a stream of events, which the client library reads."""
    retry_after: str = ""
    """When the server wants to be asked again, in its own words."""

    @property
    def is_refusal(self) -> bool:
        """Whether it was turned down unread."""
        return not self.answered and 400 <= self.status < 500 and self.status != 408

    @property
    def is_elsewhere(self) -> bool:
        """Whether it was sent to another address, where the client library does not follow."""
        return not self.answered and 300 <= self.status < 400 and self.status != 303


_LETTER: ContextVar[_Letter | None] = ContextVar("_LETTER", default=None)


class Session:
    """A connection to one process of a server, from its beginning to its end.

    Args:
        server: which.
        ended: called once, when it is over.

    """

    def __init__(self, server: Server, ended: Callable[[], None]) -> None:
        self._server = server
        self._ended = ended
        self._calls = 0
        self._over = asyncio.Event()
        self._client: Any = None
        self._keeper: asyncio.Task[None] | None = None
        self._is_told = False
        self.is_open = False

    async def open(self) -> None:
        """Begin it.

        Raises:
            MCPServerUnreachable: it does not begin, or does not answer.
            MCPServerRefused: it lets nobody in.

        """
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(opened))
        try:
            await opened
        except asyncio.CancelledError:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})  # a process may have been begun
            raise

    async def close(self) -> None:
        """End it, and with it the process that was begun for it."""
        self._end()
        if self._keeper is not None:
            await asyncio.wait({self._keeper})

    def retire(self) -> None:
        """Send nothing more, and end it once the calls under way are over."""
        self._shut()
        if not self._calls:
            self._over.set()

    def _end(self) -> None:
        self._shut()
        self._over.set()

    def _shut(self) -> None:
        self.is_open = False
        if not self._is_told:
            self._is_told = True
            self._ended()

    async def tools(self) -> list[Any]:
        """Return all tools of the server, from every page of its list.

        Raises:
            MCPServerUnreachable: they cannot be had.
            MCPServerRefused: the server does not let us.

        """
        letter = _Letter()
        _LETTER.set(letter)
        found, cursors, cursor = [], set[str](), None
        try:
            async with asyncio.timeout(self._server.connect_timeout_s):
                while cursor is None or cursor not in cursors:
                    cursors |= {cursor} if cursor else set()
                    params = types.PaginatedRequestParams(cursor=cursor)
                    page = await self._client.session.list_tools(params=params)
                    found += page.tools
                    cursor = page.next_cursor
                    if cursor is None:
                        return found
        except (MCPError, ValidationError, TimeoutError) as error:
            raise self._unreachable(error, letter) from error
        raise MCPServerUnreachable(
            f"{self._server.name}: its list of tools has no end: the page {cursor!r} follows itself"
        )

    async def call(self, name: str, arguments: dict[str, Any], meta: dict[str, Any]) -> Any:
        """Return what the server answered, as a `CallToolResult`.

        Raises:
            NotSent: the server was not asked.
            MCPServerLost: it was asked, and there is no answer.
            MCPServerRefused: an HTTP status from 400 to 499 was the answer.
            ToolError: an error of the protocol was the answer, or what cannot be read.

        """
        params = types.CallToolRequestParams.model_validate(
            {"name": name, "arguments": arguments} | ({"_meta": meta} if meta else {})
        )
        try:
            return await self._asked(params)
        except _Mismatch:
            # The call was turned away, because headers are to repeat some of its arguments, and
            # only the list of tools says which.
            await self.tools()
        return await self._asked(params)

    async def _asked(self, params: types.CallToolRequestParams) -> Any:
        if not self.is_open:
            raise NotSent
        letter = _Letter()
        _LETTER.set(letter)
        self._calls += 1
        try:
            # Not `call_tool`: it would drop a result that is not what the server has promised,
            # when the effect has happened.
            result: Any = await self._client.session.send_request(
                types.CallToolRequest(params=params), _RESULT
            )
        except MCPError as error:
            raise self._meaning(error, letter) from error
        except ValidationError as error:
            raise ToolError(
                "The MCP server answered with what is no result of a tool, so it is not known "
                "what came of the call.",
                error_class="bad_output",
            ) from error
        finally:
            self._calls -= 1
            if self._is_told:
                self.retire()
        if isinstance(result, types.InputRequiredResult):
            raise ToolError("The MCP server asks a person for more, and there is nobody to ask.")
        return result

    def _meaning(self, error: MCPError, letter: _Letter) -> Exception:
        """Return what an error of the client library says of a call."""
        name = self._server.name
        is_unread = error.code == CONNECTION_CLOSED and not letter.sent
        is_unknown = error.code == INVALID_REQUEST and letter.status == 404  # the session is
        if is_unread or is_unknown:
            self.retire()
            return NotSent()
        if error.code == CONNECTION_CLOSED:
            self.retire()
            return MCPServerLost(f"{name} was asked, and there is no answer: {error.message}")
        is_garbled = letter.streamed and error.code == PARSE_ERROR
        if letter.answered and not is_garbled:
            told = f"The MCP server answered with an error: {error.message} ({error.code})"
            return _Mismatch(told) if error.code == HEADER_MISMATCH else ToolError(told)
        if letter.is_refusal:
            return _refused(name, letter)
        if letter.is_elsewhere:
            return MCPServerUnreachable(f"{name} cannot be reached: {error.message}")
        self.retire()
        told = f"a status of {letter.status} is no answer"
        if letter.status < 300:
            told = f"what came is no answer: {error.message}"
        return MCPServerLost(
            f"{name} was asked, and {told}",
            status_code=letter.status if letter.status >= 300 else None,
            retry_after=letter.retry_after,
        )

    async def _keep(self, opened: asyncio.Future[None]) -> None:
        # One task enters and leaves the client, as its task groups demand.
        letter = _Letter()
        _LETTER.set(letter)
        try:
            async with asyncio.timeout(self._server.connect_timeout_s) as limit:
                info = types.Implementation(name="outlast", version=__version__)
                async with Client(
                    self._transport(), mode=MODE, cache=None, client_info=info
                ) as self._client:
                    limit.reschedule(None)
                    self.is_open = not self._over.is_set()
                    if not opened.done():
                        opened.set_result(None)
                    await self._over.wait()
        except Exception as error:  # noqa: BLE001  (told to whoever opens it; later, to its calls)
            if not opened.done():
                opened.set_exception(self._unreachable(error, letter))
        finally:
            self._end()
            if not opened.done():
                opened.cancel()

    @contextlib.asynccontextmanager
    async def _transport(self) -> AsyncIterator[tuple[_Reading, _Writing]]:
        server = self._server
        async with contextlib.AsyncExitStack() as stack:
            if server.command:
                program, *args = server.command
                params = StdioServerParameters(
                    command=program,
                    args=args,
                    env=dict(server.env),
                    cwd=server.cwd,
                    # A line that is no text must not leave the session open and deaf.
                    encoding_error_handler="replace",
                )
                # Not `sys.stderr`, which in a notebook is no file.
                errlog = sys.__stderr__ or sys.stderr
                transport = stdio_client(params, errlog=errlog)
            else:
                http = await stack.enter_async_context(_http(server.headers))
                # By default an event of a megabyte, such as an image, would break the connection.
                transport = streamable_http_client(
                    server.url, http_client=http, max_sse_event_size=None
                )
            reading, writing = await stack.enter_async_context(transport)
            yield _Reading(reading, self._end), _Writing(writing)

    def _unreachable(self, error: BaseException, letter: _Letter) -> Exception:
        name = self._server.name
        if letter.is_refusal:
            return _refused(name, letter)
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, TimeoutError):
            why = f"it does not answer within {self._server.connect_timeout_s:g} s"
        elif isinstance(error, MCPError):
            status = f", HTTP status {letter.status}" if letter.status >= 300 else ""
            why = f"{error.message} ({error.code}{status})"
        else:
            why = f"{type(error).__name__}: {error}"
        return MCPServerUnreachable(f"{name} cannot be reached: {why}")


def _refused(name: str, letter: _Letter) -> MCPServerRefused:
    return MCPServerRefused(
        f"{name} refused with the HTTP status {letter.status}",
        status_code=letter.status,
        retry_after=letter.retry_after,
    )


# ── what passes by ──────────────────────────────────────────────────────────────────────────────


class _Passing:
    """A stream of the client library, looked at in passing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Any:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> bool | None:
        left: bool | None = await self._stream.__aexit__(*raised)
        return left


class _Writing(_Passing):
    """What is sent to the server."""

    async def send(self, item: Any, /) -> None:
        letter = _LETTER.get()
        # Before, not after: what is cut off in the middle may have arrived.
        was = letter is not None and letter.sent
        if letter is not None:
            letter.sent = True
        try:
            await self._stream.send(item)
        except Exception:
            if letter is not None:
                letter.sent = was  # nobody has taken it
            raise


class _Reading(_Passing):
    """What comes from the server; its end is the end of the session."""

    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:
        super().__init__(stream)
        self._ended = ended

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return await self._stream.receive()

    def __aiter__(self) -> _Reading:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            self._ended()
            raise


class _HTTP(httpx2.AsyncClient):
    """An HTTP client that turns a broken connection into an answer to the one who used it.

    Otherwise the exception would end the session, and with it the calls of everybody else.
    """

    async def send(self, request: httpx2.Request, **more: Any) -> httpx2.Response:
        letter = _LETTER.get()
        if request.method != "POST" or letter is None:
            return await super().send(request, **more)
        try:
            response = await super().send(request, **more)
            kind = response.headers.get("content-type", "").lower()
            if not kind.startswith("text/event-stream") or response.status_code >= 300:
                await response.aread()
        except httpx2.TransportError as error:
            if isinstance(error, NOT_SENT):
                letter.sent = False
            return _broken(request, error)
        letter.status = response.status_code
        letter.retry_after = response.headers.get("retry-after", "")
        letter.streamed = kind.startswith("text/event-stream") and letter.status < 300
        letter.answered = letter.streamed or _is_answer(response, kind)
        return response


def _is_answer(response: httpx2.Response, kind: str) -> bool:
    """Return whether a response, which was read, is an answer of the protocol."""
    if not kind.startswith("application/json"):
        return False  # the client library reads nothing else
    try:
        types.jsonrpc_message_adapter.validate_json(response.content, by_name=False)
    except ValidationError:
        return False
    return True


def _broken(request: httpx2.Request, error: Exception) -> httpx2.Response:
    what = {"code": CONNECTION_CLOSED, "message": f"{type(error).__name__}: {error}"}
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": None, "error": what})
    headers = {"content-type": "application/json"}
    return httpx2.Response(502, headers=headers, content=body, request=request)


def _http(headers: Mapping[str, str]) -> _HTTP:
    # How long a call may take is said by its tool, and any number may be under way.
    return _HTTP(
        headers=dict(headers),
        timeout=httpx2.Timeout(30.0, read=None),
        limits=httpx2.Limits(max_connections=None),
    )
