"""What was spent: the roll-up adds up to what the runs were charged."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from agents import Effects, claude
from agents import agent as crash_agent

from outlast.cli import exits
from outlast.journal import Posting
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from outlast.views.costs import GROUPS, Cost, costs, forecast, total

HOUR = 3_600 * 10**9


def at(*date: int) -> int:
    return int(datetime(*date, tzinfo=UTC).timestamp()) * 10**9  # type: ignore[misc]


def line(hour: int, agent: str, nano: int, **more: Any) -> Posting:
    return Posting(hour=hour, agent=agent, settled_nano=nano, **({"calls": 1} | more))


LINES = [
    line(at(2026, 10, 31, 23), "a", 5, tenant="acme", model="m1", version="v1"),
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
    ],
)
def test_costs_are_added_up(by: Any, found: list[tuple[str, int]]) -> None:
    """Times come in order, everything else dearest first; in doubt counts as spent."""
    assert [(cost.name, cost.nano) for cost in costs(LINES, by)] == found
    assert total(costs(LINES, by)).nano == 15
    assert total(costs(LINES, by)).tokens == 3


def test_every_group_is_tried() -> None:
    """No way to add up is left out of the table above."""
    assert set(GROUPS) == {"month", "day", "agent", "version", "tenant", "model"}


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


def test_the_month_is_what_its_runs_were_charged() -> None:
    """After crashes and retries, the view is the sum of the settled calls, to the nano-dollar."""
    journal = open_store("memory://")
    for number, point in enumerate((0, 9, 20, 33)):
        world = World(claude(), crash_at=[point])
        run(world, journal, crash_agent(Effects()), "Look, save, send.", run_id=f"r{number}")
    charged = sum(row.cost_nano for row in journal.runs())
    assert charged > 0
    for by in GROUPS:
        assert total(costs(journal.rollup(), by)).nano == charged


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


def test_a_budget_is_set_and_shown_and_taken_away(store: str) -> None:
    """What is set is shown with what is used of it, and can be taken away again."""
    say = ("--reason", "a test", "--by", "ann", "--store", store)
    assert typed("budget", "set", "fleet", "--usd", "2", *say).exit_code == 0
    (shown,) = json.loads(typed("budget", "show", "--json", "--store", store).stdout)
    assert (shown["scope"], shown["limit_usd"]) == ("fleet", "2")
    (cost,) = json.loads(typed("costs", "--json", "--store", store).stdout)
    assert shown["amounts"]["nano"]["settled"] == cost["cost_nano"], "what was spent before counts"
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
