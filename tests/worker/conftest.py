"""A yard for every test, whose processes end with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from yard import Yard


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path)
    try:
        yield made
    finally:
        made.close()
