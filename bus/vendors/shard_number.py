"""The number of shards that the district's instances of `bus vendors run` use now.

All instances must divide the students into the same number of shards. The number is in
`PREFIX.vendors` under a key of its own. An instance with another number in its settings may change
it when no instance with the earlier number works any more. Each change has an id of its own. The
files of the view have this id, so a file from before a change is never used again.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bus.errors import RetryLater
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.reader import scan
from bus.kafka.sender import Sender
from bus.settings import Settings

log = structlog.get_logger(__name__)

GROUP = "vendors"
"""The consumer group of the instances, after the prefix."""
OF_EARLIER_VERSIONS = "rdkafka"
"""The client id of instances of earlier versions, which have one shard."""
LOOKS, LOOK_SECONDS = 20, 0.1
"""How often an instance polls its group before it looks at the other members again."""
KEY = b"written//shards"
"""Starts like the keys of `bus.vendors.written_editions`, so earlier versions ignore it. No name of
an agreement has a slash."""


def client_id(shards: int) -> str:
    """Return the client id of an instance in its group. It names the number of shards."""
    return f"vendors-{shards}"


def mark(settings: Settings) -> str:
    """Return the id of the last change of the number; "" if it was never changed.

    Raises `RetryLater` if Kafka does not answer.
    """
    return _read(settings)[1]


def agreed(settings: Settings, stopping: threading.Event, stay: Callable[[], object]) -> bool:
    """Make the number in the settings the one that counts, when no other one is used any more.

    The caller must be in the group.

    stay: called again and again, so that the caller stays in the group. It may raise.

    Returns false if a stop is requested before.
    """
    said = False
    while not stopping.is_set():
        number, _ = _read(settings)
        if number == settings.vendors.shards:
            return True
        others = _others(settings, number)
        if not others:
            sender = Sender(settings, topics.vendors(settings), "store the number of shards")
            value = [settings.vendors.shards, secrets.token_hex(8)]
            sender.add(json.dumps(value).encode(), KEY)
            sender.flush()
            continue  # another instance may have stored another number at the same time
        if not said:
            log.warning(
                "vendors.shards differs from that of instances that work, or ended a moment ago; "
                "this instance waits until they have ended",
                here=settings.vendors.shards,
                there=number,
                instances=others,
            )
            said = True
        for _ in range(LOOKS):
            stay()
            stopping.wait(LOOK_SECONDS)
    return False


def _read(settings: Settings) -> tuple[int, str]:
    """Return the number that counts, and the id of the change to it."""
    found = 1, ""
    for message in scan(settings, topics.vendors(settings)):
        if message.key() == KEY and (value := message.value()):
            number, id_ = json.loads(value)
            found = number, f" {id_}"
    return found


def _others(settings: Settings, number: int) -> int:
    """Return how many members of the group have this number of shards."""
    group = f"{settings.topic_prefix}.{GROUP}"
    admin = AdminClient(client_settings(settings))  # it must live until the answer is there
    try:
        members = admin.describe_consumer_groups([group])[group].result().members
    except KafkaException as error:
        raise RetryLater(
            f"could not ask who is in the group {group}: Kafka reports {error.args[0].name()}"
        ) from None
    names = {client_id(number)} | ({OF_EARLIER_VERSIONS} if number == 1 else set())
    return sum(member.client_id in names for member in members)
