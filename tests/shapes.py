"""The shape of a JSON value: its keys and the types of its values, never the values."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any

TYPES = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    tuple: "array",
    dict: "object",
}


class Shape:
    """The types that were seen at each path of several JSON values.

    data: paths of objects whose keys are data (names of topics, of kinds); all become one `*`.
    """

    def __init__(self, data: Collection[str] = ()) -> None:
        self._data = data
        self._types: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, value: Any) -> None:
        """Add a value."""
        for path, kind in self._walk(value, ""):
            self._types[path].add(kind)

    def lines(self) -> list[str]:
        """Return a line for each path, such as `.records.*.created: integer`."""
        return [
            f"{path or '.'}: {' or '.join(sorted(types))}"
            for path, types in sorted(self._types.items())
        ]

    def _walk(self, value: Any, path: str) -> Iterator[tuple[str, str]]:
        yield path, TYPES.get(type(value), "string")
        if isinstance(value, dict):
            for key, inner in value.items():
                name = "*" if path in self._data else key
                yield from self._walk(inner, f"{path}.{name}")
        elif isinstance(value, list | tuple):
            for inner in value:
                yield from self._walk(inner, f"{path}[]")


def shape(value: Any, data: Collection[str] = ()) -> list[str]:
    """Return the lines of one value."""
    found = Shape(data)
    found.add(value)
    return found.lines()


def with_what_was_empty(held: Iterable[str], found: Iterable[str]) -> list[str]:
    """Return the found lines, and the held lines below an array or a mapping that is now empty.

    An empty container does not show that the held lines are wrong.
    """
    lines = list(found)
    paths = {line.rpartition(": ")[0] for line in lines}
    for line in held:
        path = line.rpartition(": ")[0]
        above = [path[: match.start()] for match in re.finditer(r"\[\]|\.\*", path)]
        for container in above:
            inner = (f"{container}[]", f"{container}.*")
            if container in paths and not any(one.startswith(inner) for one in paths):
                lines.append(line)
    return lines
