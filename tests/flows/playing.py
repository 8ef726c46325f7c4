"""A flow is played: the real application on a clock that nobody waits for, killed where it is told.

A life is a process: when it is over, nothing of it reaches the store, Claude or the tools any more.
What is judged is the world, which no death undoes: what Claude was asked and billed, and what the
functions did.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar, Final

import msgspec
from played import BEGAN, NS, Crash, _Selector

import outlast
from outlast import app as app_module
from outlast import starting as starting_module
from outlast import telling as telling_module
from outlast.errors import ModelFailure
from outlast.events import ModelCallInDoubt, tag
from outlast.journal import Commit, Journal, Record, run_stream
from outlast.models import Part, Reply, Request
from outlast.models.claude import Answer
from outlast.models.script import Script
from outlast.models.scripted import ScriptedModel
from outlast.state import RunState, fold
from outlast.stores import open_store

Point = tuple[str, int]
"""Where a life ends: `step`, `before append` or `after append`, and the how manieth."""

NEVER: Final[Point] = ("", 0)


class _Patient(_Selector):
    """Lets time jump, but not before a flow in a thread had its say."""

    def select(self, timeout: float | None = None) -> list[Any]:
        flows = [one for one in threading.enumerate() if one.name == "outlast-flow"]
        if flows and timeout != 0:
            for _ in range(1 if timeout is not None else 2_000):
                if said := selectors.SelectSelector.select(self, 0.005):
                    return said
        return super().select(timeout)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps."""

    def __init__(self) -> None:
        self.virtual = _Patient()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.now


class World:
    """What outlives every death.

    Attributes:
        journal: where runs are recorded.
        ran: how often each function did what it does, by what it was called with.
        keys: the idempotency keys that each was called with.
        answers: everything Claude answered, oldest first, whether or not anybody heard it.
        appends: the events of every append of every life, by their tags.

    """

    now: ClassVar[World]
    """The world in which functions act at the moment; they are declared once, as in a program."""

    def __init__(self, script: Script, journal: Journal | None = None) -> None:
        self.loop = Loop()
        self.journal = journal or open_store("memory://")
        self.model = ScriptedModel(script, paced=True, clock=self.clock)
        self.ran: Counter[str] = Counter()
        self.keys: dict[str, set[str]] = {}
        self.answers: list[Answer] = []
        self.appends: list[str] = []
        self.life: Life | None = None
        World.now = self
        self._listen()

    def clock(self) -> int:
        return BEGAN + int(self.loop.time() * NS)

    def _listen(self) -> None:
        # At Claude itself, since what it refuses is not always told by those who asked.
        answer = self.model._claude.answer

        def heard(body: bytes, key: str = "", *, batch: bool = False) -> Answer:
            self.answers.append(answer(body, key, batch=batch))
            return self.answers[-1]

        self.model._claude.answer = heard  # type: ignore[method-assign]

    def act(self, what: str, key: str = "") -> None:
        """Let a function do something, if its process lives."""
        assert self.life is not None
        self.life.check()
        self.ran[what] += 1
        if key:
            self.keys.setdefault(what, set()).add(key)

    @property
    def requests(self) -> list[str]:
        """What Claude was asked, each request once."""
        return list(dict.fromkeys(answer.identity.key for answer in self.answers))

    def states(self) -> dict[str, RunState]:
        """Return every run there is, folded from its journal."""
        runs = self.journal.runs()
        return {row.id: fold(self.journal.read(run_stream(row.id))) for row in runs}


class Life:
    """One process: its way to the store and to Claude, until it is dead."""

    def __init__(self, world: World, dies: Point = NEVER, *, asked: str = "") -> None:
        self.dead = False
        self._asked = asked.encode()
        self.appends = 0
        self._world = world
        self._dies = dies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.journal, name)

    def check(self) -> None:
        if self.dead:
            raise Crash

    def claim(self, stream: str) -> int:
        self.check()
        return self._world.journal.claim(stream, force=True)  # whoever held it is dead

    async def call(self, request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
        self.check()
        if self._asked and self._asked in request.messages[-1]:
            self.dead = True
            self.check()
        return await self._world.model.call(request, on_part=on_part)

    def no_batches(self) -> str:
        return ""

    async def send_batch(self, requests: Mapping[str, Request]) -> str:
        self.check()
        sent = await self._world.model.send_batch(requests)
        self.check()
        return sent

    async def batch_ended(self, batch_id: str) -> bool:
        self.check()
        return await self._world.model.batch_ended(batch_id)

    async def batch_results(self, batch_id: str) -> Mapping[str, Reply | ModelFailure]:
        self.check()
        return await self._world.model.batch_results(batch_id)

    async def aappend(self, commit: Commit) -> tuple[Record, ...]:
        return self.append(commit)

    def append(self, commit: Commit) -> tuple[Record, ...]:
        self.check()
        self.appends += 1
        self._pass("before append")
        records = self._world.journal.append(commit)
        self._world.appends.append("+".join(tag(event) for event in commit.events))
        self._pass("after append")
        return records

    def _pass(self, where: str) -> None:
        if self._dies == (where, self.appends):
            self.dead = True
            self.check()


class App(outlast.Outlast):
    """An application on a loop of its own, as if it were the only one."""

    def _at_home(self) -> bool:
        return True


@contextmanager
def _clocked(world: World) -> Iterator[None]:
    """Let the application live in the time of the world."""
    was = app_module.time, starting_module.time, telling_module.time
    clock = SimpleNamespace(time_ns=world.clock, monotonic=world.loop.time)
    app_module.time = starting_module.time = telling_module.time = clock  # type: ignore[assignment]
    try:
        yield
    finally:
        app_module.time, starting_module.time, telling_module.time = was


Main = Callable[[outlast.Outlast], Awaitable[Any]]
"""What a process does; the same again after every death."""


def lived(world: World, main: Main, dies: Point = NEVER, *, asked: str = "", **options: Any) -> Any:
    """Live one life, until it dies, or asks Claude that; return what its main returned, if any."""
    life = world.life = Life(world, dies, asked=asked)
    app = App(life, model=life, **options)  # type: ignore[arg-type]
    app._own._clock = world.clock
    app._own.workshop = None  # a thread of its own would live in another time
    task = world.loop.create_task(main(app))
    where, number = dies

    def happen() -> None:
        life.dead = True
        task.cancel()

    if where == "step":
        world.loop.virtual.happening = (world.loop.virtual.steps + number, happen)
    with _clocked(world):
        world.loop.run_until_complete(asyncio.wait((task,)))
        world.loop.virtual.happening = None
        left = asyncio.all_tasks(world.loop)
        if left:
            world.loop.run_until_complete(asyncio.wait(left))
    if not task.cancelled() and not isinstance(task.exception(), Crash):
        return task.result()
    assert life.dead, "somebody else than death cancelled the run"
    return None


class Played:
    """A flow that was run to its end through some deaths.

    Attributes:
        world: what happened.
        run: the run at rest.
        deaths: how many lives ended early.
        steps: the loop's steps of the last life.

    """

    def __init__(
        self, script: Script, who: Any, given: Any, dies: Iterable[Point] = (), **options: Any
    ) -> None:
        self.world = World(script)
        self.deaths = 0

        async def main(app: outlast.Outlast) -> outlast.Run:
            return await app.arun(who, given, run_id="r", wait_s=1e6)

        try:
            for point in dies:
                if lived(self.world, main, point, **options) is None:
                    self.deaths += 1
            before = self.world.loop.virtual.steps
            self.run: outlast.Run = lived(self.world, main, **options)
            self.steps = self.world.loop.virtual.steps - before
        finally:
            self.world.loop.close()

    @property
    def answer(self) -> Any:
        return self.run.answer


def check_world(played: Played) -> None:
    """See that Claude was content, that every run rests, and that what was billed is charged."""
    world = played.world
    refused = [answer.fault for answer in world.answers if answer.outcome == "refused"]
    assert not refused, refused
    charged = 0
    for run_id, state in world.states().items():
        assert state.status in {"completed", "failed"}, (run_id, state.status, state.why)
        assert state.spend.held_nano == 0, f"{run_id} at rest holds {state.spend.held_nano}"
        row = world.journal.run(run_id)
        assert row is not None
        assert row.cost_nano == state.spend.nano
        charged += state.spend.nano
        for record in world.journal.read(run_stream(run_id)):
            event = record.event
            assert not (isinstance(event, ModelCallInDoubt) and event.kind == "bug"), event.message
    assert world.model.billed_nano <= charged, "more was billed than charged"


def decoded(body: bytes) -> dict[str, Any]:
    """Return a request as a dict."""
    request: dict[str, Any] = msgspec.json.decode(body)
    return request
