"""One simulator for all tests that only ask it something, and a client of the real SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from outlast.testing import simulator
from simulator.asking import TESTS, body, client_of


@pytest.fixture(scope="session")
def menu() -> Iterator[simulator.Simulator]:
    """A simulator that answers what the last text names; see scripts.py."""
    with simulator.start("simulator.scripts:menu", path=[TESTS]) as running:
        yield running


@pytest.fixture(scope="session")
def client(menu: simulator.Simulator) -> Iterator[anthropic.Anthropic]:
    with client_of(menu) as made:
        yield made


@pytest.fixture(scope="session")
def ask(client: anthropic.Anthropic) -> Any:
    """Ask one question without a stream."""

    def asked(question: str, **more: Any) -> anthropic.types.Message:
        return client.messages.create(**body(question, **more))

    return asked
