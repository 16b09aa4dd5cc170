"""More than 100,000 damaged rows, and damaged zips, as extracts.

Each row is read correctly or is in quarantine with a reason. None crashes or hangs the source, and
no reason contains a value of a row. A plain reader in this test defines what is correct.
"""

from __future__ import annotations

import csv
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pytest

from bus.errors import Stop
from bus.ingest import integrity
from bus.ingest.columns import quoted
from bus.ingest.workspace import Workspace
from bus.source import Fault, Staging
from producers.oneroster_csv import archive, rows, users
from producers.oneroster_csv.encoding import as_utf8
from producers.oneroster_csv.read import read
from tests.faults import rubbish
from tests.faults.conftest import Findings
from tests.faults.rubbish import MARK

FILES: dict[str, tuple[str, int]] = {
    "orgs": ("sourcedId status dateLastModified name type identifier parentSourcedId", 5_000),
    "academicSessions": ("sourcedId status title type startDate endDate parentSourcedId schoolYear", 20_000),
    "courses": ("sourcedId status title courseCode grades orgSourcedId schoolYearSourcedId", 5_000),
    "classes": ("sourcedId status title classType courseSourcedId schoolSourcedId termSourcedIds", 10_000),
    "users": ("sourcedId status dateLastModified enabledUser orgSourcedIds role username givenName familyName email grades", 40_000),
    "enrollments": ("sourcedId status classSourcedId schoolSourcedId userSourcedId role primary beginDate", 20_000),
}  # fmt: skip
"""The files, their columns, and the number of their damaged rows."""
KINDS_OF = {
    "orgs": ["org"],
    "academicSessions": ["academicSession"],
    "courses": ["course"],
    "classes": ["class"],
    "users": ["student", "staff", "guardian"],
    "enrollments": ["enrollment"],
}
ZIPS = 3_000
SOUND = 50
"""This many rows at the beginning of each file are sound; the others refer to them."""


def cells(file: str, n: int) -> list[str]:
    """Return the cells of a sound row of a file."""
    m, following = f"{n % SOUND:05}", f"{(n + 1) % SOUND:05}"
    id_number = f"{n:05}"
    match file:
        case "orgs":
            parent = "" if n < SOUND else f"org-{m}"
            cells_after = "2026-08-17T00:00:00Z", f"School {n}", "school", "", parent
            return [f"org-{id_number}", "active", *cells_after]
        case "academicSessions":
            days = "2026-08-17", "2027-06-30"
            return [f"term-{id_number}", "active", f"Term {n}", "term", *days, "", "2027"]
        case "courses":
            cells_after = f"Course {n}", "C", "07,08", f"org-{m}", f"term-{m}"
            return [f"course-{id_number}", "active", *cells_after]
        case "classes":
            refs = f"course-{m}", f"org-{m}", f"term-{m},term-{following}"
            return [f"class-{id_number}", "active", f"Class {n}", "scheduled", *refs]
        case "users":
            role = ("student", "student", "student", "teacher", "parent")[n % 5]
            name = f"{MARK}{n}"
            names = f"{name}.u", f"Zoë {name}", f"O'{name}", f"{name}@x.example"
            cells_after = "2026-08-17T00:00:00Z", "true", f"org-{m}", role, *names, "07"
            return [f"user-{id_number}", "active", *cells_after]
        case _:
            who = f"user-{n % SOUND - n % 5:05}"
            cells_after = f"class-{m}", f"org-{m}", who, "student", "true", "2026-08-17"
            return [f"enrollment-{id_number}", "active", *cells_after]


@dataclass(slots=True)
class Input:
    """The lines of a file.

    sound: the numbers of the sound lines, from 1.
    """

    lines: list[bytes] = field(default_factory=list)
    sound: set[int] = field(default_factory=set)


def mutated(rng: random.Random, file: str, number: int) -> Input:
    """Return a file: its header, sound rows, and damaged rows with some sound rows among them."""
    found = Input([FILES[file][0].replace(" ", ",").encode()])
    for n in range(SOUND + number):
        if n < SOUND or n % 10 == 0:
            found.lines.append(rubbish.line(cells(file, n)))
            found.sound.add(len(found.lines))
        else:
            _, raw = rubbish.row(rng, cells(file, n))
            # The bus counts lines by \n, \r and \r\n.
            found.lines += raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return found


def write(folder: Path, rng: random.Random) -> dict[str, Input]:
    """Write an extract of rubbish."""
    inputs = {file: mutated(rng, file, number) for file, (_, number) in FILES.items()}
    folder.mkdir()
    for file, found in inputs.items():
        (folder / f"{file}.csv").write_bytes(b"\n".join(found.lines) + b"\n")
    return inputs


@pytest.fixture
def report_each_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report each fault separately, without a limit."""
    for module in (rows, users, integrity):
        monkeypatch.setattr(module, "MOST", 999_999)


def test_rows(
    tmp_path: Path, report_each_fault: None, rng: random.Random, turn: int, findings: Findings
) -> None:
    inputs = write(tmp_path / "extract", rng)
    (tmp_path / "work").mkdir()
    staging = Staging(duckdb.connect(), tmp_path / "work")
    read(tmp_path / "extract", staging)
    integrity.validate(Workspace(staging))
    fates: Counter[str] = Counter()
    for file, found in inputs.items():
        fates += account(staging, tmp_path / "extract" / f"{file}.csv", found)
    staging.con.close()
    findings.add("rows of CSV as rubbish", f"{fates.total():,} lines", rubbish.summary(fates))
    assert fates.total() >= 100_000
    assert MARK not in "".join(map(str, staging.faults))


def account(staging: Staging, path: Path, found: Input) -> Counter[str]:
    """Check that each line that is not empty is read, in quarantine, or part of a longer row."""
    file = path.stem
    names = FILES[file][0].split()
    faults: dict[int, list[Fault]] = {}
    for fault in staging.faults:
        if fault.file == path.name and fault.line > 1:
            faults.setdefault(fault.line, []).append(fault)
    workspace = Workspace(staging)
    raw, kept = (
        values(workspace, table, file, names) for table in (workspace.raw, workspace.record)
    )
    assert kept.keys() <= raw.keys()
    text = as_utf8(path, staging.folder)
    with text.path.open(encoding="utf-8-sig", newline="") as source:
        line_counts = {row.line: row.lines for row in rows.rows(source, ",", len(names))}
    continuation_lines = {
        at for line, more in line_counts.items() for at in range(line + 1, line + more)
    }
    fates: Counter[str] = Counter()
    for at, line in enumerate(found.lines[1:], start=2):
        reasons = faults.get(at, [])
        fatal = [fault for fault in reasons if fault.fatal]
        assert all(fault.reason and fault.kind in ("", *KINDS_OF[file]) for fault in reasons)
        if at in kept:
            assert not fatal
            fate = "read except for a value, which is reported" if reasons else "read"
            if line_counts[at] == 1:
                assert raw[at] == plain(line, raw[at]), (file, at)
        elif fatal:
            fate = "in quarantine"
            # a damaged row before it may have the id of a sound row
            assert at not in found.sound or fatal[0].reason.startswith("the row has the same id as")
        elif any("only one of them was used" in fault.reason for fault in reasons):
            fate = "a repeated row"
        elif at in continuation_lines:
            assert at not in found.sound
            fate = "part of a row that began earlier"
        else:
            assert not line.strip(EMPTY), (file, at)
            fate = "empty"
        fates[fate] += 1
    return fates


EMPTY = b' \t,\0"' + bytes(range(0x0B, 0x20)) + "\xa0\x85\u2028\ufeff".encode()
"""The bytes of lines without a value."""

Values = dict[int, tuple[str | None, ...]]


def values(
    workspace: Workspace, table: Callable[[str], str], file: str, names: Sequence[str]
) -> Values:
    """Return the cells of each line, for all kinds of a file."""
    found: Values = {}
    for kind in KINDS_OF[file]:
        name = table(kind)
        columns = {row[0] for row in workspace.sql(f"DESCRIBE {name}")}
        cells = (f"CAST({quoted(n)} AS VARCHAR)" if n in columns else "NULL" for n in names)
        listed = workspace.sql(f"SELECT _line, {', '.join(cells)} FROM {name}")
        found |= {line: tuple(row) for line, *row in listed}
    return found


def plain(line: bytes, like: Sequence[str | None]) -> tuple[str | None, ...]:
    """Return a row as Python's csv module reads it, for the columns that the kind has."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = line.decode("cp1252")
    (row,) = csv.reader([text.replace("\0", "")], strict=True, skipinitialspace=True)
    return tuple(None if one is None else row[at] for at, one in enumerate(like))


ZIP = {
    "manifest.csv": b"propertyName,value\noneroster.version,1.1\nfile.orgs,bulk\nfile.users,bulk\n",
    "orgs.csv": b"sourcedId,name,type\n" + b"".join(b"o%d,School %d,school\n" % (n, n) for n in range(40)),
    "users.csv": b"sourcedId,role,givenName,familyName\n"
    + b"".join(b"u%d,student,zQ7x,Li %d\n" % (n, n) for n in range(40)),
}  # fmt: skip


def test_zips(tmp_path: Path, rng: random.Random, turn: int, findings: Findings) -> None:
    path, folder = tmp_path / "extract.zip", tmp_path / "work"
    fates: Counter[str] = Counter()
    for number in range(ZIPS):
        damage, data = rubbish.archive(rng, ZIP)
        path.write_bytes(data)
        folder.mkdir()
        try:
            found = {file.name: file.read_bytes() for file in archive.files(path, folder)}
            fates["read"] += 1
            if damage != "bombs":
                assert all(content in (*ZIP.values(), b"") for content in found.values()), number
            if number % 20 == 0:
                staging = Staging(duckdb.connect(), folder)
                read(path, staging)
                assert MARK not in "".join(map(str, staging.faults))
                staging.con.close()
        except Stop as reason:
            fates["refused"] += 1
            assert "; " in str(reason) or "." in str(reason)
            assert MARK not in str(reason)
        assert all(tmp_path in one.resolve().parents for one in folder.rglob("*"))
        assert set(tmp_path.iterdir()) == {path, folder}
        shutil.rmtree(folder)
    findings.add("zips as rubbish", f"{ZIPS:,} zips", rubbish.summary(fates))
