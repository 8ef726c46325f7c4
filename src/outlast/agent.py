"""What a user declares: an agent, its budget, its tools; immutable, and checked when declared."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast.answers import TOOL, AnswerType, structured
from outlast.anthropic_tools import COUNTED, ServerTool
from outlast.budget import Limits, amount
from outlast.checks import Check
from outlast.durations import expiry
from outlast.errors import InvalidAgent, ToolError, UnknownModel, UsageError
from outlast.events import Spec
from outlast.judges import Judge
from outlast.prices import (
    NANO,
    PLAIN,
    Terms,
    check_priced,
    context_window,
    terms_of,
    undated,
    worst_case,
)
from outlast.tools import EXPIRES, Tool, ToolContext

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


_LEAST: Final = Decimal("1e-9")
_NONE: Final = Decimal(-1)


def dollars(usd: Decimal | float | str) -> Decimal:
    """Return an amount as it was written; below 0 where it is none."""
    if isinstance(usd, bool) or not isinstance(usd, Decimal | float | int | str):
        return _NONE
    try:
        amount = Decimal(str(usd))
    except (InvalidOperation, ValueError):
        return _NONE
    return amount if amount.is_finite() and amount < 10**9 else _NONE


def _is_count(value: object) -> bool:
    # True is an int, but is written as `true`, which no journal is read with.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_seconds(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf  # type: ignore[operator]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a run may use; `None`, the default of each, sets no limit.

    Before a call is made its worst case is held: an upper bound of its prompt and all of its output
    tokens at the dearest price that can apply.  A call shrinks to what fits, down to the agent's
    `min_tokens`; what fits no more stops the run.  What may have been billed counts as spent.

    Attributes:
        usd: US dollars, as a number or a string such as `"0.50"`.
        tokens: of prompts and replies together.
        turns: calls of the model.
        tool_calls: calls of tools, repeated ones included.

    """

    usd: Decimal | float | str | None = None
    tokens: int | None = None
    turns: int | None = None
    tool_calls: int | None = None

    @cached_property
    def limits(self) -> Limits:
        """The same in whole nano-dollars."""
        nano = None if self.usd is None else int(dollars(self.usd) * NANO)
        return Limits(turns=self.turns, tokens=self.tokens, nano=nano, tool_calls=self.tool_calls)

    def __post_init__(self) -> None:
        """Refuse what could only be a mistake."""
        if self.usd is not None and dollars(self.usd) < _LEAST:
            raise InvalidAgent(
                f"Budget(usd={self.usd!r}): a budget is an amount of US dollars above 0, "
                "or None for no limit"
            )
        for name in ("tokens", "turns", "tool_calls"):
            if (number := getattr(self, name)) is not None and not _is_count(number):
                raise InvalidAgent(
                    f"Budget({name}={number!r}): a budget is a whole number of at least 1, "
                    "or None for no limit"
                )


def no_budget(budget: object) -> str:
    """Return why something is no budget, and what to give instead; empty where it is one."""
    if isinstance(budget, Budget):
        return ""
    usd = budget if isinstance(budget, str | float | int) and dollars(budget) >= _LEAST else 0.5
    return (
        f"budget is {budget!r}, but must be a Budget; give outlast.Budget(usd={usd!r}), or leave "
        "it out"
    )


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """The most that a run can cost.

    Attributes:
        nano: nano-dollars; `None` where nothing limits it.
        why: what limits it, in words.

    """

    nano: int | None
    why: str

    @property
    def usd(self) -> Decimal | None:
        """The same in US dollars."""
        return None if self.nano is None else Decimal(self.nano) / NANO

    def __str__(self) -> str:
        """Say it in a sentence."""
        if self.nano is None:
            return f"Nothing limits what this can cost: {self.why}."
        return f"This can cost {amount('nano', self.nano)} at most: {self.why}."


@dataclass(frozen=True)
class Agent:
    """An agent: who it is, what the model sees of it, and what it may use.

    Attributes:
        name: 1 to 128 letters, digits, `.`, `_` or `-`; it names the agent in the journal.
        model: the model's id, such as `claude-opus-5-5`.
        fallback_models: the models that are asked instead, in order, where `model` stays overloaded
            or refuses to answer; default none.
        instructions: the system prompt; may be empty.
        tools: what Claude may call, those that Anthropic runs (`server_tool`) among them; no two of
            one name.
        budget: default `Budget(turns=50)`, so that nothing runs for ever.
        max_tokens: output tokens of one call at most, default 8192.
        min_tokens: output tokens below which a budget that runs out makes no call, default 1024;
            or `max_tokens`, where that is less.
        stops_loops: whether a run is stopped when Claude calls the same tools again and again, and
            nothing new comes back; it is told so first.  Default true.
        call_timeout_s: seconds that one attempt at a call of Claude may take in all, however much
            comes meanwhile, default 600; one that is not over by then counts as spent, and Claude
            is asked again.  `None` is no limit.  Calls in a batch have none.
        cache: how long the prompt cache is to keep a conversation between two requests: `"5m"` (the
            default), `"1h"`, which costs more to write, or `None` for none.
        parameters: further members of every request, such as `{"thinking": {"type": "adaptive"}}`.
        answer: the type that an answer has to have, default `str`, the text of the reply.  Any
            other one is given as JSON of its schema, and read by pydantic.
        checks: what an answer has to pass before it is one: functions (see `check`), which all run,
            and then judges (see `Judge`), the cheapest first.  Default none.
        answer_attempts: how many answers to one question are checked at most, default 3.
        retry: how another answer is asked for: `"repair"` (the default) tells Claude what is wrong
            in the same conversation; `"resample"` asks again without the answer that was wrong,
            with what was wrong of it and what the tools returned.
        last_resort: what happens when no answer was accepted: `"reject"` (the default) ends the run
            `rejected`, without an answer; `"escalate"` has a person decide; `"degrade"` takes the
            last one, and marks it as degraded.
        answer_expires: for how long a person may decide, as seconds, a `timedelta` or such as
            `"3d"`; default a week.  After that the answer is denied.  `None` waits for ever.

    Raises:
        InvalidAgent: the declaration cannot work; the message says why.

    """

    name: str
    model: str = field(kw_only=True)
    fallback_models: Sequence[str] = field(default=(), kw_only=True)
    instructions: str = field(default="", kw_only=True)
    tools: Sequence[Tool[..., Any] | ServerTool] = field(default=(), kw_only=True)
    budget: Budget = field(default=Budget(turns=50), kw_only=True)
    max_tokens: int = field(default=8192, kw_only=True)
    min_tokens: int = field(default=1024, kw_only=True)
    stops_loops: bool = field(default=True, kw_only=True)
    call_timeout_s: float | None = field(default=600.0, kw_only=True)
    cache: Literal["5m", "1h"] | None = field(default="5m", kw_only=True)
    parameters: dict[str, Any] = field(default_factory=dict, kw_only=True)
    answer: Any = field(default=str, kw_only=True)
    checks: Sequence[Check[..., Any] | Judge | Callable[..., Any]] = field(default=(), kw_only=True)
    answer_attempts: int = field(default=3, kw_only=True)
    retry: Literal["repair", "resample"] = field(default="repair", kw_only=True)
    last_resort: Literal["reject", "escalate", "degrade"] = field(default="reject", kw_only=True)
    answer_expires: float | str | timedelta | None = field(default=EXPIRES, kw_only=True)
    declared_in: str = field(default="", kw_only=True, repr=False, compare=False)
    """The module it is declared in: found out by itself, and where a resume looks for it."""

    def __post_init__(self) -> None:
        """Check the declaration; a list of tools becomes a tuple."""
        if not isinstance(self.tools, Iterable):
            raise InvalidAgent(
                f"agent {self.name!r}: tools is {self.tools!r}; give a list of tools"
            )
        object.__setattr__(self, "tools", tuple(self.tools))
        if isinstance(self.fallback_models, Sequence) and not isinstance(self.fallback_models, str):
            object.__setattr__(self, "fallback_models", tuple(self.fallback_models))
        object.__setattr__(self, "checks", _declared_checks(self.name, self.checks))
        if not self.declared_in:
            # Two frames up: past the generated __init__, to whoever wrote Agent(…).
            declared_in = sys._getframe(2).f_globals.get("__name__", "")  # noqa: SLF001
            object.__setattr__(self, "declared_in", declared_in)
        _check(self)

    def tool(self, name: str) -> Tool[..., Any] | None:
        """Return the tool of that name, `None` when the agent has none, or Anthropic runs it."""
        for declared in self.functions:
            if declared.name == name:
                return declared
        return None

    @cached_property
    def functions(self) -> tuple[Tool[..., Any], ...]:
        """The tools that are called here: all but those that Anthropic runs."""
        return tuple(tool for tool in self.tools if isinstance(tool, Tool))

    @cached_property
    def answers(self) -> AnswerType | None:
        """The type of its answers; `None` where they are text."""
        return None if self.answer is str else AnswerType(self.answer, agent=self.name)

    @cached_property
    def rules(self) -> tuple[Check[..., Any], ...]:
        """The checks that are functions, in the order in which they are declared."""
        return tuple(one for one in self.checks if isinstance(one, Check))

    @cached_property
    def judges(self) -> tuple[Judge, ...]:
        """The checks that are judges, the one whose calls can cost least first."""
        found = [one for one in self.checks if isinstance(one, Judge)]
        return tuple(sorted(found, key=self._judging))

    def _judging(self, judge: Judge) -> int:
        """Return what the calls of a judge cost at most, its evidence at its longest."""
        try:
            prompt = judge.max_evidence_tokens
            each = worst_case(judge.model_for(self.model), prompt, judge.max_tokens)
        except UnknownModel:  # said where the run is begun
            return 0
        return judge.votes * each

    @cached_property
    def is_checked(self) -> bool:
        """Whether its answers are checked before they are answers."""
        return self.answers is not None or bool(self.checks)

    @cached_property
    def answer_ns(self) -> int:
        """For how long a person may decide on an answer, in nanoseconds; 0 is for ever."""
        return expiry(self.answer_expires)

    def asker(self, judge: Judge) -> Agent:
        """Return who asks for the votes of a judge."""
        return self._askers[judge.name]

    @cached_property
    def _askers(self) -> dict[str, Agent]:
        return {
            judge.name: Agent(
                "judge",
                model=judge.model_for(self.model),
                budget=judge.budget or Budget(),
                max_tokens=judge.max_tokens,
                min_tokens=judge.max_tokens,
                stops_loops=False,
                call_timeout_s=judge.timeout_s,
                cache=None,
                declared_in="outlast.agent",
            )
            for judge in self.judges
        }

    def as_tool(self, *, name: str | None = None, description: str | None = None) -> Tool[..., Any]:
        """Return a tool by which another agent asks this one.

        Each call is a run of its own, a child of the run that makes it: with its own journal, its
        own budget of turns, and the same again after a crash.

        Args:
            name: what Claude calls the tool by; by default `ask_` and the agent's name.
            description: what Claude is told of it; by default that it asks this agent.

        """
        told = description or f"Ask {self.name}, an agent of its own, and get its answer."
        named = name or "ask_" + re.sub(r"[^a-zA-Z0-9_-]", "_", self.name)

        def ask(question: str, context: ToolContext) -> Any:
            if context.spawn is None:
                raise ToolError(f"{named} can only be called by an agent")
            return context.spawn(self, question)  # a coroutine: whoever calls tools awaits it

        ask.__doc__ = f"{told}\n\nArgs:\n    question: everything it needs to know.\n"
        ask.__qualname__ = f"{self.name}.as_tool"
        tool = Tool(ask, effect="idempotent", name=named, timeout_s=None)
        tool.agent = self
        return tool

    def worst_case(self) -> WorstCase:
        """Return the most that a run of this agent can cost, whatever Claude does.

        It is the least that its budget allows: its dollars; its tokens, each at the dearest price;
        or its turns, each with a context window that is full, once more for each use of a server
        tool, and with its fees.  Agents that it asks pay from its dollars and its tokens, and have
        turns of their own.

        Raises:
            UnknownModel: one of its models, or of an agent that it asks, has no price.

        """
        return min(self._worst_cases(), key=lambda case: (case.nano is None, case.nano))

    def _worst_cases(self) -> Iterator[WorstCase]:
        limits = self.budget.limits
        why = f"the budget of {self.name} has no limit that does"
        if names := ", ".join(tool.name for tool in self._unbounded):
            why = f"nobody knows how often Claude uses {names} in one call of {self.name}"
        yield WorstCase(nano=None, why=why)
        if limits.nano is not None:
            yield WorstCase(nano=limits.nano, why=f"the budget of {self.name}")
        # A token says nothing of fees, so no number of them limits what searches cost.
        if limits.tokens is not None and not any(agent._has_fees for agent in self._asked()):  # noqa: SLF001
            dearest = max(agent._dearest_token() for agent in self._asked())  # noqa: SLF001
            told = f"{limits.tokens:,} tokens, each at the dearest price"
            yield WorstCase(nano=limits.tokens * dearest, why=told)
        below = self._worst_below()
        if limits.turns is not None and below is not None and not self._unbounded:
            each, window, most = max(self._dearest_turns())
            told = f"{limits.turns:,} turns, each with {window:,} tokens, {most:,} back"
            loops = self._terms(self.model).loops
            more = f", {loops:,} times more for what its server tools bring" if loops else ""
            more += ", and the agents that it asks" if below else ""
            more += "; Budget(usd=…) makes it less"
            yield WorstCase(nano=limits.turns * each + below, why=told + more)

    def _worst_below(self) -> int | None:
        """Return the most that the agents cost which it asks; `None` where nothing limits that."""
        asked = [tool.agent for tool in self.functions if isinstance(tool.agent, Agent)]
        if not asked:
            return 0
        calls, worst = self.budget.tool_calls, [agent.worst_case().nano for agent in asked]
        if calls is None or None in worst:
            return None
        return calls * max(nano for nano in worst if nano is not None)

    def _asked(self) -> Iterator[Agent]:
        yield self
        for tool in self.functions:
            if isinstance(tool.agent, Agent):
                yield from tool.agent._asked()  # noqa: SLF001

    def _dearest_turns(self) -> Iterator[tuple[int, int, int]]:
        """Yield the most that turns with a full context window cost, how wide that is, and longest.

        Each turn may be a judge's.
        """
        for model in self.models:
            window = context_window(model)
            cost = worst_case(model, window, self.max_tokens, self._terms(model))
            yield cost, window, self.max_tokens
        for judge in self.judges:
            model = judge.model_for(self.model)
            window = context_window(model)
            yield worst_case(model, window, judge.max_tokens), window, judge.max_tokens

    def _dearest_token(self) -> int:
        judges = [self._dearest_token_of(one.model_for(self.model), PLAIN) for one in self.judges]
        own = (self._dearest_token_of(model, self._terms(model)) for model in self.models)
        return max([*own, *judges])

    @staticmethod
    def _dearest_token_of(model: str, asked: Terms) -> int:
        window = context_window(model)
        terms = replace(asked, loops=0, fees_nano=0)
        prompt = worst_case(model, window, 0, terms)
        into = -(-prompt // (window * terms.passes))
        return max(into, worst_case(model, window, 1, terms) - prompt)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that may be asked: `model`, and those that are asked instead."""
        return (self.model, *self.fallback_models)

    def _terms(self, model: str) -> Terms:
        return terms_of(
            msgspec.json.encode(self.parameters),
            cache=self.cache or "",
            tools=msgspec.json.encode([tool.schema for tool in self._served]),
            model=model,
        )

    @property
    def _served(self) -> tuple[ServerTool, ...]:
        """The tools that Anthropic runs."""
        return tuple(tool for tool in self.tools if isinstance(tool, ServerTool))

    @property
    def _unbounded(self) -> tuple[ServerTool, ...]:
        """Those of them of which nobody knows how often they are used in a call."""
        return tuple(tool for tool in self._served if not tool.is_bounded)

    @property
    def _has_fees(self) -> bool:
        return any(self._terms(model).fees_nano for model in self.models)

    @cached_property
    def least_tokens(self) -> int:
        """Output tokens below which a call is of no use: thinking has to fit in, too."""
        thinking = self.parameters.get("thinking")
        budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
        least = budget + 1 if isinstance(budget, int) else 1
        return min(self.max_tokens, max(self.min_tokens, least))

    def spec(self) -> Spec:
        """Return what the model sees of this agent, rendered once.

        Raises:
            InvalidTool: the schema of a tool cannot be told.

        """
        tools = [_whole(declared) for declared in self.tools]
        parameters = dict(self.parameters)
        answers, way = self.answers, self._answers_by
        if answers is not None and way == "format":
            shape = {**parameters.get("output_config", {}), "format": answers.format}
            parameters["output_config"] = shape
        elif answers is not None:
            tools.append(answers.tool)
        return Spec(
            agent=self.name,
            model=self.model,
            max_tokens=self.max_tokens,
            system=self.instructions,
            tools=Raw(msgspec.json.encode(tools)),
            parameters=Raw(msgspec.json.encode(parameters)),
            cache=self.cache or "",
            fallback_models=self.models[1:],
            answers=way,
            wrapped=answers is not None and answers.wrapped,
        )

    @property
    def _answers_by(self) -> Literal["", "format", "tool"]:
        if self.answers is None:
            return ""
        return "format" if all(map(structured, self.models)) else "tool"


def _whole(declared: Tool[..., Any] | ServerTool) -> dict[str, Any]:
    """Return a tool's schema, once it is known that its fallbacks can be called as well."""
    for source in declared.sources[1:] if isinstance(declared, Tool) else ():
        if isinstance(source, Tool):
            source.takes({})  # found wrong now, rather than in an outage
    return declared.schema


def check_prices(agent: Agent, *, batch: bool = False) -> None:
    """Refuse an agent of whose models one has no price.

    Args:
        agent: the agent.
        batch: whether its calls go through the Message Batches API.

    Raises:
        UnknownModel: which one.

    """
    parameters = msgspec.json.encode(agent.parameters)
    for model in agent.models:
        check_priced(model, parameters, batch=batch)
    for judge in agent.judges:
        check_priced(judge.model_for(agent.model), b"{}", batch=batch)


_RESERVED: Final = frozenset(
    {"model", "system", "tools", "max_tokens", "stream", "messages", "container", "cache_control"}
)
_CHOICES: Final = {
    "speed": ("standard", "fast"),
    "inference_geo": ("global", "us"),
    "service_tier": ("auto", "standard_only"),
}
"""Members that change what a call costs, and what is known of that."""


_MIN_THINKING: Final = 1_024


def _check(agent: Agent) -> None:
    if not isinstance(agent.name, str) or not NAME.fullmatch(agent.name):
        raise InvalidAgent(
            f"agent {agent.name!r}: a name is 1 to 128 letters, digits, '.', '_' or '-', "
            "and begins with a letter or digit"
        )
    if not isinstance(agent.model, str) or not agent.model:
        raise InvalidAgent(f"agent {agent.name!r}: model is {agent.model!r}; name a Claude model")
    _check_fallbacks(agent)
    if not isinstance(agent.instructions, str):
        raise InvalidAgent(
            f"agent {agent.name!r}: instructions is {agent.instructions!r}, but must be a string; "
            "leave it out for none"
        )
    if not isinstance(agent.parameters, dict):
        raise InvalidAgent(
            f"agent {agent.name!r}: parameters is {agent.parameters!r}, but must be a dict"
        )
    if not _is_count(agent.max_tokens):
        raise InvalidAgent(
            f"agent {agent.name!r}: max_tokens is {agent.max_tokens!r}, but must be a whole number "
            "of at least 1"
        )
    if agent.cache not in (None, "5m", "1h"):
        raise InvalidAgent(
            f"agent {agent.name!r}: cache is {agent.cache!r}, but the prompt cache keeps things "
            "for '5m' or '1h'; None is no caching"
        )
    if agent.call_timeout_s is not None and not _is_seconds(agent.call_timeout_s):
        raise InvalidAgent(
            f"agent {agent.name!r}: call_timeout_s is {agent.call_timeout_s!r}, but must be a "
            "number of seconds above 0; None is no limit"
        )
    if not _is_count(agent.min_tokens):
        raise InvalidAgent(
            f"agent {agent.name!r}: min_tokens is {agent.min_tokens!r}, but must be a whole number "
            "of at least 1"
        )
    if wrong := no_budget(agent.budget):
        raise InvalidAgent(f"agent {agent.name!r}: {wrong}")
    _check_thinking(agent)
    _check_tools(agent)
    _check_sendable(agent)
    if taken := _RESERVED & agent.parameters.keys():
        raise InvalidAgent(
            f"agent {agent.name!r}: parameters may not set {', '.join(sorted(taken))}; "
            "the agent's own fields, or the run itself, do"
        )
    _check_priced(agent)
    _check_answers(agent)


def _declared_checks(name: str, given: Any) -> tuple[Check[..., Any] | Judge, ...]:
    """Return the checks as they are declared; a plain function is one."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidAgent(f"agent {name!r}: checks is {given!r}; give a list of checks")
    checks: list[Check[..., Any] | Judge] = []
    for one in given:
        if isinstance(one, Check | Judge):
            checks.append(one)
        elif callable(one) and not isinstance(one, Tool | type):
            checks.append(Check(one))
        else:
            raise InvalidAgent(
                f"agent {name!r}: {one!r} is no check; decorate a function with @outlast.check, or "
                "give an outlast.Judge"
            )
    return tuple(checks)


def _check_answers(agent: Agent) -> None:
    """Refuse what could not decide on an answer."""
    seen = {"schema"}
    for one in agent.checks:
        assert isinstance(one, Check | Judge), f"{one!r} is no check"  # noqa: S101
        if one.name in seen:
            taken = "the check of the answer's type" if one.name == "schema" else "another one"
            raise InvalidAgent(
                f"agent {agent.name!r}: a check is named {one.name!r}, and so is {taken}; give it "
                "another name=…"
            )
        seen.add(one.name)
        if isinstance(one, Judge) and one.budget is not None and (wrong := no_budget(one.budget)):
            raise InvalidAgent(f"agent {agent.name!r}: judge {one.name!r}: {wrong}")
    if not _is_count(agent.answer_attempts):
        raise InvalidAgent(
            f"agent {agent.name!r}: answer_attempts is {agent.answer_attempts!r}, but must be a "
            "whole number of at least 1"
        )
    choices = {"retry": ("repair", "resample"), "last_resort": ("reject", "escalate", "degrade")}
    for name, known in choices.items():
        if (given := getattr(agent, name)) not in known:
            raise InvalidAgent(
                f"agent {agent.name!r}: {name} is {given!r}; give {' or '.join(map(repr, known))}"
            )
    try:
        expiry(agent.answer_expires)
    except UsageError as error:
        raise InvalidAgent(f"agent {agent.name!r}: answer_expires: {error}") from error
    output = agent.parameters.get("output_config")
    if agent.answer is not str and isinstance(output, dict) and "format" in output:
        raise InvalidAgent(
            f"agent {agent.name!r}: parameters set output_config.format, which answer=… does; give "
            "one of both"
        )
    if agent.answer is not str and agent.tool(TOOL) is not None:
        raise InvalidAgent(
            f"agent {agent.name!r}: a tool is named {TOOL!r}, which is how an answer is given; "
            "give it another name"
        )


def _check_fallbacks(agent: Agent) -> None:
    """Refuse models of which none would be another one."""
    given = agent.fallback_models
    if not isinstance(given, tuple) or not all(isinstance(one, str) and one for one in given):
        raise InvalidAgent(
            f"agent {agent.name!r}: fallback_models is {given!r}, but must be a list of Claude "
            "models, such as ['claude-sonnet-5-5']"
        )
    seen: set[str] = set()
    for model in agent.models:
        if undated(model) in seen:
            raise InvalidAgent(
                f"agent {agent.name!r}: fallback_models names {model!r}, which is asked before; "
                "name each model once, and not the agent's own"
            )
        seen.add(undated(model))


def _check_priced(agent: Agent) -> None:
    """Refuse members of which nobody knows what they cost."""
    for name, choices in _CHOICES.items():
        if (given := agent.parameters.get(name, choices[0])) not in choices:
            raise InvalidAgent(
                f"agent {agent.name!r}: parameters set {name}={given!r}, and what that costs is "
                f"not known; give one of {', '.join(map(repr, choices))}"
            )
    if "mcp_servers" in agent.parameters:
        raise InvalidAgent(
            f"agent {agent.name!r}: parameters set mcp_servers, whose tools run inside a call, as "
            "often as they like, so nothing that is held for it would do; leave it out"
        )
    try:
        terms_of(msgspec.json.encode(agent.parameters))
    except msgspec.DecodeError as error:
        raise InvalidAgent(
            f"agent {agent.name!r}: parameters are not what the API takes: {error}"
        ) from error


def _check_thinking(agent: Agent) -> None:
    """Refuse a budget for thinking that a call has no room for: every request would be a 400."""
    thinking = agent.parameters.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if isinstance(budget, int) and budget < _MIN_THINKING:
        raise InvalidAgent(
            f"agent {agent.name!r}: thinking has budget_tokens={budget}, and the API takes no less "
            f"than {_MIN_THINKING}"
        )
    if isinstance(budget, int) and budget >= agent.max_tokens:
        raise InvalidAgent(
            f"agent {agent.name!r}: thinking has budget_tokens={budget}, which has to be less than "
            f"max_tokens={agent.max_tokens}; raise max_tokens or lower the budget"
        )


def _check_sendable(agent: Agent) -> None:
    """Refuse what could not be written into a request, or would say something else there."""
    try:
        agent.instructions.encode()
        if agent.parameters:
            # The encoder of the standard library, because the fast one writes NaN as null.
            import json  # noqa: PLC0415  (most agents have no parameters)

            json.dumps(agent.parameters, allow_nan=False, ensure_ascii=False).encode()
            msgspec.json.encode(agent.parameters)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidAgent(
            f"agent {agent.name!r}: its instructions or parameters cannot be sent as JSON: {error}"
        ) from error


def _check_tools(agent: Agent) -> None:
    seen: set[str] = set()
    for declared in agent.tools:
        if not isinstance(declared, Tool | ServerTool):
            raise InvalidAgent(
                f"agent {agent.name!r}: {declared!r} is not a tool; decorate it with @outlast.tool "
                "or make one that Anthropic runs with outlast.server_tool"
            )
        if declared.name in seen:
            raise InvalidAgent(
                f"agent {agent.name!r}: two tools are named {declared.name!r}, and Claude could "
                "not tell them apart; give one another name with @outlast.tool(name=…)"
            )
        seen.add(declared.name)
    _check_bounded(agent)


def _check_bounded(agent: Agent) -> None:
    """Refuse server tools that no budget of dollars or tokens could hold."""
    limits = agent.budget.limits
    if limits.nano is None and limits.tokens is None:
        return
    for tool in agent._unbounded:  # noqa: SLF001
        way = (
            f"give outlast.server_tool({tool.type!r}, max_uses=…), for Claude alone to call"
            if tool.name in COUNTED
            else "the API has no limit for it"
        )
        raise InvalidAgent(
            f"agent {agent.name!r}: nobody knows how often {tool.name} is used in one call, so "
            f"nothing that is held would keep its budget of dollars or tokens; {way}, or leave the "
            "run to Budget(turns=…)"
        )
