"""Pauses between attempts that take no time."""

from __future__ import annotations

import pytest

from outlast import recovery


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let further attempts be made without a pause."""
    monkeypatch.setattr(recovery, "BACKOFF_S", (0.0,) * len(recovery.BACKOFF_S))
