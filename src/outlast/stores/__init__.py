"""Where journals are kept: in memory, or in a SQLite file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outlast.errors import StoreError
from outlast.journal import Journal

if TYPE_CHECKING:  # it brings SQLite, which a store in memory does without
    from outlast.stores._connect import Synchronous

__all__ = ["open_store"]


def open_store(url: str, *, synchronous: Synchronous = "FULL") -> Journal:
    """Open a store, and make it if there is none.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, or `memory://`.
        synchronous: of a SQLite store; see `SqliteJournal`.

    Raises:
        NotAStore: the file is something else.
        StoreError: the url is of no kind known here, or the store cannot be opened.

    """
    scheme, separator, rest = url.partition("://")
    if scheme == "memory" and separator and not rest:
        from outlast.stores.memory import MemoryJournal  # noqa: PLC0415  (only what is asked for)

        return MemoryJournal(url)
    if scheme == "sqlite" and rest.startswith("/") and rest not in {"/", "/:memory:"}:
        from outlast.stores.sqlite import SqliteJournal  # noqa: PLC0415  (only what is asked for)

        return SqliteJournal(rest[1:], url=url, synchronous=synchronous)
    raise StoreError(f"{url!r} is not a store; {_known(scheme)}")


def _known(scheme: str) -> str:
    kinds = "known are sqlite:///relative.db, sqlite:////absolute.db and memory://"
    if scheme in {"postgres", "postgresql"}:
        return f"PostgreSQL is not in this version of outlast; {kinds}"
    return kinds
