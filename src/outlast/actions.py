"""What the policy can say: the actions, and one step of events and actions together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from outlast.approvals import Request
from outlast.breaker import State, source_key
from outlast.budget import Limits
from outlast.checks import Evidence
from outlast.events import AnyEvent, Turn
from outlast.pacing import THAWED, Freeze, group
from outlast.prices import PLAIN, Terms
from outlast.redaction import Redact, same
from outlast.wants import NOTHING, Wants

NS: Final = 1_000_000_000
NAP_NS: Final = 5 * NS
"""What is waited for at most without parking the run, in nanoseconds, unless a wait says less."""


class CallModel(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the model; the outcome is a `ModelCall…` event with this `call_id`."""

    ask_id: str
    call_id: str
    attempt: int
    max_tokens: int
    hold_nano: int
    hold_tokens: int
    model: str
    head: bytes
    messages: Sequence[bytes]
    cache: str
    """How long the prompt cache is to keep it; empty is no caching."""
    breakpoints: tuple[int, ...]
    """The messages at whose end it is to be kept."""
    attached: tuple[int, ...]
    """The messages whose images and documents are blobs."""
    terms: Terms = PLAIN
    """What else says what it costs."""
    batch: bool = False
    """It is to be one of a batch; the outcome is then `ModelCallBatched`, once that is accepted."""
    timeout_s: float | None = None
    """How long it may take in all; one of a batch as long as it takes."""
    quiet: bool = False
    """What comes of it is no part of an answer, and shown to nobody on the way."""


class FetchReply(msgspec.Struct, frozen=True, kw_only=True):
    """Wait for a batch to end, and fetch the reply to one of its calls.

    The outcome is a `ModelCall…` event with this `call_id`.  Nothing is sent and nothing is paid,
    so it can be done any number of times.
    """

    ask_id: str
    call_id: str
    batch_id: str
    custom_id: str
    model: str
    hold_nano: int
    hold_tokens: int
    called_at: int
    """When the call was started, in nanoseconds since the epoch."""
    terms: Terms = PLAIN


class CountTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Let the API count a prompt; the outcome is a `TokensCounted` event with this `call_id`.

    It costs nothing and changes nothing, so there is no intent: after a crash it is done again.
    """

    ask_id: str
    call_id: str
    model: str
    head: bytes
    messages: Sequence[bytes]
    attached: tuple[int, ...]


class CallTool(msgspec.Struct, frozen=True, kw_only=True):
    """Call a tool; the outcome is a `ToolCall…` event with this `call_id`."""

    ask_id: str
    call_id: str
    tool_use_id: str
    tool: str
    arguments: Raw
    """As Claude wrote them."""
    given: dict[str, Any]
    """The same, checked, as keyword arguments of the function."""
    attempt: int
    place: str
    """What tells the call from every other one in the world: run, ask, turn and tool use."""
    child: str = ""
    """The id of the run that this call is; empty where it is a function."""
    most_tokens: int = 0
    """How much of its result there is room for in the next prompt; 0 where that is not known."""
    rank: int = 0
    """Which of the tool's sources is asked; see `ToolCallStarted`."""
    dropped: tuple[str, ...] = ()
    """The arguments that the source does not take."""
    asked: dict[str, Any] | None = None
    """What the tool itself was asked, where that is more than the source takes."""

    @property
    def idempotency_key(self) -> str:
        """A key that every attempt of this call at this source has, and no other call."""
        place = f"{self.place}:{self.rank}" if self.rank else self.place
        return sha256(place.encode()).hexdigest()[:32]


class FindOut(msgspec.Struct, frozen=True, kw_only=True):
    """Let a function of a tool's find out what became of a call that is in doubt.

    The outcome is a `ToolCallReconciled` event.  It changes nothing, so after a crash it is done
    again; but not for ever.
    """

    ask_id: str
    call_id: str
    tool_use_id: str
    tool: str
    rank: int
    given: dict[str, Any]
    place: str
    most_tokens: int = 0

    @property
    def idempotency_key(self) -> str:
        """The key that the call itself had."""
        place = f"{self.place}:{self.rank}" if self.rank else self.place
        return sha256(place.encode()).hexdigest()[:32]


class CheckAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Let a check look at an answer; the outcome is a `VerdictGiven` event of both.

    It changes nothing, so after a crash it is done again; but not for ever.
    """

    ask_id: str
    answered_by: str
    """The call whose reply the answer is."""
    check: str
    answer: Raw
    evidence: Evidence
    typed: bool = True
    """Claude was told of a type that it is to have."""

    @property
    def call_id(self) -> str:
        """What the action is known by while it is in flight."""
        return check_id(self.answered_by, self.check)


def check_id(answered_by: str, check: str) -> str:
    """Return what a check of an answer is known by while it is in flight."""
    return f"check {answered_by} {check}"


class CallUndo(msgspec.Struct, frozen=True, kw_only=True):
    """Take back what a call of a tool did; the outcome is an `UndoFinished` event of this call."""

    undone: str
    """The call that is taken back."""
    ask_id: str
    tool: str
    rank: int
    arguments: Raw
    content: Raw
    """What the call gave, as the model got it."""
    attempt: int
    place: str
    last: bool = False
    """Where it fails, it is not tried again."""

    @property
    def call_id(self) -> str:
        """What the action is known by while it is in flight."""
        return f"undo {self.undone}"

    @property
    def idempotency_key(self) -> str:
        """A key that every attempt to take the call back has, and nothing else."""
        return sha256(f"undo:{self.place}:{self.undone}".encode()).hexdigest()[:32]


class CallStep(msgspec.Struct, frozen=True, kw_only=True):
    """Call the function of a step; the outcome is a `StepFinished` event of this name."""

    name: str
    attempt: int
    place: str
    """What tells the step from every other one in the world."""

    @property
    def call_id(self) -> str:
        """What the action is known by while it is in flight."""
        return f"step {self.name}"

    @property
    def idempotency_key(self) -> str:
        """A key that every attempt of this step has, and no other step."""
        return sha256(self.place.encode()).hexdigest()[:32]


class DriveChild(msgspec.Struct, frozen=True, kw_only=True):
    """Drive a child run to its end; the outcome is a `StepFinished` event of this name."""

    name: str
    run_id: str

    @property
    def call_id(self) -> str:
        """What the action is known by while it is in flight."""
        return f"step {self.name}"


class Interrupt(msgspec.Struct, frozen=True):
    """Give up what is in flight; each of the calls then has the outcome of one that was given up.

    It has none of its own.
    """

    call_ids: frozenset[str]


class Sleep(msgspec.Struct, frozen=True, kw_only=True):
    """Wait, unless something in flight finishes before."""

    until: int
    """When to decide again, in nanoseconds since the epoch; 0 is once somebody acts."""
    why: str = ""
    """What is waited for, for people; empty for a moment."""
    person: bool = False
    """A person is waited for."""
    least: int = NAP_NS
    """A wait that is not longer, in nanoseconds, is slept through rather than to park the run."""


Work: TypeAlias = (
    CallModel
    | FetchReply
    | CountTokens
    | CallTool
    | FindOut
    | CheckAnswer
    | CallUndo
    | CallStep
    | DriveChild
)
"""An action that has an outcome."""

Action: TypeAlias = Interrupt | Work | Sleep


class Short(msgspec.Struct, frozen=True):
    """A budget of a scope beyond the run into which a call did not fit."""

    scope: str
    unit: str
    left: int
    held: int
    """What more there may be once calls in flight are settled."""
    window: str = ""
    """Which of its budgets: see `limits.window_key`."""


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What lies outside the run, as far as its decisions need it: a snapshot, perhaps stale."""

    in_flight: frozenset[str] = frozenset()
    """The calls that this driver started and still waits for."""
    wants: Wants = NOTHING
    """What the function of a flow asks for."""
    run_id: str = ""
    """The run itself, after which its children are called."""
    limits: Limits | None = None
    """What the run may use, where somebody set that; otherwise what was declared counts."""
    factors: Mapping[str, int] = {}
    """By how much the bounds of each model's prompts are multiplied in every run, in percent."""
    freezes: Mapping[str, Freeze] = {}
    """Until when the API wants to be asked nothing, by group of models; see `pacing.group`."""
    breakers: Mapping[str, State] = {}
    """The circuit breakers of models, by group (see `pacing.group`), and those of the sources of
    tools, by `breaker.source_key`, whoever's run it is."""
    turns: Mapping[str, Turn] = {}
    """The places of calls that are to be made in the queue of a rate limit, by their `call_id`."""
    short: tuple[Short, ...] = ()
    """The budgets of others that the last append did not fit into."""
    alone: bool = False
    """Several calls did not fit beside each other, so one is tried by itself."""
    interrupted: frozenset[str] = frozenset()
    """Those of the calls in flight that are given up already."""
    halted: tuple[str, ...] = ()
    """Why child runs were stopped, on which calls of tools wait: the run is stopped with them."""
    asleep: Mapping[str, Sleep] = {}
    """Those in flight that wait themselves, and for what: child runs, and calls in batches."""
    called: bool = False
    """Something below a parked run is to be driven, so it is, before its time."""
    draining: bool = False
    """The driver is about to end, so nothing more is begun."""
    uncommitted: bool = False
    """What came of calls is not written yet, and would be lost with the process."""
    redact: Redact = same
    """What is told of arguments that do not fit goes through it: a validator may say anything."""

    def frozen(self, model: str) -> Freeze:
        """Return until when nobody asks a model."""
        return self.freezes.get(group(model), THAWED) if self.freezes else THAWED

    def breaker(self, model: str) -> State | None:
        """Return the circuit breaker of a model, where it was ever open."""
        return self.breakers.get(group(model)) if self.breakers else None

    def breaker_of(self, source: str) -> State | None:
        """Return the circuit breaker of a source of tools, where there is one."""
        return self.breakers.get(source_key(source)) if source and self.breakers else None

    @property
    def at_work(self) -> frozenset[str]:
        """The calls in flight that are worth waiting for in the process."""
        return self.in_flight - self.asleep.keys()


class Step(msgspec.Struct, frozen=True):
    """What to append, and what to start once that is durable; with neither, nothing is to be done.

    `rest` says that nothing will be, until something from outside happens to the run; `last`, that
    nothing more will be until an action is over, so that there is no need to ask again.
    """

    events: tuple[AnyEvent, ...] = ()
    actions: tuple[Action, ...] = ()
    rest: bool = False
    last: bool = False


def moment(at: int) -> str:
    """Return a time as sentences of the journal name it: UTC, to the second."""
    return datetime.fromtimestamp(at // NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def awaited(asked: Request) -> Sleep:
    """Return the wait for a person's answer."""
    until = f" until {moment(asked.expires_at)}" if asked.expires_at else ""
    why = f"waiting for a person{until}: {asked.question}"
    return Sleep(until=asked.expires_at, why=why, person=True)


REST: Final = Step(rest=True)
WAIT: Final = Step()


LONGEST_ID: Final = 200
"""Characters of a run id at most."""


def child_id(parent: str, name: str) -> str:
    """Return the id of a child run: the same for the same parent and name."""
    plain = "".join(
        each if each.isascii() and (each.isalnum() or each in "._:@/-") else "_" for each in name
    )
    whole = f"{parent}/{plain}"
    if plain == name and len(whole) <= 200:
        return whole
    return f"{whole[:160]}-{sha256(f'{parent}/{name}'.encode()).hexdigest()[:16]}"
