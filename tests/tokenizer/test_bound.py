"""The bound of a prompt against Anthropic's last public tokenizer: it is never too low."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import pytest

from outlast.prices import input_bound
from tokenizer.counting import (
    Found,
    fuzz,
    lengthened,
    look,
    message,
    of_code_points,
    points_between,
    tokens,
)

TEXTS = 1_000_000
CHUNK = 4_000
PLANE = 0x1000

Job = tuple[Callable[[int, int], Found], int, int]


def test_the_tokenizer_is_the_one_of_the_package():
    """What the package's own tests say is said here, too."""
    assert [tokens(text) for text in ("hello world!", "™", "ϰ", "<EOT>")] == [3, 1, 1, 1]
    assert tokens("\ufdfa") == 15  # of three bytes


def test_what_normalising_lengthens(record_property):
    """Every character that NFKC makes longer, in every form; bytes alone would not bound them."""
    found = look(of_code_points(lengthened()))
    assert found.wrong == []
    assert found.by_bytes > 100
    record_property(
        "told", f"{found.cases:,} cases, {found.by_bytes:,} with more tokens than bytes"
    )


def test_some_of_everything():
    """Every hundredth code point, every half of a surrogate pair, and some fuzzed texts."""
    found = look(of_code_points([*range(0, 0x11_0000, 499), *range(0xD800, 0xE000, 16)]))
    found.add(fuzz(0, 1_500))
    assert found.wrong == []


def test_many_short_messages():
    """What outlast counts of each message's JSON is more than any markers of its role."""
    said = [f"{number}" for number in range(300)]
    rendered = "".join(f"\n\nHuman: {each}\n\nAssistant: {each}" for each in said)
    assert tokens(rendered) <= 2 * sum(input_bound(message(each)) for each in said)


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_every_code_point_and_a_million_texts(record_property, capsys):
    """No code point, alone, in pairs, repeated, escaped or in a message, and no fuzzed text."""
    jobs: list[Job] = [
        *((points_between, first, first + PLANE) for first in range(0, 0x11_0000, PLANE)),
        *((fuzz, seed, CHUNK) for seed in range(1, 1 + TEXTS // CHUNK)),
    ]
    began, points, texts = time.monotonic(), Found(), Found()
    for done, (kind, found) in enumerate(_pooled(jobs), start=1):
        (points if kind is points_between else texts).add(found)
        if done % 25 == 0 or done == len(jobs):
            wrong = len(points.wrong) + len(texts.wrong)
            with capsys.disabled():
                so_far = f"{points.texts:,} of code points, {texts.texts:,} fuzzed, {wrong} wrong"
                after = f"{done}/{len(jobs)} after {time.monotonic() - began:.0f} s"
                sys.stdout.write(f"{after}: {so_far}\n")
    assert points.wrong + texts.wrong == []
    assert (points.texts, texts.texts) == (4 * 0x11_0000, TEXTS)
    for name, found in (("code points", points), ("fuzzed", texts)):
        told = f"{found.texts:,} texts in {found.cases:,} cases, tightest message {found.ratio:.3f}"
        record_property(
            "told", f"{name}: {told} {found.tightest}; {found.by_bytes:,} beyond their bytes"
        )


def _pooled(jobs: list[Job]) -> Iterator[tuple[Callable[[int, int], Found], Found]]:
    """Do the jobs in two processes, and yield each as it is done."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(look, first, end): look for look, first, end in jobs}
        for done in as_completed(running):
            yield running[done], done.result()
