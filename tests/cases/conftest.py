"""The way in for the cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases.way_in import WayIn


@pytest.fixture
def way_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WayIn:
    """A source whose first day has not come."""
    return WayIn(tmp_path, monkeypatch)
