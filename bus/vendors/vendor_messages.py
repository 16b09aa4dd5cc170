"""Makes the messages to one vendor: topic, partition, key, value and type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain

from bus.kafka import topics
from bus.registry.codec import Encoder
from bus.settings import Settings
from bus.vendors.agreement import Basis
from bus.vendors.applied import Applied
from bus.vendors.outbox import DAY_SECONDS, event_type
from bus.vendors.outbox_rows import OutgoingBatch
from bus.vendors.projected import ProjectedBatch
from bus.vendors.projection import WITHDRAWN
from bus.vendors.pseudonyms import Pseudonyms
from bus.vendors.scope import Scope
from bus.vendors.vendor_schema import lookup, vendor_schema, vendor_topic

PLACES = 100_000
"""How many owners' partitions are remembered."""


class VendorMessages:
    """The messages under one agreement. For one thread.

    ids:        the pseudonyms, if the vendor gets any.
    partitions: how many partitions the vendor's topics have.

    The attributes are `topics` (by kind), `vendor_id` (returns the vendor's id for a real one), and
    `prepare` (called with real ids before `vendor_id` is called with each; None: not needed).

    Raises `Stop` if a schema is not registered.
    """

    def __init__(
        self,
        settings: Settings,
        applied: Applied,
        scope: Scope,
        ids: Pseudonyms,
        partitions: int,
    ) -> None:
        self.vendor_id: Callable[[str], str] = ids.lookup if scope.pseudonymous else str
        self.prepare = ids.prepare if scope.pseudonymous else None
        self._settings = settings
        self._name = applied.name
        self._ids_name = name = applied.ids_name
        self._by_day = applied.agreement.basis is Basis.STUDIES
        self._partitions = partitions
        self._places = _Places(self.vendor_id, partitions)
        self._encoders = {
            kind: Encoder(kind, id_, vendor_schema(scope, kind, name))
            for kind, id_ in lookup(settings, name, scope).items()
        }
        self.topics = {kind: vendor_topic(settings, name, kind) for kind in scope.kinds}

    def now(self) -> int:
        """Return the time of an event in seconds since 1970, as exact as this vendor may see it.

        Exact times are equal in the topics of two vendors, so the vendors could use them to join
        their data. For studies, it is the beginning of the day.
        """
        now = int(datetime.now(UTC).timestamp())
        return now - now % DAY_SECONDS if self._by_day else now

    def deletions(self, batch: ProjectedBatch, ids: Pseudonyms | None, at: int) -> OutgoingBatch:
        """Return the deletions of records that were written under an earlier agreement.

        ids: their ids; None: real ones.
        at:  the time of the events (`now`).
        """
        vendor_id: Callable[[str], str] = str
        if ids is not None:
            ids.prepare(chain(batch.ids, batch.owners))
            vendor_id = ids.lookup
        places = _Places(vendor_id, self._partitions)
        return OutgoingBatch(
            self._name,
            vendor_topic(self._settings, self._ids_name, batch.kind),
            event_type(batch.kind, "deleted"),
            at,
            list(map(places.__getitem__, batch.owners)),
            list(map(vendor_id, batch.ids)),
            [None] * len(batch.ids),
        )

    def states(self, sent: ProjectedBatch, at: int) -> Iterator[OutgoingBatch]:
        """Yield the messages of a batch, those of each type together.

        at: the time of the events (`now`).
        """
        kind, columns = sent.kind, sent.columns
        values: Sequence[bytes | None] = [None] * len(sent.ids)
        withdrawn: list[bool] = []
        if columns is not None:
            values = self._encoders[kind].encode_columns(columns)
            if WITHDRAWN in columns["status"]:
                withdrawn = [status == WITHDRAWN for status in columns["status"]]
        whole = OutgoingBatch(
            self._name,
            self.topics[kind],
            event_type(kind, "deleted" if columns is None else "updated"),
            at,
            list(map(self._places.__getitem__, sent.owners)),
            list(map(self.vendor_id, sent.ids)),
            list(values),
        )
        if not withdrawn:
            yield whole
            return
        if not all(withdrawn):
            yield whole.part(at for at, is_ in enumerate(withdrawn) if not is_)
        some = whole.part(at for at, is_ in enumerate(withdrawn) if is_)
        some.type = event_type(kind, "withdrawn")
        yield some


class _Places(dict[str, int]):
    """The partition of the records of an owner, by the owner's real id.

    vendor_id:  the vendor's id for a real one.
    partitions: how many there are.
    """

    def __init__(self, vendor_id: Callable[[str], str], partitions: int) -> None:
        self._vendor_id = vendor_id
        self._partitions = partitions

    def __missing__(self, owner: str) -> int:
        if len(self) >= PLACES:
            self.clear()
        found = self[owner] = topics.partition_for(self._vendor_id(owner), self._partitions)
        return found
