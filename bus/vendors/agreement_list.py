"""Lists the applied agreements, with what a privacy officer must act on."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

from bus.settings import Settings
from bus.vendors import ways
from bus.vendors.applied import Applied
from bus.vendors.summary import attestation_due
from bus.vendors.vendor_topics import group_prefix

SOON = 30
"""An agreement that ends within this many days is marked."""


@dataclass(frozen=True, slots=True)
class ListedAgreement:
    """One agreement in the list.

    state: active, pending (before `from`), ended or revoked.
    note:  what to act on: that it ends soon, that the vendor has never read, or when the vendor's
           attestation is due.
    days:  the days until its last day; negative after it.
    due:   the day by which the vendor must attest its deletion; None while the agreement runs.
    read:  whether one of the vendor's consumer groups, or the consumer of another way out, has ever
           committed an offset.
    """

    name: str
    vendor: str
    purpose: str
    from_: date
    until: date
    state: str
    note: str
    days: int
    due: date | None
    read: bool

    def as_json(self) -> dict[str, Any]:
        """Return the agreement as JSON values."""
        return {
            "name": self.name,
            "vendor": self.vendor,
            "purpose": self.purpose,
            "from": self.from_.isoformat(),
            "until": self.until.isoformat(),
            "state": self.state,
            "note": self.note,
            "daysLeft": self.days,
            "attestationDue": self.due and self.due.isoformat(),
            "everRead": self.read,
        }


def listed(
    settings: Settings, applied: Iterable[Applied], groups: Collection[str], day: date
) -> list[ListedAgreement]:
    """Return the applied agreements, with the first that ends first.

    groups: the consumer groups that have committed offsets (`bus.kafka.overview.reading_groups`).
    day:    today, in the district's calendar.
    """
    found = []
    for one in applied:
        prefixes = (
            group_prefix(settings, one.ids_name),
            settings.topic(ways.consumer_name(one.ids_name, "")),
        )
        read = any(group.startswith(prefixes) for group in groups)
        found.append(_listed(one, read, day))
    return sorted(found, key=lambda one: (one.until, one.name))


def _listed(one: Applied, read: bool, day: date) -> ListedAgreement:
    agreement = one.agreement
    state, note, due = "active", "", None
    days = (agreement.until - day).days
    if one.over(day):
        state = "revoked" if one.state == "revoked" else "ended"
        last = one.ended_at.date() if state == "revoked" and one.ended_at else agreement.until
        due = attestation_due(agreement, last)
        late = (day - due).days
        note = f"attestation due on {due}" if late <= 0 else f"attestation overdue since {due}"
    elif day < agreement.from_:
        state, note = "pending", f"begins on {agreement.from_}"
    elif days <= SOON:
        note = "ends today" if days == 0 else f"ends in {days} {'day' if days == 1 else 'days'}"
    if state == "active" and agreement.flows and not read:
        note = ", ".join(part for part in (note, "never read") if part)
    return ListedAgreement(
        agreement.name,
        agreement.vendor,
        agreement.purpose,
        agreement.from_,
        agreement.until,
        state,
        note,
        days,
        due,
        read,
    )
