"""Every row of the API's error table, over HTTP, with the SDK: what is written, paid and done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import outlast
from errors.erring import FOR_EVER, ROWS, TIMEOUT, fault
from outlast import decide
from outlast.events import (
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
)
from outlast.journal import Record
from outlast.models import UNBILLED, anthropic, faults
from outlast.models.script import BATCHED
from outlast.testing import simulator

AGENT = outlast.Agent("asker", model="claude-opus-5-5")

FAILED, STOPPED, WAITED, DOUBTED, NONE = "failed", "stopped", "waited", "doubted", "none"
HELD_UP = "held up"
# what becomes of it: (the event, whether Claude is asked again, the status of the run)
BECOMES = {
    FAILED: (ModelCallFailed, False, "failed"),
    STOPPED: (ModelCallFailed, False, "stopped"),
    HELD_UP: (ModelCallFailed, False, "parked"),
    WAITED: (ModelCallFailed, True, "completed"),
    DOUBTED: (ModelCallInDoubt, True, "completed"),
    NONE: (None, False, "completed"),
}

TABLE = {
    # row                               kind              becomes
    "400": ("invalid_request", FAILED),
    "400 with a code": ("invalid_request", FAILED),
    "400 prompt is too long": ("invalid_request", FAILED),
    "401": ("auth", STOPPED),
    "403": ("auth", STOPPED),
    "404": ("not_found", FAILED),
    "409 with a code": ("invalid_request", FAILED),
    "413": ("too_large", FAILED),
    "422": ("invalid_request", FAILED),
    "402": ("spend_limit", HELD_UP),
    "402 with a code": ("spend_limit", HELD_UP),
    "429 enforced_spend_limit_reached": ("spend_limit", HELD_UP),
    "429 contract_spend_limit_reached": ("spend_limit", HELD_UP),
    "429 rate_limit_error": ("rate_limited", WAITED),
    "429 without retry-after": ("rate_limited", WAITED),
    "429 ramp_limit_exceeded": ("rate_limited", WAITED),
    "529 overloaded_error": ("overloaded", WAITED),
    "529 with a code": ("overloaded", WAITED),
    "500": ("unavailable", DOUBTED),
    "500 after billing": ("unavailable", DOUBTED),
    "503": ("unavailable", DOUBTED),
    "503 after billing": ("unavailable", DOUBTED),
    "504": ("unavailable", DOUBTED),
    "408": ("timeout", DOUBTED),
    "409": ("unavailable", DOUBTED),
    "connection reset after sending": ("unavailable", DOUBTED),
    "reset, and not billed": ("unavailable", DOUBTED),
    "SSE error: overloaded": ("cut", DOUBTED),
    "SSE error: rate limit": ("cut", DOUBTED),
    "SSE error before a word": ("cut", DOUBTED),
    "cut": ("cut", DOUBTED),
    "cut before a word": ("cut", DOUBTED),
    "cut after silence": ("cut", DOUBTED),
    "cut after pings": ("cut", DOUBTED),
    "no message_stop": ("cut", DOUBTED),
    "200 that is not JSON": ("malformed", DOUBTED),
    "200 without usage": ("malformed", DOUBTED),
    "late": ("", NONE),
    "slow": ("", NONE),
}


@pytest.fixture(scope="module")
def claude() -> Iterator[simulator.Simulator]:
    with (
        simulator.start("errors.erring:script", path=[Path(__file__).parents[1]]) as started,
        pytest.MonkeyPatch.context() as settings,
    ):
        settings.setenv("ANTHROPIC_BASE_URL", started.url)
        settings.setenv("ANTHROPIC_API_KEY", "any-key-will-do")
        # The wait is measured elsewhere, by a clock of its own; what Claude asks for stands.
        settings.setattr(decide, "BACKOFF_S", (0.01,) * len(decide.BACKOFF_S))
        yield started


class Played:
    """One run that asks for a row of the table, and what Claude's own bill says of it."""

    def __init__(self, claude: simulator.Simulator, row: str) -> None:
        seen, billed = len(claude.requests()), len(claude.bill())
        with outlast.Outlast("memory://", breaker=None) as app:
            self.run = app.run(AGENT, row, run_id="r")
            self.records = app.log("r")
            self.ledger = app.journal.rollup()
            mendable = self.run.status in ("stopped", "parked")
            self.again = app.resume("r", AGENT) if mendable else None
        # The bill of the run as it came to rest first; a resume is one more request.
        requests, bill = claude.requests()[seen:], claude.bill()[billed:]
        self.resumed = requests[len(self.of(ModelCallStarted)) :]
        self.requests = requests[: len(requests) - len(self.resumed)]
        self.bill = bill[: len(bill) - len(self.resumed)]

    def of(self, *kinds: type) -> list[Any]:
        return [record.event for record in self.records if isinstance(record.event, kinds)]

    @property
    def outcomes(self) -> list[Any]:
        return self.of(ModelCallFailed, ModelCallInDoubt, ModelCallSucceeded)

    @property
    def billed_nano(self) -> int:
        return sum(line["nano_usd"] for line in self.bill)


def record_of(records: list[Record], event: Any) -> Record:
    return next(record for record in records if record.event is event)


def test_no_row_and_no_fault_is_missing() -> None:
    """Every row has a fault that makes it, and every fault that has a name is in some row."""
    assert TABLE.keys() == ROWS.keys()
    assert {name for name, _ in ROWS.values()} == set(faults.__all__) - BATCHED


@pytest.mark.parametrize("row", TABLE)
def test_a_row_of_the_error_table(claude: simulator.Simulator, row: str) -> None:
    """What is written, what is paid, and whether Claude is asked again are as the table says."""
    kind, becomes = TABLE[row]
    event, asked_again, status = BECOMES[becomes]
    played = Played(claude, row)

    assert played.run.status == status, played.run.why
    came = [type(outcome) for outcome in played.outcomes]
    answered = [ModelCallSucceeded] if status == "completed" else []
    assert came == ([event] if event else []) + answered
    assert len(played.requests) == len(came) == 1 + asked_again
    if event:
        check_facts(played, row, kind)
        check_charge(played, becomes)
    check_bill(played)
    if asked_again:
        check_wait(played)
    else:
        check_end(played, kind, becomes)


def check_facts(played: Played, row: str, kind: str) -> None:
    """Check that the journal says what came: kind, status, type, code and id."""
    failed, made = played.outcomes[0], fault(row)
    told = made.kind in ("status", "error_event")
    assert failed.kind == kind
    assert failed.status == {"status": made.status, "reset": 0}.get(made.kind, 200)
    assert failed.error_type == (made.type if told else "")
    assert failed.error_code == (made.error_code if told else "")
    assert not told or made.message in failed.message
    assert failed.request_id.startswith("" if made.kind == "reset" else "req_")
    wait = made.headers.get("retry-after")
    assert failed.retry_after_s == (None if wait is None else float(wait))


def check_charge(played: Played, becomes: str) -> None:
    """Check that in doubt is charged in full, and that nothing else that failed is charged."""
    started, failed = played.of(ModelCallStarted)[0], played.outcomes[0]
    (line,) = played.ledger
    if becomes == DOUBTED:
        assert failed.cost_nano == started.hold_nano > 0
        assert failed.tokens == started.hold_tokens
        assert failed.kind not in UNBILLED
        assert (line.in_doubt_nano, line.calls_in_doubt) == (started.hold_nano, 1)
    else:
        assert failed.kind in UNBILLED
        assert (line.in_doubt_nano, line.calls_in_doubt, line.calls_failed) == (0, 0, 1)


def check_bill(played: Played) -> None:
    """Check that the ledger holds at least what Claude bills, and to the cent what is known."""
    (line,) = played.ledger
    spent = line.settled_nano + line.in_doubt_nano
    assert played.run.cost_nano == spent >= played.billed_nano
    if not line.calls_in_doubt:
        assert spent == played.billed_nano
    if not line.calls and not line.calls_in_doubt:
        assert (spent, played.bill) == (0, [])


def check_wait(played: Played) -> None:
    """Check that the next attempt is another reservation of its own, and not before its time."""
    failed = played.outcomes[0]
    first, second = played.of(ModelCallStarted)
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.call_id != second.call_id
    assert first.request_hash == second.request_hash
    began, ended = record_of(played.records, second).at, record_of(played.records, failed).at
    assert began - ended >= (failed.retry_after_s or 0.0) * 1_000_000_000
    assert played.run.answer == "Well."


def check_end(played: Played, kind: str, becomes: str) -> None:
    """Check that a run that ends says why, and that one that was stopped can go on."""
    if becomes == NONE:
        assert played.run.answer == "Well."
        return
    assert f"Claude did not take the request ({kind})" in played.run.why
    assert played.outcomes[0].message in played.run.why
    assert (played.again is not None) == (becomes in (STOPPED, HELD_UP))
    if played.again:
        assert "resume" in played.run.why
        assert (played.again.status, played.again.answer) == ("completed", "Well.")
        assert len(played.resumed) == 1


@pytest.mark.parametrize("row", FOR_EVER)
def test_what_does_not_pass_is_given_up(claude: simulator.Simulator, row: str) -> None:
    """After as many attempts as are allowed the run fails, and each that may be billed is paid."""
    played = Played(claude, row)
    assert played.run.status == "failed"
    assert f"{decide.ATTEMPTS} attempts came to nothing" in played.run.why
    assert len(played.requests) == len(played.outcomes) == decide.ATTEMPTS
    held = sum(call.hold_nano for call in played.of(ModelCallStarted))
    assert played.run.cost_nano == (held if row.startswith("500") else 0)
    check_bill(played)


def test_a_reply_that_does_not_come_in_time_is_in_doubt(
    claude: simulator.Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that falls silent is given up after the deadline, charged, and asked for again."""
    hurried = partial(anthropic.AnthropicModel, deadline_s=1.0)
    monkeypatch.setattr(anthropic, "AnthropicModel", hurried)
    played = Played(claude, TIMEOUT)
    # On a machine that is busy the next attempt may be late as well, and is judged the same.
    *late, answered = played.outcomes
    assert {(type(event), event.kind) for event in late} == {(ModelCallInDoubt, "timeout")}
    assert isinstance(answered, ModelCallSucceeded)
    assert all("no reply within 1 s" in event.message for event in late)
    assert played.run.status == "completed"
    assert [event.cost_nano for event in late] == [
        call.hold_nano for call in played.of(ModelCallStarted)[:-1]
    ]
    check_bill(played)


def test_a_connection_that_is_refused_costs_nothing(
    claude: simulator.Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing was sent, nothing is charged, and Claude is asked again until it is enough."""

    async def closed_port() -> int:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return port

    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{asyncio.run(closed_port())}")
    with outlast.Outlast("memory://", breaker=None) as app:
        run = app.run(AGENT, "Is anybody there?", run_id="r")
        events = [record.event for record in app.log("r")]
    came = [event for event in events if isinstance(event, ModelCallFailed | ModelCallInDoubt)]
    assert {event.kind for event in came} == {"unreachable"}
    assert (len(came), run.status, run.cost_nano) == (decide.ATTEMPTS, "failed", 0)
