"""Runs the function of a flow: what it asks for becomes wants, and what came of them its answers.

    function ──ask, step, sleep, …──▶ wants ──▶ decide ──▶ journal
        ▲                                                     │
        └──────────────── answers, by name ◀──────────────────┘

The function is executed from the top for every leg, and thrown away at its end.  Whatever the
journal has is answered at once; whatever it does not have is a want until it has.
"""

from __future__ import annotations

import asyncio
import random as dice
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any, Final, NoReturn, TypeVar, get_args
from uuid import UUID, uuid4
from weakref import WeakSet

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast import wants
from outlast.actions import child_id
from outlast.agent import Agent, check_prices
from outlast.answers import InvalidAnswer
from outlast.calls import in_thread, printable, words
from outlast.content import Input, Put, Redact, rendered
from outlast.conversation import Conversation
from outlast.durations import expiry, nanoseconds
from outlast.errors import (
    AskFailed,
    AskRejected,
    FlowChanged,
    IllegalPhase,
    InvalidFlow,
    InvalidInput,
    NameRequired,
    OutlastError,
    StepFailed,
    UsageError,
    shortened,
)
from outlast.events import Effect
from outlast.flows import Flow, hint, validated
from outlast.phases import check_entry
from outlast.redaction import redacted, within
from outlast.run import Approval, Expires, Run
from outlast.state import RunState
from outlast.steps import Begun, Finished
from outlast.tools import EXPIRES, Tool
from outlast.versions import version_of
from outlast.wants import Wants

T = TypeVar("T")

MAX_NAME: Final = 200

AT_ONCE: Final = 8
"""How many child runs of a map run at the same time, unless it says."""

IN_BATCH: Final = 1_000
"""How many do in a batch: what is not there when it is sent has to wait for the next."""

PATIENCE_S: Final = 5.0
"""How long a function may take to unwind."""


class Unwound(BaseException):
    """The leg is over, and so is this execution of the function.

    Not an `Exception`, so that no `except Exception` of a flow swallows it.
    """


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The function of a step and what it is called with: only this execution knows them."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Offspring:
    """What a child run is to be, which only this execution knows."""

    who: Agent | Flow[..., Any]
    input: Any
    batch: bool = False


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a flow needs of the runner."""

    put: Put
    blob: Callable[[str], bytes | None]
    redact: Redact
    check: Callable[[Conversation, Agent, str], None]
    """Called with a recorded ask, the agent it is asked of now, and its version."""
    no_batches: str = ""
    """Why the model cannot take batches; empty when it can."""


class Host:
    """One execution of the function of a flow.

    Args:
        flow: whose.
        run: what the function gets; it is made into one that can ask.
        given: the input, as JSON.
        state: what the run knows.
        around: the rest.

    """

    def __init__(
        self,
        flow: Flow[..., Any],
        run: Run,
        given: Raw,
        state: RunState,
        around: Surroundings,
    ) -> None:
        self.flow = flow
        self.run_id = run.id
        self.error: OutlastError | None = None
        """Why the leg cannot go on, though nothing is wrong with the run."""
        self._dropped = ""
        self.halted: dict[str, str] = {}
        """The child runs that were stopped, and why: the run is stopped with them."""
        self.changed = asyncio.Event()
        self.functions: dict[str, Bound] = {}
        self.offspring: dict[str, Offspring] = {}
        self._state = state
        self._around = around
        self._given = given
        self._asks: dict[str, wants.Ask] = {}
        self._steps: dict[str, wants.Step] = {}
        self._phases: list[str] = []
        self._returned: Raw | None = None
        self._raised = ""
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._used: set[str] = set()
        self._counts: dict[str, int] = {}
        self._askers: dict[str, object] = {}
        self._lasts: dict[str, str] = {}
        self._before: dict[str, str] = {}
        """Which ask each one goes on from."""
        self._versions: dict[int, tuple[Agent, str]] = {}
        """The version of each agent, by its identity; it is kept with it, so that it stays one."""
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._tasks: set[asyncio.Future[Any]] = set()
        self._callers: WeakSet[asyncio.Task[Any]] = WeakSet()
        """The tasks that made a call, the function's own among them."""
        self._left = asyncio.Event()
        """The thread of a sync flow has ended."""
        self._unseen: dict[str, str] = {}
        """What was asked for and was not looked at yet, by name; and what it is numbered after."""
        self._handle: _FlowRun = (_AsyncRun if flow.is_async else _SyncRun)._of(run, self)  # noqa: SLF001
        self._main: asyncio.Task[None] | None = None

    # ── for the runner ──────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to execute the function, if that was not done yet."""
        if self._main is None:
            self._main = asyncio.create_task(self._execute())

    @property
    def done(self) -> bool:
        """Whether the function returned or raised."""
        return self._returned is not None or bool(self._raised)

    def wants(self, *, quiet: bool) -> Wants:
        """Return what the function asks for by now."""
        return Wants(
            asks=dict(self._asks),
            steps=dict(self._steps),
            phases=tuple(self._phases),
            returned=self._returned,
            raised=self._raised,
            quiet=quiet and not self.done,
            halted=dict(self.halted),
        )

    def settle(self, state: RunState) -> None:
        """Answer everything that the journal has an answer to by now."""
        self._state = state
        for name in list(self._asks):
            ask = state.asks.get(name)
            if ask is not None and (ask.answer is not None or ask.failed):
                agent = self._asks.pop(name).agent
                self._answer(f"ask {name}", partial(_answer_of, name, ask, agent))
        for name in list(self._steps):
            if (over := state.steps.finished.get(name)) is not None:
                del self._steps[name]
                self._answer(f"step {name}", partial(self._over, name, over))

    def _over(self, name: str, over: Finished) -> Any:
        if over.kind == "approval":
            return _approval_of(over)
        born = self.offspring.get(name)
        result = self._result(name, over)
        return result if born is None else _typed(result, born.who)

    async def unwind(self) -> None:
        """End this execution, wherever it is."""
        self._closed = True
        # Tasks and not what they wait for: to `gather` that were an answer like any other.
        tasks = [task for task in (self._main, *self._tasks, *self._callers) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            # Not for ever: a function may ignore that it is unwound.
            await asyncio.wait(tasks, timeout=PATIENCE_S)
        for future in self._waiting.values():
            future.cancel()
        if self._main is not None and not self.flow.is_async:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), PATIENCE_S)

    # ── the function ────────────────────────────────────────────────────────────────────────────

    async def _execute(self) -> None:
        try:
            arguments = self._arguments()
            if self.flow.is_async:
                value = await self.flow.function(self._handle, *arguments)
            else:
                value = await self._in_thread(arguments)
            self._return(value)
        except (Unwound, asyncio.CancelledError):
            if not self._closed and self.error is None:
                self._raised = f"flow {self.flow.name} was cancelled by its own function"
        except (KeyboardInterrupt, GeneratorExit):
            raise  # Ctrl-C, which may strike anywhere, or nobody waits for this any more
        except BaseException as error:  # noqa: BLE001  (whatever a user's function raises)
            if not self._closed:
                self._raised = self._written(f"flow {self.flow.name} raised {_told(error)}")
        self.changed.set()

    async def _in_thread(self, arguments: tuple[Any, ...]) -> Any:
        def function() -> Any:
            try:
                return self.flow.function(self._handle, *arguments)
            finally:
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._left.set)

        value, raised = await in_thread(function, {}, name="outlast-flow")
        if raised is not None:
            raise raised
        return value

    def _arguments(self) -> tuple[Any, ...]:
        try:
            return self.flow.arguments(bytes(self._given))
        except InvalidInput as error:
            self._stop(error)  # it was none when the run was started, so the code was changed

    def _return(self, value: Any) -> None:
        self._open()
        try:
            whole = _to_json(value)
            msgspec.json.decode(whole)  # not everything that can be written can be read: NaN
        except Exception as error:  # noqa: BLE001  (a user's value, a user's serializer)
            what = f"flow {self.flow.name} returned {type(value).__name__}"
            self._raised = self._written(f"{what}, which cannot be written as JSON: {words(error)}")
        else:
            self._returned = Raw(whole)

    def _written(self, text: str) -> str:
        """Return a text of the user's as it may be journalled."""
        return printable(redacted(text, self._around.redact))

    # ── what it asks for ────────────────────────────────────────────────────────────────────────

    def ask(self, agent: Agent, given: Input, name: str | None, conversation: str | None) -> Any:
        """Return the future of an answer."""
        if not isinstance(agent, Agent):
            self._stop(UsageError(f"{agent!r} is no agent; give one to `ask`"))
        named = self._named(f"ask of {agent.name}", agent.name, name)
        content = rendered(given, put=self._around.put, redact=self._around.redact)
        continues = self._continued(agent, conversation, named)
        recorded = self._state.asks.get(named)
        if (step := self._recorded(named)) is not None:
            self._changed(named, f"a {step.kind}", "an ask")
        version = self._version(agent)
        if recorded is not None:
            if recorded.continues != continues:
                self._changed(named, _place(recorded.continues), _place(continues))
            self._check_ask(named, recorded, agent, content, version)
        elif continues:
            # Its tools are asked for, as if it were open: the conversation is about to go on.
            self._check_agent(replace(self._state.asks[continues], answer=None), agent, version)
        if recorded is not None and (recorded.answer is not None or recorded.failed):
            return self._ready(lambda: _answer_of(named, recorded, agent), named, agent.name)
        self._asks[named] = wants.Ask(
            agent=agent, content=content, continues=continues, version=version
        )
        return self._wait(f"ask {named}", named, agent.name)

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        effect: Effect | None,
        kwargs: dict[str, Any],
    ) -> Any:
        """Return the future of a step's result."""
        self._take(name, f"step {name!r}")
        if not callable(function):
            self._stop(UsageError(f"step {name!r}: {function!r} is no function"))
        declared = function.effect if isinstance(function, Tool) else "once"
        if effect is not None and effect not in get_args(Effect):
            known = ", ".join(map(repr, get_args(Effect)))
            self._stop(UsageError(f"step {name!r}: effect is {effect!r}; give one of {known}"))
        given = _digest([args, kwargs])
        called = _name_of(function)
        over = self._known(name, "step", given, called)
        if over is not None:
            return self._ready(lambda: self._result(name, over, function), name)
        self.functions[name] = Bound(function=function, args=args, kwargs=kwargs)
        self._steps[name] = wants.Call(effect=effect or declared, given=given, function=called)
        return self._wait(f"step {name}", name)

    def child(
        self, name: str, who: Agent | Flow[..., Any], given: Any, *, batch: bool = False
    ) -> Any:
        """Return the future of a child run's answer."""
        self._take(name, f"child {name!r}")
        digest = _digest(given)
        over = self._known(name, "child", digest, who.name)
        if over is not None:
            return self._ready(lambda: _typed(self._result(name, over), who), name)
        self.offspring[name] = Offspring(who=who, input=given, batch=batch)
        self._steps[name] = wants.Child(
            run_id=child_id(self.run_id, name), agent=who.name, given=digest
        )
        return self._wait(f"step {name}", name)

    def sleep(self, duration: float | str | timedelta, name: str | None) -> Any:
        """Return the future of the end of a sleep."""
        length = nanoseconds(duration)
        named = self._named("sleep", "sleep", name)
        if (over := self._known(named, "sleep")) is not None:
            return self._ready(lambda: self._result(named, over), named, "sleep")
        self._steps[named] = wants.Nap(length=length)
        return self._wait(f"step {named}", named, "sleep")

    def approval(
        self, question: str, context: Any, expires: Expires, name: str | None
    ) -> asyncio.Future[Any]:
        """Return the future of what a person says."""
        if not isinstance(question, str) or not question.strip():
            self._stop(UsageError(f"approval: {question!r} is no question; give a text"))
        length = expiry(expires)
        named = self._named("approval", "approval", name)
        if not (given := _digest([question, context])):
            told = (
                f"approval {named!r}: nobody could tell its context from another one after a crash"
            )
            self._stop(UsageError(f"{told}; give what can be written as JSON, and read twice"))
        if (over := self._known(named, "approval", given)) is not None:
            return self._ready(lambda: _approval_of(over), named, "approval")
        try:
            seen = within(_to_json(context).decode(), self._around.redact)
            msgspec.json.decode(seen)
        except Exception as error:  # noqa: BLE001  (a user's value, a user's serializer)
            told = f"approval {named!r}: its context cannot be written as JSON: {words(error)}"
            self._stop(UsageError(told))
        self._steps[named] = wants.Approval(
            question=self._written(question), context=Raw(seen.encode()), given=given, length=length
        )
        return self._wait(f"step {named}", named, "approval")

    def value(self, kind: str, name: str | None, draw: Callable[[], T], like: type[T]) -> T:
        """Return a value that is drawn once."""
        named = self._named(kind, kind, name)
        if (over := self._known(named, "value")) is not None:
            try:
                return msgspec.json.decode(over.result, type=like)
            except msgspec.ValidationError:
                self._changed(named, f"the value {shortened(over.result)}", f"one of `{kind}`")
        drawn = draw()
        self._steps[named] = wants.Value(result=Raw(msgspec.json.encode(drawn)))
        self.changed.set()
        return drawn

    def enter(self, phase: str) -> None:
        """Enter a phase, or find that it was entered before."""
        self._open()
        if not self.flow.phases:
            self._stop(
                InvalidFlow(
                    f"flow {self.flow.name!r} enters {phase!r}, but declares no phases; "
                    "give @outlast.flow(phases=[…])"
                )
            )
        entered = self._state.phases.entered
        number, now = len(self._phases), self._phases[-1] if self._phases else ""
        # What was refused has to be refused again, though the flow went another way then.
        mark = f"phase {phase} after {now or 'none'}"
        is_other = number < len(entered) and entered[number][0] != phase
        if number >= len(entered) or (is_other and mark in self._state.steps.finished):
            try:
                check_entry(self.flow.phases, now, phase)
            except IllegalPhase:
                self._keep(mark)
                raise
        if is_other:
            self._changed("phase", f"followed by {entered[number][0]!r}", repr(phase))
        self._phases.append(phase)
        self.changed.set()

    def _keep(self, mark: str) -> None:
        """Write down that something happened, once."""
        if mark not in self._state.steps.finished:
            self._steps[mark] = wants.Value(result=Raw(b"true"))
            self.changed.set()

    def map(
        self,
        who: Agent | Flow[..., Any],
        inputs: Iterable[Any],
        name: str | None,
        at_once: int | None,
        batch: bool,  # noqa: FBT001  (as declared)
    ) -> Any:
        """Return the coroutine of the answers of a child run for every input."""
        if not isinstance(who, Agent | Flow):
            self._stop(UsageError(f"{who!r} is neither an agent nor a flow; give one to `map`"))
        if isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable):
            kind = "one string" if isinstance(inputs, str | bytes) else "not iterable"
            self._stop(
                UsageError(f"map of {who.name}: {inputs!r} is {kind}; give a list of inputs")
            )
        if at_once is None:
            at_once = IN_BATCH if batch else AT_ONCE
        if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
            told = f"at_once={at_once!r}: give a whole number of at least 1"
            self._stop(UsageError(f"map of {who.name}: {told}"))
        if batch and (wrong := self._unbatched(who)):
            self._stop(UsageError(f"map of {who.name} with batch=True: {wrong}. Nothing was begun"))
        named = self._named(f"map of {who.name}", f"{who.name}-map", name)
        return self._mapped(who, list(inputs), named, at_once, batch=batch)

    def _unbatched(self, who: Agent | Flow[..., Any]) -> str:
        """Return why the calls of something cannot go through the Message Batches API."""
        if not isinstance(who, Agent):
            return "it is a flow, and only agents can be batched; map an agent instead"
        if self._around.no_batches:
            return self._around.no_batches
        try:
            check_prices(who, batch=True)
        except UsageError as error:
            return f"no price is known for batches of {' or '.join(who.models)} ({error})"
        return ""

    async def _mapped(
        self,
        who: Agent | Flow[..., Any],
        inputs: list[Any],
        name: str,
        at_once: int,
        *,
        batch: bool,
    ) -> list[Any]:
        free = asyncio.Semaphore(at_once)

        async def one(number: int, given: Any) -> Any:
            async with free:
                return await self.child(f"{name}/{number}", who, given, batch=batch)

        work = [asyncio.ensure_future(one(*pair)) for pair in enumerate(inputs, start=1)]
        self._tasks.update(work)
        answers = await asyncio.gather(*work, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    # ── names ───────────────────────────────────────────────────────────────────────────────────

    def _named(self, what: str, stem: str, name: str | None) -> str:
        """Return the name of something: as given, or by its number."""
        if name is not None:
            self._take(name, what)
            return name
        self._open()
        asker = self._asker()
        before = self._askers.setdefault(stem, asker)
        if stem in self._unseen.values():
            self._stop(NameRequired(what, why="another one is open at the same time"))
        if before is not asker:
            self._stop(NameRequired(what, why="another task or thread has made one, too"))
        self._counts[stem] = self._counts.get(stem, 0) + 1
        named = f"{stem}-{self._counts[stem]}"
        self._take(named, what)
        return named

    def _asker(self) -> object:
        if self.flow.is_async:
            return asyncio.current_task()
        return self._thread

    _thread: threading.Thread | None = None
    """The thread of a sync flow that makes the present call."""

    def _take(self, name: str, what: str) -> None:
        self._open()
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            self._stop(UsageError(f"{what}: {name!r} is no name; give 1 to {MAX_NAME} characters"))
        if name in self._used:
            self._stop(
                UsageError(
                    f"{what}: the name {name!r} is taken in this flow; a name means one thing only"
                )
            )
        self._used.add(name)

    def _continued(self, agent: Agent, conversation: str | None, name: str) -> str:
        if conversation is None:
            return ""
        key = f"{agent.name} {conversation}"
        before = self._lasts.get(key, "")
        if before in self._unseen:
            self._stop(
                UsageError(
                    f"conversation {conversation!r}: {name!r} is asked while {before!r} is open; "
                    "await one before the next"
                )
            )
        self._lasts[key] = name
        ask = self._state.asks.get(before)
        if ask is not None and ask.failed:
            # What has no answer is not part of the conversation: nobody could go on from there.
            before = self._before.get(before, "")
        self._before[name] = before
        return before

    # ── the journal ─────────────────────────────────────────────────────────────────────────────

    def _known(self, name: str, kind: str, given: str = "", function: str = "") -> Finished | None:
        """Return what the journal has under a name, if that is over."""
        known = self._recorded(name)
        if name in self._state.asks:
            self._changed(name, "an ask", f"a {kind}")
        if known is None:
            return None
        if known.kind != kind:
            self._changed(name, f"a {known.kind}", f"a {kind}")
        if function and known.function and known.function != function:
            self._changed(name, f"a {kind} of {known.function!r}", f"one of {function!r}")
        if given and known.given and known.given != given:
            self._changed(
                name, f"a {kind} of something else", f"one with other arguments ({given[:12]})"
            )
        return known if isinstance(known, Finished) else None

    def _recorded(self, name: str) -> Finished | Begun | None:
        """Return what the journal has under a name that is no ask."""
        steps = self._state.steps
        return steps.finished.get(name) or steps.begun.get(name)

    def _check_ask(
        self, name: str, recorded: Conversation, agent: Agent, content: Raw, version: str
    ) -> None:
        if recorded.spec.agent != agent.name:
            self._changed(name, f"an ask of {recorded.spec.agent!r}", f"one of {agent.name!r}")
        if recorded.asked != content:
            self._changed(name, f"the question {shortened(recorded.asked)}", shortened(content))
        self._check_agent(recorded, agent, version)

    def _check_agent(self, recorded: Conversation, agent: Agent, version: str) -> None:
        try:
            self._around.check(recorded, agent, version)
        except OutlastError as error:
            self._stop(error)

    def _version(self, agent: Agent) -> str:
        """Return the version of an agent; one that cannot be asked at all ends the leg."""
        if id(agent) not in self._versions:
            try:
                check_prices(agent)
                self._versions[id(agent)] = agent, version_of(agent)
            except UsageError as error:
                self._stop(error)
        return self._versions[id(agent)][1]

    def _result(self, name: str, over: Finished, function: Callable[..., Any] | None = None) -> Any:
        if over.status != "succeeded":
            raise StepFailed(name, why=over.error, in_doubt=over.status == "in_doubt")
        raw: bytes | None = bytes(over.result) or b"null"
        if over.blob:
            raw = self._around.blob(over.blob)
            if raw is None:
                self._stop(UsageError(f"the result of {name!r} is lost: no blob {over.blob}"))
        bound = self.functions.get(name)
        called = function or (bound.function if bound is not None else None)
        plain = called.function if isinstance(called, Tool) else called
        try:
            return validated(raw or b"null", Any if plain is None else hint(plain, "return"))
        except UsageError as error:
            if function is None:
                raise  # it was called just now, and does not keep to its own hint
            self._changed(name, str(error).partition(" is no ")[0], str(error))

    # ── waiting ─────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> None:
        if self._closed:
            raise Unwound
        if self._dropped:
            # Executed again, what was dropped here would be answered, and another way taken.
            self._stop(
                UsageError(
                    f"flow {self.flow.name!r} cancelled {self._dropped!r} and went on, as a "
                    "timeout or a race does, which no journal could repeat; wait for it, or let "
                    "the flow end. Nothing was lost: mend the flow, and go on with the same id"
                )
            )

    def _cut(self, name: str, future: asyncio.Future[Any]) -> None:
        """Remember what the function itself cancelled."""
        if future.cancelled() and not self._closed:
            self._dropped = self._dropped or name

    def _wait(self, key: str, name: str, stem: str = "") -> asyncio.Future[Any]:
        future = self._waiting[key] = self._asked(name, stem)
        future.add_done_callback(partial(self._cut, name))
        if (caller := asyncio.current_task()) is not None:
            self._callers.add(caller)
        self.changed.set()
        return future

    def _ready(self, answer: Callable[[], Any], name: str, stem: str = "") -> asyncio.Future[Any]:
        future = self._asked(name, stem)
        _fulfil(future, answer)
        return future

    def _asked(self, name: str, stem: str) -> asyncio.Future[Any]:
        if not stem:
            return self._loop.create_future()
        self._unseen[name] = stem
        return _Asked(partial(self._unseen.pop, name, None), loop=self._loop)

    def _answer(self, key: str, answer: Callable[[], Any]) -> None:
        future = self._waiting.pop(key, None)
        if future is not None and not future.done():
            with suppress(Unwound):  # the leg has ended, and is told why
                _fulfil(future, answer)

    def _changed(self, name: str, recorded: str, given: str) -> NoReturn:
        self._stop(FlowChanged(self.run_id, name=name, recorded=recorded, given=given))

    def _stop(self, error: OutlastError) -> NoReturn:
        """End the leg for a mistake in the code: the run stays where it is, to be mended."""
        if self.error is None:
            self.error = error
        self._closed = True
        self.changed.set()
        raise Unwound from error


class _Asked(asyncio.Future[Any]):
    """An answer to wait for, that says when somebody has looked at it."""

    def __init__(self, seen: Callable[[], object], *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._seen = seen

    def result(self) -> Any:
        if self.done():
            self._seen()
        return super().result()

    def exception(self) -> BaseException | None:
        if self.done():
            self._seen()
        return super().exception()

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from super().__await__())
        finally:
            self._seen()

    __iter__ = __await__


class _FlowRun(Run):
    """The run that the function of a flow gets."""

    _host: Host

    @classmethod
    def _of(cls, run: Run, host: Host) -> _FlowRun:
        known = {one.name: getattr(run, one.name) for one in fields(run)}
        made = cls(**known)
        object.__setattr__(made, "_host", host)
        return made

    def _do(self, call: Callable[[], Any]) -> Any:
        """Make a call that gives a value at once."""
        return call()

    def _later(self, call: Callable[[], Any]) -> Any:
        """Make a call that gives an awaitable."""
        return call()

    def ask(
        self,
        agent: Agent,
        input: Input,  # noqa: A002  (as declared)
        *,
        name: str | None = None,
        conversation: str | None = None,
    ) -> Any:
        return self._later(lambda: self._host.ask(agent, input, name, conversation))

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        effect: Effect | None = None,
        **kwargs: Any,
    ) -> Any:
        return self._later(lambda: self._host.step(name, function, args, effect, kwargs))

    def enter(self, phase: str) -> None:
        self._do(lambda: self._host.enter(phase))

    def sleep(self, duration: float | str | timedelta, *, name: str | None = None) -> Any:
        return self._later(lambda: self._host.sleep(duration, name))

    def approval(
        self,
        question: str,
        *,
        context: Any = None,
        expires: Expires = EXPIRES,
        name: str | None = None,
    ) -> Any:
        return self._later(lambda: self._host.approval(question, context, expires, name))

    def map(
        self,
        who: Agent | Flow[..., Any],
        inputs: Iterable[Any],
        *,
        name: str | None = None,
        at_once: int | None = None,
        batch: bool = False,
    ) -> Any:
        return self._later(lambda: self._host.map(who, inputs, name, at_once, batch))

    def now(self, *, name: str | None = None) -> datetime:
        drawn: datetime = self._do(
            lambda: self._host.value("now", name, lambda: datetime.now(UTC), datetime)
        )
        return drawn

    def uuid(self, *, name: str | None = None) -> UUID:
        drawn: UUID = self._do(lambda: self._host.value("uuid", name, uuid4, UUID))
        return drawn

    def random(self, *, name: str | None = None) -> float:
        drawn: float = self._do(lambda: self._host.value("random", name, dice.random, float))
        return drawn


class _AsyncRun(_FlowRun):
    """What an async flow gets: what takes time is awaited."""


class _SyncRun(_FlowRun):
    """What a sync flow gets, in a thread of its own: what takes time blocks."""

    def _do(self, call: Callable[[], Any]) -> Any:
        return self._across(call, wait=False)

    def _later(self, call: Callable[[], Any]) -> Any:
        return self._across(call, wait=True)

    def _across(self, call: Callable[[], Any], *, wait: bool) -> Any:
        # The thread itself: its number may be another one's as soon as it has ended.
        host, thread = self._host, threading.current_thread()

        async def made() -> Any:
            host._thread = thread  # noqa: SLF001  (the two are one)
            try:
                came = call()
            finally:
                host._thread = None  # noqa: SLF001
            return await came if wait else came

        if host._closed:  # noqa: SLF001
            raise Unwound
        work = made()
        try:
            return asyncio.run_coroutine_threadsafe(work, host._loop).result()  # noqa: SLF001
        except (asyncio.CancelledError, CancelledError, RuntimeError) as error:
            if host._closed or host._loop.is_closed():  # noqa: SLF001
                work.close()
                raise Unwound from error
            raise


def _typed(answer: Any, who: Agent | Flow[..., Any]) -> Any:
    """Return the answer of a child run as an object of the type that its agent declares."""
    if isinstance(who, Agent) and who.answers is not None:
        with suppress(InvalidAnswer):  # a person took it as it is, or the type was changed
            return who.answers.read(Raw(msgspec.json.encode(answer)))
    return answer


def _answer_of(name: str, ask: Conversation, agent: Agent) -> Any:
    if ask.failed:
        lost = AskRejected if ask.rejected else AskFailed
        raise lost(name, why=ask.failed)
    answer = ask.answer or Raw(b"null")
    if agent.answers is not None:
        with suppress(InvalidAnswer):  # a person took it as it is, or the type was changed
            return agent.answers.read(answer)
    return msgspec.json.decode(answer)


def _approval_of(over: Finished) -> Approval:
    return msgspec.json.decode(over.result, type=Approval)


def _fulfil(future: asyncio.Future[Any], answer: Callable[[], Any]) -> None:
    try:
        future.set_result(answer())
    except Unwound:
        raise
    except Exception as error:  # noqa: BLE001  (raised where it is awaited)
        future.set_exception(error)
        asyncio.Future.exception(future)  # an answer that nobody awaits is no mistake


def _to_json(value: Any) -> bytes:
    from pydantic_core import to_json  # noqa: PLC0415  (not needed to import outlast)

    return to_json(value)


def _digest(value: Any) -> str:
    """Return the hash of arguments; empty where they cannot be compared after a crash."""
    try:
        return sha256(_to_json(_ordered(value))).hexdigest()
    except Exception:  # noqa: BLE001  (a client, a connection: such arguments are not compared)
        return ""


def _ordered(value: Any) -> Any:
    """Return arguments in the order that every process has them in.

    Raises:
        TypeError: there is an iterator among them, which could be read only once.

    """
    match value:
        case dict():
            return {key: _ordered(one) for key, one in value.items()}
        case list() | tuple():
            return [_ordered(one) for one in value]
        case set() | frozenset():
            return sorted(_to_json(_ordered(one)).decode() for one in value)
        case Iterator():
            raise TypeError("an iterator can be read only once")
    return value


def _told(error: BaseException) -> str:
    """Return what was raised; of a group, what is in it."""
    if isinstance(error, BaseExceptionGroup):
        return ", and ".join(_told(one) for one in error.exceptions)
    return f"{type(error).__name__}: {words(error)}"


def _name_of(function: Callable[..., Any]) -> str:
    """Return what a function is called; empty where nothing tells it from others."""
    name = function.name if isinstance(function, Tool) else getattr(function, "__name__", "")
    return name if isinstance(name, str) and name.isidentifier() else ""


def _place(continues: str) -> str:
    return f"an ask that goes on after {continues!r}" if continues else "an ask on its own"
