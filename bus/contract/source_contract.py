"""The tests that every source of whole extracts must pass."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import duckdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.errors import BusError
from bus.ingest.integrity import validate
from bus.ingest.workspace import Workspace
from bus.source import Extracts, Source, Staging
from bus.standard import KINDS
from bus.standard.fault_codes import CODE

EXAMPLES = max(5, settings().max_examples // 5)
"""The number of damaged extracts to try. It is reduced, as each extract is read whole."""


class SourceContract:
    """Subclass it in a test module, with `source`, `extract` and `marker`; see `bus.contract`.

    source:       the declared source.
    own_settings: the settings of the source for the test.
    marker:       a text that the extract has as a person's name, and nowhere else.
    """

    source: Source
    own_settings: Mapping[str, Any] = MappingProxyType({})
    marker: str

    @abstractmethod
    def extract(self, folder: Path) -> Path:
        """Create a small extract in this folder: a file, or a folder with files.

        For a polled source: the response of the SIS, which `read` then serves.
        """

    def read(self, extract: Path, staging: Staging) -> None:
        """Read the extract as the source does; the test of a polled source overrides this."""
        reader = self.source.reader
        assert isinstance(reader, Extracts), "override `read` for a source that reads no extracts"
        reader.read(extract, self.source.settings(**self.own_settings), staging)

    def test_tables_are_as_the_standard_has_them(self, tmp_path: Path) -> None:
        """Tables have text columns with the standard's names, and file and line."""
        staging = self._read(tmp_path)
        assert staging.coverage
        workspace = Workspace(staging)
        for kind in staging.kinds:
            assert kind in KINDS
            described = workspace.sql(f"DESCRIBE {workspace.raw(kind)}")
            found = {row[0]: row[1] for row in described}
            assert found.pop("_line") == "BIGINT"
            assert found.pop("_raw", "UBIGINT") == "UBIGINT"
            assert set(found.values()) == {"VARCHAR"}
            assert found.keys() - {"_file"} <= set(KINDS[kind].fields)

    def test_what_it_reads_is_valid(self, tmp_path: Path) -> None:
        """A good extract gives valid records of every kind that it has."""
        staging = self._read(tmp_path)
        validate(workspace := Workspace(staging))
        for kind in staging.kinds:
            assert workspace.number(f"SELECT count(*) FROM {workspace.record(kind)}")

    def test_reading_again_gives_the_same(self, tmp_path: Path) -> None:
        """The result does not depend on when or how often the extract is read."""
        one, two = self._read(tmp_path / "1"), self._read(tmp_path / "2")
        assert one.coverage == two.coverage
        for kind in one.kinds:
            sql = f"SELECT * FROM {Workspace(one).raw(kind)} ORDER BY ALL"
            assert Workspace(one).sql(sql) == Workspace(two).sql(sql)

    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=EXAMPLES)
    @given(data=st.data())
    def test_a_damaged_extract_is_read_as_far_as_it_goes_or_refused(
        self, tmp_path_factory: Any, data: st.DataObject
    ) -> None:
        """Any byte may be wrong: the source does not crash, and no message holds a value."""
        folder = tmp_path_factory.mktemp("damaged")
        extract = self.extract(folder)
        files = [extract] if extract.is_file() else sorted(extract.rglob("*.*"))
        for file in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=2)):
            raw = bytearray(file.read_bytes())
            for _ in range(data.draw(st.integers(1, 4))):
                if raw:
                    at = data.draw(st.integers(0, len(raw) - 1))
                    cut = data.draw(st.integers(0, 8))
                    raw[at : at + cut] = data.draw(st.binary(max_size=8))
            file.write_bytes(bytes(raw))
        staging = _staging(folder)
        try:
            self.read(extract, staging)
            validate(Workspace(staging))
        except BusError as refused:
            assert self.marker not in str(refused)
        for fault in staging.faults:
            assert self.marker not in repr(fault)
            assert re.fullmatch(CODE, fault.code), "a code has lowercase words and hyphens"

    def _read(self, folder: Path) -> Staging:
        folder.mkdir(exist_ok=True)
        staging = _staging(folder)
        self.read(self.extract(folder), staging)
        return staging


def _staging(folder: Path) -> Staging:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    return Staging(duckdb.connect(), work)
