"""Checks the terms of an agreement: its dates, its document, its ways out, and what it renews."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from bus.settings import VendorsSettings
from bus.vendors.agreement import Agreement
from bus.vendors.applied import Applied
from bus.vendors.problem import Problem, suggestion
from bus.web.public_address import is_inside

SERVED = frozenset({"kafka", "webhook", "csv"})
"""The ways out that this version serves."""
SERVES_RETURNS = False
"""Whether this version takes records that a vendor sends back."""


class TermsCheck:
    """The checks of one agreement's terms. Iterating yields the problems.

    path:   the agreement file.
    day:    today, in the district's calendar.
    others: the agreements of all files, by name.
    stored: what has been applied before, by name; None if the bus could not be asked.
    rules:  the settings `[vendors]`.
    """

    def __init__(
        self,
        path: Path,
        agreement: Agreement,
        day: date,
        others: Mapping[str, Agreement],
        stored: Mapping[str, Applied] | None,
        rules: VendorsSettings,
    ) -> None:
        self._path = path
        self._agreement = agreement
        self._day = day
        self._others = others
        self._stored = stored
        self._rules = rules

    def __iter__(self) -> Iterator[Problem]:
        yield from self._dates()
        yield from self._document()
        yield from self._ways()
        yield from self._renewal()

    def _error(self, key: str, text: str) -> Problem:
        return Problem("error", self._path.name, key, text)

    def _warning(self, key: str, text: str) -> Problem:
        return Problem("warning", self._path.name, key, text)

    # ---- dates and document --------------------------------------------------------------------

    def _dates(self) -> Iterator[Problem]:
        one, day = self._agreement, self._day
        if one.until < one.from_:
            yield self._error(
                "until", f"The last day, {one.until}, is before the first, {one.from_}."
            )
            return
        before = (self._stored or {}).get(one.name)
        if before is not None and before.over(day):
            yield from self._over(before)
        elif one.until < day:
            yield self._error(
                "until",
                f"The agreement ended on {one.until}. Correct the date, or delete the file.",
            )
        if one.history and one.history > one.until:
            yield self._error(
                "history", f"{one.history} is after the agreement's last day, {one.until}."
            )

    def _over(self, before: Applied) -> Iterator[Problem]:
        what = "was revoked" if before.state == "revoked" else f"ended on {before.agreement.until}"
        if before.agreement == self._agreement:
            yield self._warning("", f"The agreement {what}. You may delete the file.")
        else:
            yield self._error(
                "",
                f"The agreement {what}, and this file has changed since. A changed file does not "
                f'start it again. Write a new file with `renews = "{before.name}"`.'
                if before.state != "revoked"
                else f"The agreement {what}, and this file has changed since. A changed file does "
                "not start it again. Write a new file with another name.",
            )

    def _document(self) -> Iterator[Problem]:
        document = self._agreement.document
        if not document.file:
            return
        path = self._path.parent / document.file
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            yield self._error(
                "document.file", f"The signed document {path} cannot be read ({error.strerror})."
            )
            return
        if found != document.sha256:
            yield self._error(
                "document.sha256",
                f"{document.file} is not the document that was signed: its SHA-256 is {found}. "
                "Put the signed file back, or correct the value if this is the signed file.",
            )

    # ---- ways out and renewal ------------------------------------------------------------------

    def _ways(self) -> Iterator[Problem]:
        one = self._agreement
        ways = [*one.ways, *(["webhook"] if one.webhook else []), *(["csv"] if one.csv else [])]
        for way in ways:
            if way not in SERVED:
                yield self._error(
                    "ways" if way in one.ways else way,
                    f"This version of Schoolbus cannot deliver by {way} yet. Use "
                    f"{' or '.join(sorted(SERVED))}.",
                )
        rules = self._rules
        if one.webhook and is_inside(
            urlsplit(one.webhook.url).hostname or "",
            rules.internal_networks,
            loopback=rules.loopback_endpoints,
        ):
            yield self._error(
                "webhook.url",
                "The address is inside the district's network, to which Schoolbus sends nothing "
                "for a vendor. Ask the vendor for an address on the public internet.",
            )
        if not ways:
            yield self._warning("ways", "No way out is named, so the vendor receives nothing.")
        if one.returns and not SERVES_RETURNS:
            yield self._error(
                "returns", "This version of Schoolbus cannot take records from a vendor yet."
            )

    def _renewal(self) -> Iterator[Problem]:
        one, stored_by_name = self._agreement, self._stored or {}
        before = stored_by_name.get(one.name)
        if before is not None and before.agreement.renews != one.renews:
            yield self._error(
                "renews",
                "`renews` cannot change after the agreement was applied, because the vendor's "
                f'topics and ids depend on it. It was "{before.agreement.renews}".',
            )
            return
        if not one.renews:
            return
        if one.renews == one.name:
            yield self._error("renews", "An agreement cannot renew itself.")
            return
        file, stored = self._others.get(one.renews), stored_by_name.get(one.renews)
        if stored is not None:
            earlier = stored.agreement
        elif file is not None:
            earlier = file
        else:
            if self._stored is not None:
                yield self._error(
                    "renews",
                    f'There is no agreement "{one.renews}". '
                    + suggestion(
                        one.renews,
                        [*self._others, *stored_by_name],
                        "Name an earlier agreement.",
                    ),
                )
            return
        if stored is not None and stored.state == "revoked" and before is not None:
            # The renewal has taken over already, and `renews` cannot change, so an error would have
            # no remedy.
            yield self._warning(
                "renews",
                f'"{one.renews}" was revoked, but this agreement stays active, with the same '
                f"ids. To end it too, run `bus vendors revoke {one.name} --why TEXT`.",
            )
        elif stored is not None and stored.state == "revoked":
            yield self._error(
                "renews",
                f'"{one.renews}" was revoked, so nothing can be taken over from it. Leave `renews` '
                "out; the vendor then gets new ids.",
            )
        elif stored is not None and stored.deleted and one.name not in stored_by_name:
            yield self._error(
                "renews",
                f'The topics and the key of "{one.renews}" are deleted, so nothing can be taken '
                "over from it. Leave `renews` out; the vendor then gets new ids.",
            )
        elif earlier.until >= one.from_:
            yield self._error(
                "renews",
                f'"{one.renews}" runs until {earlier.until}, and this agreement begins on '
                f"{one.from_}. A renewal begins after the last day of what it renews.",
            )
        if not is_same_company(earlier, one):
            yield self._error(
                "vendor",
                f'"{one.renews}" is an agreement with {earlier.vendor}. A renewal takes over its '
                "ids, so it must be with the same company.",
            )


def is_same_company(one: Agreement, other: Agreement) -> bool:
    """Return whether two agreements are with the same vendor."""
    return _plain(one.vendor) == _plain(other.vendor)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
