"""What was spent: the roll-up adds up to what the runs were charged."""

import csv
import io
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from agents import LONG_QUESTION, Effects, claude, cut_off, idle
from agents import agent as crash_agent

import outlast
from outlast.cli import exits
from outlast.journal import Journal, Posting
from outlast.models.script import Fault, any_of, faulty, once, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from outlast.views.costs import GROUPS, Cost, costs, dearest, forecast, total
from stubs import agent as stub

HOUR = 3_600 * 10**9


def at(*date: int) -> int:
    return int(datetime(*date, tzinfo=UTC).timestamp()) * 10**9  # type: ignore[misc]


def line(hour: int, agent: str, nano: int, **more: Any) -> Posting:
    return Posting(hour=hour, agent=agent, settled_nano=nano, **({"calls": 1} | more))


LINES = [
    line(at(2026, 10, 31, 23), "a", 5, tenant="acme", model="m1", version="v1", tool="fetch"),
    line(at(2026, 11, 1, 0), "b", 7, model="m2", version="v1", in_doubt_nano=2, calls_in_doubt=1),
    line(at(2026, 11, 2, 9), "a", 1, tenant="acme", model="m1", version="v2", output_tokens=3),
]


@pytest.mark.parametrize(
    ("by", "found"),
    [
        ("month", [("2026-10", 5), ("2026-11", 10)]),
        ("day", [("2026-10-31", 5), ("2026-11-01", 9), ("2026-11-02", 1)]),
        ("agent", [("b", 9), ("a", 6)]),
        ("version", [("b@v1", 9), ("a@v1", 5), ("a@v2", 1)]),
        ("tenant", [("(none)", 9), ("acme", 6)]),
        ("model", [("m2", 9), ("m1", 6)]),
        ("tool", [("(none)", 10), ("fetch", 5)]),
    ],
)
def test_costs_are_added_up(by: Any, found: list[tuple[str, int]]) -> None:
    """Times come in order, everything else dearest first; in doubt counts as spent."""
    assert [(cost.name, cost.nano) for cost in costs(LINES, by)] == found
    assert total(costs(LINES, by)).nano == 15
    assert total(costs(LINES, by)).tokens == 3


def test_every_group_is_tried() -> None:
    """No way to add up is left out of the table above."""
    assert set(GROUPS) == {"month", "day", "agent", "version", "tenant", "model", "tool"}


def test_what_came_from_the_cache() -> None:
    """The cached part is that of all prompts, fresh, read and written together."""
    cost = Cost(name="x", input_tokens=1, cache_read_tokens=8, cache_write_tokens=1)
    assert cost.cached == 0.8
    assert Cost(name="x").cached == 0.0


def test_a_forecast_goes_on_as_until_now() -> None:
    """Half a month gone is half of what the month will cost."""
    lines = [line(at(2026, 11, 3), "a", 500), line(at(2026, 10, 3), "a", 99)]
    assert forecast(lines, now=at(2026, 11, 16)) == 1_000
    assert forecast(lines, now=at(2026, 12, 16)) == 0
    assert forecast([line(at(2026, 12, 1), "a", 31)], now=at(2026, 12, 2)) == 31 * 31
    large = 123_456_789_012_345_678_901
    whole = forecast([line(at(2026, 2, 1), "a", large)], now=at(2026, 2, 15))
    assert whole == 2 * large, "not a nano-dollar is lost to a fraction"
    assert forecast([line(at(2026, 2, 1), "a", 1)], now=at(2026, 2, 1) + 1) == 28 * 24


def played(script: Any, tools: Sequence[Any] = (), **more: Any) -> tuple[ScriptedModel, Journal]:
    """Run an agent that asks for these tools, and return its Claude and its journal."""
    world, journal = World(script), open_store("memory://")
    run(world, journal, stub(*tools, **more), "Go.")
    return world.model, journal


def summed(journal: Journal, by: Any = "month") -> Cost:
    return total(costs(journal.rollup(), by))


def test_every_way_to_add_up_comes_to_the_same() -> None:
    """Wherever a process dies, every grouping and the runs have one sum, no less than the bill."""
    journal, billed = open_store("memory://"), 0
    for point in itertools.count(1):
        world = World(claude(), crash_at=[point])
        agent = crash_agent(Effects())
        _, crashes = run(world, journal, agent, "Look, save, send.", run_id=f"r{point}")
        billed += world.model.billed_nano
        if not crashes:
            break
    assert point > 30
    rows = journal.runs()
    doubt = sum(row.in_doubt_nano for row in rows)
    charged = sum(row.cost_nano for row in rows)
    assert charged >= billed > 0 < doubt
    for by in GROUPS:
        whole = summed(journal, by)
        assert (whole.nano, whole.in_doubt_nano) == (charged, doubt), by
    assert [row.cost_nano for row in dearest(rows)] == sorted(
        (row.cost_nano for row in rows), reverse=True
    )


def test_what_is_settled_is_the_bill() -> None:
    """Without a doubt, every grouping adds up to Claude's own bill, to the nano-dollar."""
    model, journal = played(lead, [search, fetch])
    for by in GROUPS:
        whole = summed(journal, by)
        assert (whole.settled_nano, whole.in_doubt_nano) == (model.billed_nano, 0), by
    assert total(costs(journal.rollup(), "tool")).wasted_nano == 0


# ── by tool ─────────────────────────────────────────────────────────────────────────────────────


@outlast.tool(effect="read")
def search(word: str) -> str:
    """Search."""
    return word * 50


@outlast.tool(effect="read")
def fetch(page: int) -> str:
    """Fetch a page."""
    return "page " * 40


def lead(request: dict[str, Any], attempt: int) -> Any:
    """Search, then fetch and search at once, then call what is not there, then pause, answer."""
    turns = {
        1: say(tool_use("search", {"word": "a"})),
        2: say(*[tool_use("search", {"word": "b"}), tool_use("fetch", {"page": 1})] * 2),
        3: say(tool_use("nothing_like_it", {})),
        4: say("Well,", stop_reason="pause_turn"),
        5: say("that ", stop_reason="max_tokens"),
    }
    return turns.get(turn_number(request), say("is it."))


def test_a_call_belongs_to_the_tools_whose_results_it_brings() -> None:
    """Calls are found under the tools they were told of, and under none where a person spoke."""
    model, journal = played(lead, [search, fetch])
    bill = [charge.nano_usd for charge in model.bill]
    assert len(bill) == 6
    assert {cost.name: cost.nano for cost in costs(journal.rollup(), "tool")} == {
        "(none)": bill[0] + bill[5],
        "search": bill[1],
        "fetch+search": bill[2],
        "nothing_like_it": bill[3] + bill[4],
    }


def test_an_attempt_belongs_where_the_one_before_did() -> None:
    """A call that failed or is in doubt counts under the same tools as the one that repeats it."""
    rule = any_of(
        once(2, Fault(kind="status", status=529)), once(3, Fault(kind="cut", after_events=4))
    )
    _, journal = played(faulty(lead, rule), [search, fetch])
    found = {cost.name: cost for cost in costs(journal.rollup(), "tool")}
    assert (found["search"].calls_failed, found["search"].calls) == (1, 1)
    assert (found["fetch+search"].calls_in_doubt, found["fetch+search"].calls) == (1, 1)
    assert found["fetch+search"].in_doubt_nano == summed(journal).in_doubt_nano > 0


def test_a_call_counts_when_it_was_made() -> None:
    """A crash that is found out days later is counted on the day of the call."""
    journal = open_store("memory://")
    world = World(lead)
    world.at = {6: lambda: later(world)}
    world.crash_at = frozenset([6])
    run(world, journal, stub(search, fetch), "Go.")
    assert world.trace[5] == "after ask-1.m1", "the first call was billed, and nobody knew"
    by_day = {cost.name: cost for cost in costs(journal.rollup(), "day")}
    assert [cost.calls_in_doubt for cost in by_day.values()] == [1, 0]
    assert list(by_day) == ["2026-09-21", "2026-09-24"]


def later(world: World) -> None:
    world.now += 3 * 24 * HOUR


# ── waste ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rounds", "period", "wasted"),
    [
        (2, 1, []),
        (3, 1, [1, 2]),
        (4, 1, [1, 2]),
        (5, 1, [1, 2, 3, 4]),
        (9, 1, [1, 2, 3, 4]),
        (3, 2, [2, 3, 4, 5]),
        (5, 2, [2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_what_loops_cost(rounds: int, period: int, wasted: list[int]) -> None:
    """The calls of a round that only repeats the first one are wasted, and no other."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        turn = turn_number(request)
        if turn > rounds * period:
            return say("Done.")
        return say(tool_use("search", {"word": str(turn % period)}))

    model, journal = played(script, [search])
    bill = [charge.nano_usd for charge in model.bill]
    whole = summed(journal)
    assert whole.loops_nano == whole.wasted_nano == sum(bill[number] for number in wasted)
    assert whole.settled_nano == sum(bill)
    for cost in costs(journal.rollup(), "tool"):
        assert cost.wasted_nano <= cost.nano


def test_only_whole_replies_are_wasted() -> None:
    """A reply that also asked for something new is no waste; one that asked for two things is."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        turn = turn_number(request)
        again = tool_use("search", {"word": "a"})
        if turn == 1:
            return say(tool_use("fetch", {"page": 1}), again)
        return say(again) if turn < 4 else say("Done.")

    model, journal = played(script, [search, fetch])
    assert summed(journal).loops_nano == sum(charge.nano_usd for charge in model.bill[1:3])

    def crossing(request: dict[str, Any], attempt: int) -> Any:
        a, b = (tool_use("search", {"word": word}) for word in "ab")
        said = {1: [a], 2: [b, a], 3: [b, a], 4: [b]}
        return say(*said.get(turn_number(request), ["Done."]))

    model, journal = played(crossing, [search])
    wasted = sum(charge.nano_usd for charge in model.bill[2:4])
    assert summed(journal).loops_nano == wasted, "the second reply asked for b, which was new"


def test_no_crash_changes_what_a_loop_cost() -> None:
    """Wherever the process dies, the same calls are wasted, and each is counted once."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say(tool_use("search", {"word": "a"}))

    model, journal = played(script, [search])
    expected = summed(journal).loops_nano
    assert expected == sum(charge.nano_usd for charge in model.bill[1:]) > 0
    for point in itertools.count(1):
        journal = open_store("memory://")
        _, crashes = run(World(script, crash_at=[point]), journal, stub(search), "Go.")
        assert summed(journal).loops_nano == expected
        if not crashes:
            break


def test_what_a_cold_cache_cost() -> None:
    """What the bill is higher because the prompt cache had forgotten is the waste of it."""
    effects, bills, wasted = Effects(), [], []
    for script in (cut_off, idle):
        world, journal = World(script), open_store("memory://")
        run(world, journal, crash_agent(effects), LONG_QUESTION)
        bills.append(world.model.billed_nano)
        wasted.append(summed(journal).missed_nano)
    assert wasted[0] == 0
    assert wasted[1] == bills[1] - bills[0] > 0


def test_nothing_is_wasted_twice() -> None:
    """What the cache cost in a call of a loop is not counted as the loop's again."""

    def looping(request: dict[str, Any], attempt: int) -> Any:
        return say(tool_use("search", {"word": "a"}))

    late = Fault(kind="status", status=429, headers={"retry-after": "400"})
    world, journal = World(faulty(looping, once(3, late))), open_store("memory://")
    run(world, journal, stub(search), LONG_QUESTION)
    whole = summed(journal)
    assert whole.missed_nano > 0
    again = sum(charge.nano_usd for charge in world.model.bill[1:])
    assert whole.loops_nano + whole.missed_nano == again == whole.wasted_nano


# ── the commands ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def store(tmp_path: Any) -> str:
    url = f"sqlite:///{tmp_path}/a.db"
    journal = open_store(url)
    run(World(claude()), journal, crash_agent(Effects()), "Look, save, send.")
    journal.close()
    return url


def typed(*words: str) -> Any:
    from cli.console import typed as typing  # noqa: PLC0415  (as the tests of the command line)

    return typing(*words)


def test_costs_as_people_and_programs_want_them(store: str) -> None:
    """A table, a chart, CSV and JSON tell the same."""
    shown = typed("costs", "--by", "agent", "--chart", "--store", store)
    assert shown.exit_code == exits.DONE, shown.output
    assert "sender" in shown.stdout
    assert "█" in shown.stdout
    assert "This month, if it goes on like this: $" in shown.stdout
    (cost,) = json.loads(typed("costs", "--by", "agent", "--json", "--store", store).stdout)
    assert cost["agent"] == "sender"
    assert cost["cost_nano"] == cost["settled_nano"] + cost["in_doubt_nano"] > 0
    head, row = typed("costs", "--csv", "--store", store).stdout.split()
    assert dict(zip(head.split(","), row.split(","), strict=True))["cost_nano"] == str(
        cost["cost_nano"]
    )
    assert typed("costs", "--by", "moon", "--store", store).exit_code == exits.USAGE


def test_costs_by_run_and_by_tool(store: str) -> None:
    """Runs and tools are listed like everything else, and come to the same sum."""
    (run_,) = json.loads(typed("costs", "--by", "run", "--json", "--store", store).stdout)
    assert (run_["run"], run_["agent"], run_["status"]) == ("r", "sender", "completed")
    assert run_["cost_nano"] == run_["settled_nano"] + run_["in_doubt_nano"]
    tools = json.loads(typed("costs", "--by", "tool", "--json", "--store", store).stdout)
    assert {one["tool"] for one in tools} == {
        "(none)",
        "broken+look_up+nothing_like_it",
        "look_up+save+send",
    }
    assert sum(one["cost_nano"] for one in tools) == run_["cost_nano"]
    shown = typed("costs", "--by", "run", "--chart", "--store", store).stdout
    assert "Next: outlast show r" in shown
    assert "█" in shown
    listed = typed("costs", "--by", "run", "--csv", "--store", store).stdout
    (row,) = csv.DictReader(io.StringIO(listed))
    assert row == {name: str(value) for name, value in run_.items()}


def test_waste_is_said_with_what_it_is_made_of(tmp_path: Any) -> None:
    """Below the table stands what was wasted; where nothing was, nothing is said."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say(tool_use("search", {"word": "a"}))

    url = f"sqlite:///{tmp_path}/a.db"
    journal = open_store(url)
    world = World(faulty(script, once(1, Fault(kind="cut", after_events=4))))
    run(world, journal, stub(search), "Go.")
    journal.close()
    shown = typed("costs", "--store", url).stdout
    assert "WASTE" in shown
    assert "Wasted: $" in shown
    assert ": in doubt $" in shown
    assert ", loops $" in shown
    assert "cache misses" not in shown
    assert "Next: outlast costs --reconcile FILE" in shown
    (cost,) = json.loads(typed("costs", "--json", "--store", url).stdout)
    assert cost["wasted_nano"] == cost["loops_nano"] + cost["in_doubt_nano"]
    assert cost["wasted_usd"].startswith("0.0")


def test_nothing_wasted_is_not_spoken_of(tmp_path: Any) -> None:
    """A store without waste has no line about it."""
    url = f"sqlite:///{tmp_path}/a.db"
    journal = open_store(url)
    run(World(lead), journal, stub(search, fetch), "Go.")
    journal.close()
    assert "Wasted" not in typed("costs", "--store", url).stdout


def test_a_budget_is_set_and_shown_and_taken_away(store: str) -> None:
    """What is set is shown with what is used of it, and can be taken away again."""
    say = ("--reason", "a test", "--by", "ann", "--store", store)
    assert typed("budget", "set", "fleet", "--usd", "2", *say).exit_code == 0
    (shown,) = json.loads(typed("budget", "show", "--json", "--store", store).stdout)
    assert (shown["scope"], shown["limit_usd"]) == ("fleet", "2")
    (cost,) = json.loads(typed("costs", "--json", "--store", store).stdout)
    used = shown["amounts"]["nano"]
    assert (used["settled"], used["in_doubt"]) == (cost["settled_nano"], cost["in_doubt_nano"])
    assert used["settled"] > 0 < used["in_doubt"], "what was spent before counts"
    table = typed("budget", "show", "--store", store).stdout
    assert "fleet" in table
    assert "$2.00" in table
    assert typed("budget", "set", "fleet", *say).exit_code == 0
    assert "No budget is set" in typed("budget", "show", "--store", store).stdout
    hours = ("--turns", "9", "--window", "6h", "--notify", "50, 80%", "--only-notify")
    assert "is watched" in typed("budget", "set", "tenant:a", *hours, *say).stdout
    (shown,) = json.loads(typed("budget", "show", "--json", "--store", store).stdout)
    assert (shown["window"], shown["notify"], shown["binding"]) == ("6h", [50, 80], False)
    assert "only watched" in typed("budget", "show", "--store", store).stdout
    wrong = ("--turns", "9", "--notify", "half")
    assert typed("budget", "set", "fleet", *wrong, *say).exit_code == exits.USAGE
    assert typed("budget", "set", "planet", "--usd", "1", *say).exit_code == exits.USAGE
    assert typed("budget", "set", "fleet", "--usd", "1", "--store", store).exit_code == exits.USAGE


def test_rounds_of_errors_beside_each_other_are_wasted() -> None:
    """Of replies whose calls all failed alike, all but the first are waste."""

    @outlast.tool(effect="read")
    def broken(page: int) -> str:
        """Fail."""
        raise ConnectionError("down")

    def script(request: dict[str, Any], attempt: int) -> Any:
        turn = turn_number(request)
        return say(*(tool_use("broken", {"page": 10 * turn + n}) for n in range(3)))

    model, journal = played(script, [broken])
    assert len(model.bill) == 5
    assert summed(journal).loops_nano == sum(charge.nano_usd for charge in model.bill[1:])
