"""Checks agreements, and says what is wrong in words for a privacy officer.

An error stops `bus vendors apply`. A warning does not. The models in `bus.vendors.agreement` check
the form of a file (unknown keys, values that are not dates). This module checks whether the
agreement makes sense. It compares the agreement with the schedule of data, the standard, the
district's schools and classes, the other agreements, and what has been applied before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import date
from itertools import combinations
from pathlib import Path

from bus.errors import Stop
from bus.settings import Settings, VendorsSettings
from bus.standard.kinds import Kind
from bus.vendors import agreement as agreement_file
from bus.vendors import applied
from bus.vendors.agreement import Agreement
from bus.vendors.applied import Applied
from bus.vendors.district_counts import ids
from bus.vendors.problem import Problem
from bus.vendors.share_check import ShareCheck
from bus.vendors.terms_check import TermsCheck, is_same_company


@dataclass(frozen=True, slots=True)
class AgreementFile:
    """An agreement and the file that holds it."""

    path: Path
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class Known:
    """What agreements are checked against.

    day:     today, in the district's calendar.
    applied: what has been applied before; None if the bus could not be asked.
    schools: the ids of the district's organizations; None if the bus could not be asked.
    classes: the ids of the district's classes; None if the bus could not be asked.
    vendors: the settings `[vendors]`.
    """

    day: date
    applied: Mapping[str, Applied] | None
    schools: Collection[str] | None
    classes: Collection[str] | None
    vendors: VendorsSettings = dataclass_field(default_factory=VendorsSettings)


def load(folder: Path) -> tuple[list[AgreementFile], list[Problem]]:
    """Return the agreements of a folder, and the problems of files that are no agreements.

    Raises `Stop` if the folder cannot be read.
    """
    files, problems = [], []
    for name in agreement_file.names(folder):
        path = folder / f"{name}.toml"
        try:
            table = agreement_file.read(path)
        except Stop as error:
            problems.append(Problem("error", path.name, "", str(error)))
            continue
        if faults := agreement_file.faults(name, table):
            problems += [Problem("error", path.name, key, text) for key, text in faults]
        else:
            files.append(AgreementFile(path, agreement_file.parse(name, table, str(path))))
    return files, problems


def check(
    files: Sequence[AgreementFile], standard: Mapping[str, Kind], known: Known
) -> list[Problem]:
    """Return what is wrong with agreements, in the order of the files.

    standard: the kinds of record, `bus.standard.KINDS`.
    """
    others = {file.agreement.name: file.agreement for file in files}
    found: list[Problem] = []
    for file in files:
        one = file.agreement
        found += TermsCheck(file.path, one, known.day, others, known.applied, known.vendors)
        found += ShareCheck(file.path.name, one, standard, known.schools, known.classes)
    found += _disagreements([file.agreement for file in files])
    found += _unchecked(files, known)
    return found


def ask(settings: Settings, files: Iterable[AgreementFile], day: date) -> Known:
    """Return what agreements are checked against, as far as they need it.

    Raises `RetryLater` or `Stop` if the bus cannot be asked.
    """
    students = [file.agreement.students for file in files]
    return Known(
        day,
        applied.read(settings),
        ids(settings, "org") if any(one.schools for one in students) else (),
        ids(settings, "class") if any(one.classes for one in students) else (),
        settings.vendors,
    )


def _disagreements(agreements: Sequence[Agreement]) -> Iterator[Problem]:
    """Yield the problems of two agreements together."""
    for one, other in combinations(agreements, 2):
        file = f"{other.name}.toml"
        if (
            is_same_company(one, other)
            and one.purpose == other.purpose
            and one.basis is not other.basis
            and one.from_ <= other.until
            and other.from_ <= one.until
        ):
            yield Problem(
                "error",
                file,
                "basis",
                f"The basis is {other.basis}, but {one.name}.toml has {one.basis} for the same "
                "vendor and purpose at the same time. An opt-out depends on the basis, so the two "
                "must agree.",
            )
        if (
            one.csv
            and other.csv
            and Path(one.csv.folder).absolute() == Path(other.csv.folder).absolute()
            and one.from_ <= other.until
            and other.from_ <= one.until
        ):
            yield Problem(
                "error",
                file,
                "csv.folder",
                f"{one.name}.toml writes into this folder too, at the same time. Give each "
                "agreement a folder of its own.",
            )
        if one.renews and one.renews == other.renews:
            yield Problem(
                "error",
                file,
                "renews",
                f'{one.name}.toml renews "{one.renews}" too. Only one agreement can take over its '
                "topics and ids.",
            )


def _unchecked(files: Iterable[AgreementFile], known: Known) -> Iterator[Problem]:
    """Yield a warning for what could not be checked because the bus could not be asked."""
    missing = []
    for what, selected, existing in (
        ("schools", [f for f in files if f.agreement.students.schools], known.schools),
        ("classes", [f for f in files if f.agreement.students.classes], known.classes),
    ):
        if selected and existing is None:
            missing.append(f"whether the {what} exist")
    if known.applied is None:
        missing.append("what was applied before")
    if missing:
        yield Problem(
            "warning", "", "", f"Not checked, as the bus could not be asked: {'; '.join(missing)}."
        )
