"""The bus on the fakes: the one place that names the modules of the bus and reaches into them.

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
from functools import partial
from typing import Any, Literal

import pytest
from confluent_kafka import Message
from pydantic import BaseModel

from bus import deadletters, topics
from bus.codec import Encoder
from bus.contract import a_record
from bus.copies import Copies
from bus.deadletters import DeadLetter
from bus.delivery import Batch, Overtaken, Part, Position, Refusal
from bus.event import header
from bus.failures import BusError, Never, RetryLater, Stop
from bus.inquiry import Inquiry
from bus.loop import Loop, Outcome, group_settings
from bus.metrics import Metrics
from bus.partitions import Partitions
from bus.product import Product, Table
from bus.references import Delivered
from bus.replay import ledger
from bus.replay.latest import Latest
from bus.replay.ledger import About, State, keyed
from bus.replay.replay import Replay
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
    "Batch",
    "Broker",
    "Bus",
    "BusError",
    "Clock",
    "Copies",
    "DeadLetter",
    "Delivered",
    "FakeConsumer",
    "FakeProduct",
    "Group",
    "Inquiry",
    "Killed",
    "Latest",
    "Never",
    "Outcome",
    "Overtaken",
    "Part",
    "Partitions",
    "Position",
    "Refusal",
    "RetryLater",
    "State",
    "Stop",
    "Stuck",
    "Window",
    "Worker",
    "fate",
]

CONSUMERS = ("bus.loop.Consumer", "bus.inquiry.Consumer", "bus.scan.Consumer")
PRODUCERS = ("bus.deadletters.Producer", "bus.replay.ledger.Producer")
ADMINS = ("bus.topics.AdminClient", "bus.replay.latest.AdminClient")
CLOCKS = (
    "bus.loop.time",
    "bus.loop.threading",
    "bus.partitions.time",
    "bus.copies.time",
    "bus.replay.replay.time",
    "bus.replay.replay.threading",
)
LOOKUPS = (
    "bus.loop.schema_lookup",
    "bus.deadletters.schema_lookup",
    "bus.replay.replay.schema_lookup",
    "bus.replay.sieve.schema_lookup",
    "bus.replay.selection.schema_lookup",
)

NAMES = list(KINDS)
TAKEN = ("student", "staff", "class", "enrollment")
"""The kinds that the product of the tests takes. An enrollment refers to a student and a class."""

Fate = Literal["", "refused", "untranslatable", "rubbish"]
"""What becomes of a record: the product refuses it, it has no row, or its bytes do not decode."""


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
    """What the test that published a message wants to become of it."""
    return header(message, "fate") or ""


class Bus:
    """A district's bus: a broker, a clock, and settings that lead to both.

    consumer: settings of the consumer's loop; see `bus.settings.ConsumerSettings`.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, partitions: int = 1, **consumer: Any
    ) -> None:
        self.clock = Clock()
        self.broker = Broker(self.clock)
        self.settings = Settings(
            kafka=KafkaSettings(bootstrap="fake:9092", partitions=partitions),
            consumer=ConsumerSettings(**consumer),
        )
        self.partitions = partitions
        self.published: list[Message] = []
        self._encoders = {kind: Encoder(kind, NAMES.index(kind) + 1) for kind in TAKEN}
        self._replays = 0
        for kind in TAKEN:
            self.broker.create(topics.topic(self.settings, kind), partitions)
        for names, fake in (
            (CONSUMERS, partial(FakeConsumer, self.broker)),
            (PRODUCERS, partial(FakeProducer, self.broker)),
            (ADMINS, partial(FakeAdmin, self.broker)),
            (CLOCKS, self.clock),
            (LOOKUPS, lambda _: _schema),
        ):
            for name in names:
                monkeypatch.setattr(name, fake)
        random.seed(1)  # the jitter between tries

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

        write: `append` of a transaction, where it is not to be readable at once.
        """
        number = len(self.published)
        modified = datetime(2026, 8, 17, tzinfo=UTC) + timedelta(seconds=number)
        if become == "untranslatable":
            modified = UNTRANSLATABLE
        record = a_record(kind, sourcedId=id_, dateLastModified=modified, **fields)
        topic = topics.topic(self.settings, kind)
        partition = topics.partition_for(record[KINDS[kind].owner], self.partitions)
        value = self._encoders[kind].encode(record) if become != "rubbish" else b"rubbish"
        headers = [("fate", become.encode())]
        offset = (write or self.broker.append)(
            topic, partition, key=id_.encode(), value=value, headers=headers
        )
        message = self.broker.log((topic, partition)).entries[offset]
        assert message is not None
        self.published.append(message)
        return message

    def enroll(self, student: str, class_: str, **more: Any) -> Message:
        """Publish an enrollment, named after both."""
        fields = {"userSourcedId": student, "classSourcedId": class_, **more}
        return self.publish("enrollment", f"{student}-{class_}", **fields)

    def place(self, kind: str, partition: int = 0) -> Position:
        """A partition of a kind's topic."""
        return Position(topics.topic(self.settings, kind), partition)

    def ends(self) -> dict[Position, int]:
        """Where the partitions that hold anything end."""
        every = self.broker.places(topics.topic(self.settings, kind) for kind in TAKEN)
        found = {Position(*place): self.broker.log(place).stable for place in every}
        return {place: end for place, end in found.items() if end}

    def committed(self) -> dict[Position, int]:
        """The product's offsets, but for those at 0."""
        known = self.broker.group(self.group).committed
        return {Position(*place): at for place, at in known.items() if at}

    @property
    def group(self) -> str:
        """The product's group."""
        return str(group_settings(self.settings, PRODUCT.name)["group.id"])

    @property
    def letters(self) -> list[DeadLetter]:
        """The product's dead letters."""
        return deadletters.read(self.settings, PRODUCT.name)

    # ---- the consumer --------------------------------------------------------------------------

    def worker(self, delivery: FakeProduct, **how: Any) -> Worker:
        """A copy of the product's consumer; `how` changes fields of `PRODUCT`."""
        return Worker(self, delivery, replace(PRODUCT, **how))

    def share(self, owners: Mapping[Place, Worker]) -> None:
        """Say who shall have which partition."""
        self.broker.group(self.group).divide({p: owner.consumer for p, owner in owners.items()})

    def every_place(self) -> list[Place]:
        """The partitions of all topics of the product."""
        return self.broker.places(topics.topic(self.settings, kind) for kind in TAKEN)

    # ---- replays -------------------------------------------------------------------------------

    def window(
        self, since: str = "beginning", until: str = "now", kinds: tuple[str, ...] = TAKEN
    ) -> Window:
        """What lies in the topics now."""
        return resolve(self.settings, kinds, since, until)

    def about(self, window: Window | None = None, **options: Any) -> About:
        """A replay that has not begun, of all that lies in the topics now."""
        self._replays += 1
        window = window or self.window()
        return About(
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
        about: About,
        *,
        batch: int = 100,
        tells_time: bool = False,
        kinds: tuple[str, ...] = TAKEN,
    ) -> Replay:
        """A process that runs a replay, from where the ledger says; `batch` records at once."""
        letters = topics.deadletters(self.settings, PRODUCT.name)
        topics.ensure(self.settings, [topics.replays(self.settings), letters])
        known = ledger.entries(self.settings).get(about.id)
        product = replace(PRODUCT, batch_records=batch, tells_time=tells_time)
        return Replay(
            self.settings,
            product,
            delivery,
            about,
            Selection(kinds, students=about.students),
            state=known.state if known else None,
        )

    def state(self, about: About) -> State:
        """How far the ledger says that a replay is."""
        return ledger.entry(self.settings, about.id).state

    def wish(self, about: About, to: Literal["run", "pause", "cancel"]) -> None:
        """Ask a replay to pause, to go on or to end."""
        transaction = self.broker.transaction()
        value = f'{{"to": "{to}"}}'.encode()
        transaction.append(
            topics.replays(self.settings), 0, key=f"{about.id}/wish".encode(), value=value
        )
        transaction.commit()


class Worker:
    """One copy of the product's consumer, run to its end or turn by turn."""

    def __init__(self, bus: Bus, delivery: FakeProduct, product: Product) -> None:
        self.delivery = delivery
        self.metrics = Metrics()
        self.loop = Loop(bus.settings, product, delivery, self.metrics)
        self.consumer: FakeConsumer = self.loop._consumer  # type: ignore[assignment]
        self._bus = bus

    def run(self, *, until_caught_up: bool = False) -> Outcome:
        """Run as `bus consume` does."""
        return self.loop.run(until_caught_up=until_caught_up)

    def run_for(self, seconds: float) -> Outcome:
        """Run, and ask it to stop after so long."""
        self._bus.clock.after(seconds, self.stop)
        return self.run()

    def stop(self) -> None:
        """Ask it to end."""
        self.loop.stop()

    def ready(self) -> str:
        """Why it does not deliver now."""
        return self.loop.ready()

    def join(self) -> Worker:
        """Join the group, to be run turn by turn."""
        self.consumer.subscribe(
            list(self.loop._kinds),
            on_assign=self.loop._assigned,
            on_revoke=self.loop._revoked,
            on_lost=self.loop._revoked,
        )
        return self

    def turn(self, times: int = 1) -> None:
        """Turn so many times: poll, and deliver what is due."""
        for _ in range(times):
            self.loop._turn()

    def leave(self) -> None:
        """Close in order."""
        self.consumer.close()
        self.loop._inquiry.close()

    def kill(self) -> None:
        """End as a killed process does; what is not committed is lost."""
        self.consumer.kill()

    @property
    def places(self) -> set[Position]:
        """The partitions that it takes to be its own."""
        return set(self.loop._partitions.next)

    @property
    def waiting(self) -> int:
        """How many records wait for what they refer to."""
        return len(self.loop._ordering)

    @property
    def in_hand(self) -> int:
        """How many records were read and wait for their batch."""
        return len(self.loop._intake)

    @property
    def paused(self) -> set[str]:
        """The kinds of which it reads nothing now."""
        return {topic.rpartition(".")[2] for topic, _ in self.consumer._paused}


class Group:
    """The parts of a consumer that know where it is, without its loop."""

    def __init__(self, bus: Bus) -> None:
        config = group_settings(bus.settings, PRODUCT.name)
        kinds = {topics.topic(bus.settings, kind): kind for kind in TAKEN}
        self.consumer = FakeConsumer(bus.broker, config)
        self.inquiry = Inquiry(config, bus.clock.Event().wait)
        self.delivered = Delivered(bus.settings, TAKEN)
        self.partitions = Partitions(self.consumer, self.inquiry, kinds)  # type: ignore[arg-type]
        self.copies = Copies(self.inquiry, self.partitions, self.delivered, kinds)
        self.kinds = kinds

    def has(self, *places: Position, own: Mapping[Position, int] | None = None) -> Group:
        """Assign these partitions."""
        self.partitions.locate(places, own or {})
        self.partitions.assign(places)
        return self

    @property
    def paused(self) -> set[str]:
        """The kinds of which it reads nothing now."""
        return {topic.rpartition(".")[2] for topic, _ in self.consumer._paused}


def _schema(schema_id: int) -> dict[str, Any]:
    if not 1 <= schema_id <= len(NAMES):
        raise Never(f"the registry has no schema {schema_id}")
    return KINDS[NAMES[schema_id - 1]].schema
