"""The dead letters of a product: events that could not be delivered, with the reason.

Each product has one topic, `PREFIX.deadletters.PRODUCT`. Each way of an agreement has another topic
(`bus.vendors.ways`), which the vendor cannot read. Key, value and headers are those of the
original message, byte for byte. Further headers, `dl_…`, hold the reason, the time, the number of
attempts, and where the original message is.

When a dead letter is retried or discarded, another message follows. It has the key of the dead
letter, no value, `dl_place`, and the new state in `dl_state` (retried, discarded). The headers
`dl_by`, `dl_time` and `dl_why` say who did it, when and why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from bus.errors import Stop
from bus.kafka import topics
from bus.kafka.audit import record_access
from bus.kafka.cloudevents import Headers, headers_of, now
from bus.kafka.reader import scan
from bus.kafka.sender import Sender
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard import KINDS, Record
from bus.standard.fault_codes import FaultCode, code_of_earlier

if TYPE_CHECKING:
    from confluent_kafka import Message


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, without its content.

    kind:     the kind of the record.
    id:       the sourcedId of the record.
    reason:   why it could not be delivered, for a person.
    attempts: how many times the delivery was tried.
    time:     when the dead letter was written, in UTC.
    place:    where the original message is: topic/partition/offset.
    state:    "retried" or "discarded"; "" until then.
    code:     why it could not be delivered, for a program; see `bus.standard.fault_codes`.
    """

    kind: str
    id: str
    reason: str
    attempts: int
    time: str
    place: str
    state: str = ""
    code: str = FaultCode.OTHER


class DeadLetters:
    """Writes the dead letters of one product."""

    def __init__(self, settings: Settings, product: str) -> None:
        self._product = product
        self._added: dict[str, tuple[bytes | None, bytes | None, Headers]] = {}
        self._sender = Sender(
            settings,
            topics.deadletters(settings, product),
            "write dead letters",
            later="they are written again when Kafka takes them",
            more={"compression.type": "lz4"},
        )

    def add(
        self, message: Message, reason: str, attempts: int = 1, code: str = FaultCode.OTHER
    ) -> None:
        """Add a dead letter, which `flush` writes.

        If the same message was added before and is not written yet, this replaces it.
        """
        extra: Headers = [
            ("dl_reason", reason.encode()),
            ("dl_code", code.encode()),
            ("dl_attempts", str(attempts).encode()),
            ("dl_product", self._product.encode()),
            ("dl_time", now().encode()),
            ("dl_place", place(message).encode()),
        ]
        headers: Headers = [*headers_of(message), *extra]
        self._added[place(message)] = message.value(), message.key(), headers

    def flush(self) -> None:
        """Write all dead letters that were added. Return when Kafka has them.

        Raises `RetryLater` when Kafka does not take them: the next call writes them again. Raises
        `Stop` when a person must act first. The loop commits no offset before this has returned.
        """
        for dead_letter in self._added.values():
            self._sender.add(*dead_letter)
        self._sender.flush()
        self._added.clear()


def place(message: Message) -> str:
    """Return where a message is: topic/partition/offset."""
    return f"{message.topic()}/{message.partition()}/{message.offset()}"


def read(settings: Settings, product: str) -> list[DeadLetter]:
    """Return all dead letters of a product, oldest first.

    After a crash, a message may have two dead letters. Only the later one is returned.
    """
    dead_letters: dict[str, DeadLetter] = {}
    for message in scan(settings, topics.deadletters(settings, product)):
        about = _about(message)
        where = about.get("dl_place", "")
        before = dead_letters.pop(where, None)
        if state := about.get("dl_state"):
            if before:
                dead_letters[where] = replace(before, state=state)
            continue
        dead_letters[where] = DeadLetter(
            kind=_kind(settings, where) or "",
            id=(message.key() or b"").decode("utf-8", "replace"),
            reason=about.get("dl_reason", ""),
            attempts=int(about.get("dl_attempts", "1")),
            time=about.get("dl_time", ""),
            place=where,
            # Dead letters of version 0.1.0 have a reason and no code.
            code=about.get("dl_code") or code_of_earlier(about.get("dl_reason", "")),
        )
    return list(dead_letters.values())


def choose(
    dead_letters: Iterable[DeadLetter],
    *,
    places: Collection[str] = (),
    kinds: Collection[str] = (),
    reason: str = "",
    code: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[DeadLetter]:
    """Return the dead letters that match all of these filters. An empty filter matches all.

    places: where the original messages are: topic/partition/offset.
    kinds:  the kinds of the records.
    reason: a text that the reason contains, ignoring case.
    code:   the code of the reason.
    since:  the earliest time.
    until:  the first time that no longer matches.

    Raises `Stop` when there is no dead letter for one of the places.
    """
    found = list(dead_letters)
    if missing := set(places) - {dead_letter.place for dead_letter in found}:
        raise Stop(
            f"there is no dead letter at {', '.join(sorted(missing))}; "
            "`bus deadletters list` shows the place of each"
        )
    return [
        dead_letter
        for dead_letter in found
        if (not places or dead_letter.place in places)
        and (not kinds or dead_letter.kind in kinds)
        and reason.lower() in dead_letter.reason.lower()
        and code in ("", dead_letter.code)
        and (since is None or datetime.fromisoformat(dead_letter.time) >= since)
        and (until is None or datetime.fromisoformat(dead_letter.time) < until)
    ]


def mark(
    settings: Settings,
    product: str,
    dead_letters: Iterable[DeadLetter],
    state: str,
    why: str,
    by: str,
) -> None:
    """Record the new state of these dead letters.

    state: "retried" or "discarded".
    why:   the reason, for a person.
    by:    who did it.

    Raises `RetryLater` when Kafka does not take it, `Stop` when this user may not write it.
    """
    doing = f"record which dead letters are {state}"
    sender = Sender(settings, topics.deadletters(settings, product), doing)
    for dead_letter in dead_letters:
        headers: Headers = [
            ("dl_place", dead_letter.place.encode()),
            ("dl_state", state.encode()),
            ("dl_by", by.encode()),
            ("dl_time", now().encode()),
            ("dl_why", why.encode()),
        ]
        sender.add(None, dead_letter.id.encode(), headers)
    sender.flush()


def content(settings: Settings, product: str, place: str) -> Record:
    """Return the record of a dead letter.

    Raises `Stop` when there is no such dead letter, `Never` when it does not decode.
    """
    found: Message | None = None
    for message in scan(settings, topics.deadletters(settings, product)):
        about = _about(message)
        if about.get("dl_place") == place and "dl_state" not in about:
            found = message
    kind = _kind(settings, place)
    if found is None or kind is None:
        raise Stop(
            f"there is no dead letter at {place}; `bus deadletters list` shows the place of each"
        )
    # The topics of an agreement have separate schemas.
    shared = topics.is_vendor_topic(settings, place)
    return Decoder(kind, schema_lookup(settings), as_written=shared).decode(found.value())


def record_look(settings: Settings, product: str, place: str, why: str, by: str) -> None:
    """Record in the audit topic that somebody looks at a dead letter's values.

    Call this before the values are shown. Raises `Stop` without a reason. Raises `RetryLater` when
    Kafka does not accept this entry: then nothing may be shown.

    why: the reason, for a person.
    by:  who looks at the values.
    """
    about = {"product": product, "place": place}
    record_access(settings, "looked at a dead letter", why=why, by=by, **about)


def _kind(settings: Settings, place: str) -> str | None:
    """Return the kind of the record at a place: in the district's topics, or in a vendor's."""
    topic = place.split("/")[0]
    if topics.is_vendor_topic(settings, topic):
        kind = topic.rpartition(".")[2]
        return kind if kind in KINDS else None
    return topics.kind_of(settings, topic)


def _about(message: Message) -> dict[str, str]:
    """Return the `dl_` headers of a message."""
    return {
        name: value.decode("utf-8", "replace")
        for name, value in headers_of(message)
        if name.startswith("dl_") and value is not None
    }
