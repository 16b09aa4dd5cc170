"""The imports between rooms match the table in `docs/architecture.md`."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
MOST_AT_THE_TOP = 10


class Import(NamedTuple):
    """One import: the file that has it, the module it names, and whether it is only for types."""

    file: str
    module: str
    typing: bool = False


@cache
def modules(folder: str) -> dict[str, Path]:
    """Return the modules below a folder by their dotted names."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(folder: str) -> list[Import]:
    """Return all imports below a folder, including those inside functions and those only for types.

    `from bus.kafka import topics` names `bus.kafka.topics`, and `from bus.errors import Stop` names
    `bus.errors`.
    """
    known = modules(folder)
    found = []
    for path in known.values():
        file = str(path.relative_to(ROOT))
        tree = ast.parse(path.read_text("utf-8"))
        typing = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found += [Import(file, alias.name, node in typing) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    module = submodule if submodule in known else node.module
                    found.append(Import(file, module, node in typing))
    return found


def layers() -> dict[str, int]:
    """Return each room of `bus` with its layer from the document's table; 1 is the lowest."""
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    return {room.strip("`/ "): int(number) for number, rooms in rows for room in rooms.split(",")}


def room(module: str) -> str:
    """Return the room of a module: `kafka` for `bus.kafka.topics`, `settings` for `bus.settings`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def of_the_bus() -> Iterator[tuple[Import, str, str]]:
    """Return the imports of `bus` by `bus`, each with its own room and the imported room."""
    names = {str(path.relative_to(ROOT)): name for name, path in modules("bus").items()}
    for one in imports("bus"):
        if one.module.split(".")[0] == "bus":
            yield one, room(names[one.file]), room(one.module)


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
    wrong = [one for one in imports(folder) if one.module.split(".")[0] in may_not]
    assert wrong == []


def test_the_table_names_every_room() -> None:
    assert layers().keys() == {room(module) for module in modules("bus")}


def test_no_room_imports_one_of_its_own_layer_or_above() -> None:
    layer = layers()
    wrong = [
        f"{one.file} imports {one.module}"
        for one, having, named in of_the_bus()
        if having != named and layer[named] >= layer[having]
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {str(path.relative_to(ROOT)): name for name, path in modules("bus").items()}
    graph: dict[str, set[str]] = defaultdict(set)
    for one, _, _ in of_the_bus():
        if one.module in modules("bus") and names[one.file] != one.module:
            graph[names[one.file]].add(one.module)
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


def test_few_files_lie_at_the_top() -> None:
    assert len(list((ROOT / "bus").glob("*.py"))) <= MOST_AT_THE_TOP


def test_every_room_says_its_purpose() -> None:
    for path in (ROOT / "bus").glob("*/__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


@pytest.mark.parametrize("room", ["kafka", "registry", "observe", "ingest", "consume", "replay"])
def test_a_room_names_its_modules(room: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / "bus" / room / "__init__.py").read_text()))
    named = re.findall(r"^([a-z_]+) +\S", docstring or "", re.MULTILINE)
    files = {path.stem for path in (ROOT / "bus" / room).glob("*.py")} - {"__init__"}
    assert files <= set(named)


def test_no_two_modules_share_a_name() -> None:
    """A file of the command line may share a name with the module that it runs."""
    named: dict[str, list[str]] = defaultdict(list)
    for name, path in modules("bus").items():
        if path.stem not in ("__init__", "__main__") and not name.startswith("bus.cli."):
            named[path.stem].append(name)
    for name, path in modules("bus").items():
        if path.stem == "__init__":
            named[name.split(".")[-1]].append(name)
    assert {name: where for name, where in named.items() if len(where) > 1} == {}


def test_no_two_public_classes_share_a_name() -> None:
    named: dict[str, list[str]] = defaultdict(list)
    for path in modules("bus").values():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                named[node.name].append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in named.items() if len(where) > 1} == {}


def test_only_the_cli_and_what_has_commands_imports_the_command_line() -> None:
    wrong = [
        one
        for folder in ("bus", "consumers")
        for one in imports(folder)
        if one.module.startswith("bus.cli")
        and not one.file.startswith(("bus/cli/", "bus/__main__.py"))
    ]
    assert wrong == []


def test_only_the_worker_commits_offsets() -> None:
    """And a subscription, for its own group: it commits no more than what it has handled."""
    committing = [
        str(path.relative_to(ROOT))
        for folder in ("bus", "producers", "consumers")
        for path in (ROOT / folder).rglob("*.py")
        if "consumer.commit(" in path.read_text("utf-8")
    ]
    assert sorted(committing) == ["bus/consume/worker.py", "bus/subscription.py"]


def test_only_schemas_apply_registers() -> None:
    registering = [
        str(path.relative_to(ROOT))
        for folder in ("bus", "producers", "consumers")
        for path in (ROOT / folder).rglob("*.py")
        if ".register_schema" in path.read_text("utf-8")
    ]
    assert registering == ["bus/registry/subjects.py"]


def test_a_translation_does_no_io() -> None:
    """Files of products import nothing that reads, writes or calls; only their deliveries do."""
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
        one
        for one in imports("consumers")
        if "/delivery/" not in one.file and not one.typing and one.module.split(".")[0] in forbidden
    ]
    assert wrong == []
