"""The contract of a delivery: how translated rows reach a product.

A delivery is shared among products (`consumers/delivery/`): a folder of files, HTTP. The loop calls
it from one thread, never two calls at once, in this order:

    open → resume(cluster, partitions) whenever partitions are assigned → deliver(batch) …
         → settle() … → close()

* `resume` answers with the offsets that this delivery's own state stands for (a folder that keeps
  a journal), so that what was delivered right before a crash is not delivered again. No answer for
  a partition means: go on from the group's committed offset. `cluster` is Kafka's cluster id:
  offsets of another cluster mean nothing, so a delivery keeps it beside them and answers as one
  that has no state when it differs (the bus was made anew, the folder was not).
* `deliver` has handed over, durably, all that is in the batch when it returns; only then does the
  loop commit. The same batch, or one that overlaps it, may come again after a crash: delivering
  twice must leave the product as delivering once does.
  - returns the refusals: messages that the product will never take, each with its reason; they go
    to the dead letters, the rest counts as delivered;
  - raises `RetryLater` when the product cannot take it now: the loop waits (backoff and jitter,
    `after` if the product said so) with its partitions paused and calls `deliver` again with the
    same batch. What had been taken already may be left out by the delivery itself, or sent again;
  - raises `Stop` when a person must act first (credentials refused, endpoint gone).
* `redeliver` is for replays (`bus.replay`) into the place to which the live consumer delivers, at
  the same time: `batch` holds records that have been delivered before, and no offset moves. Under
  whatever keeps it and the live copies' `deliver` apart it first makes sure that what they have
  delivered lies before `seen`, up to where the topics were looked through for newer states; else
  it raises `Overtaken`, delivers nothing, and is called again. One that cannot know what live
  copies have delivered says `unlocked = True`, and is told of what has changed meanwhile. The same
  batch may come again after a crash; what that then leaves is the same.
* `settle` is called when the loop is caught up for the moment, about once a minute while nothing
  comes, and before close: write what has been put off, such as a whole set of files. It may raise
  `RetryLater` or `Stop` as well.
* `release` says which partitions are this copy's no longer, before another copy has them; what was
  not delivered of them is delivered by that one.
* `close` releases what was opened; it is called once, also after an error, and delivers nothing.

Order: within a batch, `parts` come in the product's table order and rows within a part in the
order in which the topics have them; rows of one student must not overtake each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

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
    """

    name: str
    columns: tuple[str, ...]
    rows: Mapping[str, Translate]
    key: tuple[str, ...] = ()


class Position(NamedTuple):
    """A topic's partition, as the key of offsets."""

    topic: str
    partition: int


@dataclass(slots=True)
class Part:
    """Rows of one table made from records of one kind; the four lists run side by side.

    messages[i] is the Kafka message of rows[i]: its headers hold the CloudEvents attributes
    (read them with `bus.kafka.cloudevents.attributes`). records[i] is the decoded record.
    """

    table: Table
    kind: str
    rows: list[Row]
    records: list[Any]
    messages: list[Message]


@dataclass(slots=True)
class Batch:
    """What one call of `deliver` gets.

    parts:   in the order in which the product must have them.
    offsets: for each partition the offset after the last record that this batch (and all before
             it) accounts for; a delivery that keeps a journal writes them with the data.
    """

    parts: list[Part]
    offsets: Mapping[Position, int]

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that the product will never take; `reason` goes to the dead letters as it is."""

    message: Message
    reason: str


class Overtaken(Exception):  # noqa: N818
    """The live consumer has delivered more than was looked through for newer states."""


class Delivery(Protocol):
    """See the module's docstring for every duty."""

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]: ...

    def deliver(self, batch: Batch) -> Sequence[Refusal]: ...

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]: ...

    def settle(self) -> None: ...

    def release(self, partitions: Iterable[Position]) -> None: ...

    def close(self) -> None: ...
