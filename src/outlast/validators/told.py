"""A text held against records: each of its claims, sentence by sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Final, Literal

from outlast.events import Issue
from outlast.validators.names import (
    ARTICLES,
    LINKS,
    begins_sentence,
    ends_sentence,
    is_ordinary,
    runs,
    spoken,
)
from outlast.validators.records import (
    FIELD,
    MOST_WORDS,
    Entry,
    Key,
    Known,
    Record,
    cells_of,
    shortened,
)
from outlast.validators.tokens import Day, Number, Token, normal, same_unit, scan_normal

RULE: Final = "grounded_in_tools"
NO_KEY: Final = Key("")

_PREFIX: Final = re.compile(r"\s*(?:#{1,6}\s+|>\s*|(?:[-*+•]|\(?\d{1,3}[.)])\s+){0,3}")
_RULER: Final = re.compile(r"[\s|:=-]+$")
_LIMITS: Final = frozenset(
    "under below most than within over above maximum limit cap least your requested asked".split()  # noqa: SIM905
)
_SUMMING: Final = frozenset(
    """all altogether average between combined in largest most overall range ranged ranges ranging
    smallest sum together total totals totalling biggest highest lowest
    """.split()  # noqa: SIM905
) - {"in", "most"}
_AGAIN: Final = frozenset("it they this that its their he she which".split())  # noqa: SIM905
_LANDS: Final = frozenset({"uk", "us", "usa", "eu"})
_ACTS: Final = frozenset(
    """received receives got won secured gave gives awarded granted funded funds obtained gets wins
    offers runs donated
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Task:
    """What was asked, which grounds what an answer says again."""

    text: str

    @cached_property
    def entry(self) -> Entry:
        """Its facts."""
        return Entry(NO_KEY, self.text)

    @cached_property
    def _spoken(self) -> str:
        return " " + " ".join(self.entry.words) + " "

    def names(self, words: Iterable[str]) -> bool:
        """Return whether it says these words, one after the other."""
        return f" {' '.join(words)} " in self._spoken

    def has_number(self, number: Number) -> bool:
        """Return whether it has a number."""
        return any(
            said.value == number.value
            and (not said.unit or not number.unit or same_unit(said.unit, number.unit))
            for said in self.entry.numbers
        ) or any(Decimal(day.year) == number.value for day in self.entry.days)

    def has_day(self, days: Iterable[Day]) -> bool:
        """Return whether it has a date."""
        return any(day.within(known) for day in days for known in self.entry.days)


@dataclass(frozen=True)
class Claim:
    """Something that a text says and that records must say as well."""

    kind: Literal["name", "number", "date", "url", "id"]
    said: str
    start: int
    token: Token
    words: tuple[str, ...] = ()
    end: int = 0


@dataclass
class Line:
    """A line of a text, read."""

    text: str
    tokens: list[Token]
    is_heading: bool = False
    is_inner: bool = False
    claims: list[Claim] = field(default_factory=list)
    unknown: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)


class Reader:
    """Finds the claims of a text."""

    def __init__(self, known: Known, task: Task) -> None:
        self.known = known
        self.task = task

    def line(self, raw: str) -> Line:
        """Return a line with its claims, and with names that nobody said."""
        lead = _PREFIX.match(raw)
        text = raw[lead.end() :] if lead else raw
        line = Line(
            text,
            scan_normal(text),
            is_heading=raw.lstrip().startswith("#")
            or bool(re.match(r"\s*\*\*[^*]*\*\*:?\s*$", raw)),
            is_inner=raw[:1] in " \t" or _is_field(raw),
        )
        taken = [False] * len(line.tokens)
        self._find_known(line, taken)
        self._find_unknown(line, taken)
        self._find_values(line, taken)
        line.claims.sort(key=lambda claim: claim.start)
        return line

    def _find_known(self, line: Line, taken: list[bool]) -> None:
        tokens = line.tokens
        at = 0
        while at < len(tokens):
            end = self._longest(tokens, at)
            if end <= at or not _is_name(tokens, at, end) or self._goes_on(tokens, at, end, taken):
                at += 1
                continue
            taken[at:end] = [True] * (end - at)
            said = line.text[tokens[at].start : tokens[end - 1].end]
            words = spoken(tokens, (at, end))
            line.claims.append(Claim("name", said, at, tokens[at], words, end))
            at = end

    def _longest(self, tokens: list[Token], at: int) -> int:
        node: dict[str, Any] = self.known.names
        end = at
        place = at
        if tokens[at].kind == "mark":
            return at
        while place < len(tokens):
            token = tokens[place]
            if token.kind == "mark":
                if token.text in "|\n":
                    break
            elif token.text in node:
                node = node[token.text]
                if "" in node:
                    end = place + 1
            else:
                break
            place += 1
        return end

    def _goes_on(self, tokens: list[Token], at: int, end: int, taken: list[bool]) -> bool:
        """Return whether a name that is known is only a part of the one that stands there."""
        if at and not taken[at - 1] and _touches(tokens[at - 1]):
            return True
        after = end
        if after < len(tokens) and tokens[after].text in ("-", "/") and _is_tight(tokens, after):
            after += 1
        if after >= len(tokens) or not _touches(tokens[after]):
            return False
        return self._longest(tokens, after) <= after

    def _find_unknown(self, line: Line, taken: list[bool]) -> None:
        tokens = line.tokens
        for start, stop in runs(tokens, taken):
            begin, end = _trimmed(tokens, start, stop)
            if begin >= end:
                continue
            words = spoken(tokens, (begin, end))
            if len(words) == 1:
                known = self._is_word(tokens, begin)
            else:
                known = self._is_made_of_known(tokens, begin, end)
            if not known:
                said = line.text[tokens[begin].start : tokens[end - 1].end]
                line.unknown.append((said, words))
                taken[begin:end] = [True] * (end - begin)

    def _is_word(self, tokens: list[Token], at: int) -> bool:
        """Return whether a capitalised word is no name, or one that was asked about."""
        token = tokens[at]
        if token.kind == "id" or self.task.names([token.text]):
            return True  # identifiers are values of their own
        if token.text in self.known.small:
            return True
        if at and tokens[at - 1].text in ARTICLES:
            # "the Foundation" is one that is known already; "gave The Foundation" is a name.
            spoken_of = not tokens[at - 1].capital or begins_sentence(tokens, at - 1)
            return spoken_of and token.text in self.known.by_word
        if not begins_sentence(tokens, at):
            return False
        after = tokens[at + 1].text if at + 1 < len(tokens) else "|"
        alone = after == "|" and (at == 0 or tokens[at - 1].text == "|")
        return not (
            alone or after in _ACTS or after in _LANDS or (at == 0 and after in ("(", "-", ":"))
        )

    def _is_made_of_known(self, tokens: list[Token], begin: int, end: int) -> bool:
        words = spoken(tokens, (begin, end))
        if self.task.names(words) or is_ordinary(words) or words in self.known.by_name:
            return True
        part: list[str] = []
        loose = True
        parts: list[tuple[list[str], bool]] = []
        for token in tokens[begin:end]:
            if token.kind == "mark":
                continue
            if token.text in LINKS or is_ordinary([token.text]):
                if part:
                    parts.append((part, loose and token.text not in ("of", "for")))
                    part = []
                loose = token.text not in ("of", "for", "the")
            else:
                part.append(token.text)
        parts.append((part, loose))
        if len(parts) == 1 and len(part) == len(words):
            return False
        return all(self._is_part(part, loose=loose) for part, loose in parts if part)

    def _is_part(self, part: list[str], *, loose: bool) -> bool:
        known = self.known.by_name if loose or len(part) > 1 else self.known.values
        if tuple(part) in known or self.task.names(part):
            return True
        return loose and len(part) == 1 and part[0] in self.known.small

    def _find_values(self, line: Line, taken: list[bool]) -> None:
        for at, token in enumerate(line.tokens):
            if not taken[at] and token.kind in ("number", "date", "url", "id"):
                said = line.text[token.start : token.end].strip()
                line.claims.append(Claim(token.kind, said, at, token, (token.text,), at + 1))


def _is_field(raw: str) -> bool:
    """Return whether a line says one thing of what is named above, as "- **Amount**: £5" does."""
    match = re.match(r"(?:[-*+•]\s+)?[*_]{0,2}([^\W\d][\w /-]{0,40}?)[*_]{0,2}:", raw)
    return bool(match) and is_ordinary(match[1].casefold().split()) if match else False


def _is_name(tokens: list[Token], at: int, end: int) -> bool:
    words = spoken(tokens, (at, end))
    if is_ordinary(words) or all(token.kind == "date" for token in tokens[at:end]):
        return False
    if len(words) == 1 and tokens[at].kind in ("number", "url", "date"):
        return False
    return any(token.capital for token in tokens[at:end])


def _is_tight(tokens: list[Token], at: int) -> bool:
    return (
        0 < at < len(tokens) - 1
        and tokens[at - 1].end == tokens[at].start
        and tokens[at].end == tokens[at + 1].start
    )


def _touches(token: Token) -> bool:
    """Return whether a word beside a name would be part of it."""
    return token.capital and token.kind == "word" and not is_ordinary([token.text])


def _trimmed(tokens: list[Token], start: int, stop: int) -> tuple[int, int]:
    """Leave out ordinary words at both ends of a run."""
    while start < stop and (tokens[start].kind == "mark" or is_ordinary([tokens[start].text])):
        start += 1
    while stop > start and (
        tokens[stop - 1].kind == "mark" or is_ordinary([tokens[stop - 1].text])
    ):
        stop -= 1
    return start, stop


# ── judging ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class About:
    """The records that a sentence is about, and the fields by whose values it names them."""

    records: frozenset[int] = frozenset()
    fields: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.records)


NOTHING: Final = About()
RARE: Final = 3
"""A name that so many records have tells which is meant; one of more is rather a funder's."""


class Judge:
    """Holds what a text says against the records.

    Args:
        subjects: the records that it is about, if that is known before.

    """

    def __init__(
        self, known: Known, task: Task, *, subjects: frozenset[int] = frozenset(), path: str = ""
    ) -> None:
        self.known = known
        self.task = task
        self.reader = Reader(known, task)
        self.given = subjects
        self.path = path
        self.has_claims = False

    def issues(self, text: str) -> list[Issue]:
        """Return what a text says that no record does, or only another one."""
        raws = normal(text).split("\n")
        lines = [
            None
            if not raw.strip() or _RULER.match(raw) or _is_table_head(raws, number)
            else self.reader.line(raw)
            for number, raw in enumerate(raws)
        ]
        self.counts = self.known.counts | _lengths(raws) | self._named([x for x in lines if x])
        self._find_titles(raws, lines)
        found: list[Issue] = []
        heading = block = NOTHING
        blank = False
        for line in lines:
            if line is None:
                blank = True
                continue
            if blank and not line.is_inner:
                block = NOTHING
            blank = False
            if line.is_heading:
                heading = block = NOTHING
            self.has_claims = self.has_claims or bool(line.claims or line.unknown)
            found += [self._unknown(said, words) for said, words in line.unknown]
            for claims, words, first in _sentences(line):
                strict = line.is_inner or not block.records or first in _AGAIN
                issues, about = self._sentence(claims, words, block or heading, strict=strict)
                found += issues
                block = about or block
                if line.is_heading:
                    heading = about or heading
        return found

    def _find_titles(self, raws: list[str], lines: list[Line | None]) -> None:
        """Note names that stand alone: in a column of names, or above what is said of them."""
        head: list[str] = []
        for number, (raw, line) in enumerate(zip(raws, lines, strict=True)):
            cells = cells_of(raw) if "|" in raw else []
            if line is None:
                head = cells if cells and not _RULER.match(raw) else head if cells else []
            elif head and len(cells) == len(head):
                for name, cell in zip(head, cells, strict=True):
                    if Key(name).is_naming:
                        self._must_be_known(cell, line)
            elif (fact := FIELD.match(raw)) and Key(fact[1]).is_place and is_title(fact[2]):
                self._must_be_known(fact[2], line)
            elif line.is_heading and _is_above_fields(raws, number) and _begins_unknown(line):
                self._must_be_known(line.text, line)

    def _must_be_known(self, said: str, line: Line) -> None:
        tokens = [token for token in scan_normal(said) if token.kind != "mark"]
        words = tuple(token.text for token in tokens)
        if not words or len(words) > MOST_WORDS or is_ordinary(words):
            return
        if all(token.kind in ("url", "id", "number", "date") for token in tokens):
            return  # values, which are compared as such
        if any(token.kind == "url" for token in tokens):
            return
        if words in self.known.by_name or self.task.names(words):
            return
        if not any(one in said for one, _ in line.unknown):
            line.unknown.append((said, words))

    def _named(self, lines: list[Line]) -> set[int]:
        """Return how many things a text names, of each kind: what it may count."""
        named: dict[str, set[tuple[str, ...]]] = {}
        for line in lines:
            for claim in line.claims:
                if claim.kind == "url":
                    named.setdefault("\r", set()).add(claim.words)
                if claim.kind in ("name", "id"):
                    home = self.homes(claim)
                    for one in _fields(home):
                        named.setdefault(one, set()).add(claim.words)
                    if 0 < len(home) <= RARE:
                        named.setdefault("\n", set()).add(claim.words)
        return {len(names) for names in named.values()}

    def _sentence(
        self, claims: list[Claim], words: frozenset[str], context: About, *, strict: bool
    ) -> tuple[list[Issue], About]:
        homes = [self.homes(claim) for claim in claims]
        anchors, fields = self._anchors(claims, homes)
        named = frozenset(one for _, records in anchors for one in records)
        if self.given:
            named = self.given
        elif words & _SUMMING and not anchors:
            named = frozenset()
        elif context and (not anchors or (strict and self._is_value(named, fields, context))):
            # What a heading or the item above names is what this line is about, too.
            named, fields = (context.records & named) or context.records, context.fields
            anchors = []
        apart = _interleaved(claims, anchors)
        found = []
        for claim, home in zip(claims, homes, strict=True):
            subjects = named
            if apart and not self.given:
                before = [one for start, one in anchors if start <= claim.start]
                subjects = before[-1] if before else anchors[0][1]
            if claim.kind == "name" and not self.given:
                subjects |= _named_beside(claim, claims, homes)
            if issue := self._judged(claim, home, subjects, words):
                found.append(issue)
        return found, (About(named, fields) if anchors else NOTHING)

    def _is_value(self, named: frozenset[int], fields: frozenset[str], context: About) -> bool:
        """Return whether a name is a value of what a text is about, and no subject of its own."""
        keys = [Key(one) for one in fields if one]
        if any(key.like(Key(one)) for key in keys for one in context.fields if one):
            return False
        if named & context.records or len(named) > max(RARE, 2 * len(context.records)):
            return True
        about = self.known.records[min(context.records)]
        return any(key.like(entry.key) for key in keys for _, entry in about.entries)

    def homes(self, claim: Claim) -> dict[int, set[str]]:
        """Return the records that say the same, each with the fields in which they do."""
        token = claim.token
        match claim.kind:
            case "name":
                return self.known.by_name.get(claim.words, {})
            case "url" | "id":
                return self.known.by_exact.get(token.text, {})
            case "date":
                return {number: set() for number in self.known.with_day(token.days)}
            case "number" if token.number:
                return {number: set() for number in self.known.with_number(token.number)}
        return {}

    def _anchors(
        self, claims: list[Claim], homes: list[dict[int, set[str]]]
    ) -> tuple[list[tuple[int, frozenset[int]]], frozenset[str]]:
        """Return what a sentence is about, its rarest name and others of that field; and which."""
        names = [
            (claim, home)
            for claim, home in zip(claims, homes, strict=True)
            if claim.kind in ("name", "id") and home
        ]
        if not names:
            return [], frozenset()
        _, rarest = min(names, key=lambda one: (len(one[1]), one[0].kind != "id", one[0].start))
        fields = _fields(rarest)
        anchors = [
            (claim.start, frozenset(home))
            for claim, home in names
            if home is rarest or (_are_alike(home, fields) and not home.keys() & rarest.keys())
        ]
        return anchors, fields

    def _judged(
        self,
        claim: Claim,
        home: dict[int, set[str]],
        subjects: frozenset[int],
        words: frozenset[str],
    ) -> Issue | None:
        if subjects & home.keys() or self._is_asked(claim, words, subjects):
            return None
        if not home:
            return self._nowhere(claim)
        if not subjects or self._is_aside(claim, subjects):
            return None
        return self._elsewhere(claim, home, subjects)

    def _is_asked(self, claim: Claim, words: frozenset[str], subjects: frozenset[int]) -> bool:
        """Return whether a claim needs no record: the task says it, or the answer counts."""
        if claim.kind == "number":
            return self._is_free(claim, words, subjects)
        if claim.kind == "date":
            return self.task.has_day(claim.token.days)
        return self.task.names(claim.words)

    def _is_aside(self, claim: Claim, subjects: frozenset[int]) -> bool:
        """Return whether a claim is of no field: said in passing, in somebody's description."""
        if claim.kind == "name":
            return claim.words not in self.known.values
        return claim.kind == "url" and not self._has_urls(subjects)

    def _is_free(self, claim: Claim, words: frozenset[str], subjects: frozenset[int]) -> bool:
        """Return whether a number needs no record: a count, or a limit that was asked for."""
        number = claim.token.number
        if number is None:
            return True
        if not number.unit and number.value in self.counts:
            return True
        return self.task.has_number(number) and (not subjects or bool(words & _LIMITS))

    def _has_urls(self, subjects: frozenset[int]) -> bool:
        """Return whether tools returned any address of the subjects."""
        return any(
            token.kind == "url"
            for number in sorted(subjects)[:50]
            for _, entry in self.known.records[number].entries
            for token in entry.tokens
        )

    # what is said of it

    def _unknown(self, said: str, words: tuple[str, ...]) -> Issue:
        near = nearest(self.known, words)
        hint = f"; the nearest is {near!r}" if near else ""
        return Issue(
            f"{said!r} occurs in no tool result{hint}", self.path, RULE, said, near or None
        )

    def _nowhere(self, claim: Claim) -> Issue:
        return Issue(
            f"{claim.said!r} occurs in no tool result, nor in the task: leave it out, or look it "
            "up with a tool",
            self.path,
            RULE,
            claim.said,
        )

    def _elsewhere(
        self, claim: Claim, home: dict[int, set[str]], subjects: frozenset[int]
    ) -> Issue:
        about = self.known.records[min(subjects)]
        theirs = known_of(about, claim, _fields(home))
        said = f"the tools say {theirs!r}" if theirs else "no tool says so"
        return Issue(
            f"{claim.said!r} is not of {about.title()!r}: {said}",
            self.path,
            RULE,
            claim.said,
            theirs or None,
        )


def known_of(record: Record, claim: Claim, fields: frozenset[str]) -> str:
    """Return what a record says instead."""
    said: list[str] = []
    for _, entry in record.entries:
        if claim.kind == "number":
            said += [str(entry.value)] if entry.is_typed else []
        elif (claim.kind == "date" and entry.days) or entry.key.name in fields:
            said.append(str(entry.value))
    return shortened(", ".join(dict.fromkeys(said)))


def nearest(known: Known, words: tuple[str, ...]) -> str:
    """Return the name of a tool's result that is most like one, if any is."""
    near: dict[int, int] = {}
    for word in words:
        for number in sorted(known.by_word.get(word, ()))[:200]:
            near[number] = near.get(number, 0) + 1
    best = sorted(near, key=lambda number: (-near[number], number))[:30]
    records = [known.records[number] for number in best] or known.records[:200]
    spelt = {
        " ".join(entry.words): str(entry.value)
        for record in records
        for _, entry in record.entries
        if entry.words and len(entry.words) <= 16
    }
    said = get_close_matches(" ".join(words)[:200], spelt, n=1, cutoff=0.55)
    return shortened(spelt[said[0]]) if said else ""


def _fields(home: dict[int, set[str]]) -> frozenset[str]:
    named: set[str] = set()
    for keys in list(home.values())[:200]:
        named |= keys
    return frozenset(named)


def _are_alike(home: dict[int, set[str]], fields: frozenset[str]) -> bool:
    """Return whether a name is told in one of some fields; in none, where it is a rare one."""
    shared = _fields(home) & fields
    return bool(shared - {""}) or (bool(shared) and len(home) <= RARE)


def _named_beside(
    claim: Claim, claims: list[Claim], homes: list[dict[int, set[str]]]
) -> frozenset[int]:
    """Return the records of other rare names of a sentence, of which one may say something."""
    beside = [
        home
        for other, home in zip(claims, homes, strict=True)
        if other.kind == "name" and other.words != claim.words and len(home) <= RARE
    ]
    return frozenset(number for home in beside for number in home)


def _interleaved(claims: list[Claim], anchors: list[tuple[int, frozenset[int]]]) -> bool:
    """Return whether each of several subjects is followed by values of its own."""
    starts = [start for start, _ in anchors]
    if len(starts) < 2:
        return False
    values = [claim.start for claim in claims if claim.kind in ("number", "date")]
    ends = [*starts[1:], 10**9]
    return all(
        any(start < value < end for value in values)
        for start, end in zip(starts, ends, strict=True)
    )


def _sentences(line: Line) -> Iterator[tuple[list[Claim], frozenset[str], str]]:
    """Yield the claims of each sentence, its words and the first of them.

    A row of a table is one sentence.
    """
    covered = {at for claim in line.claims for at in range(claim.start, claim.end)}
    row = line.text.lstrip().startswith("|")
    bounds = [
        at
        for at in range(len(line.tokens))
        if not row and at not in covered and ends_sentence(line.tokens, at)
    ]
    begin = 0
    claims = iter(line.claims)
    claim = next(claims, None)
    for end in [*bounds, len(line.tokens)]:
        held = []
        while claim and claim.start < end:
            held.append(claim)
            claim = next(claims, None)
        said = [token.text for token in line.tokens[begin:end] if token.kind != "mark"]
        goes_on = begin and line.tokens[begin].text == ";"
        yield held, frozenset(said), "it" if goes_on else said[0] if said else ""
        begin = end


def _lengths(lines: list[str]) -> set[int]:
    """Return how many items a text lists, by bullets, by numbers, by headings, in rows."""
    counts = [
        sum(bool(re.match(mark, line)) for line in lines)
        for mark in (r"[-*+•]\s", r"\(?\d{1,3}[.)]\s", r"##\s", r"###\s", r"\*\*", r"\s*\|")
    ]
    return {*counts, counts[-1] - 2} - {0, -1, -2}  # a table has a head of two lines


def _begins_unknown(line: Line) -> bool:
    """Return whether a heading begins with what is neither a claim nor an ordinary word."""
    first = next((at for at, one in enumerate(line.tokens) if one.kind != "mark"), None)
    if first is None or any(claim.start == first for claim in line.claims):
        return False
    return not line.claims or not is_ordinary([line.tokens[first].text])


def _is_above_fields(raws: list[str], number: int) -> bool:
    following = next((raw for raw in raws[number + 1 :] if raw.strip()), "")
    return _is_field(following)


def is_title(text: str) -> bool:
    """Return whether a text is a name and nothing else, links between its words aside."""
    said = [token for token in scan_normal(text) if token.kind != "mark"]
    return bool(said) and all(one.capital or one.text in LINKS for one in said)


def _is_table_head(lines: list[str], number: int) -> bool:
    following = lines[number + 1] if number + 1 < len(lines) else ""
    return (
        "|" in lines[number]
        and "-" in following
        and "|" in following
        and bool(_RULER.match(following))
    )
