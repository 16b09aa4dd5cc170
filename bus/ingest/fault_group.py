"""Group faults that have one cause, so that one error in 30,000 rows is one entry to read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from bus.source import Fault

FIRST = 5
"""How many lines or ids a group lists, and how many value classes."""

NUMBER = re.compile(
    r"^[\d,]+ more (rows|values|texts) (with the same fault|like those told): "
    r"|; this affects [\d,]+ rows?$|; [\d,]+ rows? ha(s|ve) it$"
)
"""The part of a fault's text that gives a number of rows. A group has a count of all its rows.

Faults of earlier versions are in the quarantine too, so this matches their texts as well.
"""


@dataclass(slots=True)
class FaultGroup:
    """The faults of one source that agree in file, column, code and whether they left out a row.

    file:    the file. For records that came one by one, it is their kind.
    count:   how many rows have the fault.
    reason:  the text of the first fault.
    lines:   the first line numbers, without 0.
    ids:     the first ids of records that came one by one.
    classes: the value classes, the most frequent first.
    """

    source: str
    file: str
    column: str
    code: str
    fatal: bool
    reason: str
    count: int = 0
    lines: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the group as `--json` prints it."""
        return asdict(self)


def grouped(faults: Iterable[tuple[str, Fault]]) -> list[FaultGroup]:
    """Return the groups of these faults, each of which is given with its source.

    They are sorted by source, then fatal faults first, then by count, the largest first.
    """
    found: dict[tuple[object, ...], FaultGroup] = {}
    classes: dict[tuple[object, ...], Counter[str]] = {}
    for source, fault in faults:
        id_ = _id(fault)
        file = fault.file if id_ is None else fault.kind
        key = (source, file, fault.column, fault.code, fault.fatal)
        if (group := found.get(key)) is None:
            reason = NUMBER.sub("", fault.reason)
            group = FaultGroup(source, file, fault.column, fault.code, fault.fatal, reason)
            found[key], classes[key] = group, Counter()
        group.count += fault.count
        if id_ is not None and len(group.ids) < FIRST:
            group.ids.append(id_)
        if fault.line:
            group.lines.append(fault.line)
        if fault.value_class:
            classes[key][fault.value_class] += fault.count
    for at, group in found.items():
        group.lines = sorted(group.lines)[:FIRST]
        group.classes = [name for name, _ in classes[at].most_common(FIRST)]
    return sorted(found.values(), key=lambda g: (g.source, not g.fatal, -g.count, g.file, g.column))


def _id(fault: Fault) -> str | None:
    """Return the id of a record that came one by one, or None for a row of a file."""
    prefix = f"{fault.kind} "
    alone = fault.kind and not fault.line and fault.file.startswith(prefix)
    return fault.file.removeprefix(prefix) if alone else None
