"""The example of docs/own-source.md is a working source: it loads, reads, and has valid records."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from bus.cli.source_commands import command_of
from bus.errors import Stop
from bus.ingest.integrity import validate
from bus.ingest.workspace import Workspace
from bus.source import Extracts, NoSettings, Source, Staging
from tests import page_package


@pytest.fixture
def example(tmp_path: Path) -> Source:
    """Return the source that the page declares."""
    code = (page_package.write("oursis", tmp_path / "package") / "oursis.py").read_text("utf-8")
    names: dict[str, object] = {}
    exec(compile(code, "oursis.py", "exec"), names)
    found = names["SOURCE"]
    assert isinstance(found, Source)
    return found


def read(source: Source, extract: Path) -> Staging:
    staging = Staging(duckdb.connect(), extract)
    assert isinstance(source.reader, Extracts)
    source.reader.read(extract, NoSettings(), staging)
    return staging


def test_the_example_reads_an_extract(example: Source, tmp_path: Path) -> None:
    (tmp_path / "schools.csv").write_text("code,title\no1,North\no2,South\n", "utf-8")
    (tmp_path / "students.csv").write_text(
        "number,first,last,school,level,login\ns1,Ada,Li,o2,8,ali\n", "utf-8"
    )
    staging = read(example, tmp_path)
    assert validate(Workspace(staging)) == {"org": 0, "student": 0}
    rows = staging.con.execute("SELECT sourcedId, name, type, _line FROM record_org").fetchall()
    assert rows == [("o1", "North", "school", 2), ("o2", "South", "school", 3)]
    assert staging.con.execute("SELECT grades FROM record_student").fetchall() == [(["08"],)]
    assert staging.faults == []


def test_an_export_that_lacks_a_file_is_not_read(example: Source, tmp_path: Path) -> None:
    with pytest.raises(Stop, match="has no schools"):
        read(example, tmp_path)


def test_the_example_has_a_command(example: Source) -> None:
    assert callable(command_of(example))
