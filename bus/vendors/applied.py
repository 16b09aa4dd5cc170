"""The agreements that have been applied, and their states.

The topic `PREFIX.vendors` is the store of record. It is compacted forever. The key is an
agreement's name, and the value is JSON: the whole agreement as it was applied, its state, and its
wrapped keys. The files in the district's git say what should be in force; this topic says what is
in force. So deleting a file ends no agreement.

When the bus deletes the vendor's data, it keeps the entry as proof, but without the key. Kafka then
removes the earlier entries of the agreement, which have the key (`bus.kafka.topics.ERASABLE`).

Only a rotation of the master key and a rekey replace keys. Another command, such as a slow `bus
vendors apply`, may have read the topic before the replacement, and may write the old keys after it.
So each replacement raises `key_version`, and a rekey also `rekeyed`. The keys with the highest
numbers are valid (`Applied.keys_age`), even if a later entry has others. They are valid for all
agreements of a chain of renewals, so a chain never has two keys.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Literal

from bus.errors import Stop
from bus.kafka import topics
from bus.kafka.reader import scan
from bus.kafka.sender import Sender
from bus.settings import Settings
from bus.vendors import written_editions
from bus.vendors.agreement import Agreement, parse
from bus.vendors.proof import Attestation, Certificate, attestation_of, certificate_of

State = Literal["active", "ended", "revoked"]


@dataclass(frozen=True, slots=True)
class Applied:
    """An agreement that has been applied.

    agreement:   the agreement as it was applied last.
    state:       active: applied, and neither revoked nor recorded as ended. An agreement counts
                 as ended from the day after `until`, also while the state is still "active".
    ids_name:    the name in topics, groups, users and ids: the agreement's own, or with `renews`
                 that of the first agreement of the chain.
    wrapped_key: the key of the pseudonyms, wrapped by the master key (`bus.vendors.pseudonyms`);
                 empty when it is deleted.
    applied_at:  when it was applied last, UTC.
    fingerprint: the SHA-256 of the agreement's canonical JSON, in hexadecimal.
    ended_at:    when it was revoked or recorded as ended, UTC.
    why:         the reason of a revocation.
    confirmed:   how often a person has confirmed what the projection's guard stopped.
    closed:      equals `state` once the end is complete: the access is closed, and the record of
                 disclosures has the end. Otherwise "" or an earlier state.
    certificate: what was or is being deleted; None before the deletion begins.
    attestation: the vendor's statement that it deleted what it had received; None if there is none.
    earlier_key: the key before the last rekey, wrapped, for the crosswalk; empty without a rekey.
    next_key:    the key of a rekey that has begun, wrapped. It is not in use yet. Otherwise empty.
    rekeyed:     how many times a rekey has changed the ids.
    key_version: how many times the wrapped keys were replaced, by a rekey or by another master key.
    narrowed:    whether the topics may show more than the agreement says, until this edition is
                 written (`bus.vendors.narrowing`).
    """

    agreement: Agreement
    state: State
    ids_name: str
    wrapped_key: bytes
    applied_at: datetime
    fingerprint: str
    ended_at: datetime | None = None
    why: str = ""
    confirmed: int = 0
    closed: State | Literal[""] = ""
    certificate: Certificate | None = None
    attestation: Attestation | None = None
    earlier_key: bytes = b""
    next_key: bytes = b""
    rekeyed: int = 0
    key_version: int = 0
    narrowed: bool = False

    @property
    def name(self) -> str:
        """The agreement's name."""
        return self.agreement.name

    @property
    def edition(self) -> str:
        """A text that changes when the agreement's content or the vendor's ids change.

        The projection then writes the vendor's topics whole. Each message has the beginning of this
        text in a header (`bus.vendors.outbox.scope_mark`).

        A narrowed agreement never has an edition that was written before, even if its content is
        as it was once.
        """
        text = f"{self.rekeyed}/{self.fingerprint}" if self.rekeyed else self.fingerprint
        return f"{text}@{self.applied_at.isoformat()}" if self.narrowed else text

    @property
    def keys_age(self) -> tuple[int, int]:
        """The age of the keys, for comparison. A rekey makes newer keys than any rotation."""
        return self.rekeyed, self.key_version

    def active(self, day: date) -> bool:
        """Return whether the vendor may receive data on this day of the district's calendar."""
        return self.state == "active" and self.agreement.active(day)

    def over(self, day: date) -> bool:
        """Return whether the agreement was revoked or has ended, by its state or by its date."""
        return self.state != "active" or day > self.agreement.until

    @property
    def last_day(self) -> date:
        """The last day in the district's calendar: that of the revocation, or `until`."""
        if self.state == "revoked" and self.ended_at is not None:
            return self.ended_at.astimezone().date()
        return self.agreement.until

    @property
    def deletion_day(self) -> date:
        """The day on which the bus deletes what it has for the vendor."""
        return self.last_day + timedelta(days=self.agreement.deletion.days)

    @property
    def attestation_day(self) -> date:
        """The day by which the vendor must attest its own deletion."""
        return self.last_day + timedelta(days=self.agreement.deletion.attestation_days)

    @property
    def deleted(self) -> bool:
        """Whether the bus has deleted everything that it had under this agreement."""
        return self.certificate is not None and self.certificate.deleted_at is not None


KEY_FIELDS = ("wrapped_key", "earlier_key", "next_key", "rekeyed", "key_version")
"""The fields of `Applied` that are the same in all agreements of a chain."""


class StaysOver(Stop):
    """An entry would make an agreement active that has been revoked or has ended since."""


def with_keys_of(one: Applied, other: Applied) -> Applied:
    """Return an agreement with the keys of another agreement of its chain."""
    return replace(one, **{name: getattr(other, name) for name in KEY_FIELDS})


def today() -> date:
    """Return today's date in the calendar of this machine, which is the district's."""
    return datetime.now().astimezone().date()


def as_table(agreement: Agreement) -> dict[str, Any]:
    """Return an agreement as its file has it, with all defaults, as JSON values."""
    return agreement.model_dump(mode="json", by_alias=True)


def rekeys(edition: str) -> int:
    """Return how many times a rekey had changed the ids when this was `Applied.edition`."""
    times, separator, _ = edition.partition("/")
    return int(times) if separator else 0


def fingerprint(agreement: Agreement) -> str:
    """Return the SHA-256 of an agreement's canonical JSON, in hexadecimal."""
    text = json.dumps(
        as_table(agreement), ensure_ascii=False, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()


def read(settings: Settings) -> dict[str, Applied]:
    """Return the applied agreements by name, in order.

    An agreement that was revoked or has ended stays so. If a later entry says "active", it is
    ignored: it comes from a command that had read the topic before the revocation and wrote after
    it. For the same reason, an entry that lacks a certificate or an attestation gets it from the
    entry before, and a key that was deleted stays deleted.

    Raises `RetryLater` if Kafka does not answer. Raises `Stop` if an entry cannot be read.
    """
    found: dict[str, Applied | Stop] = {}
    keyed: dict[str, Applied] = {}  # the entry with the newest keys
    topic = topics.vendors(settings)
    for message in scan(settings, topic):
        if written_editions.is_note(message.key() or b""):
            continue
        name, value = (message.key() or b"").decode(), message.value()
        if not value:
            found.pop(name, None)
            keyed.pop(name, None)
            continue
        try:
            one = _decode(name, value, topic)
        except Stop as error:  # it counts only if no later entry takes its place
            found[name] = error
            continue
        before = found.get(name)
        found[name] = _after(one, before) if isinstance(before, Applied) else one
        if name not in keyed or one.keys_age >= keyed[name].keys_age:
            keyed[name] = one
    entries: dict[str, Applied] = {}
    for name, last in sorted(found.items()):
        if isinstance(last, Stop):
            raise last
        entries[name] = last
    return {name: _with_newest_keys(one, keyed.values()) for name, one in entries.items()}


def _after(one: Applied, before: Applied) -> Applied:
    """Return an entry with those parts of the entry before that it may not undo."""
    if before.state == "active":
        return one
    if one.state == "active":
        return before
    certificate, known = one.certificate, before.certificate
    if known is not None:
        if certificate is None or known.deleted_at is not None:
            certificate = known
        else:
            certificate = replace(certificate, deleted=known.deleted.with_more(certificate.deleted))
    if known is not None and known.deleted_at is not None:
        one = replace(one, wrapped_key=b"", earlier_key=b"", next_key=b"")
    return replace(
        one,
        certificate=certificate,
        attestation=before.attestation or one.attestation,
        closed=before.closed if before.closed == one.state else one.closed,
    )


def _with_newest_keys(one: Applied, others: Iterable[Applied]) -> Applied:
    """Return an agreement with the newest keys of its chain; deleted keys stay deleted."""
    chain = [other for other in others if other.ids_name == one.ids_name and other.wrapped_key]
    newest = max(chain, key=lambda other: other.keys_age, default=one)
    later = newest.keys_age > one.keys_age and one.wrapped_key
    return with_keys_of(one, newest) if later else one


def write(settings: Settings, *entries: Applied) -> None:
    """Store applied agreements, and wait until Kafka has stored them.

    If Kafka has newer keys for the chain, the entries get these keys.

    Raises `StaysOver` if an entry would make an agreement active that has been revoked or has ended
    since; its state stays. Raises the errors of `bus.kafka.topics.ensure` and
    `bus.kafka.sender.Sender.flush`.
    """
    topic = topics.vendors(settings)
    stored = read(settings)
    if not stored:
        topics.ensure(settings, [topic])
    _refuse_revival(stored, entries)
    entries = tuple(_with_newest_keys(one, stored.values()) for one in entries)
    _send(settings, topic, entries)
    stored = read(settings)
    # Kafka keeps only the last entry of a key. If another process wrote at the same time, the last
    # entry may lack a revocation, a proof or newer keys that an earlier entry has.
    if less := [stored[one.name] for one in entries if stored.get(one.name, one) != one]:
        _send(settings, topic, less)
    _refuse_revival(stored, entries)


def _refuse_revival(stored: Mapping[str, Applied], entries: Iterable[Applied]) -> None:
    """Raise `StaysOver` if an entry would make an agreement active that is revoked or ended."""
    for one in entries:
        if one.state == "active" and one.name in stored and stored[one.name].state != "active":
            raise StaysOver(
                f"the agreement {one.name} is {stored[one.name].state}, and stays so; run "
                "`bus vendors plan` to see what is left to do"
            )


def _send(settings: Settings, topic: str, entries: Iterable[Applied]) -> None:
    sender = Sender(settings, topic, "store the agreements")
    for one in entries:
        sender.add(_encode(one), one.name.encode())
    sender.flush()


def _encode(applied: Applied) -> bytes:
    value = {
        "agreement": as_table(applied.agreement),
        "state": applied.state,
        "idsName": applied.ids_name,
        "wrappedKey": b64encode(applied.wrapped_key).decode(),
        "appliedAt": applied.applied_at.isoformat(),
        "fingerprint": applied.fingerprint,
        "endedAt": applied.ended_at.isoformat() if applied.ended_at else None,
        "why": applied.why,
        "confirmed": applied.confirmed,
        "closed": applied.closed,
        "certificate": applied.certificate and applied.certificate.as_json(),
        "attestation": applied.attestation and applied.attestation.as_json(),
        "earlierKey": b64encode(applied.earlier_key).decode(),
        "nextKey": b64encode(applied.next_key).decode(),
        "rekeyed": applied.rekeyed,
        "keyVersion": applied.key_version,
        "narrowed": applied.narrowed,
    }
    return json.dumps(value, ensure_ascii=False).encode()


def _decode(name: str, value: bytes, topic: str) -> Applied:
    where = f"the entry {name} of topic {topic}"
    try:
        table = json.loads(value)
        ended_at = table["endedAt"]
        return Applied(
            agreement=parse(name, table["agreement"], where),
            state=table["state"],
            ids_name=table["idsName"],
            wrapped_key=b64decode(table["wrappedKey"], validate=True),
            applied_at=datetime.fromisoformat(table["appliedAt"]),
            fingerprint=table["fingerprint"],
            ended_at=datetime.fromisoformat(ended_at) if ended_at else None,
            why=table["why"],
            confirmed=table["confirmed"],
            closed=table.get("closed", ""),
            certificate=certificate_of(table.get("certificate")),
            attestation=attestation_of(table.get("attestation")),
            earlier_key=b64decode(table.get("earlierKey", ""), validate=True),
            next_key=b64decode(table.get("nextKey", ""), validate=True),
            rekeyed=table.get("rekeyed", 0),
            key_version=table.get("keyVersion", 0),
            narrowed=table.get("narrowed", False),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Stop(
            f"{where} cannot be read ({type(error).__name__}): another version of Schoolbus wrote "
            "it, or another program; use the version that wrote it"
        ) from None
