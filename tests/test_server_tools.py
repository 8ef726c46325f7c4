"""What server tools may cost is held before a call, and their fees are in the ledger.

After each use Claude is asked again, with a prompt that nobody sees.  The judge is the simulator's
bill: of what a scripted Claude metered, and of the searches that it made.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

import outlast
from cli.console import typed
from conftest import SOAK
from outlast.agent import Budget
from outlast.conversation import evolve, opened
from outlast.errors import BudgetTooSmall, InvalidAgent
from outlast.events import (
    BoundExceeded,
    CacheMissed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    Spec,
    TokensCounted,
)
from outlast.journal import Record
from outlast.models import catalogue
from outlast.models.script import (
    Fault,
    answered_by,
    last_text,
    say,
    server_tool_result,
    server_tool_use,
    tool_use,
    turn_number,
)
from outlast.models.scripted import ScriptedModel
from outlast.prices import (
    Terms,
    affordable,
    affordable_tokens,
    bound_within,
    rates,
    terms_of,
    worst_case,
    worst_tokens,
)
from outlast.stores import open_store
from outlast.testing.simulation import World
from outlast.testing.simulation import run as simulate

OPUS, HAIKU = "claude-opus-5-5", "claude-haiku-4-5"
FEE = 10_000_000
MAX_TOKENS = 2_000
CALLS = 10_000 if SOAK else 240


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word * 2


def search(uses: int = 2, **more: Any) -> outlast.ServerTool:
    return outlast.server_tool("web_search", max_uses=uses, **more)


def agent(*tools: Any, **more: Any) -> outlast.Agent:
    given = {"model": HAIKU, "tools": tools, "max_tokens": MAX_TOKENS, "budget": Budget()}
    return outlast.Agent("a", **(given | more))


def events(journal: Any, kind: Any, run_id: str = "r") -> list[Any]:
    records = journal.read(f"run:{run_id}")
    return [record.event for record in records if isinstance(record.event, kind)]


FOUND = {"type": "web_search_result", "url": "https://a.example/", "title": "Owls"}
FOUND |= {"encrypted_content": "b3dscw==", "page_age": None}


def searched(*, found: Any = (FOUND,)) -> list[Any]:
    return [
        server_tool_use("web_search", {"query": "owls"}),
        server_tool_result("web_search", list(found)),
    ]


# ── any call, of any model ──────────────────────────────────────────────────────────────────────

FAULTS = {
    "billed 500": Fault(kind="status", status=500, billed=True),
    "cut": Fault(kind="cut", after_events=3),
    "reset": Fault(kind="reset"),
}


def drawn(seed: int) -> tuple[outlast.Agent, str, Counter[str]]:
    """Draw an agent with server tools, and calls that use them as much as they may."""
    dice = random.Random(seed)  # noqa: S311  (a test)
    model = dice.choice([*catalogue.MODELS, *["claude-haiku-5-5"] * 4])
    known = catalogue.MODELS[model]
    limits = {"web_search": dice.choice([0, 1, 2, 5]), "web_fetch": dice.choice([0, 1, 3])}
    tools = [outlast.server_tool(name, max_uses=most) for name, most in limits.items() if most]
    parameters: dict[str, Any] = {}
    if known.fast and dice.random() < 0.3:
        parameters["speed"] = "fast"
    if geo := dice.choice([None, "us", "global"]):
        parameters["inference_geo"] = geo
    cache = dice.choice([None, "5m", "1h"])
    met = Counter([model, f"cache {cache}", f"geo {geo}"])
    turns = dice.randint(1, 3)
    plan = []
    for _ in range(turns):
        used = {name: dice.choice([most, dice.randint(0, most)]) for name, most in limits.items()}
        # What is searched in the last call may fill the window; else the next one would not fit.
        most = known.context if turns == 1 else known.context // 40
        again = [dice.choice([most, dice.randint(1, most)]) for _ in range(sum(used.values()))]
        fault = dice.choice([*FAULTS]) if dice.random() < 0.2 else ""
        met.update([fault] if fault else [])
        met.update(["searches"] if used["web_search"] else [])
        plan.append({"used": used, "again": again, "fault": fault, "seed": dice.random()})
    of = agent(
        look, *tools, model=model, cache=cache, parameters=parameters, budget=Budget(turns=12)
    )
    plan_of = {"turns": plan, "cache": cache, "geo": geo, "speed": parameters.get("speed")}
    return of, msgspec.json.encode(plan_of).decode(), met


def metering(request: dict[str, Any], attempt: int) -> Any:
    """Say what the plan wants of this turn, and meter what it could have been at most."""
    plan = msgspec.json.decode(last_text(request | {"messages": request["messages"][:1]}))
    number = turn_number(request)
    turn = plan["turns"][number - 1]
    dice = random.Random(turn["seed"])  # noqa: S311  (a test)
    sent = {name: request[name] for name in ("tools", "messages") if name in request}
    # A token for each byte, or what the searches before had brought where that is more.
    first = len(msgspec.json.encode(sent))
    if number > 1:
        first = max(first // 4, *plan["turns"][number - 2]["again"], 1)
    usage: Counter[str] = Counter()
    long = 0
    for prompt in (first, *turn["again"]):
        ends = sorted(dice.randint(0, prompt) for _ in range(2))
        parts = [ends[0], ends[1] - ends[0], prompt - ends[1]]
        if plan["cache"] is None:
            parts = [sum(parts), 0, 0]
        elif dice.random() < 0.5:
            parts = [0, 0, prompt]
        usage["input_tokens"] += parts[0]
        usage["cache_read_input_tokens"] += parts[1]
        usage["cache_creation_input_tokens"] += parts[2]
        long += parts[2] if plan["cache"] == "1h" else 0
        usage["output_tokens"] += dice.choice([MAX_TOKENS, dice.randint(1, MAX_TOKENS)])
    short = usage["cache_creation_input_tokens"] - long
    told: dict[str, Any] = dict(usage)
    told["cache_creation"] = {
        "ephemeral_5m_input_tokens": short,
        "ephemeral_1h_input_tokens": long,
    }
    told["inference_geo"] = plan["geo"] or dice.choice(["us", "global"])
    told["server_tool_use"] = {f"{name}_requests": n for name, n in turn["used"].items()}
    told |= {"speed": "fast"} if plan["speed"] else {}
    blocks = [
        block
        for name, uses in turn["used"].items()
        for _ in range(uses)
        for block in (server_tool_use(name, {"q": "x"}), server_tool_result(name, [FOUND]))
    ]
    if number < len(plan["turns"]):
        blocks.append(tool_use("look", {"word": f"w{number}"}))
    else:
        blocks.append({"type": "text", "text": "Done."})
    return _maybe(turn, say(*blocks, usage=told), attempt)


def _maybe(turn: dict[str, Any], said: Any, attempt: int) -> Any:
    if turn["fault"] and attempt == 1:
        return answered_by(FAULTS[turn["fault"]], lambda *_: said, {})
    return said


def test_no_call_costs_more_than_it_holds() -> None:
    """In money and in tokens, with every use made, every window full, and every reply whole."""
    journal, calls, seed = open_store("memory://"), 0, 0
    met: Counter[str] = Counter()
    while calls < CALLS:
        seed += 1
        of, question, kinds = drawn(seed)
        world = World(metering)
        state, _ = simulate(world, journal, of, question, run_id=f"r{seed}")
        assert state.status == "completed", (seed, state.why)
        bill = world.model.bill
        held = events(journal, ModelCallStarted, f"r{seed}")
        assert len(bill) == len(held), seed
        for hold, line in zip(held, bill, strict=True):
            counts = [line.usage[name] for name in _COUNTS]
            assert line.nano_usd <= hold.hold_nano, seed
            assert sum(counts) <= hold.hold_tokens, seed
        assert not events(journal, BoundExceeded, f"r{seed}"), seed
        paid = events(journal, ModelCallSucceeded | ModelCallInDoubt, f"r{seed}")
        for outcome, line in zip(paid, bill, strict=True):
            assert outcome.cost_nano >= line.nano_usd, seed
            if isinstance(outcome, ModelCallSucceeded) and not _has_other_cliffs(of.model):
                assert outcome.cost_nano == line.nano_usd, seed
        assert sum(line.nano_usd for line in bill) <= (of.worst_case().nano or 0), seed
        calls += len(bill)
        met.update(kinds)
    assert {*catalogue.MODELS, *FAULTS, "searches", "cache 1h", "geo us"} <= met.keys()
    fees = sum(line.search_nano for line in journal.rollup())
    assert fees % FEE == 0
    assert fees > 20 * FEE


def _has_other_cliffs(model: str) -> bool:
    """Return whether our table has a price that the judge's has not: sums may be beyond a cliff."""
    return len(rates(model).tiers) > 1 and catalogue.MODELS[model].cliff is None


_COUNTS = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
)


# ── what is held ────────────────────────────────────────────────────────────────────────────────


def rendered(*tools: outlast.ServerTool) -> bytes:
    return msgspec.json.encode([tool.schema for tool in tools])


@pytest.mark.parametrize(
    ("tools", "loops", "fees"),
    [
        ((search(2),), 2, 2 * FEE),
        ((outlast.server_tool("web_fetch", max_uses=3),), 3, 0),
        ((search(2), outlast.server_tool("web_fetch", max_uses=3)), 5, 2 * FEE),
        ((search(20),), 20, 20 * FEE),
        ((outlast.server_tool("web_search"),), 10, 10 * FEE),
        ((outlast.server_tool("code_execution"), search(2)), 10, 2 * FEE),
        ((outlast.server_tool("code_execution"), search(20)), 20, 20 * FEE),
        ((search(2, allowed_callers=["code_execution_20260521"]),), 10, 2 * FEE),
    ],
)
def test_each_use_is_one_more_prompt(tools: Any, loops: int, fees: int) -> None:
    """A window and a reply for each, and a fee for a search; the API's own limit where none is."""
    terms = terms_of(b"{}", cache="5m", tools=rendered(*tools), model=OPUS)
    assert terms == Terms(cache="5m", loops=loops, window=1_000_000, fees_nano=fees)
    plain = worst_case(OPUS, 1_000, 500, Terms(cache="5m"))
    window = worst_case(OPUS, 1_000_000, 500, Terms(cache="5m"))
    assert worst_case(OPUS, 1_000, 500, terms) == plain + loops * window + fees


def test_a_model_to_fall_back_to_may_have_the_widest_window() -> None:
    """Whoever answers within a request may be asked again with all that it can read."""
    fallbacks = b'{"fallbacks":[{"model":"claude-opus-5-5"}]}'
    assert terms_of(fallbacks, tools=rendered(search()), model=HAIKU).window == 1_000_000
    assert terms_of(b"{}", tools=rendered(search()), model=HAIKU).window == 200_000


NO_LIMIT = [
    outlast.server_tool("web_search"),
    outlast.server_tool("web_fetch"),
    outlast.server_tool("code_execution"),
    search(2, allowed_callers=["direct", "code_execution_20260521"]),
]


@pytest.mark.parametrize("tool", NO_LIMIT)
@pytest.mark.parametrize("budget", [Budget(usd=500), Budget(tokens=10**8, turns=2)])
def test_what_nothing_limits_has_no_budget(tool: outlast.ServerTool, budget: Budget) -> None:
    """With dollars or tokens it is refused, and says what to do; without, nothing limits a run."""
    with pytest.raises(InvalidAgent, match=f"how often {tool.name} is used in one call"):
        agent(tool, budget=budget)
    worst = agent(tool, budget=Budget(turns=2)).worst_case()
    assert worst.nano is None
    assert tool.name in worst.why
    if tool.name != "code_execution":
        with pytest.raises(InvalidAgent, match=r"max_uses=…\), for Claude alone"):
            agent(tool, budget=budget)


def test_the_worst_case_of_an_agent_has_them() -> None:
    """Turns: each with its uses and fees.  Tokens: as ever, but they do not limit fees."""
    window = worst_case(HAIKU, 200_000, MAX_TOKENS, Terms(cache="5m"))
    of = agent(search(2), budget=Budget(turns=3))
    assert of.worst_case().nano == 3 * (3 * window + 2 * FEE)
    assert "2 times more" in of.worst_case().why
    fetch = outlast.server_tool("web_fetch", max_uses=2)
    tokens = agent(fetch, budget=Budget(tokens=1_000)).worst_case()
    assert tokens == agent(budget=Budget(tokens=1_000)).worst_case()
    assert agent(search(2), budget=Budget(tokens=1_000)).worst_case().nano is None
    both = agent(search(2), budget=Budget(tokens=1_000, turns=3)).worst_case()
    assert both.nano == 3 * (3 * window + 2 * FEE)


@pytest.mark.parametrize("given", ["usd", "tokens"])
def test_a_budget_holds_the_searches_before_a_call(given: str) -> None:
    """What does not fit is not asked; what fits to the last nano-dollar or token is."""
    with pytest.raises(BudgetTooSmall) as raised:
        tried(Budget(**{given: "0.1" if given == "usd" else 1}))
    smallest = raised.value.smallest_usd if given == "usd" else raised.value.smallest_tokens
    assert tried(Budget(**{given: smallest})).status == "completed"
    less = f"{float(smallest) - 0.001:.4f}" if given == "usd" else int(smallest) - 1
    with pytest.raises(BudgetTooSmall):
        tried(Budget(**{given: less}))


@pytest.mark.parametrize("tools", [(), (search(2),), (search(1), search(3))])
@pytest.mark.parametrize("parameters", [b"{}", b'{"fallbacks":[{"model":"claude-opus-5-5"}]}'])
def test_a_call_shrinks_to_what_fits_exactly(tools: Any, parameters: bytes) -> None:
    """The output that a budget leaves room for is within it, and one token more is not."""
    terms = terms_of(parameters, tools=rendered(*tools), model=HAIKU)
    least = worst_case(HAIKU, 5_000, 1, terms)
    for nano in (least, least + 1, least + 12_345_678, 2 * least):
        fits = affordable(HAIKU, 5_000, nano, terms)
        assert worst_case(HAIKU, 5_000, fits, terms) <= nano
        assert worst_case(HAIKU, 5_000, fits + 1, terms) > nano
        assert affordable(HAIKU, 5_000, least - 1, terms) < 1
    least = worst_tokens(5_000, 1, terms)
    for tokens in (least, least + 1, least + 12_345, 2 * least):
        fits = affordable_tokens(5_000, tokens, terms)
        assert worst_tokens(5_000, fits, terms) <= tokens < worst_tokens(5_000, fits + 1, terms)
        assert bound_within(worst_tokens(5_000, fits, terms), fits, terms) == 5_000


def tried(budget: Budget) -> outlast.Run:
    """Run an agent that searches twice, and see that it is never billed more than the budget."""
    model = ScriptedModel(lambda request, attempt: say(*searched(), *searched(), "Two."))
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(agent(search(2), budget=budget), "Go.")
    billed = sum(line.nano_usd for line in model.bill)
    assert run.cost_nano == billed >= 2 * FEE
    assert budget.limits.nano is None or billed <= budget.limits.nano
    return run


def test_a_budget_of_an_operator_holds_them_too() -> None:
    """Whatever the agent declares: the account holds the windows and the fees."""
    model = ScriptedModel(lambda request, attempt: say(*searched(), "One."))
    with outlast.Outlast("memory://", model=model) as app:
        app.set_budget("fleet", usd="0.50", reason="a test")
        assert app.run(agent(search(2)), "Go.", run_id="r").status == "stopped"
        assert model.bill == []
        app.set_budget("fleet", usd="1.50", reason="a test")
        assert app.resume("r", agent(search(2))).status == "completed"
        (hold,) = events(app.journal, ModelCallStarted)
        assert 2 * FEE < 500_000_000 < hold.hold_nano < 1_500_000_000


def test_a_flow_holds_what_nothing_limits_as_the_api_does() -> None:
    """Ten more prompts: an agent without dollars of its own pays from the budget of its flow."""
    coder = agent(outlast.server_tool("code_execution"), budget=Budget(turns=5))
    model = ScriptedModel(lambda request, attempt: say("Two."))
    window = worst_case(HAIKU, 200_000, MAX_TOKENS, Terms(cache="5m"))
    for usd, status in ((window * 9.5 / 1e9, "stopped"), (window * 11 / 1e9, "completed")):

        @outlast.flow(budget=Budget(usd=round(usd, 4)))
        async def flow(run: outlast.Run) -> str:
            return str(await run.ask(coder, "Go."))

        with outlast.Outlast("memory://", model=model) as app:
            assert app.run(flow, run_id="f").status == status


def test_fees_that_were_held_are_no_excess() -> None:
    """Up to `max_uses` nothing is told; a search more is, and says nothing of a prompt's length."""
    of = agent(search(2))
    for uses, told in ((2, 0), (400, 1)):
        usage = {"server_tool_use": {"web_search_requests": uses}}
        full = {"input_tokens": 1_000, "output_tokens": 10}
        model = ScriptedModel(lambda _, attempt, u=usage | full: say(*searched(), "Hm.", usage=u))
        with outlast.Outlast("memory://", model=model) as app:
            app.run(of, "Go.", run_id="r")
            found = events(app.journal, BoundExceeded)
            assert len(found) == told
            assert all(event.percent == 100 for event in found)


def test_what_cost_more_than_was_held_is_held_the_next_time() -> None:
    """Fees that were held are no excuse for it, and sums of prompts are no prompt."""
    usage = {
        "input_tokens": 0,
        "cache_creation_input_tokens": 400_000,
        "output_tokens": 3 * MAX_TOKENS,
        "inference_geo": "us",  # which nobody asked for
    }
    of = agent(search(2), parameters={"inference_geo": "global"})
    model = ScriptedModel(lambda *_: say(*searched(), *searched(), "Two.", usage=usage))
    with outlast.Outlast("memory://", model=model) as app:
        for run_id in "rs":
            app.run(of, "Go.", run_id=run_id)
        (told,) = events(app.journal, BoundExceeded)
        assert told.over_nano > 2 * FEE
        assert told.percent < 1_500
        (hold,) = events(app.journal, ModelCallStarted, "s")
        assert hold.hold_nano >= model.bill[1].nano_usd


# ── what comes after a search ───────────────────────────────────────────────────────────────────


def played(script: Any, of: outlast.Agent) -> tuple[ScriptedModel, Any]:
    world, journal = World(script), open_store("memory://")
    state, _ = simulate(world, journal, of, "Go.", run_id="r")
    assert state.status == "completed", state.why
    return world.model, journal


def test_what_was_found_beside_a_call_of_ours_is_in_the_next_prompt() -> None:
    """Nobody has read it yet, so it was not metered; the next call holds it all the same."""
    large = [FOUND | {"encrypted_content": "b3ds" * 40_000}]

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return say("Two.")
        few = {"input_tokens": 2_000, "output_tokens": 90}
        return say(*searched(found=large), tool_use("look", {"word": "a"}), usage=few)

    model, journal = played(script, agent(search(1), look, model=OPUS))
    second = events(journal, ModelCallStarted)[1]
    plain = second.hold_tokens - 1_000_000 - 2 * MAX_TOKENS
    prompt = sum(model.bill[1].usage[name] for name in _COUNTS[:3])
    assert plain >= prompt > 30_000
    assert not events(journal, TokensCounted), "its bytes are known"


def test_sums_of_prompts_do_not_end_a_run() -> None:
    """Where they would fill the window, the API is asked how long the conversation really is."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return say("Two.")
        sums = {"input_tokens": 300_000, "output_tokens": 400}
        return say(*searched(), *searched(), tool_use("look", {"word": "a"}), usage=sums)

    _, journal = played(script, agent(search(2), look))
    assert len(events(journal, TokensCounted)) == 1


def test_sums_of_prompts_say_nothing_of_the_cache() -> None:
    """What several prompts read together is not expected of the next one."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return say("Two.", usage={"cache_read_input_tokens": 5_000, "input_tokens": 9})
        sums = {"cache_read_input_tokens": 12_000, "cache_creation_input_tokens": 3_000}
        return say(*searched(), tool_use("look", {"word": "a"}), usage=sums)

    _, journal = played(script, agent(search(2), look))
    assert not events(journal, CacheMissed)


def test_pages_that_were_fetched_are_counted() -> None:
    """What a PDF comes to is not known by its bytes, so the API is asked before the next call."""
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    page = {
        "type": "web_fetch_result",
        "url": "https://a.example/a.pdf",
        "content": {"type": "document", "source": source},
    }

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) > 1:
            return say("Two.")
        asked = server_tool_use("web_fetch", {"url": page["url"]})
        return say(asked, server_tool_result("web_fetch", page), tool_use("look", {"word": "a"}))

    of = agent(outlast.server_tool("web_fetch", max_uses=1), look)
    _, journal = played(script, of)
    assert len(events(journal, TokensCounted)) == 1


# ── what is told ────────────────────────────────────────────────────────────────────────────────


def test_costs_tell_the_fees(tmp_path: Path) -> None:
    """`outlast costs` says what searches cost, to people and to programs."""
    url = f"sqlite:///{tmp_path}/a.db"
    model = ScriptedModel(lambda request, attempt: say(*searched(), *searched(), "Two."))
    with outlast.Outlast(url, model=model) as app:
        app.run(agent(search(2)), "Go.")
    told = typed("costs", "--store", url)
    assert "Of it, for web searches: $0.02" in told.output
    (line,) = msgspec.json.decode(typed("costs", "--store", url, "--by", "tool", "--json").output)
    assert line["search_nano"] == 2 * FEE


def test_what_the_api_says_of_its_tools_is_held() -> None:
    """A request has the type of such a tool only, and the prompt what Claude is told of it."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say("Two.", usage={"input_tokens": 3_500, "cache_creation_input_tokens": 0})

    def shell(command: str = "", *, restart: bool = False) -> str: ...

    for tool in (outlast.tool(client="bash")(shell), search(1)):
        model, journal = played(script, agent(tool))
        (hold,) = events(journal, ModelCallStarted)
        assert model.bill[0].usage["input_tokens"] == 3_500
        again = 0 if tool.name == "bash" else 200_000 + MAX_TOKENS
        assert hold.hold_tokens - again - MAX_TOKENS >= 3_500


def test_odd_results_of_server_tools_are_no_evidence_and_stop_nothing():
    """What nobody can read is carried as it came; a run that has it can be gone on with."""
    odd = [
        {
            "type": "server_tool_use",
            "id": "srvtoolu_1",
            "name": "web_search",
            "input": {},
            "text": 5,
        },
        {"type": "web_search_tool_result", "tool_use_id": None, "content": [{"url": "x"}]},
        {"type": "text", "text": "Well."},
    ]
    said = ModelCallSucceeded(
        ask_id="ask-1",
        call_id="ask-1.m1",
        content=Raw(msgspec.json.encode(odd)),
        stop_reason="end_turn",
        usage=Raw(b'{"input_tokens":1,"output_tokens":1}'),
        cost_nano=1,
        tokens=2,
    )
    fresh = opened("ask-1", Spec(agent="a", model="claude-haiku-5-5", max_tokens=9))
    after = evolve(fresh, Record("run:r", 5, 5, 0, 1, said))
    assert list(after.found) == []
    assert after.replied
