"""Stores the district's messages in the view, and finds out what changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

import structlog
from confluent_kafka import Message

from bus.kafka import topics
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard.kinds import KINDS, Record
from bus.vendors.district_messages import decoded, key_of
from bus.vendors.district_view import DistrictView, Key, Origin, Row, about_all, student_of
from bus.vendors.record_rules import Change
from bus.vendors.scope import OPT_OUT
from bus.vendors.shard import WHOLE, Shard

log = structlog.get_logger(__name__)

NewState = tuple[Record | None, bytes | None, *Origin]
"""A record, its bytes as they came from Kafka, and its origin; None: it was erased."""


class DistrictChanges:
    """The messages of the district's topics. Use it from one thread only.

    shard: which records are kept; the others are treated like erased ones.

    The attributes `kinds` and `undecodable` have the kind of each topic, and how many messages did
    not decode.
    """

    def __init__(self, settings: Settings, shard: Shard = WHOLE) -> None:
        self._shard = shard
        self.kinds = {topics.topic(settings, kind): kind for kind in KINDS}
        self.undecodable = 0
        lookup = schema_lookup(settings)
        self._decoders = {kind: Decoder(kind, lookup) for kind in KINDS}

    def decode_stored(self, kind: str, value: bytes) -> Record:
        """Return a record of the view from its bytes. Raises `Never` if it does not decode."""
        return self._decoders[kind].decode(value)

    def decode_all_stored(self, kind: str, values: Sequence[bytes]) -> list[Record | None]:
        """Return records of the view from their bytes; None for one that does not decode."""
        # They were valid when they were stored. Those in a later version of the standard are not
        # written with our schema, so they are decoded one by one.
        records, failures = self._decoders[kind].decode_all(values, valid=True)
        found: list[Record | None] = list(records)
        for index, _ in failures:  # in order
            found.insert(index, None)
        return found

    def take(
        self, view: DistrictView, messages: Sequence[Message], *, only_opt_outs: bool
    ) -> list[Change]:
        """Store new states of records, within the transaction of the view; return what changed.

        only_opt_outs: compare only opt-outs with their earlier states. While the view is built,
                       there are no agreements, and nobody needs the other changes.
        """
        by_topic: dict[str, list[Message]] = defaultdict(list)
        for message in messages:
            by_topic[message.topic() or ""].append(message)
        if only_opt_outs:
            by_topic = self._not_compared(view, by_topic)
        rows, overtaken = self._decoded(by_topic)
        compared = [key for key in rows if key[0] == OPT_OUT or not only_opt_outs]
        before = view.get_all(compared)
        for key, row in overtaken:
            view.store([(*key, *row)])
        if not view.store((kind, id_, *row) for (kind, id_), row in rows.items()):
            after = view.get_all(compared)  # it may have later states from other partitions
            rows |= {key: (after.get(key), *rows[key][1:]) for key in compared}
        return [
            Change(*key, before.get(key), rows[key][0])
            for key in compared
            if before.get(key) != rows[key][0]
        ]

    def _not_compared(
        self, view: DistrictView, by_topic: Mapping[str, list[Message]]
    ) -> dict[str, list[Message]]:
        """Store the messages that are not opt-outs, and return those that are left.

        It works on columns, which is faster. Messages that this cannot do are left too.
        """
        left = {}
        for topic, some in by_topic.items():
            kind = self.kinds[topic]
            values = [message.value() for message in some]
            columns = self._decoders[kind].valid_columns(values) if kind != OPT_OUT else None
            if columns is None:
                left[topic] = some
                continue
            ids, parts = map(key_of, some), map(Message.partition, some)
            states = zip(
                map(Message.timestamp, some), columns.column("status").to_pylist(), strict=True
            )
            ranks = [2 * time + (status == "active") for (_, time), status in states]
            about = about_all(kind, columns)
            rows = zip(repeat(kind), ids, *about, values, parts, ranks, strict=False)
            self._store_rows(view, kind, rows)
        return left

    def _keeps_all(self, kind: str) -> bool:
        return self._shard.whole or KINDS[kind].student is None

    def _store_rows(self, view: DistrictView, kind: str, rows: Iterable[Row]) -> None:
        """Store rows that are valid, and erase those that this shard does not keep."""
        if self._keeps_all(kind):
            view.store_rows(rows)
            return
        kept: list[Row] = []
        others: list[Row] = []
        for row in rows:
            (kept if self._shard.keeps(row[2], kind) else others).append(row)
        view.store_rows(kept)
        view.erase((kind, id_, part) for _, id_, _, _, _, part, _ in others)

    def _decoded(
        self, by_topic: Mapping[str, Sequence[Message]]
    ) -> tuple[dict[Key, NewState], list[tuple[Key, NewState]]]:
        """Return the last state of each record, and earlier ones from other partitions, in order.

        An earlier one may be the later state, as Kafka does not order partitions.
        """
        rows: dict[Key, NewState] = {}
        overtaken: list[tuple[Key, NewState]] = []
        for topic, some in by_topic.items():
            kind = self.kinds[topic]
            keeps, keeps_all = self._shard.keeps, self._keeps_all(kind)
            pairs, undecodable = decoded(self._decoders[kind], some)
            for message, record in pairs:
                key, part = (kind, key_of(message)), message.partition() or 0
                if key in rows and rows[key][2] != part:
                    overtaken.append((key, rows[key]))
                rank = 2 * message.timestamp()[1]
                if record is None or not (keeps_all or keeps(student_of(kind, record), kind)):
                    rows[key] = None, None, part, rank
                    continue
                active = record["status"] == "active"
                rows[key] = record, message.value(), part, rank + active
            for message in undecodable:
                # Of the kinds that two shards read, the one with the students counts.
                self.undecodable += self._shard.students or KINDS[kind].student is None
                log.warning(
                    "a message does not decode; vendors keep the older state",
                    place=f"{message.topic()}/{message.partition()}/{message.offset()}",
                )
        return rows, overtaken
