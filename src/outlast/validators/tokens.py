"""Text as typed tokens: words, numbers with their units, dates, addresses, identifiers.

What only looks different is made the same first: NFKC, case, blanks, quotes, dashes, characters
without a width.  Letters of another script stay what they are, so a look-alike is another word.
Every expression here is bounded, so a text takes time in proportion to its length.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["word", "number", "date", "url", "id", "mark"]


@dataclass(frozen=True, slots=True)
class Number:
    """A number with its unit: a currency's code, `$` for a dollar of some kind, `%` or nothing."""

    value: Decimal
    unit: str = ""

    @property
    def is_money(self) -> bool:
        """Whether its unit is a currency."""
        return self.unit not in ("", "%")


@dataclass(frozen=True, slots=True)
class Day:
    """A date; year, month or day are 0 where they are not said."""

    year: int
    month: int
    day: int

    def within(self, other: Day) -> bool:
        """Return whether `other` says all that this says."""
        pairs = ((self.year, other.year), (self.month, other.month), (self.day, other.day))
        return all(mine in (0, its) for mine, its in pairs)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a text.

    Attributes:
        text: in the form in which it is compared.
        capital: whether it is a word that begins with a capital.
        start, end: where it stands in the normalised text.
        number: of a number.
        days: of a date; two where day and month may be meant the other way round.

    """

    kind: Kind
    text: str
    start: int
    end: int
    capital: bool = False
    number: Number | None = None
    days: tuple[Day, ...] = ()


# ── one form ───────────────────────────────────────────────────────────────────────────────────

_NO_WIDTH: Final = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u061c"
_BEFORE: Final = {
    **dict.fromkeys(map(ord, _NO_WIDTH)),
    **{ord(one): f"^{n}" for n, one in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},  # 10² is not 102
    **{ord(one): f" {one}" for one in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"},
}
_AFTER: Final = {
    **dict.fromkeys(map(ord, "‘’ʼ‛′´`"), "'"),  # noqa: RUF001
    **dict.fromkeys(map(ord, "“”„‟″«»"), '"'),
    **dict.fromkeys(map(ord, "‐‑"), "-"),  # noqa: RUF001
    **dict.fromkeys(map(ord, "‒–—―"), " - "),  # noqa: RUF001
    ord("−"): "-",  # noqa: RUF001
}


def normal(text: str) -> str:
    """Return a text in the one form that is compared, upper and lower case still apart."""
    text = unicodedata.normalize("NFKC", text.translate(_BEFORE))
    return text.translate(_AFTER)


def words_of(text: str) -> tuple[str, ...]:
    """Return the tokens of a text, as they are compared."""
    return tuple(token.text for token in scan(text) if token.kind != "mark")


# ── units ──────────────────────────────────────────────────────────────────────────────────────

CODES: Final = frozenset(
    [
        "GBP",
        "USD",
        "EUR",
        "JPY",
        "CHF",
        "CAD",
        "AUD",
        "NZD",
        "INR",
        "CNY",
        "HKD",
        "SGD",
        "SEK",
        "NOK",
        "DKK",
        "PLN",
        "CZK",
        "HUF",
        "ZAR",
        "BRL",
        "MXN",
        "KRW",
        "TRY",
        "ILS",
        "AED",
        "SAR",
        "KES",
        "NGN",
        "GHS",
    ]
)
_DOLLARS: Final = frozenset({"USD", "CAD", "AUD", "NZD", "HKD", "SGD", "$"})
_SIGNS: Final = {
    "£": "GBP",
    "€": "EUR",
    "¥": "JPY",
    "₹": "INR",
    "$": "$",
    "us$": "USD",
    "a$": "AUD",
    "au$": "AUD",
    "c$": "CAD",
    "ca$": "CAD",
    "nz$": "NZD",
    "hk$": "HKD",
    "%": "%",
    "percent": "%",
    "per cent": "%",
    "pct": "%",
    "pound": "GBP",
    "pounds": "GBP",
    "pounds sterling": "GBP",
    "sterling": "GBP",
    "dollar": "$",
    "dollars": "$",
    "us dollars": "USD",
    "us dollar": "USD",
    "euro": "EUR",
    "euros": "EUR",
}


def unit_of(said: str) -> str:
    """Return the unit that a sign, a code or a word stands for, or nothing."""
    said = " ".join(said.split())
    return said.upper() if said.upper() in CODES else _SIGNS.get(said.casefold(), "")


def same_unit(one: str, other: str) -> bool:
    """Return whether two units may be the same; `$` is a dollar of any kind."""
    return one == other or ("$" in (one, other) and {one, other} <= _DOLLARS)


_SCALES: Final = {
    "hundred": 2,
    "k": 3,
    "thousand": 3,
    "lakh": 5,
    "m": 6,
    "mn": 6,
    "mln": 6,
    "million": 6,
    "crore": 7,
    "bn": 9,
    "billion": 9,
    "tn": 12,
    "trillion": 12,
}
_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        [
            "jan january",
            "feb february",
            "mar march",
            "apr april",
            "may",
            "jun june",
            "jul july",
            "aug august",
            "sep sept september",
            "oct october",
            "nov november",
            "dec december",
        ],
        start=1,
    )
    for name in names.split()
}

# ── the expressions ────────────────────────────────────────────────────────────────────────────

_CODE: Final = "|".join(sorted(CODES))
_MONTH: Final = (
    "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)(?![^\W\d_])\.?"
)
_URL: Final = re.compile(r"""(?:(?:https?|ftp)://|www\.)[^\s<>"|]++""", re.IGNORECASE)
_HOST: Final = re.compile(
    r"(?:[a-z0-9][a-z0-9-]{0,62}\.){1,6}"
    r"(?:com|org|net|gov|edu|io|uk|eu|de|fr|info|ac|int|dev|ai)(?![\w-])(?:/[^\s<>\"|]*+)?",
    re.IGNORECASE,
)
_MAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}")
_ISO: Final = re.compile(
    r"(\d{4})([-/])(\d{2})\2(\d{2})(?!\d)"
    r"(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?(?![\w]))?"
)
_ISO_MONTH: Final = re.compile(r"(\d{4})-(0[1-9]|1[0-2])(?![\w-])")
_SLASHED: Final = re.compile(r"(\d{1,2})([/.])(\d{1,2})\2(\d{4})(?![\w])")
_DAY_FIRST: Final = re.compile(
    rf"(\d{{1,2}})(?:st|nd|rd|th)?\s{{1,3}}(?:of\s{{1,3}})?({_MONTH})(?:,?\s{{1,3}}(\d{{4}})(?!\w))?"
)
_MONTH_FIRST: Final = re.compile(
    rf"({_MONTH})\s{{1,3}}(\d{{1,2}})(?:st|nd|rd|th)?(?![\w]|[.,]\d)(?:,?\s{{1,3}}(\d{{4}})(?!\w))?"
)
_MONTH_YEAR: Final = re.compile(rf"({_MONTH}),?\s{{1,3}}(\d{{4}})(?!\w)")
_NUMBER: Final = re.compile(
    rf"""
    (?P<minus>-)?
    (?P<before>(?:(?:US|AU|CA|NZ|HK|[AC])?\$|[£€¥₹]|(?:{_CODE})(?![^\W\d_]))\s{{0,2}})?
    (?P<minus2>-)?
    (?P<digits>
        \d{{1,3}}(?:,\d{{3}}){{1,12}}(?:\.\d{{1,40}})?(?![\d]|,\d)
      | \d{{1,2}}(?:,\d{{2}}){{1,12}},\d{{3}}(?:\.\d{{1,40}})?(?![\d]|,\d)
      | [1-9]\d{{0,2}}(?:[\x20']\d{{3}}){{1,12}}(?:\.\d{{1,40}})?(?![\d])
      | \d{{1,3}}(?:\.\d{{3}}){{2,12}}(?:,\d{{1,40}})?(?![\d]|\.\d)
      | \d{{1,3}}(?:\.\d{{3}}){{1,12}},\d{{1,2}}(?![\d])
      | \d{{1,40}}(?:\.\d{{1,40}})?(?!\d)
      | \.\d{{1,40}}
    )
    (?P<power>[eE][+-]?\d{{1,6}})?
    (?P<scale>k(?:ilo)?|m|(?:\s{{0,2}}|-)(?:hundred|thousand|lakh|mn|mln|million|crore|bn|billion
        |tn|trillion))?
    (?P<tail>st|nd|rd|th|'?s|x|(?-i:[a-z]{{1,3}}))?
    (?![^\W_])
    (?P<after>\s{{0,2}}(?:%|[£€](?!\s?\d)|\$(?!\s?\d)|-?per\s?cent\b|pct\b|(?-i:{_CODE})\b
        |pounds?\ssterling\b|us\sdollars?\b|pounds?\b|dollars?\b|euros?\b|sterling\b))?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CHUNK: Final = re.compile(r"[^\W_]{1,64}(?:[-/.:_]{1,2}[^\W_]{1,64}){0,8}")
_WORD: Final = re.compile(r"[^\W\d_]++(?:'[^\W\d_]++)*+'?|[^\W_]++")
_PLAIN: Final = re.compile(r"([^\W\d_]++(?:'[^\W\d_]++)*+)(?=[\s,;)!?]|\Z)")
"""Most words: nothing stands around them that could make them something else."""
_PART: Final = re.compile(r"[-/.:_]+")
_TURNS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What turns the direction of a text, so that it reads otherwise than it is: never left out."""

_SPELT: Final = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
} | {
    word: value
    for value, word in zip(
        range(20, 100, 10),
        "twenty thirty forty fifty sixty seventy eighty ninety".split(),  # noqa: SIM905
        strict=True,
    )
}


# ── the scan ───────────────────────────────────────────────────────────────────────────────────


def scan(text: str) -> list[Token]:
    """Return the tokens of a text, marks such as commas and ends of lines among them."""
    return scan_normal(normal(text))


def scan_normal(text: str) -> list[Token]:
    """Return the tokens of a text that is in the one form already."""
    tokens: list[Token] = []
    at, end = 0, len(text)
    while at < end:
        char = text[at]
        if char.isspace() and char != "\n":
            at += 1
            continue
        token = _token(text, at, tokens)
        tokens.append(token)
        at = token.end
    return _spelt_out(tokens)


def _token(  # noqa: PLR0911  (a row per kind)
    text: str, at: int, before: list[Token]
) -> Token:
    char = text[at]
    if char in _TURNS:
        return Token("id", char, at, at + 1)
    if char == "&":
        return Token("word", "and", at, at + 1)
    word = char.isalnum()
    if char.isalpha() and (match := _PLAIN.match(text, at)):
        said = match[1]
        if said not in CODES and (not char.isupper() or said[:3].casefold() not in _MONTHS):
            return _word(said, at)
    if word and (found := _address(text, at)):
        return found
    if char.isdigit() or char.isupper():
        found = _date(text, at)
        if found:
            return found
    if word and (found := _identifier(text, at)):
        return found
    if (char.isdigit() or not word or char.isupper()) and (found := _number(text, at, before)):
        return found
    if word and (match := _WORD.match(text, at)):
        return _word(match[0], at)
    return Token("mark", char, at, at + 1)


def _word(said: str, at: int) -> Token:
    kept = said.replace("'", "").casefold()
    return Token("word", kept, at, at + len(said), capital=said[0].isupper())


def _address(text: str, at: int) -> Token | None:
    if match := _URL.match(text, at):
        said = _trimmed(match[0])
        return Token("url", address(said), at, at + len(said))
    # What looks at a few characters first saves most of the work on plain words.
    near = text[at : at + 130].split(None, 1)[0]
    if "@" in near and (match := _MAIL.match(text, at)):
        said = match[0].rstrip(".-")
        return Token("url", said.casefold(), at, at + len(said))
    if "." in near and (match := _HOST.match(text, at)):
        said = _trimmed(match[0])
        return Token("url", address(said), at, at + len(said))
    return None


def _trimmed(url: str) -> str:
    """Leave out what belongs to the sentence around an address."""
    spare = {close: url.count(close) - url.count(open_) for open_, close in ("()", "[]", "{}")}
    end = len(url)
    while end:
        last = url[end - 1]
        if spare.get(last, 0) > 0:
            spare[last] -= 1
        elif last not in ".,;:!?'*_`~\\":
            break
        end -= 1
    return url[:end]


def address(url: str) -> str:
    """Return a URL in one form: no scheme, no `www.`, no fragment, no last slash."""
    rest = re.sub(r"^(?:https?|ftp)://", "", url, flags=re.IGNORECASE)
    rest = rest.partition("#")[0]
    host, slash, path = rest.partition("/")
    return (host.casefold().removeprefix("www.") + slash + path).rstrip("/")


def _date(text: str, at: int) -> Token | None:
    if text[at].isdigit():
        if match := _ISO.match(text, at):
            days = [(match[1], match[3], match[4])]
        elif match := _ISO_MONTH.match(text, at):
            days = [(match[1], match[2], "0")]
        elif match := _SLASHED.match(text, at):
            days = [(match[4], match[3], match[1]), (match[4], match[1], match[3])]
        elif match := _DAY_FIRST.match(text, at):
            days = [(match[3] or "0", _month(match[2]), match[1])]
        else:
            return None
    elif match := _MONTH_YEAR.match(text, at):
        days = [(match[2], _month(match[1]), "0")]
    elif match := _MONTH_FIRST.match(text, at):
        days = [(match[3] or "0", _month(match[1]), match[2])]
    else:
        return None
    real = tuple(
        dict.fromkeys(
            Day(int(year), int(month), int(day))
            for year, month, day in days
            if int(month) <= 12 and int(day) <= 31 and int(month) >= 1
        )
    )
    if not real:
        return None
    first = real[0]
    shown = f"{first.year:04}-{first.month:02}-{first.day:02}"
    return Token("date", shown, at, match.end(), days=real)


def _month(said: str) -> str:
    return str(_MONTHS[said.rstrip(".").casefold()])


def _identifier(text: str, at: int) -> Token | None:
    match = _CHUNK.match(text, at)
    if not match or not any(char.isdigit() for char in match[0]):
        return None
    parts = [part for part in _PART.split(match[0]) if part]
    mixed = any(_is_mixed(part) for part in parts)
    coded = len(parts) > 1 and any(
        one.isalpha() and one.isupper() and len(one) > 1 and one not in CODES and two.isdigit()
        for one, two in pairwise(parts)
    )
    if mixed or coded:
        return Token("id", match[0].casefold(), at, match.end(), capital=match[0][0].isupper())
    return None


def _is_mixed(part: str) -> bool:
    digits = sum(char.isdigit() for char in part)
    if not digits or digits == len(part):
        return False
    number = _NUMBER.match(part)
    return not (number and number.end() == len(part))


def _number(text: str, at: int, before: list[Token]) -> Token | None:
    match = _NUMBER.match(text, at)
    if not match:
        return None
    tight = bool(before) and before[-1].end == at and before[-1].text not in ("(", "[", ":", '"')
    sign = "-" if (match["minus"] and not tight) or match["minus2"] else ""
    if match["minus"] and tight:
        return None  # the dash of a range, which is a mark
    digits = match["digits"]
    if len(digits) > 1 and digits.isdigit() and digits[0] == "0" and not match["before"]:
        return Token("id", digits, at, match.start("digits") + len(digits))
    try:
        value = Decimal(sign + _digits(digits) + (match["power"] or ""))
    except InvalidOperation:
        return None
    scale = (match["scale"] or "").strip(" -").casefold()
    unit = unit_of(match["before"] or "") or unit_of((match["after"] or "").lstrip(" -"))
    end = match.end()
    number = Number(_scaled(value, _SCALES.get(scale, 0)), unit)
    return Token("number", number_text(number), at, end, number=number)


def _digits(said: str) -> str:
    said = said.replace(" ", "").replace("'", "")
    if said.count(".") > 1 or re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d{1,2}", said):
        return said.replace(".", "").replace(",", ".")  # as on the continent: 1.500.000,00
    return said.replace(",", "")


def _scaled(value: Decimal, places: int) -> Decimal:
    """Return a value times a power of ten, exactly, however many digits it has."""
    sign, digits, exponent = value.as_tuple()
    return Decimal((sign, digits, int(exponent) + places))


def number_text(number: Number) -> str:
    """Return a number as one text, whichever way it was written."""
    value = number.value
    if value == 0:
        return "0"
    sign, digits, exponent = value.as_tuple()
    coefficient = "".join(map(str, digits)).lstrip("0")
    kept = coefficient.rstrip("0")
    power = int(exponent) + len(coefficient) - len(kept)
    if 0 <= power < 40:
        kept, power = kept + "0" * power, 0
    return f"{'-' if sign else ''}{kept}" + (f"e{power}" if power else "")


def _spelt_out(tokens: list[Token]) -> list[Token]:
    """Join numbers that are spelt in words and have a scale, such as "sixteen thousand pounds"."""
    result: list[Token] = []
    at = 0
    while at < len(tokens):
        joined = _spelt(tokens, at) if tokens[at].text in _SPELT else None
        if joined:
            token, at = joined
            result.append(token)
        else:
            result.append(tokens[at])
            at += 1
    return result


def _spelt(tokens: list[Token], at: int) -> tuple[Token, int] | None:
    total = part = 0
    scaled = False
    end = at
    for place in range(at, min(at + 12, len(tokens))):
        said = tokens[place].text
        if said in _SPELT:
            part += _SPELT[said]
        elif said in ("hundred", "thousand", "million", "billion"):
            scaled = True
            power = 10 ** _SCALES[said]
            total, part = (total, part * power) if said == "hundred" else (total + part * power, 0)
        elif said in ("and", "-"):
            continue
        else:
            break
        end = place + 1
    if not scaled:
        return None
    unit = ""
    if end < len(tokens) and tokens[end].kind == "word" and (unit := unit_of(tokens[end].text)):
        end += 1
    number = Number(Decimal(total + part), unit)
    stop = tokens[end - 1].end
    return Token("number", number_text(number), tokens[at].start, stop, number=number), end
