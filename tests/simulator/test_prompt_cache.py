"""What is read from the prompt cache, what is written to it, and what it costs: a row per rule."""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import random
from collections.abc import Iterable, Iterator
from typing import Any

import httpx2
import msgspec
import pytest

from outlast.models import catalogue, prompt_cache, strict
from outlast.models.claude import Claude
from outlast.models.identity import identify
from outlast.models.script import Fault, faulty, once, say, tool_use
from outlast.models.scripted import ScriptedModel
from outlast.testing import simulator
from outlast.testing.simulator.placement import cheapest
from simulator.asking import HEADERS, TESTS, body, client_of, told
from simulator.test_faults import request

S = 10**9
LONG = "x" * 8_000  # 2,000 tokens and a little
FIVE = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
NO_USAGE = (0, 0, 0)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_790_000_000 * S

    def __call__(self) -> int:
        return self.now

    def later(self, seconds: float) -> None:
        self.now += int(seconds * S)


class Asker:
    """Asks one Claude, and tells what the cache made of it."""

    def __init__(self, script: Any = None) -> None:
        self.clock = Clock()
        self.claude = Claude(
            script or (lambda request, attempt: say("ok")),
            check_history=False,
            clock=self.clock,
        )

    def usage(self, **more: Any) -> dict[str, Any]:
        answer = self.claude.answer(msgspec.json.encode(body("hi", **more)))
        assert answer.usage, answer.fault
        return answer.usage

    def ask(self, **more: Any) -> tuple[int, int, int]:
        """Return the tokens that were read, written for 5 minutes, and written for an hour."""
        usage = self.usage(**more)
        tiers = usage["cache_creation"]
        total = prompt_cache.tokens(identify(body("hi", **more)).size)
        assert usage["cache_creation_input_tokens"] == sum(tiers.values())
        assert total == (
            usage["input_tokens"]
            + usage["cache_read_input_tokens"]
            + usage["cache_creation_input_tokens"]
        )
        return (
            usage["cache_read_input_tokens"],
            tiers["ephemeral_5m_input_tokens"],
            tiers["ephemeral_1h_input_tokens"],
        )


@pytest.fixture
def asker() -> Asker:
    return Asker()


def text(said: str, **mark: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **mark}


def user(*blocks: dict[str, Any] | str) -> dict[str, Any]:
    return {
        "role": "user",
        "content": list(blocks) if not isinstance(blocks[0], str) else blocks[0],
    }


def blocks(count: int, **last: Any) -> list[dict[str, Any]]:
    """Return one message of so many blocks, the first long, the last with `last`."""
    made = [text(LONG), *(text(f"block {number}") for number in range(1, count))]
    made[-1] = made[-1] | last
    return [{"role": "user", "content": made}]


# ── what is read, and what is written ───────────────────────────────────────────────────────────


def test_without_a_marker_nothing_is_cached(asker):
    """A long prompt without a breakpoint is plain input, however often it comes."""
    assert [asker.ask(system=LONG) for _ in range(2)] == [NO_USAGE] * 2


def test_what_was_written_is_read(asker):
    """The first request writes up to its breakpoint, the second reads just that."""
    asked = {"system": [text(LONG, **FIVE)]}
    (none, written, _), second = asker.ask(**asked), asker.ask(**asked)
    assert (none, second) == (0, (written, 0, 0))
    assert 2_000 <= written < asker.usage()["input_tokens"] + 2_100


def test_a_conversation_reads_what_it_said_before(asker):
    """With a breakpoint on its last block, each turn reads the one before and writes the rest."""
    messages = blocks(1, **FIVE)
    _, first, _ = asker.ask(messages=messages)
    grown = [*blocks(1), {"role": "assistant", "content": "I see."}, user(text("And?", **FIVE))]
    read, written, _ = asker.ask(messages=grown)
    assert read == first
    assert 0 < written < 40


@pytest.mark.parametrize(
    ("change", "survives"),
    [
        ({"model": "claude-opus-5"}, "nothing"),
        ({"tools": [{"name": "other", "input_schema": {"type": "object"}}]}, "nothing"),
        ({"system": [text("Other." + LONG, **FIVE)]}, "tools"),
        ({"tool_choice": {"type": "any"}}, "system"),
        ({"thinking": {"type": "adaptive"}}, "system"),
        ({"messages": [user(text("Other.", **FIVE))]}, "system"),
        ({"max_tokens": 77}, "all"),
        ({"metadata": {"user_id": "u"}}, "all"),
    ],
    ids=str,
)
def test_what_changes_and_all_behind_it_is_not_read(asker, change, survives):
    """Tools, system, messages: a change leaves the entries that end before it."""
    tool = {"name": "look", "description": LONG, "input_schema": {"type": "object"}}
    asked = {
        "tools": [tool | FIVE],
        "system": [text(LONG, **FIVE)],
        "messages": [user(text("Look." + LONG, **FIVE))],
    }
    ends = {
        name: place.tokens
        for name, place in zip(
            ("tools", "system", "all"),
            prompt_cache.positions(body("hi", **asked)),
            strict=True,
        )
    }
    asker.ask(**asked)
    assert asker.ask(**asked | change)[0] == (ends | {"nothing": 0})[survives]


@pytest.mark.parametrize(("tokens", "is_cached"), [(511, False), (512, True)])
def test_a_short_prefix_is_not_cached(asker, tokens, is_cached):
    """What is shorter than the model's minimum is plain input, and no error."""
    empty = prompt_cache.positions(body("hi", system="x"))[0]
    system = "x" * (4 * tokens - 3 - len('[[{"text":"","type":"text"}],null]') + 3)
    assert empty.tokens < 20
    place = prompt_cache.positions(body("hi", system=system))[0]
    assert place.tokens == tokens
    assert asker.ask(system=[text(system, **FIVE)])[1] == (tokens if is_cached else 0)


@pytest.mark.parametrize("model", catalogue.MODELS)
def test_every_model_has_its_minimum(model):
    """The minimum is the model's: one token less is not cached."""
    minimum = catalogue.MODELS[model].cacheable
    cache = prompt_cache.PromptCache()
    for tokens, written in ((minimum - 1, 0), (minimum, minimum)):
        place = prompt_cache.Position("d", tokens, "5m")
        assert cache.look([place], minimum, 0).written_5m == written


@pytest.mark.parametrize(("more", "is_read"), [(19, True), (20, False)])
def test_an_entry_is_looked_for_at_twenty_positions(asker, more, is_read):
    """From each breakpoint 20 positions are looked at, its own the first; others are lost."""
    asker.ask(messages=blocks(1, **FIVE))
    read, written, _ = asker.ask(messages=blocks(1 + more, **FIVE))
    assert (read > 2_000, written > 2_000) == (is_read, not is_read)


def test_a_breakpoint_in_between_finds_what_the_last_does_not(asker):
    """A second breakpoint within reach of the entry makes a long step a hit."""
    asker.ask(messages=blocks(1, **FIVE))
    far = blocks(40, **FIVE)
    far[0]["content"][15] |= FIVE
    assert asker.ask(messages=far)[0] > 2_000


def test_the_longest_entry_is_read(asker):
    """Of several entries the longest that still fits is read."""
    content = [text(LONG, **FIVE), text(LONG, **FIVE), text("end")]
    _, written, _ = asker.ask(messages=[user(*content)])
    assert asker.ask(messages=[user(*content[:2], text("other"))])[0] == written


def test_the_requests_own_marker_is_on_the_last_block_that_can_carry_one(asker):
    """`cache_control` of the request caches up to its last block, and moves on with it."""
    asked = {"messages": blocks(2), **FIVE}
    read, written, _ = asker.ask(**asked)
    assert (read, written) == (0, prompt_cache.tokens(identify(body("hi", **asked)).size))
    assert asker.ask(messages=blocks(2, **FIVE))[0] == written
    thought = {"role": "assistant", "content": [text("a"), {"type": "thinking", "thinking": ""}]}
    places = prompt_cache.positions(body("hi", messages=[user("hi"), thought], **FIVE))
    assert [place.ttl for place in places] == [None, "5m", None]


def test_a_marker_inside_a_result_is_the_results(asker):
    """A breakpoint on a part of a tool's result ends with the result."""
    messages = [
        user("go"),
        {"role": "assistant", "content": [tool_use("look", {}) | {"id": "t1"}]},
        user({"type": "tool_result", "tool_use_id": "t1", "content": [text(LONG, **FIVE)]}),
    ]
    places = prompt_cache.positions(body("hi", messages=messages))
    assert [place.ttl for place in places] == [None, None, "5m"]
    assert asker.ask(messages=messages)[1] == places[-1].tokens


# ── time ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mark", "after", "is_read"),
    [
        (FIVE, 299, True),
        (FIVE, 300, False),
        (HOUR, 300, True),
        (HOUR, 3_599, True),
        (HOUR, 3_600, False),
    ],
)
def test_an_entry_lives_for_its_time(asker, mark, after, is_read):
    """Five minutes or an hour after it was written, an entry is gone."""
    asker.ask(system=[text(LONG, **mark)])
    asker.clock.later(after)
    assert bool(asker.ask(system=[text(LONG, **mark)])[0]) == is_read


@pytest.mark.parametrize(("mark", "step"), [(FIVE, 200), (HOUR, 3_000)])
def test_an_entry_that_is_read_lives_on(asker, mark, step):
    """Each use gives an entry its whole time again."""
    asker.ask(system=[text(LONG, **mark)])
    for _ in range(5):
        asker.clock.later(step)
        assert asker.ask(system=[text(LONG, **mark)])[0] > 2_000


@pytest.mark.parametrize("mark", [FIVE, {}])
def test_an_entry_before_the_one_that_is_read_lives_on_where_it_is_marked(asker, mark):
    """A breakpoint on the system keeps its entry alive while longer ones are read."""
    asker.ask(system=[text(LONG, **FIVE)], messages=blocks(2, **FIVE))
    asker.clock.later(200)
    assert asker.ask(system=[text(LONG, **mark)], messages=blocks(2, **FIVE))[0] > 4_000
    asker.clock.later(200)
    assert bool(asker.ask(system=[text(LONG, **FIVE)])[0]) == bool(mark)


def test_hours_and_minutes_are_told_apart(asker):
    """Up to the last breakpoint of an hour an hour is paid, from there on 5 minutes."""
    asked = {"system": [text(LONG, **HOUR)], "messages": blocks(1, **FIVE)}
    system, everything = (place.tokens for place in prompt_cache.positions(body("hi", **asked)))
    assert asker.ask(**asked) == (0, everything - system, system)
    asker.clock.later(600)
    assert asker.ask(**asked) == (system, everything - system, 0)


# ── the bill ────────────────────────────────────────────────────────────────────────────────────


def test_the_bill_follows(asker):
    """Reads, both kinds of writes and the rest each have their price."""
    asked = {"system": [text(LONG, **HOUR)], "messages": blocks(1, **FIVE)}
    first, second = (
        asker.claude.answer(msgspec.json.encode(body("hi", **asked))) for _ in range(2)
    )
    system, everything = (place.tokens for place in prompt_cache.positions(body("hi", **asked)))
    said = first.usage["output_tokens"] * 20_000
    assert first.nano == system * 8_000 + (everything - system) * 5_000 + said
    assert second.nano == everything * 200 + said


@pytest.mark.parametrize(
    ("fault", "is_written"),
    [
        (Fault(kind="status", status=529), False),
        (Fault(kind="status", status=500, billed=True), True),
        (Fault(kind="cut"), True),
        (Fault(kind="cut", billed=False), False),
    ],
)
def test_what_is_not_billed_is_not_written(fault, is_written):
    """An attempt that was refused leaves no entry; one that was billed does."""
    asker = Asker(faulty(lambda request, attempt: say("ok"), once(1, fault)))
    asked = body("hi", system=[text(LONG, **FIVE)])
    asker.claude.answer(msgspec.json.encode(asked))
    assert bool(asker.ask(system=asked["system"])[0]) == is_written


def test_the_script_may_still_say_what_the_usage_is():
    """`Turn.usage` replaces what was counted."""
    asker = Asker(lambda request, attempt: say("ok", usage={"cache_read_input_tokens": 5}))
    assert asker.usage(system=[text(LONG, **FIVE)])["cache_read_input_tokens"] == 5


def test_a_restarted_simulator_still_has_its_cache(tmp_path):
    """Entries are kept in the state directory, with their times."""
    asked = body("hi", system=[text(LONG, **FIVE)])

    def usage(running: simulator.Simulator) -> dict[str, Any]:
        answer = httpx2.post(f"{running.url}/v1/messages", json=asked, headers=HEADERS)
        return dict(told(answer.json()["usage"]))

    for later_s, is_read in ((0, False), (250, True), (500, True)):
        with simulator.start(
            "simulator.scripts:menu", path=[TESTS], state=tmp_path, later_s=later_s
        ) as running:
            seen = usage(running)
            assert (seen["cache_read_input_tokens"] > 2_000) == is_read
            line = running.bill()[-1]
            assert line["usage"] == seen
            assert line["nano_usd"] == catalogue.cost_nano("claude-opus-5-5", seen)


def test_in_process_it_is_the_same_cache():
    """`ScriptedModel` reads and writes by the clock it is given."""
    clock = Clock()
    model = ScriptedModel(lambda request, attempt: say("ok"), clock=clock)
    head = msgspec.json.encode(
        {"model": "claude-opus-5-5", "system": [text(LONG, **FIVE)]},
    )[1:-1]
    call = msgspec.structs.replace(request("hi"), head=head)
    for later, is_read in ((0, False), (299, True), (299, True), (300, False)):
        clock.later(later)
        asyncio.run(model.call(call, on_part=None))
        assert bool(model.bill[-1].usage["cache_read_input_tokens"]) == is_read


# ── what is refused ─────────────────────────────────────────────────────────────────────────────

REFUSED = {
    "five with the request's own": (
        {"messages": [user(*[text("a", **FIVE)] * 4, text("b"))], **FIVE},
        "Found 5",
    ),
    "an hour after minutes": (
        {"system": [text("a", **FIVE)], "messages": [user(text("b", **HOUR))]},
        "must not come after a ttl='5m'",
    ),
    "the request's own of another ttl": (
        {"messages": [user(text("b", **HOUR))], **FIVE},
        "of another ttl than the request's own",
    ),
    "on thinking": (
        {
            "messages": [
                user("a"),
                {"role": "assistant", "content": [{"type": "thinking", "thinking": ""} | FIVE]},
                user("b"),
            ]
        },
        "messages.1.content.0.thinking.cache_control: cannot be set on thinking",
    ),
    "on an empty text": (
        {
            "messages": [
                user("a"),
                {"role": "assistant", "content": [text("", **FIVE), text("b")]},
                user("b"),
            ]
        },
        "content.0.text.cache_control: cannot be set on thinking or empty text",
    ),
}

TAKEN = {
    "four and the request's own on one of them": {
        "messages": [user(*[text("a", **FIVE)] * 4)],
        **FIVE,
    },
    "minutes after an hour": {
        "tools": [{"name": "a", "input_schema": {"type": "object"}} | HOUR],
        "messages": [user(text("b", **FIVE))],
    },
    "a null marker": {"messages": [user(text("b", cache_control=None))], **FIVE},
}


@pytest.mark.parametrize("row", REFUSED)
def test_the_api_refuses(row):
    """A marker that the API refuses gets its error."""
    change, says = REFUSED[row]
    refused = strict.refusal(body("hi") | change)
    assert refused is not None
    assert says in refused.message


@pytest.mark.parametrize("row", TAKEN)
def test_the_api_takes(row):
    """A marker that the API takes is taken."""
    assert strict.refusal(body("hi") | TAKEN[row]) is None


# ── the cheapest placement ──────────────────────────────────────────────────────────────────────


Placed = tuple[int, str, list[prompt_cache.Position]]
"""When a request came, for which model, and its blocks with their breakpoints."""


def placed(requests: list[tuple[int, dict[str, Any]]]) -> list[Placed]:
    return [(at, asked["model"], prompt_cache.positions(asked)) for at, asked in requests]


def marked(request: Placed, marks: Any) -> Placed:
    """Return the request with breakpoints at the blocks of those numbers, and no others."""
    at, model, places = request
    ttls = dict(marks)
    moved = [
        prompt_cache.Position(place.digest, place.tokens, ttls.get(number))
        for number, place in enumerate(places)
    ]
    return at, model, moved


def billed(requests: Iterable[Placed]) -> int:
    """Return what the prompts cost as they are marked."""
    cache, nano = prompt_cache.PromptCache(), 0
    for now, model, places in requests:
        caching = cache.look(places, catalogue.MODELS[model].cacheable, now)
        for digest, ttl in caching.used.items():
            cache.use(digest, ttl, now)
        nano += catalogue.cost_nano(model, caching.usage(places[-1].tokens))
    return nano


def every_marking(count: int) -> Iterator[list[tuple[int, str]]]:
    for size in range(min(count, 4) + 1):
        for chosen in itertools.combinations(range(count), size):
            for hours in range(size + 1):
                yield [(at, "1h" if n < hours else "5m") for n, at in enumerate(chosen)]


def conversations(seed: int) -> list[tuple[int, dict[str, Any]]]:
    """Return three requests of two conversations that share a beginning, at odd times."""
    dice = random.Random(seed)  # noqa: S311  (a test that repeats itself)
    now, requests = 0, []
    starts = [[text("s" * dice.choice([40, 4_000, 9_000]))]]
    histories = [list(starts[0]), list(starts[0])]
    for number in range(3):
        now += int(dice.choice([1, 200, 301, 1_000, 3_601]) * S)
        history = histories[dice.choice([0, 0, 1])]
        if dice.random() < 0.8:
            history.append(text(f"{number}" * dice.choice([8, 800, 6_000])))
        asked = body("hi", messages=[user(*history)])
        requests.append((now, copy.deepcopy(asked)))
    return requests


SEEDS = range(400 if os.environ.get("OUTLAST_SOAK") else 40)


@pytest.mark.parametrize("ttl", [None, "5m", "1h"])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_placement_is_cheaper(seed, ttl):
    """Of all breakpoints three requests could have, none cost less, and these cost that."""
    requests = conversations(seed)
    best = cheapest(requests, ttl=ttl)
    assert {kind for marks in best.breakpoints for _, kind in marks} <= {ttl or "5m", ttl or "1h"}
    plain = placed(requests)
    assert billed(map(marked, plain, best.breakpoints)) == best.nano_usd
    assert billed(plain) == best.uncached_nano
    choices = [
        [
            marked(each, marks)
            for marks in every_marking(len(each[2]))
            if ttl is None or {kind for _, kind in marks} <= {ttl}
        ]
        for each in plain
    ]
    assert min(map(billed, itertools.product(*choices))) == best.nano_usd


def test_a_lifetime_that_no_breakpoint_has():
    """A lifetime that the API does not have is refused, with those it has."""
    with pytest.raises(ValueError, match="'5m' or '1h'"):
        cheapest([], ttl="10m")


def test_a_long_run_is_placed_in_little_time():
    """Fifty turns, some after a pause, one twice: the best placement is found, and holds."""
    dice = random.Random(7)  # noqa: S311  (a test that repeats itself)
    now, requests = 0, []
    messages = [user(text("start " * 600))]
    for turn in range(50):
        now += int(dice.choice([5, 20, 20, 60, 400, 2_000]) * S)
        requests.append((now, body("hi", messages=copy.deepcopy(messages))))
        if turn == 30:
            requests.append((now + S, body("hi", messages=copy.deepcopy(messages))))
        messages += [
            {"role": "assistant", "content": [text("said " * 80)]},
            user(text("told " * dice.choice([20, 400]))),
        ]
    best, plain = cheapest(requests), placed(requests)
    assert billed(map(marked, plain, best.breakpoints)) == best.nano_usd < 0.5 * billed(plain)
    for mark in (FIVE, HOUR):
        assert best.nano_usd <= billed(placed([(at, asked | mark) for at, asked in requests]))


def test_the_bill_of_a_simulator_is_judged(tmp_path):
    """`judged` tells what was billed, what could have been, and what without a cache."""
    with (
        simulator.start("simulator.scripts:menu", path=[TESTS], state=tmp_path) as running,
        client_of(running) as client,
    ):
        for mark in (None, FIVE["cache_control"]):
            client.messages.create(**body("hi", system=LONG, cache_control=mark))
        judged = running.judged()
    first, second = running.bill()
    said = sum(line["usage"]["output_tokens"] * 20_000 for line in (first, second))
    tokens = first["usage"]["input_tokens"]
    assert judged.billed_nano == first["nano_usd"] + second["nano_usd"]
    assert judged.uncached_nano == said + 2 * tokens * 4_000
    assert judged.cheapest_nano == said + tokens * 5_000 + tokens * 200
