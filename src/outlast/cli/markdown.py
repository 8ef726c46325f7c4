"""Markdown on a terminal, with tables in which no word is cut while there is room for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.markdown import Markdown, TableElement
from rich.table import Column, Table

_BETWEEN = 2
"""Cells between two columns; beside the outer ones half of it."""


class _WholeWords(TableElement):
    """A table whose ids, dates and numbers stay whole; rich alone would squeeze all alike."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                _fit(table.columns, options.max_width)
            yield table


class Readable(Markdown):
    """Markdown whose tables fit."""

    elements = {**Markdown.elements, "table_open": _WholeWords}  # noqa: RUF012  (as in its base)


def _fit(columns: Sequence[Column], width: int) -> None:
    """Give each column its longest word, and the rest to those that have more to say."""
    texts = [[str(column.header), *map(str, column.cells)] for column in columns]
    wanted = [max(map(len, cells)) for cells in texts]
    least = [max(len(word) for cell in cells for word in cell.split(" ")) for cells in texts]
    room = width - _BETWEEN * len(columns) - sum(least)
    more = sum(wanted) - sum(least)
    if room < 0 or room >= more:
        return  # too narrow for anything but cutting, or wide enough for everything
    for column, most, word in zip(columns, wanted, least, strict=True):
        column.width = word + (most - word) * room // more
