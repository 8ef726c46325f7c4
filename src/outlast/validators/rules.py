"""The simple ready-made checks: what an answer must have, whatever it says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from outlast.checks import Check, Evidence
from outlast.errors import InvalidAgent
from outlast.events import Issue
from outlast.validators import plain, tokens
from outlast.validators.plain import DEEPEST, Path, Place, TooDeep, is_blank, opened, shown
from outlast.validators.records import as_decimal, shortened
from outlast.validators.tokens import address, normal, scan, words_of


class Ready(Check[..., Any]):
    """A check that comes with outlast: its version changes with its options and its code."""

    options: tuple[Any, ...] = ()

    @property
    def settings(self) -> str:
        """The options, and the code that is shared."""
        try:
            code = inspect.getsource(plain) + inspect.getsource(tokens)
        except (OSError, TypeError):
            code = ""
        return f"{self.options!r}\n{code}"


def _named(name: str) -> str:
    """Return a name that a check may have."""
    return "".join(char if char.isprintable() else "?" for char in name)[:128]


def _where(place: Place) -> str:
    return shown(place) or "the answer"


def _brief(value: Any) -> str:
    match value:
        case str():
            return repr(shortened(value))
        case dict():
            return f"an object with {len(value)} fields"
        case list():
            return f"a list of {len(value)}"
        case Decimal():
            return str(value)
    return "null" if value is None else repr(value)


def _json(value: Any) -> Any:
    """Return a value as JSON has it, a long one shortened."""
    if isinstance(value, str):
        return shortened(value, 500)
    if isinstance(value, dict | list | Decimal):
        return _brief(value)
    return repr(value) if isinstance(value, float) and as_decimal(value) is None else value


# ── not_empty ──────────────────────────────────────────────────────────────────────────────────


class NotEmpty(Ready):
    """The answer must not be empty: null, blank, `[]`, `{}`, or an object of nothing else.

    0 and False are something.
    """

    def __init__(self) -> None:
        super().__init__(self._issues, name="not_empty")

    def __call__(self, *args: Any) -> Any:
        """Check an answer; without one, return the check itself."""
        return self.function(*args) if args else self

    def _issues(self, answer: Any) -> list[Issue]:
        if not is_blank(answer):
            return []
        value = opened(answer)
        got = value if value is None or isinstance(value, str) else _brief(value)
        message = f"the answer is empty: {_brief(value)}"
        return [Issue(message, got=got, expected="an answer that says something")]


not_empty: Final = NotEmpty()


# ── required_fields ────────────────────────────────────────────────────────────────────────────


class RequiredFields(Ready):
    """Fields that the answer, or every element of a list, must have: not null, blank or empty.

    Args:
        fields: names, or paths such as `funder.name`; none are all that are there.

    """

    def __init__(self, *fields: str) -> None:
        self.paths = [Path.of(field) for field in fields]
        if not all(path.steps for path in self.paths):
            raise InvalidAgent("required_fields: a field is '', but must be a name")
        self.options = fields
        super().__init__(self._issues, name=_named(" ".join(["required_fields", *fields])))

    def __call__(self, *fields: Any) -> Any:
        """Return one that requires these fields.

        One that requires fields already checks the answer that it is called with.

        Raises:
            InvalidAgent: a field is no name and no path.

        """
        if self.paths or (fields and not isinstance(fields[0], str)):
            return self.function(*fields)
        return RequiredFields(*fields)

    def _issues(self, answer: Any) -> list[Issue]:
        value = opened(answer)
        if not isinstance(value, list):
            return list(self._of((), value))
        return [
            issue
            for index, element in enumerate(value)
            for issue in self._of((index,), opened(element))
        ]

    def _of(self, place: Place, value: Any) -> Iterator[Issue]:
        if not isinstance(value, dict):
            message = f"{_where(place)} is {_brief(value)}, and has no fields"
            yield Issue(message, shown(place), got=_json(value), expected="an object")
            return
        for path in self.paths or [Path(name, (name,)) for name in value]:
            found = list(path.matches(value))
            if not found:
                yield self._missing((*place, *path.steps), None, "is missing")
            for inner, one in found:
                if is_blank(one):
                    yield self._missing((*place, *inner), one, f"is {_emptiness(one)}")

    def _missing(self, place: Place, got: Any, what: str) -> Issue:
        message = f"{shown(place)} {what}; it must say something"
        return Issue(message, shown(place), got=_json(got), expected="a value")


def _emptiness(value: Any) -> str:
    if value is None:
        return "null"
    return "blank" if isinstance(value, str) else "empty"


required_fields: Final = RequiredFields()


# ── no_duplicates ──────────────────────────────────────────────────────────────────────────────


class NoDuplicates(Ready):
    """A list must not name the same thing twice: in the answer, and in every list in it.

    Texts are the same when they differ in case, blanks, quotes, dashes or forms of Unicode only.

    Args:
        key: the field, or path, that tells elements apart; by default all of them together.

    """

    def __init__(self, *, key: str | None = None) -> None:
        self.key = None if key is None else Path.of(key)
        self.options = (key,)
        super().__init__(self._issues, name=_named(f"no_duplicates {key or ''}".strip()))

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return one with a key; called with an answer, check it.

        Raises:
            InvalidAgent: the key is no path.

        """
        return self.function(*args) if args else NoDuplicates(**options)

    def _issues(self, answer: Any) -> list[Issue]:
        found: list[Issue] = []
        waiting: list[tuple[Place, Any]] = [((), opened(answer))]
        while waiting:
            place, value = waiting.pop()
            if len(place) > DEEPEST:
                raise TooDeep(f"the answer is nested more than {DEEPEST} levels deep")
            if isinstance(value, list):
                found += self._twice(place, value)
                waiting += [((*place, n), opened(one)) for n, one in enumerate(value)][::-1]
            elif isinstance(value, dict):
                inner = [((*place, name), opened(one)) for name, one in value.items()]
                waiting += inner[::-1]
        return found

    def _twice(self, place: Place, elements: list[Any]) -> Iterator[Issue]:
        first: dict[Any, int] = {}
        for index, element in enumerate(elements):
            known, said = self._identity(element)
            if known is None:
                continue
            if known not in first:
                first[known] = index
                continue
            here, there = shown((*place, index)), shown((*place, first[known]))
            message = f"{here} is the same as {there}: {_brief(said)}; name it once"
            yield Issue(message, here, got=_json(said))

    def _identity(self, element: Any) -> tuple[Any, Any]:
        if self.key is None:
            value = opened(element)
            return (None if is_blank(value) else same_form(value)), value
        values = [value for _, value in self.key.matches(element) if not is_blank(value)]
        return (same_form(values), values[0]) if values else (None, None)


def same_form(value: Any, depth: int = 0) -> Any:
    """Return what two values have in common that only look different."""
    if depth > DEEPEST:
        raise TooDeep(f"the answer is nested more than {DEEPEST} levels deep")
    value = opened(value)
    match value:
        case bool() | None:
            return ("constant", value)
        case str():
            return ("text", " ".join(normal(value).casefold().split()))
        case dict():
            members = {name: same_form(one, depth + 1) for name, one in value.items()}
            return ("object", tuple(sorted(members.items(), key=repr)))
        case list():
            return ("list", tuple(same_form(one, depth + 1) for one in value))
    number = as_decimal(value)
    return (
        ("number", tokens.number_text(tokens.Number(number))) if number else ("other", str(value))
    )


no_duplicates: Final = NoDuplicates()


# ── within ─────────────────────────────────────────────────────────────────────────────────────


class Within(Ready):
    """Values at a path must lie between bounds, or be among those that are given."""

    def __init__(
        self,
        path: str,
        *,
        least: float | Decimal | None = None,
        most: float | Decimal | None = None,
        among: Iterable[Any] | None = None,
    ) -> None:
        self.path = Path.of(path)
        self.least = _bound("least", least)
        self.most = _bound("most", most)
        self.among = None if among is None else _choices(among)
        if self.least is None and self.most is None and self.among is None:
            raise InvalidAgent(f"within {path!r}: give least=, most= or among=")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise InvalidAgent(f"within {path!r}: least is {least}, which is above most, {most}")
        self.options = (path, str(self.least), str(self.most), repr(self.among))
        super().__init__(self._issues, name=_named(f"within {path}".strip()))

    def _issues(self, answer: Any) -> list[Issue]:
        found = list(self.path.matches(answer))
        if not found and not _is_empty_list(answer, self.path):
            return [_nothing_at(self.path)]
        return [issue for place, value in found if (issue := self._wrong(place, value))]

    def _wrong(self, place: Place, value: Any) -> Issue | None:
        expected = self._expected()
        if self.among is not None and not any(_is_one(value, one) for one in self.among):
            return self._issue(place, value, f"must be {expected}")
        if self.least is None and self.most is None:
            return None
        number = as_decimal(value)
        if number is None:
            return self._issue(place, value, f"is no number, and must be {expected}")
        if self.least is not None and number < self.least:
            return self._issue(place, value, f"must be {expected}")
        if self.most is not None and number > self.most:
            return self._issue(place, value, f"must be {expected}")
        return None

    def _issue(self, place: Place, value: Any, what: str) -> Issue:
        message = f"{_where(place)} is {_brief(value)}, which {what}"
        return Issue(message, shown(place), got=_json(value), expected=self._expected())

    def _expected(self) -> str:
        said = []
        if self.least is not None:
            said.append(f"at least {self.least}")
        if self.most is not None:
            said.append(f"at most {self.most}")
        if self.among is not None:
            said.append(f"one of {', '.join(map(repr, self.among[:20]))}")
        return " and ".join(said)


def _bound(option: str, given: Any) -> Decimal | None:
    if given is None:
        return None
    bound = as_decimal(given)
    if bound is None:
        raise InvalidAgent(f"within: {option} is {given!r}, but must be a finite number")
    return bound


def _choices(among: Iterable[Any]) -> list[Any]:
    if isinstance(among, str):
        raise InvalidAgent(f"within: among is the text {among!r}; give a list of values")
    values = [opened(one) for one in among]
    if not values:
        raise InvalidAgent("within: among is empty, so no answer could pass")
    return sorted(values, key=repr) if isinstance(among, set | frozenset) else values


def _is_one(value: Any, other: Any) -> bool:
    """Return whether two values are the same; a boolean is no number."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    one, two = as_decimal(value), as_decimal(other)
    return one == two if one is not None and two is not None else bool(value == other)


def _is_empty_list(answer: Any, path: Path) -> bool:
    """Return whether a path matches nothing only because a list in it is empty."""
    for cut, step in enumerate(path.steps):
        if step == plain.EVERY:
            lists = [value for _, value in Path("", path.steps[:cut]).matches(answer)]
            if lists and all(value in ([], {}) for value in lists):
                return True
    return False


def _nothing_at(path: Path) -> Issue:
    return Issue(f"the answer has nothing at {path.text!r}", path.text, expected="a value")


def within(
    path: str,
    *,
    least: float | Decimal | None = None,
    most: float | Decimal | None = None,
    among: Iterable[Any] | None = None,
) -> Within:
    """Return a check that values of the answer lie between bounds, or are among some.

    Args:
        path: where they stand, such as `[*].max_usd` or `grants[0].status`; `''` is the answer.
            A path that matches nothing is an issue, unless it asks for all of an empty list.
        least: a number; the value may be equal.
        most: a number; the value may be equal.
        among: the values that may stand there, texts exactly as they are written.

    Raises:
        InvalidAgent: there is no bound, or one cannot be.

    """
    return Within(path, least=least, most=most, among=among)


# ── regex ──────────────────────────────────────────────────────────────────────────────────────


class Regex(Ready):
    """Texts at a path must match a pattern from beginning to end."""

    def __init__(self, path: str, pattern: str | re.Pattern[str]) -> None:
        self.path = Path.of(path)
        try:
            self.pattern = re.compile(pattern)
        except (re.error, TypeError) as error:
            raise InvalidAgent(f"regex: {pattern!r} is no regular expression: {error}") from error
        self.options = (path, self.pattern.pattern, self.pattern.flags)
        super().__init__(self._issues, name=_named(f"regex {path}".strip()))

    def _issues(self, answer: Any) -> list[Issue]:
        found = list(self.path.matches(answer))
        if not found and not _is_empty_list(answer, self.path):
            return [_nothing_at(self.path)]
        return [
            Issue(
                f"{_where(place)} is {_brief(value)}, but must match {self.pattern.pattern!r} "
                "from beginning to end",
                shown(place),
                got=_json(value),
                expected=self.pattern.pattern,
            )
            for place, value in found
            if not isinstance(value, str) or not self.pattern.fullmatch(value)
        ]


def regex(path: str, pattern: str | re.Pattern[str] | None = None) -> Regex:
    """Return a check that texts of the answer match a regular expression, all of each.

    Args:
        path: where they stand; with one argument that is the pattern, and the answer is the text.
        pattern: in the syntax of `re`.  How long it takes is yours to know.

    Raises:
        InvalidAgent: the path or the pattern is none.

    """
    return Regex("", path) if pattern is None else Regex(path, pattern)


# ── cites_sources ──────────────────────────────────────────────────────────────────────────────


class CitesSources(Ready):
    """The answer must name sources that this run has seen: URLs, or ids of what tools returned.

    Each element of a list must.  A URL that a tool was called with has been seen, too.

    Args:
        least: how many different ones.

    """

    def __init__(self, *, least: int = 1) -> None:
        if isinstance(least, bool) or not isinstance(least, int) or least < 1:
            raise InvalidAgent(f"cites_sources: least is {least!r}, but must be 1 or more")
        self.least = least
        self.options = (least,)
        name = "cites_sources" if least == 1 else f"cites_sources at least {least}"
        super().__init__(self._issues, name=name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return one with options; called with an answer and an `Evidence`, check it.

        Raises:
            InvalidAgent: `least` is no number above 0.

        """
        return self.function(*args, **options) if args else CitesSources(**options)

    def _issues(self, answer: Any, evidence: Evidence) -> list[Issue]:
        seen = _sources(evidence)
        value = opened(answer)
        if isinstance(value, list) and value:
            parts: Sequence[tuple[Place, Any]] = [((n,), one) for n, one in enumerate(value)]
        else:
            parts = [((), value)]
        return [issue for place, one in parts if (issue := self._wrong(place, one, seen))]

    def _wrong(self, place: Place, value: Any, seen: set[str]) -> Issue | None:
        named = _mentioned(value)
        cited = named & seen
        if len(cited) >= self.least:
            return None
        urls = sorted(one for one in named - seen if "." in one)
        many = "a source" if self.least == 1 else f"{self.least} sources"
        there = f"it names {len(cited)}" if cited else "it names none"
        strange = f", and {', '.join(urls[:3])}, which no tool returned" if urls else ""
        if not seen:
            there, strange = "no tool of this run returned any", ""
        return Issue(
            f"{_where(place)} must name {many} that a tool of this run returned; {there}{strange}",
            shown(place),
            got=sorted(named)[:5],
            expected=f"{self.least} of the sources that tools returned",
        )


_ID_FIELDS: Final = frozenset("id ids doi isbn source sources ref reference".split())  # noqa: SIM905


def _sources(evidence: Evidence) -> set[str]:
    """Return every URL and id of what tools returned, and the URLs that they were called with."""
    seen: set[str] = set()
    for finding in evidence.findings:
        for key, text in _texts(finding.value):
            seen |= {token.text for token in scan(text) if token.kind in ("url", "id")}
            if key.casefold().rpartition("_")[2] in _ID_FIELDS:
                seen.add(" ".join(words_of(text)))
        for _, text in _texts(finding.arguments):
            if text.strip().casefold().startswith(("http://", "https://", "www.")):
                seen.add(address(text.strip()))
    return seen - {""}


def _mentioned(value: Any) -> set[str]:
    """Return every URL and id that a value names, and its short texts as they are compared."""
    named: set[str] = set()
    for _, text in _texts(value):
        named |= {token.text for token in scan(text) if token.kind in ("url", "id")}
        if len(text) <= 200:
            named.add(" ".join(words_of(text)))
    return named


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Yield every text and number of a value, with the field in which it stands."""
    waiting: list[tuple[str, Any, int]] = [("", opened(value), 0)]
    while waiting:
        key, inner, depth = waiting.pop()
        if depth > DEEPEST:
            continue
        if isinstance(inner, dict):
            waiting += [(name, opened(one), depth + 1) for name, one in inner.items()]
        elif isinstance(inner, list):
            waiting += [(key, opened(one), depth + 1) for one in inner]
        elif isinstance(inner, str):
            yield key, inner
        elif as_decimal(inner) is not None:
            yield key, str(inner)


cites_sources: Final = CitesSources()
