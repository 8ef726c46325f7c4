"""A model that answers from a function, in process: for tests, and for users' own tests.

It is the same Claude that the simulator serves over HTTP, with the same strictness, the same ids
and the same bill, so what passes here passes there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from outlast.errors import ModelFailure
from outlast.events import FailureKind
from outlast.models import Part, Reply, Request, batched, batches, faults
from outlast.models.anthropic import KINDS
from outlast.models.batched import Batch, Result
from outlast.models.claude import Answer, Claude
from outlast.models.headers import rate_limits
from outlast.models.identity import request_key
from outlast.models.quotas import Quota
from outlast.models.saying import Said
from outlast.models.script import (
    SLOW,
    STREAMED,
    Fault,
    Rule,
    Script,
    Turn,
    any_of,
    compaction,
    faulty,
    last_text,
    once,
    redacted_thinking,
    refuse,
    say,
    server_tool_result,
    server_tool_use,
    text,
    text_of,
    thinking,
    tool_results,
    tool_use,
    turn_number,
)

__all__ = [
    "Fault",
    "Quota",
    "Rule",
    "Script",
    "ScriptedModel",
    "Turn",
    "any_of",
    "compaction",
    "faults",
    "faulty",
    "last_text",
    "once",
    "redacted_thinking",
    "refuse",
    "request_key",
    "say",
    "server_tool_result",
    "server_tool_use",
    "text",
    "text_of",
    "thinking",
    "tool_results",
    "tool_use",
    "turn_number",
]


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the bill."""

    key: str
    attempt: int
    model: str
    usage: dict[str, Any]
    nano_usd: int
    outcome: str


class ScriptedModel:
    """A `Model` that asks `script`.  It outlives a simulated crash, as Claude would.

    Attributes:
        calls: the body of every call, oldest first, exact to the byte.
        bill: a line for every call that is billed.
        batches: those that were accepted, oldest first.
        polls: how often somebody asked whether a batch has ended.

    With `paced` it takes the time that turns and faults say; by default it answers at once.
    `keep_calls=False` leaves `calls` empty, for runs so long that every body would not fit.
    `clock` gives nanoseconds since the epoch, by which the prompt cache forgets; with a `quota`,
    what is asked beyond it fails as rate limited.  `batch_faults` is the rule of what goes wrong
    with sending a batch; see `models.claude.Claude`.
    An exception of the script is passed on: it is a mistake of the test, not of Claude.

    """

    def __init__(  # noqa: PLR0913  (what its Claude is, and how it is asked)
        self,
        script: Script,
        *,
        check_history: bool = True,
        paced: bool = False,
        keep_calls: bool = True,
        clock: Callable[[], int] = time.time_ns,
        quota: Quota | None = None,
        batch_faults: Rule | None = None,
    ) -> None:
        self.calls: list[bytes] = []
        self.bill: list[Charge] = []
        self.batches: list[Batch] = []
        self.polls = 0
        self._clock = clock
        self._claude = Claude(
            script,
            check_history=check_history,
            clock=clock,
            quota=quota,
            batch_faults=batch_faults,
        )
        self._limited = quota is not None
        self._paced = paced
        self._keep_calls = keep_calls

    @property
    def billed_nano(self) -> int:
        """The sum of the bill, in nano-dollars."""
        return sum(charge.nano_usd for charge in self.bill)

    async def call(self, request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
        """Return what the script says.

        Raises:
            ModelFailure: a fault of the script, or a request that the API would refuse.

        """
        body = request.body()
        if self._keep_calls:
            self.calls.append(body)
        answer = self._claude.answer(body)
        if answer.usage is not None:
            self.bill.append(_charge(answer, answer.usage))
        if self._paced:
            await asyncio.sleep(_seconds(answer))
        told = rate_limits(self._claude.limits("", request.model)) if self._limited else {}
        if answer.fault and answer.fault.kind not in SLOW:
            raise failure(answer.fault, answer.request_id, told)
        assert answer.said  # noqa: S101  (only a fault leaves nothing said)
        if on_part:
            for kind, shown in _shown(answer.said):
                on_part(_part(request, kind, shown))
        return msgspec.structs.replace(_reply(answer.said, answer.request_id), told=told)

    def no_batches(self) -> str:
        """Return an empty text: it can."""
        return ""

    async def send_batch(self, requests: Mapping[str, Request]) -> str:
        """Send requests as one batch, and return its id.

        Raises:
            ModelFailure: a fault of the rule, or a batch that the API would refuse.

        """
        sent = self._claude.batch(batches.body(requests))
        for body, answer in sent.answers:
            if self._keep_calls:
                self.calls.append(body)
            if answer.usage is not None:
                self.bill.append(_charge(answer, answer.usage))
        if sent.batch is not None:
            self.batches.append(sent.batch)
        if self._paced and sent.fault:
            await asyncio.sleep(sent.fault.delay_s + sent.fault.lasts_s)
        if sent.fault and sent.fault.kind not in SLOW:
            raise failure(sent.fault, "")
        assert sent.batch  # noqa: S101  (only a fault leaves none)
        return sent.batch.id

    async def batch_ended(self, batch_id: str) -> bool:
        """Return whether the results of a batch are there; at once, where nothing is paced.

        Raises:
            ModelFailure: there is no such batch.

        """
        self.polls += 1
        return not self._paced or self._clock() >= self._batch(batch_id).ends_at

    async def batch_results(self, batch_id: str) -> Mapping[str, Reply | ModelFailure]:
        """Return what came of each request of a batch, in another order than they were sent in.

        Raises:
            ModelFailure: there is no such batch.

        """
        results = self._batch(batch_id).results
        return {name: _came(results[name]) for name in reversed(results)}

    def _batch(self, batch_id: str) -> Batch:
        for batch in self.batches:
            if batch.id == batch_id:
                return batch
        raise ModelFailure("not_found", f"HTTP 404: no batch {batch_id!r}", status=404)

    async def count_tokens(self, request: Request) -> int:
        """Return how many input tokens the bill would have for `request`; nothing is billed.

        Raises:
            ModelFailure: a request that the API would refuse.

        """
        counted = self._claude.count(request.counted_body())
        if isinstance(counted, Fault):
            raise failure(counted, "")
        return counted


def _came(result: Result) -> Reply | ModelFailure:
    """Return what a client makes of the result of an entry."""
    if isinstance(result, Said):
        return _reply(result, "")
    if result.kind in ("expired", "canceled"):
        return ModelFailure(result.kind, result.message)
    told = batched.error(result)
    return ModelFailure(
        batches.ERRORED.get(told["type"], "unavailable"),
        f"{told['type']}: {result.message}",
        error_type=told["type"],
        error_code=result.error_code,
    )


def failure(
    fault: Fault, request_id: str, limits: Mapping[str, tuple[int, int]] | None = None
) -> ModelFailure:
    """Return what a client over HTTP would have made of `fault`."""
    told = fault.kind in ("status", "error_event")
    status = {"status": fault.status, "reset": 0}.get(fault.kind, 200)
    return ModelFailure(
        _kind(fault),
        fault.message,
        status=status,
        error_type=fault.type if told else "",
        error_code=fault.error_code if told else "",
        retry_after_s=_retry_after(fault) if fault.kind == "status" else None,
        request_id="" if fault.kind == "reset" else request_id,
        told=None if fault.kind == "reset" else limits,
    )


def _kind(fault: Fault) -> FailureKind:
    if fault.kind == "html":
        return "malformed"
    if fault.kind == "reset":
        return "unavailable"
    if fault.kind in STREAMED:
        # Generation had begun, so it is in doubt, whatever the type of an error event says.
        return "cut"
    status, code = fault.status, fault.error_code
    rows = ((status, code), (status, "*") if code else status, status, f"{status // 100}xx")
    return next(KINDS[row] for row in rows if row in KINDS)


def _retry_after(fault: Fault) -> float | None:
    headers = {name.lower(): value for name, value in fault.headers.items()}
    try:
        return float(headers["retry-after"])
    except (KeyError, ValueError):
        return None


def _charge(answer: Answer, usage: dict[str, Any]) -> Charge:
    return Charge(
        key=answer.identity.key,
        attempt=answer.attempt,
        model=answer.request["model"],
        usage=usage,
        nano_usd=answer.nano,
        outcome=answer.outcome,
    )


def _seconds(answer: Answer) -> float:
    said = answer.said
    pace = max(said.first_token_s, said.total_s) if said else 0.0
    return pace + (answer.fault.delay_s + answer.fault.lasts_s if answer.fault else 0.0)


def _shown(said: Said) -> list[tuple[str, str]]:
    shown = []
    for block in msgspec.json.decode(said.content):
        kind = block["type"]
        if kind in ("text", "thinking"):
            shown.append((kind, block[kind]))
        elif kind.endswith("tool_use"):
            shown.append(("tool_use", block["name"]))
    return shown


def _part(request: Request, kind: str, shown: str) -> Part:
    return Part(
        run_id=request.run_id,
        ask_id=request.ask_id,
        call_id=request.call_id,
        attempt=request.attempt,
        kind=kind,
        text=shown,
    )


def _reply(said: Said, request_id: str) -> Reply:
    # As the network's model does: an input that was cut off stands beside the content.
    torn = {"partial_json": {str(len(said.blocks) - 1): said.torn}} if said.torn else {}
    return Reply(
        content=Raw(said.content),
        stop_reason=said.stop_reason,
        usage=Raw(msgspec.json.encode(said.usage)),
        model=said.model,
        request_id=request_id,
        message_id=said.message_id,
        extra=Raw(msgspec.json.encode(said.extra | torn)),
    )
