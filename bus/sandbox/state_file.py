"""Reads the state file, in which a subscriber writes what it holds, and finds what is wrong in it.

The file is JSON Lines (UTF-8), with one line for each record: `{"kind": …, "id": …, "record":
{…}}`. A record has one line, with its latest state. A deleted record has no line.

Dates are `2026-11-28`, or days since 1970. Moments are RFC 3339 text, or milliseconds since 1970. A
missing field counts as null.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

Key = tuple[str, str]
"""The kind and the id of a record."""

MOST_NAMED = 3
"""The largest number of ids that one line of a report names."""
WORDS = {
    "missing": "missing",
    "surplus": "there that must not be there",
    "different": "different",
}


class StateError(Exception):
    """The file has another form. The text of the error says where, without any value."""


@dataclass(frozen=True, slots=True, order=True)
class StateDifference:
    """A record of the file that differs from the expected one.

    what:   "missing": the file lacks it. "surplus": it was deleted, or never sent. "different":
            some fields have other values.
    fields: the fields with other values.
    """

    kind: str
    what: Literal["missing", "surplus", "different"]
    id: str
    fields: tuple[str, ...] = ()


def read_state(path: Path) -> dict[Key, dict[str, Any]]:
    """Return the records of a state file. Raises `StateError` if it is not one."""
    found: dict[Key, dict[str, Any]] = {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise StateError("the state file is not UTF-8") from None
    for number, line in enumerate(lines, 1):
        try:
            table = json.loads(line)
            kind, id_, record = table["kind"], table["id"], table["record"]
        except (ValueError, KeyError, TypeError):
            kind, id_, record = None, None, None
        if not (isinstance(kind, str) and isinstance(id_, str) and isinstance(record, dict)):
            raise StateError(
                f"line {number} of the state file is not an object with kind, id and record"
            )
        if (kind, id_) in found:
            raise StateError(f"line {number} of the state file repeats a record: {kind} {id_}")
        found[kind, id_] = record
    return found


def differences(
    expected: Mapping[Key, Mapping[str, Any]], state: Mapping[Key, Mapping[str, Any]]
) -> list[StateDifference]:
    """Return how a state differs from the expected one, in order."""
    found = [StateDifference(kind, "missing", id_) for kind, id_ in expected.keys() - state.keys()]
    found += [StateDifference(kind, "surplus", id_) for kind, id_ in state.keys() - expected.keys()]
    for kind, id_ in expected.keys() & state.keys():
        right, held = expected[kind, id_], state[kind, id_]
        fields = tuple(
            field
            for field in sorted(right.keys() | held.keys())
            if not _same(right.get(field), held.get(field))
        )
        if fields:
            found.append(StateDifference(kind, "different", id_, fields))
    return sorted(found)


def described(found: Iterable[StateDifference]) -> Iterator[str]:
    """Yield one line for each kind and sort of difference, with ids and fields but no values."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for one in found:
        groups.setdefault((one.kind, one.what, one.fields), []).append(one.id)
    for (kind, what, fields), ids in groups.items():
        number = f"{len(ids):,} record{'s are' if len(ids) > 1 else ' is'}"
        named = ", ".join(ids[:MOST_NAMED]) + (", …" if len(ids) > MOST_NAMED else "")
        where = f" in {', '.join(fields)}" if fields else ""
        yield f"{kind}: {number} {WORDS[what]}{where}: {named}"


def _same(right: Any, held: Any) -> bool:
    """Return whether a value in the file means the same as the value in the topic."""
    if isinstance(right, datetime):
        return _moment(held) == right.astimezone(UTC)
    if isinstance(right, date):
        return held in (right.isoformat(), (right - date(1970, 1, 1)).days)
    if isinstance(right, bool) or isinstance(held, bool):
        return right is held
    return bool(right == held)


def _moment(held: Any) -> datetime | None:
    try:
        if isinstance(held, str):
            found = datetime.fromisoformat(held)
            return found.astimezone(UTC) if found.tzinfo else None
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=held)
    except (TypeError, ValueError, OverflowError):
        return None
