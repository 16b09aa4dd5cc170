"""The contract of a delivery: how translated rows reach a product.

Products share deliveries (`consumers/delivery/`): a folder of files, HTTP. There are three
protocols:

* `Delivery` is what each delivery has.
* `Redelivery` adds `redeliver`: a replay may deliver beside the live consumer.
* `Unlocked` marks a delivery that cannot know what the live instances have delivered.

An instance is one process of a product's consumer. Several instances share the partitions, and each
opens a delivery of its own. The loop calls a delivery in this order:

    open → resume(cluster, partitions) whenever partitions are assigned → deliver(batch) …
         → settle() … → close()

All calls come from the thread that opened the delivery, one after another, never two at once.
`release` may come at any time after `resume`, also between two tries of one batch.

A delivery says what goes wrong with the terms of `bus.errors`:

* later: raise `RetryLater`. The loop pauses its partitions, waits (backoff and jitter, and `after`
  if the product names a time) and makes the same call again.
* never: return a `Refusal` of the message, with the reason. It goes to the dead letters as it is.
* stop: raise `Stop` when a person must act first (credentials refused, endpoint gone). The program
  ends.

Order: within a batch, `parts` come in the product's table order and rows within a part in the
order in which the topics have them; rows of one student must not overtake each other.
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
"""From one record (a TypedDict of `bus.standard.records`) to one row or None; to a list of rows
where the delivery takes whole sets."""


@dataclass(frozen=True, slots=True)
class Table:
    """One file, or one kind of request, of a product.

    name:    the product's own name for it ("users.csv").
    columns: its columns in their order; empty where the rows are JSON documents.
    rows:    for each kind of record that it takes, the function from a record to a row.
    key:     the columns that make a row one thing to the product. Two records whose rows agree in
             them are the same thing to it.
    gone:    for some columns the values that say that the row's thing is no more:
             {"status": ("deleted", "suspended")}. Give the values of the product's own export too.
             A row with any of them is gone. Leave it empty where a withdrawn record has no row.
    """

    name: str
    columns: tuple[str, ...]
    rows: Mapping[str, Translate]
    key: tuple[str, ...] = ()
    gone: Mapping[str, Collection[str]] = field(default_factory=dict)

    def is_gone(self, row: Mapping[str, Any]) -> bool:
        """Whether a row, of a translation or of an export, says that its thing is no more."""
        return any(str(row.get(column)) in values for column, values in self.gone.items())


class Position(NamedTuple):
    """A topic's partition, as the key of offsets."""

    topic: str
    partition: int


@dataclass(slots=True)
class Part:
    """Rows of one table made from records of one kind; the four lists run side by side.

    messages[i] is the Kafka message of rows[i]: its headers hold the CloudEvents attributes
    (read them with `bus.attributes`). records[i] is the decoded record.
    """

    table: Table
    kind: str
    rows: list[Row]
    records: list[Any]
    messages: list[Message]

    def only(self, kept: Sequence[int]) -> Part:
        """Return this part with only the rows at these indexes, which are in ascending order."""
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
    """What one call of `deliver` gets.

    parts:   in the order in which the product must have them.
    offsets: for each partition the offset after the last record that this batch (and all before
             it) accounts for; a delivery that keeps a journal writes them with the data. Empty
             where records are told again in another form (`bus.consume.unique_values`): they are to
             be delivered though they lie before the offsets that were delivered.
    """

    parts: list[Part]
    offsets: Mapping[Position, int]

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that the product will never take; `reason` goes to the dead letters as it is.

    code: what it is refused for, for a program: one of `bus.standard.fault_codes`, or one of the
          product's own.
    """

    message: Message
    reason: str
    code: str = FaultCode.REFUSED


class Overtaken(Exception):  # noqa: N818
    """The live consumer has delivered more than was looked through for newer states."""


class Delivery(Protocol):
    """What each delivery has. The module's docstring says how it raises later, never and stop."""

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """The offsets that this delivery's own state stands for, such as a folder's journal.

        Called whenever partitions are assigned, and for all partitions when the loop gives up a
        batch, as another instance has some of its partitions now. From now on the partitions are
        this instance's. The loop goes on at the answer, so what was delivered right before a crash
        does not come again. No answer for a partition means: go on from the group's committed
        offset. The same partition may come again; the loop may also ignore the answer.

        cluster: Kafka's cluster id. A delivery keeps it beside its offsets. When it differs, the
                 offsets mean nothing and the delivery answers as one without state (somebody made
                 the bus anew, but not the folder).

        Either of `RetryLater` and `Stop` ends the program; the next start asks again.
        """
        ...

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Hand over all that is in the batch, durably: the loop commits when this returns.

        Called for each batch. The same batch, or one that overlaps it, may come again after a
        crash: delivering twice must leave the product as delivering once does. After `RetryLater`
        the same batch comes again to the same object; it may leave out what the product has taken.

        Returns the refusals: messages that the product will never take. The rest counts as
        delivered. Raises `RetryLater` and `Stop`.
        """
        ...

    def settle(self) -> None:
        """Write what was put off, such as a whole set of files.

        Called when the loop is caught up for the moment, about once a minute while nothing comes,
        and before `close`. Raises `RetryLater` and `Stop`.
        """
        ...

    def release(self, partitions: Iterable[Position]) -> None:
        """These partitions are no longer this instance's.

        Called once for each loss, before another instance has them, if Kafka tells in time. That
        instance delivers what was not delivered of them. What this one still holds of them may
        come in a later `deliver`. The loop only logs `RetryLater` and `Stop`.
        """
        ...

    def close(self) -> None:
        """Release what was opened, and deliver nothing. Called once, also after an error."""
        ...


@runtime_checkable
class Redelivery(Delivery, Protocol):
    """A delivery that can bear a replay (`bus.replay`) beside the live consumer.

    A replay is a process of its own, with a delivery of its own into the same place.
    """

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]:
        """Deliver records that were delivered before; no offset moves.

        Called for each batch of a replay, on the replay's one thread, while live instances deliver
        on theirs. The same batch may come again after a crash; what that leaves is the same.

        replay: the replay's id, the same after a crash.
        seen:   up to where the replay has looked for newer states. Whatever lock keeps this call
                and the live instances' `deliver` apart, under it this call first makes sure that
                what they have delivered lies before `seen`. If it does not, raise `Overtaken` and
                deliver nothing: the replay looks again and calls again. A delivery without such a
                lock is `Unlocked`.

        Returns refusals and raises `RetryLater` and `Stop` as `deliver` does.
        """
        ...


@runtime_checkable
class Unlocked(Protocol):
    """A delivery that cannot know what the live instances have delivered (Canvas's API).

    It never raises `Overtaken`. Instead the replay tells it, by further calls of `redeliver`, each
    newer state that it finds after it delivered an older one.
    """

    @property
    def unlocked(self) -> bool:
        """True, and it stays so. Read on the thread of the replay, as often as it likes."""
        ...


def as_redelivery(delivery: Delivery) -> Redelivery | None:
    """The delivery if it has `redeliver`, else None.

    This also finds a method that a wrapper passes on by `__getattr__`; from Python 3.12 on,
    isinstance does not.
    """
    able = callable(getattr(delivery, "redeliver", None))
    return cast(Redelivery, delivery) if able else None


def is_unlocked(delivery: Delivery) -> bool:
    """Whether the delivery is `Unlocked` and says so; wrappers count, as in `as_redelivery`."""
    return bool(getattr(delivery, "unlocked", False))
