"""The demo's data is complete and its search takes whatever is typed."""

import gzip
import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import pytest

from outlast.demo import grants
from outlast.errors import ToolError

PACKED = (resources.files("outlast.demo") / "grants.jsonl.gz").read_bytes()


def test_the_data_is_what_was_published():
    """All 4,495 grants are there, unchanged, and each is found by its id."""
    data = gzip.decompress(PACKED)
    assert hashlib.sha256(data).hexdigest() == (
        "d44aad9639c6d5687879a24ebb2217274b180dd145c084e11eba2fb38502ae68"
    )
    rows = [json.loads(line) for line in data.splitlines()]
    assert len(rows) == len({row["id"] for row in rows}) == grants.count() == 4495
    for row in rows[::500]:
        found = grants.details(row["id"])
        assert found.purpose == row["description"]
        assert found.amount_gbp == row["amount_awarded"]
        assert found.open_call is row["open_call"]


def test_the_file_can_be_made_again():
    """The packed file holds no time and no name, so packing the same data changes no byte of it."""
    flags, mtime = PACKED[3], PACKED[4:8]
    assert (flags, mtime) == (0, bytes(4))


def test_the_attribution_travels_with_the_data():
    """Beside the data stands who published it, and under which licence."""
    notice = (resources.files("outlast.demo") / "NOTICE.md").read_text()
    for words in ("Lloyds Bank Foundation", "Wolfson Foundation", "CC BY 4.0", "360Giving"):
        assert words in notice


def test_search_keeps_its_conditions():
    """Every grant found has all the words, costs at most the limit and more than nothing."""
    found = grants.search("young carers", 20_000, 10)
    assert len(found) == 7
    for grant in found:
        assert 0 < grant.amount_gbp <= 20_000
        text = f"{grant.recipient} {grant.purpose}".lower()
        assert "young" in text
        assert "car" in text
    assert grants.search("dementia", 100) == []
    assert grants.search("dementia zeppelin") == []


def test_search_is_the_same_each_time():
    """Equal matches stand in one order, from any thread."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads meet as often as they can
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: grants.search("advice", None, 50), range(400)))
    finally:
        sys.setswitchinterval(interval)
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    "typed",
    [
        "deaf AND",
        "NEAR(deaf",
        'deaf"',
        "deaf*",
        "-deaf",
        "purpose:deaf",
        "(deaf",
        "^deaf",
        "{deaf}",
        "'; drop table grants; --deaf",
        "deaf\x00",
        "deaf\ud800",
        "d\u00e9af",
    ],
)
def test_search_takes_words_only(typed):
    """Operators, quotes, NUL and lone surrogates part words; none is syntax, none is an error."""
    grants.search(typed, None, 5)
    assert grants.search("deaf")


@pytest.mark.parametrize("typed", ["", "  ", '"*"', "\ud800", "_", "a " * 17])
def test_search_without_words_is_refused(typed):
    """What has no word, or far too many, is refused: it is not an empty answer."""
    with pytest.raises(ToolError, match=r"word"):
        grants.search(typed)


@pytest.mark.parametrize("limit", [0, -1, 51])
def test_search_has_a_limit(limit):
    """The limit is 1 to 50 grants."""
    with pytest.raises(ToolError, match=f"limit is {limit}"):
        grants.search("deaf", None, limit)


def test_totals_and_history_add_up():
    """Totals count what a search finds; a history finds a recipient however it is spelled."""
    found = grants.search("dementia", None, 50)
    assert sum(total.grants for total in grants.totals("dementia")) == len(found)
    assert sum(total.total_gbp for total in grants.totals("dementia")) == sum(
        grant.amount_gbp for grant in found
    )
    history = grants.history(" rushmoor HEALTHY living ")
    assert [grant.recipient for grant in history] == ["Rushmoor Healthy Living"] * 2


def test_an_unknown_id_is_said():
    """A grant that is not there is an error that names it, not an empty answer."""
    with pytest.raises(ToolError, match="360G-none"):
        grants.details("360G-none")
