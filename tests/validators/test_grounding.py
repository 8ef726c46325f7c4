"""Names, numbers and addresses of an answer must occur in what tools returned."""

import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from invented import answers

from outlast.checks import Evidence, Finding, verdict_of
from outlast.errors import InvalidAgent
from outlast.events import Issue
from outlast.validators import grounded_in_tools

SOAK = os.environ.get("OUTLAST_SOAK") == "1"

BLIND = {
    "id": "360G-1001",
    "name": "Dorset Blind Association",
    "funder": "Lloyds Bank Foundation",
    "amount_gbp": 72_000,
    "awarded": "2013-04-26",
    "open_call": True,
    "url": "https://grants.example.org/1001",
    "purpose": "The Home Support Service in Poole reaches 340 people aged 16 to 25.",
}
SCHOOL = {
    "id": "360G-1002",
    "name": "Westlea Primary School",
    "funder": "Wolfson Foundation",
    "amount_gbp": 30_000,
    "awarded": "2014-06-05",
    "open_call": False,
    "url": "https://grants.example.org/1002",
    "purpose": "Equipment for a new Science Investigation Hub",
}


def of(*values: Any, task: str = "Find grants under £50K.") -> Evidence:
    """Return the evidence of a run whose tools returned these values."""
    findings = tuple(
        Finding(tool="search", text=v if isinstance(v, str) else json.dumps(v), value=v)
        for v in values
    )
    return Evidence(task=task, findings=findings)


BOTH = of([BLIND, SCHOOL])


def wrong(answer: Any, evidence: Evidence = BOTH) -> list[Issue]:
    return grounded_in_tools.function(answer, evidence)


# ── the rates ──────────────────────────────────────────────────────────────────────────────────

SEEDS = range(60) if SOAK else range(2)


@pytest.mark.timeout(3600 if SOAK else 120)
def test_what_is_invented_is_caught_and_what_is_real_passes():
    """Of answers that are nearly right 99 % are rejected, of right ones 1 % at most."""
    real = invented = 0
    rejected: list[Any] = []
    missed: Counter[str] = Counter()
    for seed in SEEDS:
        for told in answers(seed, 110, size=24):
            issues = wrong(told.answer, told.evidence)
            if told.lie:
                invented += 1
                missed[told.lie] += not issues
            else:
                real += 1
                rejected += [(told.answer, issues)] if issues else []
    assert invented >= 100
    assert real >= 100
    assert missed.total() <= invented * 0.01, +missed
    assert len(rejected) <= real * 0.01, rejected[:3]


# ── typed answers ──────────────────────────────────────────────────────────────────────────────


@dataclass
class Grant:
    name: str
    funder: str = "Lloyds Bank Foundation"
    max_gbp: float = 72_000
    url: str = ""


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"max_gbp": "£72,000"},
        {"max_gbp": "72k"},
        {"max_gbp": "£72\u200b,000", "funder": "Llo\u00adyds Bank\u200b Foundation"},
        {"max_gbp": Decimal("72000.00")},
        {"max_gbp": "72 000 GBP"},
        {"max_gbp": "seventy-two thousand pounds"},
        {"funder": "LLOYDS  BANK FOUNDATION"},
        {"url": "http://www.grants.example.org/1001/"},
        {"awarded": "26 April 2013"},
        {"awarded": "April 26, 2013"},
        {"year": 2013},
        {"id": "360G-1001"},
        {"summary": "The Home Support Service works in Poole."},
        {"summary": "It helps many people to stay at home."},
        {"open_call": True},
        {"people": 340},
        {"currency": "GBP", "amount": 72_000},
    ],
)
def test_what_a_record_says_passes(said):
    """A value passes in whatever form it is written, and free text in other words."""
    assert wrong([{"name": "Dorset Blind Association"} | said]) == []
    assert wrong([vars(Grant("Dorset Blind Association")) | said]) == []


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ({"name": "Dorset Blnd Association"}, "[0].name"),
        ({"name": "Blind Association"}, "[0].name"),
        ({"name": "Dorset Blind Association Trust"}, "[0].name"),
        ({"recipient": "Blind Association"}, "[0].recipient"),
        ({"name": "Dоrset Blind Association"}, "[0].name"),  # noqa: RUF001  (with a Cyrillic letter)
        ({"name": "\u202eDorset Blind Association"}, "[0].name"),
        ({"funder": "Wolfson Foundation"}, "[0].funder"),
        ({"max_gbp": 72}, "[0].max_gbp"),
        ({"max_gbp": 72_000_000}, "[0].max_gbp"),
        ({"max_gbp": 30_000}, "[0].max_gbp"),
        ({"max_gbp": 50_000}, "[0].max_gbp"),
        ({"max_gbp": 16}, "[0].max_gbp"),
        ({"max_gbp": "1e400"}, "[0].max_gbp"),
        ({"max_gbp": float("nan")}, "[0].max_gbp"),
        ({"max_gbp": float("inf")}, "[0].max_gbp"),
        ({"max_usd": 72_000}, "[0].max_usd"),
        ({"amount": "$72,000"}, "[0].amount"),
        ({"currency": "USD"}, "[0].currency"),
        ({"awarded": "2013-04-27"}, "[0].awarded"),
        ({"awarded": "5 June 2014"}, "[0].awarded"),
        ({"url": "https://grants.example.org/1002"}, "[0].url"),
        ({"url": "https://grants.example.org/10011"}, "[0].url"),
        ({"url": "https://grants.example.org"}, "[0].url"),
        ({"id": "360G-1003"}, "[0].id"),
        ({"open_call": False}, "[0].open_call"),
        ({"people": True, "open_call": 1}, "[0].open_call"),
        ({"summary": "The Hackney Carers Forum gets it."}, "[0].summary"),
        ({"summary": "It reaches 341 people."}, "[0].summary"),
    ],
)
def test_what_no_record_says_is_an_issue(said, path):
    """One value that is not of the record is an issue at its place, however near it is."""
    issues = wrong([{"name": "Dorset Blind Association", "funder": BLIND["funder"]} | said])
    assert path in [issue.path for issue in issues]
    assert all(issue.rule == "grounded_in_tools" and issue.message for issue in issues)


@pytest.mark.parametrize("said", ["Side by side", "Side", "by side centre", "Side centre"])
def test_a_part_of_a_name_is_another_name(said):
    """Where a field is a name, its words in small letters are part of the name, too."""
    evidence = of([{"name": "Side by side centre"}], task="")
    assert wrong({"recipient": "Side by side centre"}, evidence) == []
    assert wrong({"recipient": said}, evidence)


def test_an_issue_says_what_the_tool_said():
    """An issue names the place, the value, the thing and what the tools say of it."""
    (issue,) = wrong([Grant("Dorset Blind Association", funder="Wolfson Foundation")])
    assert issue.path == "[0].funder"
    assert issue.got == "Wolfson Foundation"
    assert issue.expected == "Lloyds Bank Foundation"
    assert "'Dorset Blind Association'" in issue.message
    (issue,) = wrong({"name": "Dorset Blnd Association", "max_gbp": 72_000})
    assert issue.expected == "Dorset Blind Association"


def test_facts_of_what_a_record_lies_in_are_its_own():
    """What an object says of all that lies in it holds for each of them, and only for those."""
    tree = {
        "Wolfson": {"funder": "Wolfson Foundation", "grants": [{"name": "Ada Hall", "gbp": 5_000}]},
        "Lloyds": {
            "funder": "Lloyds Bank Foundation",
            "grants": [{"name": "Eve Hall", "gbp": 6_000}, {"name": "Ivy Hall", "gbp": 7_000}],
        },
    }
    for name, funder, amount in (
        ("Ada Hall", "Wolfson Foundation", 5_000),
        ("Ivy Hall", "Lloyds Bank Foundation", 7_000),
    ):
        assert wrong({"name": name, "funder": funder, "gbp": amount}, of(tree)) == []
    assert wrong({"name": "Eve Hall", "funder": "Wolfson Foundation"}, of(tree))
    assert wrong({"name": "Eve Hall", "gbp": 7_000}, of(tree))


TABLE = """\
| Name | Funder | Amount |
|---|---|---|
| Dorset Blind Association | Lloyds Bank Foundation | £72,000 |
| Westlea Primary School | Wolfson Foundation | £30,000 |
"""
LIST = """\
Two grants:

1. Dorset Blind Association received £72,000 from the Lloyds Bank Foundation.
2. Westlea Primary School received £30,000 from the Wolfson Foundation.
"""
PARAGRAPHS = """\
Dorset Blind Association received £72,000.
It came from the Lloyds Bank Foundation.

Westlea Primary School received £30,000.
It came from the Wolfson Foundation.
"""


@pytest.mark.parametrize("text", [TABLE, LIST, PARAGRAPHS], ids=["table", "list", "paragraphs"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_text_result_has_records_too(text, wrapped):
    """A row, an item and a paragraph are a record each, also in a text inside of an object."""
    evidence = of({"content": text} if wrapped and text is not PARAGRAPHS else text)
    assert wrong([Grant("Dorset Blind Association")], evidence) == []
    assert wrong([Grant("Westlea Primary School", "Wolfson Foundation", 30_000)], evidence) == []
    assert wrong([Grant("Dorset Blind Association", "Wolfson Foundation")], evidence)
    assert wrong([Grant("Westlea Primary School", "Wolfson Foundation", 72_000)], evidence)


# ── text answers ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "said",
    [
        "",
        "No grant fits what you asked for.",
        "Unfortunately, nothing under £50K was found.",
        "I found 2:\n\n1. Dorset Blind Association: £72,000\n2. Westlea Primary School: £30k\n",
        "Dorset Blind Association got £72,000 (26 April 2013), Westlea Primary School £30,000.",
        "Westlea Primary School received £30,000, which is below your limit of £50,000.",
        "## Summary\n\n**Dorset Blind Association**\n- Amount: £72 thousand\n- Date: April 2013\n",
        "**Dorset Blind Association**\n- Link: [here](https://grants.example.org/1001)\n",
        "The Foundation paid in April 2013.",
        TABLE,
    ],
)
def test_a_text_that_says_what_tools_said_passes(said):
    """Counts of what is listed, numbers of items, and what the task says are no claims."""
    assert wrong(said) == []


@pytest.mark.parametrize(
    ("said", "got"),
    [
        ("Dorset Blind Association got £30,000.", "£30,000"),
        ("Dorset Blind Association got £50,000.", "£50,000"),
        ("Dorset Blind Association got £72.", "£72"),
        ("Dorset Blind Association got $72,000.", "$72,000"),
        ("Dorset Blind Association was paid by the Wolfson Foundation.", "Wolfson Foundation"),
        ("Blind Association got £72,000.", "Blind Association"),
        ("Dorset Blind Association Trust got £72,000.", "Dorset Blind Association Trust"),
        ("The Hackney Carers Forum got £72,000.", "Hackney Carers Forum"),
        ("Acme received £72,000.", "Acme"),
        ("See https://grants.example.org/1003.", "https://grants.example.org/1003"),
        ("Grant 360G-1009 fits.", "360G-1009"),
        ("It reaches 34 people.", "34"),
        ("### Westlea Primary School\n\n- Amount: £72,000\n", "£72,000"),
        ("### Westlea Primary School\n\n- Funder: Lloyds Bank Foundation\n", BLIND["funder"]),
        (
            "Dorset Blind Association got £30,000 and Westlea Primary School got £72,000.",
            "£30,000",
        ),
        ("Westlea Primary School is new. It received £72,000.", "£72,000"),
        ("It was 10² people.", "10"),
        (TABLE.replace("£30,000", "£31,000"), "£31,000"),
        (TABLE.replace("Westlea Primary School", "primary school"), "primary school"),
        ("### primary school\n\n- Amount: £72,000\n", "primary school"),
    ],
)
def test_a_text_that_says_something_else_is_an_issue(said, got):
    """A value that no tool returned, or that is of another record, is an issue."""
    assert got in [issue.got for issue in wrong(said)]


# ── what is asked and what is not ──────────────────────────────────────────────────────────────


CSV = """id,recipient,town,amount,date,funder
A-1001,"Ladder, Rung and Co",Leeds,15400,2013-04-26,Lloyds Bank Foundation
A-1002,Westlea Primary School,Wells,59300,2014-06-05,Wolfson Foundation
A-1003,Dorset Blind Association,Poole,72000,2012-05-01,Wolfson Foundation
"""
ROWS = [
    ["A-1001", "Ladder, Rung and Co", "Leeds", 15400, "2013-04-26", "Lloyds Bank Foundation"],
    ["A-1002", "Westlea Primary School", "Wells", 59300, "2014-06-05", "Wolfson Foundation"],
    ["A-1003", "Dorset Blind Association", "Poole", 72000, "2012-05-01", "Wolfson Foundation"],
]
HEAD = ["id", "recipient", "town", "amount", "date", "funder"]
GROUPED = [
    {
        "funder": row[5],
        "grants": [
            {"id": row[0], "name": row[1], "town": row[2], "amount": row[3], "date": row[4]}
        ],
    }
    for row in ROWS
]


@pytest.mark.parametrize(
    "value",
    [
        CSV,
        CSV.replace(",", ";").replace("Ladder; ", "Ladder, "),
        ROWS,
        {"columns": HEAD, "rows": ROWS},
        {"rows": ROWS},
        GROUPED,
    ],
    ids=["commas", "semicolons", "rows", "columns", "no columns", "grouped"],
)
def test_rows_are_records(value):
    """Values between commas, or lists of lists, are one record a row, with or without a head."""
    evidence = of(value)
    right = {"name": "Ladder, Rung and Co", "amount": 15_400, "town": "Leeds"}
    assert not wrong([right], evidence)
    for field, other in {"amount": 59_300, "town": "Poole", "name": "Ladder"}.items():
        assert wrong([right | {field: other}], evidence), field
    said = "- Westlea Primary School (Wells): £59,300 from the Wolfson Foundation, 5 June 2014"
    assert not wrong(said, evidence)
    for old, new in {"59,300": "15,400", "Wells": "Bath", "59": "95"}.items():
        assert wrong(said.replace(old, new), evidence), new
    nested = {"recipient": {"name": "Westlea Primary School"}, "funder": {"name": ROWS[1][5]}}
    assert not wrong(nested, evidence)
    assert wrong(nested | {"funder": {"name": ROWS[0][5]}}, evidence)


def test_a_name_before_a_colon_is_no_field():
    """In a list of names with a value each, every line is a record, and its name is a name."""
    evidence = of("Largest grants:\n\n- Alder Trust: £72,000\n- Birch House: £5,000\n")
    assert not wrong([{"name": "Alder Trust", "amount": 72_000}], evidence)
    assert not wrong("- Birch House: £5k", evidence)
    assert wrong([{"name": "Alder Trust", "amount": 5_000}], evidence)
    assert wrong("- Birch House: £72k", evidence)


def test_a_sentence_with_commas_is_no_row():
    """What stands between commas is a table where its head names fields, and fits."""
    text = "Leeds, Wells, Poole: Ladder has £5.\nRung, Bow, and Co have £7.\n"
    assert not wrong("Ladder has £5.", of(text))


def test_how_much_an_answer_lists_is_no_claim():
    """Beside the list, and in a field that says so; any other number is a claim."""
    grants = [{"name": "Dorset Blind Association"}, {"name": "Westlea Primary School"}]
    assert not wrong({"count": 2, "grants": grants})
    assert wrong({"count": 3, "grants": grants})
    assert wrong({"amount": 2, "grants": grants})


@pytest.mark.parametrize(
    "said",
    [
        "1. Dorset Blind Association\n   - Town: Reykjavik",
        "- **City**: Bergamo",
        "Dorset Blind Association got £72,000. It has a page; the grant is 360G-1002.",
    ],
)
def test_one_word_is_a_claim_where_it_is_a_value(said):
    """A place in a field, and the id of another thing after a semicolon."""
    assert wrong(said)


def test_without_findings_every_claim_is_invented():
    """Where no tool returned anything there is one issue, and an answer without claims passes."""
    (issue,) = wrong([Grant("Dorset Blind Association")], of())
    assert "no tool returned anything" in issue.message
    (issue,) = wrong("Dorset Blind Association got £72,000.", of())
    assert "no tool returned anything" in issue.message
    for nothing in ([], {}, "", None, "No grant was found.", [{"name": "", "funder": None}]):
        assert wrong(nothing, of()) == []


def test_a_degraded_finding_is_evidence():
    """What a fallback returned counts as what the tool itself would have returned."""
    finding = Finding(tool="search", text="", value=[BLIND], degraded=True)
    evidence = Evidence(findings=(finding,))
    assert wrong({"name": "Dorset Blind Association", "max_gbp": 72_000}, evidence) == []


def test_a_page_that_was_read_may_be_named():
    """A URL that a tool was called with counts, where the tool returned something."""
    page = "https://example.org/a"
    finding = Finding(tool="read", text="", value="Ada Hall is open.", arguments={"url": page})
    said = {"name": "Ada Hall", "source": page}
    assert wrong(said, Evidence(findings=(finding,))) == []
    empty = Finding(tool="read", text="", value=[], arguments={"url": page})
    assert wrong({"source": page}, Evidence(findings=(empty,)))


def test_only_some_fields_are_asked():
    """`fields` and `ignore` say of which fields issues are told, by name or by path."""
    said = [{"name": "Dorset Blind Association", "funder": "Nobody Fund", "note": "Zed Hall"}]

    def paths(**options: Any) -> list[str]:
        return [one.path for one in grounded_in_tools(**options).function(said, BOTH)]

    assert paths() == ["[0].funder", "[0].note"]
    assert paths(fields=["name", "funder"]) == ["[0].funder"]
    assert paths(fields=["[*].note"]) == ["[0].note"]
    assert paths(ignore=["note"]) == ["[0].funder"]
    assert paths(ignore=["note", "[0].funder"]) == []
    assert "none of the fields" in grounded_in_tools(fields=["x"]).function(said, BOTH)[0].message


@pytest.mark.parametrize("options", [{"fields": []}, {"fields": "name"}, {"ignore": [1]}])
def test_options_that_cannot_work_are_refused(options):
    """An option that would check nothing, or is no list of fields, is refused at once."""
    with pytest.raises(InvalidAgent):
        grounded_in_tools(**options)


def test_two_of_them_stand_in_one_list():
    """A configured check has a name and a version of its own."""
    one, two = grounded_in_tools(fields=["name"]), grounded_in_tools(ignore=["note"])
    assert len({one.name, two.name, grounded_in_tools.name}) == 3
    assert len({one.version, two.version, grounded_in_tools.version}) == 3
    assert one.version == grounded_in_tools(fields=["name"]).version


# ── whatever comes ─────────────────────────────────────────────────────────────────────────────

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@settings(max_examples=2000 if SOAK else 100, deadline=None)
@given(answer=ANYTHING, value=ANYTHING, task=st.text(max_size=30))
def test_it_never_raises(answer, value, task):
    """Whatever is answered and returned, there is a verdict that the journal can keep."""
    verdict = verdict_of(grounded_in_tools, wrong(answer, of(value, task=task)))
    assert verdict.kind in ("passed", "fixable")
    json.dumps([(one.got, one.expected, one.message) for one in verdict.issues], allow_nan=False)


NAME = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyzéß", min_size=4, max_size=8).map(str.title),
    min_size=2,
    max_size=4,
).map(" ".join)


@settings(max_examples=1000 if SOAK else 60, deadline=None)
@given(
    given_=st.lists(
        st.tuples(NAME, st.integers(100, 10**7)), min_size=2, max_size=6, unique_by=lambda x: x[0]
    )
)
def test_a_record_supports_itself_and_no_other(given_):
    """A name with its own amount passes, with that of another it does not."""
    evidence = of([{"name": name, "amount": amount} for name, amount in given_], task="")
    (name, amount), (_, other) = given_[:2]
    assert wrong({"name": name, "amount": amount}, evidence) == []
    assert bool(wrong({"name": name, "amount": other}, evidence)) is (amount != other)


def test_an_answer_that_is_too_deep_is_not_judged():
    """What nobody looks into does not pass unseen."""
    deep: Any = "Acme Fund"
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(ValueError, match="200 levels"):
        wrong(deep)
    finding = Finding(tool="search", text="", value=[deep, {"name": "Ada Hall"}])
    assert wrong({"name": "Ada Hall"}, Evidence(findings=(finding,))) == []


def test_it_takes_time_in_proportion():
    """A text of eight times the length takes far less than the 64 times of a quadratic search."""
    pieces = ["Ada Hall got £5,000. ", "9,", "1. A\n", "Ada: 5\n", "http://a)"]
    for piece in pieces:
        evidence = of([BLIND, SCHOOL], piece * 64)
        spent = []
        for size in (4_096, 32_768) if SOAK else (1_024, 8_192):
            text = piece * (size // len(piece))
            started = time.process_time()
            wrong(text, evidence)
            wrong({"name": "Ada Hall"}, of(text))
            spent.append(time.process_time() - started)
        assert spent[1] < 8 * 8 * max(spent[0], 0.01) / 2, piece
