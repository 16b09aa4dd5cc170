"""A record's envelope: CloudEvents 1.0 attributes as Kafka headers.

Source: CloudEvents 1.0.2, "Kafka Protocol Binding", section 3.2 (binary content mode): attributes
are headers `ce_<name>`, the datacontenttype is the header `content-type`. The W3C trace context
goes along as `traceparent`, as OpenTelemetry's messaging conventions have it.

One attribute is an extension of the bus's own, `unchecked`: the fields, with commas between them,
that name records which the source could not look for, as it carries no such kind (an extract
without courses, say). A consumer waits for these records for a while, but not for ever.

The value is the record itself (see `bus.registry.codec`); nothing of the envelope is in it, so that
any Kafka tool can use a topic as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from confluent_kafka import Message

Change = Literal["created", "updated", "withdrawn", "recorded"]
"""created, updated, withdrawn: found by comparing with what was last published.
recorded: one record as a client sent it, with nothing to compare it with."""

TYPE_PREFIX = "org.schoolbus."
UNCHECKED = "ce_unchecked"
CONTENT_TYPE = "application/avro"
Headers = list[tuple[str, str | bytes | None]]
"""As confluent_kafka takes them; those of the bus are bytes."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """CloudEvents attributes of one message.

    id:          unique for each event of a source; the same event sent again has the same id.
    source:      who published it: `/oneroster-csv/LABEL`, `/http/CLIENT`.
    type:        `org.schoolbus.KIND.CHANGE`, such as `org.schoolbus.student.updated`.
    time:        when the change was learnt from the SIS; UTC, microseconds.
    traceparent: W3C trace context, or None.
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
    """The headers that all events of one kind and change in a run share; add `ce_id` to each.

    time:      RFC 3339 in UTC, as `now()` gives it.
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
    """This moment in UTC, RFC 3339 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """A message's headers as a list, whatever form the client library gives them."""
    return list(message.headers() or ())  # type: ignore[arg-type]


def header(message: Message, name: str) -> str | None:
    """One header of a message as text, or None."""
    for key, value in headers_of(message):
        if key == name and value is not None:
            return value.decode("utf-8", "replace")
    return None


def unchecked(message: Message) -> frozenset[str]:
    """The fields of a record whose references its source could not check."""
    return frozenset((header(message, UNCHECKED) or "").split(",")) - {""}


def attributes(message: Message) -> Attributes:
    """The CloudEvents attributes of a message.

    A message of a producer that knows no CloudEvents still has all of them: the id is its place
    in the topic, the time is Kafka's.
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
    if text:
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    _, milliseconds = message.timestamp()
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
