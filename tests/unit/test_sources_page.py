"""The example of docs/sources.md is a source: it declares itself, reads, and is valid."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from bus.cli.source_commands import command_of
from bus.ingest.integrity import validate
from bus.ingest.workspace import Workspace
from bus.source import Extracts, NoSettings, Source, Staging

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"


def example() -> Source:
    """The source that the page's Python declares."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    found = names["SOURCE"]
    assert isinstance(found, Source)
    return found


def test_the_example_reads_an_extract(tmp_path: Path) -> None:
    extract = tmp_path / "schools.csv"
    extract.write_text("code,title\no1,North\no2,South\n", "utf-8")
    staging = Staging(duckdb.connect(), tmp_path)
    reader = example().reader
    assert isinstance(reader, Extracts)
    reader.read(extract, NoSettings(), staging)
    assert validate(Workspace(staging)) == {"org": 0}
    rows = staging.con.execute("SELECT sourcedId, name, type, _line FROM record_org").fetchall()
    assert rows == [("o1", "North", "school", 2), ("o2", "South", "school", 3)]
    assert staging.faults == []


def test_the_example_has_a_command() -> None:
    assert callable(command_of(example()))
