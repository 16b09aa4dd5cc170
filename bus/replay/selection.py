"""Which records of a window are replayed: of some kinds, of some schools, of some students."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bus.errors import Never, Stop
from bus.kafka import topics
from bus.kafka.reader import scan
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard import KINDS

SCHOOL = {
    "org": "sourcedId",
    "course": "orgSourcedId",
    "class": "schoolSourcedId",
    "enrollment": "schoolSourcedId",
    "attendance": "schoolSourcedId",
    "lineItem": "schoolSourcedId",
    "student": "orgSourcedIds",
    "staff": "orgSourcedIds",
    "guardian": "orgSourcedIds",
}
"""Of each kind the field that names its school, or the schools of it."""
BY_ANOTHER = {"demographics": ("student", "sourcedId"), "result": ("class", "classSourcedId")}
"""Kinds that have no school of their own: it is that of another record, which this field names."""
PERSONAL = {
    "student": "sourcedId",
    "demographics": "sourcedId",
    "enrollment": "userSourcedId",
    "attendance": "studentSourcedId",
    "result": "studentSourcedId",
}
"""Of each kind that is about one student the field that says which."""


@dataclass(slots=True)
class Selection:
    """What is chosen; nothing named means all. `kinds` is always named.

    records: single records, by kind and id; of the kinds that are in it only these.
    """

    kinds: tuple[str, ...]
    schools: tuple[str, ...] = ()
    students: tuple[str, ...] = ()
    records: Mapping[str, Collection[str]] = field(default_factory=dict)
    _members: dict[str, set[str]] = field(default_factory=dict)

    @property
    def narrow(self) -> bool:
        """Whether single records are chosen, so that each must be looked at."""
        return bool(self.schools or self.students or self.records)

    def may_have(self, kind: str, key: bytes, value: bytes) -> bool:
        """Whether a message may be chosen, by its bytes: strings are plain UTF-8 in Avro."""
        if self.records and key.decode("utf-8", "replace") not in self.records[kind]:
            return False
        if self.students and not any(one.encode() in value for one in self.students):
            return False
        direct = self.schools and kind in SCHOOL
        return not direct or any(one.encode() in value for one in self.schools)

    def has(self, kind: str, record: Any) -> bool:
        """Whether a record is chosen."""
        if self.students and record[PERSONAL[kind]] not in self.students:
            return False
        if not self.schools:
            return True
        if kind in BY_ANOTHER:
            other, name = BY_ANOTHER[kind]
            return record[name] in self._members[other]
        if kind not in SCHOOL:  # terms belong to no school
            return True
        value = record[SCHOOL[kind]]
        if kind == "lineItem" and not value:
            return record["classSourcedId"] in self._members.get("class", ())
        if isinstance(value, list):
            return any(one in self.schools for one in value)
        return value in self.schools


def select(
    settings: Settings,
    taken: Sequence[str],
    *,
    entities: Collection[str] = (),
    schools: Collection[str] = (),
    students: Collection[str] = (),
    records: Mapping[str, Collection[str]] | None = None,
) -> Selection:
    """What is chosen of the kinds that a product takes.

    Raises `Stop` for a kind that is not there, or that the product does not take.
    """
    if unknown := sorted(set(entities) - set(taken)):
        raise Stop(
            f"--entity {', '.join(unknown)}: the product takes only {', '.join(taken)}; choose of "
            "these"
        )
    kinds = tuple(kind for kind in taken if not entities or kind in entities)
    if records:
        kinds = tuple(kind for kind in kinds if kind in records)
    if students:
        kinds = tuple(kind for kind in kinds if kind in PERSONAL)
        if not kinds:
            raise Stop("nothing of the chosen kinds is about one student; leave --entity out")
    found = Selection(
        kinds,
        tuple(schools),
        tuple(students),
        {kind: frozenset(ids) for kind, ids in (records or {}).items()},
    )
    if schools:
        wanted = {BY_ANOTHER[kind][0] for kind in kinds if kind in BY_ANOTHER}
        wanted |= {"class"} & {"class" for kind in kinds if kind == "lineItem"}
        for kind in wanted:
            found._members[kind] = _members(settings, kind, found)
    return found


def _members(settings: Settings, kind: str, selection: Selection) -> set[str]:
    """The ids of the classes or people of the chosen schools, now or once."""
    decode = Decoder(kind, schema_lookup(settings)).decode
    found: set[str] = set()
    for message in scan(settings, topics.topic(settings, kind)):
        value = message.value()
        if value is None or not any(one.encode() in value for one in selection.schools):
            continue
        try:
            record: Any = decode(value)
        except Never:
            continue
        if selection.has(kind, record):
            found.add(record["sourcedId"])
    return found


assert SCHOOL.keys() | BY_ANOTHER.keys() <= KINDS.keys()
