"""One tool call: the function is run, contained, and what came of it becomes an event.

Whatever a function does (raise, hang, exit, return what cannot be written), the call has an
outcome that the model can read, and the exception's own text never reaches the model.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast.actions import CallStep, CallTool
from outlast.agent import Agent
from outlast.classes import classify, retry_after
from outlast.content import Put
from outlast.errors import StoreError, ToolError, UsageError
from outlast.events import (
    NULL,
    UNDONE,
    Degradation,
    ErrorClass,
    StepFinished,
    StepKind,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallSucceeded,
    ToolFailureKind,
)
from outlast.flows import hint, validated
from outlast.history import beside
from outlast.logs import Place, placed
from outlast.recovery import doubtful
from outlast.redaction import Redact, redacted, same, within
from outlast.results import Unshowable, cut, json_text, shown
from outlast.sources import Degraded, Reconciled, degradation, told
from outlast.tools import (
    MAX_RESULT_BYTES,
    MAX_RESULT_TOKENS,
    Tool,
    ToolContext,
)
from outlast.unanswered import unanswered
from outlast.workshop import Shop, named


async def call_tool(  # noqa: PLR0913  (what a call needs from outside)
    call: CallTool,
    agent: Agent,
    *,
    run_id: str,
    tenant: str,
    deps: Any,
    put_blob: Put,
    redact: Redact = same,
    seq: int = 0,
    spawn: Callable[[Any, Any], Awaitable[Any]] | None = None,
    workshop: Shop | None = None,
) -> ToolCallSucceeded | ToolCallFailed | ToolCallInDoubt:
    """Run the tool, or its fallback, and return the outcome; only a cancellation is raised.

    What it logs can be led back to `seq`, where the intent of the call stands.  With a `workshop`,
    a coroutine function is called there.
    """
    tool = tool_of(agent, call.tool)
    declared = tool.sources[call.rank]
    assert isinstance(declared, Tool), f"{declared} is looked up, not called"  # noqa: S101
    began = time.monotonic()
    arguments = call.given
    if name := declared.context_parameter:
        context = ToolContext(
            run_id=run_id,
            call_id=call.call_id,
            idempotency_key=call.idempotency_key,
            attempt=call.attempt,
            deadline=None if declared.timeout_s is None else began + declared.timeout_s,
            tenant=tenant,
            deps=deps,
            spawn=spawn,
        )
        arguments = {**arguments, name: context}
    try:
        with placed(Place(run_id, call.ask_id, call.call_id, seq)):
            value, error = await contained(declared, arguments, None if spawn else workshop)
    except TimeoutError:
        return timed_out(call, tool, declared, latency_ms=_ms(began))
    if error is not None:
        return failed_call(call, error, tool=tool, latency_ms=_ms(began), redact=redact)
    return succeeded_call(
        call, tool, value, latency_ms=_ms(began), put_blob=put_blob, redact=redact
    )


def tool_of(agent: Agent, name: str) -> Tool[..., Any]:
    """Return a tool of an agent that was there when a call of it was decided."""
    declared = agent.tool(name)
    assert declared is not None, f"{name} was there when the call was decided"  # noqa: S101
    return declared


async def call_step(  # noqa: PLR0913  (what a call needs from outside)
    call: CallStep,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    run_id: str,
    tenant: str,
    deps: Any,
    put_blob: Put,
    redact: Redact = same,
    workshop: Shop | None = None,
) -> StepFinished:
    """Call the function of a step and return its outcome; only a cancellation is raised."""
    declared = function if isinstance(function, Tool) else None
    if declared is not None and (name := declared.context_parameter):
        context = ToolContext(
            run_id=run_id,
            call_id=call.call_id,
            idempotency_key=call.idempotency_key,
            attempt=call.attempt,
            deadline=None if declared.timeout_s is None else time.monotonic() + declared.timeout_s,
            tenant=tenant,
            deps=deps,
        )
        kwargs = {**kwargs, name: context}
    plain = function if declared is None else declared.function
    work = _Work(partial(plain, *args), None if declared is None else declared.timeout_s)
    try:
        value, error = await contained(work, kwargs, workshop)
    except TimeoutError:
        told = f"it did not return within {work.timeout_s:g} s"
        is_read = declared is not None and declared.effect == "read"
        status: Literal["failed", "in_doubt"] = "failed" if is_read else "in_doubt"
        return StepFinished(name=call.name, kind="step", status=status, error=told)
    if error is not None:
        told = printable(redacted(f"{type(error).__name__}: {words(error)}", redact))
        return StepFinished(name=call.name, kind="step", status="failed", error=told)
    promised = hint(plain, "return")
    return finished_step(
        call.name, "step", value, put_blob=put_blob, redact=redact, promised=promised
    )


def finished_step(  # noqa: PLR0913  (all but three are keywords)
    name: str,
    kind: StepKind,
    value: Any,
    *,
    put_blob: Put,
    redact: Redact = same,
    promised: Any = Any,
) -> StepFinished:
    """Return the outcome of a step that came to `value`; one too long goes to a blob.

    A result that is not of the type that was promised is none: it could not be given back as one
    when the flow is executed again.
    """
    try:
        whole = within(json_text(value), redact).encode()
        validated(whole, promised)
    except UsageError as error:
        told = printable(f"what it returned is not what its type says: {words(error)}")
        return StepFinished(name=name, kind=kind, status="failed", error=told)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (it happened; it is only unreadable)
        why = redacted(words(error), redact)
        told = f"it returned {type(value).__name__}, which cannot be written as JSON: {why}"
        return StepFinished(name=name, kind=kind, status="failed", error=printable(told))
    is_degraded = isinstance(value, Degraded)
    if len(whole) > MAX_RESULT_BYTES:
        return StepFinished(name=name, kind=kind, blob=put_blob(whole), degraded=is_degraded)
    return StepFinished(name=name, kind=kind, result=Raw(whole), degraded=is_degraded)


class Contained(Protocol):
    """What `contained` needs to know of a function."""

    @property
    def function(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def timeout_s(self) -> float | None: ...  # noqa: D102
    @property
    def is_async(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class _Work:
    """What `_run` needs to know of a function."""

    function: Callable[..., Any]
    timeout_s: float | None

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)


def failed_call(
    call: CallTool,
    error: BaseException,
    *,
    tool: Tool[..., Any],
    latency_ms: int,
    redact: Redact = same,
) -> ToolCallFailed | ToolCallInDoubt:
    """Return the outcome of a function that raised: only a `ToolError` is told in its words.

    Args:
        call: the call.
        error: what was raised.
        tool: the tool that was asked for, whichever of its sources it was.
        latency_ms: how long it took.
        redact: what every text goes through.

    """
    error_class = classify(error)
    if doubtful(error_class, tool.sources[call.rank].effect) and not _is_repeated(call, tool):
        return _doubted(call, tool, error_class, error, latency_ms, redact)
    told = f"{call.tool} failed with {type(error).__name__}. The call has no result."
    if tool.sources[call.rank].effect != "read" and error_class not in UNDONE:
        told += " Nobody knows what it did before that."
    hint = ""
    if isinstance(error, ToolError):
        # Claude's API refuses an error without a word, and with it the whole conversation.
        hint = redacted(words(error), redact)
        hint = cut(hint, _limit(call, MAX_RESULT_TOKENS)) if hint.strip() else ""
        failed = failure(call, "refused", hint or told, error, latency_ms, redact)
    else:
        failed = failure(call, "raised", told, error, latency_ms, redact)
    wait_s = retry_after(error)
    failed = replace(failed, unanswered=unanswered(error), retry_after_s=wait_s)
    return unless_more(failed, call, tool, error_class, hint)


def unless_more(
    failed: ToolCallFailed,
    call: CallTool,
    tool: Tool[..., Any],
    error_class: ErrorClass,
    hint: str = "",
) -> ToolCallFailed:
    """Return a failure as it is written.

    Where something else may be tried, or an attempt before may have done it, nothing is told yet.
    """
    failed = replace(failed, error_class=error_class)
    is_again = call.attempt > 1 and tool.sources[call.rank].effect != "read"
    if tool.recovers or is_again:
        return replace(failed, content=NULL, hint=printable(hint))
    return failed


def _is_repeated(call: CallTool, tool: Tool[..., Any]) -> bool:
    """Return whether a call is made again with the same key, whatever came of it."""
    return tool.sources[call.rank].effect == "idempotent" and tool.recovers


def _doubted(  # noqa: PLR0913, PLR0917  (the fields of the event)
    call: CallTool,
    tool: Tool[..., Any],
    error_class: ErrorClass,
    error: BaseException,
    latency_ms: int,
    redact: Redact,
) -> ToolCallInDoubt:
    """Return the outcome of a call that may have happened though nobody said so."""
    is_open = tool.sources[call.rank].effect == "once"
    said = f"{call.tool} failed with {type(error).__name__}."
    if isinstance(error, ToolError) and (own := redacted(words(error), redact)).strip():
        said = cut(own, _limit(call, MAX_RESULT_TOKENS))
    told = f"{said} The outcome is unknown: {MAYBE}."
    return ToolCallInDoubt(
        ask_id=call.ask_id,
        call_id=call.call_id,
        tool_use_id=call.tool_use_id,
        kind="raised",
        content=NULL if is_open else _text(told),
        open=is_open,
        error=printable(redacted(f"{type(error).__name__}: {words(error)}", redact)),
        error_class=error_class,
        latency_ms=latency_ms,
    )


MAYBE: Final = "it may or may not have happened"


Came: TypeAlias = tuple[Any, BaseException | None]
"""What came of a function: what it returned, or what it raised."""


async def contained(
    declared: Tool[..., Any] | Contained, arguments: dict[str, Any], workshop: Shop | None
) -> Came:
    """Run the function; raise `TimeoutError` only when its time is over."""
    task = asyncio.current_task()
    assert task is not None, "a call outside of any task"  # noqa: S101
    cancels = task.cancelling()
    async with asyncio.timeout(declared.timeout_s) as limit:
        # A child run is driven right here: nothing of it is for a thread.
        if declared.is_async or getattr(declared, "agent", None) is not None:
            came = await _awaited_in(workshop, declared.function, arguments)
        else:
            came = await in_thread(declared.function, arguments)
            if inspect.isawaitable(came[0]):
                # A plain function that hands out a coroutine, as decorators often make them.
                came = await _awaited_in(workshop, lambda: came[0], {})
    if task.cancelling() > cancels:
        raise asyncio.CancelledError  # the function swallowed it, and the run would go on
    if limit.expired() and came[1] is not None:
        raise TimeoutError  # it was given up, and only made something else of that
    return came


async def _awaited_in(
    workshop: Shop | None, function: Callable[..., Any], arguments: dict[str, Any]
) -> Came:
    work = named(_awaited(function, arguments), getattr(function, "__qualname__", ""))
    return await (work if workshop is None else workshop.run(work))


async def _awaited(function: Callable[..., Any], arguments: dict[str, Any]) -> Came:
    task = asyncio.current_task()
    assert task is not None, "a coroutine outside of any task"  # noqa: S101
    cancels = task.cancelling()
    try:
        return whole(await function(**arguments)), None
    except asyncio.CancelledError as error:
        if task.cancelling() > cancels:
            raise  # the call is cancelled, or its time is over
        return None, error
    except GeneratorExit:
        raise  # this very coroutine is being dropped
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and _in_main_thread():
            raise  # Ctrl-C, which may strike anywhere
        return None, error


def whole(value: Any, is_over: Callable[[], bool] = lambda: False) -> Any:
    """Return what a function gave, with what it makes only when it is looked at.

    That is code of the function still: it is run where the function was, in its time, and what it
    raises is what the function raised.  Once nobody waits any more, that is `is_over`, no more of
    it is made.
    """
    if isinstance(value, Degraded):
        return dataclasses.replace(value, value=whole(value.value, is_over))
    if isinstance(value, Reconciled):
        return dataclasses.replace(value, result=whole(value.result, is_over))
    if type(value) is dict and any(isinstance(one, Iterator) for one in value.values()):
        return {name: whole(one, is_over) for name, one in value.items()}
    if type(value) in (list, tuple) and any(isinstance(one, Iterator) for one in value):
        return [whole(one, is_over) for one in value]
    lazy = isinstance(value, Iterator) and not inspect.isawaitable(value)
    return _made(value, is_over) if lazy else value


def _made(value: Iterator[Any], is_over: Callable[[], bool]) -> Any:
    made = _Made()
    for one in value:
        if is_over():
            return None
        made.append(one)
    return made


class _Made(list[Any]):
    """What an iterator gave."""


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


async def in_thread(
    function: Callable[..., Any], arguments: dict[str, Any], *, name: str = ""
) -> Came:
    """Return what came of a sync function, run in a daemon thread of its own.

    It sees the context variables of whoever calls this.

    Not in a pool: a function that never returns would take a place in it for ever, and would keep
    the process from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Came] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        came: Came
        try:
            came = context.run(lambda: whole(function(**arguments), future.done)), None
        except BaseException as raised:  # noqa: BLE001  (handed to whoever waits)
            came = None, raised
        try:
            loop.call_soon_threadsafe(_settle, future, came)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    try:
        threading.Thread(target=work, name=name or f"outlast-tool-{function}", daemon=True).start()
    except RuntimeError as error:  # the system has no thread left
        return None, error
    return await future


def _settle(future: asyncio.Future[Came], came: Came) -> None:
    if not future.done():
        future.set_result(came)


def succeeded_call(  # noqa: PLR0913  (all but three are keywords)
    call: CallTool,
    tool: Tool[..., Any],
    value: Any,
    *,
    latency_ms: int,
    put_blob: Put,
    redact: Redact = same,
) -> ToolCallSucceeded | ToolCallFailed:
    """Return the outcome of a function that returned `value`; one too long goes to a blob."""
    answer = _answer(call, tool, value)
    begin = f"{call.tool} was called and returned, but its result ({type(answer.value).__name__})"
    if wrong := _unpromised(call, tool, answer.value):
        bad = failure(
            call, "bad_result", f"{begin} {wrong}.", Unpromised(wrong), latency_ms, redact
        )
        return unless_more(bad, call, tool, "bad_output")
    try:
        source = tool.sources[call.rank]
        most = source.max_result_tokens if isinstance(source, Tool) else MAX_RESULT_TOKENS
        limit = _limit(call, min(tool.max_result_tokens, most))
        result = shown(answer.value, limit=limit, put=put_blob, redact=redact)
    except StoreError:
        raise  # it says nothing about the result, which is in doubt until the store is mended
    except Unshowable as error:
        told = redacted(f"{begin} cannot be shown: {error}.", redact)
        why = error.__cause__ or error
        failed = failure(call, "bad_result", told, why, latency_ms, redact)
        return unless_more(failed, call, tool, "bad_output")
    except (Exception, SystemExit) as error:  # noqa: BLE001  (it happened; it is only unreadable)
        told = f"{begin} cannot be written as JSON, so it is not known what it said."
        failed = failure(call, "bad_result", told, error, latency_ms, redact)
        return unless_more(failed, call, tool, "bad_output")
    done = success(call, result.content, result.blob, latency_ms)
    done = replace(done, empty=_is_empty(done))
    if done.empty and (tool.empty_is_failure or getattr(source, "empty_is_failure", False)):
        told = "is empty, which counts as a failure of this tool"
        bad = failure(call, "bad_result", f"{begin} {told}.", Unpromised(told), latency_ms, redact)
        return unless_more(bad, call, tool, "bad_output")
    if not isinstance(value, Degraded) and not call.rank:
        return done
    return degraded_call(done, degradation(answer, answer.source, call.dropped), redact)


class Unpromised(Exception):
    """What a tool returned is not what it should be."""


def degraded_call(
    done: ToolCallSucceeded, degraded: Degradation, redact: Redact = same
) -> ToolCallSucceeded:
    """Return an answer that says in what it is less than what was asked for."""
    # All of it may be a tool's own words, of any length, with secrets in them.
    note, source, *dropped = (
        printable(redacted(text, redact))
        for text in (degraded.note, degraded.source, *degraded.dropped)
    )
    degraded = replace(degraded, note=note, source=source, dropped=tuple(dropped))
    note = cut(told(degraded), MAX_NOTE_TOKENS)
    return replace(done, degraded=degraded, content=Raw(beside(bytes(done.content), before=note)))


MAX_NOTE_TOKENS: Final = 2_048
"""How much Claude is told of what an answer lacks; all of it is in the journal."""


def _answer(call: CallTool, tool: Tool[..., Any], value: Any) -> Degraded[Any]:
    """Return what a function returned, and where it is from."""
    source = tool.sources[call.rank].name
    if not isinstance(value, Degraded):
        return Degraded(value, source=source)
    return value if value.source else dataclasses.replace(value, source=source)


_NOTHING: Final = frozenset({"", "null", "[]", "{}", '""'})


def _is_empty(done: ToolCallSucceeded) -> bool:
    """Return whether a result holds nothing, however it was returned: as data, or as their text."""
    text = "" if done.blob else msgspec.json.decode(done.content)
    return not done.blob and isinstance(text, str) and text.strip() in _NOTHING


def _unpromised(call: CallTool, tool: Tool[..., Any], value: Any) -> str:
    """Return in what a result is not what it should be; empty where it is."""
    kind = tool.promised_by(call.rank)
    if kind is None or isinstance(value, Iterator | _Made):
        return ""
    try:
        kind.validate_python(value)
    except (Exception, SystemExit):  # noqa: BLE001  (a validator of the user's own)
        return "is not of the type that the tool promises"
    return ""


def _limit(call: CallTool, declared: int) -> int:
    """Return how many tokens of a result Claude gets: what is declared, where there is room."""
    return min(declared, call.most_tokens) if call.most_tokens else declared


def success(call: CallTool, content: Raw, blob: str, latency_ms: int) -> ToolCallSucceeded:
    """Return the outcome of a call that came to something."""
    return ToolCallSucceeded(
        ask_id=call.ask_id,
        call_id=call.call_id,
        tool_use_id=call.tool_use_id,
        content=content,
        blob=blob,
        latency_ms=latency_ms,
    )


def failure(  # noqa: PLR0913, PLR0917  (the fields of the event)
    call: CallTool,
    kind: ToolFailureKind,
    told: str,
    error: BaseException,
    latency_ms: int,
    redact: Redact,
) -> ToolCallFailed:
    """Return the outcome of a call that came to nothing."""
    return ToolCallFailed(
        ask_id=call.ask_id,
        call_id=call.call_id,
        tool_use_id=call.tool_use_id,
        kind=kind,
        content=_text(told),
        error=printable(redacted(f"{type(error).__name__}: {words(error)}", redact)),
        latency_ms=latency_ms,
        rank=call.rank,
    )


def timed_out(
    call: CallTool, tool: Tool[..., Any], source: Tool[..., Any], *, latency_ms: int
) -> ToolCallFailed | ToolCallInDoubt:
    """Return the outcome of a function that did not return within its time.

    Args:
        call: the call.
        tool: the tool that was asked for.
        source: which of its sources was called.
        latency_ms: how long it took.

    """
    after = f"{call.tool} did not return within {source.timeout_s:g} s"
    if source.effect == "read" or _is_repeated(call, tool):
        failed = ToolCallFailed(
            ask_id=call.ask_id,
            call_id=call.call_id,
            tool_use_id=call.tool_use_id,
            kind="timeout",
            content=_text(f"{after}. The call has no result."),
            error=after,
            latency_ms=latency_ms,
            rank=call.rank,
        )
        return unless_more(failed, call, tool, "timeout_after_sending")
    # The function may still do what it was called for.
    is_open = source.effect == "once"
    return ToolCallInDoubt(
        ask_id=call.ask_id,
        call_id=call.call_id,
        tool_use_id=call.tool_use_id,
        kind="timeout",
        content=NULL if is_open else _text(f"{after}. The outcome is unknown: {MAYBE}."),
        open=is_open,
        error=after,
        error_class="timeout_after_sending",
        latency_ms=latency_ms,
    )


def _text(text: str) -> Raw:
    return Raw(msgspec.json.encode(printable(text)))


def words(error: BaseException) -> str:
    """Return what an exception says, whatever it makes of being asked."""
    try:
        return str(error)
    except (Exception, SystemExit) as worse:  # noqa: BLE001  (it may be broken itself)
        return f"its text cannot be had ({type(worse).__name__})"


def printable(text: str) -> str:
    """Return `text` as it can be written: an error must be lost neither to its size nor to UTF-8.

    Half a surrogate pair becomes a question mark; of a very long text the beginning is kept.
    """
    whole = text.encode("utf-8", "replace")
    if len(whole) <= MAX_RESULT_BYTES:
        return whole.decode()
    kept = whole[:MAX_RESULT_BYTES].decode("utf-8", "ignore")
    return f"{kept}\n[truncated: these are the first {MAX_RESULT_BYTES} of {len(whole)} bytes]"


def _ms(began: float) -> int:
    return int((time.monotonic() - began) * 1000)
