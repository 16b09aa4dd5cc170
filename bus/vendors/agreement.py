"""The models of an agreement file.

The file is `agreements/NAME.toml`. It names the parties, the purpose, the legal basis, the
document, what is shared about which students, and until when. `docs/agreements.md` is the
reference; `bus.vendors.agreement_reference` makes it from these models.

Sources: the categories of data are those of the National Data Privacy Agreement (Student Data
Privacy Consortium), "Schedule of Data". The legal bases are the exceptions of FERPA, 34 CFR 99.31
(school officials (a)(1), studies (a)(6), audit (a)(3)), consent (99.30) and directory information
(99.37).
"""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from pathlib import Path
from tomllib import TOMLDecodeError, loads
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bus.errors import Stop
from bus.settings import meant_by, model_at, registered_name

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Id = Annotated[str, Field(min_length=1, max_length=256)]


class Basis(StrEnum):
    """The legal basis on which the district discloses the data."""

    SCHOOL_OFFICIAL = "school-official"
    STUDIES = "studies"
    AUDIT = "audit"
    CONSENT = "consent"
    DIRECTORY_INFORMATION = "directory-information"


class Identifiers(StrEnum):
    """Which ids a vendor receives: pseudonyms that only this agreement has, or the real ids."""

    PSEUDONYMS = "pseudonyms"
    REAL = "real"


class AgreementTable(BaseModel):
    """A table of the file. Unknown keys are errors, because a misspelled limit is no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Document(AgreementTable):
    """The signed document.

    title:  its title, as a person cites it.
    sha256: the SHA-256 of the signed file, as 64 hexadecimal digits.
    file:   the path of the signed file, relative to the agreement file; "" if it is kept elsewhere.
    """

    title: Text
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    file: str = ""


class Contacts(AgreementTable):
    """Whom to ask.

    vendor:   the address of the vendor's privacy contact.
    district: the address of the district's privacy contact.
    """

    vendor: Text
    district: Text


class Subprocessor(AgreementTable):
    """A company to which the vendor gives the data.

    name:    the company.
    purpose: what it does for the vendor.
    """

    name: Text
    purpose: Text


class Share(AgreementTable):
    """Which data the vendor receives.

    categories: categories of the agreement's schedule of data, such as "Student Name"
                (`schemas/categories.toml` says which fields each one means).
    fields:     single fields in addition to the categories, such as "student.email".
    without:    fields of these categories that the vendor does not receive.
    why:        the reason why the vendor needs a field, by field, or by category for all fields of
                the category. Sensitive fields need one, and so do fields that identify a person
                although the ids are pseudonyms.
    """

    categories: tuple[Text, ...] = ()
    fields: tuple[Text, ...] = ()
    without: tuple[Text, ...] = ()
    why: dict[str, Text] = Field(default_factory=dict)


class Students(AgreementTable):
    """Which students. Several selectors must all match; a selector that is left out matches all.

    schools:     ids of schools. A student matches if one of the student's organizations is listed.
    grades:      CEDS grade codes, such as "06". A student matches if one grade is listed.
    classes:     ids of classes. A student matches with an active enrollment in one of them.
    leave_after: when a student no longer matches, such as after a move, the vendor sees the
                 student as withdrawn for this many days. Then the vendor gets the deletion.
    """

    schools: tuple[Id, ...] = ()
    grades: tuple[Id, ...] = ()
    classes: tuple[Id, ...] = ()
    leave_after: int = Field(default=7, ge=0, le=365)


class Webhook(AgreementTable):
    """A webhook endpoint of the vendor.

    url: an https address on the public internet.
    """

    url: Annotated[str, Field(pattern=r"^https://")]


class Csv(AgreementTable):
    """A folder into which the vendor's data is written as OneRoster CSV.

    folder: the folder.
    """

    folder: Text


class Deletion(AgreementTable):
    """What happens after the agreement's end.

    days:             the bus deletes the vendor's topics and keys this many days after the end.
    attestation_days: the vendor must attest its own deletion within this many days of the end.
    """

    days: int = Field(default=30, ge=0, le=3650)
    attestation_days: int = Field(default=60, ge=1, le=3650)


class Guard(AgreementTable):
    """When many students would enter or leave at once, they stay as they are until a person agrees.

    share:    the guard holds the students back if more than this share (0 to 1) of the vendor's
              students would enter or leave at once, and also more than `students`.
    students: the guard never holds back this many students or fewer.
    """

    share: float = Field(default=0.10, ge=0, le=1)
    students: int = Field(default=20, ge=0)


Way = Literal["kafka", "oneroster"]


class Agreement(AgreementTable):
    """One agreement.

    name:          the name of the file. It is part of the names of topics, groups and users.
    vendor:        the company.
    purpose:       one word or a few, such as "instruction". An opt-out can name the purpose.
    basis:         the legal basis.
    from_:         the first day of the agreement, in the district's calendar.
    until:         its last day.
    history:       the vendor receives attendance and results from this day on; by default, from
                   the day `from` on.
    roles:         people other than students whose records are shared: teachers of the students'
                   classes, guardians of the students.
    identifiers:   which ids the vendor receives: pseudonyms, or the real ids of the SIS.
    returns:       kinds of record that the vendor may send to the district.
    ways:          the ways out that need no settings: "kafka", "oneroster". The tables
                   `[webhook]` and `[csv]` add the other ways.
    renews:        the agreement whose topics, group, ids and pseudonyms this one takes over.
    """

    name: str
    vendor: Text
    purpose: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 -]*$", max_length=100)]
    basis: Basis
    from_: date = Field(alias="from")
    until: date
    document: Document
    contacts: Contacts
    share: Share
    students: Students = Students()
    subprocessors: tuple[Subprocessor, ...] = ()
    roles: tuple[Literal["teacher", "guardian"], ...] = ()
    history: date | None = None
    identifiers: Identifiers = Identifiers.PSEUDONYMS
    returns: tuple[Literal["attendance", "lineItem", "result"], ...] = ()
    ways: tuple[Way, ...] = ("kafka",)
    webhook: Webhook | None = None
    csv: Csv | None = None
    deletion: Deletion = Deletion()
    guard: Guard = Guard()
    renews: str = ""

    @property
    def flows(self) -> bool:
        """Whether a way out reads the agreement's topics. Only then must they exist."""
        return "kafka" in self.ways or self.webhook is not None or self.csv is not None

    def active(self, day: date) -> bool:
        """Return whether the agreement holds on this day of the district's calendar."""
        return self.from_ <= day <= self.until


def names(folder: Path) -> list[str]:
    """Return the names of the agreement files of a folder, in order.

    Raises `Stop` if the folder cannot be read.
    """
    try:
        return sorted(path.stem for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise Stop(
            f"the folder of agreements {folder} cannot be read ({error.strerror}); name it with "
            "--agreements DIR"
        ) from None


def load(path: Path) -> Agreement:
    """Return the agreement of a file.

    Raises `Stop` with everything that is wrong with the file's form, one line for each fault.
    `bus.vendors.check` checks whether the agreement makes sense.
    """
    return parse(path.stem, read(path), str(path))


def read(path: Path) -> dict[str, Any]:
    """Return the table of an agreement file. Raises `Stop` if it is not TOML or has a wrong name.

    The table may still not be an agreement; `faults` says so.
    """
    try:
        registered_name("vendor's agreement", path.stem)
        table = loads(path.read_text("utf-8"))
    except ValueError as error:
        if isinstance(error, (TOMLDecodeError, UnicodeDecodeError)):
            raise Stop(f"{path} is not valid TOML ({error}); correct it") from None
        raise Stop(f"{path}: {error}; rename the file") from None
    except OSError as error:
        raise Stop(f"{path} cannot be read ({error.strerror})") from None
    if table.get("name", path.stem) != path.stem:
        raise Stop(f"{path}: `name` must be {path.stem!r}, as the file, or be left out")
    return table


def faults(name: str, table: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong with the form of a table: the key, and what to do about it."""
    try:
        Agreement.model_validate({**table, "name": name})
    except ValidationError as error:
        return _faults(error)
    return []


def parse(name: str, table: dict[str, Any], where: str) -> Agreement:
    """Return the agreement of a parsed table.

    where: names the place in errors. Raises `Stop` as `load` does.
    """
    try:
        return Agreement.model_validate({**table, "name": name})
    except ValidationError as error:
        lines = "\n".join(f"  {key}: {text}" for key, text in _faults(error))
        raise Stop(f"{where} is not a valid agreement:\n{lines}\nsee docs/agreements.md") from None


FORMS = {
    "sha256": "64 hexadecimal digits in lower case, as `sha256sum FILE` prints them",
    "url": "an address that begins with https://",
    "purpose": "one word or a few, of lowercase letters, digits, blanks and dashes",
}
"""How to write the value of a key whose text has a pattern."""


def _faults(error: ValidationError) -> list[tuple[str, str]]:
    return [
        (".".join(str(part + 1 if isinstance(part, int) else part) for part in one["loc"]), text)
        for one in error.errors(include_input=False, include_url=False)
        if (text := _sentence(one))
    ]


def _sentence(fault: Any) -> str:
    """Return what to do about one of pydantic's faults, in words for a privacy officer."""
    *path, key = fault["loc"]
    kind, expected = fault["type"], fault.get("ctx", {}).get("expected", "")
    if kind == "missing":
        return "it is missing; add it"
    if kind == "extra_forbidden":
        model = model_at(Agreement, [str(part) for part in path]) or Agreement
        names = [field.alias or name for name, field in model.model_fields.items()]
        meant = meant_by(str(key), names)
        return "an agreement has no such key here; " + (
            f"did you mean {meant}?" if meant else f"the keys are: {', '.join(names)}"
        )
    if kind.startswith("date"):
        return "it is not a date; write it as 2027-07-31"
    if kind in ("enum", "literal_error"):
        return f"it must be {expected}"
    if kind == "string_pattern_mismatch":
        return f"it must be {FORMS[str(key)]}"
    return str(fault["msg"]).replace("Input should", "it must").replace("String should", "it must")
