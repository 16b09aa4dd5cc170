"""Holds states of a product as rows, and finds how two states differ.

A state comes from one of these:

* a folder of zips of CSV files, one zip for each batch. Sorted by name they are in import order,
  and the last row of each key counts
* a folder with one set of CSV files, which is the whole state
* one zip of CSV files
* records, by the product's translation
* for a product that takes requests, a folder that a replay wrote (`bus.replay.json_lines_folder`)

Rows are matched by `Table.key`. Only columns that both sides have are compared, because exports
have additional columns. A row that marks its thing as removed (`Table.gone`) counts as absent.

The rows are in DuckDB, which moves them to disk when they are many: a big district has eight
million.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import pyarrow

from bus.delivery import Table
from bus.errors import Stop
from bus.ingest.columns import quoted
from bus.product import Product

What = Literal["missing", "extra", "different"]
AT_ONCE = 50_000
SCHEMA = pyarrow.schema(
    [
        ("seq", pyarrow.int64()),
        ("key", pyarrow.string()),
        ("cells", pyarrow.string()),
        ("gone", pyarrow.bool_()),
        ("kind", pyarrow.string()),
        ("id", pyarrow.string()),
    ]
)


class RowOrigin(NamedTuple):
    """The record that a row was made from."""

    kind: str
    id: str


NOBODY = RowOrigin("", "")


class Difference(NamedTuple):
    """One difference between two states.

    missing:   only the first state has the row.
    extra:     only the second state has the row.
    different: both have it, with different values in `columns`.
    """

    what: What
    table: str
    key: tuple[str, ...]
    columns: tuple[str, ...] = ()


@dataclass(slots=True)
class Differences:
    """The differences of two states, and how many rows of each table are the same in both.

    unknown: how many of the differences come from no record in the topics.
    """

    found: list[Difference] = field(default_factory=list)
    same: Counter[str] = field(default_factory=Counter)
    unknown: int = 0

    def numbers(self) -> dict[str, dict[str, int]]:
        """Return for each table how many rows are the same, missing, extra and different."""
        counted = Counter((one.table, one.what) for one in self.found)
        tables = dict.fromkeys([*self.same, *(one.table for one in self.found)])
        whats: tuple[What, ...] = ("missing", "extra", "different")
        return {
            table: {"same": self.same[table]} | {what: counted[table, what] for what in whats}
            for table in tables
        }


class ProductStates:
    """States of one product, in a database in `folder`."""

    def __init__(self, product: Product, folder: Path) -> None:
        self.tables = {table.name: table for table in product.tables}
        self._con = duckdb.connect(str(folder / "rows.duckdb"))
        self._con.execute("SET enable_progress_bar = false")
        self._con.execute("SET memory_limit = '1GB'")
        self._seq = 0

    def close(self) -> None:
        """Close the database."""
        self._con.close()

    def read(self, state: str, path: Path) -> None:
        """Add the rows of files to a state. Raises `Stop` if none of the files is the product's."""
        began = self._seq
        files = {name: table for name, table in self.tables.items() if table.columns}
        try:
            for name in self.tables.keys() - files.keys():
                self._read_lines(state, name, path / f"{name}.ndjson")
            for name, text in _files(path, files):
                rows: Iterator[dict[str, Any]] = csv.DictReader(text)
                for some in _batched(rows, AT_ONCE):
                    self.add(state, self.tables[name], some, [NOBODY] * len(some))
        except (OSError, zipfile.BadZipFile, UnicodeDecodeError, csv.Error) as error:
            raise Stop(
                f"{path} cannot be read ({type(error).__name__}); name a folder of CSV files"
            ) from None
        if self._seq == began:
            raise Stop(f"{path} has none of {', '.join(self.tables)}; name the folder with them")

    def add(
        self,
        state: str,
        table: Table,
        rows: Iterable[Mapping[str, Any]],
        sources: Iterable[RowOrigin],
    ) -> None:
        """Add rows to a state. Of the rows with one key the last counts."""
        keys, cells, kinds, ids, gone = [], [], [], [], []
        for row, source in zip(rows, sources, strict=True):
            keys.append(json.dumps([row.get(name) or "" for name in table.key]))
            cells.append(json.dumps({n: v or "" for n, v in row.items() if n}))
            gone.append(table.is_gone(row))
            kinds.append(source.kind)
            ids.append(source.id)
        self._insert(f"{state} {table.name}", keys, cells, gone, kinds, ids)

    def _read_lines(self, state: str, table: str, path: Path) -> None:
        """Add the rows of a product that takes requests (`bus.replay.json_lines_folder`).

        The key of a row is the kind and id of its record.
        """
        if not path.is_file():
            return
        with path.open(encoding="utf-8") as lines:
            for some in _batched(map(json.loads, lines), AT_ONCE):
                self._insert(
                    f"{state} {table}",
                    [json.dumps([line["kind"], line["id"]]) for line in some],
                    [json.dumps({n: _text(v) for n, v in line["row"].items()}) for line in some],
                    [self.tables[table].is_gone(line["row"]) for line in some],
                    [line["kind"] for line in some],
                    [line["id"] for line in some],
                )

    def _insert(self, name: str, *columns: Sequence[Any]) -> None:
        seq = range(self._seq, self._seq + len(columns[0]))
        self._seq += len(columns[0])
        added = pyarrow.table([pyarrow.array(seq), *columns], schema=SCHEMA)
        self._con.register("added", added)
        self._con.execute(f"CREATE TABLE IF NOT EXISTS {quoted(name)} AS FROM added LIMIT 0")
        self._con.execute(f"INSERT INTO {quoted(name)} FROM added")
        self._con.unregister("added")

    def differences(self, first: str, second: str, withdrawn: str = "") -> Differences:
        """Return how the second state differs from the first.

        A row that marks its thing as removed counts as absent.

        withdrawn: the state with the rows that were delivered last for withdrawn records. A row
                   that only the second state has is no difference if it equals the row there.
        """
        found = Differences()
        there = {row[0] for row in self._con.execute("SHOW TABLES").fetchall()}
        for table in self.tables:
            sides = [
                self._last(f"{state} {table}" if f"{state} {table}" in there else "")
                for state in (first, second, withdrawn)
            ]
            (number,) = self._con.execute(
                f"SELECT count(*) FROM {sides[0]} a JOIN {sides[1]} b USING (key) "
                "WHERE a.cells = b.cells"
            ).fetchall()[0]
            found.same[table] += number  # also when 0, to keep the order of the tables
            cursor = self._con.execute(
                f"SELECT key, a.cells, b.cells, withdrawn.cells FROM {sides[0]} a "
                f"FULL JOIN {sides[1]} b USING (key) LEFT JOIN {sides[2]} withdrawn USING (key) "
                "WHERE a.cells IS DISTINCT FROM b.cells ORDER BY key"
            )
            while lines := cursor.fetchmany(AT_ONCE):
                for key, before, after, last in lines:
                    if before is None and last is not None and not _unlike(last, after):
                        continue
                    self._add_difference(found, table, key, before, after)
        return found

    def sources_of(self, state: str, table: str, key: tuple[str, ...]) -> set[RowOrigin]:
        """Return the records that the rows of a key were made from, withdrawn ones included."""
        name = f"{state} {table}"
        if (name,) not in self._con.execute("SHOW TABLES").fetchall():
            return set()
        rows = self._con.execute(
            f"SELECT DISTINCT kind, id FROM {quoted(name)} WHERE key = ?", [json.dumps(list(key))]
        ).fetchall()
        return {RowOrigin(*row) for row in rows}

    def _last(self, table: str) -> str:
        if not table:
            return "(SELECT '' AS key, '' AS cells, '' AS kind, '' AS id WHERE false)"
        last = ", ".join(f"arg_max({name}, seq) AS {name}" for name in ("cells", "kind", "id"))
        return (
            f"(SELECT key, {last} FROM {quoted(table)} GROUP BY key HAVING NOT arg_max(gone, seq))"
        )

    def _add_difference(
        self,
        found: Differences,
        table: str,
        key: str,
        before: str | None,
        after: str | None,
    ) -> None:
        ids = tuple(json.loads(key))
        if before is None or after is None:
            what: What = "missing" if after is None else "extra"
            found.found.append(Difference(what, table, ids))
            return
        if columns := _unlike(before, after):
            found.found.append(Difference("different", table, ids, columns))
        else:
            found.same[table] += 1


def _unlike(before: str, after: str) -> tuple[str, ...]:
    """Return the columns that both rows have and in which they differ."""
    one, other = json.loads(before), json.loads(after)
    return tuple(name for name in one if name in other and not _same(one[name], other[name]))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _same(one: str, other: str) -> bool:
    """Return whether two cells are the same text, or the same moment in two time zones."""
    if one == other:
        return True
    try:
        moments = datetime.fromisoformat(one), datetime.fromisoformat(other)
    except ValueError:
        return False
    aware = all(moment.tzinfo is not None for moment in moments)
    return aware and moments[0] == moments[1]


def _batched(rows: Iterator[dict[str, Any]], number: int) -> Iterator[list[dict[str, Any]]]:
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == number:
            yield some
            some = []
    if some:
        yield some


def _files(path: Path, wanted: Mapping[str, Table]) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield (name, text) for each of these files, in import order."""
    if path.is_file():
        yield from _zipped(path, wanted)
        return
    for name in wanted:
        if (path / name).is_file():
            with (path / name).open(encoding="utf-8-sig", newline="") as text:
                yield name, text
    for archive in sorted(path.glob("*.zip")):
        yield from _zipped(archive, wanted)


def _zipped(path: Path, wanted: Mapping[str, Table]) -> Iterator[tuple[str, Iterable[str]]]:
    with zipfile.ZipFile(path) as archive:
        for name in wanted:
            if name in archive.namelist():
                with archive.open(name) as file:
                    yield name, io.TextIOWrapper(file, "utf-8-sig", newline="")
