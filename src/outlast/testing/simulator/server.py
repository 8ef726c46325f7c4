"""The HTTP side of the simulator: requests in, answers and faults out, as Anthropic sends them."""

from __future__ import annotations

import asyncio
import socket
import struct
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from outlast.models import strict
from outlast.models.claude import Answer, Claude
from outlast.models.saying import Said
from outlast.models.script import SLOW, STREAMED, Fault
from outlast.testing.simulator import batches, listing, sse
from outlast.testing.simulator.state import Line, State, kept, now

HTML: Final = b"<!doctype html><title>Welcome</title><p>Please log in to this network."

PINGS: Final = 30
"""So many pings come when nothing else does."""

DRIPS: Final = 100
"""In about so many pieces an answer comes that drips."""

VERSIONS: Final = frozenset({"2023-06-01", "2026-10-21"})
"""The versions of the API, by the header `anthropic-version`; they differ in nothing simulated."""

BETA: Final = "compact-2026-01-12"
BETA_EDIT: Final = b'"compact_20260112"'
"""What a request may only ask for that names the beta in the header `anthropic-beta`."""

Connection = Callable[[Scope], asyncio.Transport | None]
"""Finds the connection that a request came in on."""


def application(claude: Claude, state: State, connection: Connection) -> Starlette:  # noqa: PLR0915  (a route each)
    """Return the simulator as an ASGI application."""

    async def messages(request: Request) -> ASGIApp:
        body = await request.body()
        if turned_away := _turned_away(request.headers, body):
            return _turn_away(turned_away, body, request.headers, state)
        key = _key(request.headers)
        try:
            answer = claude.answer(body, key)
        except Exception as error:  # noqa: BLE001  (a script may raise anything, and must be told)
            traceback.print_exc()
            return _script_error(error, body, request.headers, state)
        state.write(answer, body=body, headers=request.headers, status=_status(answer))
        limits = claude.limits(key, str(answer.request.get("model", "")))
        return Delivery(answer, limits, connection)

    async def count_tokens(request: Request) -> Response:
        body = await request.body()
        counted = _turned_away(request.headers, body) or claude.count(body)
        if isinstance(counted, Fault):
            return _turn_away(counted, body, request.headers, state)
        state.write_line(_uncounted_line(body, request.headers, outcome="counted"))
        return _json({"input_tokens": counted})

    async def send_batch(request: Request) -> ASGIApp:
        body = await request.body()
        if turned_away := _turned_away(request.headers, body):
            return _turn_away(turned_away, body, request.headers, state)
        try:
            sent = claude.batch(body, _key(request.headers))
        except Exception as error:  # noqa: BLE001  (as above)
            traceback.print_exc()
            return _script_error(error, body, request.headers, state)
        fault = sent.fault
        status = fault.status if fault and fault.kind == "status" else 200
        kind = fault.kind if fault else None
        seen = _uncounted_line(
            body, request.headers, outcome="batch_sent", status=status, fault=kind
        )
        state.write_line(seen)
        for entry, answer in sent.answers:
            state.write(answer, body=entry, headers=request.headers, status=_status(answer))
        if sent.batch is None:
            assert fault  # noqa: S101  (what is not accepted has a reason)
            return Spoiled(fault, b"", connection)
        line = batches.line_of(sent.batch, len(sent.answers))
        state.write_batch(line)
        whole = msgspec.json.encode(batches.told(line, claude.now(), str(request.base_url)))
        return Spoiled(fault, whole, connection)

    async def batch(request: Request) -> Response:
        return about_batch(request, "batch_polled")

    async def batch_results(request: Request) -> Response:
        return about_batch(request, "batch_fetched")

    def about_batch(request: Request, outcome: str) -> Response:
        name = request.path_params["name"]
        line = state.batches.get(name)
        fault = _turned_away(request.headers)
        if line is None:
            fault = fault or strict.invalid(f"batch {name} not found", status=404)
        results = batches.results(line, claude.now()) if line else None
        if results is None and outcome == "batch_fetched":
            fault = fault or strict.invalid(f"batch {name} has no results yet")
        if fault or line is None:
            return _turn_away(fault or strict.invalid(""), b"", request.headers, state)
        state.write_line(_uncounted_line(name.encode(), request.headers, outcome=outcome))
        if outcome == "batch_fetched":
            return Response(results, media_type="application/binary")
        return _json(batches.told(line, claude.now(), str(request.base_url)))

    async def rate_limits(request: Request) -> Response:
        if turned_away := _turned_away(request.headers):
            return _error_response(turned_away)
        if "admin" not in _key(request.headers):
            return _error_response(
                strict.invalid("this endpoint takes an Admin API key", status=403)
            )
        return _json(listing.rate_limits(claude.quota))

    return Starlette(
        routes=[
            Route("/v1/messages", messages, methods=["POST"]),
            Route("/v1/messages/batches", send_batch, methods=["POST"]),
            Route("/v1/messages/batches/{name}", batch, methods=["GET"]),
            Route("/v1/messages/batches/{name}/results", batch_results, methods=["GET"]),
            Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
            Route("/v1/models", _models, methods=["GET"]),
            Route("/v1/organizations/rate_limits", rate_limits, methods=["GET"]),
            Route("/v1/models/{name}", _model, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _not_there},
    )


class Delivery:
    """Sends an answer, or what a fault makes of it."""

    def __init__(self, answer: Answer, limits: Mapping[str, str], connection: Connection) -> None:
        self._answer = answer
        self._limits = limits
        self._connection = connection

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it, at the pace of the script."""
        answer, fault = self._answer, self._answer.fault
        if fault:
            await asyncio.sleep(fault.delay_s)
        if fault and fault.kind == "reset":
            await _reset(self._connection(scope))
        elif fault and fault.kind == "html":
            await self._whole(fault.body.encode() or HTML, send, content_type="text/html")
        elif fault and (fault.kind == "status" or not (answer.streams or fault.kind in SLOW)):
            await self._error(fault, send)
        elif answer.streams:
            await self._stream(_said(answer), fault, send)
        else:
            await self._message(_said(answer), fault, send)

    async def _message(self, said: Said, fault: Fault | None, send: Send) -> None:
        await asyncio.sleep(max(said.first_token_s, said.total_s))
        body = sse.message(said)
        if fault and fault.kind == "drip":
            await self._start(200, {"content-length": str(len(body))}, send)
            await _drip(send, body, fault.lasts_s)
        else:
            await self._whole(body, send)

    async def _error(self, fault: Fault, send: Send) -> None:
        if fault.kind in STREAMED and fault.kind != "error_event":
            # Without a stream all are the same: half of the JSON, and the connection is gone.
            whole = sse.message(_said(self._answer))
            await self._start(200, {"content-length": str(len(whole))}, send)
            await _send(send, whole[: len(whole) // 2], more=True)
            await asyncio.sleep(fault.lasts_s)
            return
        body = error_body(fault, self._answer.request_id)
        await self._whole(body, send, status=fault.status)

    async def _stream(self, said: Said, fault: Fault | None, send: Send) -> None:
        events = sse.events(said)
        step = max(0.0, said.total_s - said.first_token_s) / len(events)
        broken = fault if fault and fault.kind in STREAMED else None
        if broken:
            # The end is never sent, however late the fault: that is what makes it one.
            end = len(events) - 2 if broken.after_events is None else broken.after_events
            events = events[: min(end, len(events) - 1)]
        await asyncio.sleep(said.first_token_s)
        await self._start(200, {"content-type": "text/event-stream; charset=utf-8"}, send)
        if fault and fault.kind == "drip":
            await _drip(send, b"".join(events), fault.lasts_s)
            return
        for event in events:
            await _send(send, event, more=True)
            await asyncio.sleep(step)
        if broken is None or await self._broken(broken, send):
            await _send(send, b"", more=False)

    async def _broken(self, fault: Fault, send: Send) -> bool:
        """Do what a fault does to a stream, and return whether it still ends as it should.

        The server closes a connection whose answer was left unfinished.
        """
        if fault.kind == "error_event":
            body = error_body(fault, self._answer.request_id)
            await _send(send, sse.error_event(body), more=True)
        elif fault.kind == "pings":
            for _ in range(PINGS):
                await _send(send, sse.PING, more=True)
                await asyncio.sleep(fault.lasts_s / PINGS)
        elif fault.kind == "stall":
            await asyncio.sleep(fault.lasts_s)
        return fault.kind in ("error_event", "truncated")

    async def _whole(
        self, body: bytes, send: Send, *, status: int = 200, content_type: str = "application/json"
    ) -> None:
        headers = {"content-type": content_type, "content-length": str(len(body))}
        await self._start(status, headers, send)
        await _send(send, body, more=False)

    async def _start(self, status: int, headers: Mapping[str, str], send: Send) -> None:
        fault = self._answer.fault
        all_headers = {
            "content-type": "application/json",
            "request-id": self._answer.request_id,
            **self._limits,
            **headers,
            **({name.lower(): value for name, value in fault.headers.items()} if fault else {}),
        }
        raw = [(name.encode(), value.encode()) for name, value in all_headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})


class Spoiled:
    """Sends what is said of a batch that came, or what a fault makes of it."""

    def __init__(self, fault: Fault | None, whole: bytes, connection: Connection) -> None:
        self._fault = fault
        self._whole = whole
        self._connection = connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        fault = self._fault
        if fault:
            await asyncio.sleep(fault.delay_s)
        if fault is None or fault.kind in SLOW:
            response = Response(self._whole, media_type="application/json")
        elif fault.kind == "status":
            response = _error_response(fault)
            response.headers.update(fault.headers)
        elif fault.kind == "html":
            response = Response(fault.body.encode() or HTML, media_type="text/html")
        else:
            await _reset(self._connection(scope))
            return
        await response(scope, receive, send)


def error_body(fault: Fault, request_id: str) -> bytes:
    """Return the error as the API writes it."""
    error: dict[str, Any] = {"type": fault.type, "message": fault.message}
    if fault.error_code:
        error["details"] = {"error_code": fault.error_code}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})


def _said(answer: Answer) -> Said:
    assert answer.said  # noqa: S101  (an answer without one has a fault that needs none)
    return answer.said


async def _send(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _drip(send: Send, body: bytes, lasts_s: float) -> None:
    size = -(-len(body) // DRIPS)
    for start in range(0, len(body), size):
        await asyncio.sleep(lasts_s / DRIPS)
        await _send(send, body[start : start + size], more=True)
    await _send(send, b"", more=False)


async def _reset(transport: asyncio.Transport | None) -> None:
    if transport is None:  # the client is gone already
        return
    peer: socket.socket = transport.get_extra_info("socket")
    # Linger 0 makes the kernel send RST instead of FIN.
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    # The server is told by a callback of the next turn of the loop; before that it would try to
    # answer that the application gave no answer.
    await asyncio.sleep(0.01)


def _status(answer: Answer) -> int:
    fault = answer.fault
    if fault and fault.kind == "reset":
        return 0
    if fault and (fault.kind == "status" or (fault.kind == "error_event" and not answer.streams)):
        return fault.status
    return 200


# ── requests that never reach Claude ────────────────────────────────────────────────────────────


def _key(headers: Mapping[str, str]) -> str:
    """Return the API key, of either style of header, empty when there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key", "") or (token.strip() if scheme.lower() == "bearer" else "")


def _turned_away(headers: Mapping[str, str], body: bytes = b"") -> Fault | None:
    if not _key(headers):
        return strict.invalid(
            "x-api-key header is required, or authorization with a bearer token", status=401
        )
    version = headers.get("anthropic-version")
    if not version:
        return strict.invalid("anthropic-version: header is required")
    if version not in VERSIONS:
        return strict.invalid(f"anthropic-version: {version!r} is not a valid version")
    if BETA_EDIT in body and BETA not in headers.get("anthropic-beta", ""):
        return strict.invalid(f"context_management: not permitted without the beta {BETA}")
    return None


def _uncounted_line(
    body: bytes,
    headers: Mapping[str, str],
    *,
    outcome: str,
    status: int = 200,
    fault: str | None = None,
) -> Line:
    return Line(
        at=now(),
        key="",
        attempt=0,
        body=body.decode(errors="replace"),
        headers=kept(headers),
        outcome=outcome,
        status=status,
        fault=fault,
    )


def _turn_away(
    fault: Fault, body: bytes, headers: Mapping[str, str], state: State, outcome: str = "refused"
) -> Response:
    state.write_line(
        _uncounted_line(body, headers, outcome=outcome, status=fault.status, fault=fault.kind)
    )
    return _error_response(fault)


def _script_error(
    error: Exception, body: bytes, headers: Mapping[str, str], state: State
) -> Response:
    message = f"the script raised {type(error).__name__}: {error}"
    fault = Fault(kind="status", status=500, message=message)
    return _turn_away(fault, body, headers, state, outcome="script_error")


def _error_response(fault: Fault) -> Response:
    return Response(
        error_body(fault, "req_none"),
        status_code=fault.status,
        media_type="application/json",
        headers={"request-id": "req_none"},
    )


async def _not_there(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    message = f"the simulator does not answer {request.method} {request.url.path}"
    return _error_response(strict.invalid(message, status=status))


async def _models(request: Request) -> Response:
    if turned_away := _turned_away(request.headers):
        return _error_response(turned_away)
    asked = request.query_params
    limit = asked.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit) <= 1_000:
        return _error_response(strict.invalid(f"limit: {limit!r} is not between 1 and 1000"))
    return _json(listing.page(int(limit), asked.get("after_id"), asked.get("before_id")))


async def _model(request: Request) -> Response:
    if turned_away := _turned_away(request.headers):
        return _error_response(turned_away)
    name = request.path_params["name"]
    found = listing.one(name)
    if found is None:
        return _error_response(strict.invalid(f"model: {name}", status=404))
    return _json(found)


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
