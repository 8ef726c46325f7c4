"""Every exception outlast raises.

    OutlastError
    ├── UsageError              the caller asked for something that cannot be
    │   ├── InvalidAgent        a declaration that cannot work: no name, two tools with one name, …
    │   ├── InvalidTool         a tool whose schema cannot be told from its signature
    │   ├── InvalidFlow         a flow whose phases or function cannot work
    │   ├── BudgetTooSmall      the budget of an agent does not fit a single call
    │   ├── NameRequired        two asks of one agent are open at once, and nothing tells them apart
    │   ├── FlowChanged         the flow asks for something else than its journal says it did
    │   ├── VersionChanged      the agent or flow is not the one the run was started with
    │   ├── IllegalPhase        a phase was entered that may not follow the one before
    │   ├── InvalidInput        an empty prompt, a run id that cannot be a stream
    │   ├── UnknownModel        no price is known for the model, so no budget could hold
    │   ├── RunNotFound         no such run in this store
    │   └── RunConflict         the run id exists, with another input or another agent
    ├── RunEnded                the run is finished and cannot be continued
    ├── RunFailed, RunStopped, RunRejected, RunCancelled
    │                           raised by `Run.result()`: the run ended without an answer
    ├── JournalError
    │   ├── Conflict            the journal is not where the driver thought
    │   ├── Fenced              another driver took the run over
    │   ├── Busy                another driver holds the run
    │   ├── Refused             a precondition of the append does not hold
    │   ├── TooSoon             a number that processes share would be beyond what it may be
    │   ├── JournalTooNew       written by a newer version of outlast
    │   └── JournalDamaged      what is stored cannot be what was written
    ├── StoreError              the store cannot be opened, read or written
    │   ├── NotAStore           the file is something else
    │   └── StoreFull           no space is left
    ├── AskFailed               raised inside a flow: there is no answer
    │   └── AskRejected         there were answers, and none was accepted
    ├── StepFailed              raised inside a flow: there is no result
    ├── ModelFailure            one attempt of a model call came to nothing
    ├── MCPServerLost           an MCP server was asked, and there is no answer
    ├── MCPServerUnreachable    an MCP server could not be asked
    ├── MCPServerRefused        an MCP server refused with an HTTP status
    ├── BatchNotFetched         nobody can tell what came of a batch; the run stays where it is
    └── ToolError               raised by a tool: its text is for the model

A message says what happened, with the values, and what to do next; the values are attributes too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msgspec import Raw

    from outlast.events import FailureKind


_QUOTED: Final = 80


def shortened(content: bytes | Raw) -> str:
    """Return JSON as it is quoted in a message: the beginning of what is long."""
    text = bytes(content).decode()
    return text if len(text) <= _QUOTED else text[: _QUOTED - 3] + "…"


class OutlastError(Exception):
    """The root: whatever outlast raises can be caught with this."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by value: constructors take keywords, which the default would lose."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    cls: type[OutlastError], args: tuple[Any, ...], values: dict[str, Any]
) -> OutlastError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(values)
    return error


class UsageError(OutlastError):
    """What was asked for cannot be done; nothing was changed."""


class InvalidAgent(UsageError):
    """The agent's declaration cannot work."""


class InvalidTool(UsageError):
    """The tool's schema cannot be told from its signature."""


class InvalidFlow(UsageError):
    """The flow's declaration cannot work."""


class BudgetTooSmall(UsageError):
    """A run was not started, because its budget does not fit a single call.

    Attributes:
        agent: whose budget.
        smallest_usd: the smallest budget that would, in US dollars; empty where dollars suffice.
        smallest_tokens: the same in tokens; 0 where they suffice.
        smallest_turns: the same in turns; 0 where they suffice.

    """

    def __init__(
        self,
        agent: str,
        *,
        given: str,
        smallest_usd: str = "",
        smallest_tokens: int = 0,
        smallest_turns: int = 0,
    ) -> None:
        """See the class."""
        smallest = [f"usd={smallest_usd!r}"] if smallest_usd else []
        smallest += [f"tokens={smallest_tokens}"] if smallest_tokens else []
        smallest += [f"turns={smallest_turns}"] if smallest_turns else []
        super().__init__(
            f"agent {agent!r} has a budget of {given}, which does not fit one call; the smallest "
            f"that does is Budget({', '.join(smallest)}) for this input. Nothing was started."
        )
        self.smallest_turns = smallest_turns
        self.agent = agent
        self.smallest_usd = smallest_usd
        self.smallest_tokens = smallest_tokens


class NameRequired(UsageError):
    """An ask, a step or a value needs a name, because its number alone could mean another one.

    Attributes:
        what: what needs one, such as `ask of grant-researcher`.

    """

    def __init__(self, what: str, *, why: str) -> None:
        """See the class."""
        super().__init__(
            f"this {what} needs a name: {why}, so its number could mean another one after a "
            "crash; give name=…"
        )
        self.what = what


class FlowChanged(UsageError):
    """A flow that goes on asks for something else than its journal says it did.

    Attributes:
        run_id: the run.
        name: what both are called.
        recorded: what the journal has.
        given: what the code asks for now.

    """

    def __init__(self, run_id: str, *, name: str, recorded: str, given: str) -> None:
        """See the class."""
        super().__init__(
            f"run {run_id!r}: {name!r} is {recorded} in its journal, and the flow now wants "
            f"{given}. Nothing was done. Give what is new a name of its own, or go on with the "
            "code the run was started with."
        )
        self.run_id = run_id
        self.name = name
        self.recorded = recorded
        self.given = given


class VersionChanged(UsageError):
    """A run was started with another version of its agent or flow, and that is not to be mixed.

    Attributes:
        run_id: the run.
        name: of the agent or flow.
        recorded: its version when the run was started.
        given: its version now.

    """

    def __init__(self, run_id: str, *, name: str, recorded: str, given: str, what: str) -> None:
        """See the class."""
        super().__init__(
            f"run {run_id!r} was started with version {recorded} of {name}, and this is {given} "
            f"(changed: {what}); go on with the code of then, start a new run, or use "
            "Outlast(on_change='recorded')"
        )
        self.run_id = run_id
        self.name = name
        self.recorded = recorded
        self.given = given


class IllegalPhase(UsageError):
    """A phase was entered that may not follow the one before.

    Attributes:
        now: the phase the run is in; empty before the first.
        wanted: the one it should have entered.
        legal: those that it may.

    """

    def __init__(self, *, now: str, wanted: str, legal: tuple[str, ...]) -> None:
        """See the class."""
        super().__init__(
            f"the phase {wanted!r} may not follow {now or 'the beginning'!r}; "
            f"what may: {', '.join(legal)}"
        )
        self.now = now
        self.wanted = wanted
        self.legal = legal


class InvalidInput(UsageError):
    """The input of a run is not one."""


class UnknownModel(UsageError):
    """No price is known for the model, so nothing about its cost could be promised."""

    def __init__(self, model: str, *, near: tuple[str, ...] = ()) -> None:
        self.model = model
        self.near = near
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        super().__init__(
            f"no price is known for model {model!r}, so no call is made with it{hint}\n"
            "Check the spelling, upgrade genai-prices if the model is new, or say what it costs "
            "with outlast.declare_price."
        )


class RunNotFound(UsageError):
    """The store has no such run."""

    def __init__(self, run_id: str, *, store: str) -> None:
        self.run_id = run_id
        self.store = store
        super().__init__(
            f"there is no run {run_id!r} in {store}; `outlast runs` lists what is there"
        )


class RunConflict(UsageError):
    """The run id is taken by a run with another input or another agent."""

    def __init__(self, run_id: str, *, what: str, recorded: str, given: str) -> None:
        self.run_id = run_id
        self.what = what
        self.recorded = recorded
        self.given = given
        super().__init__(
            f"run {run_id!r} exists with another {what}: {recorded!r} is recorded, "
            f"{given!r} was given. Use another run_id, or the recorded {what}."
        )


class RunEnded(OutlastError):
    """The run is finished and cannot be continued."""

    def __init__(self, run_id: str, *, status: str) -> None:
        self.run_id = run_id
        self.status = status
        super().__init__(
            f"run {run_id!r} is {status} and cannot be continued; "
            f"`outlast show {run_id}` shows it, and a new run id starts another"
        )


class RunWithoutAnswer(OutlastError):
    """A run ended, or rests, without an answer."""

    def __init__(self, run_id: str, *, status: str, why: str) -> None:
        self.run_id = run_id
        self.status = status
        self.why = why
        super().__init__(
            f"run {run_id!r} is {status}: {why}; `outlast log {run_id}` tells the story"
        )


class RunFailed(RunWithoutAnswer):
    """The run ended `failed`."""


class RunStopped(RunWithoutAnswer):
    """The run was stopped by a budget, or by what only a person can mend; then it may go on."""


class RunRejected(RunWithoutAnswer):
    """Every answer of the run was rejected."""


class RunCancelled(RunWithoutAnswer):
    """Somebody cancelled the run."""


class JournalError(OutlastError):
    """The journal did not take an append, or cannot be read."""


class Conflict(JournalError):
    """Somebody else appended to the stream in the meantime."""

    def __init__(self, stream: str, *, expected_seq: int, actual_seq: int) -> None:
        self.stream = stream
        self.expected_seq = expected_seq
        self.actual_seq = actual_seq
        super().__init__(
            f"{stream}: expected the journal at seq {expected_seq}, but it is at {actual_seq}; "
            "read the new records, and append again if all of them are outside events"
        )


class Fenced(JournalError):
    """Another driver has taken the stream over: this one starts no effect and lets go."""

    def __init__(self, stream: str, *, epoch: int, fence: int) -> None:
        self.stream = stream
        self.epoch = epoch
        self.fence = fence
        super().__init__(
            f"{stream}: this driver's epoch is {epoch}, but the fence is at {fence}; "
            "another worker is driving this run, so this one lets it go"
        )


class Busy(JournalError):
    """Another driver holds the stream."""

    def __init__(self, stream: str, *, holder: str) -> None:
        self.stream = stream
        self.holder = holder
        super().__init__(f"{stream} is being driven by {holder}; wait for it, or end that process")


class Refused(JournalError):
    """A precondition of the append does not hold; nothing of it was written.

    Beside what is `left` of the scope, so much is `held` by calls in flight, and may come back.
    """

    def __init__(  # noqa: PLR0913  (its facts)
        self,
        *,
        scope: str,
        unit: str,
        needed: int,
        left: int,
        held: int = 0,
        window: str = "total",
    ) -> None:
        self.scope = scope
        self.window = window
        self.unit = unit
        self.needed = needed
        self.left = left
        self.held = held
        others = ", the rest is held by calls in flight" if left + held >= needed else ""
        super().__init__(f"{scope} has {left} {unit} left, {needed} are needed{others}")


class TooSoon(JournalError):
    """A shared number would be beyond what the append lets it be; nothing of it was written.

    Attributes:
        name: the number.
        value: what it would be.
        most: what it may be.

    """

    def __init__(self, *, name: str, value: int, most: int) -> None:
        self.name = name
        self.value = value
        self.most = most
        super().__init__(f"{name} would be {value}, and may be {most}")


class JournalTooNew(JournalError):
    """The run was written by a newer version of outlast than this one."""

    def __init__(self, stream: str, *, version: int, ours: int) -> None:
        self.stream = stream
        self.version = version
        self.ours = ours
        super().__init__(
            f"{stream} was written with journal version {version}, this outlast reads up to "
            f"{ours}: upgrade this worker (pip install -U outlast)"
        )


class JournalDamaged(JournalError):
    """What is stored cannot be what was written."""

    def __init__(self, stream: str, *, seq: int, why: str) -> None:
        self.stream = stream
        self.seq = seq
        super().__init__(f"{stream} seq {seq}: {why}; restore the store from a backup")


class StoreError(OutlastError):
    """The store cannot be opened, read or written."""


class NotAStore(StoreError):
    """The file is something else than an outlast store, and is left alone."""


class StoreFull(StoreError):
    """No space is left; what was committed before is safe."""


class AskFailed(OutlastError):
    """A question inside a flow has no answer.  The flow may catch it, and go another way.

    Attributes:
        name: of the ask.
        why: a sentence for people.

    """

    def __init__(self, name: str, *, why: str) -> None:
        """See the class."""
        super().__init__(f"the ask {name!r} has no answer: {why}")
        self.name = name
        self.why = why


class AskRejected(AskFailed):
    """A question inside a flow has no answer, because none that came was accepted."""


class StepFailed(OutlastError):
    """A step or a child run inside a flow has no result.  The flow may catch it.

    Attributes:
        name: of the step.
        why: a sentence for people.
        in_doubt: nobody knows whether it happened; it was not repeated.

    """

    def __init__(self, name: str, *, why: str, in_doubt: bool = False) -> None:
        """See the class."""
        super().__init__(f"the step {name!r} has no result: {why}")
        self.name = name
        self.why = why
        self.in_doubt = in_doubt


class ModelFailure(OutlastError):
    """One attempt of a model call came to nothing.

    Attributes:
        kind: what happened, out of the closed set `events.FailureKind`.
        message: the reason, for people.
        status: the HTTP status, 0 where there was none.
        error_type: the API's `error.type`, such as `overloaded_error`.
        error_code: the API's `error.details.error_code`, which names the cause.
        retry_after_s: seconds the API asks to wait, `None` where it does not say.
        request_id: the API's id of the request.
        told: what the headers said of rate limits; see `models.Reply.told`.

    """

    def __init__(  # noqa: PLR0913  (the facts of a failure)
        self,
        kind: FailureKind,
        message: str,
        *,
        status: int = 0,
        error_type: str = "",
        error_code: str = "",
        retry_after_s: float | None = None,
        request_id: str = "",
        told: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self.told = told or {}
        self.kind = kind
        self.message = message
        self.status = status
        self.error_type = error_type
        self.error_code = error_code
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        super().__init__(f"{kind}: {message}")


class BatchNotFetched(OutlastError):
    """A batch was accepted, and what came of it cannot be learned.

    The run stays where it is: nothing was sent again, and nothing is lost.

    Attributes:
        batch_id: the batch.
        kind: why, out of the closed set `events.FailureKind`; `not_found` where the API knows no
            such batch.

    """

    def __init__(self, batch_id: str, failure: ModelFailure) -> None:
        """See the class."""
        super().__init__(
            f"batch {batch_id} was accepted, and its results cannot be fetched: {failure}; mend "
            "that, and go on with the same run: nothing is sent again"
        )
        self.batch_id = batch_id
        self.kind = failure.kind


class ToolError(OutlastError):
    """Raise this in a tool to tell the model what went wrong, in your own words.

    Args:
        message: what Claude is told.
        error_class: what kind of failure it is, one of `outlast.events.ErrorClass`: by it is
            decided whether it is worth trying again.  By default what it was raised `from` says
            that, where that is a connection or a source that did not answer; else it is `refused`,
            which goes back to Claude at once.
        retry_after_s: for how long the source wants to be left alone, in seconds.

    """

    def __init__(
        self, message: str = "", *, error_class: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.retry_after_s = retry_after_s


class MCPServerLost(OutlastError, ConnectionError):
    """An MCP server was asked, and there is no answer: what was asked for may have happened.

    Attributes:
        status_code: the HTTP status that came instead, such as 503 or 408; `None` where none
            came.
        retry_after: what the server said with it of when to ask again; empty where it did not.

    """

    def __init__(
        self, message: str, *, status_code: int | None = None, retry_after: str = ""
    ) -> None:
        """See the class."""
        super().__init__(message)
        self.status_code = status_code
        self.retry_after = retry_after


class MCPServerUnreachable(OutlastError, ConnectionRefusedError):
    """An MCP server could not be asked, so nothing has happened."""


class MCPServerRefused(OutlastError):
    """An MCP server refused with an HTTP status from 400 to 499, and did nothing.

    Attributes:
        status_code: the status.
        retry_after: what the server said with it of when to ask again; empty where it did not.

    """

    def __init__(self, message: str, *, status_code: int, retry_after: str = "") -> None:
        """See the class."""
        super().__init__(message)
        self.status_code = status_code
        self.retry_after = retry_after
