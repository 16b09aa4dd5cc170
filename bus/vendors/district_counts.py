"""Counts the students that agreements select, from the district's own topics.

All records about one student have the same partition number in every topic. So the topics are read
partition by partition, and only one partition's students are in memory. Each topic is read once,
whatever the number of agreements.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from bus.delivery import Position
from bus.kafka import topics
from bus.kafka.reader import SILENCE, Reader, scan
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard import Record
from bus.vendors.district_messages import decoded, key_of
from bus.vendors.scope import OPT_OUT, Scope

if TYPE_CHECKING:
    pass

Group = tuple[tuple[str, ...], tuple[str, ...]]
"""Schools and grades that some students have in common."""


@dataclass(slots=True)
class CohortCounts:
    """How many students an agreement selects, before and after a change.

    before:  the students of the agreement as it is applied; 0 for a new one.
    after:   the students of the agreement as its file has it; 0 when it ends.
    enter:   the students who newly come in.
    leave:   the students who drop out.
    groups:  the students after the change, by schools and grades.
    classes: the students after the change in each selected class.
    """

    before: int = 0
    after: int = 0
    enter: int = 0
    leave: int = 0
    groups: Counter[Group] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)

    def add(
        self, profile: Record, classes: set[str], selected: set[str], was: bool, is_: bool
    ) -> None:
        """Count one student.

        profile:  the student's schools and grades.
        classes:  the student's classes.
        selected: the classes that the agreement selects.
        was, is_: whether the agreement selects the student before and after the change.
        """
        self.before += was
        self.after += is_
        self.enter += is_ and not was
        self.leave += was and not is_
        if is_:
            self.groups[tuple(profile["orgSourcedIds"]), tuple(profile["grades"])] += 1
            for class_ in classes & selected:
                self.classes[class_] += 1


@dataclass(frozen=True, slots=True)
class ScopeChange:
    """The scopes of an agreement before and after a change; None: it is not active then."""

    before: Scope | None
    after: Scope | None


def ids(settings: Settings, kind: str) -> set[str]:
    """Return the ids of all records of a kind, withdrawn ones too.

    Raises `RetryLater` if Kafka does not answer.
    """
    found: set[str] = set()
    for message in scan(settings, topics.topic(settings, kind)):
        key = (message.key() or b"").decode()
        (found.discard if message.value() is None else found.add)(key)
    return found


def count(
    settings: Settings, changes: Mapping[str, ScopeChange], day: date
) -> dict[str, CohortCounts]:
    """Return the numbers of students for each change.

    Raises `RetryLater` if Kafka or the registry does not answer.

    day: the day of the district's calendar, for opt-outs.
    """
    found = {name: CohortCounts() for name in changes}
    if not changes:
        return found
    selected = {name: _selected(change) for name, change in changes.items()}
    every_class = set().union(*selected.values())
    for students, enrollments, opt_outs in _partitions(settings, every_class):
        for id_, profile in students.items():
            classes, outs = enrollments.get(id_, set()), opt_outs.get(id_, [])
            for name, change in changes.items():
                was, is_ = (
                    scope is not None
                    and scope.selects(profile, classes)
                    and not scope.keeps_out(outs, day)
                    for scope in (change.before, change.after)
                )
                if was or is_:
                    found[name].add(profile, classes, selected[name], was, is_)
    return found


def _selected(change: ScopeChange) -> set[str]:
    return {
        class_
        for scope in (change.before, change.after)
        if scope is not None
        for class_ in scope.agreement.students.classes
    }


def _partitions(
    settings: Settings, classes: set[str]
) -> Iterator[tuple[dict[str, Record], dict[str, set[str]], dict[str, list[Record]]]]:
    """Yield for each partition the students, their selected classes, and their opt-outs."""
    failure = "could not count the students: Kafka reports {}; try again when Kafka is available"
    look_up = schema_lookup(settings)
    kinds = [
        "student",
        *(["enrollment"] if classes else []),
        OPT_OUT,
    ]
    names = {topics.topic(settings, kind): kind for kind in kinds}
    with Reader(settings, failure) as reader:
        places: dict[int, list[Position]] = defaultdict(list)
        for place in reader.places(list(names)):
            places[place.partition].append(place)
        for number in sorted(places):
            partition = _Partition(classes)
            for place in places[number]:
                kind = names[place.topic]
                decoder = Decoder(kind, look_up)
                for batch in reader.batches({place: 0}, silence=SILENCE):
                    # What does not decode is left out: a consumer makes it a dead letter.
                    for message, record in decoded(decoder, batch)[0]:
                        partition.put(kind, key_of(message), record)
            yield partition.students, partition.classes(), partition.opt_outs()


class _Partition:
    """The current states of the records of one partition, as far as they select students."""

    def __init__(self, classes: set[str]) -> None:
        self.students: dict[str, Record] = {}
        self._profiles: dict[Any, Record] = {}
        self._selected = classes
        self._enrollments: dict[str, tuple[str, str]] = {}
        self._opt_outs: dict[str, Record] = {}

    def put(self, kind: str, key: str, record: Record | None) -> None:
        if kind == "student":
            self._put_student(key, record)
        elif kind == "enrollment":
            self._enrollments.pop(key, None)
            if (
                record is not None
                and record["status"] == "active"
                and record["role"] == "student"
                and record["classSourcedId"] in self._selected
            ):
                self._enrollments[key] = (record["userSourcedId"], record["classSourcedId"])
        else:
            self._opt_outs.pop(key, None)
            if record is not None:
                self._opt_outs[key] = record

    def _put_student(self, key: str, record: Record | None) -> None:
        self.students.pop(key, None)
        if record is not None and record["status"] == "active":
            profile = {name: record[name] for name in ("status", "orgSourcedIds", "grades")}
            # A district has few combinations of schools and grades; students share them.
            shared = self._profiles.setdefault(
                (tuple(record["orgSourcedIds"]), tuple(record["grades"])), profile
            )
            self.students[key] = shared

    def classes(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for student, class_ in self._enrollments.values():
            found[student].add(class_)
        return found

    def opt_outs(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = defaultdict(list)
        for one in self._opt_outs.values():
            found[one["studentSourcedId"]].append(one)
        return found
