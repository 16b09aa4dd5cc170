"""Fits an agreement to a sandbox: it holds today, and its guard does not stop a made-up district.

Everything else stays as it is in the file, so that the vendor receives what it will receive from
the district: the same kinds, fields, ids and topics.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from bus.errors import Stop
from bus.vendors.agreement import Agreement, Guard

NO_GUARD = Guard(share=1, students=1_000_000_000)
"""Never stops. A day of the sandbox lasts some seconds, so many students move at once."""


@dataclass(frozen=True, slots=True)
class FittedAgreement:
    """An agreement as a sandbox applies it.

    agreement: the agreement. Its name is the one in the vendor's topics.
    notes:     what differs from the file, as sentences for a person.
    """

    agreement: Agreement
    notes: tuple[str, ...]


def fitted(agreement: Agreement, day: date) -> FittedAgreement:
    """Return an agreement as it can be applied on this day.

    If the agreement does not hold on this day, its dates are moved by its length, as often as
    needed. The moved dates are therefore the same on each day of that period.

    Raises `Stop` if the agreement shares nothing through Kafka, or if its last day is before its
    first.
    """
    if "kafka" not in agreement.ways:
        raise Stop(
            f'{agreement.name} shares nothing through Kafka: its `ways` do not name "kafka", and a '
            "sandbox serves no other way"
        )
    if agreement.until < agreement.from_:
        raise Stop(
            f"{agreement.name}: the last day, {agreement.until}, is before the first, "
            f"{agreement.from_}; ask the district for the correct file"
        )
    changes: dict[str, object] = {"guard": NO_GUARD}
    notes = []
    if not agreement.active(day):
        length = (agreement.until - agreement.from_).days + 1
        moved = timedelta(days=(day - agreement.from_).days // length * length)
        changes["from_"] = agreement.from_ + moved
        changes["until"] = agreement.until + moved
        if agreement.history:
            changes["history"] = agreement.history + moved
        notes.append(
            f"The agreement holds from {agreement.from_} to {agreement.until}. So that it holds "
            f"today, the sandbox moves its dates by {moved.days:+,} days."
        )
    if agreement.renews:
        changes |= {"name": agreement.renews, "renews": ""}
        notes.append(
            f"The agreement renews {agreement.renews}, so its topics have that name. If "
            f"{agreement.renews} renews another one, the district's topics have the name of the "
            "first."
        )
    return FittedAgreement(agreement.model_copy(update=changes), tuple(notes))
