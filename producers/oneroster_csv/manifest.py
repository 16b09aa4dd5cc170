"""Reads manifest.csv, which describes the other files.

See OneRoster 1.1 and 1.2 CSV Binding, "manifest.csv". The file has two columns, propertyName and
value. It holds `oneroster.version`, and for each file `file.NAME` with the value bulk (all
records), delta (only changes) or absent.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bus.source import Fault
from bus.standard.fault_codes import FaultCode
from producers.oneroster_csv.encoding import utf_16

Mode = Literal["bulk", "delta", "absent"]
MODES: dict[str, Mode] = {"bulk": "bulk", "delta": "delta", "absent": "absent"}

VERSIONS = ("1.0", "1.1", "1.2")

NAME = "manifest.csv"

MARK = "\ufeff"
"""A byte order mark, as Python reads it."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What manifest.csv declares.

    modes:   how to read each file, by its name without .csv in lower case ("orgs").
    present: whether the extract has a manifest.csv.
    """

    modes: dict[str, Mode] = field(default_factory=dict)
    present: bool = False

    def mode(self, file: str) -> Mode | None:
        """Return how to read a file, or None when the manifest does not name it."""
        return self.modes.get(file.lower())


def read(path: Path | None, faults: list[Fault]) -> Manifest:
    """Read manifest.csv, in UTF-8 or in UTF-16 as Excel writes it.

    path:   None when the extract has no manifest.csv.
    faults: receives what is wrong with the manifest.
    """
    if path is None:
        reason = "the extract has no manifest.csv; each file was read as complete"
        _note(faults, 0, reason, FaultCode.NO_MANIFEST)
        return Manifest()
    modes: dict[str, Mode] = {}
    for line, name, value in _properties(path):
        if name == "oneroster.version" and not value.startswith(VERSIONS):
            reason = f"the version is not one of {', '.join(VERSIONS)}; the extract was read as 1.2"
            _note(faults, line, reason, FaultCode.UNKNOWN_DECLARATION)
        if not name.startswith("file."):
            continue
        file = name.removeprefix("file.").removesuffix(".csv")
        if value not in MODES:
            reason = "the value is not one of bulk, delta, absent; it was read as delta"
            _note(faults, line, reason, FaultCode.UNKNOWN_DECLARATION)
        # For contradictory or unknown values choose delta, which withdraws nothing.
        mode = MODES.get(value, "delta")
        modes[file] = mode if modes.get(file, mode) == mode else "delta"
    if not modes:
        reason = "manifest.csv names no file; each file was read as partial (only changes)"
        _note(faults, 0, reason, FaultCode.NO_MANIFEST)
    return Manifest(modes, present=True)


def _properties(path: Path) -> list[tuple[int, str, str]]:
    """Return line, property and value of each row, the texts in lower case."""
    found: list[tuple[int, str, str]] = []
    encoding = utf_16(path) or "utf-8"
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        head = file.readline(10_000)
        delimiter = max(",;\t", key=head.count)
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return found
            except csv.Error:
                continue
            if len(row) > 1:
                found.append(
                    (reader.line_num, row[0].lstrip(MARK).strip().lower(), row[1].strip().lower())
                )


def _note(faults: list[Fault], line: int, reason: str, code: FaultCode) -> None:
    faults.append(Fault(NAME, line, "", "", reason, fatal=False, code=code))
