"""Finds and deletes topics and consumer groups under some names.

A topic or group is under `a.b` if its name is `a.b`, or begins with `a.b` and a dot. So `a.bc` and
`a.b-2` are not under it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from bus.errors import BusError, RetryLater
from bus.kafka.client import client_settings
from bus.kafka.kafka_errors import explained, failure
from bus.settings import Settings

SECONDS = 20.0
"""How many seconds Kafka may take to answer a request."""


def topics(settings: Settings, roots: Collection[str]) -> dict[str, int]:
    """Return the number of partitions of each topic under one of these names.

    Raises `RetryLater` if Kafka does not answer.
    """
    admin = AdminClient(client_settings(settings))
    with explained("list the topics"):
        found = admin.list_topics(timeout=SECONDS).topics
    return {
        name: len(about.partitions)
        for name, about in sorted(found.items())
        if is_under(name, roots)
    }


def groups(settings: Settings, roots: Collection[str]) -> list[str]:
    """Return the consumer groups under one of these names.

    Raises `RetryLater` if Kafka does not answer.
    """
    admin = AdminClient(client_settings(settings))
    with explained("list the consumer groups"):
        found = admin.list_consumer_groups(request_timeout=SECONDS).result().valid
    return sorted(one.group_id for one in found if is_under(one.group_id, roots))


def is_under(name: str, roots: Collection[str]) -> bool:
    """Return whether a topic or group is under one of these names."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def delete_topics(settings: Settings, names: Collection[str]) -> None:
    """Delete those of some topics that exist.

    Raises `Stop` if Kafka denies it, and `RetryLater` if it does not answer.
    """
    if names:
        admin = AdminClient(client_settings(settings))
        asked = admin.delete_topics(
            sorted(names), operation_timeout=SECONDS, request_timeout=SECONDS
        )
        _wait("topic", asked, KafkaError.UNKNOWN_TOPIC_OR_PART)


def delete_groups(settings: Settings, names: Collection[str]) -> None:
    """Delete those of some consumer groups that exist, with their offsets.

    Raises `RetryLater` if a program still reads with one of them, or if Kafka does not answer. All
    other groups are deleted all the same.
    """
    if names:
        admin = AdminClient(client_settings(settings))
        asked = admin.delete_consumer_groups(sorted(names), request_timeout=SECONDS)
        _wait("consumer group", asked, KafkaError.GROUP_ID_NOT_FOUND)


def _wait(what: str, asked: Mapping[str, Future[Any]], absent: int) -> None:
    """Wait for all answers, and raise the first error.

    absent: the code of the error that means that there is nothing to delete.
    """
    failures: list[BusError] = []
    for name, future in asked.items():
        try:
            future.result()
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.NON_EMPTY_GROUP:
                failures.append(
                    RetryLater(
                        f"could not delete {what} {name}: a program still reads with it; end the "
                        "program, and run the command again"
                    )
                )
            elif code != absent:
                failures.append(failure(f"delete {what} {name}", error.args[0]))
    if failures:
        raise failures[0]
