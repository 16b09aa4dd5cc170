"""Records that are the same thing to a product, though they are two to the standard.

A district may have two enrollments of one student in one class (an old one that is closed, a new
one that stands). To Canvas they are one: taking away the old would take away the new. So before a
withdrawal is told, the student's own partition is asked whether a sibling still stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bus.consume.dependency_order import KindRecords
from bus.errors import Never
from bus.kafka import topics
from bus.kafka.reader import scan
from bus.registry.codec import Decoder
from bus.settings import Settings
from bus.standard import KINDS, Record


def outlived(
    settings: Settings,
    kind: str,
    fields: Sequence[str],
    lot: KindRecords,
    writer_schema: Callable[[int], dict[str, Any]],
    ends: Mapping[int, int],
) -> set[int]:
    """The indexes of the withdrawn records in a lot whose sibling still stands.

    fields: those in which siblings agree.
    ends:   for each partition the offset before which the batch's records lie; what comes later
            is told later.
    """
    withdrawn = [i for i, r in enumerate(lot.records) if r["status"] == "tobedeleted"]
    if not withdrawn:
        return set()
    owner = KINDS[kind].owner
    owners = {lot.records[i][owner].encode() for i in withdrawn}
    asked = {partition for i in withdrawn if (partition := lot.messages[i].partition()) is not None}
    decode = Decoder(kind, writer_schema).decode
    states: dict[str, Record] = {}
    stop = {partition: ends[partition] for partition in asked if partition in ends}
    for message in scan(settings, topics.topic(settings, kind), stop=stop):
        value = message.value()
        # Strings are plain UTF-8 in Avro, so most records need no decoding to be passed over.
        if value is None or (len(owners) <= 64 and not any(o in value for o in owners)):
            continue
        try:
            record = decode(value)
        except Never:
            continue
        if record[owner].encode() in owners:
            states[record["sourcedId"]] = record
    standing = {
        tuple(record[f] for f in fields)
        for record in states.values()
        if record["status"] == "active"
    }
    return {i for i in withdrawn if tuple(lot.records[i][f] for f in fields) in standing}
