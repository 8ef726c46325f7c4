"""Tools that fail in every way, a Claude that calls them, and a world that keeps the score.

A schedule is drawn from a seed: which tools Claude calls, what becomes of every attempt, where the
process dies, what the person says who is asked, and in which order all of that comes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Raw

import outlast
from outlast.conversation import Pending
from outlast.events import (
    ControlGiven,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallReconciled,
    ToolCallStarted,
    ToolCallSucceeded,
)
from outlast.journal import Commit, run_stream
from outlast.models.script import Turn, say, text_of, tool_use, turn_number
from outlast.starting import begin
from outlast.state import RunState, fold
from outlast.stores import open_store
from outlast.testing.simulation import Crash, Driver, Late, World

STREAM: Final = run_stream("r")
OVER: Final = (ToolCallSucceeded, ToolCallFailed, ToolCallInDoubt, ToolCallReconciled)


class Status(Exception):
    """What an HTTP client raises."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status_code = status


CLEAN: Final[tuple[Callable[[], Exception], ...]] = (
    lambda: ConnectionRefusedError("nobody there"),
    *(lambda status=status: Status(status) for status in (400, 401, 403, 404, 409, 413, 429)),
    lambda: outlast.ToolError("No, and nothing was done."),
    lambda: outlast.ToolError("No, that is old.", error_class="stale"),
)
"""What says that nothing happened, and is right."""

UNHEARD: Final[tuple[Callable[[], Exception], ...]] = (
    lambda: Late("it would not return"),
    lambda: TimeoutError("no reply"),
    lambda: ConnectionResetError("gone"),
    lambda: Status(503),
    lambda: outlast.ToolError("It did not answer.", error_class="unavailable"),
    lambda: outlast.ToolError("It was too slow.", error_class="timeout_after_sending"),
)
"""What leaves everybody in doubt: it is raised before the effect, after it, or long before it."""


@dataclass(frozen=True)
class Execution:
    """One call of a function."""

    use: str
    source: str
    key: str
    ending: str


@dataclass
class Plot:
    """What is going to happen, and what did."""

    seed: int
    deaths: int = 3
    executions: list[Execution] = field(default_factory=list)
    done: dict[str, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    """The effects on the world by tool use; of a `once` tool each execution is one."""
    sent: list[tuple[str, str]] = field(default_factory=list)
    """The effects of `once` tools, doubled ones included."""
    late: list[tuple[str, str, str]] = field(default_factory=list)
    """Effects that are still to come, of calls that were given up."""
    keys: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    doubtful: set[str] = field(default_factory=set)
    """The uses of `once` tools of which nobody can know what became of them."""
    surfaced: set[str] = field(default_factory=set)
    """Those of which somebody was asked, or a function found it out."""
    repeated: set[str] = field(default_factory=set)
    """Those that were executed all the same."""
    undone: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The keys under which a use was taken back."""

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)  # noqa: S311  (a schedule, not a secret)

    def act(self, name: str, effect: str, mark: str, context: outlast.ToolContext) -> Any:
        """Do what a tool does, or fail, as it comes."""
        use, key = use_of(context.call_id), context.idempotency_key
        if use in self.doubtful:
            self.repeated.add(use)
        self.keys[use, name].add(key)
        draw, happens = self.rng.random(), self.rng.random() < 0.5
        if draw < 0.05 and self.deaths:
            self.deaths -= 1
            self._end(use, name, key, "died", effect if happens else "read")
            raise Crash(f"under {name}")
        if draw < 0.30:
            error = self.rng.choice(UNHEARD)()
            if not happens and self.rng.random() < 0.3 and name not in SETTLED:
                self.late.append((use, name, effect))
            self._end(use, name, key, "unheard", effect if happens else "read")
            if effect == "once":
                self.doubtful.add(use)
            raise error
        if draw < 0.50:
            self._end(use, name, key, "clean", "read")
            error = self.rng.choice(CLEAN)()
            raise error
        if draw < 0.56:
            self._end(use, name, key, "muddy", effect if happens else "read")
            raise ValueError("a bug")
        self._end(use, name, key, "returned", effect)
        if draw < 0.60:
            return object()
        if draw < 0.64:
            return ""
        told = f"{name} did {mark}"
        return outlast.Degraded(told, as_of=datetime.now(UTC)) if draw < 0.68 else told

    def _end(self, use: str, name: str, key: str, ending: str, effect: str) -> None:
        self.executions.append(Execution(use, name, key, ending))
        self._happen(use, name, key, effect)

    def _happen(self, use: str, name: str, key: str, effect: str) -> None:
        if effect == "once":
            self.sent.append((use, name))
            self.done[use].add((name, "once"))
        elif effect == "idempotent":
            self.done[use].add((name, key))

    def catch_up(self) -> None:
        """Let what was given up, and still goes on, come to its end."""
        for use, name, effect in self.late:
            self._happen(use, name, next(iter(self.keys[use, name])), effect)
        self.late.clear()

    def look(self, context: outlast.ToolContext) -> Any:
        """Find out what became of a call, or not."""
        use = use_of(context.call_id)
        draw, happened = self.rng.random(), bool(self.done[use])
        known = [keys for (one, _), keys in self.keys.items() if one == use]
        assert not known or any(context.idempotency_key in keys for keys in known)
        if draw < 0.2:
            return None
        if draw < 0.3:
            raise ValueError("nothing to be found out")
        if draw < 0.35:
            return "maybe"
        self.surfaced.add(use)
        if draw < 0.6:
            return happened
        result = f"found {use}" if happened and draw < 0.8 else None
        return outlast.Reconciled(happened=happened, result=result, note="I looked.")

    def take_back(self, context: outlast.ToolContext) -> None:
        """Take a call back; that may fail a few times."""
        self.undone[use_of(context.call_id)].add(context.idempotency_key)
        if self.rng.random() < 0.2:
            raise ValueError("it cannot be undone")


def use_of(call_id: str) -> str:
    """Return the tool use that a call is an attempt at."""
    return ".".join(call_id.split(".")[:3])


class Stage:
    """Where the tools act now.  They are declared once, since schemas take a while."""

    plot: ClassVar[Plot]


def source(name: str, effect: Any, **options: Any) -> outlast.Tool[..., Any]:
    """Declare a tool."""

    def act(mark: str, context: outlast.ToolContext) -> Any:
        """Do it."""
        return Stage.plot.act(name, effect, mark, context)

    def plain(mark: str, context: outlast.ToolContext) -> str:
        """Do it, and promise a text."""
        return Stage.plot.act(name, effect, mark, context)

    EFFECTS[name] = effect
    return outlast.tool(effect=effect, name=name, **options)(plain if effect == "read" else act)


def look(context: outlast.ToolContext) -> Any:
    """Find out what became of a call."""
    return Stage.plot.look(context)


def take_back(mark: str, context: outlast.ToolContext) -> None:
    """Take back what a call did."""
    Stage.plot.take_back(context)


EFFECTS: Final[dict[str, str]] = {}
_KEPT: Final = outlast.LastGood()


def pool() -> Iterator[outlast.Tool[..., Any]]:
    """Yield the tools that Claude may have."""
    some = {"attempts": 3}
    found: dict[str, Any] = {"reconcile": look}
    back: dict[str, Any] = {"undo": take_back}
    for effect in ("once", "idempotent", "read"):
        short = effect[:4]
        other, third = source(f"{short}_other", effect), source(f"{short}_third", effect)
        reading = source(f"{short}_reading", "read")
        sending = source(f"{short}_sending", "once")
        kinds: dict[str, dict[str, Any]] = {
            "plain": {},
            "tries": some,
            "falls": {"fallbacks": [other]},
            "both": {**some, "fallbacks": [other, third]},
            "reads": {"attempts": 2, "fallbacks": [reading]},
            "sends": {"attempts": 2, "fallbacks": [sending, reading]},
            "keeps": {"fallbacks": [_KEPT] if effect == "read" else [reading]},
            "all": {**some, "fallbacks": [other, *([_KEPT] if effect == "read" else [])]}
            | {"empty_is_failure": True},
        }
        if effect == "once":
            kinds |= {
                "found": found,
                "found_all": {**some, **found, "fallbacks": [other]},
                "found_back": {**found, **back},
            }
        else:
            kinds["picky"] = {**some, "retry_on": ["bug", "not_found"]}
        if effect != "read":
            kinds["back"] = {**back, **some}
        for kind, options in kinds.items():
            yield source(f"{short}_{kind}", effect, **options)


POOL: Final = tuple(pool())
BACK: Final = frozenset(one.name for one in POOL if one.undo)
"""Tools whose calls can be taken back."""

SETTLED: Final = frozenset(one.name for one in POOL if one.reconcile or one.undo)
"""Tools whose calls are looked after at once, so what comes later is nobody's to know."""


class Scene:
    """A schedule that was played, and what came of it."""

    def __init__(self, seed: int) -> None:
        rng = Random(f"scene {seed}")  # noqa: S311  (a schedule, not a secret)
        self.seed = seed
        self.plot = Stage.plot = Plot(seed)
        self.cancels = rng.random() < 0.15
        some = [one for one in POOL if one.undo] if rng.random() < 0.1 + self.cancels / 2 else POOL
        chosen = [rng.choice(some) for _ in range(rng.randint(1, 6))]
        cut = rng.randint(1, len(chosen))
        self.turns = [one for one in (chosen[:cut], chosen[cut:]) if one]
        self.meddles = rng.random() < 0.3
        self.rng = rng
        crashes = rng.sample(range(1, 15 + 10 * len(chosen)), rng.randint(1, 3))
        self.world = World(self.script, crash_at=crashes)
        self.journal = open_store("memory://")
        tools = list(dict.fromkeys(chosen))
        self.agent = outlast.Agent("a", model="claude-haiku-5-5", tools=tools, max_tokens=512)
        self.crashes = 0
        self.asked = 0
        self.state = self._played()

    def script(self, request: dict[str, Any], attempt: int) -> Turn:
        """Call the tools that were drawn, a turn after the other."""
        turn = turn_number(request)
        if turn > len(self.turns):
            return say("Done.")
        uses = [
            tool_use(tool.name, {"mark": f"mark-{turn}-{number}"})
            for number, tool in enumerate(self.turns[turn - 1])
        ]
        return say(*uses)

    def _played(self) -> RunState:
        for _ in range(60):
            try:
                state = self._leg()
            except Crash:
                self.crashes += 1
                self.plot.doubtful |= set(self._lost())
                if self.cancels and self.journal.run("r") and self.rng.random() < 0.5:
                    self._cancel()
                continue
            if state.status != "waiting":
                self.plot.catch_up()
                return state
            if self.cancels:
                self._cancel()
            else:
                self._answer(state, self.rng.randint(1, 3))
        raise AssertionError(f"seed {self.seed}: the run goes round in circles")

    def _cancel(self) -> None:
        """Tell the run to end."""
        self.cancels = False
        self.plot.catch_up()
        told = ControlGiven(verb="cancel", by="ann", undo=self.rng.random() < 0.7)
        self.journal.append(Commit(stream=STREAM, events=(told,), at=self.world.tick()))

    def _leg(self) -> RunState:
        if self.journal.run("r") is None:
            at = self.world.tick()
            begin(self.journal, "r", self.agent, "Go.", at=at, nonce=f"n{self.seed}")
        driver = Driver(self.world, self.journal, self.agent, "r")
        while not driver.done:
            self.rng.choice(driver.choices())()
            if self.meddles and self.rng.random() < 0.1:
                self._answer(fold(self.journal.read(STREAM)), 1)
        assert driver.state is not None
        return driver.state

    def _lost(self) -> Iterator[str]:
        """Yield the uses of `once` tools that were begun, and of which nothing is written."""
        open_calls: dict[str, str] = {}
        for record in self.journal.read(STREAM):
            event = record.event
            if isinstance(event, ToolCallStarted):
                open_calls[event.call_id] = event.fallback or event.tool
            elif isinstance(event, OVER):
                open_calls.pop(event.call_id, None)
        yield from (use_of(one) for one, name in open_calls.items() if EFFECTS.get(name) == "once")

    def _answer(self, state: RunState, most: int) -> None:
        """Let a person say, and say truly, what became of calls in doubt."""
        self.plot.catch_up()
        for pending in doubts(state)[:most]:
            use = use_of(pending.doubt)
            self.asked += 1
            self.plot.surfaced.add(use)
            happened = bool(self.plot.done[use])
            content = b"null"
            if happened and self.rng.random() < 0.5:
                content = msgspec.json.encode(f"ann saw {use}")
            event = ToolCallReconciled(
                ask_id="ask-1",
                call_id=pending.doubt,
                tool_use_id=pending.tool_use_id,
                outcome="happened" if happened else "did_not",
                content=Raw(content),
                by="ann",
            )
            self.journal.append(Commit(stream=STREAM, events=(event,), at=self.world.tick()))

    def told(self) -> Iterator[tuple[str, outlast.Tool[..., Any], str, bool]]:
        """Yield each use with its tool, and what Claude was told of it."""
        if not self.world.requests:
            return
        messages = msgspec.json.decode(self.world.requests[-1])["messages"]
        call = 0
        named: dict[str, tuple[str, str]] = {}
        calls = self._calls()
        for message in messages:
            uses = [one for one in message["content"] if one["type"] == "tool_use"]
            for number, one in enumerate(uses, start=1):
                named[one["id"]] = (f"{calls[call]}.t{number}", one["name"])
            call += message["role"] == "assistant"
            for one in message["content"]:
                if one["type"] == "tool_result":
                    use, name = named[one["tool_use_id"]]
                    tool = self.agent.tool(name)
                    assert tool is not None
                    yield use, tool, text_of(one["content"]), one.get("is_error", False)

    def _calls(self) -> list[str]:
        """Return the calls of the model that were answered: uses are named by them."""
        events = (record.event for record in self.journal.read(STREAM))
        return [event.call_id for event in events if type(event).__name__ == "ModelCallSucceeded"]


def doubts(state: RunState) -> list[Pending]:
    """Return the tool uses of which somebody has to say what became of them."""
    return [one for ask in state.asks.values() for one in ask.pending if one.doubt]
