"""What users see changes only on purpose: `tests/golden/public-surface.txt` holds it.

After an intended change: UPDATE_GOLDEN=1, see `tests/golden_file.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import golden_file, surface

FILE = "public-surface.txt"


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start in an empty folder without the user's settings, and let help be as wide as it needs."""
    for name in os.environ:
        if name.upper().startswith("BUS_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_commands() -> None:
    golden_file.check(FILE, "command", surface.commands())


def test_exit_statuses(tmp_path: Path) -> None:
    golden_file.check(FILE, "status", surface.exit_statuses(tmp_path))


def test_topics() -> None:
    golden_file.check(FILE, "topic", surface.topic_facts())


def test_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    golden_file.check(FILE, "message", surface.messages(monkeypatch))


def test_transactions_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    golden_file.check(FILE, "client", surface.clients(monkeypatch))


def test_schemas() -> None:
    golden_file.check(FILE, "schema", surface.schemas())


def test_metrics() -> None:
    golden_file.check(FILE, "metric", surface.metrics())


def test_http(monkeypatch: pytest.MonkeyPatch) -> None:
    golden_file.check(FILE, "http", surface.http_paths(monkeypatch))


def test_settings() -> None:
    golden_file.check(FILE, "setting", surface.settings())


def test_package() -> None:
    golden_file.check(FILE, "package", surface.package())


def test_products() -> None:
    golden_file.check(FILE, "product", surface.products())


def test_python() -> None:
    golden_file.check(FILE, "python", surface.python())


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden_file.check(FILE, "file", surface.files(tmp_path, monkeypatch))


def test_json_of_benchmarks() -> None:
    golden_file.check(FILE, "json-bench", surface.bench_json())
