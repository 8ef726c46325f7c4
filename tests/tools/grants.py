"""Grants over HTTP: a server that fails as servers do, and tools that ask it as people write them.

What the server did is the world that results are compared with.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import socket
import struct
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
from pydantic import BaseModel
from typing_extensions import TypedDict  # which pydantic asks for before Python 3.12

import outlast

FAILURES = (
    "404",  # with an empty body
    "{}",
    "empty",  # 200, and no body
    "html",  # 200, and a page that says that it is being mended
    "type",  # 200, and JSON of another kind
    "500",
    "429",
    "slow",  # no reply before the client gives up
    "reset",
)
FAST: dict[str, Any] = {"trust_env": False, "verify": False}
"""Loads no certificates, which takes a while."""

FOUND, NOTHING = "found", "nothing"
TEXTS = ("text-alone", "text-fewer_kept")
"""Sources whose tools give a text as it came."""

PAGE = b"<!doctype html><title>We will be back soon</title>"
OTHER = (b'"down"', b'{"error":"down"}', b"[1,2]", b"[{}]", b"null", b"17", b'[{"title":"x"}]')
AS_OF = datetime(2026, 3, 2, 1, tzinfo=UTC)
GIVES_UP_S = 0.2
PATIENCE_S = 30.0
"""How long a client waits where an answer is to come; nothing is expected to take it."""


class Grant(BaseModel):
    """What tools promise."""

    name: str
    usd: int


class Row(TypedDict):
    """The same as a dict."""

    name: str
    usd: int


class Server(ThreadingHTTPServer):
    """Serves grants, or fails, as it is drawn for each source, case and request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seed = seed
        self.did: dict[tuple[str, int], list[str]] = defaultdict(list)
        """What was done with each request, by source and case."""
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone."""

    def next(self, source: str, case: int) -> str:
        """Return what is done with the next request."""
        if source == "patient":
            return "slow"
        draw = random.Random(f"{self.seed} {source} {case} {len(self.did[source, case])}")  # noqa: S311
        # A page is a text like any other, to whoever wants a text.
        told = [one for one in FAILURES if source not in TEXTS or one not in {"html", "type"}]
        return draw.choice((*told, *told, FOUND, FOUND, FOUND, NOTHING, NOTHING))

    def take(self, source: str, case: int) -> str:
        """Return the same, and remember that it was done."""
        with self.lock:
            what = self.next(source, case)
            self.did[source, case].append(what)
        return what

    def url(self, source: str, case: int) -> str:
        """Return where a source answers."""
        return f"http://127.0.0.1:{self.server_port}/{source}/{case}"

    def patience_s(self, source: str, case: int) -> float:
        """Return for how long a client waits: it does not depend on how fast the machine is."""
        with self.lock:
            return GIVES_UP_S if self.next(source, case) == "slow" else PATIENCE_S


class Handler(BaseHTTPRequestHandler):
    """Answers a request."""

    server: Server

    def do_GET(self) -> None:
        """Do what was drawn."""
        _, source, case = self.path.split("/")
        what = self.server.take(source, int(case))
        if what == "slow":
            self.server.closing.wait(PATIENCE_S)
        elif what == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
        elif what in {"404", "500", "429"}:
            wait = {"429": {"Retry-After": ("0", "120")[int(case) % 2]}}.get(what, {})
            self._say(int(what), PAGE if what == "500" else b"", **wait)
        else:
            self._say(200, body(what, source, int(case)))

    def _say(self, status: int, said: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (as it is declared)
        """Say nothing."""


def body(what: str, source: str, case: int) -> bytes:
    """Return what is answered with a status of 200."""
    grants = [{"name": f"{source}-{case}", "usd": case}]
    said = {"{}": b"{}", "empty": b"", "html": PAGE, FOUND: json.dumps(grants).encode()}
    return said.get(what, b"[]" if what == NOTHING else OTHER[case % len(OTHER)])


@contextmanager
def serving(seed: int) -> Iterator[Server]:
    """Give a server that is served by threads of its own."""
    with Server(seed) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


# ── clients, as people write them ───────────────────────────────────────────────────────────────


def by_urllib(server: Server, source: str, case: int) -> Any:
    """Ask, with a client that raises for a status."""
    url, wait_s = server.url(source, case), server.patience_s(source, case)
    with urllib.request.urlopen(url, timeout=wait_s) as reply:  # noqa: S310  (loopback)
        return json.load(reply)


def by_http_client(server: Server, source: str, case: int) -> Any:
    """Ask, and forget that there are statuses."""
    wait_s = server.patience_s(source, case)
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=wait_s)
    try:
        connection.request("GET", f"/{source}/{case}")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def by_httpx(server: Server, source: str, case: int) -> Any:
    """Ask, and look at the status."""
    wait_s = server.patience_s(source, case)
    reply = httpx2.get(server.url(source, case), timeout=wait_s, **FAST)
    return reply.raise_for_status().json()


def text_by_httpx(server: Server, source: str, case: int) -> str:
    """Ask for the text, and look at nothing but the status."""
    wait_s = server.patience_s(source, case)
    reply = httpx2.get(server.url(source, case), timeout=wait_s, **FAST)
    return reply.raise_for_status().text


CLIENTS: dict[str, Callable[[Server, str, int], Any]] = {
    "urllib": by_urllib,
    "client": by_http_client,
    "httpx": by_httpx,
}


# ── tools ───────────────────────────────────────────────────────────────────────────────────────

CHAINS = ("alone", "fewer", "same", "tool", "kept", "dated", "fewer_kept", "tool_fewer_kept")
"""What follows a tool: functions that take fewer arguments or the same, a tool, what was kept."""


class Kit:
    """A tool, and what its results have to be told of."""

    def __init__(self, name: str, tool: outlast.Tool[..., Any], chain: str) -> None:
        self.name = name
        self.tool = tool
        self.chain = chain
        self.strict = tool.empty_is_failure
        fallbacks = [] if chain == "alone" else chain.split("_")
        self.sources = [name, *(f"{name}-{one}" for one in fallbacks if one != "kept")]
        self.keeps = "kept" in fallbacks

    def legit(self, what: str) -> bool:
        """Return whether what the server did is an answer."""
        return what == FOUND or (what == NOTHING and not self.strict)


def fallbacks(server: Server, name: str, chain: str, ask: Any) -> list[Any]:
    """Return what follows a tool."""

    def fewer(case: int) -> list[Row]:
        """Take no maximum."""
        return ask(server, f"{name}-fewer", case)  # type: ignore[no-any-return]

    async def same(case: int, max_usd: int) -> list[Grant]:
        """Take both."""
        wait_s = server.patience_s(f"{name}-same", case)
        async with httpx2.AsyncClient(timeout=wait_s, **FAST) as client:
            reply = await client.get(server.url(f"{name}-same", case))
            return reply.raise_for_status().json()  # type: ignore[no-any-return]

    @outlast.tool(effect="read", attempts=2, name=f"{name}-tool")
    def other(max_usd: int, case: int) -> list[Grant]:
        """Take both, and be asked twice."""
        return ask(server, f"{name}-tool", case)  # type: ignore[no-any-return]

    def dated(case: int) -> outlast.Degraded[list[Grant]]:
        """Say where it is from, and from when."""
        found = ask(server, f"{name}-dated", case)
        return outlast.Degraded(found, source="the mirror", as_of=AS_OF, note="a copy")

    known = {
        "fewer": fewer,
        "same": same,
        "tool": other,
        "dated": dated,
        "kept": outlast.LastGood(max_age="1h"),
    }
    return [] if chain == "alone" else [known[one] for one in chain.split("_")]


def kits(server: Server) -> list[Kit]:
    """Return tools of every client, with every chain of fallbacks, tried once or several times."""
    found = []
    for number, ((client, ask), chain) in enumerate(itertools.product(CLIENTS.items(), CHAINS)):
        name = f"{client}-{chain}"

        def find(case: int, max_usd: int, *, ask: Any = ask, name: str = name) -> Any:
            """Find grants."""
            return ask(server, name, case)

        found.append(_kit(server, name, chain, ask, find, attempts=1 + number % 3))
    found += [_texts(server, chain) for chain in CHAINS if f"text-{chain}" in TEXTS]
    found.append(_patient(server))
    return found


def _kit(  # noqa: PLR0917  (what a tool is made of)
    server: Server, name: str, chain: str, ask: Any, find: Any, attempts: int
) -> Kit:
    def promising(case: int, max_usd: int) -> list[Grant]:
        """Find grants."""
        return find(case, max_usd)  # type: ignore[no-any-return]

    async def trusted_little(case: int, max_usd: int) -> list[Row]:
        """Find grants; nothing found is a failure."""
        wait_s = server.patience_s(name, case)
        async with httpx2.AsyncClient(timeout=wait_s, **FAST) as client:
            return (await client.get(server.url(name, case))).json()  # type: ignore[no-any-return]

    strict = attempts == 2
    tool = outlast.tool(
        name=name,
        effect="read",
        attempts=attempts,
        fallbacks=fallbacks(server, name, chain, ask),
        empty_is_failure=strict,
        retry_on=("bad_output",) if attempts == 3 else (),
    )(trusted_little if strict else promising)
    return Kit(name, tool, chain)


def _texts(server: Server, chain: str) -> Kit:
    """Return a tool that gives a text as it came, and takes an empty one for a failure."""
    name = f"text-{chain}"

    def find(case: int, max_usd: int) -> str:
        """Find grants."""
        return text_by_httpx(server, name, case)

    after = fallbacks(server, name, chain, by_urllib)
    tool = outlast.tool(name=name, effect="read", fallbacks=after, empty_is_failure=True)(find)
    return Kit(name, tool, chain)


def _patient(server: Server) -> Kit:
    """Return a tool whose client waits for ever, so that the tool's own time is over first."""

    def find(case: int, max_usd: int) -> list[Grant]:
        """Find grants."""
        url = server.url("patient", case)
        return httpx2.get(url, timeout=None, **FAST).json()  # type: ignore[no-any-return]

    after = fallbacks(server, "patient", "tool", by_urllib)
    tool = outlast.tool(name="patient", effect="read", timeout_s=GIVES_UP_S, fallbacks=after)
    return Kit("patient", tool(find), "tool")
