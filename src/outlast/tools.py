"""A function that Claude may call: its schema, what it does to the world, and how it is run.

The schema comes from the type hints and the docstring.  It is built on first use rather than at
decoration, because hints may name types that are defined further down, and because pydantic takes
a tenth of a second to import.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, update_wrapper
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
    overload,
)

import msgspec

from outlast.anthropic_tools import Client, check_client, client_tool
from outlast.durations import expiry
from outlast.errors import InvalidTool, UsageError
from outlast.events import Effect, ErrorClass
from outlast.sources import Degraded, LastGood

if TYPE_CHECKING:
    from pydantic import BaseModel

P = ParamSpec("P")
R = TypeVar("R")

MAX_RESULT_BYTES: Final = 64 * 1024
"""How long a result, or what was raised, may stand in an event; a longer one goes to a blob."""

MAX_RESULT_TOKENS: Final = 64 * 1024
"""How much of a result the model gets by default; the whole of a longer one goes to a blob."""

EXPIRES: Final = "7d"
"""For how long a person may allow something, unless it is said."""

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")

_SOURCE: Final = re.compile(r"[a-zA-Z0-9._-]{1,128}")


@dataclass(frozen=True, kw_only=True)
class ToolContext:
    """What a tool may know about the call it serves; a parameter annotated with it receives it.

    Attributes:
        run_id: the run.
        call_id: this attempt.
        idempotency_key: the same for every attempt of this call, also after a crash, and shared
            with no other call: hand it to whatever must not do the thing twice.
        attempt: 1 for the first attempt.
        deadline: seconds on the event loop's monotonic clock at which the call is given up;
            `None` without a timeout.
        tenant: the run's tenant, empty when it has none.
        deps: what the application gave `Outlast(deps=…)`.

    """

    run_id: str
    call_id: str
    idempotency_key: str
    attempt: int = 1
    deadline: float | None = None
    tenant: str = ""
    deps: Any = None
    spawn: Callable[[Any, Any], Awaitable[Any]] | None = field(default=None, repr=False)
    """Drives a child run to its answer, for the tools that are agents."""


class InvalidArguments(Exception):
    """Claude's arguments do not fit the schema; the message says where, for Claude."""


class Tool(Generic[P, R]):
    """A function declared as a tool.  Calling it calls the function.

    Attributes:
        name: what Claude calls it by: the function's name unless another was given.
        effect: `read`, `idempotent` or `once`.
        timeout_s: seconds after which a call is given up; `None` waits for ever.
        max_result_tokens: how much of a result the model gets.
        approval: which calls a person has to allow.
        approval_ns: for how long a person may, in nanoseconds; 0 is for ever.
        source: what it depends on; empty where it has no circuit breaker.
        attempts: how often it is called for one tool use, while its failures may pass.
        sources: itself and its fallbacks, in the order in which they are asked.
        retry_on: the classes of failures that are worth another attempt beside those that always
            are.
        empty_is_failure: whether an empty answer is none.
        reconcile: finds out what became of a call in doubt; `None` where a person has to.
        undo: takes back what a call did; `None` where nothing does.
        client: which of Anthropic's client tools it is, `None` for one of your own.
        agent: the agent that a call of it asks, in a run of its own; see `Agent.as_tool`.
        function: the function itself.
        is_hinted: whether its parameters need type hints.

    """

    is_hinted: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913  (all but one are keywords)
        self,
        function: Callable[P, R],
        *,
        effect: Effect,
        name: str | None = None,
        timeout_s: float | None = 60.0,
        max_result_tokens: int = MAX_RESULT_TOKENS,
        approval: Literal["always"] | Callable[..., bool] | None = None,
        approval_expires: float | str | timedelta | None = EXPIRES,
        source: str = "",
        attempts: int = 1,
        fallbacks: Sequence[Callable[..., Any] | LastGood] = (),
        retry_on: Iterable[ErrorClass] = (),
        empty_is_failure: bool = False,
        reconcile: Callable[..., Any] | None = None,
        undo: Callable[..., Any] | None = None,
        client: Client | None = None,
    ) -> None:
        # First, because it copies the function's own attributes, whatever their names.
        update_wrapper(self, function)
        self.function = function
        self.client = None if client is None else client_tool(client, name)
        named = self.client.name if self.client else name
        self.name: str = named or str(getattr(function, "__name__", ""))
        self.effect: Effect = effect
        self.timeout_s = timeout_s
        self.max_result_tokens = max_result_tokens
        self.approval = approval
        self.source = source
        try:
            self.approval_ns = expiry(approval_expires)
        except UsageError as error:
            raise InvalidTool(f"tool {self.name!r}: approval_expires: {error}") from error
        self.attempts = attempts
        self.retry_on: frozenset[str] = frozenset(retry_on)
        self.empty_is_failure = empty_is_failure
        self.reconcile = None if reconcile is None else helper(self, "reconcile", reconcile)
        self.undo = None if undo is None else helper(self, "undo", undo)
        self.agent: Any = None
        _check(self)
        self.sources = _sources(self, fallbacks)
        if len(self.sources) > 1 and not source:
            self.source = f"tool.{self.name}"  # one that keeps failing is not asked at all

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself: no intent, no journal."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self.name!r}, effect {self.effect!r}>"

    @cached_property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The tool as the API takes it: `name`, `description`, `input_schema`.

        One of Anthropic's client tools is a `type` and a `name`: Claude knows the rest.

        Raises:
            InvalidTool: a type hint cannot be resolved, or has no JSON schema.

        """
        return _schema(self)

    def arguments(self, raw: bytes) -> dict[str, Any]:
        """Return Claude's arguments as the keyword arguments of the function.

        Raises:
            InvalidArguments: they do not fit; the message tells Claude what was expected.

        """
        return _arguments(self, raw)

    def needs_approval(self, given: dict[str, Any]) -> bool:
        """Return whether a person has to allow a call with these arguments.

        A function that cannot tell, because it raises, is taken to say so.
        """
        if not callable(self.approval):
            return self.approval is not None
        try:
            return bool(self.approval(**deepcopy(given)))  # it decides about them, and no more
        except (Exception, SystemExit):  # noqa: BLE001  (unknown is never good)
            return True

    @property
    def recovers(self) -> bool:
        """Whether something is tried after a failure, before Claude is told."""
        return self.attempts > 1 or len(self.sources) > 1

    @cached_property
    def promised(self) -> Any:
        """What its result has to be; `None` where it does not say."""
        return _promised(self)

    def promised_by(self, rank: int) -> Any:
        """What the result of one of its sources has to be; one without a hint has the tool's."""
        source = self.sources[rank]
        if not isinstance(source, Tool):
            return None
        is_silent = isinstance(source, _Helper) and not _says(source)
        return self.promised if is_silent and source.effect == "read" else source.promised

    def takes(self, given: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return what of another tool's arguments it takes, and the names of those it does not."""
        names = self._parameters.fields.values()
        dropped = [name for name, value in given.items() if name not in names and value is not None]
        return {name: given[name] for name in names if name in given}, tuple(dropped)

    @property
    def context_parameter(self) -> str:
        """The parameter that takes the `ToolContext`; empty when there is none."""
        return self._parameters.context

    @cached_property
    def _parameters(self) -> Parameters:
        return _parameters(self)


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *,
    effect: Effect = ...,
    name: str | None = ...,
    timeout_s: float | None = ...,
    max_result_tokens: int = ...,
    approval: Literal["always"] | Callable[..., bool] | None = ...,
    approval_expires: float | str | timedelta | None = ...,
    source: str = ...,
    attempts: int = ...,
    fallbacks: Sequence[Callable[..., Any] | LastGood] = ...,
    retry_on: Iterable[ErrorClass] = ...,
    empty_is_failure: bool = ...,
    reconcile: Callable[..., Any] | None = ...,
    undo: Callable[..., Any] | None = ...,
    client: Client | None = ...,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(  # noqa: PLR0913  (all but one are keywords)
    function: Callable[P, R] | None = None,
    /,
    *,
    effect: Effect = "once",
    name: str | None = None,
    timeout_s: float | None = 60.0,
    max_result_tokens: int = MAX_RESULT_TOKENS,
    approval: Literal["always"] | Callable[..., bool] | None = None,
    approval_expires: float | str | timedelta | None = EXPIRES,
    source: str = "",
    attempts: int = 1,
    fallbacks: Sequence[Callable[..., Any] | LastGood] = (),
    retry_on: Iterable[ErrorClass] = (),
    empty_is_failure: bool = False,
    reconcile: Callable[..., Any] | None = None,
    undo: Callable[..., Any] | None = None,
    client: Client | None = None,
) -> Tool[P, R] | Callable[[Callable[P, R]], Tool[P, R]]:
    """Declare a function, sync or async, as a tool.

    Its parameters need type hints, its docstring tells Claude what it does (the part about a
    parameter goes to that parameter), and its result is given to Claude as text: a `str` as it is,
    anything else as JSON.  An `Image`, a `Document` or a `File`, alone or in lists and dicts, is
    shown to Claude as what it is, and so are the bytes of a PNG, JPEG, GIF, WebP or PDF.  What a
    `read` returns is checked against its type hint.  Raise `ToolError` to tell Claude what went
    wrong; of any other exception Claude only learns the class.

    Args:
        function: the function, when used as a bare `@outlast.tool`.
        effect: what the call does to the world, which decides what happens when the process dies
            in the middle of it.  `read` changes nothing: repeated, twice at most.  `idempotent`:
            repeated with the same `ToolContext.idempotency_key`.  `once` (the default, since it is
            the safe one): never repeated; where nobody knows whether it happened, `reconcile` finds
            out, or a person says so, and Claude is told only then.
        name: what Claude calls it by; default the function's name.
        timeout_s: seconds after which the call is given up, default 60; `None` waits for ever.
        max_result_tokens: how much of the text of a result Claude gets, default 65,536 tokens.
            They are counted as for a budget: at most one a byte of UTF-8.  Of a longer text Claude
            gets the beginning and the end, and is told how much is missing; where the context
            window has less room, it gets less.  The whole is kept in the journal.
        approval: which calls a person has to allow before they are made: `"always"`, or a function
            that is given the arguments by name and returns whether; none by default.  It is called
            where runs are driven, perhaps more than once, so it has to be quick.  The run
            waits without a process, and Claude is told of a denial.
        approval_expires: for how long a person may, as seconds, a `timedelta` or such as `"3d"`;
            default a week.  After that the call is denied.  `None` waits for ever.
        source: what it depends on, such as `"grants-db"`; several tools may depend on the same.
            While most calls of such tools find that it does not answer, none is made in any run of
            the store: those that Claude asks for wait, until a few have tried whether it does
            again; see `Breaker`.  That it does not answer say the timeout of the tool, and what
            HTTP clients and sockets raise where there is no connection, no reply in time, or a
            status of 500 or more; whatever else is raised is an answer.  Steps of flows do not
            wait.  A tool with fallbacks does not wait either: the next of them is asked at once.
            Default empty: nothing is counted, and nothing waits; with fallbacks it is the tool.
        attempts: how often it is called for one tool use while it fails in a way that may pass,
            default 1; Claude hears of the last one.  Between two there is a pause that doubles.
            As a step of a flow it is called once, and has no fallbacks.
        fallbacks: what is asked instead where it fails, in order: functions and tools that take
            some of the same arguments, or `LastGood(max_age=…)`.  What they give is `Degraded`,
            and told so; the arguments that one does not take are named.  A call that may have
            happened goes no further, unless it is a `read`.
        retry_on: further classes of failures worth another attempt, such as `"not_found"`; none of
            a tool that is `once`.
        empty_is_failure: whether an answer of `None`, or of an empty text, list or dict, also
            where it is given as its JSON, is a failure, as of a source that cannot be trusted to
            say that it is down; default false.
        reconcile: a function that finds out what became of a call in doubt of a `once` tool.  It
            takes any of the tool's arguments by name, and a `ToolContext`, and returns whether it
            happened, `Reconciled(…)`, or `None` where it cannot tell; then a person is asked.
        undo: a function that takes back what a call did, for `outlast cancel --undo`.  It takes
            any of the tool's arguments by name, the text of its `result`, and a `ToolContext`;
            it may be called again with the same key.
        client: which of Anthropic's own tools the function carries out: `"bash"`, `"text_editor"`
            or `"memory"`, the newest type of each, or a type such as `"text_editor_20250728"`, or
            that with options, as the API takes it: `{"type": "text_editor", "max_characters": 9}`.
            Claude knows it, so nothing is said of the docstring or the parameters; its name is
            Anthropic's.  Default none: a tool of your own.

    Raises:
        InvalidTool: a parameter has no type hint, or cannot be given by name; or something else
            that was declared cannot work.

    """

    def declare(function: Callable[P, R]) -> Tool[P, R]:
        return Tool(
            function,
            effect=effect,
            name=name,
            timeout_s=timeout_s,
            max_result_tokens=max_result_tokens,
            approval=approval,
            approval_expires=approval_expires,
            source=source,
            attempts=attempts,
            fallbacks=fallbacks,
            retry_on=retry_on,
            empty_is_failure=empty_is_failure,
            reconcile=reconcile,
            undo=undo,
            client=client,
        )

    return declare(function) if function is not None else declare


@dataclass(frozen=True)
class Parameters:
    """How arguments are checked: a pydantic model whose aliases are the parameters' names."""

    model: type[BaseModel]
    fields: dict[str, str] = field(default_factory=dict)
    """Field name to parameter name; pydantic reserves names that a parameter may well have."""
    context: str = ""
    """The parameter that takes the `ToolContext`; empty when there is none."""


def _check(declared: Tool[Any, Any]) -> None:
    if declared.effect not in get_args(Effect):
        raise InvalidTool(
            f"tool {declared.name!r}: effect is {declared.effect!r}, "
            f"but must be one of {', '.join(map(repr, get_args(Effect)))}"
        )
    if not _NAME.fullmatch(declared.name):
        raise InvalidTool(
            f"tool {declared.name!r}: Claude's tool names are 1 to 128 letters, digits, "
            "'_' or '-'; give one with @outlast.tool(name=…)"
        )
    if declared.timeout_s is not None and not declared.timeout_s > 0:
        raise InvalidTool(
            f"tool {declared.name!r}: timeout_s is {declared.timeout_s}, but must be above 0, "
            "or None to wait for ever"
        )
    if declared.approval not in ("always", None) and not callable(declared.approval):
        raise InvalidTool(
            f"tool {declared.name!r}: approval is {declared.approval!r}; give 'always', or a "
            "function of the tool's arguments that returns whether a person has to allow the call"
        )
    if inspect.iscoroutinefunction(declared.approval):
        raise InvalidTool(
            f"tool {declared.name!r}: approval is an async function; give a plain one, which is "
            "quick and looks at nothing but the arguments"
        )
    if declared.source != "" and not (
        isinstance(declared.source, str) and _SOURCE.fullmatch(declared.source)
    ):
        raise InvalidTool(
            f"tool {declared.name!r}: source is {declared.source!r}, but a source has 1 to 128 "
            "letters, digits, dots, hyphens and underscores"
        )
    if declared.max_result_tokens < 1:
        raise InvalidTool(
            f"tool {declared.name!r}: max_result_tokens is {declared.max_result_tokens}, "
            "but must be at least 1"
        )
    _check_recovery(declared)
    if inspect.isgeneratorfunction(declared.function) or inspect.isasyncgenfunction(
        declared.function
    ):
        raise InvalidTool(
            f"tool {declared.name!r}: its function is a generator, and a tool has one result; "
            "return a list"
        )
    parameters = inspect.signature(declared.function).parameters.values()
    for parameter in parameters:
        _check_parameter(declared, parameter)
    if declared.client is not None:
        check_client(declared.client, [one for one in parameters if not _is_context(one)])


MOST_ATTEMPTS: Final = 20


def _check_recovery(declared: Tool[Any, Any]) -> None:
    if (
        not isinstance(declared.attempts, int)
        or isinstance(declared.attempts, bool)
        or not 1 <= declared.attempts <= MOST_ATTEMPTS
    ):
        raise InvalidTool(
            f"tool {declared.name!r}: attempts is {declared.attempts!r}, but must be a whole "
            f"number from 1 to {MOST_ATTEMPTS}"
        )
    if unknown := sorted(declared.retry_on.difference(get_args(ErrorClass))):
        raise InvalidTool(
            f"tool {declared.name!r}: retry_on names {unknown[0]!r}; the classes of failures are "
            f"{', '.join(get_args(ErrorClass))}"
        )
    if declared.retry_on and declared.effect == "once":
        raise InvalidTool(
            f"tool {declared.name!r}: retry_on would repeat a call that may have happened; only "
            "what surely did not is repeated of a tool that is 'once'"
        )
    if declared.reconcile is not None and declared.effect != "once":
        raise InvalidTool(
            f"tool {declared.name!r}: reconcile is for tools that are 'once'; one that is "
            f"{declared.effect!r} is just repeated"
        )


def _sources(
    declared: Tool[Any, Any], fallbacks: Sequence[Callable[..., Any] | LastGood]
) -> tuple[Tool[Any, Any] | LastGood, ...]:
    """Return the tool and what is asked instead, each of them as a tool."""
    if callable(fallbacks) or isinstance(fallbacks, str | LastGood):
        raise InvalidTool(f"tool {declared.name!r}: fallbacks is {fallbacks!r}; give a list")
    found: list[Tool[Any, Any] | LastGood] = [declared]
    for one in fallbacks:
        if isinstance(one, LastGood):
            if declared.effect != "read":
                raise InvalidTool(
                    f"tool {declared.name!r}: LastGood is for tools that are 'read'; what one that "
                    f"is {declared.effect!r} did before is no answer to another call"
                )
            if one.max_age_ns < 0:
                raise InvalidTool(f"tool {declared.name!r}: max_age is below 0")
            found.append(one)
        elif isinstance(one, Tool):
            if len(one.sources) > 1:
                raise InvalidTool(
                    f"tool {declared.name!r}: its fallback {one.name!r} has fallbacks of its own; "
                    "name all of them here, in order"
                )
            found.append(one)
        elif one is LastGood:
            raise InvalidTool(
                f"tool {declared.name!r}: LastGood is a class; give LastGood(max_age=…)"
            )
        elif callable(one):
            name = _named(one, f"{declared.name[:100]}_fallback_{len(found)}")
            helped = _Helper(one, effect=declared.effect, name=name, timeout_s=declared.timeout_s)
            found.append(helped)
        else:
            raise InvalidTool(
                f"tool {declared.name!r}: {one!r} is no fallback; give a function, a tool, or "
                "LastGood(max_age=…)"
            )
    for one in found[1:]:
        if isinstance(one, Tool):
            _check_fallback(declared, one)
    return tuple(found)


def _check_fallback(declared: Tool[Any, Any], fallback: Tool[Any, Any]) -> None:
    """Refuse one that would be called without what it needs."""
    if fallback.approval is not None:
        raise InvalidTool(
            f"tool {declared.name!r}: its fallback {fallback.name!r} has approval=, and nobody is "
            "asked about a fallback; give approval= to the tool itself, or a fallback without it"
        )
    if fallback.agent is not None:
        raise InvalidTool(
            f"tool {declared.name!r}: its fallback {fallback.name!r} is an agent, which only "
            "Claude can ask; give it to the agent as a tool beside this one"
        )
    names = inspect.signature(declared.function).parameters
    for parameter in inspect.signature(fallback.function).parameters.values():
        needed = parameter.default is parameter.empty and not _is_context(parameter)
        if needed and parameter.name not in names:
            raise InvalidTool(
                f"tool {declared.name!r}: its fallback {fallback.name!r} needs "
                f"{parameter.name!r}, which is no argument of the tool; give it a default"
            )


def _is_context(parameter: inspect.Parameter) -> bool:
    hint = parameter.annotation
    if isinstance(hint, str):
        return "ToolContext" in hint
    return ToolContext in (hint, *get_args(hint))


class _Helper(Tool[P, R]):
    """A function that is called with what a tool was given, so it needs no type hints."""

    is_hinted = False


def _named(function: Callable[..., Any], otherwise: str) -> str:
    name = str(getattr(function, "__name__", ""))
    return name if _NAME.fullmatch(name) else otherwise


def helper(declared: Tool[Any, Any], what: str, function: Callable[..., Any]) -> Tool[Any, Any]:
    """Return a function that looks after the calls of a tool, as a tool itself.

    Raises:
        InvalidTool: it is none, or needs what nobody can give it.

    """
    if not callable(function):
        raise InvalidTool(f"tool {declared.name!r}: {what}={function!r} is no function")
    made = function
    if not isinstance(made, Tool):
        made = _Helper(function, effect="idempotent", name=_named(function, what))
    names = {*inspect.signature(declared.function).parameters, "result"}
    for parameter in inspect.signature(made.function).parameters.values():
        needed = parameter.default is parameter.empty and not _is_context(parameter)
        if needed and parameter.name not in names:
            raise InvalidTool(
                f"tool {declared.name!r}: {what} needs {parameter.name!r}, which is no argument "
                "of the tool; give it a default"
            )
    return made


def _says(declared: Tool[Any, Any]) -> bool:
    """Return whether a function says at all what it returns."""
    return "return" in getattr(inspect.unwrap(declared.function), "__annotations__", {})


def _promised(declared: Tool[Any, Any]) -> Any:
    """Return what checks a result against the hint of the function; `None` where that says nothing.

    Only of a `read`: what another tool did has happened, whatever it says of it.
    """
    if declared.effect != "read":
        return None
    try:
        hint = get_type_hints(inspect.unwrap(declared.function), include_extras=True).get("return")
    except Exception:  # noqa: BLE001  (a hint that cannot be resolved is none)
        return None
    kinds = _undegraded(hint)
    if not kinds or Any in kinds or (type(None) in kinds and len(kinds) == 1):
        return None
    # Where pydantic has no schema for a type, such as a TypedDict before Python 3.12, something is
    # still known of it: that it is a list, say.
    return _adapter(kinds) or _adapter([_loosely(kind) for kind in kinds])


def _adapter(kinds: list[Any]) -> Any:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter  # noqa: PLC0415  (heavy)

    kind: Any = Union[tuple(kinds)]  # noqa: UP007  (made of a list)
    try:
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:
        pass
    except Exception:  # noqa: BLE001  (a type that is nowhere to be found, say)
        return None
    try:
        return TypeAdapter(kind)
    except Exception:  # noqa: BLE001  (a type that pydantic has no schema for)
        return None


def _loosely(kind: Any) -> Any:
    """Return what is known of a type without what it holds."""
    return dict if is_typeddict(kind) else get_origin(kind) or kind


def _undegraded(hint: Any) -> list[Any]:
    """Return the types that an answer may have, without what says that it may be degraded."""
    if hint in (None, Any):
        return []
    if get_origin(hint) in (Union, UnionType):
        return [kind for one in get_args(hint) for kind in (_undegraded(one) or [one])]
    if hint is Degraded:
        return [Any]
    if get_origin(hint) is Degraded:
        return [get_args(hint)[0]]
    if get_origin(hint) in (Awaitable, Coroutine):
        return _undegraded(get_args(hint)[-1])  # what it comes to is what is returned
    return [hint]


def _check_parameter(declared: Tool[Any, Any], parameter: inspect.Parameter) -> None:
    name = declared.name
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise InvalidTool(
            f"tool {name!r}: parameter {parameter.name!r} cannot be given by name, which is how "
            "Claude gives arguments; declare each one, without *, ** or /"
        )
    if parameter.annotation is parameter.empty and declared.is_hinted:
        raise InvalidTool(
            f"tool {name!r}: parameter {parameter.name!r} has no type hint, so Claude cannot be "
            f"told what to give; write {parameter.name}: str, or whatever it takes"
        )


def _parameters(declared: Tool[Any, Any]) -> Parameters:
    if not declared.is_hinted:
        return _unhinted(declared)
    from pydantic import ConfigDict, create_model  # noqa: PLC0415  (a tenth of a second)

    hints = _hints(declared)
    described = _descriptions(declared)
    fields: dict[str, str] = {}
    definitions: dict[str, Any] = {}
    context = ""
    for number, parameter in enumerate(inspect.signature(declared.function).parameters.values()):
        hint = hints[parameter.name]
        if ToolContext in (hint, *get_args(hint)):
            context = parameter.name
            continue
        fields[f"p{number}"] = parameter.name
        definitions[f"p{number}"] = (hint, _field(parameter, described.get(parameter.name)))
    try:
        model = create_model(
            declared.name, __config__=ConfigDict(extra="forbid", strict=False), **definitions
        )
        model.model_json_schema()
    except Exception as error:
        why = str(error).partition(". ")[0]  # what follows is advice about pydantic
        raise InvalidTool(
            f"tool {declared.name!r}: a parameter's type has no JSON schema: {why}. Use str, bool, "
            "numbers, lists, dicts, Literal, Enum, dataclasses or pydantic models"
        ) from error
    return Parameters(model, fields, context)


def _unhinted(declared: Tool[Any, Any]) -> Parameters:
    """Return the parameters of a function that Claude does not call, whatever their hints."""
    from pydantic import BaseModel  # noqa: PLC0415  (a tenth of a second)

    parameters = inspect.signature(declared.function).parameters.values()
    context = next((one.name for one in parameters if _is_context(one)), "")
    names = {one.name: one.name for one in parameters if not _is_context(one)}
    return Parameters(BaseModel, names, context)


def _field(parameter: inspect.Parameter, description: str | None) -> Any:
    from pydantic import Field  # noqa: PLC0415  (a tenth of a second)

    default = ... if parameter.default is parameter.empty else parameter.default
    if description is None:  # given as None, it would hide the one in an Annotated hint
        return Field(default, alias=parameter.name)
    return Field(default, alias=parameter.name, description=description)


def _hints(declared: Tool[Any, Any]) -> dict[str, Any]:
    def bare() -> None:
        """Carry the hints of the parameters only: what comes back may be of any type."""

    parameters = inspect.signature(declared.function).parameters.values()
    bare.__annotations__ = {
        parameter.name: Any if parameter.annotation is parameter.empty else parameter.annotation
        for parameter in parameters
    }
    names = getattr(inspect.unwrap(declared.function), "__globals__", {})
    try:
        return get_type_hints(bare, globalns=names, include_extras=True)
    except Exception as error:
        raise InvalidTool(
            f"tool {declared.name!r}: a type hint cannot be resolved: {error}; "
            "the types of a tool's parameters must be importable from its module"
        ) from error


def _schema(declared: Tool[Any, Any]) -> dict[str, Any]:
    schema = _untitled(declared._parameters.model.model_json_schema(by_alias=True))  # noqa: SLF001
    if declared.client is not None:
        return declared.client.schema
    schema.pop("description", None)
    summary = _documentation(declared)
    return {
        "name": declared.name,
        **({"description": summary} if summary else {}),
        "input_schema": schema,
    }


def _documentation(declared: Tool[Any, Any]) -> str:
    parsed = _docstring(declared)
    return "\n\n".join(filter(None, (parsed.short_description, parsed.long_description)))


def _descriptions(declared: Tool[Any, Any]) -> dict[str, str]:
    return {p.arg_name: p.description for p in _docstring(declared).params if p.description}


def _docstring(declared: Tool[Any, Any]) -> Any:
    from docstring_parser import parse  # noqa: PLC0415  (not needed to import outlast)

    return parse(inspect.getdoc(declared.function) or "")


def _untitled(schema: Any) -> Any:
    """Drop the titles pydantic makes of names: tokens that tell Claude nothing."""
    if isinstance(schema, list):
        return [_untitled(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _untitled_member(key, value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


def _untitled_member(key: str, value: Any) -> Any:
    if key in ("default", "const", "enum", "examples"):
        return value  # the user's own values, which may have a title of their own
    if key in ("properties", "$defs"):
        return {name: _untitled(item) for name, item in value.items()}
    return _untitled(value)


def _arguments(declared: Tool[Any, Any], raw: bytes) -> dict[str, Any]:
    # Whatever goes wrong here must become an answer for Claude: `decide` checks the arguments, so
    # any other exception would meet every driver of the run anew.
    parameters = declared._parameters  # noqa: SLF001
    given = decoded(declared.name, raw)
    try:
        checked = parameters.model.model_validate(given)
    except Exception as error:
        raise InvalidArguments(complaint(declared.name, _wrong(error))) from error
    return {name: getattr(checked, key) for key, name in parameters.fields.items()}


def decoded(name: str, raw: bytes) -> dict[str, Any]:
    """Return Claude's arguments of a tool as the JSON object that they have to be.

    Raises:
        InvalidArguments: they are none.

    """
    try:
        given = msgspec.json.decode(raw)
    except (ValueError, RecursionError) as error:
        lines = [f"- they cannot be read as JSON: {error}"]
        raise InvalidArguments(complaint(name, lines)) from None
    if not isinstance(given, dict):
        lines = ["- they must be a JSON object, with a member for each argument"]
        raise InvalidArguments(complaint(name, lines))
    return given


def _wrong(error: Exception) -> list[str]:
    from pydantic import ValidationError  # noqa: PLC0415  (loaded by now)

    if isinstance(error, ValidationError):
        return [_line(wrong) for wrong in error.errors(include_url=False, include_input=False)]
    return [f"- checking them failed with {type(error).__name__}"]  # a validator of the user's own


def _line(wrong: Any) -> str:
    place = ".".join(map(str, wrong["loc"])) or "arguments"
    return f"- {place}: {wrong['msg']}"


def complaint(name: str, lines: list[str]) -> str:
    """Return what Claude is told of arguments that do not fit, with a line for each fault."""
    # The first few say it; a list of thousands with a wrong type would only cost tokens.
    said = lines[:20] if len(lines) <= 20 else [*lines[:20], f"- and {len(lines) - 20} more"]
    return f"The arguments do not fit {name}, so it was not called:\n" + "\n".join(said)
