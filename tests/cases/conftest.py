"""The source of the cases, as a fixture, on databases that are reused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cases.way_in import WayIn
from tests.databases import reused


@pytest.fixture(scope="session", autouse=True)
def _databases() -> Iterator[None]:
    """Reuse databases in memory."""
    with reused():
        yield


@pytest.fixture
def way_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WayIn:
    """Return a source before its first day."""
    return WayIn(tmp_path, monkeypatch)
