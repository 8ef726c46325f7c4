"""Part 2: what goes wrong when what an agent may use is counted."""

import asyncio
import json
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import msgspec
import pytest

import outlast
from flow_stubs import Clock
from outlast import decide
from outlast.agent import Budget
from outlast.errors import RunStopped
from outlast.events import BreakerChanged, ModelCallInDoubt, ModelCallStarted, ModelCallSucceeded
from outlast.models.script import Fault, faulty, last_text, once, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.prices import FRAMING_TOKENS
from stubs import agent

OPUS = "claude-opus-5-5"


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word * 300


def answering(request: dict[str, Any], attempt: int) -> Any:
    return say("Yes, and that is all of it.")


def looking(request: dict[str, Any], attempt: int) -> Any:
    """Call the tool without end, with something new each time."""
    return say("Once more.", tool_use("look", {"word": f"w{turn_number(request)}"}))


def spender(*tools: Any, **more: Any) -> outlast.Agent:
    return agent(*tools, **({"model": OPUS, "max_tokens": 1_000, "budget": Budget()} | more))


def usd(nano: int) -> str:
    return f"{nano / 10**9:.9f}"


def intents(app: outlast.Outlast, run_id: str) -> list[ModelCallStarted]:
    return [r.event for r in app.log(run_id) if isinstance(r.event, ModelCallStarted)]


@pytest.mark.parametrize(
    "text",
    ["grants " * 50, "寄付金" * 80, "0123456789" * 40, '{"a":[1,{"b":2}]}' * 20, "ﷺ" * 40],
    ids=["words", "CJK", "digits", "JSON", "one character that is eighteen"],
)
def test_2_01_a_prompt_is_never_taken_for_shorter_than_it_can_be(text: str) -> None:
    """What is held covers a token for every byte of the text, however normalised, and the tools."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        for tools in ((), (look,)):
            app.run(spender(*tools), text, run_id=f"r{len(tools)}")
        plain, tooled = (intents(app, name)[0] for name in ("r0", "r1"))
    assert plain.hold_tokens - plain.max_tokens >= FRAMING_TOKENS + max(
        len(text.encode()), len(unicodedata.normalize("NFKC", text).encode())
    )
    assert tooled.hold_tokens >= plain.hold_tokens + len(msgspec.json.encode(look.schema))


def test_2_02_no_limit_is_passed() -> None:
    """Whatever is limited, dollars, tokens or turns: what was used is within it."""
    for budget in (Budget(usd="0.07"), Budget(tokens=9_000), Budget(turns=3)):
        claude = ScriptedModel(looking)
        with outlast.Outlast("memory://", model=claude) as app:
            run = app.run(spender(look, budget=budget), "Look.")
        billed = [charge.usage for charge in claude.bill]
        tokens = sum(sum(n for name, n in use.items() if name in TOKENS) for use in billed)
        assert run.status == "stopped"
        assert claude.billed_nano <= (budget.limits.nano or 10**12)
        assert tokens <= (budget.tokens or 10**9)
        assert len(billed) <= (budget.turns or 10**3)


TOKENS = {
    *("input_tokens", "output_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens"),
}


def test_2_03_an_error_after_billing_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was billed, and came to nothing, counts with the most that it can have cost."""
    monkeypatch.setattr(decide, "BACKOFF_S", (0.001,) * 7)
    lost = Fault(kind="status", status=500, billed=True)
    claude = ScriptedModel(faulty(answering, once(1, lost)))
    with outlast.Outlast("memory://", model=claude) as app:
        run = app.run(spender(), "Well?", run_id="r")
        doubts = [r.event for r in app.log("r") if isinstance(r.event, ModelCallInDoubt)]
    assert len(claude.bill) == 2
    assert doubts[0].cost_nano >= claude.bill[0].nano_usd
    assert run.cost_nano == doubts[0].cost_nano + claude.bill[1].nano_usd


def test_2_04_cached_tokens_are_counted() -> None:
    """What is written to the prompt cache, and read from it, is charged as it is billed."""
    claude = ScriptedModel(looking)
    with outlast.Outlast("memory://", model=claude) as app:
        long = spender(look, instructions="Look. " * 2_000, budget=Budget(turns=4))
        run = app.run(long, "Go.", run_id="r")
        replies = [r.event for r in app.log("r") if isinstance(r.event, ModelCallSucceeded)]
    assert any(reply.cache_read for reply in replies)
    assert any(reply.cache_written for reply in replies)
    assert run.cost_nano == claude.billed_nano
    billed = (n for charge in claude.bill for name, n in charge.usage.items() if name in TOKENS)
    assert run.tokens == sum(billed)


def test_2_05_that_the_money_is_gone_is_no_answer() -> None:
    """A run that a budget stops has no answer; why it has none is said elsewhere, and raised."""
    with outlast.Outlast("memory://", model=ScriptedModel(looking)) as app:
        run = app.run(spender(look, budget=Budget(turns=2)), "Look.")
    assert (run.status, run.answer) == ("stopped", None)
    assert "budget" in run.why
    with pytest.raises(RunStopped):
        run.result()


def test_2_06_an_answer_that_took_the_last_token_is_an_answer() -> None:
    """A reply that uses all there is completes the run."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.run(spender(), "Well?", run_id="r")
        (first,) = intents(app, "r")

    def greedy(request: dict[str, Any], attempt: int) -> Any:
        prompt = first.hold_tokens - first.max_tokens
        usage = {"input_tokens": prompt, "output_tokens": first.max_tokens}
        return say("All of it.", usage=usage)

    exactly = Budget(tokens=first.hold_tokens, usd=usd(first.hold_nano), turns=1)
    with outlast.Outlast("memory://", model=ScriptedModel(greedy)) as app:
        run = app.run(spender(budget=exactly), "Well?", run_id="r")
    assert (run.status, run.answer, run.tokens) == ("completed", "All of it.", first.hold_tokens)


def test_2_07_there_are_dollars() -> None:
    """A run costs dollars, to the nano-dollar as billed, and can be limited in them."""
    claude = ScriptedModel(answering)
    with outlast.Outlast("memory://", model=claude) as app:
        run = app.run(spender(), "Well?")
        assert run.cost_usd * 10**9 == claude.billed_nano > 0
        with pytest.raises(outlast.BudgetTooSmall):
            app.run(spender(budget=Budget(usd="0.000001")), "Well?")
    assert len(claude.bill) == 1


def test_2_08_callers_at_the_same_time_spend_a_limit_once() -> None:
    """Twenty runs at once, on what fits three of them, are billed no more than that."""
    claude = ScriptedModel(lambda r, a: say("Yes. " * 600, total_s=0.01), paced=True)
    with outlast.Outlast("memory://", model=claude) as app:
        cost = app.run(spender(), "Well?").cost_nano
        limit = 3 * cost + cost // 2
        app.set_budget("tenant:acme", usd=usd(limit), reason="a test")

        async def all_of_them() -> None:
            runs = (app.arun(spender(), "Well?", tenant="acme") for _ in range(20))
            await asyncio.gather(*runs)

        asyncio.run(all_of_them())
    assert 0 < claude.billed_nano - cost <= limit


@pytest.mark.parametrize(
    ("scope", "window"),
    [("tenant:acme", "total"), ("tenant:acme", "day"), ("fleet", "month"), ("run:r", "total")],
)
def test_2_09_a_restart_forgets_nothing(scope: str, window: Any, tmp_path: Path) -> None:
    """What a run, a tenant, a day or a month has spent is spent when the process is another one."""
    url = f"sqlite:///{tmp_path}/a.db"
    claude, day = ScriptedModel(looking), datetime.now(UTC).date()
    with outlast.Outlast(url, model=claude) as app:
        limit = {"turns": 2, "window": window}
        app.set_budget(scope, **limit, reason="a test")  # type: ignore[arg-type]
        app.run(spender(look), "Look.", run_id="r", tenant="acme")
    for _ in range(2):
        with outlast.Outlast(url, model=claude) as app:
            again = app.run(spender(look), "Look.", run_id="r", tenant="acme")
            assert again.status == "stopped" or day != datetime.now(UTC).date()
    assert len(claude.bill) == 2 or day != datetime.now(UTC).date(), "at midnight there is more"


ANSWERS = (408, 409, 424, 499, 400, 401, 402, 403, 404, 412, 413, 422, 429, 431)
"""Those first that are tried again, as what is no answer is."""


def test_2_10_a_circuit_breaker_has_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """No 4xx opens it; an outage does, for all who ask, until those who try it are answered."""
    monkeypatch.setattr(decide, "BACKOFF_S", (0.001,) * 7)
    down: list[int] = []
    clock = Clock(monkeypatch)

    def script(request: dict[str, Any], attempt: int) -> Any:
        refused = (int(word) for word in last_text(request).split() if word.isdigit())
        status = next(iter([*down, *refused]), 0)
        if status == 429 and attempt > 2 * decide.ATTEMPTS:
            return say("Yes.")  # it is waited for as long as it lasts
        return Fault(kind="status", status=status) if status else say("Yes.")

    claude = ScriptedModel(script)
    breaker = outlast.Breaker(calls=3, open_s=6, longest_s=6, probes=2)
    with outlast.Outlast("memory://", model=claude, breaker=breaker) as app:

        def changes() -> list[str]:
            records = app.journal.read_all(limit=100_000)
            events = [r.event for r in records]
            return [one.status for one in events if isinstance(one, BreakerChanged)]

        def ask(question: str, run_id: str) -> outlast.Run:
            return app.run(spender(), question, run_id=run_id, wait_s=0)

        for status in ANSWERS:
            for n in range(2):
                ask(f"status {status}", f"r{status}.{n}")
                assert changes() == []
        assert len(claude.calls) > 2 * len(ANSWERS)
        assert ask("Well?", "well").answer == "Yes."
        down.append(529)
        monkeypatch.setattr(decide, "BACKOFF_S", (60.0,) * 7)
        for n in range(1_000):
            if changes():
                break
            ask("Well?", f"down{n}")
        assert changes() == ["open"]
        asked = len(claude.calls)
        assert ask("Well?", "waits").why.startswith(f"waiting for {OPUS}, which does not answer, ")
        assert len(claude.calls) == asked
        down.clear()
        clock.jump(10)
        for n in range(2):
            ask("Well?", f"tries{n}")
        assert changes()[-2:] == ["half_open", "closed"]
        assert ask("Well?", "last").answer == "Yes."


def test_2_11_a_long_conversation_can_be_continued() -> None:
    """A history that is too dear for what is left stops the run, which more money gets going."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if "enough" in last_text(request):
            return say("That was all.")
        return looking(request, attempt) if turn_number(request) < 20 else say("Done.")

    claude = ScriptedModel(script)
    with outlast.Outlast("memory://", model=claude) as app:
        poor = spender(look, budget=Budget(usd="0.08"))
        stopped = app.run(poor, "Look.", run_id="r")
        assert (stopped.status, app.resume("r", poor).status) == ("stopped", "stopped")
        app.set_budget("run:r", usd=5, reason="worth it")
        assert app.resume("r", poor).answer == "Done."
        assert app.send("r", "That is enough.", agent=poor).answer == "That was all."
    assert len(json.loads(claude.calls[-1])["messages"]) == 41, "and nothing of it was left out"


def test_2_12_no_attempt_is_made_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that would retry by itself does not: each request has an intent of its own."""
    monkeypatch.setattr(decide, "BACKOFF_S", (0.001,) * 7)
    asked: list[httpx2.Request] = []

    def overloaded(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(500 if len(asked) % 2 else 529)

    transport = httpx2.AsyncClient(transport=httpx2.MockTransport(overloaded))
    client = anthropic.AsyncAnthropic(api_key="none", max_retries=5, http_client=transport)
    with outlast.Outlast("memory://", client=client, breaker=None) as app:
        run = app.run(spender(), "Well?", run_id="r")
        held = intents(app, "r")
    assert run.status == "failed"
    assert len(asked) == len(held) == decide.ATTEMPTS
    assert run.cost_nano == sum(intent.hold_nano for intent in held[::2])
