"""Equivalent records: several records to the standard, but one thing to a product.

A district may have two enrollments of one student in one class, because the student left and came
back. To Canvas they are one. So all records that agree in some fields are decided together, by the
rule that `bus.product.Equivalent` states. The order of the records and their batches do not matter.
The product gets the record that counts, and only when the result of the rule has changed.
`bus.consume.active_index` knows the active records, so the cost is in proportion to the changes.

For each key (the fields' values) that a batch touches, two results are compared:

    before  the result of the rule over the active records, all of them delivered
    after   the same with the batch's records applied: of each record the newest offset counts

The product gets the record that counts after the batch, if the result differs from `before`. It
also gets it if only a result between two records of the batch differs. It does not get it if a
different record counts now that has the same rows. If no record of the key is active any more, the
product always gets the withdrawal. A record may move to another key of the same owner (an
enrollment that now names another class). Then it is withdrawn from the old key. If a record moves
to another owner, the source withdraws it (`bus.ingest.diff`).

The record that counts may not be in the batch, for example because another one was withdrawn. Then
it is fetched by its partition and offset, because compaction never removes a record's newest state.
Its row is delivered with the message that caused the change, in the place of that message.

This is what happens after a kill at each moment:

* Before the delivery: nothing has changed. The batch is decided again, with the same result.
* After the delivery, before the index is written: the batch is read again, perhaps with other
  limits, and decided from the same `before`. The product has the result after some record of the
  batch. If that differs from `before`, the key is delivered again, because results between two
  records count too.
* After the index is written, before the commit: the index is ahead of the group's offset. It is
  rebuilt up to that offset, and the batch is decided again, with the same result.
* After the commit: if the disk has lost the index's last state, the index is behind. It reads the
  messages in between.

So a kill causes at most one repeated delivery, which every delivery tolerates.

A batch that is given up in a rebalance does not change the index.

Dead letters. A record can wait too long for what it refers to, be refused by the product, or fail
to translate. The index still counts it, as an index that is rebuilt from the topic does. So dead
letters do not change which record counts, from the next batch on. Until a person has acted, the
product has what it had before. `bus deadletters retry` replays the record's current state: it
delivers the record that counts for its key. A message that does not decode is ignored, and the
state before it counts.

A replay of history into another place has a separate index. It begins with the active records at
the start of the window, so equivalent records from before the window count. A replay of latest
states delivers, for each chosen record, the record that counts among all active records in the
topic, whether they were chosen or not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bus.consume.active_index import ActiveIndex, Arrival, Member, columns
from bus.consume.dependency_order import KindRecords
from bus.delivery import Position
from bus.errors import Never
from bus.kafka import topics
from bus.kafka.reader import messages_at
from bus.product import Equivalent, Product
from bus.registry.codec import Decoder
from bus.settings import Settings
from bus.standard import Record

if TYPE_CHECKING:
    from confluent_kafka import Message

Place = tuple[int, int]
"""A partition and an offset."""
Result = tuple[Place, date | None] | None
"""Where the record that counts is, and the first day with which it is delivered. None: no record is
active."""


class Equivalents:
    """Decides which of a product's equivalent records it gets. Not thread-safe.

    folder:   where the index of active records is; None: in memory.
    latest_only: whether this is for a replay of latest states: the result covers all records in the
                 topic.

    All methods but `revoked` and `close` may raise `RetryLater`, and can be called again.
    """

    def __init__(
        self,
        settings: Settings,
        product: Product,
        writer_schema: Callable[[int], dict[str, Any]],
        folder: Path | None,
        *,
        latest_only: bool = False,
    ) -> None:
        self._kinds = {
            kind: _EquivalentKind(settings, product, kind, writer_schema, folder, latest_only)
            for kind in product.siblings
        }
        self._topics = {one.topic: one for one in self._kinds.values()}

    def assigned(self, begins: Mapping[Position, int]) -> None:
        """Remember partitions, each with the offset before which the product has everything."""
        for place, offset in begins.items():
            if place.topic in self._topics:
                self._topics[place.topic].begins[place.partition] = offset

    def revoked(self, places: Iterable[Position]) -> None:
        """Remember that another instance has these partitions now."""
        revoked: dict[str, list[int]] = defaultdict(list)
        for place in places:
            revoked[place.topic].append(place.partition)
        for topic, one in self._topics.items():
            one.release(revoked[topic])

    def decide(
        self,
        records: Mapping[str, KindRecords],
        left_out: Sequence[tuple[Message, str]] = (),
        read_to: Mapping[Position, int] | None = None,
    ) -> Mapping[str, KindRecords]:
        """Return the records that the product gets instead of these, in the same order.

        left_out: what goes to the dead letters before it is translated.
        read_to:  for a replay of latest states, for each partition, the offset up to which it was
                  read.
        """
        if not self._kinds:
            return records
        chosen = dict(records)
        for kind, one in self._kinds.items():
            dead = [message for message, _ in left_out if message.topic() == one.topic]
            if kind in records or dead:
                kind_records = one.decide(records.get(kind, KindRecords()), dead, read_to or {})
                if kind_records.records or kind in records:
                    chosen[kind] = kind_records
        return chosen

    def delivered(self, offsets: Mapping[Position, int]) -> None:
        """Remember that the product has the batch that was decided last.

        offsets: for each partition, the offset before which everything is done.
        """
        for one in self._kinds.values():
            one.delivered(offsets)

    def reached(self, offsets: Mapping[Position, int]) -> None:
        """Remember that everything before these offsets is done."""
        for topic, one in self._topics.items():
            one.reached(_of(topic, offsets))

    def close(self) -> None:
        """Close the files."""
        for one in self._kinds.values():
            one.close()


class _EquivalentKind:
    """The equivalent records of one kind. The index is created when it is first needed."""

    def __init__(
        self,
        settings: Settings,
        product: Product,
        kind: str,
        writer_schema: Callable[[int], dict[str, Any]],
        folder: Path | None,
        latest_only: bool,
    ) -> None:
        self.topic = topics.topic(settings, kind)
        self.begins: dict[int, int] = {}
        self._settings = settings
        self._kind = kind
        self._rule = product.siblings[kind]
        self._translations = [translate for _, translate in product.translations(kind)]
        self._writer_schema = writer_schema
        self._folder = folder
        self._latest_only = latest_only
        self._decoder = Decoder(kind, writer_schema)
        self._index: ActiveIndex | None = None
        self._decided = False

    def close(self) -> None:
        """Close the files."""
        if self._index:
            self._index.close()
            self._index = None

    def release(self, parts: Sequence[int]) -> None:
        """Forget these partitions: another instance has them now."""
        for part in parts:
            self.begins.pop(part, None)
        if self._index:
            self._index.release(parts)

    def delivered(self, offsets: Mapping[Position, int]) -> None:
        """Write the batch that was decided last to the index."""
        if self._index and not self._latest_only:
            reached = _of(self.topic, offsets)
            if self._decided:
                self._index.write(reached)
            else:
                self._index.note(reached)
            self._decided = False

    def reached(self, offsets: Mapping[int, int]) -> None:
        """Remember that everything before these offsets is done."""
        if self._index and not self._latest_only:
            self._index.note(offsets)

    # ---- deciding ------------------------------------------------------------------------------

    def decide(
        self, kind_records: KindRecords, dead: Sequence[Message], read_to: Mapping[Position, int]
    ) -> KindRecords:
        """Return the records that the product gets instead of these, in the same order.

        dead:    messages that go to the dead letters.
        read_to: see `Equivalents.decide`.
        """
        self._decided = False
        dead_records = self._decoded(dead if not self._latest_only else ())
        if not kind_records.messages and not dead_records.messages:
            return kind_records
        if self._index is None:
            self._index = ActiveIndex(
                self._settings,
                self._kind,
                self.topic,
                self._rule,
                self._folder,
                self._writer_schema,
            )
        index = self._index
        index.reach(self._goals([*kind_records.messages, *dead_records.messages], read_to))
        arriving = [columns(self._rule, kind_records)]
        if dead_records.messages:
            arriving.append(columns(self._rule, dead_records, delivered=False))
        index.take(arriving)
        self._decided = True
        keys = index.shared(latest_only=self._latest_only)
        if not keys:
            return kind_records
        members, arrivals = index.members(keys), index.arrivals(keys)
        judge = _LatestJudge if self._latest_only else _Judge
        chosen = judge(self._rule, members).decide(arrivals)
        return self._replaced(kind_records, {one.slot for one in arrivals}, chosen)

    def _goals(
        self, messages: Sequence[Message], read_to: Mapping[Position, int]
    ) -> dict[int, int]:
        """Return for each partition of a batch the offset up to which the index must be read."""
        parts = {message.partition() or 0 for message in messages}
        if self._latest_only:
            ends = _of(self.topic, read_to)
            return {part: ends.get(part, 0) for part in parts}
        return {part: self.begins[part] for part in parts}

    def _decoded(self, messages: Sequence[Message]) -> KindRecords:
        """Return the records of the messages that decode."""
        records, failures = self._decoder.decode_all([message.value() for message in messages])
        bad = {index for index, _ in failures}
        return KindRecords(records, [m for index, m in enumerate(messages) if index not in bad])

    # ---- what is delivered ---------------------------------------------------------------------

    def _replaced(
        self, kind_records: KindRecords, replaced: set[int], chosen: Mapping[int, Sequence[_Chosen]]
    ) -> KindRecords:
        """Replace some records by what the product gets, in the place of what caused it.

        replaced: the indexes of the records to replace.
        chosen:   for such an index, what the product gets there.
        """
        mine = {message_place(message): at for at, message in enumerate(kind_records.messages)}
        every = [one for several in chosen.values() for one in several]
        wanted = {place for one in every for place in one.places if place not in mine}
        known = self._fetched(wanted)
        known |= {place: kind_records.records[at] for place, at in mine.items()}
        found = KindRecords()
        for slot, (record, message) in enumerate(
            zip(kind_records.records, kind_records.messages, strict=True)
        ):
            if slot not in replaced:
                found.add(record, message)
                continue
            for one in chosen.get(slot, ()):
                if one.place in known and not self._has_same_rows(one, known):
                    found.add(self._as_delivered(known[one.place], one), message)
        return found

    def _as_delivered(self, record: Record, one: _Chosen) -> Record:
        """Return the record as the product gets it: withdrawn, or with another first day."""
        if one.withdrawn:
            return record if record["status"] != "active" else {**record, "status": "tobedeleted"}
        name = self._rule.first
        if name and record[name] != one.first_day:
            return {**record, name: one.first_day}
        return record

    def _has_same_rows(self, one: _Chosen, known: Mapping[Place, Record]) -> bool:
        """Return whether the product already has these rows, from another record."""
        if not one.others or any(place not in known for place in one.places):
            return False
        try:
            rows = [
                [
                    translate(self._as_delivered(known[some.place], some))
                    for translate in self._translations
                ]
                for some in (one, *one.others)
            ]
        except Exception:  # the translation of the batch reports any error
            return False
        return all(other == rows[0] for other in rows)

    def _fetched(self, wanted: Iterable[Place]) -> dict[Place, Record]:
        """Fetch records that are not in the batch. Leave out those that the topic no longer has."""
        asked: dict[Position, list[int]] = defaultdict(list)
        for part, offset in wanted:
            asked[Position(self.topic, part)].append(offset)
        if not asked:
            return {}
        found: dict[Place, Record] = {}
        for (place, offset), message in messages_at(self._settings, asked).items():
            try:
                found[place.partition, offset] = self._decoder.decode(message.value())
            except Never:
                continue
        return found


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What the product gets at one place of a batch.

    place:     where the record is.
    first_day: the first day with which it is delivered.
    withdrawn: whether this is the withdrawal, because no record of the key is active any more.
    others:    what counted before. If all of these have the same rows, nothing is delivered.
    """

    place: Place
    first_day: date | None = None
    withdrawn: bool = False
    others: tuple[_Chosen, ...] = ()

    @property
    def places(self) -> list[Place]:
        """Where all the records are that this needs."""
        return [self.place, *(other.place for other in self.others)]


@dataclass(slots=True)
class _Group:
    """The records of one key, while a batch is applied to them.

    members:    the active records by number.
    before:     the result before the batch.
    results:    the results since then that differ from `before`.
    cause:      the index of the last record of the batch that touched the key.
    withdrawal: if no record is active, the record at this place is delivered as withdrawn; before
                the place comes the index of its cause in the batch.
    """

    members: dict[int, Member] = field(default_factory=dict)
    before: Result = None
    results: set[Result] = field(default_factory=set)
    cause: int = -1
    withdrawal: tuple[int, Place] | None = None


class _Judge:
    """Applies the records of a batch to the records that were active before."""

    def __init__(self, rule: Equivalent, members: Iterable[Member]) -> None:
        self._rule = rule
        self._groups: dict[int, _Group] = defaultdict(_Group)
        self._key: dict[int, int] = {}
        for member in members:
            self._groups[member.key].members[member.number] = member
            self._key[member.number] = member.key
        for group in self._groups.values():
            group.before = self._result(group)

    def decide(self, arrivals: Iterable[Arrival]) -> dict[int, list[_Chosen]]:
        """Return what the product gets, by index in the batch."""
        slots: dict[Place, int] = {}
        for one in arrivals:
            if one.slot >= 0:  # a dead letter counts from the next batch on
                slots[one.member.part, one.member.at_offset] = one.slot
                self._apply(one)
        found: dict[int, list[_Chosen]] = defaultdict(list)
        for group in self._groups.values():
            if not group.members:
                if group.withdrawal:
                    slot, place = group.withdrawal
                    found[slot].append(_Chosen(place, withdrawn=True))
            elif group.results and (result := self._what_counts(group, slots)):
                found[result[0]].append(result[1])
        return found

    def _apply(self, one: Arrival) -> None:
        """Apply one record of the batch."""
        member = one.member
        old = self._groups[self._key[member.number]] if member.number in self._key else None
        if old:
            was = old.members[member.number]
            if was.at_offset >= member.at_offset:
                return  # read again; a newer state is in the index already
            if not one.is_active or was.key != member.key:
                del old.members[member.number], self._key[member.number]
                if was.key != member.key:
                    self._touch(old, one.slot, (was.part, was.at_offset))
        group = self._groups[member.key]
        if one.is_active:
            group.members[member.number] = member
            self._key[member.number] = member.key
        self._touch(group, one.slot, (member.part, member.at_offset))

    def _touch(self, group: _Group, slot: int, place: Place) -> None:
        """Remember the result of a group that a record of the batch has touched.

        slot:  the index of that record in the batch.
        place: where the record is that is delivered as withdrawn, if no record is active.
        """
        if (result := self._result(group)) != group.before:
            group.results.add(result)
        group.withdrawal = (slot, place)
        group.cause = slot

    def _what_counts(self, group: _Group, slots: Mapping[Place, int]) -> tuple[int, _Chosen] | None:
        """Return the index in the batch and what the product gets there, or None."""
        result = self._result(group)
        if result is None:
            return None
        if result[0] in slots:
            return slots[result[0]], _Chosen(*result)
        # The record that counts is not in the batch, because another was withdrawn. If its rows are
        # the same as before, the product has them.
        others = {group.before, *group.results} - {result}
        same = tuple(_Chosen(*other) for other in others if other is not None)
        return group.cause, _Chosen(*result, others=same if len(same) == len(others) else ())

    def _result(self, group: _Group) -> Result:
        """Return the result of the rule for a group."""
        if not group.members:
            return None
        first = self._first(group)
        return (first.part, first.at_offset), self._first_day(group)

    def _first(self, group: _Group) -> Member:
        """Return the record that counts: see `bus.product.Equivalent`."""
        return max(group.members.values(), key=_rank)

    def _first_day(self, group: _Group) -> date | None:
        """Return the earliest first day, or None if a record has none."""
        days = [member.first_day for member in group.members.values()]
        known = [day for day in days if day is not None]
        return min(known) if len(known) == len(days) else None


class _LatestJudge(_Judge):
    """Decides what counts for each key when the index already includes the batch."""

    def decide(self, arrivals: Iterable[Arrival]) -> dict[int, list[_Chosen]]:
        """Return what the product gets, by index in the batch."""
        latest: dict[int, Arrival] = {one.member.key: one for one in arrivals}
        slots = {(o.member.part, o.member.at_offset): o.slot for o in latest.values()}
        found: dict[int, list[_Chosen]] = defaultdict(list)
        for key, one in latest.items():
            group = self._groups.get(key)
            if group and group.members:
                group.cause = one.slot
                if result := self._what_counts(group, slots):
                    found[result[0]].append(result[1])
            elif not one.is_active:
                place = (one.member.part, one.member.at_offset)
                found[one.slot].append(_Chosen(place, withdrawn=True))
        return found


def _rank(member: Member) -> tuple[bool, date, bool, date, str]:
    """Return the sort key of the rule: the record with the greatest one counts."""
    last, first = member.last_day, member.first_day
    return last is None, last or date.min, first is not None, first or date.min, member.id


def message_place(message: Message) -> Place:
    """Return the partition and the offset of a message."""
    return message.partition() or 0, message.offset() or 0


def _of(topic: str, offsets: Mapping[Position, int]) -> dict[int, int]:
    """Return the offsets of one topic's partitions."""
    return {place.partition: at for place, at in offsets.items() if place.topic == topic}
