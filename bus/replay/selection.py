"""Selects the records of a window that are replayed, by kind, school, student or id."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bus.errors import Never, Stop
from bus.kafka import topics
from bus.kafka.reader import scan
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard import KINDS


@dataclass(slots=True)
class Selection:
    """The selected records. An empty field selects all, but `kinds` is never empty.

    records:  ids of single records by kind. Of these kinds, only these records are selected.
    _members: for a kind, the ids of its records that belong to the selected schools.
    """

    kinds: tuple[str, ...]
    schools: tuple[str, ...] = ()
    students: tuple[str, ...] = ()
    records: Mapping[str, Collection[str]] = field(default_factory=dict)
    _members: dict[str, set[str]] = field(default_factory=dict)

    @property
    def narrow(self) -> bool:
        """Whether each record must be looked at, because not all of a kind are selected."""
        return bool(self.schools or self.students or self.records)

    def may_have(self, kind: str, key: bytes, value: bytes) -> bool:
        """Return whether a message may be selected, by its bytes alone.

        Strings are plain UTF-8 in Avro.
        """
        if self.records and key.decode("utf-8", "replace") not in self.records[kind]:
            return False
        if self.students and not any(one.encode() in value for one in self.students):
            return False
        return not self.schools or self._may_be_of_schools(kind, value)

    def has(self, kind: str, record: Any) -> bool:
        """Return whether a decoded record is selected."""
        student = KINDS[kind].student
        if self.students and (student is None or record[student.name] not in self.students):
            return False
        return not self.schools or self._is_of_schools(kind, record)

    def _may_be_of_schools(self, kind: str, value: bytes) -> bool:
        school = KINDS[kind].school
        if not school or any(one.through for one in school):
            return True
        return any(one.encode() in value for one in self.schools)

    def _is_of_schools(self, kind: str, record: Any) -> bool:
        school = KINDS[kind].school
        for one in school:
            if value := record[one.name]:
                chosen = self._members[one.through] if one.through else self.schools
                ids = value if isinstance(value, list) else [value]
                return any(id_ in chosen for id_ in ids)
        return not school  # terms belong to no school


def select(
    settings: Settings,
    taken: Sequence[str],
    *,
    entities: Collection[str] = (),
    schools: Collection[str] = (),
    students: Collection[str] = (),
    records: Mapping[str, Collection[str]] | None = None,
) -> Selection:
    """Return the selection among the kinds that a product takes.

    taken: the kinds that the product takes.

    Raises `Stop` for a kind that does not exist or that the product does not take, and for students
    if no selected kind is about a student.
    """
    if unknown := sorted(set(entities) - set(taken)):
        raise Stop(
            f"--kind {', '.join(unknown)}: the product takes only {', '.join(taken)}; choose one "
            "of these"
        )
    kinds = tuple(kind for kind in taken if not entities or kind in entities)
    if records:
        kinds = tuple(kind for kind in kinds if kind in records)
    if students:
        kinds = tuple(kind for kind in kinds if KINDS[kind].student)
        if not kinds:
            raise Stop("none of the selected kinds is about a student; leave out --kind")
    found = Selection(
        kinds,
        tuple(schools),
        tuple(students),
        {kind: frozenset(ids) for kind, ids in (records or {}).items()},
    )
    if schools:
        needed = _asked_for_schools(kinds)
        for kind in KINDS:  # in dependency order: a line item's school may be that of its class
            if kind in needed:
                found._members[kind] = _members(settings, kind, found)
    return found


def _asked_for_schools(kinds: Iterable[str]) -> set[str]:
    """Return the kinds through which records of these kinds belong to a school."""
    found: set[str] = set()
    left = list(kinds)
    while left:
        named = {one.through for one in KINDS[left.pop()].school if one.through} - found
        found |= named
        left += named
    return found


def _members(settings: Settings, kind: str, selection: Selection) -> set[str]:
    """Return the ids of a kind's records that belong, or once belonged, to the selected schools."""
    decode = Decoder(kind, schema_lookup(settings)).decode
    found: set[str] = set()
    for message in scan(settings, topics.topic(settings, kind)):
        value = message.value()
        if value is None or not selection._may_be_of_schools(kind, value):
            continue
        try:
            record: Any = decode(value)
        except Never:
            continue
        if selection._is_of_schools(kind, record):
            found.add(record["sourcedId"])
    return found
