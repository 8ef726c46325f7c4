"""The simple ready-made checks: what an answer must have, whatever it says."""

from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec
import pydantic
import pytest

from outlast.checks import Check, Evidence, Finding, verdict_of
from outlast.errors import InvalidAgent
from outlast.validators import (
    __all__ as public,
)
from outlast.validators import (
    cites_sources,
    grounded_in_tools,
    no_duplicates,
    not_empty,
    regex,
    required_fields,
    within,
)


class Model(pydantic.BaseModel):
    name: str | None = None
    eligibility: list[str] = []


class Struct(msgspec.Struct):
    name: str = ""
    eligibility: str = ""


@dataclass
class Data:
    name: str = ""
    eligibility: str = ""


def found(check: Check[..., Any], answer: Any) -> list[tuple[str, Any]]:
    """Return the place of each issue, with what stands there."""
    issues = check.function(answer)
    assert all(issue.message for issue in issues)
    return [(issue.path, issue.got) for issue in issues]


# ── not_empty ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "",
        " \n\t",
        "\u200b",
        [],
        {},
        (),
        set(),
        [[]],
        [None, ""],
        {"a": {"b": []}},
        Model(),
        Struct(),
        Data(),
        [Data(), Struct()],
    ],
    ids=repr,
)
def test_an_empty_answer_is_an_issue(answer):
    """Nothing, blank text, empty collections and objects whose fields are all empty are empty."""
    (issue,) = not_empty.function(answer)
    assert issue.path == ""
    assert "empty" in issue.message


@pytest.mark.parametrize(
    "answer",
    [
        0,
        0.0,
        False,
        "0",
        [0],
        {"a": False},
        Model(name="x"),
        Struct(name="x"),
        Data("x"),
        Decimal(0),
    ],
    ids=repr,
)
def test_what_says_something_is_not_empty(answer):
    """Zero and False are something."""
    assert not_empty.function(answer) == []


# ── required_fields ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "places"),
    [
        ({"name": "A", "eligibility": "all"}, []),
        ({"name": "A"}, ["eligibility"]),
        ({"name": "A", "eligibility": None}, ["eligibility"]),
        ({"name": " ", "eligibility": []}, ["name", "eligibility"]),
        ({"name": 0, "eligibility": False}, []),
        ([{"name": "A", "eligibility": "x"}, {"name": "B"}], ["[1].eligibility"]),
        ([Model(name="A"), Struct("B", "x"), Data("C")], ["[0].eligibility", "[2].eligibility"]),
        ([], []),
        ("text", [""]),
        ([5], ["[0]"]),
    ],
)
def test_a_field_that_says_nothing_is_missing(answer, places):
    """Missing, null, blank and empty are an issue for each place, in every element of a list."""
    said = found(required_fields("name", "eligibility"), answer)
    assert [place for place, _ in said] == places


def test_required_fields_may_be_paths():
    """A path reaches into objects, and into every element of a list in them."""
    check = required_fields("funder.name", "grants[*].name")
    answer = {"funder": {"name": ""}, "grants": [{"name": "A"}, {"name": None}]}
    assert [place for place, _ in found(check, answer)] == ["funder.name", "grants[1].name"]


def test_without_names_every_field_is_required():
    """Bare, it requires whatever fields there are."""
    assert found(required_fields, [Data("A"), Data("B", "x")]) == [("[0].eligibility", "")]


# ── no_duplicates ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "places"),
    [
        (["A b", "B", "a  B "], ["[2]"]),
        (["Ca\u0301fe", "cáfe"], ["[1]"]),
        (["A", "А"], []),  # noqa: RUF001  (the second is Cyrillic)
        ([1, 1.0, Decimal("1.00"), True], ["[1]", "[2]"]),
        ([None, None, "", ""], []),
        ([{"a": 1, "b": "x"}, {"b": "X", "a": 1}], ["[1]"]),
        ({"x": ["p", "P"], "y": [["q", "q"]]}, ["x[1]", "y[0][1]"]),
        ([Data("A"), Data("A", "x")], []),
        ("text", []),
    ],
)
def test_the_same_thing_twice_is_an_issue(answer, places):
    """Elements that only look different are the same, in every list of an answer."""
    assert [place for place, _ in found(no_duplicates, answer)] == places


def test_a_key_tells_elements_apart():
    """With a key, elements are the same when that field is."""
    answer = [Data("A"), Data(" a", "x"), Data("B"), Data("")]
    assert found(no_duplicates(key="name"), answer) == [("[1]", "a")]


# ── within ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("check", "answer", "places"),
    [
        (within("[*].max_usd", most=50), [{"max_usd": 50}, {"max_usd": 50.01}], ["[1].max_usd"]),
        (within("[1].x", least=1), [{"x": 0}, {"x": 0}], ["[1].x"]),
        (within("", least=1, most=2), 3, [""]),
        (within("x", most=5), {"x": "4"}, ["x"]),
        (within("x", most=5), {"x": True}, ["x"]),
        (within("x", most=5), {"x": None}, ["x"]),
        (within("x", most=5), {"x": float("nan")}, ["x"]),
        (within("x", least=0), {"x": float("inf")}, ["x"]),
        (within("x", most=5), {"y": 1}, ["x"]),
        (within("[*].x", most=5), [{"y": 1}], ["[*].x"]),
        (within("[*].x", most=5), [], []),
        (within("x", among=["a", "b"]), {"x": "a"}, []),
        (within("x", among=["a", "b"]), {"x": "A"}, ["x"]),
        (within("x", among=[1, 2]), {"x": True}, ["x"]),
        (within("x", among=[1, 2]), {"x": 2.0}, []),
        (within("x", least=Decimal("0.1")), {"x": 0.1}, []),
        (within("x", most=10), {"x": 10**400}, ["x"]),
    ],
)
def test_a_value_outside_is_an_issue(check, answer, places):
    """What is no number, what is too much or too little, and a path to nothing are issues."""
    assert [place for place, _ in found(check, answer)] == places


class Status(Enum):
    OPEN = "open"


def test_enumerations_are_their_values():
    """A member of an enumeration is compared as its value, on both sides."""
    assert found(within("x", among=[Status.OPEN]), {"x": "open"}) == []
    assert found(within("x", among=["open"]), {"x": Status.OPEN}) == []


@pytest.mark.parametrize(
    "declare",
    [
        lambda: within("x"),
        lambda: within("x", least=2, most=1),
        lambda: within("x", most=float("nan")),
        lambda: within("x", most="5"),
        lambda: within("x", among=[]),
        lambda: within("x", among="abc"),
        lambda: within("x[", most=1),
        lambda: within("x[-1]", most=1),
        lambda: within(5, most=1),
        lambda: regex("x", "("),
        lambda: regex("x", 5),
        lambda: required_fields(""),
        lambda: cites_sources(least=0),
        lambda: cites_sources(least=True),
        lambda: no_duplicates(key="[x]"),
    ],
    ids=map(str, range(15)),
)
def test_what_cannot_work_is_refused(declare):
    """A check that could never pass, or never fail, is refused where it is declared."""
    with pytest.raises(InvalidAgent):
        declare()


# ── regex ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("check", "answer", "places"),
    [
        (regex("a+"), "aaa", []),
        (regex("a+"), "aab", [""]),
        (regex("a+"), "aa\n", [""]),
        (
            regex("[*].id", r"\d{3}"),
            [{"id": "123"}, {"id": "12"}, {"id": 123}],
            ["[1].id", "[2].id"],
        ),
        (regex("x", "a"), {"y": "a"}, ["x"]),
    ],
)
def test_all_of_a_text_must_match(check, answer, places):
    """A part that matches is not enough, and what is no text does not match."""
    assert [place for place, _ in found(check, answer)] == places


# ── cites_sources ──────────────────────────────────────────────────────────────────────────────

PAGES = Evidence(
    findings=(
        Finding(tool="search", text="", value=[{"id": "360G-1", "url": "https://a.org/x"}]),
        Finding(tool="read", text="", value="words", arguments={"url": "https://b.org/y/"}),
        Finding(tool="query", text="", value="see https://c.org.", arguments={"q": "d.org"}),
    )
)


@pytest.mark.parametrize(
    ("least", "answer", "places"),
    [
        (1, "See http://www.a.org/x.", []),
        (1, "See [this](https://b.org/y).", []),
        (1, "Grant 360G-1 fits.", []),
        (1, "See https://a.org/x/z and d.org.", [""]),
        (1, "Trust me.", [""]),
        (1, "", [""]),
        (2, "https://a.org/x https://c.org", []),
        (2, "https://a.org/x http://a.org/x/", [""]),
        (1, [{"source": "360G-1"}, {"source": "https://nobody.org"}, {}], ["[1]", "[2]"]),
    ],
)
def test_a_source_must_have_been_seen(least, answer, places):
    """What counts is what tools returned or were called with, in each element of a list."""
    issues = cites_sources(least=least).function(answer, PAGES)
    assert [issue.path for issue in issues] == places


def test_an_invented_source_is_named():
    """An issue says which address no tool returned."""
    (issue,) = cites_sources.function("See https://nobody.org/z.", PAGES)
    assert "nobody.org/z" in issue.message
    (issue,) = cites_sources.function("See https://nobody.org/z.", Evidence())
    assert "no tool" in issue.message


# ── all of them ────────────────────────────────────────────────────────────────────────────────

ALL = [
    not_empty, required_fields, required_fields("a"), required_fields("a", "b"), no_duplicates,
    no_duplicates(key="a"), within("[*].a", most=1), within("[*].b", most=1), regex("a+"),
    regex("b", "a+"), cites_sources, cites_sources(least=2), grounded_in_tools,
    grounded_in_tools(fields=["a"]), grounded_in_tools(ignore=["a"]),
]  # fmt: skip


def test_each_is_a_check_with_a_name_of_its_own():
    """All can stand in one list: they are checks, and no two have one name."""
    assert all(isinstance(one, Check) for one in ALL)
    assert len({one.name for one in ALL}) == len(ALL)
    assert len(public) == 7


def test_the_version_follows_from_the_options():
    """Another bound is another version, the same bound the same one."""
    assert within("a", most=1).version == within("a", most=1).version
    assert within("a", most=1).version != within("a", most=2).version
    assert regex("a").version != regex("b").version
    assert required_fields("a").version != required_fields("b").version


@pytest.mark.parametrize("check", ALL, ids=lambda one: one.name)
@pytest.mark.parametrize(
    "answer", [None, "", "text", 5, float("nan"), [], {}, [{"a": 1}], b"x", object], ids=repr
)
def test_whatever_is_answered_there_is_a_verdict(check, answer):
    """No answer makes a ready-made check raise, and each verdict can be written down."""
    evidence = {} if check.name.split()[0] not in NEED else {"evidence": PAGES}
    verdict = verdict_of(check, check.function(answer, **evidence))
    assert verdict.kind in ("passed", "fixable")
    msgspec.json.encode(verdict.issues)


NEED = ("cites_sources", "grounded_in_tools")


def test_called_with_an_answer_they_check_it():
    """A check stays a function: what has its options already is called with an answer."""
    assert not_empty("")
    assert no_duplicates(["a", "a"])
    assert required_fields("a")({})
    assert cites_sources("", PAGES)
    assert grounded_in_tools("Acme Hall is open.", Evidence())
