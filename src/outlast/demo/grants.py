"""The grants themselves: a full-text index in memory, built from the packaged file on first use.

See NOTICE.md for where they come from.  Amounts are in pounds sterling.
"""

from __future__ import annotations

import gzip
import re
import threading
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from typing import Any, Final, TypeVar

import apsw
import msgspec

from outlast.errors import ToolError

MAX_WORDS: Final = 16
MAX_LIMIT: Final = 50


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A grant that was made.

    Attributes:
        id: the grant's id in the 360Giving registry, such as `360G-LBFEW-100001`.
        locality: the recipient's town, empty where the funder did not say.
        amount_gbp: pounds.
        awarded: the day of the decision, ISO.
        purpose: what it is for, in the funder's words.

    """

    id: str
    recipient: str
    locality: str
    amount_gbp: float
    awarded: str
    funder: str
    purpose: str


@dataclass(frozen=True, kw_only=True)
class Details(Grant):
    """A grant with everything its funder published.

    Attributes:
        open_call: whether anybody could apply.
        charity_number: the recipient's, empty where it has none.

    """

    programme: str
    open_call: bool
    charity_number: str


@dataclass(frozen=True, kw_only=True)
class FunderTotal:
    """What one funder gave for a purpose; £0 awards aside."""

    funder: str
    grants: int
    total_gbp: float
    smallest_gbp: float
    largest_gbp: float
    first_awarded: str
    last_awarded: str


class _Row(msgspec.Struct):
    """A line of the file."""

    id: str
    description: str
    amount_awarded: float
    award_date: str
    funder: str
    programme: str
    open_call: bool
    recipient: str
    recipient_charity_number: str
    recipient_locality: str


_COLUMNS: Final = {
    Grant: "id, recipient, locality, amount_gbp, awarded, funder, purpose",
    Details: "id, recipient, locality, amount_gbp, awarded, funder, purpose,"
    " programme, open_call, charity_number",
    FunderTotal: "funder, count(*), sum(amount_gbp), min(amount_gbp), max(amount_gbp),"
    " min(awarded), max(awarded)",
}

# porter: who looks for carers also finds caring.
_TABLE: Final = """
    create virtual table grants using fts5(
        recipient, purpose, programme,
        id unindexed, locality unindexed, amount_gbp unindexed, awarded unindexed,
        funder unindexed, open_call unindexed, charity_number unindexed,
        tokenize = 'porter unicode61 remove_diacritics 2'
    )
"""

_LOCK: Final = threading.Lock()
"""Tools run in threads of their own, and the index is one connection."""


def search(keyword: str, max_gbp: float | None = None, limit: int = 5) -> list[Grant]:
    """Return grants that have every word of `keyword`, the best match first.

    Awards of £0 are left out: they share the money of another award.

    Args:
        keyword: words; whatever is not a letter or digit only parts them.
        max_gbp: pounds at most; `None` is any amount.
        limit: 1 to 50 grants.

    Raises:
        ToolError: there is no word, there are too many, or `limit` is out of range.

    """
    if not 1 <= limit <= MAX_LIMIT:
        raise ToolError(f"limit is {limit}, but must be 1 to {MAX_LIMIT}")
    return _select(
        Grant,
        "grants match ? and amount_gbp > 0 and amount_gbp <= ? order by rank, id limit ?",
        (_match(keyword), float("inf") if max_gbp is None else max_gbp, limit),
    )


def totals(keyword: str) -> list[FunderTotal]:
    """Return what each funder gave for `keyword`, the most generous first.

    Raises:
        ToolError: there is no word in `keyword`, or there are too many.

    """
    return _select(
        FunderTotal,
        "grants match ? and amount_gbp > 0 group by funder order by 3 desc",
        (_match(keyword),),
    )


def history(recipient: str) -> list[Grant]:
    """Return every grant to `recipient`, named as in a grant (case aside), the oldest first."""
    return _select(Grant, "recipient = trim(?) collate nocase order by awarded, id", (recipient,))


def details(grant_id: str) -> Details:
    """Return all that is known of one grant.

    Raises:
        ToolError: there is no grant of that id.

    """
    found = _select(Details, "id = ?", (grant_id.strip(),))
    if not found:
        raise ToolError(f"there is no grant {grant_id!r}; ids look like 360G-LBFEW-100001")
    return replace(found[0], open_call=bool(found[0].open_call))  # SQLite says 1 or 0


def count() -> int:
    """Return how many grants there are, those of £0 included."""
    with _LOCK:
        return int(_index().execute("select count(*) from grants").get)


_T = TypeVar("_T", Grant, Details, FunderTotal)


def _select(kind: type[_T], where: str, values: tuple[Any, ...]) -> list[_T]:
    columns = _COLUMNS[kind]
    names = [field.name for field in fields(kind)]
    with _LOCK:
        rows = list(_index().execute(f"select {columns} from grants where {where}", values))  # noqa: S608  (both are constants of this module)
    return [kind(**dict(zip(names, row, strict=True))) for row in rows]


def _match(keyword: str) -> str:
    """Return the words of `keyword` as an FTS5 query; quoted, so that none is an operator."""
    words = re.findall(r"[^\W_]+", keyword)
    if not words:
        raise ToolError(f"there is no word to search for in {keyword!r}")
    if len(words) > MAX_WORDS:
        raise ToolError(f"{len(words)} words are too many; search for at most {MAX_WORDS}")
    return " ".join(f'"{word}"' for word in words)


def _plain(pounds: float) -> float:
    """Return 20000 for 20000.0: the two funders spell whole pounds differently."""
    return int(pounds) if pounds.is_integer() else pounds


@cache
def _index() -> apsw.Connection:
    packed = (resources.files("outlast.demo") / "grants.jsonl.gz").read_bytes()
    rows = msgspec.json.Decoder(_Row).decode_lines(gzip.decompress(packed))
    connection = apsw.Connection(":memory:")
    connection.execute(_TABLE)
    with connection:
        connection.executemany(
            "insert into grants values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    row.recipient.strip(),
                    row.description,
                    row.programme,
                    row.id,
                    row.recipient_locality,
                    _plain(row.amount_awarded),
                    row.award_date,
                    row.funder,
                    row.open_call,
                    row.recipient_charity_number,
                )
                for row in rows
            ],
        )
    return connection
