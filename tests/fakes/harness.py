"""The bus on the fakes: the only place that names the bus's modules and reaches into them.

bus = Bus(monkeypatch)
bus.publish("student", "s1")
lunch = FakeProduct()
bus.worker(lunch).run(until_caught_up=True)
assert lunch.ids == ["s1"]
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import pytest
from confluent_kafka import Message
from pydantic import BaseModel

from bus.consume import deadletters
from bus.consume.assignment import Assignment
from bus.consume.backlog import Backlog
from bus.consume.deadletters import DeadLetter
from bus.consume.delivered_index import DeliveredIndex
from bus.consume.feed import Feed
from bus.consume.group_progress import GroupProgress
from bus.consume.worker import Worker
from bus.consume.worker_state import WorkerOutcome
from bus.contract import a_record
from bus.delivery import Batch, Overtaken, Part, Position, Refusal, Table
from bus.errors import BusError, Never, RetryLater, Stop
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.kafka.cloudevents import header
from bus.kafka.offsets import Offsets
from bus.observe.metrics import ConsumerMetrics
from bus.product import Product
from bus.registry.codec import Encoder
from bus.replay import replay_log
from bus.replay.engine import ReplayEngine
from bus.replay.latest import LatestStates
from bus.replay.replay_log import ReplayRequest, ReplayState, keyed
from bus.replay.selection import Selection
from bus.replay.window import Window, resolve
from bus.settings import ConsumerSettings, KafkaSettings, Settings
from bus.standard import KINDS
from tests.fakes.admin import FakeAdmin
from tests.fakes.broker import Broker, Place
from tests.fakes.clock import Clock, Stuck
from tests.fakes.consumer import FakeConsumer
from tests.fakes.producer import FakeProducer
from tests.fakes.product import UNTRANSLATABLE, FakeProduct, Killed

__all__ = [
    "PRODUCT",
    "Assignment",
    "Batch",
    "Broker",
    "Bus",
    "BusError",
    "Clock",
    "DeadLetter",
    "DeliveredIndex",
    "FakeConsumer",
    "FakeProduct",
    "Group",
    "GroupProgress",
    "Instance",
    "Killed",
    "LatestStates",
    "Never",
    "Offsets",
    "Overtaken",
    "Part",
    "Position",
    "Refusal",
    "ReplayState",
    "RetryLater",
    "Stop",
    "Stuck",
    "Window",
    "WorkerOutcome",
    "fate",
]

CONSUMERS = ("bus.kafka.offsets.Consumer", "bus.kafka.reader.Consumer")
PRODUCERS = ("bus.kafka.sender.Producer", "bus.replay.replay_log.Producer")
ADMINS = (
    "bus.kafka.removal.AdminClient",
    "bus.kafka.topics.AdminClient",
    "bus.replay.latest.AdminClient",
)
LOOKUPS = (
    "bus.consume.backlog.schema_lookup",
    "bus.consume.worker.schema_lookup",
    "bus.consume.deadletters.schema_lookup",
    "bus.replay.compare.schema_lookup",
    "bus.replay.engine.schema_lookup",
    "bus.replay.record_filter.schema_lookup",
    "bus.replay.selection.schema_lookup",
)

NAMES = list(KINDS)
TAKEN = ("student", "staff", "class", "enrollment")
"""The kinds that the product of the tests takes. An enrollment refers to a student and a class."""

Fate = Literal["", "refused", "untranslatable", "rubbish"]
"""The fate of a record: the product refuses it, it has no row, or its bytes do not decode."""


def _row(record: Any) -> dict[str, Any]:
    if record["dateLastModified"] == UNTRANSLATABLE:
        raise Never("this record has no row")
    return dict(record)


PRODUCT = Product(
    name="lunch",
    tables=(Table("records", (), dict.fromkeys(TAKEN, _row)),),
    settings=BaseModel,
    open=lambda _: FakeProduct(),
)


def fate(message: Message) -> str:
    """Return the fate that the test gave a message when it published it."""
    return header(message, "fate") or ""


class Bus:
    """A district's bus: a broker, a clock, and settings that lead to both.

    home:     BUS_HOME, where a product with equivalent records keeps the active ones.
    recalls:  whether a consumer keeps there which records are delivered.
    consumer: settings of the consumer's loop; see `bus.settings.ConsumerSettings`.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        partitions: int = 1,
        home: Path = Path(".bus"),
        recalls: bool = False,
        **consumer: Any,
    ) -> None:
        self.clock = Clock()
        self.broker = Broker(self.clock)
        self.settings = Settings(
            home=home,
            kafka=KafkaSettings(bootstrap="fake:9092", partitions=partitions),
            consumer=ConsumerSettings(**consumer),
        )
        self.partitions = partitions
        self.published: list[Message] = []
        self._replays = 0
        for kind in TAKEN:
            self.broker.create(topics.topic(self.settings, kind), partitions)
        for names, fake in (
            (CONSUMERS, partial(FakeConsumer, self.broker)),
            (PRODUCERS, partial(FakeProducer, self.broker)),
            (ADMINS, partial(FakeAdmin, self.broker)),
            (LOOKUPS, lambda _: _schema),
        ):
            for name in names:
                monkeypatch.setattr(name, fake)
        if not recalls:
            monkeypatch.setattr("bus.consume.worker.Backlog", _forgetful)
        random.seed(1)  # the jitter between retries

    # ---- topics --------------------------------------------------------------------------------

    def publish(
        self,
        kind: str,
        id_: str,
        *,
        become: Fate = "",
        write: Callable[..., int] | None = None,
        **fields: Any,
    ) -> Message:
        """Publish a record; each is modified a second after the one before.

        become: what becomes of it; see `Fate`.
        write:  `append` of a transaction, if the record must not be readable at once.
        """
        number = len(self.published)
        modified = datetime(2026, 8, 17, tzinfo=UTC) + timedelta(seconds=number)
        if become == "untranslatable":
            modified = UNTRANSLATABLE
        record = a_record(kind, sourcedId=id_, dateLastModified=modified, **fields)
        topic = topics.topic(self.settings, kind)
        partition = topics.partition_for(record[KINDS[kind].owner], self.partitions)
        value = _encoder(kind).encode(record) if become != "rubbish" else b"rubbish"
        headers = [("fate", become.encode())]
        offset = (write or self.broker.append)(
            topic, partition, key=id_.encode(), value=value, headers=headers
        )
        message = self.broker.log((topic, partition)).entries[offset]
        assert message is not None
        self.published.append(message)
        return message

    def enroll(self, student: str, class_: str, **more: Any) -> Message:
        """Publish an enrollment; its id joins the ids of the student and the class."""
        fields = {"userSourcedId": student, "classSourcedId": class_, **more}
        return self.publish("enrollment", f"{student}-{class_}", **fields)

    def carry(self, *kinds: str) -> None:
        """Write an aborted transaction to the topics of these kinds, so that they are not empty.

        The consumer does not wait for a kind whose topic holds nothing.
        """
        for kind in kinds:
            aborted = self.broker.transaction()
            for partition in range(self.partitions):
                aborted.append(topics.topic(self.settings, kind), partition)
            aborted.abort()

    def place(self, kind: str, partition: int = 0) -> Position:
        """Return a partition of a kind's topic."""
        return Position(topics.topic(self.settings, kind), partition)

    def ends(self) -> dict[Position, int]:
        """Return the ends of the partitions that hold anything."""
        every = self.broker.places(topics.topic(self.settings, kind) for kind in TAKEN)
        found = {Position(*place): self.broker.log(place).stable for place in every}
        return {place: end for place, end in found.items() if end}

    def committed(self) -> dict[Position, int]:
        """Return the product's committed offsets, except those at 0."""
        known = self.broker.group(self.group).committed
        return {Position(*place): at for place, at in known.items() if at}

    @property
    def group(self) -> str:
        """The product's consumer group."""
        return str(group_settings(self.settings, PRODUCT.name)["group.id"])

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The product's dead letters."""
        return deadletters.read(self.settings, PRODUCT.name)

    # ---- the consumer --------------------------------------------------------------------------

    def worker(self, delivery: FakeProduct, feed: Feed | None = None, **how: Any) -> Instance:
        """Return an instance of the product's consumer; `how` changes fields of `PRODUCT`."""
        return Instance(self, delivery, replace(PRODUCT, **how), feed)

    def share(self, owners: Mapping[Place, Instance]) -> None:
        """Assign partitions to instances."""
        self.broker.group(self.group).divide({p: owner.consumer for p, owner in owners.items()})

    def every_place(self) -> list[Place]:
        """Return the partitions of all topics of the product."""
        return self.broker.places(topics.topic(self.settings, kind) for kind in TAKEN)

    # ---- replays -------------------------------------------------------------------------------

    def window(
        self, since: str = "beginning", until: str = "now", kinds: tuple[str, ...] = TAKEN
    ) -> Window:
        """Return the window of a replay; by default it has everything in the topics now."""
        return resolve(self.settings, kinds, since, until)

    def about(self, window: Window | None = None, **options: Any) -> ReplayRequest:
        """Return a replay that has not begun.

        By default its window has everything in the topics now.
        """
        self._replays += 1
        window = window or self.window()
        return ReplayRequest(
            f"lunch-{self._replays}",
            PRODUCT.name,
            "beginning",
            "now",
            start=keyed(window.start),
            stop=keyed(window.stop),
            at=f"2026-11-24T07:00:{self._replays:02}+00:00",
            **options,
        )

    def replay(
        self,
        delivery: FakeProduct,
        about: ReplayRequest,
        *,
        batch: int = 100,
        tells_time: bool = False,
        kinds: tuple[str, ...] = TAKEN,
        **how: Any,
    ) -> ReplayEngine:
        """Return a process that runs a replay from where the ledger says.

        batch: how many records a batch has.
        """
        topics.ensure(self.settings, [topics.replays(self.settings)])
        known = replay_log.entries(self.settings).get(about.id)
        product = replace(PRODUCT, batch_records=batch, tells_time=tells_time, **how)
        return ReplayEngine(
            self.settings,
            product,
            delivery,
            about,
            Selection(kinds, students=about.students),
            state=known.state if known else None,
            clock=self.clock.monotonic,
            event=self.clock.Event,  # type: ignore[arg-type]
        )

    def state(self, about: ReplayRequest) -> ReplayState:
        """Return the state of a replay in the ledger."""
        return replay_log.entry(self.settings, about.id).state

    def request(self, about: ReplayRequest, to: Literal["run", "pause", "cancel"]) -> None:
        """Ask a replay to pause, to continue or to end."""
        transaction = self.broker.transaction()
        value = f'{{"to": "{to}"}}'.encode()
        transaction.append(
            topics.replays(self.settings), 0, key=f"{about.id}/wish".encode(), value=value
        )
        transaction.commit()


class Instance:
    """One instance of the product's consumer, run to its end or turn by turn."""

    def __init__(
        self, bus: Bus, delivery: FakeProduct, product: Product, feed: Feed | None = None
    ) -> None:
        self.delivery = delivery
        self.metrics = ConsumerMetrics()
        self.loop = Worker(
            bus.settings,
            product,
            delivery,
            self.metrics,
            feed=feed,
            clock=bus.clock.monotonic,
            event=bus.clock.Event,  # type: ignore[arg-type]
            consumer=partial(FakeConsumer, bus.broker),  # type: ignore[arg-type]
        )
        self.consumer: FakeConsumer = self.loop._consumer  # type: ignore[assignment]
        self._bus = bus

    def run(self, *, until_caught_up: bool = False) -> WorkerOutcome:
        """Run as `bus consume` does."""
        return self.loop.run(until_caught_up=until_caught_up)

    def run_for(self, seconds: float) -> WorkerOutcome:
        """Run, and ask the instance to stop after this many seconds."""
        self._bus.clock.after(seconds, self.stop)
        return self.run()

    def stop(self) -> None:
        """Ask the instance to end."""
        self.loop.stop()

    def ready(self) -> str:
        """Return why the instance does not deliver now."""
        return self.loop.ready()

    def join(self) -> Instance:
        """Join the group, to run turn by turn."""
        self.loop._join()
        return self

    def turn(self, times: int = 1) -> None:
        """Run this many turns: poll, and deliver what is due."""
        for _ in range(times):
            self.loop._turn()

    def leave(self) -> None:
        """Close in order."""
        self.consumer.close()
        self.loop._backlog.delivered.close()
        self.loop._equivalents.close()
        self.loop._unique.close()
        self.loop._offsets_client.close()

    def kill(self) -> None:
        """End as a killed process does; uncommitted work is lost."""
        self.consumer.kill()
        for one in self.loop._equivalents._kinds.values():
            if one._index:
                one._index._thread.shutdown()
                one._index._con.close()  # otherwise this process keeps the file locked
        self.loop._unique.close()
        self.loop._backlog.delivered.close()

    @property
    def places(self) -> set[Position]:
        """The partitions that the instance considers its own."""
        return set(self.loop._partitions.next)

    @property
    def waiting(self) -> int:
        """How many records wait for the records that they refer to."""
        return self.loop._backlog.waiting

    @property
    def in_hand(self) -> int:
        """How many records were read and wait for their batch."""
        return self.loop._backlog.unordered

    @property
    def paused(self) -> set[str]:
        """The kinds that are paused now."""
        return self.consumer.paused_kinds


class Group:
    """The parts of a consumer that track its progress, without its loop."""

    def __init__(self, bus: Bus) -> None:
        config = group_settings(bus.settings, PRODUCT.name)
        kinds = {topics.topic(bus.settings, kind): kind for kind in TAKEN}
        self.consumer = FakeConsumer(bus.broker, config)
        self.offsets_client = Offsets(config, bus.clock.Event().wait)
        self.delivered = DeliveredIndex(bus.settings, Feed("lunch", kinds))
        clock = bus.clock.monotonic
        self.partitions = Assignment(self.consumer, self.offsets_client, kinds, clock=clock)  # type: ignore[arg-type]
        self.instances = GroupProgress(
            self.offsets_client, self.partitions, self.delivered, kinds, clock=clock
        )
        self.kinds = kinds

    def has(self, *places: Position, own: Mapping[Position, int] | None = None) -> Group:
        """Assign these partitions."""
        self.partitions.locate(places, own or {})
        self.partitions.assign(places)
        return self

    @property
    def paused(self) -> set[str]:
        """The kinds that are paused now."""
        return self.consumer.paused_kinds


def _forgetful(*arguments: Any, **more: Any) -> Backlog:
    """Return a backlog that keeps nothing between two runs, because files take time."""
    return Backlog(*arguments, **{**more, "folder": None})


@cache
def _encoder(kind: str) -> Encoder:
    return Encoder(kind, NAMES.index(kind) + 1)


def _schema(schema_id: int) -> dict[str, Any]:
    if not 1 <= schema_id <= len(NAMES):
        raise Never(f"the registry has no schema {schema_id}")
    return KINDS[NAMES[schema_id - 1]].schema
