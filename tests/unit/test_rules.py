"""The outcome of the rules for texts: when it changes, raise `RULES`, and all sources read all again.

tests/golden/rules.txt has one line for each text with its outcome, and a digest for each piece of
SQL of the rules. It holds what the rules do, so a changed comment changes nothing.

    UPDATE_GOLDEN=1 pytest tests/unit/test_rules.py

writes the file again. It refuses to if a line changes and `RULES` does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bus.ingest import integrity, row_hashes, snapshot
from bus.ingest.coercion import reading
from bus.ingest.columns import definition, fingerprint, quoted
from bus.ingest.integrity import RULES, validate
from bus.ingest.workspace import Workspace
from bus.source import Fault, Staging
from bus.standard import KINDS
from producers.oneroster_csv.read import RULES as ONEROSTER_RULES
from tests import golden_file
from tests.oneroster_files import extract, staged

FILE = "rules.txt"
Row = dict[str, str | None]
Lines = Iterator[str]

IDS = ["x", " x ", "\tx", "a\x00b", "a\u2028b", "Zoë", "x" * 255, "x" * 256, "", " "]
WORDS = [
    *("Ada", " Ada ", "\u00a0Ada\u3000", "A\x00d\x07a", "B\tC\nD", "\x01", "", "x" * 32_769),
    *("\ufeffA\u200bd\u00ada\u2028", "\u200b \u00a0", "می\u200cخواهم", "क्\u200dष"),
]
DATES = [
    *("2026-08-01", "20260801", "8/1/2026", "13/1/2026", "1/2/26", "1.8.2026", "2026-02-30"),
    *("1899-12-31", "1900-01-01", "2200-12-31", "2201-01-01", "epoch", "2026-08-01 or so"),
    *("2026-08-01T23:30:00-05:00", "2026-08-01 00:00", "2026-08-01T25:00:00Z", ""),
]
MOMENTS = [
    *("2026-08-01T10:00:00Z", "2026-08-01t10:00:00z", "2026-08-01T10:00:00+02:00"),
    *("2026-08-01 10:00:00-0530", "2026-08-01T10:00:00.1239Z", "2026-08-01T10:00:00"),
    *("2026-08-01T10:00", "2026-08-01", "2026-08-01T10:00:00+99:99", "1/8/2026", "20260801", ""),
]
TEXTS: dict[str, list[str]] = {
    "org.sourcedId": IDS,
    "org.parentSourcedId": IDS,
    "org.status": ["active", "ACTIVE", "tobedeleted", "to be deleted", "inactive", "gone", ""],
    "org.type": ["school", "School", "department_", "galaxy", ""],
    "org.dateLastModified": MOMENTS,
    "student.givenName": WORDS,
    "student.middleName": WORDS,
    "student.enabledUser": [
        *("true", "T", "Yes", "y", "1", "FALSE", "f", "no", "N", "0", "on", "2", "perhaps", ""),
    ],
    "student.grades": [
        *("07", "07,08", " 07 , ,08,07", "0\x007", ",", "", "9," * 16_385),
        *("7", "1,01,001", "k", "Pre-K", "13", "14", "0", "-1", "1st grade", "PPK", "other"),
    ],
    "student.orgSourcedIds": ["o1", "o2,o1,o2", " o1 , o2", "o1,a\tb", ",", "", "x" * 256],
    "academicSession.type": ["gradingPeriod", "grading period", "GRADING_PERIOD", "trimestre", ""],
    "academicSession.startDate": DATES,
    "academicSession.schoolYear": [
        *(
            "2027",
            "+5",
            "-5",
            "2027.0",
            "2027.",
            "1.5",
            "1e3",
            "0x1F",
            "99999999999",
            "2026-27",
            "",
        ),
    ],
    "demographics.birthDate": DATES,
    "demographics.sex": ["Female", "m a l e", "F", "m", "?", ""],
    "lineItem.resultValueMax": ["7", "-.5", "+1.", "1e2", "1e999", "nan", "inf", "1,5", "A+", ""],
    "optOut.scope": ["vendor", "Directory Information", "protected", "galaxy", ""],
    "optOut.vendor": ["Acme", " ", "", "x" * 32_769],
    "optOut.purpose": ["research", ""],
    "optOut.decision": ["Allow", "deny", "granted", ""],
    "optOut.decidedBy": ["Parent", "eligible student", "aunt", ""],
    "class.termSourcedIds": ["a1", "a1,a2,a1", "a\tb,a1", ""],
}
"""The texts to try in each field."""

SOUND: dict[str, Row] = {
    "org": {"name": "Oak", "type": "school"},
    "student": {"givenName": "Ada", "familyName": "Byron"},
    "academicSession": {
        **{"title": "Fall", "type": "term"},
        **{"startDate": "2026-08-01", "endDate": "2026-12-31"},
    },
    "demographics": {},
    "optOut": {"studentSourcedId": "s1", "scope": "vendor", "vendor": "Acme"},
    "lineItem": {"title": "Quiz", "classSourcedId": "k1"},
    "result": {
        **{"lineItemSourcedId": "not carried", "studentSourcedId": "s1"},
        **{"scoreDate": "2026-08-01", "scoreStatus": "submitted"},
    },
    "class": {
        **{"title": "Art 1", "classType": "scheduled", "courseSourcedId": "c1"},
        **{"schoolSourcedId": "o1", "termSourcedIds": "a1"},
    },
    "course": {"title": "Art"},
    "enrollment": {
        **{"classSourcedId": "k1", "schoolSourcedId": "o1", "userSourcedId": "s1"},
        **{"role": "student"},
    },
}
"""The other values that a row needs, so that only the tried text can be wrong."""

OLD, NEW = "2026-08-01T10:00:00Z", "2026-08-02T10:00:00Z"
TOGETHER: dict[str, list[Row]] = {
    "org": [
        {"sourcedId": "o1"},
        {"sourcedId": "o2", "parentSourcedId": "nowhere"},
        {"sourcedId": "a", "parentSourcedId": "b"},
        {"sourcedId": "b", "parentSourcedId": "a"},
        {"sourcedId": "c", "parentSourcedId": "a"},
        {"sourcedId": "self", "parentSourcedId": "self"},
        {"sourcedId": "gone", "status": "tobedeleted"},
        {"sourcedId": "child of gone", "parentSourcedId": "gone"},
        {"sourcedId": "child of old", "parentSourcedId": "published before"},
        {"sourcedId": "child of other", "parentSourcedId": "another's"},
    ],
    "student": [
        {"sourcedId": "s1", "orgSourcedIds": "o1"},
        {"sourcedId": "s2", "orgSourcedIds": "o2,nowhere,o1,gone"},
        {"sourcedId": "same"},
        {"sourcedId": "same"},
        {"sourcedId": "other", "givenName": "Ada"},
        {"sourcedId": "other", "givenName": "Eve"},
        {"sourcedId": "later", "dateLastModified": OLD},
        {"sourcedId": "later", "dateLastModified": NEW},
        {"sourcedId": "left out", "familyName": None},
    ],
    "demographics": [{"sourcedId": "s1"}, {"sourcedId": "left out"}, {"sourcedId": "another's"}],
    "course": [{"sourcedId": "c1"}, {"sourcedId": "c2", "orgSourcedId": "nowhere"}],
    "class": [
        {"sourcedId": "k1", "termSourcedIds": "published before"},
        {"sourcedId": "k2", "courseSourcedId": "nowhere"},
        {"sourcedId": "k3", "termSourcedIds": "nowhere"},
    ],
    "result": [{"sourcedId": "r1"}, {"sourcedId": "r2", "studentSourcedId": "nowhere"}],
    "enrollment": [
        {"sourcedId": "e1"},
        {"sourcedId": "e2", "classSourcedId": "k2"},
        {"sourcedId": "e3", "userSourcedId": "another's"},
        {"sourcedId": "e4", "status": "tobedeleted", "classSourcedId": "nowhere"},
    ],
}
"""Rows that affect each other within one extract."""

BEFORE, ANOTHERS = "published before", {"another's"}

USERS = (
    "sourcedId,enabledUser,orgSourcedIds,role,username,givenName,familyName,sex\n"
    "u1,true,s1,student,ada,Ada,Lovelace,?\n"
    "u2, TRUE ,s1,Site_Administrator ,grace,Grace,Hopper,\n"
    'u3,true,"s1,s2",parent,anne,"Anne ""A""\nB",Lovelace,\n'
    "u4,true,s1,wizard,merlin,Merlin,Ambrosius,\n"
    "u5,true,s1,student,short\n"
    "u6,true,s1,student,eve,Eve,Smith,,\n"
    ",,,,,,,\n"
)
EXTRACTS: dict[str, dict[str, str | bytes]] = {
    "plain": {"orgs": "sourcedId,name,type\no1,Oak,school\no2, Elm ,\n"},
    "semicolons": {"orgs": "Sourced Id;NAME;type;planet\no1;Oak;school;Mars\n"},
    "for Excel": {"orgs": "sep=,\nsourcedId,name,type\no1,Oak,school\n,,\n"},
    "windows": {"orgs": "sourcedId,name,type\r\no1,Zoë,school\r\n".encode("cp1252")},
    "quotes": {"orgs": 'sourcedId,name,type\no1,"O"ak,school\no2,"Elm,school\no3,Fir,school\n'},
    "users": {"users": USERS},
    "roles": {
        "users": "sourcedId,username,givenName,familyName\nu1,ada,Ada,L\nu2,eve,Eve,S\n",
        "roles": "sourcedId,status,userSourcedId,roleType,role,orgSourcedId\n"
        "r1,,u1,secondary,teacher,s2\nr2,,u1,primary,student,s1\nr3,tobedeleted,u2,primary,parent,s1\n",
    },
}
"""Files to try with the reader of OneRoster CSV."""


def put(workspace: Workspace, kind: str, rows: list[Row]) -> None:
    """Create `raw_KIND` from rows, from line 2 on, each with a hash."""
    raw = workspace.raw(kind)
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = ", ".join(f"{quoted(name)} VARCHAR" for name in names)
    workspace.sql(f"CREATE TABLE {raw} (_file VARCHAR, _line BIGINT, _raw UBIGINT, {texts})")
    marks = ", ".join("?" for _ in names)
    workspace.con.executemany(
        f"INSERT INTO {raw} VALUES (?, ?, ?, {marks})",
        [
            ["f.csv", line, line, *(row.get(name) for name in names)]
            for line, row in enumerate(rows, 2)
        ],
    )
    workspace.staging.coverage[kind] = "bulk"


def records(workspace: Workspace, kind: str) -> dict[int, dict[str, Any]]:
    """Return the records by their lines."""
    record = workspace.record(kind)
    names = workspace.columns_of(record)
    rows = (dict(zip(names, row, strict=True)) for row in workspace.sql(f"FROM {record}"))
    return {row["_line"]: row for row in rows}


def reported(faults: list[Fault], kind: str, line: int) -> str:
    """Return the faults of a row without their texts, which may change while the outcome does not."""
    found = sorted(
        f"{fault.column} is {fault.value_class}{' (fatal)' if fault.fatal else ''}"
        for fault in faults
        if (fault.kind, fault.line) == (kind, line)
    )
    return "".join(f"; {one}" for one in found)


def short(value: Any) -> str:
    """Return a value on one line, shortened if it is long."""
    text = ascii(value) if isinstance(value, (str, list)) else str(value)
    return text if len(text) < 60 else f"{text[:10]}… of {len(text)}"


def text_lines() -> Lines:
    """Yield the outcome of each text."""
    workspace = Workspace(Staging(duckdb.connect(), Path()))
    tried: dict[str, list[tuple[str, str]]] = {}
    for place, texts in TEXTS.items():
        kind, name = place.split(".")
        tried.setdefault(kind, []).extend((name, text) for text in texts)
    for kind, cases in tried.items():
        rows = [{"sourcedId": f"r{at}", **SOUND[kind], n: t} for at, (n, t) in enumerate(cases)]
        put(workspace, kind, rows)
    validate(workspace, lambda _, ids: set(ids))
    for kind, cases in tried.items():
        found = records(workspace, kind)
        for line, (name, text) in enumerate(cases, 2):
            outcome = short(found[line][name]) if line in found else "left out"
            faults = reported(workspace.staging.faults, kind, line)
            yield f"text {kind}.{name} {short(text)} -> {outcome}{faults}"
    workspace.con.close()


def row_lines() -> Lines:
    """Yield the outcome of rows that affect each other."""
    workspace = Workspace(Staging(duckdb.connect(), Path()))
    for kind, rows in TOGETHER.items():
        put(workspace, kind, [{**SOUND[kind], **row} for row in rows])
    for kind in ("org", "academicSession"):
        workspace.sql(f"CREATE TABLE {workspace.known(kind)} AS SELECT '{BEFORE}' AS sourcedId")
    validate(workspace, lambda _, ids: ANOTHERS & set(ids))
    for kind, rows in TOGETHER.items():
        found = records(workspace, kind)
        for line, row in enumerate(rows, 2):
            said = ", ".join(f"{name}={short(text)}" for name, text in row.items())
            outcome = "left out"
            if line in found:
                read = {name: short(found[line][name]) for name in row if name != "sourcedId"}
                outcome = ", ".join(f"{name}={value}" for name, value in read.items()) or "read"
                outcome += ", hash kept" if found[line]["_raw"] else ", hash not kept"
            faults = reported(workspace.staging.faults, kind, line)
            yield f"row {kind} line {line}: {said} -> {outcome}{faults}"
    workspace.con.close()


def sql_lines() -> Lines:
    """Yield a digest of the SQL of each kind and of the hashes."""
    for kind in KINDS:
        select, sorts = reading(kind, "raw", [*KINDS[kind].fields, "_raw"], faults=True)
        codes = ", ".join(f"{sort.column} {sort.fatal}" for sort in sorts)
        for what, text in {
            "reading": select,
            "faults": codes,
            "columns": definition(kind),
            "fingerprint": fingerprint(kind, "r"),
            "row hash": row_hashes._print(KINDS[kind].fields),
        }.items():
            digest = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
            yield f"sql {kind}, {what}: {digest[:16]}"


def oneroster_lines(folder: Path) -> Lines:
    """Yield the outcome of files with the reader of OneRoster CSV."""
    for name, files in EXTRACTS.items():
        staging = staged(extract(folder / name, **files), folder / f"{name}.work")
        workspace = Workspace(staging)
        for kind in staging.kinds:
            raw = workspace.raw(kind)
            shown = [one for one in workspace.columns_of(raw) if one not in ("_file", "_raw")]
            listed = ", ".join(map(quoted, shown))
            for row in workspace.sql(f"SELECT {listed} FROM {raw} ORDER BY _line"):
                values = ", ".join(f"{n}={short(v)}" for n, v in zip(shown, row, strict=True))
                yield f"oneroster-csv {name}, {kind}: {values}"
        for fault in staging.faults:
            if fault.line > 1:
                yield f"oneroster-csv {name}, {fault.file} line {fault.line}: left out"
        staging.con.close()


def hold(section: str, rules: str, where: str, lines: Lines) -> None:
    """Compare lines with the golden file. It may change only together with the rules' version."""
    found = {f"{section} RULES = {rules}", *lines}
    held = set(golden_file.held(FILE, section))
    advice = (
        f"The same text is read in another way than before. Raise RULES in {where}, so that each "
        "source reads all of its rows once more, and write the file again: "
        "UPDATE_GOLDEN=1 pytest tests/unit/test_rules.py"
    )
    if held - found and f"{section} RULES = {rules}" in held:
        lost = "\n".join(f"- {line}" for line in sorted(held - found))
        new = "\n".join(f"+ {line}" for line in sorted(found - held))
        pytest.fail(f"tests/golden/{FILE} is not what the rules do now:\n{lost}\n{new}\n{advice}")
    golden_file.check(FILE, section, found, advice)


def test_another_outcome_asks_for_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {f"sql RULES = {RULES}", "sql one"}
    monkeypatch.setattr(golden_file, "held", lambda *_: held)  # also with UPDATE_GOLDEN
    with pytest.raises(pytest.fail.Exception, match="Raise RULES in there"):
        hold("sql", str(RULES), "there", iter(["sql other"]))


def test_the_mark_goes_by_the_versions_of_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package version and comments in the code do not invalidate a cache."""
    marks = {snapshot._mark("cluster", rules) for rules in ("", "1", "2", "1")}
    monkeypatch.setattr(integrity, "RULES", RULES + 1)
    assert len(marks | {snapshot._mark("cluster", "1"), snapshot._mark("other", "1")}) == 5


def test_the_mark_goes_by_what_the_schemas_say_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    org = KINDS["org"]
    name = {"name": "name", "type": ["null", "string"], "default": None}
    schema = {"name": "org", "type": "record", "fields": [name]}
    reported = {**schema, "doc": "An organization.", "fields": [{**name, "doc": "d", "ceds": "c"}]}

    def mark(schema: dict[str, Any], **other: Any) -> str:
        monkeypatch.setattr(snapshot, "KINDS", {"org": replace(org, schema=schema, **other)})
        return snapshot._mark("cluster", "1")

    assert mark(schema) == mark(reported)
    other = {**schema, "fields": [{**name, "default": "x"}]}
    marks = [mark(schema), mark(other), mark(schema, owner="x"), mark(schema, references={})]
    assert len(set(marks)) == 4


@pytest.mark.parametrize("section", ["text", "row", "sql"])
def test_the_rules_of_the_bus(section: str) -> None:
    lines = {"text": text_lines, "row": row_lines, "sql": sql_lines}[section]()
    hold(section, str(RULES), integrity.__name__, lines)


def test_the_rules_of_oneroster_csv(tmp_path: Path) -> None:
    lines = oneroster_lines(tmp_path)
    hold("oneroster-csv", ONEROSTER_RULES, "producers.oneroster_csv.read", lines)
