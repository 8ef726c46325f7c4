"""The tools of MCP servers: each is a tool like any other, and calls the server.

What is sent to a server and not answered is in doubt by the effect that was declared for the tool.
A server that has died is begun anew for the next call, later and later while it keeps dying.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from functools import cached_property
from inspect import Parameter, Signature
from itertools import takewhile
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from outlast.background import Background
from outlast.errors import (
    InvalidTool,
    MCPServerLost,
    MCPServerUnreachable,
    ToolError,
    UsageError,
)
from outlast.events import Effect
from outlast.mcp_answers import given
from outlast.tools import InvalidArguments, Tool, ToolContext, complaint, decoded

if TYPE_CHECKING:
    from outlast.mcp_session import Server, Session

FIRST_WAIT_S: Final = 0.5
"""How long after its death a server is begun anew; twice as long after each further one."""

LONGEST_WAIT_S: Final = 30.0
"""And never longer than that."""

TRIES: Final = 3
"""How often a list of tools is asked for, and a call is taken to a session that is over by then."""

EARLIER_S: Final = 0.25
"""How long before the end of its time a call that waits for a session is given up, a tenth of its
time at most: by then it has surely not been sent, and a moment later nobody would know."""

KEY: Final = "outlast/idempotency-key"
"""Where in a request's `_meta` a server finds the idempotency key of a call."""

_PLAIN: Final = re.compile(r"[^-=?@][^=?@]*")
"""A word of a command that is no option, no variable and no address with a secret in it."""

_CONTEXT: Final = "the call itself"
"""What a tool's function takes its `ToolContext` as: a name that no argument is likely to have."""


class MCPServer:
    """An MCP server, whose tools agents can have.

    It is begun on first use, and serves any number of calls at once.  It ends with `close`, at the
    end of a `with` block, or with the process.

    Args:
        command: the program to start and its arguments, spoken to over its standard input and
            output.
        env: environment variables of that program, beside `HOME`, `LOGNAME`, `PATH`, `SHELL`,
            `TERM` and `USER`: it inherits no others, so no keys.
        cwd: its working directory; default that of this process.
        url: instead of a command, the address of a server that is spoken to over HTTP
            ("streamable HTTP").
        headers: HTTP headers of each request, such as `Authorization`.
        name: what it is called in errors; default the beginning of the command, or the address
            without what may be secret in it.
        connect_timeout_s: how long its start, or a list of its tools, may take, in seconds;
            default 30.

    Raises:
        UsageError: there is neither a command nor an address, or both; or the package `mcp` is
            not installed, which `outlast[mcp]` brings.

    """

    def __init__(  # noqa: PLR0913  (all are keywords)
        self,
        *,
        command: Sequence[str | os.PathLike[str]] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        url: str = "",
        headers: Mapping[str, str] | None = None,
        name: str = "",
        connect_timeout_s: float = 30.0,
    ) -> None:
        if isinstance(command, str):
            raise UsageError(f"give the command as a list, such as {command.split()!r}")
        words = tuple(os.fspath(word) for word in command)
        if bool(words) == bool(url):
            raise UsageError("give an MCP server either command=[…] or url='…'")
        idle = ("headers", headers) if words else ("env", env) if env else ("cwd", cwd)
        if idle[1]:
            raise UsageError(
                f"{idle[0]} is for a server with {'an address' if words else 'a command'}; this "
                f"one has {'a command, so give env={…}' if words else 'an address'}"
            )
        self.name = name or _name(words, url)
        self._server = _installed().Server(
            name=f"MCP server {self.name!r}",
            command=words,
            env=env or {},
            cwd=cwd,
            url=url,
            headers=headers or {},
            connect_timeout_s=connect_timeout_s,
        )
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<MCP server {self.name!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def tools(
        self,
        *,
        effects: Mapping[str, Effect] | None = None,
        effect: Effect = "once",
        only: Iterable[str] | None = None,
        prefix: str = "",
        timeout_s: float | None = 60.0,
        **options: Any,
    ) -> list[Tool[..., Any]]:
        """Ask the server for its tools, and return them as tools for an agent.

        Args:
            effects: what calls of certain tools do to the world, by the server's names of them.
            effect: what calls of all others do; default `once`, since it is the safe one.  What
                the server itself says of that is not believed.
            only: the server's names of the tools to return; default all.
            prefix: what Claude's names of them begin with, so that those of several servers
                differ.  Characters that such names cannot have become `_`.
            timeout_s: seconds after which a call is given up, default 60; `None` waits for ever.
            options: whatever else `outlast.tool` takes, such as `approval` and `source`.

        Raises:
            MCPServerUnreachable: it could not be asked, three times.
            MCPServerRefused: it does not let us.
            InvalidTool: it has no tool of a name in `effects` or `only`, or two whose names would
                be one, or the schema of one is none.
            UsageError: it was closed.

        """
        chosen = self._chosen(self._begun().tools(), effects or {}, only)
        tools = [
            _MCPTool(
                self._begun,
                listed,
                name=re.sub(r"[^a-zA-Z0-9_-]", "_", f"{prefix}{listed.name}"),
                effect=(effects or {}).get(listed.name, effect),
                timeout_s=timeout_s,
                **options,
            )
            for listed in chosen
        ]
        names = [declared.name for declared in tools]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidTool(f"{self._server.name} has more than one tool {', '.join(twice)}")
        return list(tools)

    def close(self) -> None:
        """End the server's process and the connection; what is under way gets no answer."""
        with self._lock:
            line, self._line, self._closed = self._line, None, True
        if line is not None:
            line.close()

    def _chosen(
        self, listed: list[Any], effects: Mapping[str, Effect], only: Iterable[str] | None
    ) -> list[Any]:
        there = {one.name for one in listed}
        wanted = there if only is None else set(only)
        if missing := sorted({*effects, *wanted} - there):
            raise InvalidTool(
                f"{self._server.name} has no tool {', '.join(map(repr, missing))}; it has "
                f"{', '.join(map(repr, sorted(there))) or 'none'}"
            )
        return [one for one in listed if one.name in wanted]

    def _begun(self) -> _Line:
        with self._lock:
            if self._closed:
                raise UsageError(f"{self._server.name} was closed; make another one")
            # A process that was forked has the threads of its parent no more, and must not share
            # its connection: it gets one of its own.
            if self._line is None or self._line.pid != os.getpid():
                self._line = _Line(self._server)
            return self._line


class _Line:
    """The line to a server: the session of now, and when there may be another."""

    def __init__(self, server: Server) -> None:
        self.pid = os.getpid()
        self._server = server
        self._background = Background()
        self._session: Session | None = None
        self._opening: asyncio.Task[Session] | None = None
        self._wait_s = 0.0
        self._not_before = 0.0
        atexit.register(self.close)

    def tools(self) -> list[Any]:
        """Return what tools the server says it has."""
        return self._background.run(self._listed())

    async def call(
        self,
        name: str,
        arguments: dict[str, Any],
        meta: dict[str, Any],
        deadline: float | None = None,
    ) -> Any:
        """Return what the server answers to a call; from any loop."""
        if deadline is not None:
            deadline -= min(EARLIER_S, (deadline - time.monotonic()) / 10)
        work = self._background.begin(self._called(name, arguments, meta, deadline))
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """End the session, and the thread."""
        atexit.unregister(self.close)
        self._background.close(self._farewell)

    async def _listed(self) -> list[Any]:
        for tried in range(1, TRIES + 1):
            try:
                session = await self._ready()
                tools = await session.tools()
            except MCPServerUnreachable as error:
                if tried == TRIES:
                    raise MCPServerUnreachable(
                        f"the tools of the {self._server.name} cannot be listed, after {TRIES} "
                        f"tries: {error}"
                    ) from error
                await asyncio.sleep(FIRST_WAIT_S * tried)
            else:
                self._wait_s = 0.0
                return tools
        raise AssertionError("the last try returns or raises")

    async def _called(
        self, name: str, arguments: dict[str, Any], meta: dict[str, Any], deadline: float | None
    ) -> Any:
        from outlast.mcp_session import NotSent  # noqa: PLC0415  (imports mcp)

        for _ in range(TRIES):
            session = await self._ready(deadline)
            try:
                result = await session.call(name, arguments, meta)
            except NotSent:
                session.retire()
            else:
                self._wait_s = 0.0
                return given(result)
        raise MCPServerUnreachable(f"{self._server.name} took nothing, in {TRIES} sessions")

    async def _ready(self, deadline: float | None = None) -> Session:
        if self._session is not None and self._session.is_open:
            return self._session
        if self._opening is None:
            # Nothing of the call that happens to be the first is to stick to the session.
            self._opening = asyncio.create_task(self._open(), context=Context())
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        try:
            async with asyncio.timeout_at(deadline):
                # Shielded: others wait for it, too, and a session half begun is of use to nobody.
                return await asyncio.shield(opening)
        except TimeoutError as error:
            raise MCPServerUnreachable(
                f"{self._server.name} was not asked: it has not begun within the time of the call"
            ) from error

    async def _open(self) -> Session:
        from outlast.mcp_session import Session  # noqa: PLC0415  (imports mcp)

        await _until(self._not_before)
        session = Session(self._server, self._failed)
        await session.open()
        self._session = session
        return session

    def _opened(self, opening: asyncio.Task[Session]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # it was looked at, should all who waited have gone

    def _failed(self) -> None:
        """Put off the next session, as one has ended or has not begun."""
        self._wait_s = min(LONGEST_WAIT_S, 2 * self._wait_s or FIRST_WAIT_S)
        self._not_before = asyncio.get_running_loop().time() + self._wait_s

    async def _farewell(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._session is not None:
            await self._session.close()


async def _until(moment: float) -> None:
    """Wait until a moment of the loop's clock."""
    await asyncio.sleep(moment - asyncio.get_running_loop().time())


class _MCPTool(Tool[..., Any]):
    """A tool of an MCP server."""

    def __init__(
        self, line: Callable[[], _Line], listed: Any, *, name: str, effect: Effect, **options: Any
    ) -> None:
        self._listed = listed
        self._checked = _validator(name, listed.input_schema)

        async def call(**arguments: Any) -> Any:
            context: ToolContext | None = arguments.pop(_CONTEXT, None)
            meta = {KEY: context.idempotency_key} if context and effect != "read" else {}
            deadline = context.deadline if context else None
            try:
                return await line().call(listed.name, arguments, meta, deadline)
            except ToolError as error:
                if error.error_class != "bad_output" or effect == "read":
                    raise
                # What came says nothing of what was done, so nobody knows that.
                raise MCPServerLost(str(error)) from error

        call.__name__ = call.__qualname__ = name
        call.__doc__ = listed.description or listed.title
        call.__signature__ = _signature(listed.input_schema)  # type: ignore[attr-defined]
        super().__init__(call, name=name, effect=effect, **options)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The tool as the API takes it, with the schema as the server gave it."""
        described = {"description": self.__doc__} if self.__doc__ else {}
        return {"name": self.name, **described, "input_schema": self._listed.input_schema}

    def arguments(self, raw: bytes) -> dict[str, Any]:
        """Return Claude's arguments as they are, if the schema has nothing against them.

        Raises:
            InvalidArguments: it has; the message tells Claude what.

        """
        found = decoded(self.name, raw)
        if wrong := _wrong(self._checked, found):
            raise InvalidArguments(complaint(self.name, wrong))
        return found

    def takes(self, given: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return what of another tool's arguments it takes, and the names of those it does not."""
        names = self._listed.input_schema.get("properties", {})
        dropped = [name for name, value in given.items() if name not in names and value is not None]
        return {name: given[name] for name in names if name in given}, tuple(dropped)

    @property
    def context_parameter(self) -> str:
        """The parameter that takes the `ToolContext`."""
        return _CONTEXT


def _signature(schema: dict[str, Any]) -> Signature:
    """Return the arguments that a schema has as those of a function, as far as they can be."""
    needed = schema.get("required", ())
    return Signature(
        [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty if name in needed else None,
                annotation=Any,
            )
            for name in schema.get("properties", {})
            if name.isidentifier() and not iskeyword(name)
        ]
    )


def _installed() -> Any:
    try:
        from outlast import mcp_session  # noqa: PLC0415  (imports mcp)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "httpx2", "jsonschema"):
            raise
        raise UsageError(
            "MCP servers are spoken to by the package mcp, which is not installed: "
            "pip install 'outlast[mcp]'"
        ) from error
    return mcp_session


def _name(words: tuple[str, ...], url: str) -> str:
    """Return how a server is called where it has no name: of options, nothing is told."""
    if words:
        return " ".join([words[0], *takewhile(_PLAIN.fullmatch, words[1:2])])
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _validator(name: str, schema: dict[str, Any]) -> Any:
    import jsonschema  # type: ignore[import-untyped]  # noqa: PLC0415  (mcp brings it)
    from referencing import Registry  # noqa: PLC0415

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InvalidTool(f"tool {name!r}: what the server gave is no schema: {error}") from error
    registry: Registry[Any] = Registry()  # an empty one: references are followed nowhere else
    return kind(schema, registry=registry)


def _wrong(validator: Any, found: dict[str, Any]) -> list[str]:
    # Whatever goes wrong here must become an answer for Claude, as in `tools`.
    try:
        return [
            f"- {'.'.join(map(str, error.absolute_path)) or 'arguments'}: {error.message[:300]}"
            for error in validator.iter_errors(found)
        ]
    except Exception as error:  # noqa: BLE001  (such as a reference that leads nowhere)
        return [f"- checking them failed with {type(error).__name__}"]
