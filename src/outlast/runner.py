"""The thin shell: performs what the run loop wants, and appends what came of it.

One `Runner` drives any number of runs of an application on one event loop.  It owns no policy:
`decide` has said everything before an action arrives here.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias, TypeVar, get_args
from weakref import WeakKeyDictionary, WeakSet

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast import decide_flow, keeping, logs
from outlast.actions import (
    NAP_NS,
    Action,
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
    Short,
    Sleep,
    Work,
)
from outlast.agent import Agent
from outlast.batching import Batches, Later, Place
from outlast.blocks import encoded
from outlast.breaker import DEFAULT, PROBES, Breaker, State, source_of
from outlast.budget import BILLED, Limits, line, place, posting
from outlast.caching import marked
from outlast.calls import call_step, call_tool, finished_step, printable, tool_of, words
from outlast.checking import run_check
from outlast.conversation import Conversation, blocks, evolve, opened
from outlast.decide import BACKOFF_S, lost_calls, lost_probes
from outlast.doubts import payer_of
from outlast.drive import (
    Append,
    Appended,
    Behind,
    Denied,
    Loop,
    Outcomes,
    Perform,
    Queued,
    Relimited,
    Sent,
    drive,
)
from outlast.errors import (
    BatchNotFetched,
    Busy,
    Conflict,
    Fenced,
    ModelFailure,
    OutlastError,
    Refused,
    RunNotFound,
    StoreError,
    ToolError,
    TooSoon,
    UnknownModel,
)
from outlast.events import (
    OUTSIDE,
    RETRYABLE,
    UNBILLED,
    AnswerRejected,
    BoundExceeded,
    CacheMissed,
    FailureKind,
    LoopDetected,
    MessageReceived,
    ModelCallBatched,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    NoteAdded,
    Outcome,
    RunStarted,
    Spec,
    StepFinished,
    TokensCounted,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallReconciled,
    ToolCallStarted,
    ToolCallSucceeded,
    UndoFinished,
    VerdictGiven,
)
from outlast.flows import Flow
from outlast.helping import call_undo, find_out
from outlast.hosting import Host, Surroundings
from outlast.journal import (
    Advance,
    Commit,
    Hold,
    Journal,
    Posting,
    Record,
    Settlement,
    run_stream,
)
from outlast.limiter import Limiter, Line, seconds
from outlast.limits import (
    SPENT,
    Budgets,
    Rule,
    Tree,
    carried,
    holds,
    of_run,
    passed,
    payers,
    paying,
    raised,
    settled,
)
from outlast.limits import STREAM as BUDGETS
from outlast.limits import fold as fold_budgets
from outlast.media import expanded
from outlast.models import Keyed, Model, Part, Reply, Request, TokenCounter
from outlast.pacing import STREAM as LIMITS
from outlast.pacing import Freeze
from outlast.prices import billed_as, context_window, exact
from outlast.redaction import Redact, same
from outlast.run import Run, run_of
from outlast.signals import Live
from outlast.sources import Degraded, LastGood
from outlast.state import ENDED, RunState, fold, row
from outlast.tripping import Breakers, Trial
from outlast.workshop import Checked, Shop, Workshop

T = TypeVar("T")

NS: Final = 1_000_000_000
PATIENCE_S: Final = 5.0
"""How long calls that are given up may take to end."""

DEPTH: Final = 200
"""How deeply the JSON of a reply may be nested; beyond a thousand, nobody could read it again."""

CHILD: Final = "outlast-child"
"""The name of a task that can be given up at any time: a child's own journal says how far it is."""

RESULTS_NS: Final = 29 * 86_400 * NS
"""How long the API keeps the results of a batch."""

LOOKS_S: Final = 60.0
"""How long a run waits at most before it looks at the clock again, which may have been set back."""

STALE_S: Final = 0.2
"""An intent that is older when its effect is to begin is looked at again, in seconds.

Shorter than any lease, so nobody can have taken the run over meanwhile."""

FREE_S: Final = 1.0
"""How often is looked whether those who hold what somebody needs are still alive, in seconds."""


class Resting(Protocol):
    """Who waits for a child run, and is told whether that waits itself."""

    def asleep(self, run: Run) -> None:
        """Be told that it does."""

    async def awake(self) -> None:
        """Be told that it is to go on; return once it may."""


QUIET_S: Final = 0.05
"""How long a flow that waits for nothing but time is listened to before it is parked."""

Things: TypeAlias = set[asyncio.Future[Any]]
Wait: TypeAlias = Callable[[Things, float | None], Awaitable[Things]]
"""Waits until one of these is done, or so many seconds went by, and returns those that are done."""

Check: TypeAlias = Callable[[Conversation, Agent, str], None]
"""Told of an ask that the journal has, of whom it is asked now, and of the version of that."""


class Spawn(Protocol):
    """Drives a child run to its end and returns it."""

    async def __call__(  # noqa: D102, PLR0913  (see the class)
        self,
        run_id: str,
        who: Agent | Flow[..., Any],
        given: Any,
        *,
        parent: str,
        root: str,
        tenant: str,
        resting: Resting,
        batch: bool = False,
    ) -> Run: ...


async def first_of(things: Things, wait_s: float | None) -> Things:
    """Wait in real time; see `Wait`."""
    done, _ = await asyncio.wait(things, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    return done


def _unchecked(_: Conversation, _agent: Agent, _version: str) -> None:
    """Take every ask as it is."""


class Watch(msgspec.Struct, frozen=True):
    """Who is told what happens while a run is driven; calls come on the driving loop."""

    on_record: Callable[[Record], None] | None = None
    on_part: Callable[[Part], None] | None = None


class Runner:
    """Drives runs.

    Args:
        journal: where they are recorded.
        model: what they ask.
        deps: handed to tools in their `ToolContext`.
        inline: whether an append may block the loop while this run is the only one; saves two
            thread hops a commit where nothing else runs on the loop.
        clock: nanoseconds since the epoch, UTC.
        wait: lets time go by where a run waits for it; it and `clock` are of the same time.
        redact: what every text of a tool's result goes through before it is kept.
        spawn: drives a child run to its end.
        look: called when a run has become live.
        breaker: when circuit breakers open, and for how long; `None` is never.

    """

    def __init__(  # noqa: PLR0913  (all but two are keywords with defaults)
        self,
        journal: Journal,
        model: Model,
        *,
        deps: Any = None,
        inline: bool = False,
        clock: Callable[[], int] = time.time_ns,
        wait: Wait = first_of,
        redact: Redact = same,
        spawn: Spawn | None = None,
        look: Callable[[], None] = lambda: None,
        breaker: Breaker | None = DEFAULT,
    ) -> None:
        self._look = look
        self._journal = journal
        self._model = model
        self._keyed = model if isinstance(model, Keyed) else None
        self._whose = ""
        """Whose rate limits calls count against, once that is known."""
        self._deps = deps
        self._inline = inline
        self._clock = clock
        self.wait = wait
        self._redact = redact
        self._spawn = spawn
        self.batches = Batches(model, clock=lambda: self._clock())  # noqa: PLW0108  (it may be set)
        self._live = 0
        self._free_at = 0.0
        self.workshop: Workshop | None = None
        """Where coroutine functions of tools are called; by default where runs are driven."""
        self.employed = False
        """Whether a worker drives the runs, and so those of steps are called there as well."""
        self.draining = False
        """Whether nothing more is begun, since this is about to end."""
        self.live: dict[str, Live] = {}
        """The runs that are driven here, to be nudged when somebody tells them something."""
        self.budgets = Budgets()
        """Those that operators set, as far as they were read."""
        self.breakers = Breakers(
            journal,
            breaker,
            key=self.key,
            commit=self.commit,
            clock=lambda: self._clock(),  # noqa: PLW0108  (it may be set)
        )
        self.limiter = Limiter(
            journal,
            key=self.key,
            commit=self.commit,
            advance=self.advance,
            clock=lambda: self._clock(),  # noqa: PLW0108  (it may be set)
        )

    async def drive(  # noqa: PLR0913  (all but two are keywords)
        self,
        run_id: str,
        who: Agent | Flow[..., Any],
        *,
        epoch: int,
        watch: Watch,
        check: Check = _unchecked,
        spawn: Spawn | None = None,
        above: tuple[Tree, ...] = (),
        called: bool = False,
    ) -> RunState:
        """Drive a claimed run to rest and return its state; its children are driven by `spawn`.

        What it spends is paid from the budgets of the runs `above` it, too.  One that is parked
        goes on when its time has come, or when it is `called` because of a run below it.

        Raises:
            Fenced: another driver took the run over; nothing more was started.
            StoreError: the store failed; what was committed is safe.

        """
        stream = run_stream(run_id)
        state = fold(self._journal.read(stream))
        budgets = self.read_budgets()
        self.limiter.read()
        if state.factors:  # its process may have died before it told the others
            budgets = await self.raise_bounds(run_id, state)
        self._live += 1
        leg = _Leg(self, run_id, who, epoch, watch, state, check, spawn or self._spawn, above)
        self.live[run_id] = leg
        self._look()
        loop = drive(
            state,
            who,
            stream=stream,
            epoch=epoch,
            now=self._clock(),
            limits=leg.limits(budgets),
            factors=budgets.factors,
            freezes=leg.freezes(),
            breakers=leg.breakers(state),
            called=called,
            redact=self._redact,
        )
        try:
            await leg.carry(state)
            return await leg.pump(loop)
        finally:
            self._live -= 1
            self.live.pop(run_id, None)
            loop.close()
            await leg.abandon()

    def drain(self) -> None:
        """Begin nothing more: every run is parked once what is in flight has its outcome."""
        self.draining = True
        for leg in [*self.live.values()]:
            leg.nudge()

    def read_budgets(self) -> Budgets:
        """Read what operators have set since, and return all budgets."""
        news = self._journal.read(BUDGETS, after=self.budgets.seq)
        self.budgets = fold_budgets(news, self.budgets)
        return self.budgets

    def key(self) -> str:
        """Return whose rate limits calls count against; empty where nobody knows."""
        if self._keyed is not None and not self._whose:
            # A model of the user's own may say anything, and everybody reads what is written of it.
            self._whose = printable(str(self._keyed.key() or ""))
        return self._whose

    async def raise_bounds(self, run_id: str, state: RunState) -> Budgets:
        """Tell every run of the bounds that this one found too low, and return all budgets."""
        if told := raised(self.read_budgets(), state.factors, run_id):
            await self.commit(Commit(stream=BUDGETS, events=told, at=self._clock()))
        return self.read_budgets()

    async def free(self, scope: str) -> bool:
        """Take calls that hold something of a scope, and that nobody drives, for what they are.

        A process that died holds what its calls may cost until somebody goes on with its runs; but
        then they are in doubt, and they are so before.  Returns whether there were any.
        """
        if time.monotonic() < self._free_at:
            return False
        self._free_at = time.monotonic() + FREE_S
        ids = {self._owner(call_id) for call_id in self._journal.holders(scope)}
        found = False
        for run_id in sorted(ids - {""}):
            stream = run_stream(run_id)
            if not self._journal.abandoned(stream):
                continue
            with suppress(Busy, Conflict, Fenced, RunNotFound):  # somebody drives it
                epoch = self._journal.claim(stream)
                try:
                    found |= await self._doubt_lost(run_id, epoch)
                    found |= await self._free_tools(run_id, scope)
                finally:
                    self._journal.release(stream)
        return found

    def _owner(self, call_id: str) -> str:
        """Return the run that a call is of; names of runs and of asks may have slashes in them."""
        parts = call_id.split("/")
        names = ("/".join(parts[:size]) for size in range(len(parts) - 1, 0, -1))
        return next((name for name in names if self._journal.run(name) is not None), "")

    async def _doubt_lost(self, run_id: str, epoch: int) -> bool:
        """Write down that the calls of a claimed run are in doubt that nobody waits for."""
        stream = run_stream(run_id)
        state = before = fold(self._journal.read(stream))
        at, lost, started = self._clock(), lost_calls(state), state.started
        if not lost or started is None:
            return False
        for event in lost:
            state = fold((Record(stream, state.next_seq, 0, at, epoch, event),), state)
        wanted = Append(
            events=lost, expected_seq=before.next_seq, at=at, state=state, before=before
        )
        commit = commit_of(wanted, started, run_id=run_id, epoch=epoch)
        paid = settled(lost, run_id)
        logs.tell(await self.commit(replace(commit, settlements=paid)))
        return True

    async def _free_tools(self, run_id: str, scope: str) -> bool:
        """Free the places of calls of tools of a claimed run that nobody waits for.

        What becomes of the calls is for whoever goes on with the run, and knows its tools.
        """
        holders = self._journal.holders(scope) if source_of(scope) else ()
        lost = sorted(one for one in holders if self._owner(one) == run_id)
        if not lost:
            return False
        names = ", ".join(one.removeprefix(f"{run_id}/") for one in lost)
        told = f"the process of {names} ended, so others may try {source_of(scope)} instead"
        commit = Commit(
            stream=run_stream(run_id),
            events=(NoteAdded(text=told, by="outlast"),),
            at=self._clock(),
            settlements=[Settlement(call_id=one, unit=PROBES, amount=0) for one in lost],
        )
        logs.tell(await self.commit(commit))
        return True

    async def count(self, request: Request) -> int:
        """Let the model count the tokens of a request's input.

        Raises:
            ModelFailure: it did not, or cannot.

        """
        if not isinstance(self._model, TokenCounter):
            raise ModelFailure("not_found", f"{type(self._model).__name__} has no count_tokens")
        return await self._model.count_tokens(request)

    async def commit(self, commit: Commit) -> tuple[Record, ...]:
        """Append: at once where nobody else would be kept waiting, else with those of others."""
        if self._inline and self._live <= 1:
            return self._journal.append(commit)
        return await self._journal.aappend(commit)

    async def advance(self, advances: Sequence[Advance]) -> list[int]:
        """Move shared numbers on, likewise."""
        if self._inline and self._live <= 1:
            return self._journal.advance(advances)
        return await self._journal.aadvance(advances)


class _Leg:
    """One drive of one run: what is in flight, and who watches."""

    def __init__(  # noqa: PLR0913, PLR0915, PLR0917  (the parts of one drive, all of them needed)
        self,
        runner: Runner,
        run_id: str,
        who: Agent | Flow[..., Any],
        epoch: int,
        watch: Watch,
        state: RunState,
        check: Check,
        spawn: Spawn | None,
        above: tuple[Tree, ...],
    ) -> None:
        assert state.started is not None, "a run without its first event"  # noqa: S101
        self._runner = runner
        self._run_id = run_id
        self._stream = run_stream(run_id)
        self._who = who
        self._agents: dict[str, Agent] = {}
        """Whom each ask of a flow is asked of."""
        self._host = self._hosted(who, state, check) if isinstance(who, Flow) else None
        self._epoch = epoch
        self._watch = watch
        self._started = state.started
        self._spawn = spawn
        self._above = above
        self._tree = Tree(run_id, who.budget.limits)
        self.asleep: dict[str, Sleep] = {}
        """What is in flight and waits itself, by its `call_id`: child runs, and batches."""
        self.nap_ns = NAP_NS if self._host is None else decide_flow.NAP_NS
        """What is waited for at most below it without parking it, in nanoseconds."""
        self._durable_at = time.monotonic()
        """When the last commit was begun, by the monotonic clock."""
        self._listening = asyncio.Event()
        """Whether child runs may wake: only while the run waits for something.

        What it decides meanwhile rests on which of them are asleep, and they may end with it.
        """
        self._halted: dict[str, str] = {}
        """Why the tool calls have no outcome whose child runs were stopped, by `call_id`."""
        self._tasks: set[asyncio.Task[Outcome | None]] = set()
        self._called: WeakKeyDictionary[asyncio.Task[Outcome | None], Work] = WeakKeyDictionary()
        """What each task does."""
        self._given_up: WeakSet[asyncio.Task[Outcome | None] | None] = WeakSet()
        self._ignoring: set[asyncio.Task[Outcome | None]] = set()
        """What went on after it was given up."""
        self._seq = state.next_seq - 1
        """How far the journal is known here."""
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Future[None] = self._loop.create_future()
        """Done once somebody may have told the run something."""
        self._limits: Limits | None = None
        self._factors: Mapping[str, int] = {}
        """By how much the loop multiplies bounds because of what other runs found."""
        self._line = Line(runner.limiter)
        self._trial = Trial(runner.breakers, run_id=run_id, tenant=state.started.tenant)
        self._models: set[str] = set()
        """The models that are asked here."""
        self._sources = frozenset[str]() if isinstance(who, Flow) else _sources(who)
        """What the tools depend on that may be called here."""
        self._freezes: Mapping[str, Freeze] = {}
        self._paced = 0
        """How far the stream was read that the loop knows freezes of."""
        self._accounts = bool(state.spend.held or lost_probes(state))
        """Whether calls may hold something of the budgets of others: of those that an earlier leg
        began, such as in a batch, nobody knows."""
        self._notifies = False
        """Whether somebody is to be told how much of those is spent."""
        self._kept: dict[str, str] = {}
        """Under which names it is remembered where answers stand, by `call_id`; see `keeping`."""
        self._replied: dict[str, CallModel] = {}
        """The last call of each ask that was answered here, whose reply may have been shown."""
        self._intents: dict[str, int] = {}
        """Where the intents stand of the tool calls that were not begun yet, by `call_id`."""
        self._complaint: Exception | None = None
        """What a watcher raised first: raised to the caller when the run is at rest."""
        self._broken: BaseException | None = None
        """What kept a call from having an outcome: raised once its siblings' are written."""
        self._unsent: StoreError | None = None
        """What kept a request from being sent: raised once the run is at rest."""

    def _hosted(self, flow: Flow[..., Any], state: RunState, check: Check) -> Host:
        assert state.started is not None, "a run without its first event"  # noqa: S101
        journal = self._runner._journal  # noqa: SLF001

        def checked(ask: Conversation, agent: Agent, version: str) -> None:
            self._agents[ask.ask_id] = agent
            check(ask, agent, version)

        around = Surroundings(
            put=journal.put_blob,
            blob=journal.blob,
            redact=self._runner._redact,  # noqa: SLF001
            check=checked,
            no_batches=self._runner.batches.flaw,
        )
        run = run_of(row(state, self._run_id))
        return Host(flow, run, state.started.input, state, around)

    def limits(self, budgets: Budgets) -> Limits | None:
        """Return what the run may use where somebody set that, and go by it from now on."""
        self._limits, self._factors = self._limits_of(budgets), budgets.factors
        return self._limits

    def freezes(self) -> Mapping[str, Freeze]:
        """Return until when nobody asks, by group of models, and go by it from now on."""
        pacing = self._runner.limiter.pacing
        if pacing.seq != self._paced:
            self._paced, self._freezes = pacing.seq, pacing.of_key(self._runner.key())
        return self._freezes

    def breakers(self, state: RunState | None = None) -> Mapping[str, State]:
        """Return what the circuit breakers are, by group of models, and go by that from now on."""
        if state is not None:
            for ask in state.asks.values():
                self._models.update((ask.spec.model, *ask.spec.fallback_models))
        if isinstance(self._who, Flow):
            self._sources = _sources(*self._agents.values())
        return self._trial.states(self._models, self._sources)

    def _relimited(self, budgets: Budgets, state: RunState) -> Relimited:
        now = self._runner._clock()  # noqa: SLF001
        limits, freezes = self.limits(budgets), self.freezes()
        return Relimited(limits, now, budgets.factors, freezes, self.breakers(state))

    def _trees(self, budgets: Budgets) -> tuple[Tree, ...]:
        """Return the runs whose budgets cover what this one spends, beside its own.

        Those are the runs above it, and itself where its children or forks pay from it, or where
        somebody gave it a tree's budget.
        """
        set_for_it = (f"tree:{self._run_id}", "total") in budgets.rules
        pays = set_for_it or self._run_id in budgets.forks or _has_children(self._who)
        return (*self._above, self._tree) if pays else self._above

    async def carry(self, state: RunState) -> None:
        """Let what the run has spent count in the budget of its tree, if it did not so far."""
        begun = state.spend.nano or state.steps.begun or state.steps.finished
        if not _has_children(self._who) or not begun:
            return
        spent = Limits(nano=state.spend.nano, tokens=state.spend.tokens)
        journal, budgets = self._runner._journal, self._runner.budgets  # noqa: SLF001
        if before := carried(journal, self._tree, budgets, spent):
            note = NoteAdded(text="what this run had spent counts for its tree", by="outlast")
            at = self._runner._clock()  # noqa: SLF001
            counted = Commit(stream=BUDGETS, events=(note,), at=at, holds=before)
            await self._runner.commit(counted)
            self._runner.read_budgets()

    async def pump(self, loop: Loop) -> RunState:
        """Do what the loop wants until it wants nothing more."""
        sent: Sent = None
        while True:
            try:
                wanted = loop.send(sent)
            except StopIteration as stop:
                if (complaint := self._unsent or self._complaint) is not None:
                    raise complaint from complaint.__cause__
                state: RunState = stop.value
                return state
            sent = (
                await self._append(wanted)
                if isinstance(wanted, Append)
                else await self._perform(wanted)
            )

    async def abandon(self) -> None:
        """Give up what is in flight: its outcome will be in doubt."""
        for task in self._tasks:
            task.cancel()
        if self._host is not None:
            await self._host.unwind()
        if self._tasks:
            # Not for ever: a tool may ignore that it is cancelled.
            await asyncio.wait(self._tasks, timeout=PATIENCE_S)

    # ── appending ───────────────────────────────────────────────────────────────────────────────

    async def _append(  # noqa: PLR0911, PLR0912  (an answer for each that may come between)
        self, wanted: Append
    ) -> Appended | Behind | Denied | Queued | Relimited:
        commit = commit_of(wanted, self._started, run_id=self._run_id, epoch=self._epoch)
        intents = [event for event in commit.events if isinstance(event, ModelCallStarted)]
        budgets = self._runner.budgets
        changed = self._limits_of(budgets) != self._limits or budgets.factors != self._factors
        if changed or (intents and self._runner.limiter.pacing.seq != self._paced):
            return self._relimited(budgets, wanted.state)
        now, line, trial = self._runner._clock(), self._line, self._trial  # noqa: SLF001
        if (breakers := await trial.entered(commit.events, wanted, now)) is None:
            return self._relimited(budgets, wanted.state)
        commit = self._accounted(commit, intents, budgets, wanted.state, breakers)
        ramps = {call_id: ramp for call_id, one in breakers.items() if (ramp := one.ramp)}
        draws = line.draws(intents, wanted, now, ramps) if intents else {}
        if moves := [*trial.moves(commit.events, now), *line.moves(commit.events, draws)]:
            commit = replace(commit, advances=moves)
        began = time.monotonic()  # before: the process may be frozen once it is durable
        try:
            records = await self._runner.commit(commit)
        except Conflict as conflict:
            if conflict.stream in (BUDGETS, LIMITS):
                self._runner.read_budgets()
                self._runner.limiter.read()
                return await self._append(wanted)
            if self._runner.breakers.reread(conflict.stream):
                return self._relimited(budgets, wanted.state)
            return self._behind(wanted)
        except Refused as refused:
            if refused.held and await self._runner.free(refused.scope):
                return await self._append(wanted)
            if refused.unit == PROBES:
                await trial.refused(refused.scope)
            short = Short(refused.scope, refused.unit, refused.left, refused.held, refused.window)
            return Denied(short, self._runner._clock(), self.breakers())  # noqa: SLF001
        except TooSoon:
            return Queued(await line.wait(draws), self._runner._clock())  # noqa: SLF001
        self._durable_at = began
        self._seq += len(records)
        line.settle(commit.events)
        if self._kept:
            await self._keep(records)
        await trial.settle(commit.events, breakers)
        self._watched(logs.tell, records)  # a filter of the caller's may raise
        self._tell(records)
        if any(isinstance(event, BoundExceeded) for event in commit.events):
            await self._runner.raise_bounds(self._run_id, wanted.state)
        if self._notifies:
            await self._notify(commit, wanted.before)
        if self._host is not None:
            self._host.settle(wanted.state)
        return Appended()

    async def _keep(self, records: Sequence[Record]) -> None:
        """Remember where the good answers stand that tools may be asked for again."""
        for record in records:
            if isinstance(record.event, ToolCallSucceeded | ToolCallFailed | ToolCallInDoubt):
                under = self._kept.pop(record.event.call_id, "")
                if moves := keeping.kept(under, record):
                    await self._runner.advance(moves)

    async def _notify(self, commit: Commit, state: RunState) -> None:
        """Say how much of the budgets of others is spent, where somebody is to be told of that."""
        paid = [event for event in commit.events if isinstance(event, SPENT)]
        while paid:
            budgets, journal = self._runner.budgets, self._runner._journal  # noqa: SLF001
            rules = [rule for event in paid for rule in self._rules(event.ask_id, budgets, state)]
            news = passed(journal, budgets, dict.fromkeys(rules), at=commit.at)
            if not news:
                return
            told = Commit(stream=BUDGETS, events=news, at=commit.at, expected_seq=budgets.seq + 1)
            with suppress(Conflict):  # somebody was faster, maybe with the same
                self._watched(logs.tell, await self._runner.commit(told))
            self._runner.read_budgets()

    def _rules(self, ask_id: str, budgets: Budgets, state: RunState) -> list[Rule]:
        """Return the budgets of others that the calls of an ask have to fit into."""
        ask = state.asks[ask_id]
        version = ask.version or self._started.version
        scopes = payers(self._started, ask.spec.agent, version, ask.spec.model)
        return paying(budgets, scopes, self._trees(budgets), self._run_id)

    def _limits_of(self, budgets: Budgets) -> Limits | None:
        """Return what the run may use where somebody set that; `None` is what was declared."""
        declared = self._who.budget.limits
        found = of_run(budgets, self._run_id, declared)
        return None if found is declared else found

    def _accounted(
        self,
        commit: Commit,
        intents: Sequence[ModelCallStarted],
        budgets: Budgets,
        state: RunState,
        breakers: Mapping[str, State],
    ) -> Commit:
        """Return the commit with what its calls hold of what is others', and settle."""
        self._accounts |= bool(budgets.rules) or self._run_id in budgets.forks
        lines: list[Hold] = []
        for intent in intents:
            call_id = f"{self._run_id}/{intent.call_id}"
            rules = self._rules(intent.ask_id, budgets, state)
            self._notifies |= any(rule.notify for rule in rules)
            lines += holds(rules, intent, call_id=call_id, at=commit.at)
        lines += self._trial.holds(breakers, commit.events)
        self._accounts |= bool(lines)
        paid = settled(commit.events, self._run_id) if self._accounts else []
        if not intents and not breakers:
            # Once a run is forked, its tree holds what its call in flight may cost.
            billed = any(isinstance(event, BILLED) for event in commit.events)
            unsure = {BUDGETS: budgets.seq} if billed and not self._accounts else {}
            return replace(commit, settlements=paid, seen=tuple(unsure.items()))
        # A budget that is set while this is on its way counts, and so does a freeze, and a breaker
        # that opens: the store looks.
        changing = {one.stream: one.seq for one in breakers.values()}
        if intents:
            changing |= {BUDGETS: budgets.seq, LIMITS: self._paced}
        seen = tuple(changing.items())
        return replace(commit, holds=lines, settlements=paid, seen=seen)

    def _behind(self, wanted: Append) -> Behind:
        news = self._runner._journal.read(self._stream, after=wanted.expected_seq - 1)  # noqa: SLF001
        if not news or not all(isinstance(record.event, OUTSIDE) for record in news):
            raise Conflict(
                self._stream,
                expected_seq=wanted.expected_seq,
                actual_seq=wanted.expected_seq + len(news),
            )
        self._seq += len(news)
        self._tell(news)
        return Behind(tuple(news), self._runner._clock())  # noqa: SLF001

    def _tell(self, records: Sequence[Record]) -> None:
        for record in records:
            event = record.event
            if isinstance(event, ToolCallStarted):
                self._intents[event.call_id] = record.seq
            elif isinstance(event, AnswerRejected) and event.action != "degrade":
                call = self._replied.get(event.ask_id)
                if call is not None and call.call_id == event.call_id:
                    self._discard(call)
        if self._watch.on_record is not None:
            for record in records:
                self._watched(self._watch.on_record, record)

    def _show(self, part: Part) -> None:
        self._watched(self._watch.on_part, part)

    def _watched(self, watcher: Callable[[T], None] | None, what: T) -> None:
        # A watcher that raises must not come between an intent and its effect, nor cost the run a
        # reply: it is told nothing more, and its mistake is raised when the run is at rest.
        if watcher is None or self._complaint is not None:
            return
        try:
            watcher(what)
        except Exception as error:  # noqa: BLE001  (raised at the end)
            self._complaint = error

    # ── performing ──────────────────────────────────────────────────────────────────────────────

    async def _perform(self, wanted: Perform) -> Outcomes:
        self._listening.set()
        try:
            return await self._performed(wanted)
        finally:
            self._listening.clear()

    async def awake(self, call_id: str) -> None:
        """Let a child run go on that waited; return once it may."""
        while not self._listening.is_set():
            await self._listening.wait()
        self.asleep.pop(call_id, None)

    async def _performed(self, wanted: Perform) -> Outcomes:
        if self._host is not None:
            return await self._perform_flow(self._host, wanted)
        if self._broken is not None and not self._tasks:
            raise self._broken
        self._begin(wanted.actions)
        return self._outcomes(await self._next(wanted.actions))

    def _begin(self, actions: Sequence[Action]) -> None:
        """Start what is to be done, and give up what is not to be done any more."""
        for action in actions:
            match action:
                case Sleep():
                    continue
                case Interrupt(call_ids):
                    for task in [*self._tasks]:
                        if self._called[task].call_id in call_ids:
                            self._give_up(task)
                case _:
                    task = asyncio.create_task(self._attempt(action), name=_task(action))
                    self._tasks.add(task)
                    self._called[task] = action

    def _give_up(self, task: asyncio.Task[Outcome | None]) -> None:
        """Cancel a call, and wait for it no longer than it may take to end."""
        action = self._called[task]
        self._given_up.add(task)
        task.cancel()
        last = asyncio.create_task(self._last(task, action), name=task.get_name())
        self._tasks.discard(task)
        self._tasks.add(last)
        self._called[last] = action

    async def _last(self, task: asyncio.Task[Outcome | None], action: Work) -> Outcome | None:
        await asyncio.wait({task}, timeout=PATIENCE_S)
        if task.done():
            return task.result()
        # It ignores that it is cancelled; whatever it does yet, nobody waits for it.
        self._ignoring.add(task)
        task.add_done_callback(self._ignoring.discard)
        return given_up(action)

    async def _attempt(self, action: Work) -> Outcome | None:
        """Do it; what is given up on the way has the outcome of that."""
        try:
            self._check_fence()
            return await self._call(action)
        except asyncio.CancelledError:
            if asyncio.current_task() not in self._given_up:
                raise
            return given_up(action)

    def _shop(self) -> Shop | None:
        """Return where coroutine functions are called: there they may have to wait for their turn.

        By then another driver may have the run.
        """
        shop = self._runner.workshop
        return None if shop is None else Checked(shop, self._check_fence)

    def _check_fence(self) -> None:
        """Begin nothing that was intended long ago: the process may have been frozen since.

        Raises:
            Fenced: another driver has the run by now.

        """
        if time.monotonic() - self._durable_at < STALE_S:
            return
        row = self._runner._journal.run(self._run_id)  # noqa: SLF001
        if row is not None and row.fence != self._epoch:
            raise Fenced(self._stream, epoch=self._epoch, fence=row.fence)
        self._durable_at = time.monotonic()

    async def _perform_flow(self, host: Host, wanted: Perform) -> Outcomes:
        """Start actions, and come back when one is over or the flow asks for something new."""
        self._begin(wanted.actions)
        host.start()
        self._let_end(host)
        until, parks = self._until(wanted.actions), self._parks(wanted.actions)
        quiet = await self._something(host, until, parks=parks)
        outcomes = self._over()
        if not outcomes:
            self._let_end(host)
        if host.error is not None or self._broken is not None:
            # Nothing new is begun; what is in flight may yet have an outcome that can be written.
            return self._outcomes(outcomes)
        wants = host.wants(quiet=quiet)
        self._agents.update({name: ask.agent for name, ask in wants.asks.items()})
        return replace(self._outcomes(outcomes), wants=wants)

    def _let_end(self, host: Host) -> None:
        """End a leg that cannot go on, as soon as nothing is in flight that would be in doubt."""
        trouble = host.error or self._broken
        if trouble is not None and all(task.get_name() == CHILD for task in self._tasks):
            raise trouble

    def _awake(self) -> bool:
        """Return whether anything is in flight that does not wait itself."""
        return any(self._called[task].call_id not in self.asleep for task in self._tasks)

    def _parks(self, actions: Sequence[Action]) -> bool:
        """Return whether there is so long to wait that a flow which waits for no more is parked."""
        waits = [*actions, *self.asleep.values()]
        sleeps = [wait for wait in waits if isinstance(wait, Sleep)]
        now = self._runner._clock()  # noqa: SLF001
        return bool(sleeps) and all(not one.until or one.until - now > one.least for one in sleeps)

    async def _something(self, host: Host, until: int | None, *, parks: bool) -> bool:
        """Wait until something happens; return whether nothing did for a moment."""
        news = asyncio.create_task(host.changed.wait())
        try:
            while not host.changed.is_set() and not any(task.done() for task in self._tasks):
                left_s = None if until is None else (until - self._runner._clock()) / NS  # noqa: SLF001
                if left_s is not None and left_s <= 0:
                    break
                # A flow that only sleeps is parked once it was quiet for a moment.
                is_idle = parks and not host.done and not self._awake()
                wait_s = QUIET_S if is_idle else left_s
                done = await self._runner.wait(
                    {news, *self._tasks},
                    min(wait_s, left_s or wait_s) if wait_s is not None else None,
                )
                if not done and is_idle:
                    return True
            if host.changed.is_set():
                # What it asks for in one go is written in one go.
                for _ in range(3):
                    host.changed.clear()
                    await asyncio.sleep(0)
                    if not host.changed.is_set():
                        break
                host.changed.clear()
            return False
        finally:
            news.cancel()

    def _over(self) -> list[Outcome]:
        """Return the outcomes of what is over."""
        outcomes = []
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            if error := task.exception():
                self._broken = error
            elif (outcome := task.result()) is not None:
                outcomes.append(outcome)
        return outcomes

    def _until(self, actions: Sequence[Action]) -> int | None:
        """Return when to decide again though nothing happened; `None` is never."""
        sleeps = [one.until for one in actions if isinstance(one, Sleep) and one.until]
        # A clock that was set back since they were decided would make a moment last an hour.
        latest = self._runner._clock() + int(LOOKS_S * NS)  # noqa: SLF001
        return min(*sleeps, latest) if sleeps else None

    async def _next(self, actions: Sequence[Action]) -> list[Outcome]:
        until = self._until(actions)
        wait_s = None if until is None else max(0, until - self._runner._clock()) / NS  # noqa: SLF001
        if not self._tasks:
            assert wait_s is not None, "nothing in flight and nothing to wait for"  # noqa: S101
            await self._runner.wait({self._news}, wait_s)
            return []
        done = await self._runner.wait({*self._tasks, self._news}, wait_s)
        outcomes = []
        for task in self._tasks & done:
            self._tasks.discard(task)
            if error := task.exception():
                self._broken = error
            elif (outcome := task.result()) is not None:
                outcomes.append(outcome)
        if outcomes or self._broken is None or self._news.done():
            return outcomes
        if not self._tasks:
            raise self._broken
        # Siblings that are still at work may yet have an outcome that can be written.
        return await self._next(actions)

    def _outcomes(self, events: list[Outcome]) -> Outcomes:
        now, news = self._runner._clock(), self._read_news()  # noqa: SLF001
        return Outcomes(
            tuple(events),
            now,
            asleep={**self.asleep},
            draining=self._runner.draining,
            halted=tuple(self._halted.items()),
            news=news,
            freezes=self.freezes(),
            breakers=self.breakers(),
        )

    @property
    def seq(self) -> int:
        """How far the journal is known here."""
        return self._seq

    def nudge(self) -> None:
        """Look at the journal soon: somebody may have told the run something.  From any thread."""
        with suppress(RuntimeError):  # the loop is closed, and the leg over
            self._loop.call_soon_threadsafe(self._nudged)

    def _nudged(self) -> None:
        if not self._news.done():
            self._news.set_result(None)
        if self._host is not None:
            self._host.changed.set()

    def _read_news(self) -> tuple[Record, ...]:
        """Return what others have told the run since, where somebody said that they did."""
        if not self._news.done():
            return ()
        self._news = self._loop.create_future()
        news = self._runner._journal.read(self._stream, after=self._seq)  # noqa: SLF001
        if not all(isinstance(record.event, OUTSIDE) for record in news):
            return ()  # another driver has it, and the next append will find that out
        self._seq += len(news)
        self._tell(news)
        return tuple(news)

    async def _call(self, action: Work) -> Outcome | None:  # noqa: PLR0911  (a row per action)
        match action:
            case CallModel(batch=True):
                return await self._send_batched(action)
            case CallModel():
                return await self._call_model(action)
            case FetchReply():
                return await self._fetch(action)
            case CallTool():
                return await self._call_tool(action)
            case FindOut():
                return await self._find_out(action)
            case CheckAnswer():
                return await self._check(action)
            case CallUndo():
                return await self._undo(action)
            case CountTokens():
                return await self._count(action)
            case CallStep():
                return await self._call_step(action)
            case DriveChild():
                return await self._drive_child(action)

    async def _call_step(self, call: CallStep) -> StepFinished:
        assert self._host is not None, "a step outside of a flow"  # noqa: S101
        bound = self._host.functions[call.name]
        return await call_step(
            call,
            bound.function,
            bound.args,
            bound.kwargs,
            run_id=self._run_id,
            tenant=self._started.tenant,
            deps=self._runner._deps,  # noqa: SLF001
            put_blob=self._runner._journal.put_blob,  # noqa: SLF001
            redact=self._runner._redact,  # noqa: SLF001
            workshop=self._shop() if self._runner.employed else None,
        )

    async def _drive_child(self, call: DriveChild) -> StepFinished | None:
        assert self._host is not None, "a child outside of a flow"  # noqa: S101
        born = self._host.offspring[call.name]
        run = await self._spawned(call, born.who, born.input, batch=born.batch)
        if run.status == "completed":
            put = self._runner._journal.put_blob  # noqa: SLF001
            over = finished_step(call.name, "child", run.answer, put_blob=put)
            return replace(over, degraded=True) if run.degraded else over
        told = f"run {run.id} is {run.status}: {run.why}"
        if run.status == "stopped":
            self._host.halted[call.name] = _halted(run)
            self._host.changed.set()
            return None
        if run.status not in ENDED:
            return None  # it is left to the next driver
        return StepFinished(name=call.name, kind="child", status="failed", error=told)

    async def _spawned(
        self,
        call: DriveChild | CallTool,
        who: Agent | Flow[..., Any],
        given: Any,
        *,
        batch: bool = False,
    ) -> Run:
        assert self._spawn is not None, "a runner that can drive no child"  # noqa: S101
        return await self._spawn(
            call.run_id if isinstance(call, DriveChild) else call.child,
            who,
            given,
            parent=self._run_id,
            root=self._started.root,
            tenant=self._started.tenant,
            resting=_Resting(self, call.call_id),
            batch=batch,
        )

    def _agent(self, ask_id: str) -> Agent | None:
        """Return whom an ask is asked of; `None` where a flow did not ask it in this leg."""
        return self._agents.get(ask_id) if isinstance(self._who, Flow) else self._who

    async def _asked(self, ask_id: str) -> Agent | None:
        """Return whom an ask is asked of, once the function of a flow has come that far again."""
        give_up_at = time.monotonic() + PATIENCE_S
        while (agent := self._agent(ask_id)) is None:
            is_over = self._host is not None and (self._host.done or self._host.error)
            if is_over or time.monotonic() >= give_up_at:
                return None
            await asyncio.sleep(QUIET_S)
        return agent

    async def _find_out(self, action: FindOut) -> ToolCallReconciled:
        agent = self._agent(action.ask_id)
        assert agent is not None, f"{action.ask_id} is asked of nobody"  # noqa: S101
        return await find_out(
            action,
            agent,
            run_id=self._run_id,
            tenant=self._started.tenant,
            deps=self._runner._deps,  # noqa: SLF001
            put_blob=self._runner._journal.put_blob,  # noqa: SLF001
            redact=self._runner._redact,  # noqa: SLF001
            workshop=self._shop(),
        )

    async def _check(self, action: CheckAnswer) -> VerdictGiven:
        agent = self._agent(action.ask_id)
        assert agent is not None, f"{action.ask_id} is asked of nobody"  # noqa: S101
        return await run_check(
            action,
            agent,
            run_id=self._run_id,
            tenant=self._started.tenant,
            deps=self._runner._deps,  # noqa: SLF001
            redact=self._runner._redact,  # noqa: SLF001
            workshop=self._shop(),
        )

    async def _undo(self, action: CallUndo) -> UndoFinished:
        return await call_undo(
            action,
            await self._asked(action.ask_id),
            run_id=self._run_id,
            tenant=self._started.tenant,
            deps=self._runner._deps,  # noqa: SLF001
            redact=self._runner._redact,  # noqa: SLF001
            workshop=self._shop(),
        )

    def _looked_up(self, action: CallTool, agent: Agent) -> Outcome:
        """Return the last good answer to a call."""
        journal, now = self._runner._journal, self._runner._clock()  # noqa: SLF001
        record = keeping.found(journal, action, self._started.tenant)
        return keeping.last_good(action, tool_of(agent, action.tool), record, now)

    async def _call_tool(self, action: CallTool) -> Outcome | None:
        agent = self._agent(action.ask_id)
        assert agent is not None, f"{action.ask_id} is asked of nobody"  # noqa: S101
        tool = tool_of(agent, action.tool)
        if isinstance(tool.sources[action.rank], LastGood):
            return self._looked_up(action, agent)
        if keeping.keeps(tool, action):
            self._kept[action.call_id] = keeping.name(action, self._started.tenant)
        wrong: list[OutlastError] = []
        left: list[Run] = []
        call_id = action.call_id

        async def spawn(who: Agent, given: Any) -> Any:
            try:
                run = await self._spawned(action, who, given)
            except OutlastError as error:
                wrong.append(error)  # with our own code or store, so it is nothing to tell Claude
                raise
            if run.status == "stopped":
                self._halted[call_id] = _halted(run)
            elif run.status not in ENDED:
                left.append(run)
            if run.status != "completed":
                raise ToolError(f"{who.name} has no answer: it is {run.status}. {run.why}")
            if run.degraded:
                return Degraded(run.answer, source=f"run {run.id}", note="see that run")
            return run.answer

        outcome = await call_tool(
            action,
            agent,
            run_id=self._run_id,
            tenant=self._started.tenant,
            deps=self._runner._deps,  # noqa: SLF001
            put_blob=self._runner._journal.put_blob,  # noqa: SLF001
            redact=self._runner._redact,  # noqa: SLF001
            seq=self._intents.pop(action.call_id, 0),
            spawn=spawn if action.child else None,
            # A child is driven on the loop of its parent.
            workshop=None if action.child else self._shop(),
        )
        if wrong:
            raise wrong[0]
        # What stopped a child may be mended: the call goes on with it then, and has no outcome now.
        return None if call_id in self._halted or left else outcome

    async def _count(self, count: CountTokens) -> TokensCounted:
        blob = self._runner._journal.blob  # noqa: SLF001
        try:
            request = counting(count, run_id=self._run_id, blob=blob)
            return counted(count, await self._counted(request))
        except StoreError:
            raise  # it says nothing about the length of the prompt
        except Exception as error:  # noqa: BLE001  (an upper bound is known without it)
            return uncounted(count, f"{type(error).__name__}: {words(error)}")

    async def _counted(self, request: Request) -> int:
        """Return how many tokens a prompt has; what may pass is tried again, as with a call."""
        for wait_s in BACKOFF_S:
            try:
                return await self._runner.count(request)
            except ModelFailure as failure:
                if failure.kind not in RETRYABLE:
                    raise
                told_s = min(seconds(failure.retry_after_s) or 0.0, BACKOFF_S[-1])
            await self._runner.wait({self._loop.create_future()}, max(wait_s, told_s))
        return await self._runner.count(request)

    async def _call_model(self, call: CallModel) -> Outcome:
        began = time.monotonic_ns()
        try:
            request = self._request(call)
            on_part = None if self._watch.on_part is None or call.quiet else self._show
            reply = await self._in_time(call, request, on_part)
            await self._line.learn(call, reply.told)
            self._replied[call.ask_id] = call
            return answered(call, reply, latency_ms=(time.monotonic_ns() - began) // 1_000_000)
        except ModelFailure as failure:
            await self._line.learn(call, failure.told)
            await self._runner.limiter.freeze(call, failure, self._run_id)
            event = not_answered(call, failure)
        except Exception as error:  # noqa: BLE001  (a paid call must have an outcome, whatever broke)
            event = not_answered(
                call, ModelFailure("bug", f"{type(error).__name__}: {words(error)}")
            )
        self._discard(call)
        return event

    async def _in_time(
        self, call: CallModel, request: Request, on_part: Callable[[Part], None] | None
    ) -> Reply:
        """Return the reply to one request; it is given up when its time is over."""
        deadline = asyncio.timeout(call.timeout_s)
        try:
            async with deadline:
                return await self._runner._model.call(request, on_part=on_part)  # noqa: SLF001
        except TimeoutError as error:
            if not deadline.expired():
                raise
            told = f"no reply within {call.timeout_s:g} s"
            raise ModelFailure("timeout", told) from error

    async def _send_batched(self, call: CallModel) -> Outcome:
        try:
            place = await self._runner.batches.submit(self._request(call))
        except ModelFailure as failure:
            return not_answered(call, failure)
        return batched(call, place)

    async def _fetch(self, call: FetchReply) -> Outcome:
        """Wait for a batch; while that goes on, until the next look, this is asleep."""

        def later(until: int) -> None:
            why = f"waiting for batch {call.batch_id}"
            self.asleep[call.call_id] = Sleep(until=until, why=why, least=self.nap_ns)
            self.nudge()

        try:
            return await self._fetched(call, later)
        finally:
            self.asleep.pop(call.call_id, None)

    async def _fetched(self, call: FetchReply, later: Later) -> Outcome:
        place = Place(call.batch_id, call.custom_id)
        try:
            reply = await self._runner.batches.fetch(place, called_at=call.called_at, later=later)
            return answered(call, reply, latency_ms=self._age(call) // 1_000_000)
        except ModelFailure as failure:
            return not_answered(call, failure)
        except BatchNotFetched as error:
            if error.kind != "not_found" or self._age(call) < RESULTS_NS:
                raise
            return not_answered(
                call, ModelFailure("timeout", f"nobody fetched it in time: {error}")
            )

    def _age(self, call: FetchReply) -> int:
        """Return how long ago a call was started, in nanoseconds."""
        return max(0, self._runner._clock() - call.called_at)  # noqa: SLF001

    def _request(self, call: CallModel) -> Request:
        blob = self._runner._journal.blob  # noqa: SLF001
        try:
            return request_of(call, run_id=self._run_id, blob=blob)
        except StoreError as error:
            # Nothing was sent, which is written where the store still can, before it is raised.
            self._unsent = error
            raise ModelFailure("store", f"{type(error).__name__}: {words(error)}") from error

    def _discard(self, call: CallModel) -> None:
        """Say of what was shown that it is no part of an answer."""
        if call.quiet:
            return
        self._show(
            Part(
                run_id=self._run_id,
                ask_id=call.ask_id,
                call_id=call.call_id,
                attempt=call.attempt,
                kind="discarded",
                text="",
            )
        )


class _Resting:
    """Remembers for a leg whether one of its child runs waits itself."""

    def __init__(self, leg: _Leg, call_id: str) -> None:
        self._leg = leg
        self._call_id = call_id

    def asleep(self, run: Run) -> None:
        person = run.status != "parked"
        why = run.why if run.why.startswith("waiting") else f"waiting for run {run.id}: {run.why}"
        # One that is paused waits for whoever resumes it, whatever its time was.
        until = 0 if run.status == "paused" else run.wake_at or 0
        self._leg.asleep[self._call_id] = Sleep(
            until=until, why=why, person=person, least=self._leg.nap_ns
        )
        self._leg.nudge()

    async def awake(self) -> None:
        await self._leg.awake(self._call_id)


def _halted(run: Run) -> str:
    return f"run {run.id} is {run.status}: {run.why.removeprefix(run.status).lstrip(' :')}"


def _has_children(who: Agent | Flow[..., Any]) -> bool:
    return isinstance(who, Flow) or any(tool.agent is not None for tool in who.functions)


def _sources(*agents: Agent) -> frozenset[str]:
    tools = [tool for agent in agents for tool in agent.functions]
    return frozenset(source.source for tool in tools for source in tool.sources if source.source)


def given_up(  # noqa: PLR0911  (a row per action)
    action: Work,
) -> Outcome | None:
    """Return the outcome of what was given up because the run was cancelled."""
    why = "the run was cancelled"
    match action:
        case CallModel():
            return not_answered(action, ModelFailure("cancelled", why))
        case CallTool():
            told = f"The outcome of this call of {action.tool} is unknown: {why}."
            return ToolCallInDoubt(
                ask_id=action.ask_id,
                call_id=action.call_id,
                tool_use_id=action.tool_use_id,
                kind="cancelled",
                content=Raw(msgspec.json.encode(told)),
            )
        case FindOut():
            return ToolCallReconciled(
                ask_id=action.ask_id,
                call_id=action.call_id,
                tool_use_id=action.tool_use_id,
                outcome="unknown",
                note=why,
                function=True,
            )
        case CheckAnswer():
            return VerdictGiven(
                ask_id=action.ask_id,
                call_id=action.answered_by,
                check=action.check,
                kind="rule",
                version="",
                verdict="unverified",
                why=why,
            )
        case CallUndo():
            return UndoFinished(call_id=action.undone, status="failed", error="it was given up")
        case CallStep():
            return StepFinished(name=action.name, kind="step", status="in_doubt", error=why)
        case DriveChild():
            return StepFinished(name=action.name, kind="child", status="failed", error=why)
        case CountTokens():
            return uncounted(action, why)
        case FetchReply():
            return not_answered(action, ModelFailure("cancelled", why))


def _task(action: Work) -> str:
    return CHILD if isinstance(action, DriveChild) else action.call_id


def commit_of(wanted: Append, started: RunStarted, *, run_id: str, epoch: int) -> Commit:
    """Return the commit of what the loop wants appended: events, row and roll-up together."""
    return Commit(
        stream=run_stream(run_id),
        events=wanted.events,
        at=wanted.at,
        expected_seq=wanted.expected_seq,
        epoch=epoch,
        row=row(wanted.state, run_id),
        postings=postings(started, wanted),
    )


Blob: TypeAlias = Callable[[str], bytes | None]


def request_of(call: CallModel, *, run_id: str, blob: Blob) -> Request:
    """Return what one attempt sends: the history, with its images and its breakpoints.

    Args:
        call: what is to be sent.
        run_id: the run it belongs to.
        blob: what the journal keeps under a digest.

    Raises:
        ModelFailure: the journal has lost a blob, and nothing was sent.

    """
    messages = _filled(call, blob)
    if call.cache:
        shown = [*messages[:]]
        for index in call.breakpoints:
            shown[index] = marked(shown[index], call.cache)
        messages = shown
    return Request(
        run_id=run_id,
        ask_id=call.ask_id,
        call_id=call.call_id,
        attempt=call.attempt,
        model=call.model,
        max_tokens=call.max_tokens,
        head=call.head,
        messages=messages,
    )


def _filled(call: CallModel | CountTokens, blob: Blob) -> Sequence[bytes]:
    """Return the messages of a call with their images and documents in them."""
    if not call.attached:
        return call.messages
    messages = list(call.messages)
    for index in call.attached:
        messages[index] = expanded(messages[index], lambda digest: _base64(digest, blob))
    return messages


def _base64(digest: str, blob: Blob) -> bytes:
    data = blob(digest)
    if data is None:
        raise ModelFailure(
            "store",
            f"the journal has no blob {digest}, which the conversation holds an image or a "
            "document of; restore the store from a backup that has it",
        )
    return encoded(data)


def counting(count: CountTokens, *, run_id: str, blob: Blob) -> Request:
    """Return the request whose input is to be counted.

    Raises:
        ModelFailure: the journal has lost a blob.

    """
    return Request(
        run_id=run_id,
        ask_id=count.ask_id,
        call_id=count.call_id,
        attempt=1,
        model=count.model,
        max_tokens=1,
        head=count.head,
        messages=_filled(count, blob),
    )


def first_request(spec: Spec, content: Raw, blob: Blob) -> Request:
    """Return the request that a run begins with whose input is `content`, to be counted."""
    asked = MessageReceived(ask_id="ask-1", content=content)
    ask = evolve(opened("ask-1", spec), Record("", 1, 0, 0, 0, asked))
    count = CountTokens(
        ask_id=ask.ask_id,
        call_id="count",
        model=spec.model,
        head=ask.head,
        messages=ask.messages,
        attached=ask.attached,
    )
    return counting(count, run_id="", blob=blob)


def counted(count: CountTokens, tokens: int) -> TokensCounted:
    """Return the outcome of a count."""
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        return uncounted(count, f"the model counted {tokens!r} tokens")
    return TokensCounted(ask_id=count.ask_id, call_id=count.call_id, tokens=tokens)


def uncounted(count: CountTokens, why: str) -> TokensCounted:
    """Return the outcome of a count that did not come: no prompt is longer than the context."""
    return TokensCounted(
        ask_id=count.ask_id,
        call_id=count.call_id,
        tokens=context_window(count.model),
        why=printable(why),
    )


def batched(call: CallModel, place: Place) -> ModelCallBatched:
    """Return the outcome of sending a call in a batch that was accepted."""
    return ModelCallBatched(
        ask_id=call.ask_id,
        call_id=call.call_id,
        batch_id=place.batch_id,
        custom_id=place.custom_id,
    )


def answered(call: CallModel | FetchReply, reply: Reply, *, latency_ms: int) -> ModelCallSucceeded:
    """Return the outcome of a reply.

    Raises:
        ModelFailure: what came is not what the API promises; in doubt.

    """
    try:
        _check_writable(reply)
        ids = [block.id for block in blocks(reply.content) if block.type == "tool_use"]
        billed = billed_as(call.model, reply.model or call.model)
        cost = exact(billed, reply.usage, call.terms)
    except UnknownModel as error:
        # Asking again would be answered by the same model, and cost as much as nobody knows.
        raise ModelFailure("bug", f"the reply is by {reply.model!r}: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelFailure("malformed", f"the reply cannot be read: {error}") from error
    if len(ids) != len(set(ids)) or not all(ids):
        raise ModelFailure("malformed", f"the tool uses of the reply have the ids {ids}")
    return ModelCallSucceeded(
        ask_id=call.ask_id,
        call_id=call.call_id,
        content=reply.content,
        stop_reason=reply.stop_reason,
        usage=reply.usage,
        cost_nano=cost.nano,
        tokens=cost.tokens,
        model=reply.model,
        request_id=reply.request_id,
        message_id=reply.message_id,
        extra=reply.extra,
        latency_ms=latency_ms,
        cache_read=cost.cache_read_tokens,
        cache_written=cost.cache_write_tokens,
    )


def _check_writable(reply: Reply) -> None:
    """Refuse what a journal could not be read with again: a model may be anybody's adapter."""
    if _too_deep(bytes(reply.content)) or _too_deep(bytes(reply.extra)):
        raise ModelFailure("malformed", f"the reply is nested more than {DEPTH} deep")
    _MEMBERS.decode(reply.extra)
    for name in (reply.stop_reason or "", reply.model, reply.request_id, reply.message_id):
        if not isinstance(name, str):
            raise ModelFailure("bug", f"the model gave names that are not strings: {name!r}")


def _too_deep(json: bytes) -> bool:
    if json.count(b"[") + json.count(b"{") <= DEPTH:
        return False
    depth = deepest = 0
    for match in _BRACKETS.finditer(json):
        token = match[0]
        depth += (token in b"[{") - (token in b"]}")
        deepest = max(deepest, depth)
    return deepest > DEPTH


_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_KINDS: Final = frozenset(get_args(FailureKind))


def not_answered(
    call: CallModel | FetchReply, failure: ModelFailure
) -> ModelCallFailed | ModelCallInDoubt:
    """Return the outcome of an attempt that came to nothing: in doubt unless surely unbilled.

    A kind that is not one of `FailureKind` is a bug of the adapter, so in doubt too.
    """
    facts: dict[str, Any] = {
        "ask_id": call.ask_id,
        "call_id": call.call_id,
        "kind": failure.kind if failure.kind in _KINDS else "bug",
        "message": _said(failure.message),
        "status": failure.status if isinstance(failure.status, int) else 0,
        "error_type": _said(failure.error_type),
        "error_code": _said(failure.error_code),
        "retry_after_s": seconds(failure.retry_after_s),
        "request_id": _said(failure.request_id),
    }
    if failure.kind in UNBILLED:
        return ModelCallFailed(**facts)
    return ModelCallInDoubt(**facts, cost_nano=call.hold_nano, tokens=call.hold_tokens)


def _said(value: object) -> str:
    # None is what an SDK has for an id that did not come.
    return "" if value is None else printable(str(value))


def postings(started: RunStarted, wanted: Append) -> tuple[Posting, ...]:
    """Return the lines that the events of one append add to the hourly cost roll-up."""
    lines: list[Posting] = []
    for event in wanted.events:
        if not isinstance(event, (*BILLED, CacheMissed, LoopDetected)):
            continue
        # As it was when the call was made: the next one may be in the same append, of another
        # model.
        ask = wanted.before.asks[event.ask_id]
        payer = payer_of(started, ask)
        if isinstance(event, LoopDetected):
            for call in wanted.state.asks[event.ask_id].wasted:
                where, whose = (
                    place(call.at, call.tool, wanted.at),
                    replace(payer, model=call.model),
                )
                lines.append(line(whose, where, loops_nano=call.nano))
            continue
        where = place(ask.called_at, ask.called_with, wanted.at)
        if isinstance(event, CacheMissed):
            lines.append(line(payer, where, missed_nano=event.extra_nano))
        else:
            lines.append(posting(event, payer, where))
    return tuple(lines)
