"""Records that a vendor attested that it deleted what it had received.

The agreement sets the last day for the attestation (`Applied.attestation_day`). The bus cannot
check what a vendor did. So it keeps the name of the person who attested, the day, and the SHA-256
of the document.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from hashlib import file_digest
from pathlib import Path

from bus.errors import Stop
from bus.settings import Settings
from bus.vendors import applied as store
from bus.vendors import revocation
from bus.vendors.applied import Applied
from bus.vendors.disclosures import DisclosureWriter
from bus.vendors.proof import Attestation


def attest(
    settings: Settings,
    name: str,
    attestation: Attestation,
    day: date,
    now: datetime,
    record: DisclosureWriter,
) -> tuple[Applied, bool]:
    """Store a vendor's attestation. Return the stored agreement, and whether it changed.

    The first attestation is never replaced. A second call completes a first one that was
    interrupted.

    day: today, in the district's calendar.
    now: the time, UTC.

    Raises `Stop` if the agreement is not over, if the day of the attestation is before the end or
    in the future, or if another attestation is stored.
    """
    stored = store.read(settings)
    one = revocation.find(stored, name)
    if not one.over(day):
        raise Stop(
            f"{name} is active until {one.agreement.until}: a vendor attests its deletion after "
            "the end"
        )
    known = one.attestation
    if known is None:
        _check(one, attestation, day)
        one = replace(one, attestation=attestation)
        store.write(settings, one)
    elif known != attestation:
        raise Stop(
            f"{name} was attested before, on {known.on}, by somebody else or with another "
            "document; that stays"
        )
    statement = f"sha256:{attestation.document}" if attestation.document else ""
    record.attested(name, now, attestation.by, statement)
    return one, known is None


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a document, in hexadecimal. Raises `Stop` if it cannot be read."""
    try:
        with file.open("rb") as content:
            return file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise Stop(f"the document {file} cannot be read ({error.strerror})") from None


def _check(one: Applied, attestation: Attestation, day: date) -> None:
    if not attestation.by.strip():
        raise Stop("name who attested the deletion: --by WHO")
    if attestation.on > day:
        raise Stop(f"{attestation.on} is in the future: give the day of the attestation")
    if attestation.on < one.last_day:
        raise Stop(
            f"{attestation.on} is before the end of {one.name} on {one.last_day}: ask the vendor "
            "for an attestation from after the end"
        )
