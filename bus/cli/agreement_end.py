"""The commands of `bus vendors` after an agreement's end: the deletion and its proof."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bus.cli.agreement_name import AgreementName
from bus.cli.cluster import settings_of_reached
from bus.cli.output import Json, emit, failures, warn

if TYPE_CHECKING:
    from bus.vendors.applied import Applied


def register(app: typer.Typer) -> None:
    """Add the commands to `bus vendors`."""
    app.command("delete")(delete)
    app.command("certificate")(certificate)
    app.command("attest")(attest)


def delete(
    name: AgreementName,
    early: Annotated[
        bool, typer.Option("--early", help="Delete before the agreed days have passed.")
    ] = False,
    why: Annotated[
        str, typer.Option(help="The reason for --early, which the certificate keeps.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> None:
    """Delete what the bus has for a vendor. The agreement must be over. This cannot be undone.

    `bus vendors apply` and `bus vendors run` also do this, when the days in the agreement have
    passed.
    """
    with failures(json):
        from bus.errors import Stop
        from bus.vendors import applied, deletion, expiry, revocation
        from bus.vendors.disclosures import DisclosureWriter

        loaded = settings_of_reached()
        one, day = revocation.find(applied.read(loaded), name), applied.today()
        if not one.over(day):
            raise Stop(
                f"{name} is active until {one.agreement.until}, so nothing is deleted; to end it "
                f"now, run `bus vendors revoke {name} --why TEXT`"
            )
        if early and not why.strip():
            raise Stop("give a reason: --early --why TEXT")
        due = deletion.due(one, day) or one.deleted
        if not due and not early:
            raise Stop(
                f"the agreed {one.agreement.deletion.days} days end on {one.deletion_day}; to "
                "delete earlier, add --early --why TEXT"
            )
        before = one.deleted
        if not before and not yes:
            typer.confirm(
                f"Delete all that the bus has for {one.agreement.vendor} under {name}?",
                abort=True,
                err=True,
            )
        if not before:
            now = datetime.now(UTC)
            with DisclosureWriter(loaded) as record:
                expiry.settle(loaded, name, day, now, record, warn)
                reason = "" if due else why.strip()
                one = deletion.delete(loaded, name, now, record, early=reason)
            for note in one.certificate.by_others if one.certificate and not due else ():
                warn(note)
        _show(one, json, first="was deleted before" if before else "is deleted")


def certificate(
    name: AgreementName,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print one page of Markdown.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what the bus deleted for a vendor and when, and the vendor's own attestation."""
    with failures(json):
        from bus.errors import Stop
        from bus.vendors import applied, revocation

        loaded = settings_of_reached()
        one = revocation.find(applied.read(loaded), name)
        if not one.deleted:
            when = f"; that is due on {one.deletion_day}" if one.over(applied.today()) else ""
            raise Stop(f"nothing is deleted yet under {name}{when}")
        _show(one, json, markdown=markdown)


def attest(
    name: AgreementName,
    by: Annotated[str, typer.Option(help="The person at the vendor who attested the deletion.")],
    on: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="The day of the attestation.")],
    document: Annotated[
        Path | None, typer.Option(help="The signed document. Only its SHA-256 is stored.")
    ] = None,
    json: Json = False,
) -> None:
    """Record that a vendor attested that it deleted what it had received."""
    with failures(json):
        from bus.vendors import applied, attestation
        from bus.vendors.disclosures import DisclosureWriter
        from bus.vendors.proof import Attestation

        loaded = settings_of_reached()
        digest = attestation.sha256_of(document) if document is not None else ""
        said = Attestation(by.strip(), on.date(), digest)
        now = datetime.now(UTC)
        with DisclosureWriter(loaded) as record:
            _, new = attestation.attest(loaded, name, said, applied.today(), now, record)

        def show(console: Console) -> None:
            what = "is recorded" if new else "was recorded before"
            console.print(f"the attestation of {name} on {said.on} {what}")
            if digest:
                console.print(f"SHA-256 of the document: {digest}")

        emit(json, {"name": name, "new": new, **said.as_json()}, show)


def _show(one: Applied, json: bool, *, first: str = "", markdown: bool = False) -> None:
    from bus.vendors import certificate_page

    def show(console: Console) -> None:
        if first:
            console.print(f"{one.name} {first}")
        page = certificate_page.markdown(one) if markdown else certificate_page.text(one)
        console.print(page, markup=False)

    result: dict[str, Any] = certificate_page.as_json(one)
    emit(json, result, show)
