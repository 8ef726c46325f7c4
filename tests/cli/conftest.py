"""A store with a run of each ending."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.console import filled


@pytest.fixture(scope="session")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that tests only look at."""
    return _filled(tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store that a test may change."""
    return _filled(tmp_path)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[str]:
    """A store that is not there yet."""
    yield f"sqlite:///{tmp_path}/none.db"
    assert not (tmp_path / "none.db").exists()


def _filled(folder: Path) -> str:
    url = f"sqlite:///{folder}/runs.db"
    for _ in filled(url):
        pass
    return url
