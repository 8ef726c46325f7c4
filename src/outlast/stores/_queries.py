"""The SQL of the SQLite store, loaded once from the files beside it.

`queries.sql` names each query and says in a sentence what it is for; `NNNN_*.sql` are migrations.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

_HEADER: Final = re.compile(r"^-- ([a-z_]+) --$", re.MULTILINE)
_COMMENT: Final = re.compile(r"--[^\n]*")
_MIGRATION: Final = re.compile(r"(\d{4})_\w+\.sql")


@cache
def queries() -> MappingProxyType[str, str]:
    """Return every query by name, without comments and in one line."""
    text = files("outlast.stores").joinpath("sql/queries.sql").read_text("utf-8")
    parts = _HEADER.split(text)[1:]
    return MappingProxyType(
        {
            name: " ".join(_COMMENT.sub("", sql).split()).removesuffix(";")
            for name, sql in zip(parts[::2], parts[1::2], strict=True)
        }
    )


@cache
def migrations() -> tuple[str, ...]:
    """Return the migrations in order; the n-th leads to `user_version` n."""
    found = {
        int(match[1]): entry.read_text("utf-8")
        for entry in files("outlast.stores").joinpath("sql").iterdir()
        if (match := _MIGRATION.fullmatch(entry.name))
    }
    assert sorted(found) == list(range(1, len(found) + 1)), "migrations are numbered without gaps"  # noqa: S101
    return tuple(found[number] for number in sorted(found))
