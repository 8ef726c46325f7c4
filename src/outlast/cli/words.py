"""Numbers, times and texts as people read them; safe to print, whatever they came from."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, TypeAlias

import msgspec
from msgspec import Raw

NANO: Final = 1_000_000_000

Part: TypeAlias = tuple[str, str]
"""A piece of a line and its tone: one of `TONES`, or empty."""

TONES: Final = ("good", "bad", "doubt", "quiet", "strong", "money", "live")


def times(percent: int) -> str:
    """Return a factor of whole percent: `1.5 times`."""
    return f"{percent / 100:g} times"


def money(nano: int) -> str:
    """Return nano-dollars as dollars: to the cent from $10 up, to a hundredth of a cent below."""
    if 0 < nano < 50_000:
        return "<$0.0001"
    return f"${nano / NANO:,.2f}" if abs(nano) >= 10 * NANO else f"${nano / NANO:.4f}"


def count(number: int, noun: str, plural: str = "") -> str:
    """Return `1 turn`, `2 turns`, `1,204 tokens`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(nanoseconds: int) -> str:
    """Return a length of time in the unit that suits it: `340 ms`, `1.2 s`, `5 min`, `3 h`."""
    seconds = max(0, nanoseconds) / NANO
    if seconds < 0.9995:
        return f"{round(seconds * 1000)} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for size, unit, most in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds / size < most:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds / 86_400)} days"


def clock(at: int) -> str:
    """Return the local time of day of nanoseconds since the epoch: `14:05:33`."""
    return datetime.fromtimestamp(at / NANO).astimezone().strftime("%H:%M:%S")


def day(at: int) -> str:
    """Return the local date and time with its zone: `2026-05-01 14:05:33 CEST`."""
    return datetime.fromtimestamp(at / NANO).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def line(text: str, most: int = 0) -> str:
    """Return `text` on one line and without control characters, cut to `most` if that is given.

    What Claude or a tool wrote must not move the cursor or colour the terminal.
    """
    # A text may be megabytes, and only its beginning is shown.
    head = text[: 8 * most] if most else text
    clean = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    if most and len(clean) > most:
        return clean[: most - 1].rstrip() + "…"
    return clean


def opening(text: str, most: int) -> str:
    """Return the first line of `text` that says something, as `line` does."""
    first = next((row for row in text[: 8 * most].split("\n") if row.strip()), "")
    return line(first, most)


def page(text: str) -> str:
    """Return `text` without control characters, its lines kept."""
    return "\n".join(
        "".join(c if c.isprintable() else " " for c in row) for row in text.split("\n")
    )


def call(name: str, arguments: Raw | bytes, most: int = 0) -> str:
    """Return a tool call as it would be written: `search(keyword="deaf", limit=5)`."""
    try:
        given = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return line(f"{name}({bytes(arguments).decode(errors='replace')})", most)
    if not isinstance(given, dict):
        return line(f"{name}({_json(given)})", most)
    return line(f"{name}({', '.join(f'{k}={_json(v)}' for k, v in given.items())})", most)


def spoken(content: Raw) -> str:
    """Return the text of a message or a tool result, other blocks as `[type]`."""
    value = msgspec.json.decode(content)
    if isinstance(value, str):
        return value
    return " ".join(_block(block) for block in value) if isinstance(value, list) else str(value)


def result(content: Raw) -> str:
    """Return how much a tool answered: `10 items`, `4 fields` of an object, or its text."""
    text = spoken(content)
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return _quoted(text)
    return _size(value) or line(text, 200)


def returned(content: Raw) -> str:
    """Return how much a function returned, as `result` does; its text in quotes."""
    value = msgspec.json.decode(content)
    if value is None:
        return "nothing"
    return _quoted(value) if isinstance(value, str) else _size(value) or _json(value)


def given(content: Raw) -> str:
    """Return what a flow was given: its text, or its JSON."""
    value = msgspec.json.decode(content)
    return value if isinstance(value, str) else _json(value)


def _quoted(text: str) -> str:
    return f"“{line(text, 200)}”" if text.strip() else "nothing"


def _size(value: object) -> str:
    if isinstance(value, list):
        return count(len(value), "item")
    return count(len(value), "field") if isinstance(value, dict) else ""


def plain(parts: Iterable[Part]) -> str:
    """Return a line without its tones."""
    return "".join(text for text, _ in parts)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _block(block: object) -> str:
    if not isinstance(block, dict):
        return str(block)
    return str(block["text"]) if "text" in block else f"[{block.get('type', 'block')}]"
