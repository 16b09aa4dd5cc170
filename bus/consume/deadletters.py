"""The dead letters: what a product could not be told, with the reason, as it came.

One topic a product, `PREFIX.deadletters.PRODUCT`. Key, value and headers are those of the original
message, byte for byte; headers `dl_…` beside them say why, when, how often it was tried, and where
it lies.

What is done with a letter is a message of its own after it: the letter's key, no value, `dl_place`,
and in `dl_state` what became of it (retried, discarded), by whom, when and why.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException, Producer

from bus.errors import RetryLater, Stop
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import Headers, headers_of, now
from bus.kafka.reader import scan
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard import KINDS, Record

if TYPE_CHECKING:
    from confluent_kafka import Message


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, without its content.

    kind and id name the record; place is topic/partition/offset of the original; time is UTC.
    state: what became of it: "" as long as nothing did.
    """

    kind: str
    id: str
    reason: str
    attempts: int
    time: str
    place: str
    state: str = ""


class DeadLetters:
    """Writes the dead letters of one product."""

    def __init__(self, settings: Settings, product: str) -> None:
        self._topic = topics.deadletters(settings, product)
        self._product = product
        self._failed = 0
        self._producer = Producer(
            client_settings(settings)
            | {
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
            }
        )

    def add(self, message: Message, reason: str, attempts: int = 1) -> None:
        """Write one; it is there for sure only after `flush`."""
        extra: Headers = [
            ("dl_reason", reason.encode()),
            ("dl_attempts", str(attempts).encode()),
            ("dl_product", self._product.encode()),
            ("dl_time", now().encode()),
            ("dl_place", place(message).encode()),
        ]
        headers: Headers = [*headers_of(message), *extra]
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    message.value(),
                    message.key(),
                    headers=headers,
                    on_delivery=self._delivered,
                )
                break
            except BufferError:
                self._producer.poll(0.1)

    def flush(self) -> None:
        """Return when Kafka has all that was added; raises `RetryLater` when it does not take it.

        The loop commits no offset before this has returned.
        """
        try:
            left = self._producer.flush(60)
        except KafkaException as error:
            raise RetryLater(f"Kafka says {error.args[0].name()} to dead letters") from None
        failed, self._failed = self._failed, 0
        if left or failed:
            raise RetryLater(
                f"{left + failed} dead letters could not be written to {self._topic}; "
                "they are written again when Kafka takes them"
            )

    def _delivered(self, error: object, _: Message) -> None:
        if error is not None:
            self._failed += 1


def place(message: Message) -> str:
    """Where a message lies: topic/partition/offset."""
    return f"{message.topic()}/{message.partition()}/{message.offset()}"


def read(settings: Settings, product: str) -> list[DeadLetter]:
    """All dead letters of a product, oldest first; the latest of a message that came twice, as it
    may after a crash."""
    letters: dict[str, DeadLetter] = {}
    for message in scan(settings, topics.deadletters(settings, product)):
        about = _about(message)
        where = about.get("dl_place", "")
        before = letters.pop(where, None)
        if state := about.get("dl_state"):
            if before:
                letters[where] = replace(before, state=state)
            continue
        letters[where] = DeadLetter(
            kind=topics.kind_of(settings, where.split("/")[0]) or "",
            id=(message.key() or b"").decode("utf-8", "replace"),
            reason=about.get("dl_reason", ""),
            attempts=int(about.get("dl_attempts", "1")),
            time=about.get("dl_time", ""),
            place=where,
        )
    return list(letters.values())


def choose(
    letters: Iterable[DeadLetter],
    *,
    places: Collection[str] = (),
    kinds: Collection[str] = (),
    reason: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[DeadLetter]:
    """Those of these letters that lie at one of these places, are of these kinds, hold a text in
    their reason, and are from a time on and before another; what is not named does not matter.

    Raises `Stop` for a place at which there is none.
    """
    found = list(letters)
    if missing := set(places) - {letter.place for letter in found}:
        raise Stop(
            f"there is no dead letter of {', '.join(sorted(missing))}; "
            "`bus deadletters list` names their places"
        )
    return [
        letter
        for letter in found
        if (not places or letter.place in places)
        and (not kinds or letter.kind in kinds)
        and reason.lower() in letter.reason.lower()
        and (since is None or datetime.fromisoformat(letter.time) >= since)
        and (until is None or datetime.fromisoformat(letter.time) < until)
    ]


def mark(
    settings: Settings, product: str, letters: Iterable[DeadLetter], state: str, why: str, by: str
) -> None:
    """Note what became of these. Raises `RetryLater` when Kafka does not take it."""
    failed: list[object] = []
    producer = Producer(client_settings(settings) | {"enable.idempotence": True, "acks": "all"})
    for letter in letters:
        headers: Headers = [
            ("dl_place", letter.place.encode()),
            ("dl_state", state.encode()),
            ("dl_by", by.encode()),
            ("dl_time", now().encode()),
            ("dl_why", why.encode()),
        ]
        producer.produce(
            topics.deadletters(settings, product),
            None,
            letter.id.encode(),
            headers=headers,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
        producer.poll(0)
    if producer.flush(60) or failed:
        raise RetryLater("Kafka did not take it; try again when it is up")


def content(settings: Settings, product: str, place: str) -> Record:
    """The record of a letter. Raises `Stop` when there is no such letter, `Never` when it does not
    decode."""
    found: Message | None = None
    for message in scan(settings, topics.deadletters(settings, product)):
        about = _about(message)
        if about.get("dl_place") == place and "dl_state" not in about:
            found = message
    kind = topics.kind_of(settings, place.split("/")[0])
    if found is None or kind is None:
        raise Stop(f"there is no dead letter of {place}; `bus deadletters list` names their places")
    return Decoder(kind, schema_lookup(settings)).decode(found.value())


def masked(kind: str, record: Record) -> dict[str, str]:
    """A record in which personal values are told by their class alone; ids stay, as by them it is
    found. What is personal is said by the schema (`sensitivity`)."""
    open_ = {
        field["name"]
        for field in KINDS[kind].schema["fields"]
        if field.get("sensitivity") in ("operational", "public")
        or field["name"].endswith(("ourcedId", "ourcedIds"))
    }
    return {
        name: str(value) if name in open_ or value in (None, [], "") else value_class(value)
        for name, value in record.items()
    }


def value_class(value: Any) -> str:
    """What sort of value it is, never it."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, list | tuple | dict):
        return f"{len(value)} values"
    return type(value).__name__


def record_look(settings: Settings, product: str, place: str, why: str, by: str) -> None:
    """Note in the audit topic that somebody looks at a letter's values, before they do.

    Raises `Stop` without a reason, `RetryLater` when Kafka does not take the note: then nothing may
    be shown.
    """
    if not why.strip():
        raise Stop("who looks at personal data says why, which is kept: add --why")
    topics.ensure(settings, [topics.audit(settings)])
    failed: list[object] = []
    producer = Producer(client_settings(settings) | {"enable.idempotence": True, "acks": "all"})
    note = {"by": by, "at": now(), "why": why, "product": product, "place": place}
    producer.produce(
        topics.audit(settings),
        json.dumps({"what": "looked at a dead letter", **note}).encode(),
        on_delivery=lambda error, _: failed.append(error) if error else None,
    )
    if producer.flush(60) or failed:
        raise RetryLater("the look could not be noted, so nothing is shown; try again")


def _about(message: Message) -> dict[str, str]:
    return {
        name: value.decode("utf-8", "replace")
        for name, value in headers_of(message)
        if name.startswith("dl_") and value is not None
    }
