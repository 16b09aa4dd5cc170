"""Faults of one cause as one: one thing that is wrong with 30,000 rows is one thing to read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from bus.source import Fault

FIRST = 5
"""Of a group so many lines or ids are told, and so many classes of value."""

NUMBER = re.compile(r"^[\d,]+ more (rows|texts) like those told: |; [\d,]+ rows? ha(s|ve) it$")
"""What a fault's text says of how many there are; a group has its own count."""


@dataclass(slots=True)
class FaultGroup:
    """The faults of a source that agree in file, column and code, and in whether they left out a
    row.

    file:    the file; of records that came one by one their kind.
    count:   how many rows they tell of.
    reason:  the text of the first of them.
    lines:   the first lines, 0 left out. ids: the first ids, of records that came one by one.
    classes: the classes of value, the most frequent first.
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
        """As `--json` prints it."""
        return asdict(self)


def grouped(faults: Iterable[tuple[str, Fault]]) -> list[FaultGroup]:
    """The groups of these faults, each with its source: by source, what left out rows first, then
    the largest first."""
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
    """The id of a record that came by itself, None of a row of a file."""
    prefix = f"{fault.kind} "
    alone = fault.kind and not fault.line and fault.file.startswith(prefix)
    return fault.file.removeprefix(prefix) if alone else None
