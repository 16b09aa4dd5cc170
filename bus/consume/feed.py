"""What one consumer reads: the district's topics, or the topics of an agreement with a vendor.

The topics of an agreement differ from those of the district:

* A message lacks the fields that are not shared, even required references. The consumer reads it as
  a record with all fields of its kind, and None in the fields that are not shared. All references
  are optional.
* A record may lack the field that names its student, so the consumer keeps the order of events for
  each record, and not for each student.
* A message without a value is a deletion. The consumer reads it as a record with the status
  `tobedeleted` and the id. All other fields are None.
* The consumer asks before each delivery whether it may still deliver (`bus.delivery.Permission`).

This module does not depend on agreements. `bus.vendors.ways` makes the feeds of agreements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bus.delivery import Batch, Delivery, Permission, Refusal
from bus.kafka import topics as kafka_topics
from bus.kafka.client import group_settings
from bus.product import Product
from bus.settings import Settings
from bus.standard import KINDS, Record

References = Mapping[str, tuple[str, ...]]
"""The fields that hold ids of other records, with the kinds that they may name."""


@dataclass(frozen=True, slots=True)
class Feed:
    """The topics and the names of one consumer.

    name:       the last part of the consumer's group and of the topic of its dead letters, and the
                consumer's label in metrics. For the district's own products, the product's name.
    topics:     for each topic that the consumer reads, the kind of its records.
    permission: says whether records may be delivered under an agreement; None for the district's
                own products. The next three fields are only for an agreement.
    schemas:    for each kind, the schema into which records are resolved.
    references: for each kind, the kinds to which its records may refer.
    ended:      the kinds that the agreement no longer shares. Of these, the consumer delivers only
                deletions.
    """

    name: str
    topics: Mapping[str, str]
    permission: Permission | None = None
    schemas: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    references: Mapping[str, References] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()

    @property
    def under_agreement(self) -> bool:
        """Whether the topics are those of an agreement."""
        return self.permission is not None

    def folder(self, settings: Settings) -> Path:
        """Return the folder in which the consumer keeps its indexes."""
        return settings.home / "standing" / str(group_settings(settings, self.name)["group.id"])

    def owner(self, kind: str) -> str:
        """Return the field whose value keeps records in order."""
        return "sourcedId" if self.under_agreement else KINDS[kind].owner

    def targets(self, kind: str) -> References:
        """Return what records of a kind may refer to."""
        return self.references[kind] if self.under_agreement else KINDS[kind].references

    def required(self, kind: str, reference: str) -> bool:
        """Return whether a record cannot be delivered without the record that this field names."""
        return not self.under_agreement and reference in KINDS[kind].required


def district_feed(settings: Settings, product: Product) -> Feed:
    """Return the feed of one of the district's own products."""
    return Feed(product.name, {kafka_topics.topic(settings, kind): kind for kind in product.kinds})


def whole(kind: str, record: Mapping[str, Any]) -> Record:
    """Return a record with all fields of its kind. Fields that it lacks are None."""
    return {name: record.get(name) for name in KINDS[kind].fields}


def deletion(kind: str, id_: str) -> Record:
    """Return a deletion as a record: with its id and the status `tobedeleted`."""
    return whole(kind, {"sourcedId": id_, "status": "tobedeleted"})


def hand_over(delivery: Delivery, batch: Batch, permission: Permission | None) -> Sequence[Refusal]:
    """Hand a batch to a delivery once. Return what it refuses.

    permission: whether the delivery is still allowed; None: it needs no permission. The rows of
                messages that must no longer be delivered are removed from the batch.

    Raises the errors of `Permission.check` and of the delivery.
    """
    if permission is not None:
        permission.check()
        _leave_out_outdated(batch, permission)
    return delivery.deliver(batch)


def _leave_out_outdated(batch: Batch, permission: Permission) -> None:
    """Remove the rows of messages that must no longer be delivered from a batch.

    For example, the student has opted out since. The deletion itself stays in the batch, or comes
    later.
    """
    kept = []
    for part in batch.parts:
        at = [i for i, message in enumerate(part.messages) if not permission.outdated(message)]
        if at:
            kept.append(part.only(at))
    batch.parts = kept
