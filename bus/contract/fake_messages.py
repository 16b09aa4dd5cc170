"""A fake Kafka message, for tests without Kafka."""

from __future__ import annotations

from dataclasses import dataclass, field

from bus.kafka.cloudevents import Change, Headers, envelope


@dataclass(frozen=True)
class Sent:
    """A message with the methods of `confluent_kafka.Message`."""

    kind: str
    key_: str
    offset_: int
    value_: bytes = b""
    partition_: int = 0
    change: Change = "created"
    time: str = "2026-11-24T07:00:00.000000+00:00"
    more: Headers = field(default_factory=list)

    def topic(self) -> str:
        """Return the topic of the kind, with the default prefix."""
        return f"schoolbus.{self.kind}"

    def partition(self) -> int:
        """Return the partition."""
        return self.partition_

    def offset(self) -> int:
        """Return the offset."""
        return self.offset_

    def key(self) -> bytes:
        """Return the record's id."""
        return self.key_.encode()

    def value(self) -> bytes:
        """Return the encoded record."""
        return self.value_

    def headers(self) -> Headers:
        """Return the CloudEvents attributes; the id depends only on kind, partition and offset."""
        headers = envelope(
            self.kind, self.change, source="/contract", time=self.time, traceparent=None
        )
        id_ = f"{self.kind}-{self.partition_}-{self.offset_}"
        return [*headers, ("ce_id", id_.encode()), *self.more]

    def timestamp(self) -> tuple[int, int]:
        """Return Kafka's timestamp, in milliseconds."""
        return (1, 1_795_500_000_000)

    def error(self) -> None:
        """Return None: no error."""
