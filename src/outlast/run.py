"""`Run`: what a run looks like from outside, and, inside a flow, what the flow is given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, Self, TypeAlias

import msgspec

from outlast.errors import (
    RunCancelled,
    RunFailed,
    RunRejected,
    RunStopped,
    RunWithoutAnswer,
    UsageError,
)
from outlast.journal import RunRow
from outlast.tools import EXPIRES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from uuid import UUID

    from outlast.agent import Agent
    from outlast.content import Input
    from outlast.events import Effect, Issue
    from outlast.flows import Flow
    from outlast.validation import Attempt

NANO_PER_USD: Final = 1_000_000_000


Expires: TypeAlias = float | str | timedelta | None
"""For how long a person may decide: as for `Run.sleep`; `None` is for ever."""


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """What a person decided; true where it was approved.

    Attributes:
        approved: whether it was.
        by: who decided; empty where nobody did in time.
        note: what the person said to it.

    """

    approved: bool
    by: str = ""
    note: str = ""

    def __bool__(self) -> bool:
        return self.approved


@dataclass(frozen=True, kw_only=True)
class RejectedAnswer:
    """An answer that was checked, and not accepted: it is kept apart, and never handed out as one.

    Attributes:
        answer: what Claude gave, as JSON has it.
        issues: what is wrong with it.
        why: the same in a sentence, and what was done about it.
        attempt: 1 for the first answer to its question.

    """

    answer: Any
    issues: tuple[Issue, ...] = ()
    why: str = ""
    attempt: int = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as it was when it was looked at.

    Attributes:
        id: its name.
        agent: the agent's name, or the flow's.
        status: `queued`, `running`, `parked`, `waiting` (for a person), `paused`, `completed`,
            `failed`, `rejected` (no answer was accepted), `cancelled` or `stopped`.
        phase: the phase that a flow is in; empty without.
        answer: the reply's text, an object of the agent's `answer=` type, or what the flow
            returned; `None` unless the run completed.  What is looked up without its agent, as by
            `Outlast.get`, has plain data in the place of such an object.
        rejected_answers: the answers that were checked and not accepted, the first one first.
        cost_nano: nano-dollars spent, calls in doubt included.
        tokens: tokens used, calls in doubt included.
        turns: calls of the model, calls in doubt included.
        why: a sentence that says why the run is not completed; may be empty.
        created_at: nanoseconds since the epoch, UTC.
        updated_at: nanoseconds since the epoch, UTC, of its last event.
        wake_at: nanoseconds since the epoch at which a parked run goes on; `None` otherwise.
        version: the version of the agent or flow it was started with.
        tenant: for whom it is.
        parent: the run that started it; empty for one of its own.
        degraded: whether an answer that it rests on was less than what was asked for, as one of a
            fallback is, or one that no check could tell anything of; `outlast show` says which.

    """

    id: str
    agent: str
    status: str
    phase: str = ""
    answer: Any = None
    cost_nano: int = 0
    tokens: int = 0
    turns: int = 0
    why: str = ""
    created_at: int = 0
    updated_at: int = 0
    wake_at: int | None = None
    version: str = ""
    tenant: str = ""
    parent: str = ""
    degraded: bool = False
    rejected_answers: tuple[RejectedAnswer, ...] = ()
    # No field, so that a run can be copied and sent like any data.
    _awaited: ClassVar[Any] = None

    @property
    def cost_usd(self) -> Decimal:
        """What the run cost in US dollars, exact to the nano-dollar."""
        return Decimal(self.cost_nano) / NANO_PER_USD

    def _left(self, awaited: Callable[[float | None], Run]) -> Self:
        """Return the run as one that was left to a worker; `awaited` waits for its end."""
        object.__setattr__(self, "_awaited", awaited)
        return self

    def result(self, *, wait_s: float | None = None) -> Any:
        """Return the answer; of a run from `start`, wait for it first.

        Args:
            wait_s: for how many seconds at most; by default for as long as it takes, and so for
                ever if no worker drives the run.

        Raises:
            RunFailed, RunStopped, RunRejected, RunCancelled: the run ended without one.
            RunWithoutAnswer: the run has not ended.

        """
        run = self if self._awaited is None else self._awaited(wait_s)
        if run.status == "completed":
            return run.answer
        raise _WITHOUT_ANSWER.get(run.status, RunWithoutAnswer)(
            run.id, status=run.status, why=run.why or "it has not ended"
        )

    # ── inside a flow ───────────────────────────────────────────────────────────────────────────
    #
    # In an async flow what these return is awaited; in a sync one they return the result itself.

    def ask(
        self,
        agent: Agent,
        input: Input,  # noqa: A002  (what it is)
        *,
        name: str | None = None,
        conversation: str | None = None,
    ) -> Any:
        """Ask an agent, and return its answer.

        Args:
            agent: whom to ask.
            input: what to ask it, as for `Outlast.run`.
            name: what the journal answers the ask by; by default the agent's name and a number.
                Asks of one agent that are open at the same time need one.
            conversation: asks of the same conversation go on in one history.

        Raises:
            AskFailed: there will be no answer.
            NameRequired: the ask has no name and could be taken for another.
            FlowChanged: the journal has something else under this name.

        """
        self._outside("ask", agent, input, name, conversation)

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        effect: Effect | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a function once, journalled by name, and return its result.

        Args:
            name: what the journal answers the step by; one step, one name.
            function: a tool, or any function, sync or async.
            *args: what it is called with.
            effect: what it does to the world; by default the tool's own, or `once`.
            **kwargs: what it is called with.

        Raises:
            StepFailed: it raised, or nobody knows whether a `once` function was called.
            FlowChanged: the journal has something else under this name.

        """
        self._outside("step", name, function, args, effect, kwargs)

    def enter(self, phase: str) -> None:
        """Go on to a phase.

        Raises:
            IllegalPhase: it may not follow the one before; the legal ones are listed.
            FlowChanged: the journal has another phase here.

        """
        self._outside("enter", phase)

    def sleep(self, duration: float | str | timedelta, *, name: str | None = None) -> Any:
        """Wait: seconds, a `timedelta`, or such as `"90s"`, `"15m"`, `"2h"`, `"3d"`.

        A run that waits for nothing else is parked: it needs no process until it is to go on.
        """
        self._outside("sleep", duration, name)

    def approval(
        self,
        question: str,
        *,
        context: Any = None,
        expires: Expires = EXPIRES,
        name: str | None = None,
    ) -> Any:
        """Ask a person, wait without a process until one decides, and return an `Approval`.

            if not await run.approval("Send this to the funder?", context=draft):
                return draft

        People find it with `outlast runs --waiting`, and answer with `outlast approve` or `deny`.

        Args:
            question: what is asked.
            context: what the person should see to decide: anything that can be written as JSON.
            expires: for how long somebody may, as for `sleep`; default a week.  After that it
                counts as denied.  `None` waits for ever.
            name: what the journal answers it by; by default `approval` and a number.

        Raises:
            FlowChanged: the journal has something else under this name, or another question.

        """
        self._outside("approval", question, context, expires, name)

    def map(
        self,
        who: Agent | Flow[..., Any],
        inputs: Iterable[Any],
        *,
        name: str | None = None,
        at_once: int | None = None,
        batch: bool = False,
    ) -> Any:
        """Run an agent or a flow on every input, each in a child run, and return their answers.

        With `batch`, every call of the model that these runs make goes through the Message Batches
        API, which costs half as much and may take up to a day: calls that are made at about the
        same time are one batch.  While that goes on the runs are parked, from look to look.

        Args:
            who: what to run.
            inputs: what to run it on.
            name: what the journal answers them by, with their numbers; by default its name.
            at_once: how many run at the same time; by default 8, and 1,000 with `batch`.
            batch: whether to batch; default false.  What was begun goes on as it was begun.

        Raises:
            StepFailed: a child run ended without an answer; it names the first.
            UsageError: what runs cannot be batched: it is a flow, its model has no price for that,
                or the client has no such API.  Nothing was begun.

        """
        self._outside("map", who, inputs, name, at_once, batch)

    def now(self, *, name: str | None = None) -> datetime:
        """Return the time, UTC; the same again at every wake."""
        self._outside("now", name)

    def uuid(self, *, name: str | None = None) -> UUID:
        """Return a random UUID; the same again at every wake."""
        self._outside("uuid", name)

    def random(self, *, name: str | None = None) -> float:
        """Return a random number from 0 up to 1; the same again at every wake."""
        self._outside("random", name)

    def _outside(self, method: str, *_: object) -> NoReturn:
        raise UsageError(
            f"run {self.id!r}: `{method}` is for the function of a flow, which gets a run of its "
            "own; declare one with @outlast.flow, and give it to `run`"
        )


def run_of(row: RunRow, rejected: Iterable[Attempt] = ()) -> Run:
    """Return a run as its row tells of it, with the answers that were not accepted."""
    return Run(
        id=row.id,
        agent=row.agent,
        status=row.status,
        phase=row.phase,
        answer=None if row.answer is None else msgspec.json.decode(row.answer),
        cost_nano=row.cost_nano,
        tokens=row.tokens,
        turns=row.turns,
        why=row.why,
        created_at=row.created_at,
        updated_at=row.updated_at,
        wake_at=row.wake_at,
        version=row.version,
        tenant=row.tenant,
        parent=row.parent,
        degraded=row.degraded,
        rejected_answers=tuple(map(_rejected, rejected)),
    )


def _rejected(attempt: Attempt) -> RejectedAnswer:
    return RejectedAnswer(
        answer=msgspec.json.decode(attempt.answer),
        issues=attempt.issues,
        why=attempt.why,
        attempt=attempt.number,
    )


_WITHOUT_ANSWER: Final[dict[str, type[RunWithoutAnswer]]] = {
    "failed": RunFailed,
    "stopped": RunStopped,
    "rejected": RunRejected,
    "cancelled": RunCancelled,
}
