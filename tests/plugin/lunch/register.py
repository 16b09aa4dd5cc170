"""The source `register`: a school's register as one CSV file, with a line for each student."""

from __future__ import annotations

import csv
from pathlib import Path

from bus import Extracts, Fault, NoSettings, Source, Staging, Stop

COLUMNS = ("id", "first", "last", "grade")


def read(extract: Path, settings: NoSettings, staging: Staging) -> None:
    """Stage all students of the register."""
    staging.con.execute(
        "CREATE TABLE raw_student (_file VARCHAR, _line BIGINT, sourcedId VARCHAR, "
        "givenName VARCHAR, familyName VARCHAR, grades VARCHAR)"
    )
    with extract.open(encoding="utf-8", errors="replace", newline="") as file:
        lines = csv.reader(file)
        if tuple(next(lines, ())) != COLUMNS:
            raise Stop(f"{extract.name} is no register; its first line must be {','.join(COLUMNS)}")
        try:
            for line in lines:
                if len(line) != len(COLUMNS):
                    fault = Fault(
                        extract.name, lines.line_num, "", "", "has not four values; mend the line"
                    )
                    staging.faults.append(fault)
                    continue
                staging.con.execute(
                    "INSERT INTO raw_student VALUES (?, ?, ?, ?, ?, ?)",
                    [extract.name, lines.line_num, *line],
                )
        except csv.Error:
            raise Stop(f"{extract.name} is cut short or no CSV; export it again") from None
    staging.coverage["student"] = "bulk"


SOURCE = Source(
    name="register",
    help="Publish what a school's register changes.",
    reader=Extracts(read, what="A CSV file with the columns id, first, last, grade."),
)
