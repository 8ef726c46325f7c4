"""Whether an answer says what tools returned: its names, numbers, dates and addresses.

An object of an answer is grounded when one record of what tools returned supports all that it
claims, so that a real name with the amount of another one is not.  Values are compared as what
they are: 72 is not 72,000.  Text is held against the records sentence by sentence.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any, Final

from outlast.checks import Check, Evidence
from outlast.errors import InvalidAgent
from outlast.events import Issue
from outlast.validators import names, plain, records, tokens, told
from outlast.validators.names import is_ordinary, runs
from outlast.validators.plain import DEEPEST, Path, Place, TooDeep, opened, shown
from outlast.validators.records import Entry, Key, Known, Record, as_decimal, shortened
from outlast.validators.tokens import CODES, Number
from outlast.validators.told import RULE, Judge, Task, nearest

CANDIDATES: Final = 48
"""So many records are looked at closely for each object of an answer."""


@dataclass(frozen=True)
class Said:
    """A scalar of an answer."""

    place: Place
    entry: Entry

    @cached_property
    def number(self) -> Number | None:
        """It, as a number with its unit, if it is nothing else."""
        if self.entry.is_typed:
            return self.entry.numbers[0]
        said = [token for token in self.entry.tokens if token.kind != "mark"]
        if said and len(said) <= 4 and [t.number for t in said].count(None) == len(said) - 1:
            rest = [token.text for token in said if not token.number]
            if all(is_ordinary([word]) or word in _AROUND for word in rest):
                number = next(token.number for token in said if token.number)
                return Number(number.value, number.unit or self.entry.key.unit)
        return None

    @cached_property
    def is_currency(self) -> bool:
        """Whether it is the code of a currency."""
        value = self.entry.value
        return isinstance(value, str) and value.strip().upper() in CODES

    @cached_property
    def is_day(self) -> bool:
        """Whether it is a date."""
        return self._only("date")

    @cached_property
    def is_exact(self) -> bool:
        """Whether it is an address or an identifier."""
        return self._only("url") or self._only("id")

    def _only(self, kind: str) -> bool:
        said = [token for token in self.entry.tokens if token.kind != "mark"]
        return len(said) == 1 and said[0].kind == kind

    @cached_property
    def is_name(self) -> bool:
        """Whether it is a name: a short text that is capitalised, or in a field for names."""
        words = self.entry.words
        if not words or self.entry.is_prose:
            return False
        if self.entry.key.is_naming:
            return True
        if is_ordinary(words):
            return False
        return any(
            start == 0 and end == len(self.entry.tokens) for start, end in runs(self.entry.tokens)
        )


_TITLES: Final = frozenset(
    "name title recipient organisation organization id".split()  # noqa: SIM905
)
_LABELS: Final = frozenset({"name", "title"})
_COUNTING: Final = frozenset("count total number length found matches results n".split())  # noqa: SIM905
_AROUND: Final = frozenset("approximately about approx circa around nearly almost".split())  # noqa: SIM905


@dataclass
class Thing:
    """An object of an answer, with the scalars that are claimed together."""

    said: list[Said] = field(default_factory=list)


def things(answer: Any) -> Iterator[Thing]:
    """Yield the objects of an answer; an element of a list is one of its own.

    Raises:
        TooDeep: it is nested deeper than anybody looks.

    """
    waiting: list[tuple[Any, Place, Key, Thing | None]] = [(opened(answer), (), Key(""), None)]
    ready: list[Thing] = []
    while waiting:
        value, place, key, thing = waiting.pop()
        if len(place) > DEEPEST:
            raise TooDeep(f"the answer is nested more than {DEEPEST} levels deep")
        match value:
            case dict():
                apart = records.is_map({name: opened(one) for name, one in value.items()})
                if thing is None and not apart:
                    thing = Thing()
                    ready.append(thing)
                for name, one in reversed(list(value.items())):
                    its = Key(f"{key.name} {name}") if key.name and name in _LABELS else Key(name)
                    if not _counts(name, one, value):
                        waiting.append((opened(one), (*place, name), its, thing))
            case list():
                inner_thing = thing if len(value) == 1 else None
                for index, one in reversed(list(enumerate(value))):
                    waiting.append((opened(one), (*place, index), key, inner_thing))
            case None:
                pass
            case str() if not value.strip():
                pass
            case _:
                if thing is None:
                    thing = Thing()
                    ready.append(thing)
                thing.said.append(Said(place, Entry(key, value)))
    yield from (thing for thing in ready if thing.said)


def _counts(name: str, value: Any, beside: dict[str, Any]) -> bool:
    """Return whether a number only says how much an answer lists beside it."""
    if not isinstance(value, int) or isinstance(value, bool) or not Key(name).words & _COUNTING:
        return False
    lists = (opened(one) for one in beside.values())
    return value in [len(one) for one in lists if isinstance(one, list)]


class Comparison:
    """Holds the objects of one answer against the records of one run."""

    def __init__(self, known: Known, task: Task) -> None:
        self.known = known
        self.task = task
        self.has_claims = False

    def issues(self, thing: Thing, chosen: Sequence[Said]) -> Iterator[Issue]:
        """Yield what is wrong with the chosen scalars of an object."""
        best, wrong = self._best(thing)
        for said in thing.said:
            if said not in chosen:
                continue
            if _is_text(said):
                about = frozenset({best.number}) if best and self._is_about(thing, best) else None
                yield from self._told(said, about)
            elif said in wrong:
                self.has_claims = True
                yield self._issue(said, best)
            else:
                self.has_claims = self.has_claims or not _is_free(said)

    def _told(self, said: Said, about: frozenset[int] | None) -> list[Issue]:
        judge = Judge(self.known, self.task, subjects=about or frozenset(), path=shown(said.place))
        issues = judge.issues(str(said.entry.value))
        self.has_claims = self.has_claims or judge.has_claims
        return issues

    def _is_about(self, thing: Thing, record: Record) -> bool:
        return any(
            said.is_name and not _is_text(said) and self._supports(record, said)
            for said in thing.said
        )

    def _best(self, thing: Thing) -> tuple[Record | None, list[Said]]:
        """Return the record that supports most of an object, and what it does not support."""
        claims = [said for said in thing.said if not _is_free(said) and not _is_text(said)]
        best: Record | None = None
        least: tuple[float, ...] = ()
        wrong = [said for said in claims if not self._is_of_task(said)]
        weights = [self._weight(said) for said in claims]
        for record in self._candidates(thing):
            failing = [said for said in claims if not self._supports(record, said)]
            told_ = sum(weights[at] for at, said in enumerate(claims) if said not in failing)
            named = sum(self._alike(record, said) for said in failing if said.is_name)
            rank = (bool(failing), -told_ - named, record.number)
            if best is None or rank < least:
                best, least, wrong = record, rank, failing
            if not failing:
                break
        return best, wrong

    def _candidates(self, thing: Thing) -> list[Record]:
        hits: Counter[int] = Counter()
        for said in thing.said:
            entry = said.entry
            near: set[int] = set(self.known.by_name.get(entry.words, ()))
            for one in entry.exact:
                near |= self.known.by_exact.get(one, {}).keys()
            if said.number:
                near |= self.known.by_number.get(said.number.value, set())
            if said.is_day:
                near |= self.known.with_day(entry.days)
            for number in near:
                hits[number] += 4
            for word in set(entry.words[:40]):
                of_word = self.known.by_word.get(word, ())
                if len(of_word) * 4 <= len(self.known.records) or len(of_word) <= 16:
                    for number in of_word:
                        hits[number] += 1
        ranked = sorted(hits, key=lambda number: (-hits[number], number))[:CANDIDATES]
        return [self.known.records[number] for number in ranked] or self.known.records[:CANDIDATES]

    def _weight(self, said: Said) -> float:
        """Return how much a scalar tells of what an object is: a rare name most of all."""
        found = len(self.known.by_name.get(said.entry.words, ())) or len(self.known.records)
        naming = 2.0 if said.entry.key.words & _TITLES else 1.0
        return 0.1 + naming / (found or 1) if said.is_name or said.is_exact else 0.1

    def _alike(self, record: Record, said: Said) -> float:
        mine = " ".join(said.entry.words)[:200]
        theirs = [" ".join(e.words)[:200] for _, e in record.entries if e.words and not e.is_prose]
        return max((SequenceMatcher(None, mine, one).ratio() for one in theirs[:20]), default=0.0)

    def _is_of_task(self, said: Said) -> bool:
        if said.number:
            return self.task.has_number(said.number)
        if said.is_day:
            return self.task.has_day(said.entry.days)
        return self.task.names(said.entry.words)

    # one scalar against one record

    def _supports(self, record: Record, said: Said) -> bool:
        same = record.same(said.entry.key)
        value = said.entry.value
        if isinstance(value, bool):
            known = [entry.value for entry in same if isinstance(entry.value, bool)]
            return not known or value in known
        if as_decimal(value) is not None or said.number:
            return self._has_number(record, said, same)
        if not isinstance(value, str):
            return False  # such as NaN
        if said.is_currency and not any(said.entry.words == entry.words for entry in same):
            return not record.units or value.strip().upper() in record.units
        if said.is_day:
            dated = [entry for entry in same if entry.days]
            return record.has_day(said.entry.days, dated or None) or (
                not dated and self.task.has_day(said.entry.days)
            )
        return self._has_text(record, said, same)

    def _has_number(self, record: Record, said: Said, same: list[Entry]) -> bool:
        number = said.number
        if number is None:
            return False
        key = said.entry.key
        theirs = [entry for entry in same if entry.numbers or entry.days]
        if theirs:
            return record.has_number(number, theirs)
        if not number.unit and key.is_money and record.units:
            number = Number(number.value, next(iter(sorted(record.units))))
        if record.has_number(number):
            return True
        if isinstance(said.entry.value, str) and said.entry.words in _names(record):
            return True
        return not same and not key.is_money and self.task.has_number(number)

    def _has_text(self, record: Record, said: Said, same: list[Entry]) -> bool:
        entry = said.entry
        if same:
            if any(entry.words == one.words or entry.words in one.names for one in same):
                return True
            texts = [one for one in same if isinstance(one.value, str)]
            return (
                bool(texts)
                and all(one.is_prose for one in texts)
                and any(contains(one, entry) for one in texts)
            )
        if said.is_exact:
            (token,) = [token for token in entry.tokens if token.kind != "mark"]
            return any(token.text in one.exact for _, one in record.entries) or self.task.names(
                entry.words
            )
        return (
            entry.words in _names(record)
            or any(contains(one, entry) for _, one in record.entries)
            or self.task.names(entry.words)
        )

    # what is said of it

    def _issue(self, said: Said, best: Record | None) -> Issue:
        value, path = said.entry.value, shown(said.place)
        where = path or "the answer"
        same = best.same(said.entry.key) if best else []
        known = [one.value for one in same]
        expected = known[0] if len(known) == 1 else (known[:5] or None)
        if not self._occurs(said):
            near = "" if expected is not None else nearest(self.known, said.entry.words)
            told_ = f"; the nearest is {near!r}" if near else ""
            if expected is not None:
                told_ = f"; for {_title(best)} the tools say {_brief(expected)}"
            message = f"{where}: {_brief(value)} occurs in no tool result{told_}"
            return Issue(message, path, RULE, _plain(value), _plain(expected or near or None))
        if expected is None and best is not None and said.number:
            expected = _amounts(best, said.number)
        instead = (
            f"the tools say {_brief(expected)}"
            if expected is not None
            else ("no tool says that of it")
        )
        message = f"{where}: {_brief(value)} is not of {_title(best)}: {instead}"
        return Issue(message, path, RULE, _plain(value), _plain(expected))

    def _occurs(self, said: Said) -> bool:
        if said.number:
            return bool(self.known.by_number.get(said.number.value))
        if said.is_day:
            return bool(self.known.with_day(said.entry.days))
        words = said.entry.words
        return words in self.known.by_name or any(one in self.known.by_exact for one in words)


def _is_free(said: Said) -> bool:
    """Return whether a scalar claims nothing that a tool would have to say."""
    value, entry = said.entry.value, said.entry
    if isinstance(value, bool):
        return not entry.key.name
    if not isinstance(value, str):
        return False
    return not (
        said.number
        or said.is_day
        or said.is_exact
        or said.is_name
        or said.is_currency
        or _is_text(said)
    )


def _is_text(said: Said) -> bool:
    """Return whether a scalar is free text, of which only the claims in it are compared."""
    if not isinstance(said.entry.value, str):
        return False
    if said.number or said.is_day or said.is_exact or said.is_currency:
        return False
    return not said.is_name


def contains(whole: Entry, part: Entry) -> bool:
    """Return whether a text has another one as a name, or as words of no longer name."""
    if not part.words or len(part.words) > len(whole.words):
        return False
    if part.words in whole.names:
        return True
    if whole.is_pure_name or not part.tokens:
        return False
    size = len(part.words)
    said = [token for token in whole.tokens if token.kind != "mark"]
    for at, token in enumerate(said[: len(said) - size + 1]):
        if token.text == part.words[0] and whole.words[at : at + size] == part.words:
            before = said[at - 1] if at else None
            after = said[at + size] if at + size < len(said) else None
            if not _is_part_of_name(before) and not _is_part_of_name(after):
                return True
    return False


def _is_part_of_name(token: tokens.Token | None) -> bool:
    return token is not None and token.capital and not is_ordinary([token.text])


def _amounts(record: Record, number: Number) -> Any:
    """Return what a record has instead of a number: the same in another unit, or its amounts."""
    same = [theirs for _, theirs in record.amounts if theirs.value == number.value]
    if same:
        return f"{same[0].value} {same[0].unit}".strip()
    typed = [entry.value for _, entry in record.entries if entry.is_typed]
    return typed[0] if len(typed) == 1 else typed[:5] or None


def _names(record: Record) -> set[tuple[str, ...]]:
    return {name for _, entry in record.entries for name in entry.names}


def _title(record: Record | None) -> str:
    title = record.title() if record else ""
    return repr(title) if title else "what a tool returned"


def _brief(value: Any) -> str:
    return repr(shortened(value)) if isinstance(value, str) else f"{_plain(value)}"


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, float) and as_decimal(value) is None:
        return repr(value)
    return shortened(value, 500) if isinstance(value, str) else value


# ── the check ──────────────────────────────────────────────────────────────────────────────────


def _code() -> str:
    """Return the code that a verdict follows from, so that a version changes with it."""
    try:
        return "".join(
            inspect.getsource(module) for module in (plain, tokens, names, records, told)
        ) + inspect.getsource(Comparison)
    except (OSError, TypeError):
        return ""


class GroundedInTools(Check[..., Any]):
    """Names, numbers, dates and URLs of an answer must occur in what tools returned in this run.

    Attributes:
        fields: only these fields of a typed answer are reported, by name or as paths; `None` is
            all.  A text answer has no fields, so all of it is.
        ignore: fields that are left out altogether.

    """

    def __init__(self, *, fields: Sequence[str] | None = None, ignore: Sequence[str] = ()) -> None:
        self.fields = None if fields is None else tuple(_listed("fields", fields))
        self.ignore = tuple(_listed("ignore", ignore))
        if fields is not None and not self.fields:
            raise InvalidAgent("grounded_in_tools: fields is empty, so nothing would be checked")
        only = f" of {', '.join(self.fields)}" if self.fields else ""
        less = f" but {', '.join(self.ignore)}" if self.ignore else ""
        super().__init__(self._issues, name=f"grounded_in_tools{only}{less}"[:128])

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return one with options; called with an answer and an `Evidence`, check it.

        Args:
            args: the answer and the evidence.
            options: `fields` and `ignore`, see the class.

        Raises:
            InvalidAgent: an option cannot work.

        """
        return self.function(*args, **options) if args else GroundedInTools(**options)

    @property
    def settings(self) -> str:
        """The options, and the code of what compares."""
        return f"{self.fields}\n{self.ignore}\n{_code()}"

    def _issues(self, answer: Any, evidence: Evidence) -> list[Issue]:
        known = Known(evidence.findings)
        task = Task(evidence.task)
        value = opened(answer)
        if isinstance(value, str):
            judge = Judge(known, task)
            found = judge.issues(value)
            return found if known.records else _without_tools(found)
        comparison = Comparison(known, task)
        found = []
        seen = False
        for thing in things(value):
            thing.said = [one for one in thing.said if not _named(one.place, self.ignore)]
            chosen = [
                one for one in thing.said if self.fields is None or _named(one.place, self.fields)
            ]
            seen = seen or bool(chosen)
            found += comparison.issues(thing, chosen)
        if self.fields and not seen and not plain.is_blank(value):
            named = ", ".join(self.fields)
            return [Issue(f"the answer has none of the fields {named}", rule=RULE)]
        return found if known.records else _without_tools(found)


def _without_tools(found: list[Issue]) -> list[Issue]:
    """Return one issue where no tool said anything, instead of one for each claim."""
    if not found:
        return []
    return [
        Issue(
            "no tool returned anything in this run, so nothing of the answer is known: look it up "
            f"with a tool first; it says {_brief(found[0].got)}"
            + (f" and {len(found) - 1} more" if len(found) > 1 else ""),
            rule=RULE,
            got=found[0].got,
        )
    ]


def _listed(option: str, given: Sequence[str]) -> list[str]:
    if isinstance(given, str) or not all(isinstance(one, str) and one for one in given):
        raise InvalidAgent(f"grounded_in_tools: {option} is {given!r}; give a list of fields")
    for one in given:
        Path.of(one)
    return list(given)


def _named(place: Place, given: Sequence[str]) -> bool:
    """Return whether a place lies in one of the fields, which are names or paths."""
    for one in given:
        steps = Path.of(one).steps
        if len(steps) == 1 and steps[0] in [step for step in place if isinstance(step, str)]:
            return True
        near = place[: len(steps)]
        if len(near) == len(steps) and all(
            want in ("*", step) for want, step in zip(steps, near, strict=True)
        ):
            return True
    return False


grounded_in_tools: Final = GroundedInTools()
"""The check of all fields; `grounded_in_tools(fields=[…])` and `(ignore=[…])` are of some."""
