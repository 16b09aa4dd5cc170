"""The contract of a delivery: the code that hands translated rows to a product.

Products share deliveries (`consumers/delivery/`), such as a folder of files or HTTP requests. There
are three protocols:

* `Delivery`: every delivery implements it.
* `Redelivery`: adds `redeliver`, so that a replay can deliver while the live consumer runs.
* `Unlocked`: marks a delivery that cannot know what the live consumer has delivered.

An instance is one process of a product's consumer. Several instances share the partitions, and each
instance opens its own delivery. The consumer makes these calls in this order:

    open → resume(cluster, partitions) whenever partitions are assigned → deliver(batch) …
         → settle() … → close()

All calls come from the thread that opened the delivery, and never two at the same time. A call of
`release` may come at any time after `resume`, also between two attempts to deliver one batch.

A delivery reports problems with the errors of `bus.errors`:

* Later: raise `RetryLater`. The consumer pauses its partitions and waits with backoff and jitter,
  or as long as `after` says. Then it makes the same call again.
* Never: return a `Refusal` with the message and the reason. The message becomes a dead letter.
* Stop: raise `Stop` when a person must act first, for example when credentials are refused or the
  endpoint does not exist. The program ends.

Order: within a batch, `parts` follow the order of the product's tables. Rows within a part follow
the order of the events in the topics. Rows of one student must not overtake each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, runtime_checkable

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
    key:     the columns that identify a row. Two records whose rows have equal values in these
             columns are the same thing to the product.
    gone:    for some columns, the values that mark a row as removed, such as {"status": ("deleted",
             "suspended")}. Include the values that the product's own export uses. A row with any of
             these values counts as removed. Leave it empty if a withdrawn record has no row.
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
    offsets: for each partition, the offset after the last record that this batch and all earlier
             batches cover. A delivery that keeps a journal writes these offsets together with the
             data. Empty when the batch delivers records again in another form
             (`bus.consume.unique_values`). Deliver such records although they lie before offsets
             that were delivered.
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
    code:    the reason for a program: one of `bus.standard.fault_codes`, or a code of the product.
    """

    message: Message
    reason: str
    code: str = FaultCode.REFUSED


class Overtaken(Exception):  # noqa: N818
    """The live consumer has delivered beyond the offsets up to which the replay has read."""


class Delivery(Protocol):
    """What every delivery implements; the module's docstring says which errors it raises."""

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Take over these partitions and return the offsets that the delivery itself has stored.

        A delivery that keeps a journal beside its data answers from the journal. The consumer then
        continues at the returned offsets, so records that were delivered right before a crash are
        not delivered again. If a partition is missing in the answer, the consumer continues at the
        group's committed offset.

        The consumer calls this whenever partitions are assigned. It also calls this for all
        partitions after it gives up a batch because another instance now has some of the batch's
        partitions. So the same partition may come again. The consumer may also ignore the answer.

        cluster: Kafka's cluster id. Store it beside the offsets. If it differs from the stored one,
                 the bus was rebuilt but the folder was not: the offsets mean nothing, and the
                 delivery answers as one without state.

        `RetryLater` and `Stop` both end the program. The next start calls `resume` again.
        """
        ...

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Hand over all rows of the batch durably; the consumer commits when this returns.

        The same batch, or one that overlaps it, may come again after a crash. Delivering twice must
        have the same result as delivering once. After `RetryLater`, the same batch comes again to
        the same object, which may skip what the product has already accepted.

        Returns the refusals: messages that the product will never accept. All other messages count
        as delivered. Raises `RetryLater` and `Stop`.
        """
        ...

    def settle(self) -> None:
        """Write what was deferred, such as a whole set of files.

        The consumer calls this when it has caught up, about once a minute while no events arrive,
        and before `close`. Raises `RetryLater` and `Stop`.
        """
        ...

    def release(self, partitions: Iterable[Position]) -> None:
        """Accept that these partitions no longer belong to this instance.

        The consumer calls this once for each loss. If Kafka reports the loss in time, the call
        comes before another instance has the partitions. That instance delivers what was not yet
        delivered. A later `deliver` may still contain records of these partitions. `RetryLater` and
        `Stop` are only logged.
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
        seen:   the offsets up to which the replay has looked for newer states. A lock must keep
                this call and the live instances' `deliver` apart. Under that lock, first check that
                the live instances have delivered nothing beyond `seen`. If they have, raise
                `Overtaken` and deliver nothing; the replay looks again and repeats the call. A
                delivery without such a lock is `Unlocked`.

        Returns refusals, and raises `RetryLater` and `Stop`, as `deliver` does.
        """
        ...


@runtime_checkable
class Unlocked(Protocol):
    """A delivery that cannot know what the live consumer has delivered, such as Canvas's API.

    It never raises `Overtaken`. Instead, after each batch the replay looks for newer states of the
    records that it delivered, and delivers those with further calls of `redeliver`.
    """

    @property
    def unlocked(self) -> bool:
        """True, and it never changes; the replay's thread may read it often."""
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
