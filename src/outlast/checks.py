"""What decides whether an answer may be believed: checks, and what they find.

    answer ──▶ schema ──▶ every check function ──▶ judges, one after the other ──▶ accepted
                 └────────────┴─────────────────────────┴──▶ repaired, rejected, or for a person

A check is a function of the answer; what it returns becomes a verdict, which is one of five.
Whatever a check does that it should not, such as to raise, is no verdict: `unverified`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, update_wrapper
from hashlib import sha256
from types import NoneType, UnionType
from typing import Any, Final, Generic, ParamSpec, TypeVar, Union, get_args, get_origin, overload

from outlast.errors import InvalidAgent
from outlast.events import Issue, OnUnjudged, VerdictKind

P = ParamSpec("P")
R = TypeVar("R")

MOST_ISSUES: Final = 50
"""So many issues of one verdict are kept; how many more there were is said."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a tool returned in the run.

    Attributes:
        tool: its name.
        arguments: what it was called with.
        text: what Claude got of the result, as text; images and documents are left out.
        value: the same as data, where it is JSON; otherwise the text.
        seq: where it stands in the run's journal.
        degraded: whether it is less than what was asked for.

    """

    tool: str
    text: str
    value: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    seq: int = 0
    degraded: bool = False


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What there is to check an answer against; a parameter annotated with it receives it.

    Attributes:
        task: what was asked, as text.
        findings: what tools returned in the run, the first one first; failures are none.
        attempt: 1 for the first answer to this question.
        run_id: the run.
        tenant: the run's tenant, empty when it has none.
        deps: what the application gave `Outlast(deps=…)`.

    """

    task: str = ""
    findings: tuple[Finding, ...] = ()
    attempt: int = 1
    run_id: str = ""
    tenant: str = ""
    deps: Any = None


@dataclass(frozen=True)
class Verdict:
    """What a check found.  A check may return one where a list of issues does not say it.

    Attributes:
        kind: `passed`; `fixable`, which the model is told of; `terminal`, which no other answer
            would mend; `unverified`, where nobody can tell; or `needs_person`.
        issues: what is wrong.
        why: what there is to say beside.

    """

    kind: VerdictKind
    issues: tuple[Issue, ...] = ()
    why: str = ""

    @classmethod
    def passed(cls) -> Verdict:
        """Return that nothing is wrong."""
        return cls("passed")

    @classmethod
    def fixable(cls, *issues: Issue | str) -> Verdict:
        """Return what is wrong, and could be mended."""
        return cls("fixable", _issues(issues))

    @classmethod
    def terminal(cls, *issues: Issue | str) -> Verdict:
        """Return what is wrong, and no other answer would mend."""
        return cls("terminal", _issues(issues))

    @classmethod
    def unverified(cls, why: str) -> Verdict:
        """Return that nobody can tell."""
        return cls("unverified", why=why)

    @classmethod
    def needs_person(cls, why: str) -> Verdict:
        """Return that a person has to decide."""
        return cls("needs_person", why=why)


def _issues(given: Iterable[Issue | str]) -> tuple[Issue, ...]:
    return tuple(one if isinstance(one, Issue) else Issue(one) for one in given)


class Check(Generic[P, R]):
    """A function declared as a check.  Calling it calls the function.

    Attributes:
        name: what its verdicts are called by.
        timeout_s: seconds after which it is given up, and nobody can tell; `None` waits for ever.
        on_unverified: what happens to an answer of which it cannot tell.
        function: the function itself.

    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        timeout_s: float | None = 60.0,
        on_unverified: OnUnjudged = "reject",
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", ""))
        self.timeout_s = timeout_s
        self.on_unverified: OnUnjudged = on_unverified
        _check(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<check {self.name!r}>"

    @cached_property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def version(self) -> str:
        """What changes with the code of the function: 12 hex digits of a SHA-256."""
        plain = inspect.unwrap(self.function)
        place = f"{getattr(plain, '__module__', '')}:{getattr(plain, '__qualname__', '')}"
        try:
            source = inspect.getsource(plain)
        except (OSError, TypeError):
            source = ""
        return sha256(f"{place}\n{source}\n{self.settings}".encode()).hexdigest()[:12]

    @property
    def settings(self) -> str:
        """What else it depends on, beside its code."""
        return ""

    def arguments(self, answer: Any, evidence: Evidence) -> tuple[list[Any], dict[str, Any]]:
        """Return what the function is called with."""
        return [answer], ({self._evidence: _own(evidence)} if self._evidence else {})

    @cached_property
    def _evidence(self) -> str:
        parameters = inspect.signature(self.function).parameters.values()
        return next((one.name for one in parameters if _is_evidence(one)), "")

    @cached_property
    def may_say_nothing(self) -> bool:
        """Whether `None` is one of the things that it says, so that nothing is wrong then."""
        hint = getattr(inspect.unwrap(self.function), "__annotations__", {}).get("return")
        if isinstance(hint, str):
            parts = [part.strip() for part in hint.split("|")]
            return ("None" in parts and len(parts) > 1) or hint.startswith(
                ("Optional[", "typing.Optional[")
            )
        return get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)


def _own(evidence: Evidence) -> Evidence:
    """Return evidence for one check: what that makes of it, no other check may see."""
    findings = [
        replace(one, value=deepcopy(one.value), arguments=deepcopy(one.arguments))
        for one in evidence.findings
    ]
    return replace(evidence, findings=tuple(findings))


def _is_evidence(parameter: inspect.Parameter) -> bool:
    hint = parameter.annotation
    if isinstance(hint, str):
        return hint.rpartition(".")[2] == "Evidence"
    return hint is Evidence


def _check(declared: Check[Any, Any]) -> None:
    name = declared.name
    if not name or len(name) > 128 or not name.isprintable():
        raise InvalidAgent(f"check {name!r}: a name is 1 to 128 characters; give name=…")
    if declared.timeout_s is not None and not declared.timeout_s > 0:
        raise InvalidAgent(
            f"check {name!r}: timeout_s is {declared.timeout_s!r}, but must be above 0, or None "
            "for no limit"
        )
    if declared.on_unverified not in get_args(OnUnjudged):
        raise InvalidAgent(
            f"check {name!r}: on_unverified is {declared.on_unverified!r}; give 'reject', "
            "'escalate' or 'accept'"
        )
    needed = [
        one.name
        for one in inspect.signature(declared.function).parameters.values()
        if one.default is one.empty
        and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        and not _is_evidence(one)
    ]
    if len(needed) != 1:
        raise InvalidAgent(
            f"check {name!r}: it is called with the answer, and with an outlast.Evidence where a "
            f"parameter is annotated so; it needs {', '.join(needed) or 'nothing'}"
        )


@overload
def check(function: Callable[P, R], /) -> Check[P, R]: ...
@overload
def check(
    *, name: str | None = ..., timeout_s: float | None = ..., on_unverified: OnUnjudged = ...
) -> Callable[[Callable[P, R]], Check[P, R]]: ...
def check(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    timeout_s: float | None = 60.0,
    on_unverified: OnUnjudged = "reject",
) -> Check[P, R] | Callable[[Callable[P, R]], Check[P, R]]:
    """Declare a function, sync or async, as a check of answers.

    It is called with the answer: an object of the agent's `answer=` type, or the text; and with an
    `Evidence` where a parameter is annotated so.  It returns what is wrong: a list of texts or
    `Issue`s, empty where nothing is; or one of them; or whether the answer is right; or a
    `Verdict`.  `None` says nothing, so nobody can tell then, unless the function's hint has it,
    as `str | None`.  Where it raises, or takes too long, nobody can tell either.

    It changes nothing in the world: after a crash it may be called again.

    Args:
        function: the function, when used as a bare `@outlast.check`.
        name: what its verdicts are called by; default the function's name.
        timeout_s: seconds after which it is given up, default 60; `None` waits for ever.
        on_unverified: what happens to an answer of which it cannot tell: `reject` (the default),
            `escalate` to a person, or `accept`, which marks the answer as degraded.

    Raises:
        InvalidAgent: the declaration cannot work.

    """

    def declared(plain: Callable[P, R]) -> Check[P, R]:
        return Check(plain, name=name, timeout_s=timeout_s, on_unverified=on_unverified)

    return declared if function is None else declared(function)


def verdict_of(  # noqa: PLR0911  (a row per kind of thing)
    declared: Check[..., Any], came: Any
) -> Verdict:
    """Return the verdict that lies in what a check returned."""
    match came:
        case Verdict():
            return _checked(declared, came)
        case bool():
            said = Issue(_own_words(declared), rule=declared.name)
            return Verdict.passed() if came else Verdict.fixable(said)
        case None:
            if declared.may_say_nothing:
                return Verdict.passed()
            told = "it returned None, which says nothing; return [] where nothing is wrong"
            return Verdict.unverified(told)
        case str() | Issue():
            return _found(declared, [came])
        case Sequence() | set() | frozenset() | Iterable() if not isinstance(came, bytes | dict):
            return _found(declared, list(came))
    told = f"it returned a {type(came).__name__}, which is no list of what is wrong"
    return Verdict.unverified(told)


def _found(declared: Check[..., Any], came: Sequence[Any]) -> Verdict:
    if strange := [one for one in came if not isinstance(one, str | Issue)]:
        told = f"it returned a {type(strange[0]).__name__} among what is wrong"
        return Verdict.unverified(told)
    said = [one for one in came if isinstance(one, Issue) or one.strip()]
    if len(said) < len(came):
        return Verdict.unverified("it returned an empty text among what is wrong")
    return Verdict("fixable", _named(declared, said)) if said else Verdict.passed()


def _checked(declared: Check[..., Any], verdict: Verdict) -> Verdict:
    if verdict.kind not in get_args(VerdictKind):
        return Verdict.unverified(f"it returned a verdict of kind {verdict.kind!r}")
    if verdict.kind == "passed" and verdict.issues:
        return Verdict.unverified("it returned that the answer passed, and issues")
    issues = _named(declared, verdict.issues)
    if verdict.kind in ("fixable", "terminal") and not issues:
        issues = (Issue(verdict.why or _own_words(declared), rule=declared.name),)
    return Verdict(verdict.kind, issues, verdict.why)


def _named(declared: Check[..., Any], came: Iterable[str | Issue]) -> tuple[Issue, ...]:
    """Return issues, each with the rule that it breaks."""
    return tuple(
        Issue(
            one.message,
            path=one.path,
            rule=one.rule or declared.name,
            got=one.got,
            expected=one.expected,
        )
        if isinstance(one, Issue)
        else Issue(one, rule=declared.name)
        for one in came
    )


def _own_words(declared: Check[..., Any]) -> str:
    """Return what a check says of itself, for answers of which it only says no."""
    first = (inspect.getdoc(declared.function) or "").strip().partition("\n")[0]
    return first or f"{declared.name} does not hold"
