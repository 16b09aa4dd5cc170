"""Which records have been delivered: what a record may refer to.

A record is delivered after what it refers to. Within one copy of a consumer that is seen to by
order; what other copies have delivered is read from Kafka: a record lies before its group's
committed offset exactly when it has been delivered. Only keys are needed for that, as a message's
key is the record's id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bus.delivery import Position
from bus.kafka import topics
from bus.kafka.reader import passages
from bus.settings import Settings
from bus.standard import KINDS, Record


@dataclass(frozen=True, slots=True)
class Missing:
    """What a record waits for; `required` when it cannot be told to a product without it."""

    kinds: tuple[str, ...]
    id: str
    required: bool

    def __str__(self) -> str:
        return f"{' or '.join(self.kinds)} {self.id}"


class DeliveredIndex:
    """The ids of the delivered records of the kinds that a product's records refer to.

    Ids are kept as their 64-bit hashes, some 60 bytes each: a million students take 60 MB.
    """

    def __init__(self, settings: Settings, kinds: Iterable[str]) -> None:
        taken = set(kinds)
        self._settings = settings
        self._checks: dict[str, list[tuple[str, tuple[str, ...], bool]]] = {}
        for kind in taken:
            found = []
            for field, targets in KINDS[kind].references.items():
                ours = tuple(target for target in targets if target in taken)
                # A field that may name several kinds is checked only when all of them are taken.
                if ours and len(ours) == len(targets):
                    found.append((field, ours, field in KINDS[kind].required))
            self._checks[kind] = found
        self.kinds = {t for found in self._checks.values() for _, ours, _ in found for t in ours}
        self._ids: dict[str, set[int]] = {kind: set() for kind in self.kinds}
        self._read: dict[Position, int] = {}

    def add(self, kind: str, id_: str) -> None:
        """Note that a record is delivered, or is in the batch that is being delivered."""
        if kind in self._ids:
            self._ids[kind].add(hash(id_))

    def add_all(self, kind: str, records: Iterable[Record]) -> None:
        """Note all of these."""
        if kind in self._ids:
            self._ids[kind].update([hash(record["sourcedId"]) for record in records])

    def discard(self, kind: str, id_: str) -> None:
        """Note that the product refused the record after all."""
        if kind in self._ids:
            self._ids[kind].discard(hash(id_))

    def missing(self, kind: str, record: Record) -> Missing | None:
        """What a record waits for, or None; a required reference before an optional one.

        A withdrawn record waits for nothing: it takes away, and what it names may be gone already.
        """
        if record["status"] == "tobedeleted":
            return None
        ids = self._ids
        optional = None
        for field, targets, required in self._checks[kind]:
            value = record[field]
            if not value:
                continue
            for one in (value,) if isinstance(value, str) else value:
                key = hash(one)
                for target in targets:
                    if key in ids[target]:
                        break
                else:
                    if required:
                        return Missing(targets, one, required)
                    optional = optional or Missing(targets, one, required)
        return optional

    def complete(self, kind: str, records: Sequence[Record]) -> bool:
        """Whether all that these name is delivered; no says only that some of them may wait.

        Looks at each name once, so it takes much less time than asking `missing` for each record.
        """
        for field, targets, _ in self._checks[kind]:
            values = [record[field] for record in records]
            named: set[str | None]
            if any(isinstance(value, list) for value in values[:1]):
                named = {one for value in values for one in value}
            else:
                named = set(values)
            for one in named - {None, ""}:
                if not any(hash(one) in self._ids[target] for target in targets):
                    return False
        return True

    def refresh(self, committed: Mapping[Position, int]) -> int:
        """Take in what lies before the group's committed offsets; how many ids were new."""
        kinds = {topics.topic(self._settings, kind): kind for kind in self.kinds}
        stop = {
            place: offset
            for place, offset in committed.items()
            if place.topic in kinds and offset > self._read.get(place, 0)
        }
        before = sum(map(len, self._ids.values()))
        if stop:
            for message in passages(self._settings, self._read, stop):
                id_ = (message.key() or b"").decode("utf-8", "replace")
                self._ids[kinds[message.topic() or ""]].add(hash(id_))
            self._read |= stop
        return sum(map(len, self._ids.values())) - before
