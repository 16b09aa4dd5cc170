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
from typing import TYPE_CHECKING

from bus.errors import Stop
from bus.kafka import topics
from bus.kafka.cloudevents import Headers, headers_of, now
from bus.kafka.reader import scan
from bus.kafka.sender import Sender, send
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard import Record
from bus.standard.fault_codes import FaultCode, code_of_earlier

if TYPE_CHECKING:
    from confluent_kafka import Message


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, without its content.

    kind and id name the record; place is topic/partition/offset of the original; time is UTC.
    state: what became of it: "" as long as nothing did.
    code:  why, for a program; see `bus.standard.fault_codes`.
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
        """Add one, or one that was added and not written yet once more; `flush` writes it."""
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
        """Write all that was added, and return when Kafka has it.

        Raises `RetryLater` when Kafka does not take it: it is written again the next time. Raises
        `Stop` when a person must act first. The loop commits no offset before this has returned.
        """
        for letter in self._added.values():
            self._sender.add(*letter)
        self._sender.flush()
        self._added.clear()


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
            # Letters of version 0.1.0 have a text alone.
            code=about.get("dl_code") or code_of_earlier(about.get("dl_reason", "")),
        )
    return list(letters.values())


def choose(
    letters: Iterable[DeadLetter],
    *,
    places: Collection[str] = (),
    kinds: Collection[str] = (),
    reason: str = "",
    code: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[DeadLetter]:
    """Those of these letters that lie at one of these places, are of these kinds, hold a text in
    their reason, have a code, and are from a time on and before another; what is not named does
    not matter.

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
        and code in ("", letter.code)
        and (since is None or datetime.fromisoformat(letter.time) >= since)
        and (until is None or datetime.fromisoformat(letter.time) < until)
    ]


def mark(
    settings: Settings, product: str, letters: Iterable[DeadLetter], state: str, why: str, by: str
) -> None:
    """Note what became of these. Raises `RetryLater` when Kafka does not take it, `Stop` when this
    user may not write it."""
    doing = f"note which dead letters are {state}"
    sender = Sender(settings, topics.deadletters(settings, product), doing)
    for letter in letters:
        headers: Headers = [
            ("dl_place", letter.place.encode()),
            ("dl_state", state.encode()),
            ("dl_by", by.encode()),
            ("dl_time", now().encode()),
            ("dl_why", why.encode()),
        ]
        sender.add(None, letter.id.encode(), headers)
    sender.flush()


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


def record_look(settings: Settings, product: str, place: str, why: str, by: str) -> None:
    """Note in the audit topic that somebody looks at a letter's values, before they do.

    Raises `Stop` without a reason, `RetryLater` when Kafka does not take the note: then nothing may
    be shown.
    """
    if not why.strip():
        raise Stop("who looks at personal data says why, which is kept: add --why")
    topics.ensure(settings, [topics.audit(settings)])
    note = {"by": by, "at": now(), "why": why, "product": product, "place": place}
    send(
        settings,
        topics.audit(settings),
        json.dumps({"what": "looked at a dead letter", **note}).encode(),
        doing="note the look",
        later="nothing is shown; try again when it is up",
    )


def _about(message: Message) -> dict[str, str]:
    return {
        name: value.decode("utf-8", "replace")
        for name, value in headers_of(message)
        if name.startswith("dl_") and value is not None
    }
