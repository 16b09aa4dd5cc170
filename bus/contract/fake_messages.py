"""What a Kafka message answers, from plain fields, for tests without Kafka."""

from __future__ import annotations

from dataclasses import dataclass, field

from bus.kafka.cloudevents import Change, Headers, envelope


@dataclass(frozen=True)
class Sent:
    """A message as `confluent_kafka.Message` presents it."""

    kind: str
    key_: str
    offset_: int
    value_: bytes = b""
    partition_: int = 0
    change: Change = "created"
    time: str = "2026-11-24T07:00:00.000000+00:00"
    more: Headers = field(default_factory=list)

    def topic(self) -> str:
        """The topic of the kind, with the default prefix."""
        return f"schoolbus.{self.kind}"

    def partition(self) -> int:
        """The partition."""
        return self.partition_

    def offset(self) -> int:
        """The offset."""
        return self.offset_

    def key(self) -> bytes:
        """The record's id."""
        return self.key_.encode()

    def value(self) -> bytes:
        """The encoded record."""
        return self.value_

    def headers(self) -> Headers:
        """CloudEvents attributes; the id is the same whenever the same place is read again."""
        headers = envelope(
            self.kind, self.change, source="/contract", time=self.time, traceparent=None
        )
        id_ = f"{self.kind}-{self.partition_}-{self.offset_}"
        return [*headers, ("ce_id", id_.encode()), *self.more]

    def timestamp(self) -> tuple[int, int]:
        """Kafka's own time, in milliseconds."""
        return (1, 1_795_500_000_000)

    def error(self) -> None:
        """No error."""
