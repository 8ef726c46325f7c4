"""Opens the store that a command reads, without making one that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outlast.errors import NotAStore, RunNotFound, StoreError, StoreFull, UsageError
from outlast.journal import Journal, RunRow


@contextmanager
def opened(url: str, *, create: bool = False) -> Iterator[Journal]:
    """Open the store at `url`, and close it in the end.

    A file that does not exist is read as a store without runs, and is only made with `create`.

    Raises:
        NotAStore: the file is something else.
        UsageError: there can be no store at `url`, or it cannot be opened.

    """
    from outlast.stores import open_store  # noqa: PLC0415  (--help needs none)

    try:
        journal = _empty(url) if not create and _is_missing(url) else open_store(url)
    except (NotAStore, StoreFull):
        raise
    except StoreError as error:
        # Before anything was done: the name was wrong rather than the store.
        raise UsageError(str(error)) from error
    try:
        yield journal
    finally:
        journal.close()


def row_of(journal: Journal, run_id: str) -> RunRow:
    """Return the row of a run.

    Raises:
        RunNotFound: there is no such run.

    """
    row = journal.run(run_id)
    if row is None:
        raise RunNotFound(run_id, store=journal.url)
    return row


def _empty(url: str) -> Journal:
    from outlast.stores.memory import MemoryJournal  # noqa: PLC0415  (rarely needed)

    return MemoryJournal(url)


def _is_missing(url: str) -> bool:
    scheme, separator, path = url.partition(":///")
    return bool(scheme == "sqlite" and separator and path) and not Path(path).exists()
