"""Where people read: a terminal, with colours and a line that lives, or plain lines elsewhere.

A `Screen` prints lines made of parts with a tone.  On a terminal a line never wraps, and one more
line at the bottom tells what is going on right now.  In a file or a pipe the same lines are whole,
nothing is coloured, and nothing moves.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self, TextIO

from outlast.cli import words
from outlast.cli.words import Part

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Live = Callable[[], Sequence[Part]]
"""Says what is going on right now; asked ten times a second."""

_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_STYLES: Final = {
    "good": "green",
    "bad": "red",
    "doubt": "bold yellow",
    "quiet": "dim",
    "strong": "bold",
    "money": "cyan",
    "live": "blue",
}


class Screen(Protocol):
    """Prints for people."""

    def line(self, *parts: Part, right: Sequence[Part] = ()) -> None:
        """Print one line; `right` stands at its right end where there is one."""
        ...

    def page(self, text: str, *, tone: str = "", markdown: bool = False) -> None:
        """Print a text of several lines."""
        ...

    def live(self, now: Live | None) -> None:
        """Show what is going on in a line of its own, until told `None`."""
        ...


class Plain:
    """A file or a pipe: whole lines without control codes."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def line(self, *parts: Part, right: Sequence[Part] = ()) -> None:
        """Print one line, however long."""
        end = f"  {words.plain(right)}" if right else ""
        self._write(f"{words.plain(parts)}{end}".rstrip())

    def page(self, text: str, *, tone: str = "", markdown: bool = False) -> None:  # noqa: ARG002
        """Print a text as it is."""
        self._write(words.page(text))

    def live(self, now: Live | None) -> None:
        """Show nothing: what is written cannot be taken back."""

    def _write(self, text: str) -> None:
        self._file.write(text + "\n")
        self._file.flush()


class Terminal:
    """A terminal.  The living line ends with a line break, so a kill leaves the prompt below it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.RLock()
        self._now: Live | None = None
        self._drawn = False
        self._ticker: threading.Thread | None = None

    def line(self, *parts: Part, right: Sequence[Part] = ()) -> None:
        """Print one line, cut where the terminal ends."""
        with self._lock:
            self._wipe()
            self._put(parts, right)
            self._draw()

    def page(self, text: str, *, tone: str = "", markdown: bool = False) -> None:
        """Print a text, wrapped; Markdown is rendered."""
        from outlast.cli.markdown import Readable  # noqa: PLC0415  (slow, and rarely needed)

        clean = words.page(text)
        shown = Readable(clean) if markdown else _text([(clean, tone)])
        with self._lock:
            self._wipe()
            self._console.print(shown)
            self._draw()

    def live(self, now: Live | None) -> None:
        """Show what is going on in the last line, until told `None`."""
        with self._lock:
            self._wipe()
            self._now = now
            self._draw()
        if now is not None and self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, name="outlast-screen", daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        while True:
            time.sleep(0.1)
            with self._lock:
                if self._now is None:
                    self._ticker = None
                    return
                self._wipe()
                self._draw()

    def _draw(self) -> None:
        if self._now is None:
            return
        frame = _SPINNER[int(time.monotonic() * 10) % len(_SPINNER)]
        self._put([(f"{frame} ", "live"), *self._now()], ())
        self._drawn = True

    def _wipe(self) -> None:
        if self._drawn:
            # One up, to its beginning, and away with everything below: also with the ^C that the
            # terminal echoes.
            self._console.file.write("\x1b[1A\r\x1b[J")
            self._drawn = False

    def _put(self, parts: Sequence[Part], right: Sequence[Part]) -> None:
        left, end = _text(parts), _text(right)
        room = self._console.width - 1
        if end.plain:
            left.truncate(max(8, room - end.cell_len - 2), overflow="ellipsis", pad=True)
            left.append("  ").append_text(end)
        left.truncate(room, overflow="ellipsis")
        left.rstrip()
        self._console.print(left, no_wrap=True, crop=True, overflow="ellipsis")


class Showing:
    """Shows what is going on while its block runs."""

    def __init__(self, screen: Screen, now: Live) -> None:
        self._screen = screen
        self._now = now

    def __enter__(self) -> Self:
        self._screen.live(self._now)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._screen.live(None)


def screen() -> Screen:
    """Return the screen that standard output is."""
    out = sys.stdout
    if not out.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return Plain(out)
    from rich.console import Console  # noqa: PLC0415  (a tenth of a second, for terminals only)

    width = shutil.get_terminal_size().columns
    return Terminal(
        Console(file=out, highlight=False, markup=False, emoji=False, width=width or 80)
    )


def columns(on: Screen, rows: Sequence[Sequence[Part]], *, right: Sequence[int] = ()) -> None:
    """Print rows as a table without rules, the columns `right` aligned to the right."""
    widths = [max(len(text) for text, _ in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells: list[Part] = []
        for number, ((text, tone), width) in enumerate(zip(row, widths, strict=True)):
            padded = text.rjust(width) if number in right else text.ljust(width)
            cells += [(padded, tone), ("  ", "")]
        on.line(*cells)


def _text(parts: Sequence[Part]) -> Text:
    from rich.text import Text  # noqa: PLC0415  (imported by then)

    return Text.assemble(*((text, _STYLES.get(tone, "")) for text, tone in parts))
