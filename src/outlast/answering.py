"""Which question a person answers, and whether the answer still counts.

| the question | the answer |
|---|---|
| is open | counts |
| was answered the same | changes nothing |
| was answered otherwise | refused: the first answer counts |
| is late, or its run went on without | refused: that counts as denied |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from outlast.actions import moment
from outlast.answers import MEMBER, TOOL
from outlast.approvals import Given, Request
from outlast.conversation import tool_call_id
from outlast.errors import InvalidInput, UsageError
from outlast.events import NULL, ApprovalGiven
from outlast.models.schema import misfit
from outlast.state import ENDED, RunState

Check: TypeAlias = Callable[[RunState, Request, ApprovalGiven], None]
"""Called with what a person says, before anything is written."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says, and to which question."""

    approved: bool
    call: str | None = None
    name: str | None = None
    arguments: Raw = NULL
    answer: Raw = NULL
    """What is the answer instead, where it is asked whether one is."""
    note: str = ""
    by: str = ""

    @property
    def verb(self) -> str:
        """What the person does."""
        return "approve" if self.approved else "deny"


def questions(state: RunState, now: int) -> tuple[Request, ...]:
    """Return what a run waits to hear from people, the first asked first."""
    if state.status in ENDED or state.control.cancelled:
        return ()
    return tuple(one for one in state.approvals.open(now) if not _settled(state, one))


def given(
    state: RunState, run_id: str, answer: Answer, now: int, *, below: Iterable[str] = ()
) -> tuple[Request, ApprovalGiven | None]:
    """Return the question that is answered, and what is written of it; `None` changes nothing.

    Args:
        state: what the run knows.
        run_id: its name.
        answer: what the person says.
        now: nanoseconds since the epoch.
        below: the runs below it that ask something, for whoever meant one of those.

    Raises:
        UsageError: nothing like that is asked, or the answer counts no more.

    """
    asked = _meant(state, run_id, answer, now, tuple(below))
    if answer.answer != NULL and not asked.of_answer:
        raise UsageError(
            f"{_named(run_id, asked)} is not about an answer, so there is none to change; say it "
            "in the note"
        )
    if answer.arguments != NULL and asked.of_answer:
        raise UsageError(
            f"{_named(run_id, asked)} is about an answer and has no arguments to change; give "
            "another answer instead (on the command line: --edit-answer)"
        )
    if answer.arguments != NULL and not asked.call_id:
        raise UsageError(
            f"{_named(run_id, asked)} is a question of a flow and has no arguments to change; say "
            "it in the note"
        )
    if asked.given is not None:
        if not _is_same(asked.given, answer):
            raise UsageError(_first(run_id, asked, asked.given, answer))
        return asked, None
    _check_alive(state, run_id, answer)
    if asked.late(now):
        raise UsageError(
            f"{_named(run_id, asked)} expired at {moment(asked.expires_at)} and counts as denied, "
            f"so nothing was written; {_look(run_id)}"
        )
    if _settled(state, asked):
        raise UsageError(
            f"run {run_id!r} went on without an answer to {_called(asked)}, which counts as "
            f"denied, so nothing was written; {_look(run_id)}"
        )
    told = ApprovalGiven(
        approved=answer.approved,
        name=asked.name,
        call_id=asked.call_id,
        arguments=answer.arguments,
        answer=answer.answer,
        note=answer.note,
        by=answer.by,
    )
    return asked, told


def _check_alive(state: RunState, run_id: str, answer: Answer) -> None:
    if state.status in ENDED or state.control.cancelled:
        is_over = state.status if state.status in ENDED else "told to end"
        raise UsageError(
            f"run {run_id!r} is {is_over}, so there is nothing to {answer.verb}; {_look(run_id)}"
        )


def _meant(
    state: RunState, run_id: str, answer: Answer, now: int, below: tuple[str, ...]
) -> Request:
    if answer.call is not None and answer.name is not None:
        raise UsageError("a question has a call or a name; give one of both")
    still = questions(state, now)
    if answer.call is not None or answer.name is not None:
        key = (answer.name or "", answer.call or "")
        if (found := state.approvals.requests.get(key)) is not None:
            return found
        raise UsageError(f"run {run_id!r} asked nothing by {_by(*key)}; {_listed(run_id, still)}")
    if len(still) == 1:
        return still[0]
    if still:
        raise UsageError(_listed(run_id, still))
    if below:
        others = ", ".join(below)
        raise UsageError(
            f"run {run_id!r} asks nobody itself, but below it do: {others}; "
            f"`outlast {answer.verb} {below[0]}` answers"
        )
    if not state.approvals.requests:
        _check_alive(state, run_id, answer)
        raise UsageError(
            f"run {run_id!r} asks nobody anything, so there is nothing to {answer.verb}; "
            "`outlast runs --waiting` lists those that do"
        )
    # Whoever says it twice says it to the question that was over last.
    return max(state.approvals.requests.values(), key=_over_at)


def _over_at(asked: Request) -> int:
    return asked.given.at if asked.given is not None else asked.expires_at or asked.asked_at


def _settled(state: RunState, asked: Request) -> bool:
    """Return whether the run went on, whatever is said now."""
    if asked.name:
        return asked.name in state.steps.finished
    ask = state.asks[asked.ask_id]
    if asked.of_answer:
        return bool(ask.failed) or ask.answer is not None
    left = [
        tool_call_id(ask, number)
        for number, pending in enumerate(ask.pending, start=1)
        if not pending.result
    ]
    return bool(ask.failed) or asked.call_id not in left


def _is_same(was: Given, answer: Answer) -> bool:
    mine = answer.approved, _read(answer.arguments), _read(answer.answer)
    return mine == (was.approved, _read(was.arguments), _read(was.answer))


def _read(arguments: Raw) -> Any:
    return msgspec.json.decode(arguments)


def _first(run_id: str, asked: Request, was: Given, answer: Answer) -> str:
    """Return that somebody else was first, who, and when."""
    did = "approved" if was.approved else "denied"
    who = f" by {was.by}" if was.by else ""
    other = "with another answer" if asked.of_answer else "with other arguments"
    how = "" if was.approved != answer.approved else f", {other}"
    return (
        f"{_named(run_id, asked)} was {did}{who} at {moment(was.at)}{how}, and the first answer "
        f"counts; {_look(run_id)}"
    )


def _look(run_id: str) -> str:
    return f"`outlast show {run_id}` says more"


def _named(run_id: str, asked: Request) -> str:
    return f"run {run_id!r}: {_called(asked)}"


def _called(asked: Request) -> str:
    if asked.of_answer:
        return f"the answer of call {asked.call_id!r}"
    return f"approval {asked.name!r}" if asked.name else f"call {asked.call_id!r} of {asked.tool}"


def _by(name: str, call_id: str) -> str:
    return f"call={call_id!r}" if call_id else f"name={name!r}"


def _listed(run_id: str, still: tuple[Request, ...]) -> str:
    if not still:
        return f"nothing of it is open; {_look(run_id)}"
    those = ", ".join(f"{_by(one.name, one.call_id)} ({one.question})" for one in still)
    return (
        f"run {run_id!r} asks {'this' if len(still) == 1 else f'{len(still)} things'}: {those}; "
        "say which (on the command line: --call or --name)"
    )


# ── other arguments ─────────────────────────────────────────────────────────────────────────────


class _Schema(msgspec.Struct, frozen=True):
    properties: dict[str, Any] = {}
    required: list[str] = []


class _Told(msgspec.Struct, frozen=True):
    name: str = ""
    input_schema: _Schema | None = None
    """None for a tool that Anthropic defines."""


def check_names(state: RunState, asked: Request, arguments: Raw) -> None:
    """Refuse arguments that a tool cannot have, as far as the journal knows it.

    Raises:
        InvalidInput: which are missing, or unknown.

    """
    spec = state.asks[asked.ask_id].spec
    told = msgspec.json.decode(spec.tools, type=list[_Told])
    schema = next((one.input_schema for one in told if one.name == asked.tool), None)
    if schema is None:
        return
    names = msgspec.json.decode(arguments, type=dict[str, Any]).keys()
    wrong = [f"{name} is missing" for name in schema.required if name not in names]
    wrong += [f"{name} is none of them" for name in names if name not in schema.properties]
    if wrong:
        raise InvalidInput(
            f"the arguments do not fit {asked.tool}, so nothing was written: {', '.join(wrong)}; "
            f"it takes {', '.join(schema.properties) or 'none'}"
        )


class _Formatted(msgspec.Struct, frozen=True):
    format: dict[str, Any] = {}


class _Parameters(msgspec.Struct, frozen=True):
    output_config: _Formatted = _Formatted()


class _Tool(msgspec.Struct, frozen=True):
    name: str = ""
    input_schema: dict[str, Any] = {}


def check_shape(state: RunState, asked: Request, answer: Raw) -> None:
    """Refuse an answer that is not of the type that Claude was told of, as the journal knows it.

    Raises:
        InvalidInput: where it is not.

    """
    spec = state.asks[asked.ask_id].spec
    if not spec.answers:
        return
    told = msgspec.json.decode(spec.parameters, type=_Parameters)
    schema = told.output_config.format.get("schema", {})
    if spec.answers == "tool":
        tools = msgspec.json.decode(spec.tools, type=list[_Tool])
        schema = next((tool.input_schema for tool in tools if tool.name == TOOL), {})
    value = msgspec.json.decode(answer)
    wrong = misfit({MEMBER: value} if spec.wrapped else value, schema)
    if wrong:
        raise InvalidInput(
            f"nothing was written: the answer is not of the type that {spec.agent} declares: "
            f"{wrong}; give another one (on the command line: --edit-answer)"
        )


MOST_BYTES: Final = 1_000_000
"""So long may the arguments be that a person gives."""


def as_answer(value: object) -> Raw:
    """Return what a person gives as an answer, as it is journalled.

    Raises:
        InvalidInput: it cannot be written as JSON, or is too long.

    """
    from pydantic import TypeAdapter  # noqa: PLC0415  (a tenth of a second)

    try:
        encoded = TypeAdapter(Any).dump_json(value)
        msgspec.json.decode(encoded)
    except Exception as error:
        raise InvalidInput(f"the answer cannot be written as JSON: {error}") from error
    if len(encoded) > MOST_BYTES:
        raise InvalidInput(f"the answer is {len(encoded):,} bytes; at most {MOST_BYTES:,} fit")
    return Raw(encoded)


def as_arguments(value: object) -> Raw:
    """Return what a person makes of arguments, as it is journalled.

    Raises:
        InvalidInput: it is no JSON object, or too long.

    """
    if not isinstance(value, dict):
        raise InvalidInput(
            f'the arguments of a tool are a JSON object, such as {{"city": "Leeds"}}, and not '
            f"{type(value).__name__}"
        )
    try:
        encoded = msgspec.json.encode(value)
        msgspec.json.decode(encoded)
    except Exception as error:
        raise InvalidInput(f"the arguments cannot be written as JSON: {error}") from error
    if len(encoded) > MOST_BYTES:
        raise InvalidInput(f"the arguments are {len(encoded):,} bytes; at most {MOST_BYTES:,} fit")
    return Raw(encoded)
