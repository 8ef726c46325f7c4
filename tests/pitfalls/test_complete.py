"""No pitfall is forgotten: each number is tested, or owed by an issue that is still open."""

import ast
import re
from pathlib import Path

import pytest

from pitfalls.numbers import DONE, FILES, PATTERNS, Pitfall

HERE = Path(__file__).parent
COUNTS = {1: 18, 2: 12, 3: 18, 4: 18, 5: 10}
"""How many pitfalls each pattern has."""


def proofs(folder: Path) -> dict[tuple[int, int], str]:
    """Return which numbers have a test, and what each says it proves."""
    found = {}
    for pattern, name in FILES.items():
        tree = ast.parse(path.read_text()) if (path := folder / name).exists() else ast.Module([])
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                match = re.fullmatch(rf"test_{pattern}_(\d\d)_\w+", node.name)
                if match:
                    found[pattern, int(match[1])] = ast.get_docstring(node) or ""
    return found


def forgotten(
    patterns: dict[int, dict[int, Pitfall]], proved: set[tuple[int, int]], done: frozenset[str]
) -> list[str]:
    """Return what is missing, one sentence each."""
    return [
        sentence
        for pattern, count in COUNTS.items()
        for number in range(1, count + 1)
        if (sentence := _forgotten(pattern, number, patterns, proved, done))
    ]


def _forgotten(pattern, number, patterns, proved, done) -> str:
    pitfall = patterns[pattern].get(number)
    if not pitfall:
        return f"{pattern}.{number} is not in the list"
    if pitfall.owed_by in done and (pattern, number) not in proved:
        return f"{pattern}.{number} ({pitfall.what}) has no test, and {pitfall.owed_by} is done"
    return ""


def test_every_number_is_tested_or_owed():
    """Each number has a test named after it, or an issue that is not done yet owes it."""
    assert forgotten(PATTERNS, set(proofs(HERE)), DONE) == []


def test_tests_prove_numbers_that_exist():
    """Each test of a pitfall is of one in the list, and says what it proves."""
    for (pattern, number), fact in proofs(HERE).items():
        assert number in PATTERNS[pattern]
        assert fact, f"test_{pattern}_{number:02} has no docstring"


def test_every_debt_names_an_issue():
    """What is owed is owed by an issue out of fifteen."""
    for pitfalls in PATTERNS.values():
        for pitfall in pitfalls.values():
            assert re.fullmatch(r"([1-9]|1[0-5])/15", pitfall.owed_by)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda patterns, proved: patterns[2].pop(7), "2.7 is not in the list"),
        (lambda patterns, proved: proved.remove((1, 3)), "1.3 (x) has no test, and 1/15 is done"),
    ],
    ids=["a number is missing", "a test is missing"],
)
def test_what_is_forgotten_is_seen(change, said):
    """A number that is missing fails, and so does one owed by an issue that is done."""
    owed = {1: "1/15", 2: "4/15", 3: "8/15", 4: "7/15", 5: "9/15"}
    patterns = {
        pattern: {number: Pitfall("x", owed[pattern]) for number in range(1, count + 1)}
        for pattern, count in COUNTS.items()
    }
    proved = {(1, number) for number in range(1, 19)}
    assert forgotten(patterns, proved, frozenset({"1/15"})) == []
    change(patterns, proved)
    assert forgotten(patterns, proved, frozenset({"1/15"})) == [said]
