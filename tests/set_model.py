"""The contents of a set in plain Python: a small model of `consumers.delivery.set_file`, for tests.

`files` returns the bytes of each file. It goes from row to row, in the order of the rules.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bus.delivery import Table
from consumers.delivery.set_file import Reference, Unique


class Kept(NamedTuple):
    """A row as the state keeps it."""

    kind: str
    id: str
    owner: str
    at: int
    cells: tuple[str, ...]
    last_day: str | None


def files(
    tables: Sequence[Table],
    references: Mapping[str, Sequence[Reference]],
    named_by: Mapping[str, Sequence[Table]],
    unique: Mapping[str, Sequence[Unique]],
    rows: Mapping[str, Sequence[Kept]],
    today: str,
) -> dict[str, bytes]:
    """Return the files of a set."""
    ids: dict[str, set[tuple[str, str]]] = {}

    def present(reference: Reference) -> set[str]:
        found = ids.get(reference.to, set())
        return {id_ for id_, kind in found if reference.kind in ("", kind)}

    def checked(table: Table) -> list[Reference]:
        return [
            reference
            for reference in references.get(table.name, ())
            if not reference.lenient or reference.to == table.name or ids[reference.to]
        ]

    def valid(table: Table) -> list[Kept]:
        found = [row for row in rows[table.name] if not row.last_day or row.last_day >= today]
        for reference in checked(table):
            if reference.required and not reference.many:
                at, there = table.columns.index(reference.column), present(reference)
                if reference.lenient:
                    there = there | {""}
                found = [row for row in found if row.cells[at] in there]
        return found

    def shown(table: Table, row: Kept) -> list[str]:
        cells = list(row.cells)
        for reference in checked(table):
            at, there = table.columns.index(reference.column), present(reference)
            if reference.many:
                cells[at] = ",".join(one for one in cells[at].split(",") if one in there)
            elif cells[at] not in there:
                cells[at] = ""
        return cells

    made = {}
    for table in tables:
        keys = [table.columns.index(name) for name in table.key]
        found = valid(table)
        if len(keys) == 1:
            ids[table.name] = {(row.cells[keys[0]], row.kind) for row in found}
        if table.name in named_by:
            named = set()
            for other in named_by[table.name]:
                for reference in references.get(other.name, ()):
                    if reference.to == table.name:
                        at = other.columns.index(reference.column)
                        said = {row.cells[at] for row in valid(other)}
                        named |= {
                            (id_, kind)
                            for id_, kind in ids[table.name]
                            if id_ in said and reference.kind in ("", kind)
                        }
            ids[table.name] = named
            found = [row for row in found if (row.cells[keys[0]], row.kind) in named]
        found.sort(
            key=lambda row: (  # as bytes, because databases compare texts that way
                *(row.cells[at].encode() for at in keys),
                row.kind.encode(),
                row.id.encode(),
                row.owner.encode(),
                row.at,
            )
        )
        text, last = io.StringIO(), None
        seen: dict[Unique, set[str]] = {one: set() for one in unique.get(table.name, ())}
        lines = csv.writer(text)
        lines.writerow(table.columns)
        for row in found:
            cells = shown(table, row)
            if (key := [cells[at] for at in keys]) == last:
                continue
            last = key
            for one, taken in seen.items():
                at = table.columns.index(one.column)
                if cells[at] and (not one.kinds or row.kind in one.kinds):
                    value = cells[at].lower()
                    if value in taken:
                        cells[at] = cells[table.columns.index(one.instead)] if one.instead else ""
                    taken.add(value)
            lines.writerow(cells)
        made[table.name] = text.getvalue().encode()
    return made
