"""Tokens as Anthropic's last public tokenizer counts them, and texts that might have too many."""

from __future__ import annotations

import base64
import json
import lzma
import random
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import tiktoken

from outlast.prices import input_bound

DATA = Path(__file__).with_name("claude.json.xz")


@cache
def encoding() -> tiktoken.Encoding:
    told = json.loads(lzma.decompress(DATA.read_bytes()))
    _, first, *ranks = told["bpe_ranks"].split(" ")
    return tiktoken.Encoding(
        "claude",
        pat_str=told["pat_str"],
        mergeable_ranks={
            base64.b64decode(token): rank for rank, token in enumerate(ranks, int(first))
        },
        special_tokens=told["special_tokens"],
    )


def tokens(text: str) -> int:
    """Return what `countTokens` of the package returns; half a surrogate pair is U+FFFD there."""
    whole = text if text.isascii() else unicodedata.normalize("NFKC", joined(text))
    if "<" not in whole:
        return len(encoding().encode_ordinary(whole))  # the same, and sooner
    return len(encoding().encode(whole, allowed_special="all"))


def joined(text: str) -> str:
    """Return a text whose halves of surrogate pairs are joined, or U+FFFD where one is alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def message(text: str) -> bytes:
    """Return a message as outlast sends it; what is no Unicode is refused before that."""
    content = [{"type": "text", "text": joined(text)}]
    return msgspec.json.encode({"role": "user", "content": content})


class Case(NamedTuple):
    """What is bounded, and what the tokenizer may be given of it."""

    bounded: str | bytes
    given: tuple[str, ...]


def cases(text: str) -> Iterator[Case]:
    """Yield the forms in which a text reaches the tokenizer, and what is counted of each."""
    yield Case(text, (text,))
    if len(text) == 2:
        return  # a pair: in its other forms it says no more than what it is made of
    escaped = json.dumps(text)
    yield Case(escaped.encode(), (escaped, text))
    sent = message(text)
    # The API takes the message apart, and says it again with markers of its own.
    yield Case(sent, (sent.decode(), f"\n\nHuman: {text}\n\nAssistant:"))


class Found(msgspec.Struct):
    """What was found: how many cases, which were wrong, and how close to the bound they came."""

    texts: int = 0
    cases: int = 0
    wrong: list[str] = []
    ratio: float = 0.0
    """Tokens for each token of the bound, at most, of the messages."""
    tightest: str = ""
    by_bytes: int = 0
    """Texts with more tokens than UTF-8 bytes, for which only NFKC gives a bound."""

    def add(self, other: Found) -> None:
        self.texts += other.texts
        self.cases += other.cases
        self.wrong = [*self.wrong, *other.wrong][:20]
        self.by_bytes += other.by_bytes
        if other.ratio > self.ratio:
            self.ratio, self.tightest = other.ratio, other.tightest


def look(texts: Iterable[str]) -> Found:
    """Hold the bound of each text, in every form, against what the tokenizer counts."""
    found = Found()
    for text in texts:
        found.texts += 1
        for place, (bounded, given) in enumerate(cases(text)):
            found.cases += 1
            bound, most = input_bound(bounded), max(map(tokens, given))
            if most > bound:
                found.wrong.append(f"{text!r} as form {place}: {most} tokens, bound {bound}")
            if place == 2 and most / bound > found.ratio:
                found.ratio, found.tightest = most / bound, repr(text)
            if place == 0 and most > len(text.encode("utf-8", "surrogatepass")):
                found.by_bytes += 1
    return found


# ── texts ───────────────────────────────────────────────────────────────────────────────────────


def of_code_points(points: Iterable[int]) -> Iterator[str]:
    """Yield each character alone, in pairs with ASCII, and repeated."""
    for point in points:
        char = chr(point)
        yield from (char, f"a{char}", f"{char}a", f"1{char} " + char * 7)


def lengthened() -> list[int]:
    """Return every character that NFKC makes longer."""
    return [
        point
        for point in range(0x11_0000)
        if len(unicodedata.normalize("NFKC", chr(point)).encode("utf-8", "surrogatepass"))
        > len(chr(point).encode("utf-8", "surrogatepass"))
    ]


_LONGER = "".join(map(chr, lengthened()))
_RANGES = (
    *((0x00, 0x20), (0x20, 0x7F), (0x80, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x800)),
    *((0x900, 0xE00), (0xE00, 0x1000), (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2070)),
    *((0x2100, 0x2C00), (0x3040, 0x3400), (0x3300, 0x3400), (0x4E00, 0xA000), (0xAC00, 0xD7A4)),
    *((0xD800, 0xE000), (0xF900, 0xFB50), (0xFB50, 0xFE00), (0xFE00, 0xFE10), (0xFE70, 0xFFF0)),
    *((0x1D100, 0x1D200), (0x1D400, 0x1D800), (0x1F000, 0x1FB00), (0xE0000, 0xE0200)),
    (0, 0x11_0000),
)
_EMOJI = ("👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️‍🔥", "🧑🏿‍🤝‍🧑🏻")
_ODD = (
    *("<EOT>", "<META>", "\n\nHuman: ", "\n\nAssistant:", "\\u", "\\ufdfa", "\\\\ufdfa", "\\ud83d"),
    *(
        "'s",
        "'re",
        "\u200b",
        "\ufeff",
        "\u0000",
        "\u2028",
        "\ufdfa",
        "\u0340",
        "\u1100\u1161\u11a8",
    ),
)


def fuzzed(seed: int, count: int) -> Iterator[str]:
    """Yield texts of mixed scripts, marks, halves of surrogates, JSON, digits, spaces and more."""
    dice = random.Random(seed)  # noqa: S311  (nothing is to be kept secret)
    makers = (_script, _script, _marks, _longer, _json, _digits, _spaces, _emoji, _odd, _words)
    for _ in range(count):
        parts = dice.randint(1, 5)
        yield "".join(dice.choice(makers)(dice) for _ in range(parts))


def _script(dice: random.Random) -> str:
    first, end = dice.choice(_RANGES)
    return "".join(chr(dice.randrange(first, end)) for _ in range(dice.randint(1, 12)))


def _marks(dice: random.Random) -> str:
    marks = [chr(dice.randrange(0x300, 0x370)) for _ in range(dice.randint(1, 10))]
    return dice.choice("aeoAEZñあ가") + "".join(marks)


def _longer(dice: random.Random) -> str:
    return "".join(dice.choice(_LONGER) for _ in range(dice.randint(1, 8)))


def _json(dice: random.Random) -> str:
    value: Any = {_words(dice): [_script(dice), dice.random(), None, {"x": _longer(dice)}]}
    return json.dumps(value, ensure_ascii=dice.random() < 0.5)


def _digits(dice: random.Random) -> str:
    digits = dice.choice(
        ("0123456789", "०१२३४५६७८९", "\U0001d7ce\U0001d7cf\U0001d7d7", "①②③⑳", "½¾⅞")
    )
    return "".join(dice.choice(digits) for _ in range(dice.randint(1, 20)))


def _spaces(dice: random.Random) -> str:
    return dice.choice(" \t\n\r\u00a0\u2003\u3000\u000b") * dice.randint(1, 30)


def _emoji(dice: random.Random) -> str:
    return dice.choice(_EMOJI) * dice.randint(1, 3)


def _odd(dice: random.Random) -> str:
    return dice.choice(_ODD) * dice.randint(1, 4)


def _words(dice: random.Random) -> str:
    letters = "etaoinshrdluETAOIN"
    return " ".join(
        "".join(dice.choice(letters) for _ in range(dice.randint(1, 9)))
        for _ in range(dice.randint(1, 6))
    )


def points_between(first: int, end: int) -> Found:
    """Look at every code point of a range."""
    return look(of_code_points(range(first, end)))


def fuzz(seed: int, count: int) -> Found:
    """Look at so many texts of a seed."""
    return look(fuzzed(seed, count))
