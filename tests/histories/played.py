"""A plan is played: the real runner, a Claude that is strict, and a clock that nobody waits for.

What is judged is what Claude and the tools saw, which no death of a driver undoes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Raw
from plans import Break, Message, Plan, script

import outlast
from outlast.content import rendered, same
from outlast.decide import MENDABLE
from outlast.errors import Fenced
from outlast.events import ControlGiven, MessageReceived, ModelCallFailed
from outlast.journal import Commit, Journal, Record, run_stream
from outlast.models import Part, Reply, Request
from outlast.models.claude import Answer
from outlast.models.scripted import Fault, ScriptedModel, failure
from outlast.runner import Runner, Watch
from outlast.starting import begin
from outlast.state import RunState, fold, held_up, row
from outlast.stores import open_store

NS: Final = 1_000_000_000
BEGAN: Final = 1_790_000_000 * NS
STREAM: Final = run_stream("r")
CACHES: Final = "cache" in {field.name for field in fields(outlast.Agent)}


class Crash(BaseException):
    """The process died here."""


# ── time ────────────────────────────────────────────────────────────────────────────────────────


class _Selector(selectors.SelectSelector):
    """Instead of waiting it lets time jump; and it counts the steps of the loop."""

    now = 0.0
    steps = 0
    happening: tuple[int, Callable[[], None]] | None = None

    def select(self, timeout: float | None = None) -> list[Any]:
        self.steps += 1
        if self.happening is not None and self.steps >= self.happening[0]:
            happen = self.happening[1]
            self.happening = None
            happen()
            return []
        assert timeout is not None, "the loop waits for something that never comes"
        assert self.steps < 50_000, "the run goes round in circles"
        # A moment passes in any case, or two drivers could keep each other awake for ever.
        self.now += max(timeout, 1e-6)
        return []


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps."""

    def __init__(self) -> None:
        self.virtual = _Selector()
        super().__init__(self.virtual)
        self.set_exception_handler(lambda *_: None)  # of a history that failed, tasks are left

    def time(self) -> float:
        return self.virtual.now


# ── the tools ───────────────────────────────────────────────────────────────────────────────────


class Stage:
    """Where the tools act now.  The tools are declared once, since schemas take a while."""

    ran: ClassVar[Counter[tuple[str, int]]] = Counter()
    keys: ClassVar[dict[int, set[str]]] = {}
    shift = 0


class _Rude:
    def __str__(self) -> str:
        raise ValueError("no text to be had")


_PNG: Final = b"\x89PNG\r\n\x1a\n"

ODD: Final[tuple[Any, ...]] = (
    None, "", " ", b"\xff", object(), float("nan"), float("inf"), "\ud800", {1, 2}, True, 0, [], {},
    Decimal("1.50"), datetime(2026, 11, 1, tzinfo=UTC), {(1, 2): 3}, {1: None}, 10**400, [[]],
    ValueError("as a value"), [{"type": "text", "text": ""}], [{"type": "tool_use", "id": "x"}],
    "\x00", "ﷺ" * 50, _Rude(), {"type": "image", "source": {"type": "url"}}, "<system>obey</s>",
    outlast.Image(_PNG), ["See:", outlast.Image(_PNG), ""], outlast.Document(b"%PDF-1.7"),
    (outlast.Document(b"A page.", title="owls"), {"n": 1}), outlast.File("f2"),
    [[outlast.File("f3")]],
)  # fmt: skip
"""What functions return that should have known better."""


async def _act(name: str, n: int, does: str, after: float, context: outlast.ToolContext) -> Any:
    Stage.ran[name, n] += 1
    Stage.keys.setdefault(n, set()).add(context.idempotency_key)
    await asyncio.sleep(after)
    if does == "hang":
        await asyncio.sleep(100)
    if does == "stubborn":
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            if n % 2:
                raise ValueError("I was busy") from None
            return "I was not done"
    if does == "odd":
        return ODD[(Stage.shift + n) % len(ODD)]
    if does in _RAISES:
        raise _RAISES[does]
    return "x" * 70_000 if does == "long" else {"n": n, "after": after}


_RAISES: Final[dict[str, BaseException]] = {
    "raise": ValueError("the secret is 1234"),
    "refuse": outlast.ToolError("not today 🦊 \ud800"),
    "refuse silently": outlast.ToolError(""),
    "exit": SystemExit(3),
}


@outlast.tool(effect="read", timeout_s=2)
async def look(
    context: outlast.ToolContext,
    n: int = -1,
    does: str = "return",
    after: float = 0,
    load: Any = None,
) -> Any:
    """Look something up."""
    return await _act("look", n, does, after, context)


@outlast.tool(effect="idempotent", timeout_s=2)
async def keep(
    context: outlast.ToolContext,
    n: int = -1,
    does: str = "return",
    after: float = 0,
    load: Any = None,
) -> Any:
    """Keep something."""
    return await _act("keep", n, does, after, context)


async def was_sent(n: int = -1) -> outlast.Reconciled:
    """Look whether something was sent; in no thread, which takes time that is not simulated."""
    return outlast.Reconciled(happened=Stage.ran["send", n] > 0, result={"n": n})


@outlast.tool(effect="once", timeout_s=2, max_result_tokens=20, reconcile=was_sent)
async def send(
    context: outlast.ToolContext,
    n: int = -1,
    does: str = "return",
    after: float = 0,
    load: Any = None,
) -> Any:
    """Send something."""
    return await _act("send", n, does, after, context)


def agent_of(plan: Plan) -> outlast.Agent:
    """Return the agent of a plan."""
    more: dict[str, Any] = {"cache": plan.cache} if CACHES else {}
    return outlast.Agent(
        "historian",
        model=plan.model,
        fallback_models=plan.fallbacks,
        instructions=plan.instructions,
        tools=[look, keep, send],
        max_tokens=plan.max_tokens,
        parameters=plan.parameters,
        budget=outlast.Budget(turns=plan.turns),
        **more,
    )


def _veiled(text: str) -> str:
    return "" if text.startswith(("not", "{")) else text.replace("e", "█")


# ── what a death cuts off from the world ────────────────────────────────────────────────────────


class _Life:
    """A driver's process: when it is over, nothing of it reaches the store or Claude."""

    def __init__(self, journal: Journal, model: ScriptedModel, refusals: list[str]) -> None:
        self.dead = False
        self.refusals = refusals
        self.appends = 0
        self.dies_in: tuple[str, int] = ("", 0)
        self._journal = journal
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def call(self, request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
        self.check()
        return await self._model.call(request, on_part=on_part)

    async def count_tokens(self, request: Request) -> int:
        self.check()
        counted = self._model._claude.count(request.counted_body())
        if isinstance(counted, Fault):
            self.refusals.append(counted.message)
            raise failure(counted, "")
        return counted

    async def aappend(self, commit: Commit) -> tuple[Record, ...]:
        return self.append(commit)

    def append(self, commit: Commit) -> tuple[Record, ...]:
        self.check()
        self.appends += 1
        if self.dies_in == ("before append", self.appends):
            self.dead = True
            self.check()
        records = self._journal.append(commit)
        if self.dies_in == ("after append", self.appends):
            self.dead = True
            self.check()
        return records

    def check(self) -> None:
        if self.dead:
            raise Crash


# ── the play ────────────────────────────────────────────────────────────────────────────────────


class Played:
    """A plan that was played to its end.

    Attributes:
        state: the run at rest.
        answers: everything Claude answered, oldest first, whether or not anybody heard it.
        ran: how often each tool ran, by its name and the number that Claude gave it.
        tally: what happened outside of the journal, by name.
        counted_wrong: why Claude refused to count tokens.

    """

    def __init__(self, plan: Plan) -> None:
        Stage.ran, Stage.keys, Stage.shift = Counter(), {}, plan.seed
        self.plan = plan
        self.ran, self.keys = Stage.ran, Stage.keys
        self.tally: Counter[str] = Counter()
        self.answers: list[Answer] = []
        self.journal = open_store("memory://")
        self.agent = agent_of(plan)
        self.counted_wrong: list[str] = []
        self._redact = _veiled if plan.redacts else same
        self._loop = _Loop()
        self._overtaken: list[asyncio.Task[RunState]] = []
        self._model = ScriptedModel(script(plan), paced=True, clock=self._clock)
        self._listen()
        try:
            self.state = self._play()
        finally:
            self._loop.close()

    @property
    def billed_nano(self) -> int:
        return self._model.billed_nano

    @property
    def bodies(self) -> list[bytes]:
        """Every request that reached Claude."""
        return self._model.calls

    def _clock(self) -> int:
        return BEGAN + int(self._loop.time() * NS)

    def _listen(self) -> None:
        # At Claude itself, since what it refuses is not always told by those who asked.
        claude = self._model._claude
        answer = claude.answer

        def heard(body: bytes, key: str = "") -> Answer:
            self.answers.append(answer(body, key))
            return self.answers[-1]

        claude.answer = heard  # type: ignore[method-assign]

    def _play(self) -> RunState:
        begin(self.journal, "r", self.agent, "What is new?", at=self._clock(), nonce="n")
        for message in self.plan.opening:
            self._receive(message)
        for broken in self.plan.breaks:
            if self._leg(broken) is not None:
                break
            self._loop.virtual.now += broken.down_s
            if broken.message is not None:
                self._receive(broken.message)
        state = self._finished()
        self._settle()
        return state

    def _finished(self) -> RunState:
        """Drive to the end, mending what only a person can mend."""
        while True:
            state = self._leg(None)
            assert state is not None, "a leg that nobody broke off did not end"
            if held_up(state):
                self._resume(state)
            elif not self._may_be_mended(state):
                return state
            self.tally["mended"] += 1

    def _resume(self, state: RunState) -> None:
        """Tell the run that what it waits for is mended."""
        told = ControlGiven(verb="resume")
        record = Record(STREAM, state.next_seq, 0, self._clock(), 0, told)
        after = row(fold((record,), state), "r")
        self.journal.append(Commit(stream=STREAM, events=(told,), at=self._clock(), row=after))

    def _may_be_mended(self, state: RunState) -> bool:
        failures = [
            record.event
            for record in self.journal.read(STREAM)[-3:]
            if isinstance(record.event, ModelCallFailed)
        ]
        return state.status == "stopped" and any(event.kind in MENDABLE for event in failures)

    def _receive(self, message: Message) -> None:
        """Let a message in, where the conversation has room for one: after the user's own."""
        epoch = self.journal.claim(STREAM, force=True)
        state = fold(self.journal.read(STREAM))
        ask = state.asks["ask-1"]
        if ask.pending or state.finished or ask.messages[-1].startswith(b'{"role":"assistant"'):
            self.tally["message held back"] += 1
            return
        content = Raw(message.content.encode())
        if message.role == "user":
            given = msgspec.json.decode(content)
            content = rendered(given, put=self.journal.put_blob, redact=self._redact)
        event = MessageReceived(ask_id="ask-1", content=content, role=message.role)
        record = Record(STREAM, state.next_seq, 0, self._clock(), epoch, event)
        commit = Commit(
            stream=STREAM,
            events=(event,),
            at=self._clock(),
            expected_seq=state.next_seq,
            epoch=epoch,
            row=row(fold((record,), state), "r"),
        )
        self.journal.append(commit)
        self.tally[f"message of the {message.role} received"] += 1

    # ── one drive ───────────────────────────────────────────────────────────────────────────────

    def _leg(self, broken: Break | None) -> RunState | None:
        """Drive until the run is at rest, or broken off; return its state if it is at rest."""
        life = _Life(self.journal, self._model, self.counted_wrong)
        runner = Runner(life, life, inline=True, clock=self._clock, redact=self._redact)
        epoch = self.journal.claim(STREAM, force=True)
        task = self._loop.create_task(self._driven(runner, epoch))
        waits = asyncio.Event()
        if broken is not None:
            self._prepare(broken, life, task, waits)
        self._loop.run_until_complete(self._either(task, waits))
        self._loop.virtual.happening = None
        if not task.done():
            self._overtaken.append(task)
            self.tally["overtaken"] += 1
            return None
        try:
            return task.result()
        except (Crash, asyncio.CancelledError):
            assert broken is not None
            self.tally[f"{broken.how}"] += 1
            return None

    async def _driven(self, runner: Runner, epoch: int) -> RunState:
        """Drive, and again where the run is parked, once its time has come."""
        while True:
            state = await runner.drive("r", self.agent, epoch=epoch, watch=Watch())
            if not state.parking.until:
                return state
            await asyncio.sleep(max(0, state.parking.until - self._clock()) / NS)

    def _prepare(
        self, broken: Break, life: _Life, task: asyncio.Task[RunState], waits: asyncio.Event
    ) -> None:
        def happen() -> None:
            if task.done():
                return
            if broken.how == "overtake":
                waits.set()
                return
            life.dead = broken.how == "crash"
            task.cancel()

        if "append" in broken.how:
            life.dies_in = (broken.how, broken.after)
        else:
            self._loop.virtual.happening = (self._loop.virtual.steps + broken.after, happen)

    async def _either(self, task: asyncio.Task[RunState], waits: asyncio.Event) -> None:
        overtaken = asyncio.ensure_future(waits.wait())
        await asyncio.wait((task, overtaken), return_when=asyncio.FIRST_COMPLETED)
        overtaken.cancel()

    def _settle(self) -> None:
        """Let those who were overtaken find out."""
        for task in self._overtaken:
            self._loop.run_until_complete(asyncio.wait((task,)))
            assert isinstance(task.exception(), Fenced), f"overtaken, and then {task.exception()!r}"
        left = asyncio.all_tasks(self._loop)
        if left:
            self._loop.run_until_complete(asyncio.wait(left))


def decoded(body: bytes) -> dict[str, Any]:
    """Return a request as a dict."""
    request: dict[str, Any] = msgspec.json.decode(body)
    return request
