"""Lists the applied agreements, and marks those that a privacy officer must look at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from bus.settings import Settings
from bus.vendors import deletion, narrowing, ways, written_editions
from bus.vendors.applied import Applied
from bus.vendors.end_warnings import ends_in, renewal_of, threshold
from bus.vendors.scope import compile_scope
from bus.vendors.vendor_topics import group_prefix, topics_by_kind


@dataclass(frozen=True, slots=True)
class ListedAgreement:
    """One agreement in the list.

    state: active, pending (before `from`), ended or revoked.
    note:  what a person should know: that it ends soon, that its topics are written again after it
           was narrowed, that the vendor has never read or reads late, or whether the vendor's
           attestation is due, overdue or recorded.
    days:  the days until its last day; negative after it.
    due:   the day by which the vendor must attest its deletion; None while the agreement is active,
           and if a renewal takes over the data.
    read:  whether one of the vendor's consumer groups, or the consumer of another way out, has ever
           committed an offset.
    late:  the names of those of these groups that have left messages unread for more than 30 days
           (`bus.kafka.late_groups`), sorted. They may have missed deletions. Empty unless the
           agreement is active.

    attested:     the day of the attestation; None if there is none yet.
    deleted:      the day on which the bus deleted the vendor's topics and keys; None before that.
    deletion_due: the day on which the bus must delete them; None while the agreement is active, and
                  after the deletion.
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
    attested: date | None = None
    deleted: date | None = None
    deletion_due: date | None = None
    late: tuple[str, ...] = ()

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
            "attestedOn": self.attested and self.attested.isoformat(),
            "deletionDue": self.deletion_due and self.deletion_due.isoformat(),
            "deletedOn": self.deleted and self.deleted.isoformat(),
            "everRead": self.read,
            "lateGroups": list(self.late),
        }


def listed(
    settings: Settings,
    applied: Iterable[Applied],
    groups: Mapping[str, Collection[str]],
    day: date,
) -> list[ListedAgreement]:
    """Return the applied agreements, ordered by their last day.

    groups: the consumer groups that have committed offsets, with the topics that each reads late
            (`bus.kafka.overview.reading_groups`).
    day:    today, in the district's calendar.
    """
    found = []
    applied = list(applied)
    written = written_editions.read_all(settings) if any(one.narrowed for one in applied) else {}
    for one in applied:
        prefixes = (
            group_prefix(settings, one.ids_name),
            settings.topic(ways.consumer_name(one.ids_name, "")),
        )
        own = {group: late for group, late in groups.items() if group.startswith(prefixes)}
        renewal = renewal_of(one.name, (other.agreement for other in applied))
        late = _late(settings, one, own)
        unwritten = narrowing.unwritten(one, written)
        found.append(_listed(one, bool(own), late, renewal, day, unwritten=unwritten))
    return sorted(found, key=lambda one: (one.until, one.name))


def _late(
    settings: Settings, one: Applied, groups: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """Return the groups that read a topic of this agreement late, each with a short name.

    A way that the agreement no longer has does not count, nor a kind that it no longer shares: no
    program reads them any more.
    """
    shared = set(topics_by_kind(settings, compile_scope(one.agreement), one.ids_name).values())
    prefix = group_prefix(settings, one.ids_name)
    served = {
        settings.topic(ways.consumer_name(one.ids_name, product)): product
        for product, way in ways.PRODUCTS.items()
        if getattr(one.agreement, way.table) is not None
    }
    return {
        # The vendor chooses the name: it may have characters that confuse a terminal.
        group: served.get(group) or ascii(group.removeprefix(prefix))[1:-1]
        for group, late in sorted(groups.items())
        if (group.startswith(prefix) or group in served) and not shared.isdisjoint(late)
    }


def _listed(
    one: Applied, read: bool, late: Mapping[str, str], renewal: str, day: date, *, unwritten: bool
) -> ListedAgreement:
    agreement = one.agreement
    state, note, due = "active", "", None
    days = (agreement.until - day).days
    if one.over(day):
        state = "revoked" if one.state == "revoked" else "ended"
        if state == "ended" and renewal:
            note = f"renewed by {renewal}"
        else:
            due = one.attestation_day
            note = f"attestation {'overdue since' if day > due else 'due on'} {due}"
            if one.attestation is not None:
                note = f"attested on {one.attestation.on}"
        if deletion.due(one, day) and day > one.deletion_day:
            note += f", deletion overdue since {one.deletion_day}"
    elif day < agreement.from_:
        state, note = "pending", f"begins on {agreement.from_}"
    elif threshold(agreement, day) is not None:
        note = ends_in(agreement, day) + (f", renewed by {renewal}" if renewal else "")
    if state != "active" or not agreement.flows:
        late = {}
    else:
        again = "topics are written again" if unwritten else ""
        reads = f"reads late: {', '.join(late.values())}" if late else ""
        parts = (note, again, reads if read else "never read")
        note = ", ".join(part for part in parts if part)
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
        one.attestation.on if one.attestation else None,
        one.certificate.deleted_at.date()
        if one.certificate and one.certificate.deleted_at
        else None,
        one.deletion_day if one.over(day) and not one.deleted else None,
        tuple(late),
    )
