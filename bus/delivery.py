"""The contract of a delivery: the code that hands translated rows to a product.

Products share deliveries (`consumers/delivery/`), such as a folder of files or HTTP requests. There
are three protocols:

* `Delivery`: every delivery implements it.
* `Redelivery`: adds `redeliver`, so that a replay can deliver while the live consumer runs.
* `Unlocked`: marks a delivery that shares no lock with the live consumer.

An instance is one process of a product's consumer, not an object of a class. Several instances
share the partitions, and each instance opens its own delivery. The consumer makes these calls in
this order:

    open → resume(cluster, partitions) whenever partitions are assigned → deliver(batch) …
         → settle() … → close()

All calls, also those of `release`, come from the thread that opened the delivery, one after the
other. A call of `release` may come between any two calls after `resume`, also between two attempts
to deliver one batch.

A delivery reports problems in three ways:

* Raise `RetryLater` (`bus.errors`) when a later attempt may succeed. The consumer pauses its
  partitions and waits with backoff and jitter, and at least as long as `after` says. Then it makes
  the same call again. `resume` is different; see there.
* Return a `Refusal` (in this module) from `deliver` for a message that the product will never
  accept. The message becomes a dead letter. Do not raise `Never`.
* Raise `Stop` (`bus.errors`) when a person must act first, for example when credentials are refused
  or the endpoint does not exist. The program ends.

Order: `parts` follow the order of the product's tables, which is the order in which the product
must get them. Within a part, rows from one partition follow the order of their events; there is no
order between partitions. All events of one student are in one partition, and a delivery must keep
their order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, runtime_checkable

from bus.errors import Stop
from bus.standard.fault_codes import FaultCode

if TYPE_CHECKING:
    from confluent_kafka import Message


Row = dict[str, Any]
Translate = Callable[[Any], Any]
"""A function from one record (a TypedDict of `bus.standard.records`) to one row or None. For a
delivery of whole sets of files, the function returns a list of rows."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a product: a file, or one type of request.

    name:    the product's name for the table, such as "users.csv".
    columns: the columns in their order; empty if the rows are JSON documents.
    rows:    for each kind that the table takes, the function that turns a record into a row.
    key:     the columns that identify a row. A later row with equal values in these columns
             replaces the earlier one at the product.
    gone:    for some columns, the values that mark a row as removed, such as {"status": ("deleted",
             "suspended")}. A row with any of these values counts as removed. If the product's own
             export marks removed rows with other values, include those too. Leave it empty if a
             withdrawn record has no row.
    """

    name: str
    columns: tuple[str, ...]
    rows: Mapping[str, Translate]
    key: tuple[str, ...] = ()
    gone: Mapping[str, Collection[str]] = field(default_factory=dict)

    def is_gone(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row of a translation or an export is marked as removed."""
        return any(str(row.get(column)) in values for column, values in self.gone.items())


class Position(NamedTuple):
    """A topic and a partition: the key of a mapping of offsets."""

    topic: str
    partition: int


@dataclass(slots=True)
class Part:
    """Rows of one table, made from records of one kind.

    The lists `rows`, `records` and `messages` have the same length. `messages[i]` is the Kafka
    message of `rows[i]`; read its CloudEvents attributes with `bus.attributes`. `records[i]` is the
    decoded record.
    """

    table: Table
    kind: str
    rows: list[Row]
    records: list[Any]
    messages: list[Message]

    def only(self, kept: Sequence[int]) -> Part:
        """Return a part with only the rows at these indexes, which must be in ascending order."""
        if len(kept) == len(self.rows):
            return self
        return Part(
            self.table,
            self.kind,
            [self.rows[at] for at in kept],
            [self.records[at] for at in kept],
            [self.messages[at] for at in kept],
        )


@dataclass(slots=True)
class Batch:
    """What one call of `deliver` receives.

    parts:   the rows, in the order in which the product must get them.
    offsets: for each partition, the offset before which nothing remains to be delivered after this
             batch. This is not always the offset after the newest row: while record 5 waits for a
             record that it refers to, the offset stays 5, even if record 6 is in the batch. A
             delivery that keeps a journal writes these offsets together with the data. Empty when
             the batch delivers records again because their unique value has become free
             (`bus.consume.unique_values`). Deliver such records, although the stored offsets are
             already beyond them.
    """

    parts: list[Part]
    offsets: Mapping[Position, int]

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that the product will never accept.

    message: the Kafka message.
    reason:  the text that goes into the dead letter unchanged.
    code:    the reason as a code that programs can read: one of `bus.standard.fault_codes`, or a
             code of the product.
    """

    message: Message
    reason: str
    code: str = FaultCode.REFUSED


class AgreementOver(Stop):
    """The agreement has ended, was revoked or was changed.

    The delivery must delete what it delivered under the agreement and can still reach.
    """


class Permission(Protocol):
    """Says what may be delivered under an agreement. Any thread may call it at any time.

    A delivery that sends single requests asks before each of them. The consumer asks before each
    call of `deliver` and `settle`.
    """

    def check(self) -> None:
        """Return if delivering is allowed now.

        Raises `AgreementOver` if the agreement has ended, was revoked or was changed, and `Stop` if
        it is not active for another reason. Raises `RetryLater` if its state is unknown.
        """
        ...

    def complete(self) -> bool:
        """Return whether the topics hold all that the agreement shares.

        The topics are incomplete while they are written for the first time, and again after a
        change. A delivery that writes complete sets must not write half of the records, so the
        consumer calls `settle` only when this returns True.
        """
        ...

    def outdated(self, message: Message) -> bool:
        """Return whether a message must no longer be delivered.

        That is so if its record was deleted later, or if the message was written before the
        agreement was changed. The records that the vendor may still receive were written again.
        """
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What a delivery may do under an agreement with a vendor.

    The validators of a product's settings find this object in pydantic's validation context, as
    "terms".

    agreement:  the agreement's name in topics.
    edition:    what the agreement shares, as one text: it changes with the agreement and the ids.
    fields:     for each kind, the agreed fields in the order of the schema.
    permission: says whether the agreement still holds.
    networks:   networks in which no endpoint of the vendor may be, in addition to those that are
                not public (`bus.web.public_address`).
    loopback:   whether the endpoint may be on this machine, as in tests.
    name:       the agreement's own name, for messages. A renewal has another name in topics.
    """

    agreement: str
    edition: str
    fields: Mapping[str, tuple[str, ...]]
    permission: Permission
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    loopback: bool = False
    name: str = ""


class Overtaken(Exception):  # noqa: N818
    """The live consumer has delivered events that the replay has not read yet.

    The replay reads them, leaves out records whose state is now older, and repeats the call.
    """


class Delivery(Protocol):
    """What every delivery implements; the module's docstring says which errors it raises."""

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Take over these partitions and return the offsets that the delivery itself has stored.

        A delivery that keeps a journal beside its data answers from the journal. The consumer then
        continues at the returned offsets, so records that were delivered right before a crash are
        not delivered again. If a partition is missing in the answer, the consumer continues at the
        group's committed offset.

        The consumer calls this whenever partitions are assigned. If another instance gets some of
        a batch's partitions while the batch is delivered, the consumer gives up the batch. It then
        calls this for all partitions that it still has, so one partition may come several times.
        The consumer ignores a returned offset that is not in the topic any more.

        cluster: Kafka's cluster id. Store it beside the offsets. If it differs from the stored one,
                 the bus was rebuilt but the folder was not: the offsets mean nothing, and the
                 delivery returns an empty mapping.

        In the live consumer, `RetryLater` and `Stop` both end the program, and the next start calls
        `resume` again. A replay into another place (`--into`) waits after `RetryLater` and calls
        `resume` again itself.
        """
        ...

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Hand over all rows of the batch durably.

        When this returns, the consumer commits the offsets to Kafka. So commit or flush the
        product's own storage before you return.

        The same batch, or one that overlaps it, may come again after a crash. Delivering twice must
        have the same result as delivering once. After `RetryLater`, the same batch comes again to
        the same object, which may skip what the product has already accepted.

        Returns the refusals: messages that the product will never accept. All other messages count
        as delivered. Raises `RetryLater` and `Stop`.
        """
        ...

    def settle(self) -> None:
        """Write what was deferred, such as a whole set of files.

        The consumer calls this when it has caught up, and before `close`. While no events arrive,
        it also calls this about once a minute, even if nothing was deferred: what the delivery
        writes may depend on the date. Raises `RetryLater` and `Stop`.
        """
        ...

    def release(self, partitions: Iterable[Position]) -> None:
        """Accept that these partitions no longer belong to this instance.

        The consumer calls this once each time that Kafka takes partitions away from this instance.
        No data is lost: the instance that gets the partitions delivers what was not yet delivered.
        If Kafka reports the change in time, the call comes before the other instance has the
        partitions. A later `deliver` may still contain records of these partitions. A delivery to a
        place that several instances share must leave their rows out (docs/own-product.md, "Several
        instances"); any other delivery may deliver them. `RetryLater` and `Stop` are only logged.
        """
        ...

    def close(self) -> None:
        """Release all resources and deliver nothing; called once, also after an error."""
        ...


@runtime_checkable
class Redelivery(Delivery, Protocol):
    """A delivery that supports a replay (`bus.replay`) while the live consumer runs.

    A replay is a separate process. It opens its own delivery to the same place.
    """

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]:
        """Deliver records that were delivered before, without moving any offset.

        The replay calls this for each of its batches, on its single thread, while live instances
        deliver on theirs. The same batch may come again after a crash and must have the same
        result.

        replay: the replay's id; it is the same after a crash.
        seen:   the offsets up to which the replay has read the topics, to find newer states. It
                has not delivered up to there. A lock must keep this call and the live instances'
                `deliver` apart. Under that lock, first check that
                the live instances have delivered nothing beyond `seen`. If they have, raise
                `Overtaken` and deliver nothing; the replay looks again and repeats the call. A
                delivery without such a lock is `Unlocked`.

        Returns refusals, and raises `RetryLater` and `Stop`, as `deliver` does.
        """
        ...


@runtime_checkable
class Unlocked(Protocol):
    """A delivery that shares no lock with the live consumer, such as Canvas's API.

    So it cannot check, at the moment of delivery, what the live consumer has delivered. It never
    raises `Overtaken`. Instead, after each batch the replay looks for newer states of the records
    that it delivered, and delivers those with further calls of `redeliver`.
    """

    @property
    def unlocked(self) -> bool:
        """Always True. It is a property so that a wrapper can pass it on."""
        ...


def as_redelivery(delivery: Delivery) -> Redelivery | None:
    """Return the delivery if it has `redeliver`, else None.

    This also finds a method that a wrapper passes on with `__getattr__`. Since Python 3.12,
    `isinstance` does not.
    """
    able = callable(getattr(delivery, "redeliver", None))
    return cast(Redelivery, delivery) if able else None


def is_unlocked(delivery: Delivery) -> bool:
    """Return whether the delivery says that it is `Unlocked`, directly or through a wrapper."""
    return bool(getattr(delivery, "unlocked", False))
