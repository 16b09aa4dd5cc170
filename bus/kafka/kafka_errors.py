"""Turns Kafka's errors into the bus's own, for code that writes to Kafka.

`RetryLater` means that waiting helps. `Stop` means that a person must act first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from bus.errors import BusError, RetryLater, Stop

FENCED_OFF = (
    "another process publishes as this source; stop one of them, or give each its own --source"
)
LATER = "try again when Kafka is available"


@contextmanager
def explained(doing: str, *, fenced: str = FENCED_OFF, later: str = LATER) -> Iterator[None]:
    """Turn Kafka's errors in the block into the bus's own, and name the action that failed.

    See `failure` for the arguments.
    """
    try:
        yield
    except KafkaException as error:
        raise failure(doing, error.args[0], fenced=fenced, later=later) from None


def failure(
    doing: str, error: KafkaError, *, fenced: str = FENCED_OFF, later: str = LATER, topic: str = ""
) -> BusError:
    """Return `Stop` if a person must act first, or `RetryLater` if the error is temporary.

    doing:  the action that failed, as the message names it after "could not".
    fenced: the explanation if another process has taken over the transactional id.
    later:  what to do if the error is temporary.
    topic:  the topic that the action writes to, if it is a single topic.
    """
    name = error.name()
    if error.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
        return Stop(f"could not {doing}: {fenced}")
    if topic and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return Stop(
            f"could not {doing}: Kafka denies access ({name}); give this user the ACL WRITE on "
            f"topic {topic}"
        )
    if topic and error.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
        return Stop(
            f"could not {doing}: Kafka denies access ({name}); give this user the ACL WRITE on "
            f"topic {topic}, and IDEMPOTENT_WRITE on the cluster if its Kafka is older than 3.0"
        )
    if topic and error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return Stop(
            f"could not {doing}: a message is larger than Kafka accepts ({name}); raise "
            f"max.message.bytes of topic {topic}, and message.max.bytes in [kafka] client"
        )
    if "AUTHORIZATION" in name or "AUTHENTICATION" in name:
        return Stop(
            f"could not {doing}: Kafka rejects these credentials ({name}); check [kafka] in "
            "bus.toml and the ACLs of this user"
        )
    if error.fatal() or error.code() == KafkaError._FATAL:
        return Stop(f"could not {doing}: Kafka reports {name}; start again. No data is lost")
    return RetryLater(f"could not {doing}: Kafka reports {name}; {later}")
