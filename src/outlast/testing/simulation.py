"""Kill a run wherever it can die, and interleave drivers, without a process, a thread or a clock.

The run loop is a generator, so a crash is simply that nobody pumps it any more.  A `World` holds
what really happened (requests that arrived, tools that ran) and outlives every crash; it is what
tests judge by, never the journal's own account.

A point is a place where the process may die: before and after every append, before and after
every effect.  `run` drives an agent to rest and crashes at the points it is told.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from outlast.actions import (
    CallModel,
    CallStep,
    CallTool,
    CallUndo,
    CheckAnswer,
    CountTokens,
    DriveChild,
    FetchReply,
    FindOut,
    Interrupt,
    Sleep,
)
from outlast.agent import Agent
from outlast.batching import Place
from outlast.breaker import State
from outlast.calls import Came, failed_call, succeeded_call, timed_out, tool_of
from outlast.checking import answer_of, given
from outlast.checks import Verdict, verdict_of
from outlast.content import Input
from outlast.drive import Append, Appended, Behind, Outcomes, Perform, Sent, drive
from outlast.errors import Conflict, Fenced, ModelFailure
from outlast.events import OUTSIDE, Outcome, UndoFinished, tag
from outlast.helping import bound, finder, found_out, taken_back, taking_back
from outlast.journal import Journal, run_stream
from outlast.keeping import found, last_good
from outlast.models.batches import custom_id
from outlast.models.script import Script
from outlast.models.scripted import ScriptedModel
from outlast.redaction import same
from outlast.runner import (
    answered,
    batched,
    commit_of,
    counted,
    counting,
    not_answered,
    request_of,
)
from outlast.sources import LastGood
from outlast.starting import begin
from outlast.state import RunState, fold
from outlast.tools import ToolContext

T = TypeVar("T")

_Effect: TypeAlias = (
    CallModel | FetchReply | CountTokens | CallTool | FindOut | CheckAnswer | CallUndo
)

NS: Final = 1_000_000_000


class Crash(BaseException):
    """The process died here.  Not an `Exception`, so nothing can catch it by accident."""


class Late(Exception):
    """Raised by a tool that would not return within its `timeout_s`: the call is given up."""


class World:
    """What really happened, kept outside of everything that crashes.

    Args:
        script: what Claude says.
        crash_at: the numbers of the points, from 1, at which the process dies.
        at: what else happens at a point, by its number, before the process may die there.
        breakers: the circuit breakers that are not closed; see `actions.World`.

    Attributes:
        requests: the body of every request that reached Claude, in order.
        points: how many points were passed.
        trace: their names, in order.
        emitted: how often each type of event was committed.
        checked: the answers that were looked at, by the call whose reply they are, and by which
            check, in order.
        now: the simulated time, nanoseconds since the epoch; it jumps over every wait.

    """

    def __init__(
        self,
        script: Script,
        *,
        crash_at: Iterable[int] = (),
        at: Mapping[int, Callable[[], None]] | None = None,
        breakers: Mapping[str, State] | None = None,
    ) -> None:
        self.breakers = breakers or {}
        self.model = ScriptedModel(script, clock=lambda: self.now)
        self.requests: list[bytes] = []
        self.crash_at = frozenset(crash_at)
        self.at = dict(at or {})
        self.points = 0
        self.trace: list[str] = []
        self.emitted: Counter[str] = Counter()
        self.checked: list[tuple[str, str]] = []
        self.now = 1_790_000_000 * NS

    def point(self, name: str) -> None:
        """Pass a point, or die there."""
        self.points += 1
        self.trace.append(name)
        if happening := self.at.get(self.points):
            happening()
        if self.points in self.crash_at:
            raise Crash(name)

    def tick(self) -> int:
        """Let a moment pass and return the time."""
        self.now += 1_000
        return self.now


class Driver:
    """One driver of one run, stepped by hand.

    Args:
        world: what it acts on.
        journal: what it appends to.
        agent: what it drives.
        run_id: the run.
        force: take over from a driver that may still live.

    """

    def __init__(
        self, world: World, journal: Journal, agent: Agent, run_id: str, *, force: bool = True
    ) -> None:
        self.world = world
        self.journal = journal
        self.agent = agent
        self.run_id = run_id
        self.stream = run_stream(run_id)
        self.epoch = journal.claim(self.stream, force=force)
        state = fold(journal.read(self.stream))
        assert state.started is not None, "a run without its first event"  # noqa: S101
        self.started = state.started
        self.flying: list[tuple[_Effect, Outcome | None]] = []
        self.sleeps: list[Sleep] = []
        self.state: RunState | None = None
        self.fenced = False
        self._wanted: Append | Perform
        self._drive(state)

    @property
    def done(self) -> bool:
        """Whether the run is at rest, or this driver has let it go."""
        return self.fenced or self.state is not None

    def choices(self) -> list[Callable[[], None]]:
        """Return what may happen next; a scheduler picks one."""
        if self.done:
            return []
        if isinstance(self._wanted, Append):
            return [self._append]
        begun: list[Callable[[], None]] = []
        for number, (_, outcome) in enumerate(self.flying):
            step = self._begin if outcome is None else self._finish
            begun.append(lambda step=step, number=number: step(number))  # type: ignore[misc]
        return begun or [self._wake]

    def run(self) -> RunState:
        """Step to the end, always taking the first choice."""
        while not self.done:
            self.choices()[0]()
        if self.state is None:
            raise Fenced(self.stream, epoch=self.epoch, fence=self.epoch + 1)
        return self.state

    # ── one step each ───────────────────────────────────────────────────────────────────────────

    def _append(self) -> None:
        wanted = self._wanted
        assert isinstance(wanted, Append)  # noqa: S101  (choices saw to it)
        names = "+".join(tag(event) for event in wanted.events)
        self.world.point(f"before append {names}")
        commit = commit_of(wanted, self.started, run_id=self.run_id, epoch=self.epoch)
        try:
            self.journal.append(commit)
        except Fenced:
            self.fenced = True
            self._loop.close()
            return
        except Conflict:
            self._send(self._behind(wanted))
            return
        self.world.emitted.update(tag(event) for event in wanted.events)
        self.world.point(f"after append {names}")
        self._send(Appended())

    def _behind(self, wanted: Append) -> Behind:
        news = self.journal.read(self.stream, after=wanted.expected_seq - 1)
        assert news, "a conflict without news"  # noqa: S101
        assert all(isinstance(record.event, OUTSIDE) for record in news)  # noqa: S101
        return Behind(tuple(news), self.world.tick())

    def _begin(self, number: int) -> None:
        action, _ = self.flying[number]
        name = action.call_id
        self.world.point(f"before {name}")
        outcome = self._outcome(action)
        self.flying[number] = (action, outcome)
        self.world.point(f"after {name}")

    def _finish(self, number: int) -> None:
        _, outcome = self.flying.pop(number)
        assert outcome is not None  # noqa: S101  (choices saw to it)
        self._send(self._told(outcome))

    def _wake(self) -> None:
        # A wait for somebody, which is until 0, is over when they come, and nobody comes in here.
        until = min(sleep.until for sleep in self.sleeps if sleep.until)
        self.world.now = max(self.world.now, until)
        self._send(self._told())

    def _told(self, *outcomes: Outcome) -> Outcomes:
        return Outcomes(outcomes, self.world.tick(), breakers=self.world.breakers)

    def _drive(self, state: RunState) -> None:
        now = self.world.tick()
        self._loop = drive(
            state,
            self.agent,
            stream=self.stream,
            epoch=self.epoch,
            now=now,
            breakers=self.world.breakers,
        )
        self._send(None)

    def _send(self, sent: Sent) -> None:
        try:
            self._wanted = self._loop.send(sent)
        except StopIteration as stop:
            state: RunState = stop.value
            if state.parking.until:  # time jumps over a park as over every other wait
                self.world.now = max(self.world.now, state.parking.until)
                self._drive(state)
                return
            self.state = state
            self.journal.release(self.stream)
        else:
            self._arrived()

    def _arrived(self) -> None:
        wanted = self._wanted
        self.sleeps = []
        if isinstance(wanted, Perform):
            self.sleeps = [a for a in wanted.actions if isinstance(a, Sleep)]
            for action in wanted.actions:
                # Flows are driven by the real runner, because their functions need an event loop.
                assert not isinstance(action, CallStep | DriveChild | Interrupt)  # noqa: S101
                if not isinstance(action, Sleep):
                    self.flying.append((action, None))

    def _outcome(  # noqa: PLR0911  (a row per action)
        self, action: _Effect
    ) -> Outcome:
        match action:
            case CallModel(batch=True):
                return self._batch(action)
            case CallModel():
                return self._model(action)
            case FetchReply():
                return self._fetch(action)
            case CountTokens():
                return self._count(action)
            case CallTool():
                return self._tool(action)
            case FindOut():
                return self._found_out(action)
            case CheckAnswer():
                return self._check(action)
            case CallUndo():
                return self._undo(action)

    # ── effects ─────────────────────────────────────────────────────────────────────────────────

    def _model(self, call: CallModel) -> Outcome:
        request = request_of(call, run_id=self.run_id, blob=self.journal.blob)
        self.world.requests.append(request.body())
        try:
            reply = _at_once(self.world.model.call(request, on_part=None))
            return answered(call, reply, latency_ms=0)
        except ModelFailure as failure:
            return not_answered(call, failure)

    def _check(self, action: CheckAnswer) -> Outcome:
        rule = next(one for one in self.agent.rules if one.name == action.check)
        self.world.checked.append((action.answered_by, action.check))
        args, kwargs = rule.arguments(answer_of(self.agent, action), action.evidence)
        try:
            found = verdict_of(rule, rule.function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  (whatever a check raises, nobody can tell)
            found = Verdict.unverified(f"it raised {type(error).__name__}")
        return given(action, rule, found, same, 0)

    def _batch(self, call: CallModel) -> Outcome:
        request = request_of(call, run_id=self.run_id, blob=self.journal.blob)
        self.world.requests.append(request.body(b""))
        name = custom_id(self.run_id, call.call_id)
        try:
            batch_id = _at_once(self.world.model.send_batch({name: request}))
        except ModelFailure as failure:
            return not_answered(call, failure)
        return batched(call, Place(batch_id, name))

    def _fetch(self, call: FetchReply) -> Outcome:
        results = _at_once(self.world.model.batch_results(call.batch_id))
        came = results.get(call.custom_id, ModelFailure("malformed", "no result"))
        if isinstance(came, ModelFailure):
            return not_answered(call, came)
        return answered(call, came, latency_ms=0)

    def _count(self, count: CountTokens) -> Outcome:
        request = counting(count, run_id=self.run_id, blob=self.journal.blob)
        return counted(count, _at_once(self.world.model.count_tokens(request)))

    def _tool(self, call: CallTool) -> Outcome:
        tool = tool_of(self.agent, call.tool)
        declared = tool.sources[call.rank]
        if isinstance(declared, LastGood):
            return last_good(call, tool, found(self.journal, call, ""), self.world.now)
        arguments = dict(call.given)
        if declared.context_parameter:
            arguments[declared.context_parameter] = ToolContext(
                run_id=self.run_id,
                call_id=call.call_id,
                idempotency_key=call.idempotency_key,
                attempt=call.attempt,
            )
        try:
            value = declared.function(**arguments)
        except Late:
            return timed_out(call, tool, declared, latency_ms=0)
        except Exception as error:  # noqa: BLE001  (contained, as the runner does)
            return failed_call(call, error, tool=tool, latency_ms=0)
        return succeeded_call(call, tool, value, latency_ms=0, put_blob=self.journal.put_blob)

    def _found_out(self, action: FindOut) -> Outcome:
        helper = finder(action, self.agent)
        context = ToolContext(
            run_id=self.run_id,
            call_id=action.call_id,
            idempotency_key=action.idempotency_key,
        )
        came = _came(helper.function, bound(helper, action.given, context))
        return found_out(action, self.agent, came, put_blob=self.journal.put_blob)

    def _undo(self, action: CallUndo) -> Outcome:
        taking = taking_back(action, self.agent)
        if isinstance(taking, str):
            return UndoFinished(call_id=action.undone, status="failed", error=taking, last=True)
        context = ToolContext(
            run_id=self.run_id,
            call_id=action.undone,
            idempotency_key=action.idempotency_key,
        )
        came = _came(taking.helper.function, bound(taking.helper, taking.given, context))
        return taken_back(action, came[1])


def _came(function: Callable[..., Any], arguments: dict[str, Any]) -> Came:
    try:
        return function(**arguments), None
    except Exception as error:  # noqa: BLE001  (contained, as the runner does)
        return None, error


def run(  # noqa: PLR0913  (a simulation is told everything)
    world: World,
    journal: Journal,
    agent: Agent,
    question: Input,
    *,
    run_id: str = "r",
    batch: bool = False,
    reopen: Callable[[Journal], Journal] = lambda journal: journal,
) -> tuple[RunState, int]:
    """Drive a run to rest, starting again after every crash; return its state and the crashes.

    Args:
        world: what it acts on, and where it crashes.
        journal: what it appends to.
        agent: what to drive.
        question: what to ask it.
        run_id: the run.
        batch: whether its calls go through the Message Batches API, each in a batch of its own.
        reopen: what a new process does to get at the journal; by default it is still there.

    """
    crashes = 0
    while True:
        try:
            if journal.run(run_id) is None:
                world.point("before append run_started")
                at = world.tick()
                begin(journal, run_id, agent, question, batch=batch, at=at, nonce="simulated")
                world.emitted.update(("run_started", "ask_started", "message_received"))
                world.point("after append run_started")
            return Driver(world, journal, agent, run_id).run(), crashes
        except Crash:
            crashes += 1
            journal = reopen(journal)


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine gives that never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    with contextlib.suppress(BaseException):
        work.close()
    raise AssertionError("a simulated model waits; give the script no delays")


def canonical(body: bytes) -> str:
    """Return a request as text in which only its meaning shows: sorted members, no spaces."""
    return msgspec.json.encode(msgspec.json.decode(body), order="sorted").decode()
