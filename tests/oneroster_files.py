"""Small OneRoster CSV extracts for tests: a folder with a manifest and the given files."""

from __future__ import annotations

from pathlib import Path

import duckdb

from bus.source import Fault, Staging
from producers.oneroster_csv.read import read

ORGS = "sourcedId,name,type,parentSourcedId\nd1,District,district,\ns1,School,school,d1\n"
SESSIONS = (
    "sourcedId,title,type,startDate,endDate,schoolYear\n"
    "y1,2026-2027,schoolYear,2026-08-01,2027-07-31,2027\n"
)
USERS = (
    "sourcedId,enabledUser,orgSourcedIds,role,username,givenName,familyName,password\n"
    "u1,true,s1,student,ada,Ada,Lovelace,secret\n"
    "u2,true,s1,teacher,grace,Grace,Hopper,secret\n"
    "u3,true,s1,parent,anne,Anne,Lovelace,secret\n"
)


def extract(folder: Path, **files: str | bytes) -> Path:
    """Write the files of an extract ("users" → users.csv), with a manifest that calls each bulk.

    A `manifest` among them is written unchanged; an empty one is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if "manifest" not in files:
        lines = ["propertyName,value", "manifest.version,1.0", "oneroster.version,1.1"]
        lines += [f"file.{name},bulk" for name in files]
        files["manifest"] = "\n".join(lines)
    for name, content in files.items():
        if content:
            raw = content.encode() if isinstance(content, str) else content
            (folder / f"{name}.csv").write_bytes(raw)
    return folder


def staged(path: Path, work: Path) -> Staging:
    """Return an extract as the source reads it."""
    work.mkdir(exist_ok=True)
    staging = Staging(duckdb.connect(), work)
    read(path, staging)
    return staging


def rows(staging: Staging, kind: str, *fields: str) -> list[tuple[object, ...]]:
    """Return these columns of the rows that were read of a kind, in the order of the file."""
    names = ", ".join(f'"{name}"' for name in fields)
    return staging.con.execute(f'SELECT {names} FROM "raw_{kind}" ORDER BY _line').fetchall()


def fatal(staging: Staging) -> list[Fault]:
    """Return the faults that left out a row or a file."""
    return [fault for fault in staging.faults if fault.fatal]
