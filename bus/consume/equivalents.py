"""Records that are the same thing to a product, though they are several to the standard.

A district may have two enrollments of one student in one class: the student left and came back. To
Canvas they are one. So all records that agree in some fields are decided together, by the rule that
`bus.product.Equivalent` states, whatever their order and whichever batch they come in. The product
is told the record that counts, and only when the result of the rule has changed. What stands is
known by `bus.consume.standing_index`, so the cost is that of the changes.

For each key (the fields' values) that a batch touches:

    before  the result of the rule over what stands, all of it delivered
    after   the same with the batch's records laid over: of one record the newest offset counts

The product gets the record that counts after the batch, if the result differs from `before`, be it
only between two records of the batch; but not if another record than before counts and has the same
rows. If nobody stands any more it gets the withdrawal, always. A record that went to another key
of the same owner (an enrollment that names another class) is withdrawn from the old one; the source
withdraws one that went to another owner (`bus.ingest.diff`).

The record that counts need not be in the batch: one of several was withdrawn. Then it is fetched by
its partition and offset; a record's newest state is never compacted away. Its row goes beside the
message that caused it, in that message's place.

What a kill leaves, at each moment:

* Before the delivery nothing has happened: it is decided again, the same.
* After it, before the index: the batch is read again, perhaps cut otherwise, and decided from the
  same `before`. What the product was told is the result after some record of it. Where that differs
  from `before` the key is told again, as results between two records count too.
* After the index, before the commit: the index is ahead of the group's offset. It is made anew up
  to that offset, and the batch is decided again, the same.
* After the commit: if the disk has lost the index's last state, it is behind, and reads what lies
  between.

So what a kill leaves is told once more at most, which deliveries bear.

A batch that is given up in a rebalance does not change the index.

Dead letters. A record that waited too long for what it refers to, that the product refuses or that
cannot be translated, stands as it would in a place that is made anew from the topic. So dead
letters do not change what counts, from the next batch on; until it is mended the product has what
it had before. `bus deadletters retry` is a replay of the record as it now stands: it brings what
counts of its key. Bytes that do not decode are nothing; the state before them stands.

A replay of history (into another place) has an index of its own, which begins with what stood at
the window's start, so siblings before the window count. A replay of latest states tells, for each
record that was chosen, what counts of all that stands in the topic, whichever records were chosen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bus.consume.dependency_order import KindRecords
from bus.consume.standing_index import Arrival, Member, StandingIndex, columns
from bus.delivery import Position
from bus.errors import Never
from bus.kafka import topics
from bus.kafka.client import group_settings
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
"""What counts: where the record lies, and the first day that is told; None: nobody stands."""


def folder(settings: Settings, product: Product) -> Path:
    """Where the live consumer of a product keeps what stands."""
    return settings.home / "standing" / str(group_settings(settings, product.name)["group.id"])


class Equivalents:
    """Decides which of a product's equivalent records it is told. Not for several threads.

    folder:   where what stands is kept; None: in memory.
    standing: for a replay of latest states: the result over all that lies in the topic is told.

    All but `revoked` and `close` may raise `RetryLater`, and can be called again.
    """

    def __init__(
        self,
        settings: Settings,
        product: Product,
        writer_schema: Callable[[int], dict[str, Any]],
        folder: Path | None,
        *,
        standing: bool = False,
    ) -> None:
        self._kinds = {
            kind: _EquivalentKind(settings, product, kind, writer_schema, folder, standing)
            for kind in product.siblings
        }
        self._topics = {one.topic: one for one in self._kinds.values()}

    def assigned(self, begins: Mapping[Position, int]) -> None:
        """Partitions, each with the offset before which the product was told all."""
        for place, offset in begins.items():
            if place.topic in self._topics:
                self._topics[place.topic].begins[place.partition] = offset

    def revoked(self, places: Iterable[Position]) -> None:
        """These partitions are another instance's now."""
        gone: dict[str, list[int]] = defaultdict(list)
        for place in places:
            gone[place.topic].append(place.partition)
        for topic, one in self._topics.items():
            one.release(gone[topic])

    def decide(
        self,
        records: Mapping[str, KindRecords],
        left_out: Sequence[tuple[Message, str]] = (),
        read_to: Mapping[Position, int] | None = None,
    ) -> Mapping[str, KindRecords]:
        """What the product is told of these records, in the order in which they came.

        left_out: what goes to the dead letters before it is translated.
        read_to:  for a replay of latest states: up to where the topics are looked at.
        """
        if not self._kinds:
            return records
        lots = dict(records)
        for kind, one in self._kinds.items():
            dead = [message for message, _ in left_out if message.topic() == one.topic]
            if kind in records or dead:
                lot = one.decide(records.get(kind, KindRecords()), dead, read_to or {})
                if lot.records or kind in records:
                    lots[kind] = lot
        return lots

    def delivered(self, offsets: Mapping[Position, int]) -> None:
        """The product has the batch that was decided last; all before these offsets is done."""
        for one in self._kinds.values():
            one.delivered(offsets)

    def reached(self, offsets: Mapping[Position, int]) -> None:
        """Nothing more lies before these offsets."""
        for topic, one in self._topics.items():
            one.reached(_of(topic, offsets))

    def close(self) -> None:
        """Let go of the files."""
        for one in self._kinds.values():
            one.close()


class _EquivalentKind:
    """One kind of record. The index is made when it is first needed."""

    def __init__(
        self,
        settings: Settings,
        product: Product,
        kind: str,
        writer_schema: Callable[[int], dict[str, Any]],
        folder: Path | None,
        standing: bool,
    ) -> None:
        self.topic = topics.topic(settings, kind)
        self.begins: dict[int, int] = {}
        self._settings = settings
        self._kind = kind
        self._rule = product.siblings[kind]
        self._translations = [translate for _, translate in product.translations(kind)]
        self._writer_schema = writer_schema
        self._folder = folder
        self._standing = standing
        self._decoder = Decoder(kind, writer_schema)
        self._index: StandingIndex | None = None
        self._decided = False

    def close(self) -> None:
        if self._index:
            self._index.close()
            self._index = None

    def release(self, parts: Sequence[int]) -> None:
        for part in parts:
            self.begins.pop(part, None)
        if self._index:
            self._index.release(parts)

    def delivered(self, offsets: Mapping[Position, int]) -> None:
        if self._index and not self._standing:
            reached = _of(self.topic, offsets)
            if self._decided:
                self._index.write(reached)
            else:
                self._index.note(reached)
            self._decided = False

    def reached(self, offsets: Mapping[int, int]) -> None:
        if self._index and not self._standing:
            self._index.note(offsets)

    # ---- deciding ------------------------------------------------------------------------------

    def decide(
        self, lot: KindRecords, dead: Sequence[Message], read_to: Mapping[Position, int]
    ) -> KindRecords:
        self._decided = False
        unseen = self._decoded(dead if not self._standing else ())
        if not lot.messages and not unseen.messages:
            return lot
        if self._index is None:
            self._index = StandingIndex(
                self._settings,
                self._kind,
                self.topic,
                self._rule,
                self._folder,
                self._writer_schema,
            )
        index = self._index
        index.reach(self._goals([*lot.messages, *unseen.messages], read_to))
        arriving = [columns(self._rule, lot)]
        if unseen.messages:
            arriving.append(columns(self._rule, unseen, told=False))
        index.take(arriving)
        self._decided = True
        keys = index.shared(standing=self._standing)
        if not keys:
            return lot
        members, arrivals = index.members(keys), index.arrivals(keys)
        judge = _StandingJudge if self._standing else _Judge
        told = judge(self._rule, members).told(arrivals)
        return self._lot(lot, {one.slot for one in arrivals}, told)

    def _goals(
        self, messages: Sequence[Message], read_to: Mapping[Position, int]
    ) -> dict[int, int]:
        """For each partition of a batch the offset up to which the index must stand."""
        parts = {message.partition() or 0 for message in messages}
        if self._standing:
            ends = _of(self.topic, read_to)
            return {part: ends.get(part, 0) for part in parts}
        return {part: self.begins[part] for part in parts}

    def _decoded(self, messages: Sequence[Message]) -> KindRecords:
        """Those of these that hold a record."""
        records, failures = self._decoder.decode_all([message.value() for message in messages])
        bad = {index for index, _ in failures}
        return KindRecords(records, [m for index, m in enumerate(messages) if index not in bad])

    # ---- what is told --------------------------------------------------------------------------

    def _lot(
        self, lot: KindRecords, concerned: set[int], told: Mapping[int, Sequence[_Told]]
    ) -> KindRecords:
        """The lot with what is told in the places of what caused it."""
        mine = {message_place(message): at for at, message in enumerate(lot.messages)}
        every = [one for several in told.values() for one in several]
        wanted = {place for one in every for place in one.places if place not in mine}
        known = self._fetched(wanted)
        known |= {place: lot.records[at] for place, at in mine.items()}
        found = KindRecords()
        for slot, (record, message) in enumerate(zip(lot.records, lot.messages, strict=True)):
            if slot not in concerned:
                found.add(record, message)
                continue
            for one in told.get(slot, ()):
                if one.place in known and not self._is_the_same(one, known):
                    found.add(self._as_told(known[one.place], one), message)
        return found

    def _as_told(self, record: Record, one: _Told) -> Record:
        if one.gone:
            return record if record["status"] != "active" else {**record, "status": "tobedeleted"}
        name = self._rule.first
        if name and record[name] != one.first_day:
            return {**record, name: one.first_day}
        return record

    def _is_the_same(self, one: _Told, known: Mapping[Place, Record]) -> bool:
        """Whether the product has these rows already, made from another record."""
        if not one.others or any(place not in known for place in one.places):
            return False
        try:
            rows = [
                [
                    translate(self._as_told(known[some.place], some))
                    for translate in self._translations
                ]
                for some in (one, *one.others)
            ]
        except Exception:  # whatever it is, the translation of the batch tells it
            return False
        return all(other == rows[0] for other in rows)

    def _fetched(self, wanted: Iterable[Place]) -> dict[Place, Record]:
        """Records that are not in the batch, of those that are still in the topic."""
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
class _Told:
    """What the product is told in one place of a batch.

    place:     where the record lies.
    first_day: the first day that is told.
    gone:      it is told that nobody stands any more.
    others:    what counted before. If all of these have the same rows, it need not be told.
    """

    place: Place
    first_day: date | None = None
    gone: bool = False
    others: tuple[_Told, ...] = ()

    @property
    def places(self) -> list[Place]:
        """Where all records lie that it needs."""
        return [self.place, *(other.place for other in self.others)]


@dataclass(slots=True)
class _Group:
    """The records of one key, while a batch is laid over them.

    standing: by number. results: those since `before` that differ from it. cause: the last place in
    the batch that touched it. gone: what is told when nobody stands.
    """

    standing: dict[int, Member] = field(default_factory=dict)
    before: Result = None
    results: set[Result] = field(default_factory=set)
    cause: int = -1
    gone: tuple[int, Place] | None = None


class _Judge:
    """Lays the records of a batch over what stood before."""

    def __init__(self, rule: Equivalent, members: Iterable[Member]) -> None:
        self._rule = rule
        self._groups: dict[int, _Group] = defaultdict(_Group)
        self._key: dict[int, int] = {}
        for member in members:
            self._groups[member.key].standing[member.number] = member
            self._key[member.number] = member.key
        for group in self._groups.values():
            group.before = self._result(group)

    def told(self, arrivals: Iterable[Arrival]) -> dict[int, list[_Told]]:
        """What the product is told, by the place in the batch."""
        slots: dict[Place, int] = {}
        for one in arrivals:
            if one.slot >= 0:  # a dead letter of this batch counts from the next batch on
                slots[one.member.part, one.member.at_offset] = one.slot
                self._lay(one)
        found: dict[int, list[_Told]] = defaultdict(list)
        for group in self._groups.values():
            if not group.standing:
                if group.gone:
                    slot, place = group.gone
                    found[slot].append(_Told(place, gone=True))
            elif group.results and (result := self._what_counts(group, slots)):
                found[result[0]].append(result[1])
        return found

    def _lay(self, one: Arrival) -> None:
        member = one.member
        old = self._groups[self._key[member.number]] if member.number in self._key else None
        if old:
            was = old.standing[member.number]
            if was.at_offset >= member.at_offset:
                return  # read once more; a newer state stands already
            if not one.stands or was.key != member.key:
                del old.standing[member.number], self._key[member.number]
                if was.key != member.key:
                    self._touch(old, one.slot, (was.part, was.at_offset))
        group = self._groups[member.key]
        if one.stands:
            group.standing[member.number] = member
            self._key[member.number] = member.key
        self._touch(group, one.slot, (member.part, member.at_offset))

    def _touch(self, group: _Group, slot: int, place: Place) -> None:
        if (result := self._result(group)) != group.before:
            group.results.add(result)
        group.gone = (slot, place)
        group.cause = slot

    def _what_counts(self, group: _Group, slots: Mapping[Place, int]) -> tuple[int, _Told] | None:
        """The place in the batch and what is told there."""
        result = self._result(group)
        if result is None:
            return None
        if result[0] in slots:
            return slots[result[0]], _Told(*result)
        # A record that is not in the batch counts, because another was withdrawn. If its row is the
        # same, the product has it.
        others = {group.before, *group.results} - {result}
        same = tuple(_Told(*other) for other in others if other is not None)
        return group.cause, _Told(*result, others=same if len(same) == len(others) else ())

    def _result(self, group: _Group) -> Result:
        if not group.standing:
            return None
        first = self._first(group)
        return (first.part, first.at_offset), self._first_day(group)

    def _first(self, group: _Group) -> Member:
        """Which record counts: see `bus.product.Equivalent`."""
        return max(group.standing.values(), key=_rank)

    def _first_day(self, group: _Group) -> date | None:
        days = [member.first_day for member in group.standing.values()]
        known = [day for day in days if day is not None]
        return min(known) if len(known) == len(days) else None


class _StandingJudge(_Judge):
    """Tells what counts of each key, where the batch is a part of what stands already."""

    def told(self, arrivals: Iterable[Arrival]) -> dict[int, list[_Told]]:
        latest: dict[int, Arrival] = {one.member.key: one for one in arrivals}
        slots = {(o.member.part, o.member.at_offset): o.slot for o in latest.values()}
        found: dict[int, list[_Told]] = defaultdict(list)
        for key, one in latest.items():
            group = self._groups.get(key)
            if group and group.standing:
                group.cause = one.slot
                if result := self._what_counts(group, slots):
                    found[result[0]].append(result[1])
            elif not one.stands:
                place = (one.member.part, one.member.at_offset)
                found[one.slot].append(_Told(place, gone=True))
        return found


def _rank(member: Member) -> tuple[bool, date, bool, date, str]:
    last, first = member.last_day, member.first_day
    return last is None, last or date.min, first is not None, first or date.min, member.id


def message_place(message: Message) -> Place:
    """The partition and the offset of a message."""
    return message.partition() or 0, message.offset() or 0


def _of(topic: str, offsets: Mapping[Position, int]) -> dict[int, int]:
    """The offsets of one topic's partitions."""
    return {place.partition: at for place, at in offsets.items() if place.topic == topic}
