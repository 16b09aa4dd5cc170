"""The envelope of a record: CloudEvents 1.0 attributes as Kafka headers.

Source: CloudEvents 1.0.2, "Kafka Protocol Binding", section 3.2 (binary content mode): attributes
are headers `ce_<name>`, the datacontenttype is the header `content-type`. The header `traceparent`
carries the W3C trace context, as OpenTelemetry's messaging conventions specify.

The bus adds one extension attribute, `unchecked`: a comma-separated list of fields whose references
the source could not check. A source cannot check references to a kind that it does not carry, such
as courses if an extract has none. A consumer waits only a limited time for these records.

The value of a message is the record alone (see `bus.registry.codec`). It holds no part of the
envelope, so any Kafka tool can read the topic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from confluent_kafka import Message

Change = Literal["created", "updated", "withdrawn", "recorded"]
"""created, updated, withdrawn: the source compared the record with what it published last.
recorded: a client sent this record alone, and there was nothing to compare it with."""

TYPE_PREFIX = "org.schoolbus."
UNCHECKED = "ce_unchecked"
CONTENT_TYPE = "application/avro"
Headers = list[tuple[str, str | bytes | None]]
"""Headers in the form that confluent_kafka takes. The values that the bus writes are bytes."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """The CloudEvents attributes of one message.

    id:          unique for each event of a source. An event that is sent again keeps its id.
    source:      the publisher: `/oneroster-csv/LABEL`, `/http/CLIENT`.
    type:        `org.schoolbus.KIND.CHANGE`, such as `org.schoolbus.student.updated`.
    time:        when the bus learned of the change from the SIS; UTC, microseconds.
    traceparent: the W3C trace context, or None.
    """

    id: str
    source: str
    type: str
    time: datetime
    traceparent: str | None = None


def envelope(
    kind: str,
    change: Change,
    *,
    source: str,
    time: str,
    traceparent: str | None,
    unchecked: Iterable[str] = (),
) -> Headers:
    """Return the headers that all events of one kind and change in a run share.

    The caller adds `ce_id` for each event.

    time:      RFC 3339 in UTC, as `now()` returns it.
    unchecked: the fields whose references the source could not check.
    """
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_type", f"{TYPE_PREFIX}{kind}.{change}".encode()),
        ("ce_source", source.encode()),
        ("ce_time", time.encode()),
        ("content-type", CONTENT_TYPE.encode()),
    ]
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
    if names := ",".join(unchecked):
        headers.append((UNCHECKED, names.encode()))
    return headers


def now() -> str:
    """Return the current time in UTC, as RFC 3339 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """Return a message's headers as a list, for each form that the client library gives."""
    return list(message.headers() or ())  # type: ignore[arg-type]


def header(message: Message, name: str) -> str | None:
    """Return the value of one header as text, or None if there is none."""
    for key, value in headers_of(message):
        if key == name and value is not None:
            return value.decode("utf-8", "replace")
    return None


def unchecked(message: Message) -> frozenset[str]:
    """Return the fields of a record whose references its source could not check."""
    return frozenset((header(message, UNCHECKED) or "").split(",")) - {""}


def attributes(message: Message) -> Attributes:
    """Return the CloudEvents attributes of a message.

    A message without CloudEvents headers gets an id and a time as well: the id is its topic,
    partition and offset, and the time is Kafka's timestamp. Its source and type are empty.
    """
    found: dict[str, str] = {
        key: value.decode("utf-8", "replace")
        for key, value in headers_of(message)
        if value is not None
    }
    place = f"{message.topic()}/{message.partition()}/{message.offset()}"
    return Attributes(
        id=found.get("ce_id", place),
        source=found.get("ce_source", ""),
        type=found.get("ce_type", ""),
        time=_time(found.get("ce_time"), message),
        traceparent=found.get("traceparent"),
    )


def _time(text: str | None, message: Any) -> datetime:
    """Return the time of a `ce_time` header, or Kafka's timestamp if the header is not valid."""
    if text:
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    _, milliseconds = message.timestamp()
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
