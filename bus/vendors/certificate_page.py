"""Shows the certificate of deletion of an agreement: as JSON, as text, and as a page.

It names the agreement, its document and what was deleted. It has no data about students.
"""

from __future__ import annotations

from typing import Any

from bus.vendors import summary
from bus.vendors.applied import Applied
from bus.vendors.proof import lines
from bus.vendors.summary import Section, escaped


def as_json(one: Applied) -> dict[str, Any]:
    """Return the certificate of a deleted agreement, and its attestation, as JSON values."""
    agreement = one.agreement
    return {
        "name": one.name,
        "vendor": agreement.vendor,
        "purpose": agreement.purpose,
        "from": agreement.from_.isoformat(),
        "until": agreement.until.isoformat(),
        "state": one.state,
        "endedAt": one.ended_at.isoformat() if one.ended_at else None,
        "fingerprint": one.fingerprint,
        "document": {"title": agreement.document.title, "sha256": agreement.document.sha256},
        "deletion": one.certificate.as_json() if one.certificate else None,
        "keyDeleted": not one.wrapped_key,
        "attestationDue": one.attestation_day.isoformat(),
        "attestation": one.attestation.as_json() if one.attestation else None,
    }


def sections(one: Applied) -> list[Section]:
    """Return the certificate in parts, each with a title and lines."""
    agreement, certificate = one.agreement, one.certificate
    if certificate is None or certificate.deleted_at is None:
        return []
    record = certificate.record
    ended = one.ended_at.isoformat() if one.ended_at else str(agreement.until)
    found = [
        Section(
            "Agreement",
            (
                f"Name: {one.name}",
                f"Vendor: {agreement.vendor}",
                f"Purpose: {agreement.purpose}",
                f"From {agreement.from_} until {agreement.until}; {one.state} at {ended}",
                f"Document: {agreement.document.title} (SHA-256 {agreement.document.sha256})",
                f"Fingerprint of the agreement as applied: {one.fingerprint}",
            ),
        ),
        Section(
            f"Deleted by {certificate.deleted_at.isoformat()}",
            (
                *([f"Before the agreed days: {certificate.early}"] if certificate.early else []),
                *lines(certificate),
            ),
        ),
        Section(
            "Record of disclosures",
            (f"The head after this deletion: entry {record.number}, SHA-256 {record.sha256}",),
        ),
    ]
    if certificate.by_others:
        found.append(Section("Asked of the people who run the cluster", certificate.by_others))
    said = f"Not received; due on {one.attestation_day}"
    if one.attestation is not None:
        said = f"By {one.attestation.by} on {one.attestation.on}"
        if one.attestation.document:
            said += f" (SHA-256 of the document {one.attestation.document})"
    found.append(Section("The vendor's own attestation", (said,)))
    return found


def text(one: Applied) -> str:
    """Return the certificate as plain text for a terminal."""
    return summary.text(sections(one))


def markdown(one: Applied) -> str:
    """Return the certificate as one page of Markdown."""
    parts = [f"# Certificate of deletion: {escaped(one.agreement.vendor)}"]
    for section in sections(one):
        items = "\n".join(f"* {escaped(line)}" for line in section.lines)
        parts.append(f"## {escaped(section.title)}\n\n{items}")
    return "\n\n".join(parts) + "\n"
