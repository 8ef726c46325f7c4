"""One tool call: the function is run, contained, and what came of it becomes an event.

Whatever a function does (raise, hang, exit, return what cannot be written), the call has an
outcome that the model can read, and the exception's own text never reaches the model.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from outlast.agent import Agent
from outlast.decide import CallTool
from outlast.errors import ToolError
from outlast.events import (
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallSucceeded,
    ToolFailureKind,
)
from outlast.tool import Tool, ToolContext


async def call_tool(  # noqa: PLR0913  (what a call needs from outside)
    call: CallTool,
    agent: Agent,
    *,
    run_id: str,
    tenant: str,
    deps: Any,
    put_blob: Callable[[bytes], str],
) -> ToolCallSucceeded | ToolCallFailed | ToolCallInDoubt:
    """Run the tool and return the outcome of the call; only a cancellation is raised."""
    declared = agent.tool(call.tool)
    assert declared is not None, f"{call.tool} was there when the call was decided"  # noqa: S101
    began = time.monotonic()
    context = ToolContext(
        run_id=run_id,
        call_id=call.call_id,
        idempotency_key=call.idempotency_key,
        attempt=call.attempt,
        deadline=None if declared.timeout_s is None else began + declared.timeout_s,
        tenant=tenant,
        deps=deps,
    )
    try:
        value = await _run(declared, call, context)
    except TimeoutError:
        return _timed_out(call, declared)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return failed_call(call, error, latency_ms=_ms(began))
    except (Exception, SystemExit) as error:  # noqa: BLE001  (contained: the outcome says so)
        return failed_call(call, error, latency_ms=_ms(began))
    return succeeded_call(call, declared, value, latency_ms=_ms(began), put_blob=put_blob)


def failed_call(call: CallTool, error: BaseException, *, latency_ms: int) -> ToolCallFailed:
    """Return the outcome of a function that raised: only a `ToolError` is told in its words."""
    if isinstance(error, ToolError):
        return _failed(call, "refused", str(error), error, latency_ms)
    told = f"{call.tool} failed with {type(error).__name__}. The call has no result."
    return _failed(call, "raised", told, error, latency_ms)


async def _run(declared: Tool[..., Any], call: CallTool, context: ToolContext) -> Any:
    arguments = declared.arguments(bytes(call.arguments))
    if name := declared.context_parameter:
        arguments[name] = context
    async with asyncio.timeout(declared.timeout_s) as limit:
        try:
            if declared.is_async:
                return await declared.function(**arguments)
            return await _in_thread(declared.function, arguments)
        except TimeoutError as error:
            if limit.expired():
                raise
            raise ToolTimeout(str(error)) from error


class ToolTimeout(Exception):
    """The function raised TimeoutError of its own: it failed, within its time."""


async def _in_thread(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Run a sync function in a daemon thread of its own.

    Not in a pool: a function that never returns would take a place in it for ever, and would keep
    the process from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            value, error = context.run(function, **arguments), None
        except BaseException as raised:  # noqa: BLE001  (handed to whoever waits)
            value, error = None, raised
        try:
            loop.call_soon_threadsafe(_settle, future, value, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    threading.Thread(target=work, name=f"outlast-tool-{function}", daemon=True).start()
    return await future


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration | KeyboardInterrupt | asyncio.CancelledError):
        # A future cannot hold the first, and the others would look like our own.
        future.set_exception(RuntimeError(type(error).__name__))
    else:
        future.set_exception(error)


def succeeded_call(
    call: CallTool,
    declared: Tool[..., Any],
    value: Any,
    *,
    latency_ms: int,
    put_blob: Callable[[bytes], str],
) -> ToolCallSucceeded | ToolCallFailed:
    """Return the outcome of a function that returned `value`; one too long goes to a blob."""
    try:
        text = value if isinstance(value, str) else _json_text(value)
        whole = text.encode()
    except Exception as error:  # noqa: BLE001  (the effect happened; only its result is unreadable)
        told = (
            f"{call.tool} was called and returned, but its result ({type(value).__name__}) cannot "
            "be written as JSON, so it is not known what it said."
        )
        return _failed(call, "bad_result", told, error, latency_ms)
    blob = ""
    if len(whole) > declared.max_result_bytes:
        blob = put_blob(whole)
        kept = whole[: declared.max_result_bytes].decode("utf-8", "ignore")
        text = (
            f"{kept}\n[truncated: these are the first {declared.max_result_bytes} of "
            f"{len(whole)} bytes; ask for less at a time]"
        )
    return ToolCallSucceeded(
        ask_id=call.ask_id,
        call_id=call.call_id,
        tool_use_id=call.tool_use_id,
        content=Raw(msgspec.json.encode(text)),
        blob=blob,
        latency_ms=latency_ms,
    )


def _json_text(value: Any) -> str:
    from pydantic_core import to_json  # noqa: PLC0415  (not needed to import outlast)

    return to_json(value).decode()


def _failed(
    call: CallTool, kind: ToolFailureKind, told: str, error: BaseException, latency_ms: int
) -> ToolCallFailed:
    return ToolCallFailed(
        ask_id=call.ask_id,
        call_id=call.call_id,
        tool_use_id=call.tool_use_id,
        kind=kind,
        content=_text(told),
        error=_printable(f"{type(error).__name__}: {error}"),
        latency_ms=latency_ms,
    )


def _timed_out(call: CallTool, declared: Tool[..., Any]) -> ToolCallFailed | ToolCallInDoubt:
    after = f"{call.tool} did not return within {declared.timeout_s:g} s"
    if declared.effect == "read":
        return ToolCallFailed(
            ask_id=call.ask_id,
            call_id=call.call_id,
            tool_use_id=call.tool_use_id,
            kind="timeout",
            content=_text(f"{after}. The call has no result."),
            error=after,
        )
    # The function may still do what it was called for.
    return ToolCallInDoubt(
        ask_id=call.ask_id,
        call_id=call.call_id,
        tool_use_id=call.tool_use_id,
        kind="timeout",
        content=_text(f"{after}. The outcome is unknown: it may or may not have happened."),
    )


def _text(text: str) -> Raw:
    return Raw(msgspec.json.encode(_printable(text)))


def _printable(text: str) -> str:
    # A lone surrogate cannot be written as UTF-8, and an error must never be lost to that.
    return text.encode("utf-8", "replace").decode()


def _ms(began: float) -> int:
    return int((time.monotonic() - began) * 1000)
