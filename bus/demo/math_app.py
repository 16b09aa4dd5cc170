"""The demo's vendor that subscribes under an agreement: the agreement, and the vendor's program.

The program runs in a separate process, as at a real vendor. This module records what the program
receives, and when.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

NAME = "math-app"
COMPANY = "Example Math Inc."

AGREEMENT = """\
# A math app that shows the students of one school by name, in the classes of the roster.

vendor = "{company}"
purpose = "instruction"
basis = "school-official"
from = {start}
until = {end}
history = 2026-08-01
identifiers = "pseudonyms"

[document]
title = "Student data privacy agreement with {company}, made up for the demo"
sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"

[contacts]
vendor = "privacy@math.example"
district = "privacy@district.example"

[share]
categories = ["Student Name", "Enrollment", "Schedule", "Attendance"]
without = ["student.middleName", "student.preferredMiddleName", "class.location"]

[share.why]
"Student Name" = "teachers find a student by name in the class list of the app"

[students]
schools = ["{school}"]
"""

PROGRAM = '''\
"""The vendor's program: prints what it receives under the agreement."""

import json
import time

from bus import subscribe

KINDS = ("student", "class", "enrollment", "attendance")

for event in subscribe(*KINDS, agreement="math-app", group="app"):
    print(json.dumps([time.time(), event.kind, event.key, event.record], default=str), flush=True)
'''


@dataclass(frozen=True, slots=True)
class Received:
    """An event that the vendor's program received.

    at:     when the program received it (`time.time`).
    key:    the record's id at this vendor.
    record: the agreed fields; None for a deletion.
    """

    at: float
    kind: str
    key: str
    record: dict[str, Any] | None


@dataclass(slots=True)
class MathApp:
    """What the vendor's program has received so far, in order."""

    arrivals: list[Received] = field(default_factory=list)

    def follow(self, program: subprocess.Popen[str]) -> None:
        """Record each line that the program prints, on a separate thread."""
        threading.Thread(target=self._read, args=(program,), name="math-app", daemon=True).start()

    def students(self) -> dict[str, dict[str, Any]]:
        """Return the students whom the vendor has, by the vendor's ids."""
        found: dict[str, dict[str, Any]] = {}
        for one in list(self.arrivals):
            if one.kind == "student":
                if one.record is None:
                    found.pop(one.key, None)
                else:
                    found[one.key] = one.record
        return found

    def deleted_student(self) -> Received | None:
        """Return the first deletion of a student."""
        arrivals = list(self.arrivals)
        return next((a for a in arrivals if a.kind == "student" and a.record is None), None)

    def notes(self, day: str) -> list[float]:
        """Return the times at which attendance records of this day (YYYY-MM-DD) arrived."""
        return [
            one.at
            for one in list(self.arrivals)
            if one.kind == "attendance" and one.record and one.record["eventDate"] == day
        ]

    def settled(self, seconds: float = 0.5) -> bool:
        """Return whether nothing has arrived for this many seconds."""
        return not self.arrivals or time.time() - self.arrivals[-1].at > seconds

    def _read(self, program: subprocess.Popen[str]) -> None:
        for line in program.stdout or ():
            self.arrivals.append(Received(*json.loads(line)))


def write_agreement(folder: Path, school: str) -> None:
    """Write the agreement for the students of one school, which begins today."""
    folder.mkdir()
    today = date.today()
    text = AGREEMENT.format(
        company=COMPANY, start=today, end=today + timedelta(days=365), school=school
    )
    (folder / f"{NAME}.toml").write_text(text, "utf-8")


def write_program(path: Path) -> Path:
    """Write the vendor's program."""
    path.parent.mkdir()
    path.write_text(PROGRAM, "utf-8")
    return path
