"""The messages of an ask, verbatim, and the call in flight.

    user ──▶ model call ──▶ reply ──┬─▶ the answer
               ▲                    └─▶ tool uses ──▶ results, all in one message
               └──────────────────────────────────────────────┘

A message is encoded once, when it enters, and never touched again: Claude binds its thinking to
every byte before it.  So a request is joined from stored pieces, and its hash is a rolling one
that costs the same on the thousandth turn as on the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import takewhile
from typing import Any, Final, Literal, TypeAlias, TypeVar, overload

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast import anthropic_tools, caching, context, loops, media
from outlast.errors import JournalDamaged
from outlast.events import (
    HELD_UP,
    NULL,
    UNDONE,
    AskAnswered,
    AskFailed,
    AskRejected,
    AskResampled,
    AskStarted,
    BoundExceeded,
    CacheMissed,
    CompactionRequested,
    Degradation,
    Effect,
    ErrorClass,
    Event,
    FailureKind,
    FeedbackGiven,
    LoopDetected,
    MessageReceived,
    ModelCallBatched,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallReconciled,
    ModelCallStarted,
    ModelCallSucceeded,
    ModelSwitched,
    ReconcileStarted,
    Spec,
    TokensCounted,
    ToolCallFailed,
    ToolCallGivenUp,
    ToolCallInDoubt,
    ToolCallReconciled,
    ToolCallStarted,
    ToolCallSucceeded,
    ToolFailureKind,
    tag,
)
from outlast.history import beside, misfit
from outlast.journal import Record
from outlast.loops import Asked, Made, distinct, remembered
from outlast.prices import (
    FRAMING_TOKENS,
    Terms,
    bound_within,
    input_bound,
    search_fees,
    terms_of,
    usage,
)

_WHOLE: Final = slice(None)


T = TypeVar("T")


class Trail(Sequence[T]):
    """An immutable sequence that grows at its end without copying what is there.

    All versions of one trail share a list and differ in how much of it they see; growing a version
    that is not the newest copies, so an older one never changes.
    """

    __slots__ = ("_items", "_size")

    def __init__(self, items: Sequence[T] = ()) -> None:
        self._items = list(items)
        self._size = len(self._items)

    def grown(self, item: T) -> Trail[T]:
        """Return this trail with `item` at its end."""
        items = self._items
        if len(items) != self._size:
            items = items[: self._size]
        items.append(item)
        longer: Trail[T] = Trail.__new__(Trail)
        longer._items = items
        longer._size = self._size + 1
        return longer

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            shown = self._items[: self._size]
            return shown if index == _WHOLE else shown[index]
        if not -self._size <= index < self._size:
            raise IndexError(index)
        return self._items[index % self._size]

    def __iter__(self) -> Iterator[T]:
        return iter(self._items[: self._size])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trail) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(self._size)

    def __repr__(self) -> str:
        return f"Trail({self._size} items)"


class Block(msgspec.Struct, frozen=True, gc=False):
    """What the run loop reads of a content block; everything else is only carried."""

    type: str
    id: str = ""
    name: str = ""
    text: str = ""
    input: Raw = Raw(b"{}")


class _Kind(msgspec.Struct, frozen=True, gc=False):
    type: str


_BLOCKS: Final = msgspec.json.Decoder(list[Block])
_BLOCK: Final = msgspec.json.Decoder(Block)
_EACH: Final = msgspec.json.Decoder(list[Raw])
_KIND: Final = msgspec.json.Decoder(_Kind)


def blocks(content: Raw) -> list[Block]:
    """Return the blocks of a reply.

    Raises:
        msgspec.DecodeError: `content` is not an array of blocks with a type, or a member of a block
            of text or of a tool use is not what it should be.

    """
    try:
        return _BLOCKS.decode(content)
    except msgspec.ValidationError:
        # A block of a type nobody has heard of may mean something else by `id`, `name` or `text`.
        return [_block(each) for each in _EACH.decode(content)]


def _block(content: Raw) -> Block:
    kind = _KIND.decode(content).type
    return _BLOCK.decode(content) if kind in ("text", "tool_use") else Block(kind)


class Failure(msgspec.Struct, frozen=True, gc=False):
    """Why the last attempt of the present request came to nothing, and when."""

    kind: FailureKind
    message: str
    retry_after_s: float | None
    at: int


class Try(msgspec.Struct, frozen=True, gc=False):
    """An attempt at a tool use that came to nothing, after which something else may be tried."""

    rank: int
    """Which of the tool's sources was asked."""
    kind: ToolFailureKind
    error_class: ErrorClass | Literal[""]
    at: int
    """When it was over, in nanoseconds since the epoch."""
    retry_after_s: float = 0.0
    hint: str = ""
    """What the model may be told of it, in the tool's own words."""
    acted: bool = False
    """It was no `read` then, so it may have happened whatever the source is declared now."""


class Tally(msgspec.Struct, frozen=True, gc=False):
    """How often a source of tools was asked."""

    calls: int = 0
    retries: int = 0


NO_CALLS: Final = Tally()


class Done(msgspec.Struct, frozen=True):
    """A call that did something which can be taken back."""

    call_id: str
    ask_id: str
    tool: str
    rank: int
    arguments: Raw
    """As they were given: by Claude, or by a person instead."""
    content: Raw
    """What came of it, as the model gets it."""
    seq: int
    """Where that is written."""


class Found(msgspec.Struct, frozen=True):
    """What a tool returned."""

    seq: int
    """Where that is written."""
    tool: str
    arguments: Raw
    """As they were given: by Claude, or by a person instead."""
    content: Raw
    """As the model gets it."""
    degraded: bool = False


class Question(msgspec.Struct, frozen=True):
    """What a conversation was when its question was asked."""

    messages: Trail[bytes]
    attached: tuple[int, ...]
    stop_reason: str | None


class Pending(msgspec.Struct, frozen=True):
    """A tool use of the last reply, until all of them have a result."""

    tool_use_id: str
    name: str
    arguments: Raw
    call_id: str = ""
    """The attempt in flight; empty when none is."""
    attempts: int = 0
    effect: Effect = "once"
    """What the attempt in flight was declared to do to the world."""
    result: bytes = b""
    """The encoded `tool_result` block; empty until there is one."""
    edited: Raw = NULL
    """What a person made of the arguments; null where they are Claude's."""
    tries: str = ""
    """The source of the tool, where it is tried by the attempt in flight whether it answers."""
    rank: int = 0
    """Which of its sources the last attempt asked."""
    tried: tuple[Try, ...] = ()
    """What came to nothing so far."""
    doubt: str = ""
    """The attempt of which somebody has to say what became of it; empty where none is."""
    unsure: bool = False
    """The tool's own function could not say it."""
    looked: int = 0
    """How often that function was called."""
    undoable: bool = False
    """There is a function that takes back what the last attempt does."""

    @property
    def crashes(self) -> int:
        """How often in a row the process ended under an attempt at the source asked last."""
        lost = takewhile(lambda one: one.kind == "crash", reversed(self.tried))
        return sum(one.rank == self.rank for one in lost)


def surely_not(pending: Pending, rank: int) -> bool:
    """Return whether nothing happened at a source, in all that it was tried so far."""
    tried = [one for one in pending.tried if one.rank == rank]
    return all(one.kind == "breaker" or one.error_class in UNDONE for one in tried)


class Cached(msgspec.Struct, frozen=True, gc=False):
    """What the prompt cache holds of a conversation."""

    index: int
    """The message up to whose end it was written."""
    tokens: int
    """How many of the prompt; 0 where the API's counts do not say."""
    at: int
    """When it was last used."""


class Missed(msgspec.Struct, frozen=True, gc=False):
    """A call that read less from the prompt cache than the call before had put there."""

    call_id: str
    model: str
    cached: Cached
    read: int
    written: int
    idle_ns: int


class Exceeded(msgspec.Struct, frozen=True, gc=False):
    """A call whose prompt was longer than its bound, or that cost more than was held for it."""

    call_id: str
    plain: int
    """The bound in tokens as the bytes give it, before any factor."""
    bound: int
    """The bound that was held."""
    actual: int
    over_nano: int
    fees_nano: int = 0
    """Of what it cost: web searches beyond those held, which say nothing of a prompt's length."""


class Unrefused(msgspec.Struct, frozen=True):
    """What a conversation was before a reply that refused, and is when another model is asked."""

    messages: Trail[bytes]
    stop_reason: str | None
    cuts: int
    results_of: str
    container: bytes
    attached: tuple[int, ...]


class Conversation(msgspec.Struct, frozen=True):
    """One ask: what was said, what is in flight, and what is still to be done."""

    ask_id: str
    spec: Spec
    head: bytes
    """The frozen members of every request, their breakpoint for the prompt cache included."""
    messages: Trail[bytes]
    digest: bytes
    input_bound: int
    """At least as many tokens as the API will count for everything said so far."""
    calls: int = 0
    """Model calls started; the number names the next one."""
    call: ModelCallStarted | None = None
    batched: ModelCallBatched | None = None
    """Where the result of that call can be fetched, once its batch was accepted."""
    failures: int = 0
    """Attempts of the present request that came to nothing, crashes aside."""
    failure: Failure | None = None
    overloads: int = 0
    """How many of those in a row, to the last one, were refused because Claude is overloaded."""
    declared: str = ""
    """The model that the agent names, where another one is asked instead."""
    given_up: tuple[str, ...] = ()
    """The models that were asked before the present one, since the question was opened."""
    unrefused: Unrefused | None = None
    """What it was before the last reply, where that was a refusal."""
    stop_reason: str | None = None
    replied: bool = False
    """The last message is the model's, and no tool of it is open."""
    pending: tuple[Pending, ...] = ()
    before: str = ""
    """What the replies just before this one said, cut off or paused: the answer begins with it."""
    cuts: int = 0
    """Replies in a row that were cut off."""
    stop_details: Raw = NULL
    container: bytes = b""
    """The id, as JSON, of the container that server tools run in."""
    called_at: int = 0
    """When the last call was started."""
    called_with: str | None = None
    """The tools whose results it brought; see `ModelCallStarted.tool`."""
    results_of: str = ""
    """The tools whose results Claude has not replied to, sorted and joined by `+`."""
    asked_by: Asked | None = None
    """The last call, where it was answered."""
    cached: Cached | None = None
    """What the last reply left in the prompt cache."""
    missed: Missed | None = None
    """What the last reply should have found there, until somebody was told."""
    exceeded: Exceeded | None = None
    """What the last call used beyond what was held for it, until somebody was told."""
    attached: tuple[int, ...] = ()
    """The messages whose images and documents are blobs."""
    uncounted: bool = False
    """There is a document in it whose tokens only the API can count."""
    counts: int = 0
    """How often the API counted; the number names the next one."""
    measured: bool = False
    """The bound is of the API's counts alone, or nobody knows better: nothing was said since."""
    uncountable: bool = False
    """There is a document in it that nobody could count, so the bound is the window itself."""
    compacts: int = 0
    """From how many tokens on the next request is to be condensed; 0 where that is not asked."""
    fruitless: int = 0
    """How often in a row that was asked, and came to nothing."""
    shown: int = 0
    """The tokens at which a reply was cut off at the end of the context window; 0 where none was.
    """
    stopped_before: str | None = None
    """Why the reply stopped that is the last message, where one after it was cut off there."""
    misfit: str = ""
    """Why the API would take no request any more, and since which event."""
    version: str = ""
    """Of the agent that was asked, where it is not the run's."""
    asked: Raw = NULL
    """What was asked, as it came."""
    spent_nano: int = 0
    spent_tokens: int = 0
    made: tuple[Made, ...] = ()
    """The last tool calls and what came back, in the order Claude asked."""
    nudged: tuple[str, ...] = ()
    """The tools of the loop that Claude was told of last, sorted."""
    wasted: tuple[Asked, ...] = ()
    """The calls of that loop that brought nothing new, and were not counted before."""
    continues: str = ""
    """The ask whose conversation goes on in this one; empty for a new conversation."""
    turns: int = 0
    """Model calls of this ask that were billed, may have been, or are in flight."""
    tool_calls: int = 0
    """Calls of tools that were begun for it."""
    tallies: dict[str, Tally] = {}
    """How often each source of tools was asked."""
    done: tuple[Done, ...] = ()
    """The calls that can be taken back."""
    lost: tuple[str, ...] = ()
    """The calls that could be, if it were known whether they happened."""
    degraded: tuple[tuple[str, Degradation], ...] = ()
    """The tools whose answers are less than what was asked for, and in what, the last one last."""
    failed: str = ""
    """Why there will be no answer; empty while there may be one."""
    rejected: bool = False
    """That is because none was accepted."""
    answer: Raw | None = None
    less: str = ""
    """In what it is less than an answer that was checked; empty where it is not."""
    judges: str = ""
    """The call whose reply it judges; empty for a question."""
    check: str = ""
    """As which judge."""
    question: Question | None = None
    """What it was when it was asked; `None` before that."""
    found: Trail[Found] = Trail()
    """What tools returned, in the conversations before that it goes on from, too."""

    @property
    def judged(self) -> str:
        """The ask of whose answer it judges; empty for a question."""
        return self.judges.rpartition(".m")[0]


def opened(ask_id: str, spec: Spec) -> Conversation:
    """Return the conversation of an ask in which nothing was said yet."""
    head = caching.head(spec, marked=False)
    shown = anthropic_tools.uses(bytes(spec.tools)).typed * anthropic_tools.SHOWN_TOKENS
    return Conversation(
        ask_id=ask_id,
        spec=spec,
        head=caching.head(spec, marked=True),
        messages=Trail(),
        digest=sha256(head).digest(),
        input_bound=input_bound(head) + shown,
        found=Trail(),
    )


def request_hash(conversation: Conversation, max_tokens: int) -> str:
    """Return the hash of the next request: hex SHA-256, rolled over the messages.

    It is `sha256(digest ‖ max_tokens ‖ container ‖ edit)`, where `digest` begins as the hash of the
    frozen head without its breakpoint and becomes `sha256(digest ‖ message)` with every message.
    """
    further = conversation.container
    if conversation.compacts:
        further += context.edit(conversation.compacts)
    return _request_hash(conversation.digest, max_tokens, further)


@lru_cache(maxsize=16)
def _request_hash(digest: bytes, max_tokens: int, further: bytes) -> str:
    # Whoever decides on a call folds its intent next, and there the hash is checked.
    return sha256(b"%b%d%b" % (digest, max_tokens, further)).hexdigest()


def request_head(conversation: Conversation) -> bytes:
    """Return the members of the next request that stand before `max_tokens` and `messages`."""
    head = conversation.head
    if conversation.container:
        head = b'%b,"container":%b' % (head, conversation.container)
    if conversation.compacts:
        head = b"%b,%b" % (head, context.edit(conversation.compacts))
    return head


def next_call_id(conversation: Conversation) -> str:
    """Return what the next call of the model is."""
    return f"{conversation.ask_id}.m{conversation.calls + 1}"


def terms(conversation: Conversation, *, batch: bool = False) -> Terms:
    """Return what the next request of a conversation says of its price."""
    spec = conversation.spec
    asked = terms_of(
        spec.parameters, cache=spec.cache, batch=batch, tools=spec.tools, model=spec.model
    )
    return replace(asked, passes=2 * asked.passes) if conversation.compacts else asked


def manages_context(conversation: Conversation) -> bool:
    """Return whether the agent says itself how its context is managed."""
    named = _members(bytes(conversation.spec.parameters))
    return not named.isdisjoint(("context_management", "compaction"))


@lru_cache(maxsize=64)
def _members(parameters: bytes) -> frozenset[str]:
    return frozenset(msgspec.json.decode(parameters, type=dict[str, Raw]))


def tool_call_id(conversation: Conversation, number: int) -> str:
    """Return the call that the tool use of this number, from 1, in the last reply becomes."""
    return f"{conversation.ask_id}.m{conversation.calls}.t{number}"


def flaw(conversation: Conversation) -> str:
    """Return why the API would not take this history as a request; empty when it would.

    Only its end is looked at: every message before was an end once, and is not changed.
    """
    if not conversation.messages:
        return "nothing was said yet"
    if conversation.misfit:
        return conversation.misfit
    if conversation.pending:
        return f"{len(conversation.pending)} tool uses of the last reply have no result yet"
    last = conversation.messages[-1]
    if last.endswith((b'"content":[]}', b'"content":""}')):
        return "its last message is empty"
    if last.startswith(b'{"role":"assistant"') and conversation.stop_reason not in GOES_ON:
        return f"it ends with a reply that stopped for {conversation.stop_reason!r}"
    return ""


GOES_ON: Final = frozenset({"pause_turn", "compaction"})
"""Stop reasons after which the conversation is sent again as it is, with nothing after it."""


def evolve(conversation: Conversation, record: Record) -> Conversation:
    """Return what `record` makes of the conversation it belongs to."""
    rule = _RULES.get(type(record.event))
    return conversation if rule is None else rule(conversation, record.event, record)


def start(event: AskStarted, default: Spec, before: Conversation | None) -> Conversation:
    """Return the conversation that `event` opens, or in which it goes on after `before`."""
    if before is None:
        fresh = opened(event.ask_id, event.spec or default)
        if event.judges:
            paid_for = f"check:{event.check}"
            fresh = replace(fresh, judges=event.judges, check=event.check, results_of=paid_for)
        return replace(fresh, version=event.version) if event.version else fresh
    # A new question is put to the model that the agent names: what kept it from the last one may
    # be over.
    asked = _asking(before, before.declared) if before.declared else before
    return replace(
        asked,
        ask_id=event.ask_id,
        continues=event.continues,
        version=event.version,
        declared="",
        given_up=(),
        unrefused=None,
        calls=0,
        turns=0,
        tool_calls=0,
        spent_nano=0,
        spent_tokens=0,
        failures=0,
        failure=None,
        overloads=0,
        replied=False,
        before="",
        cuts=0,
        counts=0,
        fruitless=0,
        asked=NULL,
        answer=None,
        less="",
        question=None,
    )


def rested(conversation: Conversation) -> Conversation:
    """Return the conversation as a new leg finds it: what failed before may be mended now."""
    return replace(conversation, failures=0, failure=None, overloads=0)


def shared(conversation: Conversation) -> Conversation:
    """Return the conversation as a fork goes on with it: what it cost and did, another run did."""
    asked = conversation.asked_by
    return replace(
        rested(conversation),
        missed=None,
        asked_by=None if asked is None else replace(asked, nano=0),
        made=tuple([replace(one, asked=None) for one in conversation.made]),
        done=(),
        lost=(),
    )


def declared_spec(conversation: Conversation) -> Spec:
    """Return what the model sees, as the agent was declared: with the model that it names."""
    spec = conversation.spec
    return replace(spec, model=conversation.declared) if conversation.declared else spec


def switched(conversation: Conversation, model: str) -> Conversation:
    """Return the conversation as another model is asked to go on with it.

    The messages are those that were sent, to the byte, and the last one is a refusal no more.
    """
    kept = conversation.unrefused
    if kept is not None:
        conversation = replace(
            conversation,
            messages=kept.messages,
            stop_reason=kept.stop_reason,
            cuts=kept.cuts,
            results_of=kept.results_of,
            container=kept.container,
            attached=kept.attached,
            stop_details=NULL,
            replied=False,
            unrefused=None,
        )
    return replace(
        _asking(conversation, model),
        declared=conversation.declared or conversation.spec.model,
        given_up=(*conversation.given_up, conversation.spec.model),
        failures=0,
        failure=None,
        overloads=0,
    )


def _asking(conversation: Conversation, model: str) -> Conversation:
    """Return the same conversation with another model, of which nothing is known so far.

    It has another prompt cache, and another tokenizer: what the one before metered is no bound.
    """
    fresh = opened(conversation.ask_id, replace(conversation.spec, model=model))
    digest, bound, uncounted = fresh.digest, fresh.input_bound, False
    for message in conversation.messages:
        digest = sha256(digest + message).digest()
        bound += input_bound(message)
        if not message.startswith(_REPLY):
            shown, known = media.bound(message)
            bound += shown
            uncounted |= not known
    return replace(
        conversation,
        spec=fresh.spec,
        head=fresh.head,
        digest=digest,
        input_bound=bound,
        uncounted=uncounted,
        measured=False,
        uncountable=False,
        compacts=0,
        fruitless=0,
        shown=0,
        cached=None,
        missed=None,
    )


_REPLY: Final = b'{"role":"assistant",'
"""What a message of Claude's begins with."""


def held_up(conversation: Conversation) -> bool:
    """Return whether it waits for somebody to mend why its last attempt came to nothing."""
    failure = conversation.failure
    return failure is not None and failure.kind in HELD_UP and not conversation.failed


def _json(value: str) -> bytes:
    return msgspec.json.encode(value)


def _said(conversation: Conversation, message: bytes, **changes: Any) -> Conversation:
    """Return the conversation with one more message, and `changes` of other fields."""
    return replace(
        conversation,
        messages=conversation.messages.grown(message),
        digest=sha256(conversation.digest + message).digest(),
        input_bound=conversation.input_bound + input_bound(message),
        measured=False,
        **changes,
    )


def _received(conversation: Conversation, event: MessageReceived, record: Record) -> Conversation:
    content = bytes(event.content)
    if content.startswith(b'"'):
        # What a string is short for; a breakpoint for the prompt cache stands on a block.
        content = b'[{"type":"text","text":%b}]' % content
    message = b'{"role":"%b","content":%b}' % (event.role.encode(), content)
    is_question = conversation.asked == NULL
    if is_question:
        conversation = replace(conversation, asked=event.content)
    told = _entered(conversation, message, record)
    if not is_question or conversation.judges:
        return told
    return replace(told, question=Question(told.messages, told.attached, told.stop_reason))


def _told(conversation: Conversation, event: FeedbackGiven, record: Record) -> Conversation:
    message = b"".join((b'{"role":"user","content":', event.content, b"}"))
    told = _entered(conversation, message, record)
    if not conversation.pending:
        return told
    # Results of tools are in it that stand beside a call by which an answer was given.
    names = sorted({one.name for one in conversation.pending if one.result})
    return replace(told, pending=(), results_of="+".join(names))


def _resampled(conversation: Conversation, event: AskResampled, record: Record) -> Conversation:
    """Return the conversation as it was when its question was asked, and more to go by.

    What Claude says is bound to what stood before it, and that is the same as it was then.
    """
    was = conversation.question
    if was is None:
        return conversation
    back = replace(
        conversation,
        messages=was.messages,
        attached=was.attached,
        stop_reason=was.stop_reason,
        unrefused=None,
        replied=False,
        pending=(),
        before="",
        cuts=0,
        results_of="",
        made=(),
        nudged=(),
    )
    message = b"".join((b'{"role":"user","content":', event.content, b"}"))
    return _entered(_asking(back, conversation.spec.model), message, record)


def _entered(conversation: Conversation, message: bytes, record: Record) -> Conversation:
    """Return the conversation with a message that is neither a reply nor made of results."""
    before = conversation.messages[-1] if conversation.messages else None
    wrong = misfit(message, before, conversation.stop_reason)
    if wrong and not conversation.misfit:
        wrong = f"the message of event {record.seq} ({tag(record.event)}) does not fit: {wrong}"
    return _told_more(conversation, message, misfit=conversation.misfit or wrong)


def _told_more(conversation: Conversation, message: bytes, **changes: Any) -> Conversation:
    """Return the conversation with a message for Claude, whatever it holds beside text."""
    tokens, known = media.bound(message)
    if tokens or not known:
        changes["uncounted"] = conversation.uncounted or not known
        conversation = replace(conversation, input_bound=conversation.input_bound + tokens)
    if media.has_references(message):
        changes["attached"] = (*conversation.attached, len(conversation.messages))
    return _said(conversation, message, replied=False, **changes)


def _counted(conversation: Conversation, event: TokensCounted, _: Record) -> Conversation:
    changes = {"uncounted": False, "measured": True, "counts": conversation.counts + 1}
    bound = event.tokens + event.tokens // media.COUNTED_MARGIN
    if not conversation.uncounted:
        # Its bytes say how long it can be at most, whether the API counted it or would not.
        bound = conversation.input_bound if event.why else min(bound, conversation.input_bound)
    elif event.why:
        changes["uncountable"] = True
    return replace(conversation, input_bound=bound, **changes)


def _to_be_condensed(
    conversation: Conversation, event: CompactionRequested, _: Record
) -> Conversation:
    if conversation.stop_reason == EXCEEDED:
        conversation = replace(conversation, stop_reason=conversation.stopped_before, replied=False)
    return replace(conversation, compacts=event.trigger)


def _answered(conversation: Conversation, event: AskAnswered, _: Record) -> Conversation:
    return replace(conversation, answer=event.answer, less=event.degraded)


def _called(conversation: Conversation, event: ModelCallStarted, record: Record) -> Conversation:
    # The journal holds the history once.  If what it gives now is not what was sent then, a
    # resumed run would talk about something else: better to stop.
    if event.request_hash != request_hash(conversation, event.max_tokens):
        raise JournalDamaged(
            record.stream,
            seq=record.seq,
            why="the request rebuilt from the journal is not the one that was sent",
        )
    return replace(
        conversation,
        call=event,
        calls=conversation.calls + 1,
        turns=conversation.turns + 1,
        called_at=record.at,
        called_with=event.tool,
        replied=False,
    )


def _batched(conversation: Conversation, event: ModelCallBatched, _: Record) -> Conversation:
    return replace(conversation, batched=event)


def breakpoints(conversation: Conversation) -> tuple[int, ...]:
    """Return at which messages the next request has a breakpoint for the prompt cache."""
    last = len(conversation.messages) - 1
    before = conversation.cached
    return (last,) if before is None or before.index == last else (before.index, last)


def _replied(conversation: Conversation, event: ModelCallSucceeded, record: Record) -> Conversation:
    stopped = event.stop_reason
    if stopped == EXCEEDED:
        return _overflowed(conversation, event)
    said = blocks(event.content) if stopped in _READ else []
    uses = [block for block in said if block.type == "tool_use"] if stopped == "tool_use" else []
    cached, missed = _cache(conversation, event)
    exceeded = _excess(conversation, event)
    unrefused = _before_refusal(conversation) if stopped == "refusal" else None
    summarises = _summarises(event.content)
    fruitless = 0 if summarises else _fruitless(conversation, event)
    if summarises:
        # The summary stands for everything before it, and has to be the first message.
        conversation, cached = _emptied(conversation), None
    cut = stopped in CUT
    said_so_far = _said(
        conversation,
        b"".join((b'{"role":"assistant","content":', event.content, b"}")),
        call=None,
        batched=None,
        failures=0,
        failure=None,
        overloads=0,
        unrefused=unrefused,
        stop_reason=stopped,
        replied=not uses,
        pending=tuple([Pending(use.id, use.name, use.input) for use in uses]),
        before=_kept(conversation, stopped, said),
        cuts=conversation.cuts + 1 if cut else 0,
        cached=cached,
        missed=missed,
        exceeded=exceeded,
        compacts=0,
        fruitless=fruitless,
        spent_nano=conversation.spent_nano + event.cost_nano,
        spent_tokens=conversation.spent_tokens + event.tokens,
        asked_by=Asked(
            call_id=event.call_id,
            at=conversation.called_at,
            tool=conversation.called_with,
            nano=event.cost_nano,
            model=conversation.spec.model,
        ),
        results_of=conversation.results_of if stopped in GOES_ON else "",
        **_extras(event.extra),
    )
    if _asks_servers(event):
        said_so_far = _brought(said_so_far, event, record.seq)
    if _asks_servers(event) and not summarises:
        return _searched(said_so_far, event, beyond=_is_beyond(conversation, event))
    metered = event.tokens < said_so_far.input_bound or _is_beyond(conversation, event)
    if metered and not summarises:
        # What was metered, the reply included, is all that the next prompt has before it, also
        # where it is more than the bytes said it could be.
        return replace(said_so_far, input_bound=event.tokens, measured=True, uncountable=False)
    return said_so_far


def _searched(
    conversation: Conversation, event: ModelCallSucceeded, *, beyond: bool
) -> Conversation:
    """Return the conversation after a reply that used server tools.

    What was metered is the sum of all its prompts, the last one included, and of nothing that a
    tool brought after it: a call of ours may stand beside, and the reply end there.
    """
    brought = [each for each in _EACH.decode(event.content) if _brings(each)]
    shown, known = media.bound(b"[%b]" % b",".join(map(bytes, brought)))
    bound = event.tokens + shown + sum(input_bound(bytes(each)) for each in brought)
    plain = conversation.input_bound + shown
    return replace(
        conversation,
        input_bound=bound if beyond else min(bound, plain),
        uncounted=not known,
        uncountable=False,
    )


def _brought(conversation: Conversation, event: ModelCallSucceeded, seq: int) -> Conversation:
    """Remember what tools brought that Anthropic runs."""
    uses: dict[str, Block] = {}
    for each in _EACH.decode(event.content):
        try:
            kind = _KIND.decode(each).type
            if kind == "server_tool_use":
                use = _BLOCK.decode(each)
                uses[use.id] = use
            if kind == "server_tool_use" or not _brings(each):
                continue
            answers = msgspec.json.decode(each, type=_Brought)
        except msgspec.DecodeError:
            continue  # it is carried as it came; what nobody can read is no evidence
        use = uses.get(answers.tool_use_id, Block("server_tool_use"))
        name = use.name or answers.type.removesuffix("_tool_result")
        # It is data that Claude has seen, and shown to whoever checks as that.
        content = Raw(_json(bytes(answers.content).decode()))
        found = Found(seq, name, use.input, content)
        conversation = replace(conversation, found=conversation.found.grown(found))
    return conversation


class _Brought(msgspec.Struct, gc=False):
    type: str
    tool_use_id: str = ""
    content: Raw = NULL


def _before_refusal(conversation: Conversation) -> Unrefused:
    return Unrefused(
        messages=conversation.messages,
        stop_reason=conversation.stop_reason,
        cuts=conversation.cuts,
        results_of=conversation.results_of,
        container=conversation.container,
        attached=conversation.attached,
    )


def _overflowed(conversation: Conversation, event: ModelCallSucceeded) -> Conversation:
    """Return the conversation after a reply that was cut off at the end of the context window.

    With it the next prompt would not fit, so it is paid for, and never a part of the conversation.
    """
    cached, missed = _cache(conversation, event)
    prompt, shown = _longest_prompt(event.usage), event.tokens
    if _is_summed(event):  # nobody knows which of the prompts met the end
        prompt, shown = conversation.input_bound, conversation.shown
    return replace(
        conversation,
        call=None,
        batched=None,
        failures=0,
        failure=None,
        stop_reason=EXCEEDED,
        stopped_before=conversation.stop_reason,
        replied=True,
        cached=cached,
        missed=missed,
        exceeded=_excess(conversation, event),
        input_bound=prompt,
        measured=True,
        uncountable=False,
        compacts=0,
        fruitless=_fruitless(conversation, event),
        shown=min(conversation.shown or shown, shown),
        spent_nano=conversation.spent_nano + event.cost_nano,
        spent_tokens=conversation.spent_tokens + event.tokens,
        asked_by=Asked(
            event.call_id, conversation.called_at, conversation.called_with, event.cost_nano
        ),
        **_extras(event.extra),
    )


def _fruitless(conversation: Conversation, event: ModelCallSucceeded) -> int:
    """Return how often in a row the API did not condense a prompt that was long enough."""
    asked = conversation.compacts
    failed = bool(asked) and _longest_prompt(event.usage) >= asked
    return conversation.fruitless + failed


def _cache(
    conversation: Conversation, event: ModelCallSucceeded
) -> tuple[Cached | None, Missed | None]:
    """Return what the prompt cache holds after a reply, and what of it was not found before."""
    if not conversation.spec.cache:
        return None, None
    before, at = conversation.cached, conversation.called_at
    tokens = event.cache_read + event.cache_written
    # Sums over several prompts, maybe of several models, say neither how much of ours was read nor
    # how much is kept: nothing is expected then, rather than what never was.
    summed = _is_summed(event)
    kept = 0 if summed else tokens
    after = Cached(len(conversation.messages) - 1, kept, at) if tokens else None
    # When and where a batch is processed is not said, so nothing can be expected of its calls.
    batch = conversation.call is not None and conversation.call.batch
    if before is None or summed or batch or event.cache_read >= before.tokens:
        return after, None
    missed = Missed(
        call_id=event.call_id,
        model=event.model or conversation.spec.model,
        cached=before,
        read=event.cache_read,
        written=event.cache_written,
        idle_ns=at - before.at,
    )
    return after, missed


def _excess(conversation: Conversation, event: ModelCallSucceeded) -> Exceeded | None:
    """Return what a call used beyond what its intent held, `None` where that was enough."""
    call = conversation.call
    if call is None:
        return None
    held = terms(conversation)
    bound = bound_within(call.hold_tokens, call.max_tokens, held)
    most = call.hold_tokens if held.loops else bound
    if event.tokens <= most and event.cost_nano <= call.hold_nano:
        return None  # nearly every reply, and without reading its usage
    # Of several prompts the longest counts, without what was written in the passes before it, and
    # all of them count against all that was held; those with what server tools brought only so.
    longest = 0 if held.loops else _longest_prompt(event.usage)
    longest -= (held.passes - 1) * call.max_tokens
    actual = max(longest, bound_within(event.tokens, call.max_tokens, held))
    if actual <= bound and event.cost_nano <= call.hold_nano:
        return None
    fees = search_fees(event.usage) - held.passes * held.fees_nano
    return Exceeded(
        call_id=event.call_id,
        plain=conversation.input_bound + FRAMING_TOKENS,
        bound=bound,
        actual=actual,
        over_nano=max(0, event.cost_nano - call.hold_nano),
        fees_nano=max(0, fees),
    )


def _is_beyond(conversation: Conversation, event: ModelCallSucceeded) -> bool:
    """Return whether a prompt was longer than its bytes allow, whatever factor it was held with."""
    plain = conversation.input_bound + FRAMING_TOKENS
    return event.tokens > plain and _longest_prompt(event.usage) > plain


def _longest_prompt(raw: Raw) -> int:
    longest, used = 0, usage(raw)
    for part in used.iterations or (used,):
        told = part.cache_creation
        split = (
            (told.ephemeral_5m_input_tokens or 0) + (told.ephemeral_1h_input_tokens or 0)
            if told is not None
            else 0
        )
        written = max(split, part.cache_creation_input_tokens or 0)
        prompt = part.input_tokens + (part.cache_read_input_tokens or 0) + written
        longest = max(longest, prompt)
    return longest


class _Iteration(msgspec.Struct, gc=False):
    type: Raw = NULL


class _Iterated(msgspec.Struct, gc=False):
    iterations: list[_Iteration] | None = None


_ITERATED: Final = msgspec.json.Decoder(_Iterated)


def _asks_servers(event: ModelCallSucceeded) -> bool:
    """Return whether a reply uses server tools, after which Claude was asked again for the rest."""
    return b'"server_tool_use"' in bytes(event.content)


def _is_summed(event: ModelCallSucceeded) -> bool:
    """Return whether the counts of a reply are of more prompts than the one that was sent."""
    if _asks_servers(event):
        return True
    if b'"iterations"' not in bytes(event.usage):
        return False
    kinds = [bytes(each.type) for each in _ITERATED.decode(event.usage).iterations or ()]
    return len(kinds) > 1 or kinds == [b'"compaction"']


def _miss_told(conversation: Conversation, event: CacheMissed, _: Record) -> Conversation:
    asked = conversation.asked_by
    if asked is not None:
        # What the cache cost is not counted again, should the call be one of a loop.
        asked = replace(asked, nano=max(0, asked.nano - event.extra_nano))
    return replace(conversation, missed=None, asked_by=asked)


def _excess_told(conversation: Conversation, _event: BoundExceeded, _: Record) -> Conversation:
    return replace(conversation, exceeded=None)


EXCEEDED: Final = "model_context_window_exceeded"
"""The stop reason of a reply that was cut off at the end of the context window."""

CUT: Final = frozenset({"max_tokens"})
"""Stop reasons of replies that were cut off, and can be gone on with."""

_PARTIAL: Final = CUT | {"pause_turn"}
"""Stop reasons of replies whose words are the beginning of an answer."""

_READ: Final = _PARTIAL | {"tool_use"}
"""Stop reasons whose replies are looked at before what follows them is known."""


def words(said: Sequence[Block]) -> str:
    """Return the text of a reply."""
    return "".join([block.text for block in said if block.type == "text"])


def _kept(conversation: Conversation, stopped: str | None, said: Sequence[Block]) -> str:
    # What was cut off or paused belongs to the answer that follows, but not to a call of a tool.
    if stopped in CUT and conversation.spec.answers == "format":
        return ""  # what follows is a whole one again
    if stopped in _PARTIAL:
        return conversation.before + words(said)
    return "" if stopped == "tool_use" else conversation.before


class _Container(msgspec.Struct, gc=False):
    id: str


class _Extra(msgspec.Struct, gc=False):
    stop_details: Raw = NULL
    container: _Container | None = None


_EXTRA: Final = msgspec.json.Decoder(_Extra)


def _extras(extra: Raw) -> dict[str, Any]:
    if bytes(extra) == b"{}":
        return {"stop_details": NULL}
    read = _EXTRA.decode(extra)
    changes: dict[str, Any] = {"stop_details": read.stop_details}
    if read.container is not None:
        changes["container"] = _json(read.container.id)
    return changes


class _Opening(msgspec.Struct, gc=False):
    type: str
    content: Raw = NULL


def _brings(block: Raw) -> bool:
    return msgspec.json.decode(block, type=_Opening).type.endswith("_tool_result")


def _summarises(content: Raw) -> bool:
    """Return whether a reply begins with a compaction; one without content failed, and is none."""
    if b'"compaction"' not in bytes(content):
        return False
    first = msgspec.json.decode(_EACH.decode(content)[0], type=_Opening)
    return first.type == "compaction" and first.content != NULL


def _emptied(conversation: Conversation) -> Conversation:
    fresh = opened(conversation.ask_id, conversation.spec)
    return replace(
        conversation,
        messages=fresh.messages,
        digest=fresh.digest,
        input_bound=fresh.input_bound,
        attached=(),
        uncounted=False,
        uncountable=False,
    )


def _ask_lost(
    conversation: Conversation, event: AskFailed | AskRejected, _: Record
) -> Conversation:
    return replace(conversation, failed=event.why, rejected=isinstance(event, AskRejected))


def _call_lost(
    conversation: Conversation, event: ModelCallFailed | ModelCallInDoubt, record: Record
) -> Conversation:
    # A crash says nothing about the API, so it neither counts as a failure nor makes anyone wait.
    crashed = event.kind == "crash"
    # By a probe everybody learns whether the API is back, so it is none of the run's own attempts.
    counts = not crashed and not (conversation.call is not None and conversation.call.probe)
    lost_nano = lost_tokens = 0
    if isinstance(event, ModelCallInDoubt):
        lost_nano, lost_tokens = event.cost_nano, event.tokens
    return replace(
        conversation,
        call=None,
        batched=None,
        turns=conversation.turns - isinstance(event, ModelCallFailed),
        spent_nano=conversation.spent_nano + lost_nano,
        spent_tokens=conversation.spent_tokens + lost_tokens,
        failures=conversation.failures + counts,
        overloads=_overloads(conversation, event),
        failure=conversation.failure
        if crashed
        else Failure(event.kind, event.message, event.retry_after_s, record.at),
    )


def _overloads(conversation: Conversation, event: ModelCallFailed | ModelCallInDoubt) -> int:
    if event.kind == "crash":
        return conversation.overloads
    return conversation.overloads + 1 if event.kind == "overloaded" else 0


def _switched(conversation: Conversation, event: ModelSwitched, _: Record) -> Conversation:
    return switched(conversation, event.model)


def _call_corrected(
    conversation: Conversation, event: ModelCallReconciled, _: Record
) -> Conversation:
    return replace(
        conversation,
        turns=conversation.turns - (not event.cost_nano),
        spent_nano=conversation.spent_nano - event.counted_nano + event.cost_nano,
        spent_tokens=conversation.spent_tokens - event.counted_tokens + event.tokens,
    )


def _tool_started(conversation: Conversation, event: ToolCallStarted, _: Record) -> Conversation:
    changes = {
        "call_id": event.call_id,
        "attempts": event.attempt,
        "effect": event.effect,
        "edited": event.arguments,
        "tries": event.source if event.probe else "",
        "rank": event.rank,
        "undoable": event.undoable,
    }
    return replace(
        conversation,
        pending=_changed(conversation, event.tool_use_id, changes),
        tool_calls=conversation.tool_calls + 1,
        tallies=_tallied(conversation, event),
    )


def _tallied(conversation: Conversation, event: ToolCallStarted) -> dict[str, Tally]:
    name = event.source or event.fallback or event.tool
    known = conversation.tallies.get(name, NO_CALLS)
    tried = _of(conversation, event.tool_use_id).tried
    again = any(one.rank == event.rank and one.kind != "crash" for one in tried)
    tally = Tally(known.calls + (not again), known.retries + again)
    return {**conversation.tallies, name: tally}


def _tool_succeeded(
    conversation: Conversation, event: ToolCallSucceeded, record: Record
) -> Conversation:
    one = _of(conversation, event.tool_use_id)
    if event.degraded is not None:
        degraded = (*conversation.degraded, (one.name, event.degraded))
        conversation = replace(conversation, degraded=degraded[-MOST_DEGRADED:])
    if one.undoable:
        conversation = _remembered(conversation, one, event, record.seq)
    conversation = _found(conversation, one, event, record.seq)
    return _tool_answered(conversation, event, b"")


def _found(
    conversation: Conversation,
    one: Pending,
    event: ToolCallSucceeded | ToolCallReconciled,
    seq: int,
) -> Conversation:
    """Remember what a tool returned, to check answers against it."""
    degraded = isinstance(event, ToolCallSucceeded) and event.degraded is not None
    arguments = one.arguments if one.edited == NULL else one.edited
    found = Found(seq, one.name, arguments, event.content, degraded)
    return replace(conversation, found=conversation.found.grown(found))


MOST_DEGRADED: Final = 100
"""So many of the answers that are degraded are kept at hand; all of them are in the journal."""


def _remembered(
    conversation: Conversation,
    one: Pending,
    event: ToolCallSucceeded | ToolCallReconciled,
    seq: int,
) -> Conversation:
    """Remember a call that can be taken back."""
    arguments = one.arguments if one.edited == NULL else one.edited
    done = Done(event.call_id, event.ask_id, one.name, one.rank, arguments, event.content, seq)
    return replace(conversation, done=(*conversation.done, done))


def _tool_failed(conversation: Conversation, event: ToolCallFailed, record: Record) -> Conversation:
    if event.content != NULL:
        conversation = _perhaps_done(conversation, event)
        return _tool_answered(conversation, event, _IS_ERROR)
    wait_s = event.retry_after_s or 0.0
    before = _of(conversation, event.tool_use_id)
    acted = before.effect != "read"
    failed = Try(event.rank, event.kind, event.error_class, record.at, wait_s, event.hint, acted)
    tried = (*before.tried, failed)
    changes = {"call_id": "", "tried": tried}
    return replace(conversation, pending=_changed(conversation, event.tool_use_id, changes))


def _tool_in_doubt(
    conversation: Conversation, event: ToolCallInDoubt, record: Record
) -> Conversation:
    before = _of(conversation, event.tool_use_id)
    if event.content != NULL:
        if before.undoable:
            conversation = replace(conversation, lost=(*conversation.lost, event.call_id))
        return _tool_answered(conversation, event, _IS_ERROR)
    acted = before.effect != "read"
    lost = Try(before.rank, event.kind, event.error_class, record.at, acted=acted)
    changes = {
        "call_id": "",
        "tried": (*before.tried, lost),
        "doubt": event.call_id if event.open else "",
    }
    return replace(conversation, pending=_changed(conversation, event.tool_use_id, changes))


def _tool_given_up(conversation: Conversation, event: ToolCallGivenUp, _: Record) -> Conversation:
    return _tool_answered(_perhaps_done(conversation, event), event, _IS_ERROR)


def _perhaps_done(
    conversation: Conversation, event: ToolCallFailed | ToolCallGivenUp
) -> Conversation:
    """Remember a call that could be taken back, and failed so that it may have happened."""
    one = _of(conversation, event.tool_use_id)
    failed = isinstance(event, ToolCallFailed) and event.error_class not in UNDONE
    if not one.undoable or (surely_not(one, one.rank) and not failed):
        return conversation
    return replace(conversation, lost=(*conversation.lost, event.call_id))


def _tool_reconciled(
    conversation: Conversation, event: ToolCallReconciled, record: Record
) -> Conversation:
    one = next((one for one in conversation.pending if one.doubt == event.call_id), None)
    if one is None:
        return conversation  # somebody was faster, and the first answer counts
    if event.outcome == "happened" and one.undoable:
        conversation = _remembered(conversation, one, event, record.seq)
    if event.outcome == "unknown":
        changes = {"call_id": "", "unsure": True}
        return replace(conversation, pending=_changed(conversation, event.tool_use_id, changes))
    has_result = event.outcome == "happened" and event.content != NULL
    if has_result:
        conversation = _found(conversation, one, event, record.seq)
    return _tool_answered(conversation, event, b"" if has_result else _IS_ERROR)


def _looked(conversation: Conversation, event: ReconcileStarted, _: Record) -> Conversation:
    changes = {"looked": event.attempt}
    return replace(conversation, pending=_changed(conversation, event.tool_use_id, changes))


def _of(conversation: Conversation, tool_use_id: str) -> Pending:
    """Return a tool use of the last reply."""
    return next(one for one in conversation.pending if one.tool_use_id == tool_use_id)


def _tool_answered(
    conversation: Conversation,
    event: ToolOver,
    error: bytes,
) -> Conversation:
    edited = next(
        (one.edited for one in conversation.pending if one.tool_use_id == event.tool_use_id), NULL
    )
    changes = {"call_id": "", "doubt": "", "result": _result(event, error, edited)}
    pending = _changed(conversation, event.tool_use_id, changes)
    results = [one.result for one in pending]
    if not all(results):
        return replace(conversation, pending=pending)
    # All results in one message, in the order Claude asked, whatever order they came in.
    message = b'{"role":"user","content":[%b]}' % b",".join(results)
    made, asked = conversation.made, conversation.asked_by
    # What was asked twice in one reply was asked once.
    for call in distinct([_made(one, asked) for one in pending]):
        made = remembered(made, call)
    names = "+".join(sorted({one.name for one in pending}))
    return _told_more(conversation, message, pending=(), made=made, results_of=names)


def _made(one: Pending, asked: Asked | None) -> Made:
    failed = one.result.endswith(_IS_ERROR + b"}")
    content = _content(one.result, one.tool_use_id)
    return Made(one.name, bytes(one.arguments), content, failed, asked)


def _content(result: bytes, tool_use_id: str) -> bytes:
    # What differs between two results of the same content is only whose they are.
    return result.replace(_json(tool_use_id), b"", 1)


def _looped(conversation: Conversation, event: LoopDetected, _: Record) -> Conversation:
    wasted = loops.wasted(conversation.made, len(event.calls), event.times)
    return replace(
        conversation,
        nudged=tuple(sorted(event.calls)),
        wasted=wasted,
        made=loops.counted(conversation.made, wasted),
    )


def _changed(
    conversation: Conversation, tool_use_id: str, changes: dict[str, Any]
) -> tuple[Pending, ...]:
    """Return the tool uses of the last reply, one of them changed."""
    return tuple(
        [
            replace(pending, **changes) if pending.tool_use_id == tool_use_id else pending
            for pending in conversation.pending
        ]
    )


ToolOver: TypeAlias = (
    ToolCallSucceeded | ToolCallFailed | ToolCallInDoubt | ToolCallReconciled | ToolCallGivenUp
)
"""What a call of a tool ends with."""

_RULES: Final[dict[type[Event], Callable[[Conversation, Any, Record], Conversation]]] = {
    MessageReceived: _received,
    FeedbackGiven: _told,
    ModelCallStarted: _called,
    ModelCallBatched: _batched,
    ModelCallSucceeded: _replied,
    ModelCallFailed: _call_lost,
    ModelCallInDoubt: _call_lost,
    ModelCallReconciled: _call_corrected,
    ModelSwitched: _switched,
    CacheMissed: _miss_told,
    BoundExceeded: _excess_told,
    TokensCounted: _counted,
    CompactionRequested: _to_be_condensed,
    ToolCallStarted: _tool_started,
    ToolCallSucceeded: _tool_succeeded,
    ToolCallFailed: _tool_failed,
    ToolCallInDoubt: _tool_in_doubt,
    ReconcileStarted: _looked,
    ToolCallReconciled: _tool_reconciled,
    ToolCallGivenUp: _tool_given_up,
    AskAnswered: _answered,
    AskFailed: _ask_lost,
    AskRejected: _ask_lost,
    AskResampled: _resampled,
    LoopDetected: _looped,
}
"""What each event makes of its conversation; every other one leaves it as it is."""

_IS_ERROR: Final = b',"is_error":true'


def _result(event: ToolOver, error: bytes, edited: Raw) -> bytes:
    content = _said_of(event)
    return b"".join(
        (
            b'{"type":"tool_result","tool_use_id":',
            _json(event.tool_use_id),
            b',"content":',
            content if edited == NULL else _told_of(edited, content),
            error,
            b"}",
        )
    )


def _said_of(event: ToolOver) -> bytes:
    """Return what the model gets: of a call that was in doubt, what was found out."""
    if not isinstance(event, ToolCallReconciled):
        return bytes(event.content)
    if event.outcome == "did_not":
        said = "This call was interrupted. It was found out that it did not happen."
    elif event.content == NULL:
        said = "This call was interrupted. It was found out that it happened; its result is lost."
    elif event.note.strip():
        return beside(bytes(event.content), after=event.note)
    else:
        return bytes(event.content)
    return _json(f"{said} {event.note}".strip())


def _told_of(edited: Raw, content: bytes) -> bytes:
    """Return a result that tells Claude with which arguments the call was made."""
    made = bytes(edited).decode()
    told = f"Before this call was made, a person changed its arguments to {made}"
    return beside(content, before=told)
