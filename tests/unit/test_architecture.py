"""Who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imports(folder: str) -> list[tuple[str, str]]:
    """(file, imported module) of all imports below a folder, also those inside functions, but for
    what is imported for its type alone."""
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        typing = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if node in typing:
                continue
            if isinstance(node, ast.Import):
                found += [(str(path.relative_to(ROOT)), alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.append((str(path.relative_to(ROOT)), node.module))
    return found


@pytest.mark.parametrize(
    ("folder", "may_not"),
    [
        ("bus", ("producers", "consumers", "tests")),
        ("producers", ("consumers", "tests")),
        ("consumers", ("producers", "tests")),
        ("schemas", ("bus",)),
    ],
)
def test_the_direction_of_imports(folder: str, may_not: tuple[str, ...]) -> None:
    wrong = [(file, name) for file, name in imports(folder) if name.split(".")[0] in may_not]
    assert wrong == []


def test_nothing_of_the_bus_imports_the_command_line() -> None:
    wrong = [
        (file, name)
        for file, name in imports("bus")
        if name.startswith("bus.cli") and not file.startswith(("bus/cli/", "bus/__main__.py"))
    ]
    assert wrong == []


def test_only_the_loop_commits_offsets() -> None:
    committing = [
        str(path.relative_to(ROOT))
        for folder in ("bus", "producers", "consumers")
        for path in (ROOT / folder).rglob("*.py")
        if "consumer.commit(" in path.read_text("utf-8")
    ]
    assert committing == ["bus/consume/worker.py"]


def test_only_schemas_apply_registers() -> None:
    registering = [
        str(path.relative_to(ROOT))
        for folder in ("bus", "producers", "consumers")
        for path in (ROOT / folder).rglob("*.py")
        if ".register_schema" in path.read_text("utf-8")
    ]
    assert registering == ["bus/registry/subjects.py"]


def test_a_translation_does_no_io() -> None:
    """The files of products import nothing that reads, writes or calls; their deliveries do."""
    forbidden = {
        "httpx2",
        "requests",
        "socket",
        "sqlite3",
        "duckdb",
        "confluent_kafka",
        "subprocess",
    }
    wrong = [
        (file, name)
        for file, name in imports("consumers")
        if "/delivery/" not in file and name.split(".")[0] in forbidden
    ]
    assert wrong == []
