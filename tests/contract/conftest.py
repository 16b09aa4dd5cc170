"""Settings for the contract tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import reused


@pytest.fixture(scope="session", autouse=True)
def _databases() -> Iterator[None]:
    """Reuse databases in memory."""
    with reused():
        yield
