"""The extracts of two days in the topics, and what a product must have received of them.

`Published` reads only the topics. `assert_topics_equal` checks that the topics have
the state of the SIS.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bus.consume.worker import Worker
from bus.delivery import Delivery
from bus.demo.sample import District
from bus.errors import Stop
from bus.ingest import pipeline
from bus.ingest.report import Report
from bus.kafka import topics
from bus.kafka.cloudevents import headers_of
from bus.kafka.reader import scan
from bus.observe.metrics import ConsumerMetrics
from bus.product import Product
from bus.registry import subjects
from bus.settings import Settings
from bus.standard import KINDS
from consumers.webhook import DEFAULT_KINDS, WebhookSettings
from producers.oneroster_csv.read import read
from tests.faults.network import Network
from tests.webhook_receiver import Received

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
DISTRICT = District(seed=7, students=40, change=0.3)
IMPATIENT = {"socket.timeout.ms": 3_000, "reconnect.backoff.max.ms": 500}
"""With librdkafka's default of a minute, it would seldom notice that an answer is lost."""
NUMBERS = count(1)


def separate_settings(net: Network) -> Settings:
    """Return settings of a bus with separate topics and registered schemas, and short timeouts."""
    kafka = net.settings.kafka.model_copy(update={"client": IMPATIENT})
    consumer = net.settings.consumer.model_copy(update={"retry_first": 0.05, "retry_most": 0.5})
    how = {"topic_prefix": f"faults{next(NUMBERS)}", "kafka": kafka, "consumer": consumer}
    settings = net.settings.model_copy(update=how)
    subjects.apply(settings)
    return settings


@pytest.fixture(scope="session")
def extracts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two days' extracts of a small district."""
    folder = tmp_path_factory.mktemp("extracts")
    return [DISTRICT.write(folder / f"{day}.zip", day) for day in (1, 2)]


@pytest.fixture(scope="session")
def published(net: Network, extracts: list[Path]) -> Settings:
    """A bus whose topics have both days, published without a fault."""
    settings = separate_settings(net)
    for path in extracts:
        publish(settings, path)
    return settings


def publish(settings: Settings, path: Path) -> Report:
    """Publish an extract once."""
    return pipeline.produce(settings, "sis", partial(read, path), allow_mass_withdrawal=True)


def assert_topics_equal(settings: Settings, path: Path, folder: Path) -> None:
    """Check that the topics hold the extract: a new run without a cache publishes nothing."""
    uncached = settings.model_copy(update={"home": folder})
    again = publish(uncached, path)
    assert again.published == 0, again.records


@dataclass(slots=True)
class Published:
    """The ids of the events of each record, in order, by kind and id."""

    histories: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, kinds: Iterable[str] = DEFAULT_KINDS) -> Published:
        """Read the topics of these kinds as they are now."""
        found = cls()
        for kind in kinds:
            for message in scan(settings, topics.topic(settings, kind)):
                key = (kind, (message.key() or b"").decode())
                id_ = (dict(headers_of(message))["ce_id"] or b"").decode()
                found.histories.setdefault(key, []).append(id_)
        return found

    @property
    def lengths(self) -> dict[tuple[str, str], int]:
        """The number of events of each record."""
        return {key: len(history) for key, history in self.histories.items()}

    def __len__(self) -> int:
        return sum(map(len, self.histories.values()))

    def assert_received(self, events: Sequence[Received]) -> None:
        """Check that a vendor has each event, and the events of each record in order.

        The vendor remembers ids, so repeats do not count.
        """
        first = list(dict.fromkeys(event.id for event in events))
        place = {id_: at for at, id_ in enumerate(first)}
        published = {id_ for history in self.histories.values() for id_ in history}
        assert published - place.keys() == set(), "events were lost"
        assert place.keys() - published == set(), "events that were never published"
        for key, history in self.histories.items():
            order = sorted(history, key=lambda id_: place[id_])
            assert order == history or _moved(key), f"out of order: {key}"


def _moved(key: tuple[str, str]) -> bool:
    """Whether a record may move to another owner, so that its events are in two partitions."""
    return KINDS[key[0]].owner != "sourcedId"


def vendor_settings(url: str, folder: Path, total_seconds: float = 1.5) -> WebhookSettings:
    """Return the settings of a vendor with short timeouts."""
    return WebhookSettings(
        url=url, secret=SECRET, state=folder, connect_seconds=1, total_seconds=total_seconds
    )


def consume(settings: Settings, product: Product, how: Any, *, seconds: float = 60.0) -> int:
    """Run a consumer until it has caught up; return the number of starts.

    It is started again whenever it stops, as a service manager does. It must write no dead letter.
    """
    until, starts = time.monotonic() + seconds, 0
    while True:
        starts += 1
        delivery: Delivery = product.open(how)
        try:
            outcome = Worker(settings, product, delivery, ConsumerMetrics()).run(
                until_caught_up=True
            )
            assert outcome.dead_lettered == 0
            return starts
        except Stop as stop:
            assert time.monotonic() < until, stop
            time.sleep(0.2)
        finally:
            delivery.close()


def with_group(product: Product, name: str, **more: Any) -> Product:
    """Return the same product with a separate consumer group."""
    return replace(product, name=f"{product.name}-{name}", **more)
