"""The source of the cases, as a fixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases.way_in import WayIn


@pytest.fixture
def way_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WayIn:
    """Return a source before its first day."""
    return WayIn(tmp_path, monkeypatch)
