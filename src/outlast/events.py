"""Everything that can happen to a run, in the past tense, as one tagged union.

The tag is the name on disk and outlives renames of the class.  A new field gets a default; a new
meaning is a new event.  Nothing is changed after it was appended.  Events hold no clock and no
random value of their own: whoever appends puts times and ids in.

JSON that came from Claude, from a user or from a tool is kept as `msgspec.Raw`: the bytes as they
came, so that the spelling of a number or a field nobody has heard of survives a resume.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal, TypeAlias

import msgspec
from msgspec import Raw

NULL: Final = Raw(b"null")

JOURNAL_VERSION: Final = 1
"""The version of the journal this code writes; see `RunStarted.journal_version`."""

FailureKind: TypeAlias = Literal[
    "rate_limited",  # 429: surely unbilled
    "overloaded",  # 529: surely unbilled
    "unavailable",  # 500, 502, 503, 504: unknown whether billed
    "unreachable",  # no connection was made: surely unbilled
    "cut",  # the stream ended before message_stop: partly billed
    "timeout",  # no outcome in time: unknown whether billed
    "malformed",  # a 200 that is not what the API promises: unknown whether billed
    "crash",  # the process ended before the outcome was written: unknown whether billed
    "cancelled",  # somebody cancelled the run while Claude was answering: partly billed
    "spend_limit",  # 402, and 429 of a spend limit: not transient
    "auth",  # 401, 403
    "not_found",  # 404: the model or the endpoint does not exist
    "too_large",  # 413
    "invalid_request",  # 400, 422 and every other 4xx
    "store",  # the store has not what the request is made of: nothing was sent
    "errored",  # in a batch, Claude failed at this one of its calls: surely unbilled
    "canceled",  # the batch was canceled before this one was begun: surely unbilled
    "expired",  # the batch's 24 hours were over before this one was begun: surely unbilled
    "bug",  # an exception of ours or of a model adapter: unknown whether billed
]
"""Why a model call came to nothing."""

UNBILLED: Final[frozenset[FailureKind]] = frozenset(
    {
        "rate_limited",
        "overloaded",
        "unreachable",
        "spend_limit",
        "auth",
        "not_found",
        "too_large",
        "invalid_request",
        "store",
        "errored",
        "canceled",
        "expired",
    }
)
"""Failures after which the call was surely not billed; every other one is in doubt, so spent."""

RETRYABLE: Final[frozenset[FailureKind]] = frozenset(
    {
        "rate_limited",
        "overloaded",
        "unavailable",
        "unreachable",
        "cut",
        "timeout",
        "malformed",
        "crash",
        "errored",
        "canceled",
        "expired",
    }
)
"""Failures worth another attempt of the same request."""

HELD_UP: Final[frozenset[FailureKind]] = frozenset({"spend_limit"})
"""Failures of which the run waits for somebody to mend them, and to say so: `resume`."""

ToolFailureKind: TypeAlias = Literal[
    "raised",  # the function raised an exception
    "refused",  # the function raised ToolError: its text is for the model
    "timeout",  # the function did not return within its timeout
    "crash",  # the process ended while the call was in flight
    "cancelled",  # the run was cancelled while the call was in flight
    "unknown_tool",  # Claude asked for a tool that this agent does not have
    "invalid_arguments",  # Claude's arguments do not fit the tool's schema
    "denied",  # a person did not allow it, or nobody did in time
    "bad_result",  # what it returned is not what it promised, or cannot be shown to Claude
    "breaker",  # nobody asks its source at the moment: the circuit breaker is open
]
"""How a tool call came to nothing."""

ErrorClass: TypeAlias = Literal[
    "timeout_before_sending",  # no connection was made, in time or at all: nothing was sent
    "timeout_after_sending",  # it was sent, and no reply came in time: perhaps it happened
    "rate_limited",  # 429, 425: turned away, and worth asking again later
    "unavailable",  # 5xx, and connections that broke: perhaps it happened
    "auth",  # 401, 407: whoever asks is not known
    "forbidden",  # 403: whoever asks may not
    "not_found",  # 404, 410
    "invalid_arguments",  # 400, 422 and other 4xx: asked again it is refused again
    "conflict",  # 409, 412, 423: something else was done meanwhile
    "too_large",  # 413, 414, 431: less has to be asked for
    "bad_output",  # there was a reply, and it is not what was promised
    "stale",  # what is there is older than it may be
    "refused",  # the tool itself, a person or a rule said no
    "bug",  # any other exception
]
"""What kind of failure it was: the one closed set, for retries, breakers, lessons and alerts."""

UNDONE: Final[frozenset[str]] = frozenset(
    {
        "timeout_before_sending",
        "rate_limited",
        "auth",
        "forbidden",
        "not_found",
        "invalid_arguments",
        "conflict",
        "too_large",
        "stale",
        "refused",
    }
)
"""Failures after which the call had surely no effect."""

Happened: TypeAlias = Literal["happened", "did_not", "unknown"]
"""What became of a call that was in doubt; `unknown` where a function could not say."""

CacheMissReason: TypeAlias = Literal[
    "expired",  # the run was idle for longer than the cache keeps anything
    "evicted",  # the cache had it for less than its time, and the prompt was not changed
]
"""Why the prompt cache did not answer."""

SwitchCause: TypeAlias = Literal[
    "overloaded",  # several attempts in a row met an overloaded model
    "refusal",  # the model refused to answer
    "breaker",  # nobody asks the model at the moment, because it keeps failing
]
"""Why another model is asked."""

Effect: TypeAlias = Literal["read", "idempotent", "once"]
"""What a tool does to the world; it decides what happens to a call in doubt.

`read` changes nothing and is repeated; `idempotent` is repeated with the same key; `once` is never
repeated.
"""

FinalStatus: TypeAlias = Literal["completed", "failed", "rejected", "cancelled", "stopped"]


Verb: TypeAlias = Literal["pause", "resume", "cancel"]
"""What a run can be told."""

StepKind: TypeAlias = Literal[
    "step",  # a function was called
    "sleep",  # time went by
    "value",  # the time, an id or a random number, drawn once
    "child",  # a run of its own ended
    "approval",  # a person decided
]
"""What a flow waited for."""


VerdictKind: TypeAlias = Literal[
    "passed",  # nothing is wrong
    "fixable",  # something is, and another answer may be right: the model is told what
    "terminal",  # something is, and no other answer would mend it
    "unverified",  # nobody can tell: the check failed, or the judge did
    "needs_person",  # a person has to decide
]
"""What a check says of an answer."""

OnUnjudged: TypeAlias = Literal["reject", "escalate", "accept"]
"""What happens to an answer of which a check cannot tell."""

RejectionAction: TypeAlias = Literal[
    "repair",  # the model is told what is wrong, in the same conversation
    "resample",  # the model is asked again, in a conversation without the answer
    "reject",  # the question has no answer
    "escalate",  # a person decides
    "degrade",  # it is the answer all the same, and marked
]
"""What is done about an answer that was not accepted."""


class Event(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag_field="type",
):
    """Something that happened.  Subclasses carry the facts; the record around them the when."""

    kept: ClassVar[tuple[str, ...]] = ()
    """Fields that also go to the record's `meta` column, which outlives an erasure of the body."""


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the model sees of an agent, verbatim and for ever: never rendered again."""

    agent: str
    model: str
    max_tokens: int
    system: str = ""
    tools: Raw = Raw(b"[]")
    """The rendered tool schemas: a JSON array."""
    parameters: Raw = Raw(b"{}")
    """Further members of every request, such as `thinking`: a JSON object."""
    cache: Literal["", "5m", "1h"] = ""
    """How long the prompt cache is to keep what is sent; empty is no caching."""
    fallback_models: tuple[str, ...] = ()
    """The models that are asked instead, in order; the model itself sees nothing of them."""
    answers: Literal["", "format", "tool"] = ""
    """How an answer of a declared type is given: as JSON of a schema, or by calling a tool."""
    wrapped: bool = False
    """Such an answer is the member `answer` of an object."""


# ── the run ────────────────────────────────────────────────────────────────────────────────────


class RunStarted(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="run_started"):
    """A run exists.  It is queued until a driver claims it."""

    kept: ClassVar[tuple[str, ...]] = ("journal_version", "agent", "forked_from", "forked_at")

    journal_version: int
    agent: str
    nonce: str
    """Random, made once: idempotency keys come from it, so that two runs never share one."""
    spec: Spec
    code: str = ""
    """Where the agent is declared, as `module:attribute`; empty when it cannot be imported."""
    version: str = ""
    tenant: str = ""
    subject: str = ""
    parent: str = ""
    root: str = ""
    tags: dict[str, str] = {}
    turns: int | None = None
    """The budget of turns the run was started with; `None` is no limit."""
    nano: int | None = None
    """Its budget in nano-dollars, from which its children pay, too."""
    tokens: int | None = None
    """Its budget of tokens, likewise."""
    kind: Literal["agent", "flow"] = "agent"
    """Whether the run is one agent's, or a flow's, which is a function that asks several."""
    input: Raw = NULL
    """What a flow was given: any JSON."""
    phases: dict[str, list[str]] = {}
    """The phases of a flow, and which may follow each; the first is the one it begins with."""
    batch: bool = False
    """Its model calls go through the Message Batches API, at half price."""
    forked_from: str = ""
    """The run that it was forked from; empty for any other."""
    forked_at: int = 0
    """The last event that it shares with that run; what stands up to there, that one did."""


class RunForked(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="run_forked"):
    """Here a fork begins: what stands before is shared with the run that it was forked from.

    The run is to be driven, whatever the other one waited for, or was told.
    """

    kept: ClassVar[tuple[str, ...]] = ("by",)

    reason: str = ""
    by: str = ""


class TreeJoined(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="tree_joined"):
    """A fork pays from the tree of the run it is forked from.  It stands in the stream `~budgets`.

    From then on that run, too, holds what its calls may cost in the account of its tree.
    """

    kept: ClassVar[tuple[str, ...]] = ("tree", "run_id")

    tree: str
    """The run it is forked from."""
    run_id: str
    """The fork."""


class PhaseEntered(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="phase_entered"
):
    """A flow went on to its next phase."""

    kept: ClassVar[tuple[str, ...]] = ("phase",)

    phase: str


class StepStarted(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="step_started"
):
    """The intent of a step: written, and durable, before its function runs."""

    kept: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    kind: Literal["step", "sleep"] = "step"
    effect: Effect = "once"
    given: str = ""
    """Hex SHA-256 of the arguments as JSON; empty where they cannot be written as such."""
    attempt: int = 1
    until: int = 0
    """When a sleep is over, in nanoseconds since the epoch."""
    function: str = ""
    """What the function is called; empty for one without a name of its own."""


class StepFinished(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="step_finished"
):
    """What came of a step, of a sleep, of a child run, or of asking for a value."""

    kept: ClassVar[tuple[str, ...]] = ("name", "status")

    name: str
    kind: StepKind
    status: Literal["succeeded", "failed", "in_doubt"] = "succeeded"
    result: Raw = NULL
    """What the function returned, as JSON."""
    error: str = ""
    """Why there is no result."""
    blob: str = ""
    """Hex SHA-256 of the result in `blobs`, when it is too long to stand here."""
    degraded: bool = False
    """It is less than what was asked for, as the result itself says, or the child run."""


class ChildStarted(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="child_started"
):
    """The intent of a run of its own, whose journal says what became of it."""

    kept: ClassVar[tuple[str, ...]] = ("name", "child")

    name: str
    """What the flow calls it, or the `call_id` of the tool call that is this run."""
    child: str
    """Its run id."""
    given: str = ""
    """Hex SHA-256 of its input."""
    agent: str = ""
    """The agent or flow that it is a run of, where a flow started it."""
    call_id: str = ""
    """The tool call that it serves; empty for one that a flow started."""


class Turn(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A place in the queue of a rate limit."""

    at: int
    """When its turn comes, as far as that is known, in nanoseconds since the epoch."""
    group: str = ""
    """The models whose queue it is; see `pacing.group`."""
    places: dict[str, int] = {}
    """The same for each unit of which calls may use more or less than was guessed, before what that
    makes of it is added; see `turns.Draw`."""
    took: dict[str, int] = {}
    """What was taken for it, by unit."""


class RunParked(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="run_parked"):
    """The run waits without a driver: no thread, no memory, only its place in the store."""

    kept: ClassVar[tuple[str, ...]] = ("until",)

    until: int
    """When it is to go on, in nanoseconds since the epoch; 0 is once somebody acts."""
    why: str
    person: bool = False
    """It waits for a person, though perhaps not for ever."""
    turns: dict[str, Turn] = {}
    """The places of calls that are to be made in the queue of a rate limit, by their `call_id`."""


class RunWoken(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="run_woken"):
    """The run goes on after it was parked."""


class ApprovalRequested(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="approval_requested"
):
    """A person is to say whether something may be done."""

    kept: ClassVar[tuple[str, ...]] = ("name", "call_id", "tool", "expires_at")

    question: str
    name: str = ""
    """What a flow calls it; empty for a call of a tool."""
    call_id: str = ""
    """The call of a tool that is not made before; empty for what a flow asks."""
    ask_id: str = ""
    tool: str = ""
    arguments: Raw = NULL
    """What the tool is to be called with, as JSON."""
    context: Raw = NULL
    """What the person should see to decide, as JSON."""
    given: str = ""
    """Hex SHA-256 of what a flow asked."""
    expires_at: int = 0
    """From when on it counts as denied, in nanoseconds since the epoch; 0 is never."""
    answer: Raw = NULL
    """The answer that is to be the answer, or not; null where something else is asked."""


class ApprovalGiven(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="approval_given"
):
    """A person said yes or no.  An outside event; the first that comes in time counts."""

    kept: ClassVar[tuple[str, ...]] = ("name", "call_id", "approved", "by")

    approved: bool
    name: str = ""
    call_id: str = ""
    arguments: Raw = NULL
    """What the tool is to be called with instead; null where nothing was changed."""
    note: str = ""
    by: str = ""
    answer: Raw = NULL
    """What is to be the answer instead; null where nothing was changed."""


class RunLeft(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="run_left"):
    """A worker cannot drive the run and leaves it to others.  An outside event."""

    why: str


class NoteAdded(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="note_added"):
    """Somebody wrote a remark.  An outside event: it changes nothing the run does."""

    text: str
    by: str = ""


class ControlGiven(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="control_given"
):
    """Somebody told the run to pause, to go on, or to end.  An outside event."""

    kept: ClassVar[tuple[str, ...]] = ("verb", "by")

    verb: Verb
    reason: str = ""
    by: str = ""
    undo: bool = False
    """What its tools did is to be taken back first, as far as it can be."""


class BudgetRefused(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="budget_refused"
):
    """A call was not made because a budget does not allow it."""

    kept: ClassVar[tuple[str, ...]] = ("scope", "unit", "needed", "left")

    ask_id: str
    scope: str
    unit: str
    needed: int
    left: int
    window: str = ""
    """Of the budget, such as `day:2026-11-22`, where the scope may have several."""
    compacts: bool = False
    """The call was to condense the conversation, for which its prompt is held twice."""


class BudgetSet(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="budget_set"):
    """Somebody gave a scope a budget, or took it away.  It stands in the stream `~budgets`."""

    kept: ClassVar[tuple[str, ...]] = ("scope", "window")

    scope: str
    window: str = "total"
    """`total`, `day`, `month`, or a number of hours that roll on, such as `24h`."""
    tz: str = "UTC"
    """The time zone whose days and months count."""
    nano: int | None = None
    """Nano-dollars; where there is no amount at all, there is no budget any more."""
    tokens: int | None = None
    calls: int | None = None
    turns: int | None = None
    notify: list[int] = []
    """At how many percent of an amount somebody is to be told."""
    binding: bool = True
    """Whether calls have to fit; otherwise it is only counted, and told of."""
    reason: str = ""
    by: str = ""


class BudgetPassed(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="budget_passed"
):
    """So many percent of a budget are spent, at which somebody is to be told: once a window."""

    kept: ClassVar[tuple[str, ...]] = ("scope", "window", "unit", "percent", "spent", "limit")

    scope: str
    window: str
    """The account, such as `month:2026-11`."""
    unit: str
    percent: int
    spent: int
    """Settled or in doubt by then."""
    limit: int


class ScheduleSet(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="schedule_set"
):
    """Somebody set a schedule, or took it away.  It stands in the stream `~schedules`."""

    kept: ClassVar[tuple[str, ...]] = ("name", "cron", "tz")

    name: str
    cron: str = ""
    """A cron expression; where there is none, there is no schedule of that name any more."""
    tz: str = "UTC"
    """The time zone whose clock it goes by."""
    agent: str = ""
    """The name of the agent or flow that is run."""
    kind: Literal["agent", "flow"] = "agent"
    code: str = ""
    """Where that is declared, as `module:attribute`; empty when it cannot be imported."""
    input: Raw = NULL
    """What each run is given: what `message_received` says to an agent, or any JSON for a flow."""
    tenant: str = ""
    tags: dict[str, str] = {}
    reason: str = ""
    by: str = ""


class ScheduleFired(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="schedule_fired"
):
    """An occurrence of a schedule has its run, or it was found that it can have none."""

    kept: ClassVar[tuple[str, ...]] = ("name", "at", "run_id")

    name: str
    at: int
    """The moment that the schedule names, in nanoseconds since the epoch."""
    run_id: str
    error: str = ""
    """Why the run was not begun, for people; it is not tried again."""


class BoundRaised(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="bound_raised"
):
    """A run found the bound of a model's prompts too low.  It stands in the stream `~budgets`."""

    kept: ClassVar[tuple[str, ...]] = ("model", "percent")

    model: str
    percent: int
    """By how much every bound of that model is multiplied from now on, in whole percent."""
    run_id: str = ""
    """The run that found it."""


class RateFrozen(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="rate_frozen"):
    """The API said when to come back: nobody asks before.  It stands in the stream `~limits`."""

    kept: ClassVar[tuple[str, ...]] = ("group", "until", "run_id")

    group: str
    """The models that share the limit; see `pacing.group`."""
    until: int
    """When they may be asked again, in nanoseconds since the epoch."""
    key: str = ""
    """A hash of the API key or the client that was refused; empty where that is not known."""
    run_id: str = ""
    """The run that was refused."""
    ramp: bool = False
    """More was asked than grew gradually, so calls begin one after the other, and more and more."""


class RateLimitsTold(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="rate_limits_told"
):
    """The API said how much it takes in a minute.  It stands in the stream `~limits`."""

    kept: ClassVar[tuple[str, ...]] = (
        "group",
        "requests",
        "input_tokens",
        "output_tokens",
    )

    group: str
    """The models that share the limits; see `pacing.group`."""
    key: str = ""
    """A hash of the API key or the client that was told; empty where that is not known."""
    requests: int = 0
    """0 where there is no limit, or none was told; so with the others."""
    input_tokens: int = 0
    """Those read from the prompt cache aside."""
    output_tokens: int = 0


class BreakerChanged(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="breaker_changed"
):
    """A circuit breaker opened, is tried, or closed.  It stands in a stream `~breaker:KEY`."""

    kept: ClassVar[tuple[str, ...]] = ("key", "status", "until")

    key: str
    """Whose breaker it is; see `breaker.model_key` and `breaker.source_key`."""
    status: Literal["closed", "open", "half_open"]
    until: int = 0
    """When it may be tried, where it is open, in nanoseconds since the epoch."""
    probes: int = 0
    """How many calls may try it, where it is half-open."""
    rounds: int = 0
    """How often in a row those failed before."""
    calls: int = 0
    """What was judged: so many calls, of which so many failed or were slow."""
    failures: int = 0
    slow: int = 0
    run_id: str = ""
    """The run whose call changed it."""


class RunFinished(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="run_finished"
):
    """A leg of the run ended.  Only `stopped` may go on, once its limits allow it."""

    kept: ClassVar[tuple[str, ...]] = ("status",)

    status: FinalStatus
    why: str = ""
    """A sentence for people; empty for `completed`."""
    answer: Raw = NULL
    """What a flow returned, as JSON; the answer of an agent stands in `ask_answered`."""


# ── asks: a conversation about one question ─────────────────────────────────────────────────────


class AskStarted(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="ask_started"):
    """A question was opened."""

    ask_id: str
    spec: Spec | None = None
    """What the model sees in this ask; `None` is the run's own."""
    continues: str = ""
    """The ask whose conversation goes on in this one; empty for a new conversation."""
    version: str = ""
    """The version of the agent that is asked, where it is not the run's."""
    judges: str = ""
    """The call whose reply is the answer that a judge is asked about; empty for a question."""
    check: str = ""
    """The name of that judge."""


class MessageReceived(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="message_received",
):
    """A message from outside entered the conversation, before any call that carries it."""

    ask_id: str
    content: Raw
    """A JSON string or an array of content blocks, as the API takes it."""
    role: Literal["user", "system"] = "user"


class FeedbackGiven(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="feedback_given"
):
    """outlast itself told the model something, so that the conversation can go on."""

    ask_id: str
    why: str
    """What made it necessary, such as `max_tokens`."""
    content: Raw
    """An array of content blocks, as the API takes it."""


class LoopDetected(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="loop_detected"
):
    """Claude calls the same tools again and again, and nothing new comes back."""

    kept: ClassVar[tuple[str, ...]] = ("times", "stops")

    ask_id: str
    calls: list[str]
    """The tools of one round, in order."""
    times: int
    """How often the round came in a row."""
    error: bool = False
    """It is one error that repeats, whatever the arguments are."""
    stops: bool = False
    """The run is stopped for it; before that, Claude is told once."""


class AskFailed(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="ask_failed"):
    """The question will get no answer; the flow that asked it is told why."""

    kept: ClassVar[tuple[str, ...]] = ("ask_id",)

    ask_id: str
    why: str


class AskAnswered(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="ask_answered"
):
    """The question has its answer."""

    ask_id: str
    answer: Raw
    """The answer as JSON."""
    degraded: str = ""
    """In what it is less than an answer that was checked; empty where it is not."""
    by: str = ""
    """Who decided that it is the answer, or made another one of it; empty where nobody had to."""


# ── whether an answer may be believed ───────────────────────────────────────────────────────────


class Issue(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that is wrong with an answer.

    Attributes:
        message: what, in a sentence that the model can act on.
        path: where in the answer, such as `[0].eligibility`; empty for all of it.
        rule: what it breaks; by default the name of the check.
        got: what stands there, as JSON has it.
        expected: what should.

    """

    message: str
    path: str = ""
    rule: str = ""
    got: Any = None
    expected: Any = None


class AnswerProposed(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="answer_proposed"
):
    """A reply is an answer that is to be checked before anyone believes it."""

    kept: ClassVar[tuple[str, ...]] = ("ask_id", "call_id")

    ask_id: str
    call_id: str
    """The call whose reply it is."""
    answer: Raw
    """As Claude gave it: JSON, a string where it is text."""
    attempt: int = 1
    """The number of this answer among those to the question."""
    times: int = 1
    """How often its checks were begun: their process may have died under them."""


class VerdictGiven(Event, frozen=True, kw_only=True, omit_defaults=True, tag="verdict_given"):
    """A check said what it finds of an answer; what is done about it is another event."""

    kept: ClassVar[tuple[str, ...]] = ("ask_id", "call_id", "check", "verdict")

    ask_id: str
    call_id: str
    """The call whose reply is the answer."""
    check: str
    kind: Literal["schema", "rule", "judge"]
    version: str
    """Of the check: it changes with its code, or with the judge's prompt."""
    verdict: VerdictKind
    issues: list[Issue] = []
    why: str = ""
    """What there is to say beside, such as why nobody can tell."""
    evidence: list[int] = []
    """Where in the journal of the run stands what it was checked against."""
    model: str = ""
    """Of a judge."""
    confidence: float | None = None
    """Of a judge, from 0 to 1."""
    suggestion: str = ""
    """Of a judge."""
    cost_nano: int = 0
    """What the judge's calls cost, those in doubt included, in nano-dollars."""
    latency_ms: int = 0


class AnswerRejected(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="answer_rejected"
):
    """An answer was not accepted, and what is done about that."""

    kept: ClassVar[tuple[str, ...]] = ("ask_id", "call_id", "action")

    ask_id: str
    call_id: str
    action: RejectionAction
    why: str = ""
    """A sentence for people."""


class AskResampled(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="ask_resampled"
):
    """The question is asked again in a conversation without the answers that were rejected."""

    kept: ClassVar[tuple[str, ...]] = ("ask_id",)

    ask_id: str
    content: Raw
    """What stands after the question: what was wrong, and what the tools returned."""


class AskRejected(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="ask_rejected"
):
    """The question has no answer, because none was accepted."""

    kept: ClassVar[tuple[str, ...]] = ("ask_id",)

    ask_id: str
    why: str


class LabelGiven(Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="label_given"):
    """A person said whether an answer is good.  An outside event; the last word counts."""

    kept: ClassVar[tuple[str, ...]] = ("ask_id", "call_id", "good", "by")

    ask_id: str
    call_id: str
    """The call whose reply the answer is."""
    good: bool
    why: str = ""
    by: str = ""


# ── calls of the model ──────────────────────────────────────────────────────────────────────────


class ModelCallStarted(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="model_call_started",
):
    """The intent to ask the model: written, and durable, before the request leaves."""

    kept: ClassVar[tuple[str, ...]] = ("call_id", "hold_nano")

    ask_id: str
    call_id: str
    max_tokens: int
    request_hash: str
    """Hex SHA-256 of the request, cache markers aside; see `conversation.request_hash`."""
    hold_nano: int
    """The worst case of this attempt in nano-dollars: spent unless the outcome says otherwise."""
    hold_tokens: int
    attempt: int = 1
    batch: bool = False
    """It goes through the Message Batches API, and what it holds is at the prices of that."""
    prices: str = ""
    """Whose prices they are: the release of genai-prices, or `declared:` and a hash of them."""
    probe: bool = False
    """By it is tried whether Claude answers again, where a circuit breaker is open otherwise."""
    tool: str | None = None
    """The tools whose results the request brings, sorted, as in `fetch+search`; empty where it
    brings none, and `None` where an earlier version wrote it."""


class ModelCallBatched(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="model_call_batched",
):
    """The API accepted a batch that the call is one of; from now on its result can be fetched.

    So it is no longer lost with the process: whoever drives the run next fetches it.
    """

    kept: ClassVar[tuple[str, ...]] = ("call_id", "batch_id")

    ask_id: str
    call_id: str
    batch_id: str
    """What the API calls the batch."""
    custom_id: str
    """What the call is named in it."""


class ModelCallSucceeded(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="model_call_succeeded",
):
    """The whole reply came, `message_stop` included."""

    kept: ClassVar[tuple[str, ...]] = ("call_id", "cost_nano", "tokens")

    ask_id: str
    call_id: str
    content: Raw
    """The assistant's blocks as they came: a JSON array."""
    stop_reason: str | None
    usage: Raw
    """The API's usage object as it came."""
    cost_nano: int
    tokens: int
    """Input (fresh, cache read, cache written) plus output."""
    model: str = ""
    request_id: str = ""
    message_id: str = ""
    extra: Raw = Raw(b"{}")
    """Every other member of the message, such as `stop_details` or `container`: a JSON object."""
    latency_ms: int = 0
    cache_read: int = 0
    """Tokens of the prompt that came from the cache."""
    cache_written: int = 0
    """Tokens of the prompt that were put there."""


class CacheMissed(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="cache_missed"
):
    """What the call before had put into the prompt cache was not, or not all, read from it."""

    kept: ClassVar[tuple[str, ...]] = ("call_id", "reason")

    ask_id: str
    call_id: str
    reason: CacheMissReason
    expected_tokens: int
    """What the call before had read and written."""
    read_tokens: int
    idle_ns: int
    """From the start of the call before to the start of this one."""
    extra_nano: int
    """What the missing tokens cost more than reading them, in nano-dollars."""


class BoundExceeded(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="bound_exceeded"
):
    """A call was longer than its prompt could be by its bytes, or cost more than was held for it.

    From then on every call of the run holds more, and so does every call of that model in every
    run: see `BoundRaised`.
    """

    kept: ClassVar[tuple[str, ...]] = (
        "call_id",
        "bound_tokens",
        "actual_tokens",
        "over_nano",
        "percent",
    )

    ask_id: str
    call_id: str
    bound_tokens: int
    """What the prompt could have at most, as it was held."""
    actual_tokens: int
    """What the API metered of the prompt.

    Where it read several prompts, the longest, or what all tokens were beyond `max_tokens`.
    """
    over_nano: int
    """What the call cost beyond what was held for it, in nano-dollars; 0 where that sufficed."""
    percent: int
    """By how much a bound has to be multiplied for this call to be within it, in whole percent."""


class TokensCounted(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="tokens_counted"
):
    """The API counted a prompt, because something in it cannot be counted here, such as a PDF."""

    ask_id: str
    call_id: str
    tokens: int
    """Of the whole prompt; where the API would not count, the model's context window."""
    why: str = ""
    """Why the API did not count; empty when it did."""


class ModelCallFailed(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="model_call_failed",
):
    """The attempt came to nothing and was surely not billed."""

    kept: ClassVar[tuple[str, ...]] = ("call_id", "kind")

    ask_id: str
    call_id: str
    kind: FailureKind
    message: str
    status: int = 0
    error_type: str = ""
    error_code: str = ""
    retry_after_s: float | None = None
    request_id: str = ""


class ModelSwitched(
    Event, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="model_switched"
):
    """Another model is asked from now on, until the question has its answer.

    What was said stays as it was sent.  Only a reply that was a refusal is taken off the end, since
    it was never sent back.
    """

    kept: ClassVar[tuple[str, ...]] = ("ask_id", "model", "before", "why")

    ask_id: str
    model: str
    before: str
    """The model that was asked so far."""
    why: SwitchCause
    times: int = 0
    """How many attempts in a row it was overloaded."""
    category: str = ""
    """Of a refusal, where the API names one."""
    recommended: bool = False
    """The refusal recommends this model."""
    call_id: str = ""
    """The call whose reply is taken off the end."""


class ModelCallInDoubt(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="model_call_in_doubt",
):
    """Nobody knows whether the attempt was billed, so it counts as fully spent."""

    kept: ClassVar[tuple[str, ...]] = ("call_id", "kind", "cost_nano", "tokens")

    ask_id: str
    call_id: str
    kind: FailureKind
    message: str
    cost_nano: int
    """What was held for the attempt: in doubt is spent."""
    tokens: int
    status: int = 0
    error_type: str = ""
    error_code: str = ""
    retry_after_s: float | None = None
    request_id: str = ""


class ModelCallReconciled(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="model_call_reconciled",
):
    """Somebody found out what a call in doubt really cost.  An outside event."""

    kept: ClassVar[tuple[str, ...]] = ("call_id", "cost_nano", "counted_nano", "tokens")

    ask_id: str
    call_id: str
    cost_nano: int
    """What it is counted at from now on; 0 is a call that was not billed."""
    tokens: int
    counted_nano: int
    """What it was counted at while it was in doubt."""
    counted_tokens: int
    by: str = ""
    reason: str = ""


# ── calls of tools ──────────────────────────────────────────────────────────────────────────────


class CompactionRequested(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="compaction_requested",
):
    """The conversation is near the end of the context window: the API is to condense it.

    Every request asks for it until a reply comes; that one is the summary of what was said before.
    """

    kept: ClassVar[tuple[str, ...]] = ("tokens", "window", "trigger")

    ask_id: str
    tokens: int
    """Of the prompt, at most."""
    window: int
    """What the model can take of a prompt and its reply together, in tokens."""
    trigger: int
    """From how many tokens on the API condenses it; a shorter prompt it answers as ever."""
    why: Literal["near_limit", "window_exceeded"] = "near_limit"
    """Whether there is little room left, or a reply was cut off at the end of the window."""


class ToolCallStarted(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="tool_call_started",
):
    """The intent to call a tool: written, and durable, before the function runs.

    The arguments stand in the reply that asked for the call, under `tool_use_id`.
    """

    kept: ClassVar[tuple[str, ...]] = ("call_id", "tool")

    ask_id: str
    call_id: str
    tool_use_id: str
    tool: str
    effect: Effect
    attempt: int = 1
    arguments: Raw = NULL
    """What a person made of the arguments; null where they are those of the reply."""
    source: str = ""
    """What the tool depends on, as it was declared; empty where that was nothing."""
    probe: bool = False
    """By it is tried whether that answers again, where a circuit breaker is open otherwise."""
    rank: int = 0
    """Which of the tool's sources is asked: 0 is the tool itself, 1 its first fallback."""
    fallback: str = ""
    """The name of that fallback; empty for the tool itself."""
    undoable: bool = False
    """There is a function that takes back what the call does."""


class Degradation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """In what an answer is less than what was asked for."""

    source: str
    """Where it is from."""
    as_of: int = 0
    """When it was true, in nanoseconds since the epoch; 0 is not known."""
    note: str = ""
    dropped: tuple[str, ...] = ()
    """The arguments that were given and not heeded."""


class ToolCallSucceeded(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="tool_call_succeeded",
):
    """The tool answered."""

    kept: ClassVar[tuple[str, ...]] = ("call_id",)

    ask_id: str
    call_id: str
    tool_use_id: str
    content: Raw
    """What the model gets: a JSON string or an array of content blocks."""
    blob: str = ""
    """Hex SHA-256 of the whole result in `blobs`, when `content` is only its beginning: a text, or
    the JSON of the blocks where it holds images or documents."""
    latency_ms: int = 0
    empty: bool = False
    """The source answered, and nothing matched."""
    degraded: Degradation | None = None
    """In what it is less than what was asked for; `None` where it is not."""


class ToolCallFailed(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="tool_call_failed",
):
    """The tool did not answer.

    Where `content` is null something else may be tried; else the model is told with `is_error`.
    """

    kept: ClassVar[tuple[str, ...]] = ("call_id", "kind")

    ask_id: str
    call_id: str
    tool_use_id: str
    kind: ToolFailureKind
    content: Raw
    """What the model gets: a JSON string, free of the exception's own text; or null."""
    error: str = ""
    """What was raised, for people: never sent to the model."""
    latency_ms: int = 0
    unanswered: bool = False
    """What was raised says that the source of the tool did not answer; see `unanswered`."""
    error_class: ErrorClass | Literal[""] = ""
    """What kind of failure it was; empty in journals from before that was told."""
    retry_after_s: float | None = None
    """For how long the source wants to be left alone, in seconds, where it says so."""
    hint: str = ""
    """What the model may be told of it, in the tool's own words, where something else is tried."""
    rank: int = 0
    """Which of the tool's sources it was; see `ToolCallStarted`."""


class ToolCallInDoubt(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="tool_call_in_doubt",
):
    """A tool call was started and nobody knows whether it happened.

    Where `content` is null the call is repeated, or, where it is `open`, somebody has to say what
    became of it; else it tells the model that the outcome is unknown.
    """

    kept: ClassVar[tuple[str, ...]] = ("call_id", "kind")

    ask_id: str
    call_id: str
    tool_use_id: str
    kind: ToolFailureKind
    content: Raw = NULL
    """What the model gets: a JSON string, or null while nothing is to be told."""
    open: bool = False
    """It is never repeated: what became of it is found out first; see `ToolCallReconciled`."""
    error: str = ""
    """What was raised, for people: never sent to the model."""
    error_class: ErrorClass | Literal[""] = ""
    latency_ms: int = 0


class ReconcileStarted(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="reconcile_started",
):
    """A function is to find out what became of a call in doubt, and may die with its process."""

    kept: ClassVar[tuple[str, ...]] = ("call_id",)

    ask_id: str
    call_id: str
    """Of the call that is in doubt."""
    tool_use_id: str
    attempt: int = 1


class ToolCallReconciled(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="tool_call_reconciled",
):
    """Somebody said what became of a call of a tool that was in doubt.

    A function of the tool's may do so first; where that cannot tell, a person is asked.
    """

    kept: ClassVar[tuple[str, ...]] = ("call_id", "outcome")

    ask_id: str
    call_id: str
    tool_use_id: str
    outcome: Happened
    content: Raw = NULL
    """What the call gave, as the model gets it: a JSON string, an array of content blocks, or null
    where nobody knows."""
    by: str = ""
    """Who said so."""
    note: str = ""
    function: bool = False
    """The tool's own function said so, not a person."""


class ToolCallGivenUp(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="tool_call_given_up",
):
    """Every source of a tool was tried, or is not worth trying: the model is told, `is_error`."""

    kept: ClassVar[tuple[str, ...]] = ("call_id", "error_class")

    ask_id: str
    call_id: str
    """Of the last attempt."""
    tool_use_id: str
    content: Raw
    """What the model gets: what was tried, what came of it, and what it may do instead."""
    error_class: ErrorClass | Literal[""] = ""
    """Of the last failure."""
    attempts: int = 0
    """How many were made, of all sources together."""


class UndoStarted(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="undo_started",
):
    """The intent to take back what a call of a tool did, in a run that is cancelled."""

    kept: ClassVar[tuple[str, ...]] = ("call_id",)

    call_id: str
    """Of the call that is taken back."""
    attempt: int = 1


class UndoFinished(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    tag="undo_finished",
):
    """What came of that: a failed one may be tried again."""

    kept: ClassVar[tuple[str, ...]] = ("call_id", "status")

    call_id: str
    status: Literal["succeeded", "failed"] = "succeeded"
    error: str = ""
    """What was raised, for people."""
    last: bool = False
    """It failed, and is not tried again."""


AnyEvent: TypeAlias = (
    RunStarted
    | RunForked
    | NoteAdded
    | ControlGiven
    | BudgetRefused
    | BudgetSet
    | BudgetPassed
    | TreeJoined
    | BoundRaised
    | RateFrozen
    | RateLimitsTold
    | BreakerChanged
    | ScheduleSet
    | ScheduleFired
    | RunFinished
    | PhaseEntered
    | StepStarted
    | StepFinished
    | ChildStarted
    | RunParked
    | RunWoken
    | RunLeft
    | ApprovalRequested
    | ApprovalGiven
    | AskStarted
    | MessageReceived
    | FeedbackGiven
    | AskAnswered
    | AskFailed
    | AnswerProposed
    | VerdictGiven
    | AnswerRejected
    | AskResampled
    | AskRejected
    | LabelGiven
    | LoopDetected
    | ModelCallStarted
    | ModelCallBatched
    | ModelCallSucceeded
    | ModelCallFailed
    | ModelCallInDoubt
    | ModelCallReconciled
    | ModelSwitched
    | CacheMissed
    | BoundExceeded
    | TokensCounted
    | CompactionRequested
    | ToolCallStarted
    | ToolCallSucceeded
    | ToolCallFailed
    | ToolCallInDoubt
    | ReconcileStarted
    | ToolCallReconciled
    | ToolCallGivenUp
    | UndoStarted
    | UndoFinished
)
"""The union; an event type enters it with the feature that first emits it."""

Outcome: TypeAlias = (
    ModelCallSucceeded
    | ModelCallBatched
    | StepFinished
    | TokensCounted
    | ModelCallFailed
    | ModelCallInDoubt
    | ToolCallSucceeded
    | ToolCallFailed
    | ToolCallInDoubt
    | ToolCallReconciled
    | UndoFinished
    | VerdictGiven
)
"""What an action can come to."""

OUTSIDE: Final[tuple[type[Event], ...]] = (
    NoteAdded,
    ModelCallReconciled,
    ControlGiven,
    ApprovalGiven,
    ToolCallReconciled,
    RunLeft,
    LabelGiven,
)
"""Events that others than the run's driver may append, at any time."""

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final[msgspec.json.Decoder[AnyEvent]] = msgspec.json.Decoder(AnyEvent)


def encode(event: Event) -> bytes:
    """Return the body of `event` as it is stored: JSON, the tag under `type`."""
    return _ENCODER.encode(event)


def decode(body: bytes) -> AnyEvent:
    """Return the event stored as `body`.

    Raises:
        msgspec.ValidationError: the tag or a field is not known to this version.

    """
    return _DECODER.decode(body)


def tag(event: Event | type[Event]) -> str:
    """Return the name on disk of an event or of its class."""
    return str(event.__struct_config__.tag)
