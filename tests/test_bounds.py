"""When a prompt is longer than its bytes allow: it is told at once, and every run holds more.

The scripted Claude of these tests meters three tokens for each byte of a request, which no
tokenizer of bytes does; what it bills is what the runs are judged by.
"""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

import outlast
from cli.console import documents, typed
from outlast.agent import Budget
from outlast.events import BoundExceeded, BoundRaised, ModelCallStarted, ModelCallSucceeded
from outlast.journal import Record
from outlast.limits import Budgets
from outlast.limits import fold as fold_budgets
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import Charge, ScriptedModel
from outlast.state import fold
from outlast.stores import open_store
from outlast.testing.simulation import World
from outlast.testing.simulation import run as simulate

OPUS = "claude-opus-5-5"
ROUNDS = 4
LONG = "Go on, and on. " * 1_500
"""So long a question that what outlast adds for framing hardly matters."""


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return f"{word} means what it says"


def rounds(request: dict[str, Any], **usage: Any) -> Any:
    """Look a new word up each round, then answer."""
    turn = turn_number(request)
    if turn == ROUNDS:
        return say("Enough.", usage=usage)
    return say(tool_use("look", {"word": f"word {turn}"}), usage=usage)


def metered(request: dict[str, Any], times: int = 3) -> dict[str, Any]:
    """Return a usage that counts so many tokens for each byte of a request."""
    kept = {name: request[name] for name in ("system", "tools", "messages") if name in request}
    return {"input_tokens": times * len(msgspec.json.encode(kept))}


def longer(request: dict[str, Any], attempt: int) -> Any:
    return rounds(request, **metered(request))


def honest(request: dict[str, Any], attempt: int) -> Any:
    return rounds(request)


def asker(**more: Any) -> outlast.Agent:
    given = {"model": OPUS, "tools": [look], "budget": Budget(), "max_tokens": 2_000, "cache": None}
    return outlast.Agent("asker", **(given | more))


def told(journal: Any, run_id: str = "r") -> list[BoundExceeded]:
    return [
        record.event
        for record in journal.read(f"run:{run_id}")
        if isinstance(record.event, BoundExceeded)
    ]


def fleet(journal: Any) -> list[tuple[str, int]]:
    records = journal.read("~budgets")
    raised = [record.event for record in records if isinstance(record.event, BoundRaised)]
    return [(event.model, event.percent) for event in raised]


def overdrawn(bill: list[Charge], journal: Any, run_id: str) -> list[int]:
    """Return which calls of a run, from 1, were billed more than they held, in money or tokens."""
    events = [record.event for record in journal.read(f"run:{run_id}")]
    held = [event for event in events if isinstance(event, ModelCallStarted)]
    paid = [event for event in events if isinstance(event, ModelCallSucceeded)]
    assert len(held) == len(paid) == len(bill)
    return [
        number
        for number, (hold, line) in enumerate(zip(held, bill, strict=True), start=1)
        if line.nano_usd > hold.hold_nano
        or line.usage["input_tokens"] > hold.hold_tokens - hold.max_tokens
    ]


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"


def test_the_next_call_of_the_run_holds_more(url: str) -> None:
    """One call passes its bound and is told in its own commit; none after it does."""
    model = ScriptedModel(longer)
    with outlast.Outlast(url, model=model) as app:
        assert app.run(asker(), LONG, run_id="r").status == "completed"
        assert overdrawn(model.bill, app.journal, "r") == [1]
        (event,) = told(app.journal)
        first = model.bill[0].usage["input_tokens"]
        assert event.actual_tokens == first > event.bound_tokens
        assert event.percent == -(-100 * first // event.bound_tokens)
        records = app.log("r")
        kinds = [type(record.event) for record in records]
        at = kinds.index(BoundExceeded)
        assert kinds[at - 1] is ModelCallSucceeded
        assert records[at].at == records[at - 1].at, "one commit"


def test_other_runs_hold_more_from_their_first_call(url: str) -> None:
    """What one run found holds for all of that model, and for no other model."""
    with outlast.Outlast(url, model=ScriptedModel(longer)) as app:
        app.run(asker(), LONG, run_id="r")
        (event,) = told(app.journal)
        assert fleet(app.journal) == [(OPUS, event.percent)]
    if url == "memory://":
        return
    model = ScriptedModel(longer)
    with outlast.Outlast(url, model=model) as app:
        app.run(asker(), LONG, run_id="s")
        assert overdrawn(model.bill, app.journal, "s") == []
        assert told(app.journal, "s") == []
        other = asker(model="claude-haiku-5-5")
        app.run(other, LONG, run_id="t")
        assert len(told(app.journal, "t")) == 1
        assert [model for model, _ in fleet(app.journal)] == [OPUS, "claude-haiku-5-5"]


def test_a_run_that_is_under_way_holds_more_from_its_next_call(tmp_path: Path) -> None:
    """Between two calls of a run another process finds the bound too low: the second knows it."""
    url = f"sqlite:///{tmp_path}/a.db"

    @outlast.tool(effect="read")
    def look(word: str) -> str:
        """Look a word up, while another run finds out."""
        if word == "word 1":
            with outlast.Outlast(url, model=ScriptedModel(longer)) as other:
                other.run(asker(), LONG, run_id="s")
        return word

    def later(request: dict[str, Any], attempt: int) -> Any:
        return rounds(request, input_tokens=8_000 if turn_number(request) == 1 else 20_000)

    model = ScriptedModel(later)
    with outlast.Outlast(url, model=model) as app:
        assert app.run(asker(tools=[look]), LONG, run_id="r").status == "completed"
        assert overdrawn(model.bill, app.journal, "r") == []
        assert len(told(app.journal, "s")) == 1


def test_the_asks_of_a_flow_share_what_one_of_them_found() -> None:
    """A second agent of the same run holds more, whatever its model."""

    @outlast.flow
    async def two(run: outlast.Run, given: str) -> str:
        await run.ask(asker(), given)
        other = outlast.Agent("other", model="claude-sonnet-5-5", cache=None)
        return await run.ask(other, given)

    model = ScriptedModel(longer)
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(two, LONG, run_id="r").status == "completed"
        assert overdrawn(model.bill, app.journal, "r") == [1]


VICTIM = """
import os, sys
sys.path[:0] = sys.argv[3:]
import outlast
from outlast.models.scripted import ScriptedModel
from outlast.runner import Runner
import test_bounds

def die(*_):
    os._exit(9)

if sys.argv[2] == "die":
    Runner.raise_bounds = die
with outlast.Outlast(sys.argv[1], model=ScriptedModel(test_bounds.longer)) as app:
    app.run(test_bounds.asker(), test_bounds.LONG, run_id="r")
"""


def victim(url: str, what: str) -> int:
    paths = [str(Path(__file__).parent), str(Path(outlast.__file__).parents[1])]
    given = [sys.executable, "-c", VICTIM, url, what, *paths]
    return subprocess.run(given, timeout=60, check=False).returncode


def test_another_process_holds_more_at_once(tmp_path: Path) -> None:
    """An application that has read all budgets reads what another process has found since."""
    url = f"sqlite:///{tmp_path}/a.db"
    scripts = [honest]

    def latest(request: dict[str, Any], attempt: int) -> Any:
        return scripts[-1](request, attempt)

    model = ScriptedModel(latest)
    with outlast.Outlast(url, model=model) as app:
        app.run(asker(), LONG, run_id="before")
        assert victim(url, "live") == 0
        scripts.append(longer)
        model.bill.clear()
        app.run(asker(), LONG, run_id="after")
        assert model.bill[0].usage["input_tokens"] > len(LONG) * 2
        assert overdrawn(model.bill, app.journal, "after") == []


def test_a_run_that_died_before_it_told_the_others_does_so(tmp_path: Path) -> None:
    """Killed between its own record and the fleet's, a run tells the fleet when it goes on."""
    url = f"sqlite:///{tmp_path}/a.db"
    assert victim(url, "die") == 9
    model = ScriptedModel(longer)
    with outlast.Outlast(url, model=model) as app:
        (event,) = told(app.journal)
        assert fleet(app.journal) == []
        app.run(asker(), LONG, run_id="r")
        assert fleet(app.journal) == [(OPUS, event.percent)]
        model.bill.clear()
        app.run(asker(), LONG, run_id="s")
        assert overdrawn(model.bill, app.journal, "s") == []
        assert fleet(app.journal) == [(OPUS, event.percent)]


def test_no_crash_loses_what_was_found() -> None:
    """Wherever the process dies, no call that follows the record passes what it holds."""
    for point in itertools.count(1):
        world, journal = World(longer, crash_at=[point]), open_store("memory://")
        state, crashes = simulate(world, journal, asker(), LONG)
        events = [record.event for record in journal.read("run:r")]
        found = next(at for at, event in enumerate(events) if isinstance(event, BoundExceeded))
        calls = {
            event.call_id: event for event in events[found:] if isinstance(event, ModelCallStarted)
        }
        paid = [event for event in events[found:] if isinstance(event, ModelCallSucceeded)]
        for event in paid:
            held = calls[event.call_id]
            assert event.cost_nano <= held.hold_nano
            assert event.tokens <= held.hold_tokens
        assert len(told(journal)) == 1
        assert state.status == "completed"
        if not crashes:
            assert len(paid) == ROUNDS - 1
            break


DEAR = [
    {"type": "message", "model": "claude-haiku-5-5", "input_tokens": 100, "output_tokens": 10},
    {"type": "fallback_message", "model": "claude-fable-5-2", "input_tokens": 900},
]


def test_money_that_was_short_is_held_from_then_on() -> None:
    """A reply by a dearer model costs more than was held; the next one that does is held for."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        parts = [DEAR[0], DEAR[1] | {"output_tokens": 3_000}]
        return rounds(request, iterations=parts)

    model = ScriptedModel(script)
    with outlast.Outlast("memory://", model=model) as app:
        app.run(asker(model="claude-haiku-5-5", max_tokens=3_100), LONG, run_id="r")
        (event,) = told(app.journal)
        held = [r.event.hold_nano for r in app.log("r") if isinstance(r.event, ModelCallStarted)]
        paid = [line.nano_usd for line in model.bill]
        assert event.over_nano == paid[0] - held[0] > 0
        assert event.actual_tokens <= event.bound_tokens
        assert all(cost <= hold for cost, hold in zip(paid[1:], held[1:], strict=True))


def test_prompts_that_are_read_in_turn_are_no_breach() -> None:
    """Several prompts of one call, each within its bound, and all within what was held."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        prompt = -(-len(msgspec.json.encode(request["messages"])) // 2) + 500
        part = {"type": "message", "input_tokens": prompt, "output_tokens": 5}
        return rounds(request, iterations=[part, part])

    with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
        app.run(asker(), LONG, run_id="r")
        assert told(app.journal) == []


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
def test_it_is_an_error_in_the_log(level: int, caplog: pytest.LogCaptureFixture) -> None:
    """One line at `ERROR`, with the figures, also where nothing less is listened to."""
    with (
        caplog.at_level(level, "outlast"),
        outlast.Outlast("memory://", model=ScriptedModel(longer)) as app,
    ):
        app.run(asker(), LONG, run_id="r")
        (event,) = told(app.journal)
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.run_id == "r"
    assert f"bound_tokens={event.bound_tokens} actual_tokens={event.actual_tokens}" in line.message


def test_an_operator_sees_it(tmp_path: Path) -> None:
    """`budget show` names the model and by how much its calls hold more."""
    url = f"sqlite:///{tmp_path}/a.db"
    with outlast.Outlast(url, model=ScriptedModel(longer)) as app:
        app.run(asker(), LONG, run_id="r")
        ((_, percent),) = fleet(app.journal)
    shown = typed("budget", "show", "--store", url).stdout
    assert f"model:{OPUS} calls hold {percent / 100:g} times their bound" in " ".join(shown.split())
    (listed,) = documents(typed("budget", "show", "--store", url, "--json").stdout)
    assert listed == [{"scope": f"model:{OPUS}", "bound_percent": percent}]


def test_a_budget_is_kept_by_what_calls_hold_from_then_on() -> None:
    """After the one call that passed its bound, no budget is passed by any other."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        word = {"word": f"word {turn_number(request)}"}
        return say(tool_use("look", word), usage=metered(request))

    model = ScriptedModel(script)
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(asker(budget=Budget(usd="0.5")), LONG, run_id="r")
        assert run.status == "stopped"
        assert overdrawn(model.bill, app.journal, "r") == [1]
        assert sum(line.nano_usd for line in model.bill) <= 5 * 10**8


def test_a_run_tells_the_others_once(url: str) -> None:
    """A run that is resumed after it told what it found says nothing more."""
    with outlast.Outlast(url, model=ScriptedModel(longer)) as app:
        assert app.run(asker(budget=Budget(turns=2)), LONG, run_id="r").status == "stopped"
        app.set_budget("run:r", turns=9, reason="a test")
        assert app.run(asker(budget=Budget(turns=2)), LONG, run_id="r").status == "completed"
        assert len(fleet(app.journal)) == 1


def test_a_factor_is_never_lowered() -> None:
    """Whatever comes later, and in whatever order, the greatest factor holds."""
    raised = [BoundRaised(model=OPUS, percent=percent) for percent in (150, 300, 200)]
    records = [Record("~budgets", at, at, at, 0, event) for at, event in enumerate(raised, 1)]
    assert fold_budgets(records, Budgets()).factors == {OPUS: 300}
    with outlast.Outlast("memory://", model=ScriptedModel(longer)) as app:
        app.run(asker(), LONG, run_id="r")
        state = fold(app.journal.read("run:r"))
        (event,) = told(app.journal)
    less = replace(event, percent=101)
    later = Record("run:r", state.next_seq, 1, 1, 1, less)
    assert fold([later], state).factors == {OPUS: event.percent}


def test_fees_of_searches_raise_no_bound() -> None:
    """What searches cost is told where it passes what was held, and is no word about prompts."""

    def searching(request: dict[str, Any], attempt: int) -> Any:
        used = {"server_tool_use": {"web_search_requests": 20}} if turn_number(request) == 1 else {}
        return rounds(request, **used)

    model = ScriptedModel(searching)
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(asker(), LONG, run_id="r").status == "completed"
        (event,) = told(app.journal)
        assert 0 < event.over_nano <= 20 * 10**7, "of the fees, at $0.01 each"
        assert overdrawn(model.bill, app.journal, "r") == [1]
        assert event.percent == 100
        assert fleet(app.journal) == []
        fees = held(app.journal, "r")
    with outlast.Outlast("memory://", model=ScriptedModel(honest)) as app:
        app.run(asker(), LONG, run_id="r")
        assert fees == held(app.journal, "r"), "no call holds more for it"


def held(journal: Any, run_id: str) -> list[int]:
    """Return what each call of a run held, in tokens."""
    events = [record.event for record in journal.read(f"run:{run_id}")]
    return [event.hold_tokens for event in events if isinstance(event, ModelCallStarted)]
