"""What tools returned, as records: things of which several facts are known together.

A record is an object of JSON with what lies in it, and with the short facts of what it lies in; a
row of a list of lists; an element of a list of texts; or, of a text, a line of a list, of a table
or of values between commas, or a paragraph.
"""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any, Final

from outlast.checks import Finding
from outlast.validators.names import LINKS, is_ordinary, runs, spoken
from outlast.validators.plain import opened
from outlast.validators.tokens import (
    CODES,
    Day,
    Number,
    Token,
    same_unit,
    scan,
    scan_normal,
    unit_of,
    words_of,
)

MOST_WORDS: Final = 16
"""A text of more words is prose and no value of its own."""
DEEPEST: Final = 100
MERGED: Final = 6
INHERITED: Final = 40
"""So many short facts of what a record lies in are the record's as well."""

_KEY_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_QUALIFIERS: Final = frozenset(
    "max min maximum minimum total the of in up to value usd gbp eur".split()  # noqa: SIM905
)
_MONEY: Final = frozenset(
    """amount amounts award awarded value budget cost costs price fee fees fund funds funding grant
    income turnover spend sum max min maximum minimum total largest smallest average paid payment
    """.split()  # noqa: SIM905
)
_NAMING: Final = frozenset(
    """name names title funder funders recipient recipients organisation organization organisations
    organizations grantee applicant beneficiary company author authors person people donor sponsor
    foundation trust charity publisher institution city town country region locality location place
    id ids url urls link links website source sources email programme program
    """.split()  # noqa: SIM905
)
_PLACES: Final = frozenset(
    "city town country county region locality location place village borough".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Key:
    """The name of a field, as words."""

    name: str

    @cached_property
    def words(self) -> frozenset[str]:
        """Its words, in small letters."""
        return frozenset(word.casefold() for word in _KEY_WORD.findall(self.name))

    @cached_property
    def core(self) -> frozenset[str]:
        """Its words without units and qualifiers."""
        return self.words - _QUALIFIERS

    @cached_property
    def unit(self) -> str:
        """The currency that it names, or `%`."""
        named = [word.upper() for word in self.words if word.upper() in CODES]
        if named:
            return named[0]
        return "%" if self.words & {"percent", "percentage", "pct"} else ""

    @cached_property
    def is_money(self) -> bool:
        """Whether it tells of an amount of money, as far as one can tell."""
        return bool(self.unit and self.unit != "%") or bool(self.words & _MONEY)

    @cached_property
    def is_naming(self) -> bool:
        """Whether its values are names."""
        return bool(self.words & _NAMING)

    @cached_property
    def is_place(self) -> bool:
        """Whether its values are names of places."""
        return bool(self.words & _PLACES)

    def like(self, other: Key) -> bool:
        """Return whether another field tells the same: one has all the words of the other."""
        if not self.core or not other.core:
            return self.words == other.words
        return self.core <= other.core or other.core <= self.core


NO_KEY: Final = Key("")
_LABELS: Final = frozenset({"name", "title"})


@dataclass(frozen=True)
class Entry:
    """One fact: a scalar with the field that it stood in."""

    key: Key
    value: Any

    @cached_property
    def tokens(self) -> list[Token]:
        """What it says, if it is a text."""
        return scan(self.value) if isinstance(self.value, str) else []

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The same without marks; of a number, as it is compared."""
        return tuple(token.text for token in self.tokens if token.kind != "mark")

    @cached_property
    def is_prose(self) -> bool:
        """Whether it is a text that is no value of its own."""
        return len(self.words) > MOST_WORDS

    @cached_property
    def is_typed(self) -> bool:
        """Whether it is a number, or a text that is nothing else."""
        if isinstance(self.value, str):
            said = [token for token in self.tokens if token.kind != "mark"]
            return len(said) == 1 and said[0].number is not None
        return as_decimal(self.value) is not None

    @cached_property
    def numbers(self) -> list[Number]:
        """Its numbers; those of a key that names a currency have it."""
        plain = as_decimal(self.value)
        if plain is not None:
            return [Number(plain, self.key.unit)]
        found = [token.number for token in self.tokens if token.number]
        if self.is_typed and not found[0].unit:
            return [Number(found[0].value, self.key.unit)]
        return found

    @cached_property
    def days(self) -> list[Day]:
        """Its dates."""
        return [day for token in self.tokens for day in token.days]

    @cached_property
    def exact(self) -> frozenset[str]:
        """Its addresses and identifiers."""
        return frozenset(token.text for token in self.tokens if token.kind in ("url", "id"))

    @cached_property
    def is_pure_name(self) -> bool:
        """Whether it is one name and nothing else, so that no part of it is a name."""
        if self.is_prose or not self.words:
            return False
        if self.key.is_naming and "title" not in self.key.words:
            return True
        if any(
            token.text in ":;|" or (token.number and token.number.unit) for token in self.tokens
        ):
            return False  # more than a name: a line that says something of it
        return all(
            token.capital or token.kind == "number" or token.text in LINKS
            for token in self.tokens
            if token.kind != "mark"
        )

    @cached_property
    def names(self) -> frozenset[tuple[str, ...]]:
        """The names in it: the whole of a short text, the runs of capitals, and their parts."""
        found: set[tuple[str, ...]] = set()
        if not any(token.kind in ("word", "id") for token in self.tokens):
            return frozenset()
        if not self.is_prose and self.words:
            found.add(self.words)
        if self.is_pure_name:
            found.update(_without_brackets(self.value))
            return frozenset(found)
        for start, end in runs(self.tokens):
            span = start, end
            said = spoken(self.tokens, span)
            if not is_ordinary(said):
                found.add(said)
            if self.is_prose or said != self.words:
                found.update(_parts(self.tokens, span))
        return frozenset(found)


def _without_brackets(text: str) -> Iterator[tuple[str, ...]]:
    """Yield a name without what stands in brackets, and what stands there."""
    inner = re.findall(r"\(([^()]*+)\)", text)
    for said in (re.sub(r"\([^()]*+\)", " ", text), *inner) if inner else ():
        if (words := words_of(said)) and not is_ordinary(words):
            yield words


_BETWEEN: Final = frozenset("and in on at to upon".split())  # noqa: SIM905


def _parts(tokens: Sequence[Token], span: tuple[int, int]) -> Iterator[tuple[str, ...]]:
    """Yield what stands between words such as "and" in a run, and it from its first own word."""
    said = list(tokens[span[0] : span[1]])
    side: list[str] = []
    sides = []
    for token in said:
        if token.text in _BETWEEN and not token.capital:
            sides.append(tuple(side))
            side = []
        elif token.kind != "mark":
            side.append(token.text)
    sides.append(tuple(side))
    if len(sides) > 1:
        yield from (one for one in sides if one and not is_ordinary(one))
    words = spoken(tokens, span)
    first = 0
    while first < len(words) - 1 and is_ordinary(words[first : first + 1]):
        first += 1
    if first and not is_ordinary(words[first:]):
        yield words[first:]


def as_decimal(value: Any) -> Decimal | None:
    """Return a number as a decimal; booleans, and what is not finite, are none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, float):
        return Decimal(repr(value)) if math.isfinite(value) else None
    return value if isinstance(value, Decimal) and value.is_finite() else None


@dataclass
class Record:
    """Facts that are known together.

    Attributes:
        number: its place among all.
        entries: its facts, each with how far away it stood: 0 in the record itself.

    """

    number: int
    entries: list[tuple[int, Entry]] = field(default_factory=list)

    @cached_property
    def units(self) -> frozenset[str]:
        """The currencies that it names: in a field of its own, in a key, or with an amount."""
        found = {entry.key.unit for _, entry in self.entries} - {"", "%"}
        for _, entry in self.entries:
            if entry.key.words & {"currency"} and isinstance(entry.value, str):
                found.add(unit_of(entry.value))
            found.update(number.unit for number in entry.numbers if number.is_money)
        return frozenset(found - {""})

    @cached_property
    def amounts(self) -> list[tuple[Entry, Number]]:
        """Its numbers; an amount without a unit has that of the record, if there is one."""
        unit = next(iter(self.units)) if len(self.units) == 1 else ""
        result = []
        for _, entry in self.entries:
            for number in entry.numbers:
                inherits = not number.unit and entry.is_typed and entry.key.is_money
                result.append((entry, Number(number.value, unit) if inherits else number))
            result += [(entry, Number(Decimal(day.year))) for day in entry.days if day.year]
        return result

    def same(self, key: Key) -> list[Entry]:
        """Return the facts of a field of the same name, or of a similar one; the nearest ones."""
        if not key.name:
            return []
        named = Key(" ".join(sorted(key.core - _LABELS)))
        tests = [lambda other: other.words == key.words, key.like]
        if named.core and named.core != key.core:  # the name of a funder is a funder
            tests.insert(1, named.like)
        for test in tests:
            found = [(rank, entry) for rank, entry in self.entries if test(entry.key)]
            if found:
                nearest = min(rank for rank, _ in found)
                return [entry for rank, entry in found if rank == nearest]
        return []

    def has_number(self, number: Number, entries: Iterable[Entry] | None = None) -> bool:
        """Return whether a number is among its facts, as a number and in a unit that may be."""
        chosen = None if entries is None else list(entries)
        return any(
            theirs.value == number.value and self.may_be(number, theirs, entry)
            for entry, theirs in self.amounts
            if chosen is None or any(entry is one for one in chosen)
        )

    def may_be(self, claim: Number, theirs: Number, entry: Entry) -> bool:
        """Return whether the unit of a number that is claimed may be that of one that is known."""
        if claim.unit and theirs.unit:
            return same_unit(claim.unit, theirs.unit)
        if claim.unit == "%":
            return entry.is_typed
        if claim.unit:  # money: a bare number counts where the record knows no money better
            return not self.units
        return theirs.unit != "%" or entry.is_typed

    def has_day(self, days: Iterable[Day], entries: Iterable[Entry] | None = None) -> bool:
        """Return whether a date is among its facts."""
        given = [entry for _, entry in self.entries] if entries is None else entries
        return any(day.within(known) for day in days for entry in given for known in entry.days)

    def title(self) -> str:
        """Return what to call it in a message."""
        texts = [e for _, e in self.entries if isinstance(e.value, str) and e.value.strip()]
        for wanted in ("name", "title", "recipient", "organisation", "organization"):
            for entry in texts:
                if wanted in entry.key.words and not entry.is_prose:
                    return str(entry.value).strip()
        return shortened(str(texts[0].value)) if texts else ""


def shortened(text: str, most: int = 120) -> str:
    """Return the beginning of a text, on one line."""
    text = " ".join(text[: most * 4].split())
    return text if len(text) <= most else text[: most - 1] + "…"


# ── from what tools returned ───────────────────────────────────────────────────────────────────


class Known:
    """All records of a run, and where each value is found in them."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.records: list[Record] = []
        self.counts: set[int] = set()
        for finding in findings:
            self._read(finding)
        self.by_name: dict[tuple[str, ...], dict[int, set[str]]] = defaultdict(dict)
        self.by_number: dict[Decimal, set[int]] = defaultdict(set)
        self.by_exact: dict[str, dict[int, set[str]]] = defaultdict(dict)
        self.by_word: dict[str, set[int]] = defaultdict(set)
        self.by_day: dict[Day, set[int]] = defaultdict(set)
        self.small: set[str] = set()
        self.values: set[tuple[str, ...]] = set()
        for record in self.records:
            self._index(record)

    def _read(self, finding: Finding) -> None:
        given = [
            (1, Entry(Key(name), value))
            for name, value in finding.arguments.items()
            if isinstance(value, str) and _is_address(value)
        ]
        waiting: list[tuple[Any, Key, list[tuple[int, Entry]], int]] = [
            (opened(finding.value), NO_KEY, given, 0)
        ]
        while waiting:
            value, key, outer, depth = waiting.pop()
            if depth > DEEPEST:
                continue
            match value:
                case dict():
                    waiting += self._read_object(value, key, outer, depth)
                case list():
                    self.counts.add(len(value))
                    if is_table(value):
                        for row in value:
                            self._add_row((), row, outer)
                        continue
                    elements = [opened(one) for one in reversed(value)]
                    waiting += [
                        (one, NO_KEY if isinstance(one, dict) else key, outer, depth + 1)
                        for one in elements
                    ]
                case str():
                    self._read_text(value, key, outer)
                case None:
                    pass
                case _:
                    self._add([(0, Entry(key, value)), *outer])

    def _add(self, entries: list[tuple[int, Entry]]) -> None:
        if entries:
            self.records.append(Record(len(self.records), entries))

    def _add_row(
        self, head: Sequence[str], row: Sequence[Any], outer: list[tuple[int, Entry]]
    ) -> None:
        names = head if len(head) == len(row) else [""] * len(row)
        said = [Entry(Key(name), one) for name, one in zip(names, row, strict=True)]
        self._add([*((0, one) for one in said if one.value is not None), *outer])

    def _read_object(
        self, value: dict[str, Any], key: Key, outer: list[tuple[int, Entry]], depth: int
    ) -> list[tuple[Any, Key, list[tuple[int, Entry]], int]]:
        own, inside = gathered(headed(value), f"{key.name} ".lstrip())
        self._add([*own, *outer])
        short = [(rank + 10, entry) for rank, entry in own if _is_short(entry)]
        handed = [*short, *((rank + 10, entry) for rank, entry in outer)][:INHERITED]
        return [(one, its, handed, depth + 1) for its, one in reversed(inside)]

    def _read_text(self, text: str, key: Key, outer: list[tuple[int, Entry]]) -> None:
        if rows := separated(text):
            for row in rows[1:]:
                self._add_row(rows[0], row, outer)
            return
        head: list[str] = []
        before: list[str] = []
        for lines in pieces(text):
            cells = cells_of(lines[0]) if len(lines) == 1 else []
            if cells and not any(any(char.isalnum() for char in cell) for cell in cells):
                head = before  # the line under the head of a table
                continue
            before = cells
            if len(cells) > 1:
                keys = [Key(name) for name in head] if len(head) == len(cells) else [NO_KEY] * 99
                said = [Entry(one, cell) for one, cell in zip(keys, cells, strict=False) if cell]
            else:
                said = [_said(line, key) for line in lines if line.strip()]
            self._add([*((0, one) for one in said), *outer])

    def _index(self, record: Record) -> None:
        number = record.number
        for rank, entry in record.entries:
            for day in entry.days:
                self.by_day[day].add(number)
            for one in entry.exact:
                self.by_exact[one].setdefault(number, set()).add(entry.key.name)
            for name in entry.names:
                self.by_name[name].setdefault(number, set()).add(entry.key.name)
                if not entry.key.name or name == entry.words:
                    self.values.add(name)
            if rank < 10:
                for token in entry.tokens:
                    if token.kind != "mark":
                        self.by_word[token.text].add(number)
                        if not token.capital:
                            self.small.add(token.text)
        for _, theirs in record.amounts:
            self.by_number[theirs.value].add(number)

    @cached_property
    def names(self) -> dict[str, Any]:
        """All names as a tree of their words, to be found in a text in one go."""
        root: dict[str, Any] = {}
        for name in self.by_name:
            if len(name) > MOST_WORDS:
                continue
            node = root
            for word in name:
                node = node.setdefault(word, {})
            node[""] = name
        return root

    def with_day(self, days: Iterable[Day]) -> set[int]:
        """Return the records that have one of these dates."""
        wanted = tuple(days)
        exact = {number for day in wanted for number in self.by_day.get(day, ())}
        if all(day.year and day.month and day.day for day in wanted):
            return exact
        return exact.union(
            *(
                numbers
                for known, numbers in self.by_day.items()
                if any(day.within(known) for day in wanted)
            )
        )

    def with_number(self, number: Number) -> set[int]:
        """Return the records that have a number in a unit that may be the same."""
        near = self.by_number.get(number.value, ())
        return {one for one in near if self.records[one].has_number(number)}


def gathered(
    value: dict[str, Any], named: str = ""
) -> tuple[list[tuple[int, Entry]], list[tuple[Key, Any]]]:
    """Return the facts of an object and of objects in it, and what is records of its own.

    The fields of an object that is the value of a field have its name, too: `funder name`.
    """
    own: list[tuple[int, Entry]] = []
    inside: list[tuple[Key, Any]] = []
    waiting: list[tuple[dict[str, Any], str, int]] = [(value, named, 0)]
    while waiting:
        members, outer, rank = waiting.pop()
        opened_members = {name: opened(one) for name, one in members.items()}
        apart = is_map(opened_members)
        for name, one in opened_members.items():
            key = Key(name)
            if isinstance(one, list) and len(one) == 1 and isinstance(opened(one[0]), dict):
                one = opened(one[0])  # noqa: PLW2901  (the only one is as good as not in a list)
            if isinstance(one, dict):
                if apart or rank >= MERGED or len(one.keys() & members.keys()) > 1:
                    inside.append((NO_KEY if apart else Key(outer + name), one))
                else:
                    waiting.append((one, f"{outer}{name} ", rank + 1))
            elif isinstance(one, list):
                plain = [opened(element) for element in one]
                scalars = [e for e in plain if not isinstance(e, dict | list) and e is not None]
                own += [(rank, Entry(Key(outer + name), scalar)) for scalar in scalars]
                nested = [element for element in plain if isinstance(element, dict | list)]
                if nested:
                    inside.append((key, nested))
            elif isinstance(one, str) and is_listing(one):
                inside.append((key, one))
            elif one is not None and one != "":
                own.append((rank, Entry(Key(outer + name), one)))
    return own, inside


def headed(members: dict[str, Any]) -> dict[str, Any]:
    """Return an object with tables in it as objects, where it names their columns as well."""
    heads = {
        len(one): one
        for one in members.values()
        if isinstance(one, list)
        and all(isinstance(name, str) for name in one)
        and len(set(one)) == len(one)
    }
    return {
        name: [dict(zip(heads[len(row)], row, strict=True)) for row in one]
        if is_table(one) and len(one[0]) in heads
        else one
        for name, one in members.items()
    }


def is_table(value: Any) -> bool:
    """Return whether something is rows of values, each with as many."""
    if not isinstance(value, list) or not value or not isinstance(value[0], list):
        return False
    return len(value[0]) > 1 and all(
        isinstance(row, list)
        and len(row) == len(value[0])
        and not any(isinstance(cell, dict | list) for cell in row)
        for row in value
    )


def separated(text: str) -> list[list[str]]:
    """Return the rows of a text of values between commas or semicolons, their head first."""
    first = text.strip().partition("\n")[0]
    for mark in (",", ";"):
        if first.count(mark) < 2:
            continue
        try:
            rows = [row for row in csv.reader(text.strip().splitlines(), delimiter=mark) if row]
        except csv.Error:
            continue
        head = rows[0]
        if len(rows) > 1 and _is_head(head) and all(len(row) == len(head) for row in rows):
            return rows
    return []


def _is_head(cells: list[str]) -> bool:
    """Return whether cells are names of fields, and not what a sentence has between commas."""
    return len(set(cells)) == len(cells) and all(
        _COLUMN.fullmatch(cell.strip()) and len(cell.split()) <= 4 for cell in cells
    )


def is_map(members: dict[str, Any]) -> bool:
    """Return whether an object is records by their ids, and not a record itself."""
    if len(members) < 2 or not all(isinstance(one, dict) for one in members.values()):
        return False
    shapes = [frozenset(one) for one in members.values()]
    shared = frozenset.intersection(*shapes)
    return len(shared) >= 2 and len(shared) * 2 >= max(map(len, shapes))


def _is_short(entry: Entry) -> bool:
    return not isinstance(entry.value, str) or len(entry.value) <= 200


def _is_address(text: str) -> bool:
    return bool(re.match(r"(?:https?|ftp)://\S+$|www\.\S+$", text.strip(), re.IGNORECASE))


_ITEM: Final = re.compile(r"\s*(?:[-*+•|]|\(?\d{1,3}[.)]\s)")
_COLUMN: Final = re.compile(r"[^\W\d][\w /()£$€%-]{0,40}")
FIELD: Final = re.compile(
    r"\s*(?:[-*+•]\s*)?(?:\*\*)?([^\W\d][\w /-]{0,40}?)(?:\*\*)?:(?:\*\*)?\s+(\S.*)"
)


def is_listing(text: str) -> bool:
    """Return whether a text is a list or a table of several things."""
    return "\n" in text and len([one for one in pieces(text) if len(one) == 1]) > 2


def pieces(text: str) -> Iterator[list[str]]:
    """Yield the lines of each record of a text.

    A paragraph is one; of a list or a table, each line; and a paragraph that names nothing goes
    on with the one before.
    """
    held: list[str] = []
    for block in re.split(r"\n[ \t\r]*+\n", text):
        lines = [line for line in block.split("\n") if line.strip()]
        if _are_rows(lines):
            if held:
                yield held
            held = []
            yield from ([line] for line in lines)
        elif held and not _names_something(lines):
            held += lines
        else:
            if held:
                yield held
            held = lines
    if held:
        yield held


def _are_rows(lines: list[str]) -> bool:
    """Return whether lines are one thing each: a list, a table, values between commas or tabs."""
    if len(lines) < 2:
        return False
    items = sum(bool(_ITEM.match(line)) and not field_of(line) for line in lines)
    if items * 2 >= len(lines):
        return True
    return any(
        lines[0].count(mark) and len({line.count(mark) for line in lines}) == 1
        for mark in (",", "\t", ";")
    ) and not all(FIELD.match(line) for line in lines)


def cells_of(line: str) -> list[str]:
    """Return the cells of a line of a table, or nothing."""
    line = re.sub(r"^\s*[-*+•]\s", "", line).strip()
    mark = "\t" if "\t" in line else "|"
    cells = [cell.strip().strip("*") for cell in line.strip("|").split(mark)]
    return cells if len(cells) > 1 and len(cells) < 99 else []


def _names_something(lines: list[str]) -> bool:
    if any(line.lstrip().startswith("#") for line in lines):
        return True
    for line in lines:
        tokens = scan_normal(line)
        for start, end in runs(tokens):
            if (start or end - start > 1) and not is_ordinary(spoken(tokens, (start, end))):
                return True
    return False


def _said(line: str, key: Key) -> Entry:
    """Return the fact of a line, which may name its field itself: "Funder: …"."""
    if match := field_of(line):
        return Entry(Key(match[1]), match[2])
    return Entry(key, line)


def field_of(line: str) -> re.Match[str] | None:
    """Return the field and the value of a line such as "Amount: £5"; "Alder Trust: £5" is none."""
    match = FIELD.match(line)
    if not match:
        return None
    words = match[1].split()
    first = words[0].casefold()
    named = len(words) > 1 and all(word[0].isupper() for word in words)
    told = is_ordinary([first]) or first in _NAMING | _MONEY
    return match if told or not named else None
