"""Changes an agreement for a sandbox: it is active today, and its guard is off.

Everything else stays as it is in the file. So the vendor receives the same kinds, fields and
topics, and ids of the same form, as later from the district.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from bus.errors import Stop
from bus.vendors.agreement import Agreement, Guard

NO_GUARD = Guard(share=1, students=1_000_000_000)
"""A guard that never stops the projection. A day of the sandbox lasts only seconds, so many
students move at once."""


@dataclass(frozen=True, slots=True)
class FittedAgreement:
    """An agreement as a sandbox applies it.

    agreement: the agreement. Its name is the one in the vendor's topics.
    notes:     the differences from the file, as sentences for a person.
    """

    agreement: Agreement
    notes: tuple[str, ...]


def fitted(agreement: Agreement, day: date) -> FittedAgreement:
    """Return an agreement as it can be applied on this day.

    If the agreement is not active on this day, its dates move by its length, as many times as
    necessary. So the moved dates are the same on each day of that period.

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
    changes: dict[str, object] = {
        "guard": NO_GUARD,
        "ways": ("kafka",),
        "webhook": None,
        "csv": None,
    }
    notes = []
    if agreement.webhook or agreement.csv or agreement.ways != ("kafka",):
        notes.append("The sandbox serves Kafka alone; it does not send anything by the other ways.")
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
