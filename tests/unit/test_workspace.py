"""Each table of a run has one name in one place, and a step that runs too early raises an error."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from bus.ingest import diff, integrity, row_hashes, snapshot, workspace
from bus.ingest.workspace import Workspace, WorkTable
from bus.settings import Settings
from bus.source import Staging

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "workspace.md"
PREFIX = re.compile(
    r"\b(raw|record|known|gone|stale|change|elsewhere|familiar|read)_(?=$|\")|\bpublished\.(?=$|\"|\w)"
)
NAMED = re.compile(r"(?<!DISTINCT )\b(FROM|JOIN|INTO|TABLE|VIEW|UPDATE)\s+\"?([a-z]\w*)(?![\w(])")
"""Matches a table that SQL names directly. A name before a parenthesis is a function."""


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.open(tmp_path) as one:
        snapshot._open(one, tmp_path / "west.duckdb", "mark")
        yield one


def texts(path: Path) -> Iterator[ast.Constant]:
    """Return all strings of a module except its docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node


def test_no_other_module_names_a_table() -> None:
    found = [
        f"{path.name}:{node.lineno} {node.value.strip()!r}"
        for path in sorted((ROOT / "bus" / "ingest").glob("*.py"))
        if path.name != "workspace.py"
        for node in texts(path)
        if isinstance(node.value, str)
        if PREFIX.search(node.value) or NAMED.search(node.value)
    ]
    assert found == []


def tables() -> dict[str, WorkTable]:
    """Return the tables of a workspace by the name of their method."""
    one = Workspace(Staging(duckdb.connect(), Path()))
    found = {}
    for name, member in vars(Workspace).items():
        made = member.fget if isinstance(member, property) else member
        if getattr(made, "__annotations__", {}).get("return") == "WorkTable":
            value = getattr(one, name)
            found[name] = value if isinstance(value, WorkTable) else value("KIND")
    one.con.close()
    assert found
    return found


def test_the_documents_have_each_table() -> None:
    for name, table in tables().items():
        if name != "own":
            for text in (DOCUMENT.read_text("utf-8"), workspace.__doc__ or ""):
                plain = table.replace('"', "").replace("familiar_KIND", "familiar_TABLE")
                assert re.search(rf"(?<![\w.]){re.escape(plain)}(?!\w)", text), plain


def test_no_two_tables_share_a_name() -> None:
    named = [table for name, table in tables().items() if name != "own"]
    assert len(set(named)) == len(named)


def test_each_step_says_what_it_misses(empty: Workspace) -> None:
    empty.staging.coverage["org"] = "bulk"
    with pytest.raises(RuntimeError, match=r'no table "raw_org"; the source'):
        row_hashes.set_apart(empty)
    with pytest.raises(RuntimeError, match=r'no table "raw_org"; the source'):
        integrity.validate(empty)
    with pytest.raises(RuntimeError, match=r'no table "stale_org"; `row_hashes.set_apart` makes'):
        diff.compare(empty, "org", "bulk")
    with pytest.raises(RuntimeError, match=r'no table "change_org"; `diff.compare` makes it'):
        snapshot.remember(empty, Settings(), ["org"])


def test_the_steps_in_their_order_miss_nothing(empty: Workspace) -> None:
    empty.staging.coverage["org"] = "bulk"
    empty.sql(
        f"CREATE TABLE {empty.raw('org')} AS SELECT 'org.csv' AS _file, 2::BIGINT AS _line, "
        "'o1' AS sourcedId, 'Oak' AS name, 'school' AS type"
    )
    row_hashes.set_apart(empty)
    assert integrity.validate(empty) == {"org": 0}
    assert diff.compare(empty, "org", "bulk").created == 1


def test_a_transaction_that_fails_leaves_nothing(empty: Workspace) -> None:
    with pytest.raises(ZeroDivisionError), empty.transaction():
        empty.sql(f"DELETE FROM {empty.about}")
        raise ZeroDivisionError
    assert empty.sql(f"SELECT mark FROM {empty.about}") == [("mark",)]


def test_a_damaged_cache_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "west.duckdb"
    path.write_bytes(b"rubbish" * 1000)
    with Workspace.open(tmp_path) as one:
        snapshot._open(one, path, "mark")
        assert one.has(one.published("student"))


def test_a_cache_with_another_mark_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "west.duckdb"
    for mark, kept in (("one", 0), ("one", 1), ("two", 0)):
        with Workspace.open(tmp_path) as one:
            snapshot._open(one, path, mark)
            assert one.number(f"SELECT count(*) FROM {one.position}") == kept
            one.sql(f"INSERT INTO {one.position} VALUES ('t', 0, 1)")
