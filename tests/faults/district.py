"""A small district as its SIS has it, day by day, and what a reader of its extracts must know.

`Sis` is the system: plain records, changed one by one and written as OneRoster CSV extracts.
`Expected` is what a reader of those extracts must know after them. It follows OneRoster 1.1 CSV (bulk and
delta, "tobedeleted") and docs/sources.md: a record whose row is in quarantine keeps its state, and
a reference to a kind that was never in an extract is kept. Both are simple, and use no
code of the bus.
"""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

Mode = Literal["bulk", "delta"]
Key = tuple[str, str]
"""The kind and the id of a record."""
Row = dict[str, str]

FILES = {
    "orgs": "name type parentSourcedId",
    "academicSessions": "title type startDate endDate schoolYear",
    "courses": "title courseCode orgSourcedId schoolYearSourcedId",
    "classes": "title classCode classType courseSourcedId schoolSourcedId termSourcedIds",
    "users": "role enabledUser orgSourcedIds username givenName familyName",
    "enrollments": "classSourcedId schoolSourcedId userSourcedId role beginDate endDate",
}
"""The files and their columns besides sourcedId and status."""
KINDS = {
    "org": "orgs",
    "academicSession": "academicSessions",
    "course": "courses",
    "student": "users",
    "staff": "users",
    "class": "classes",
    "enrollment": "enrollments",
}
"""The kinds and their files, referenced kinds first."""
PEOPLE = ("student", "staff")
ID_PREFIXES = dict(zip(KINDS, "stcpwke", strict=True))
REQUIRED = {
    "class": {"courseSourcedId": ("course",), "schoolSourcedId": ("org",)},
    "enrollment": {
        "classSourcedId": ("class",),
        "schoolSourcedId": ("org",),
        "userSourcedId": ("student", "staff"),
    },
}
OPTIONAL = {
    "org": {"parentSourcedId": ("org",)},
    "course": {"orgSourcedId": ("org",), "schoolYearSourcedId": ("academicSession",)},
    "class": {"termSourcedIds": ("academicSession",)},
    "student": {"orgSourcedIds": ("org",)},
    "staff": {"orgSourcedIds": ("org",)},
}
NAMES = "Oak Elm Fir Ash Yew Bay Box Fig".split()
USERNAMES = "red blue green".split()
"""Only a few, so that people often give up, take and swap them."""
ROLES = "student teacher aide proctor".split()
DATES = (
    ("", ""),
    ("2026-08-17", "2099-06-10"),
    ("2026-10-01", "2099-01-15"),
    ("2026-08-17", "2099-01-15"),
)
"""First and last days of enrollments. A student may have several enrollments in one class."""
OMISSIBLE = ("courses", "academicSessions")
"""Files that an extract may always omit.

Every product can still use classes without them. Canvas takes no class without its
school.
"""

Rubbish = Literal["status", "short", "no id", "empty", "twice", "nowhere", "quote", "role"]
RUBBISH: tuple[Rubbish, ...] = (
    "status", "empty", "twice", "nowhere", "short", "no id", "quote", "role",
)  # fmt: skip
WITHOUT_OWNER = ("short", "no id", "quote", "role")
"""Damage that hides which record a row is for, so that no record of the kind is withdrawn."""


class Change(NamedTuple):
    """A change of one record; `a`, `b` and `c` choose names and references."""

    what: Literal["put", "remove", "forget"]
    kind: str
    number: int
    a: int = 0
    b: int = 0
    c: int = 0


@dataclass(slots=True)
class Record:
    """A record in the system.

    removed: whether the record is removed.
    marked:  whether a bulk extract shows a removed record as tobedeleted; otherwise it omits it.
    """

    fields: Row
    removed: bool = False
    marked: bool = True


@dataclass(slots=True)
class Extract:
    """The rows of one day.

    rubbish: the damaged rows, and the kind of damage.
    """

    modes: dict[str, Mode]
    rows: dict[str, list[Row]]
    rubbish: dict[Key, Rubbish]

    def write(self, path: Path) -> Path:
        """Write the extract as a zip, with the rubbish."""
        manifest = ["propertyName,value", "manifest.version,1.0", "oneroster.version,1.1"]
        manifest += [f"file.{file},{self.modes.get(file, 'absent')}" for file in FILES]
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("manifest.csv", "\n".join(manifest))
            for file, rows in self.rows.items():
                head = ",".join(["sourcedId", "status", *FILES[file].split()])
                lines = [line for row in rows for line in self._lines(kind_of(file, row), row)]
                archive.writestr(f"{file}.csv", "\n".join([head, *lines, ""]))
        return path

    def _lines(self, kind: str, row: Row) -> list[str]:
        damage = self.rubbish.get((kind, row["sourcedId"]))
        text = next(
            name for name in row if name not in ("sourcedId", "status", "role", "enabledUser")
        )
        match damage:
            case "status":
                return [_line(row | {"status": "perhaps"})]
            case "empty":
                return [
                    _line(row | {text: "", "givenName": ""} if kind in PEOPLE else row | {text: ""})
                ]
            case "twice":
                return [_line(row), _line(row | {text: "nowhere"})]
            case "nowhere":
                return [_line(row | {next(iter(REQUIRED[kind])): "nowhere"})]
            case "short":
                return [",".join(list(row.values())[:3])]
            case "no id":
                return [_line(row | {"sourcedId": ""})]
            case "quote":
                id_, *others = row.values()
                return [f'{id_},"{",".join(others)}']
            case "role":
                return [_line(row | {"role": "wizard"})]
        return [_line(row)]


@dataclass(slots=True)
class Sis:
    """The system.

    mark: the prefix of every id, so that several districts fit on one bus.
    """

    mark: str
    records: dict[Key, Record] = field(default_factory=dict)
    to_send: set[Key] = field(default_factory=set)

    def id(self, kind: str, number: int) -> str:
        """Return the id of a kind's record with this number."""
        return f"{self.mark}{ID_PREFIXES[kind]}{number}"

    def change(self, change: Change) -> None:
        """Apply a change, unless it is impossible, such as an enrollment without a class."""
        key = (change.kind, self.id(change.kind, change.number))
        if change.what == "put":
            if (fields := self._fields(change)) is not None:
                self.records[key] = Record(fields)
                self.to_send.add(key)
        elif key in self.records:
            self.records[key].removed = True
            self.records[key].marked = change.what == "remove"
            self.to_send.add(key)

    def _fields(self, change: Change) -> Row | None:
        kind, a, b, c = change.kind, change.a, change.b, change.c
        name = NAMES[a % len(NAMES)]
        if kind == "org":
            root = change.number == 0
            parent = "" if root else self.id("org", 0)
            return {
                "name": name,
                "type": "district" if root else "school",
                "parentSourcedId": parent,
            }
        if kind == "academicSession":
            dates = {"startDate": "2026-08-01", "endDate": "2027-07-31", "schoolYear": "2027"}
            return {"title": name, "type": "term", **dates}
        if kind in ("student", "staff"):
            return {
                "role": "student" if kind == "student" else "teacher",
                "enabledUser": "false" if c == 3 else "true",
                "orgSourcedIds": ",".join(self._some("org", b, 1 + c % 2)),
                "username": self._username((kind, self.id(kind, change.number)), a + 2 * b + c),
                "givenName": name,
                "familyName": "Li",
            }
        if kind == "course":
            org, year = self._some("org", b, 1), self._some("academicSession", c, 1)
            fields = {"title": name, "courseCode": "C"}
            return fields | {
                "orgSourcedId": org[0] if org else "",
                "schoolYearSourcedId": year[0] if year else "",
            }
        school = self._some("org", c, 1)
        if kind == "class":
            course, terms = self._some("course", b, 1), self._some("academicSession", c, 1 + a % 2)
            if not course or not school:
                return None
            return {
                "title": name,
                "classCode": "",
                "classType": "scheduled",
                "courseSourcedId": course[0],
                "schoolSourcedId": school[0],
                "termSourcedIds": ",".join(terms),
            }
        klass, people = self._some("class", a, 1), [*self._all("student"), *self._all("staff")]
        if not klass or not people or not school:
            return None
        person = people[b % len(people)]
        role = ROLES[0] if f"{self.mark}p" in person else ROLES[1 + c % 3]
        return {
            "classSourcedId": klass[0],
            "schoolSourcedId": school[0],
            "userSourcedId": person,
            "role": role,
            "beginDate": DATES[c % len(DATES)][0],
            "endDate": DATES[c % len(DATES)][1],
        }

    def _username(self, person: Key, choice: int) -> str:
        """Return a person's username: the id, or one of a few names.

        If another person has the name, the two people swap names, so usernames stay unique.
        """
        if choice % 8 >= len(USERNAMES):
            return person[1]
        wanted = f"{self.mark}{USERNAMES[choice % 8]}"
        before = self.records.get(person)
        had = before.fields["username"] if before and not before.removed else person[1]
        for key, record in self.records.items():
            holds = key[0] in PEOPLE and not record.removed and record.fields["username"] == wanted
            if holds and key != person:
                record.fields = {**record.fields, "username": key[1] if had == person[1] else had}
                self.to_send.add(key)
        return wanted

    def _all(self, kind: str) -> list[str]:
        return sorted(
            id_ for (k, id_), record in self.records.items() if k == kind and not record.removed
        )

    def _some(self, kind: str, at: int, number: int) -> list[str]:
        present = self._all(kind)
        return sorted({present[(at + i) % len(present)] for i in range(number)}) if present else []

    def extract(self, modes: dict[str, Mode], rubbish: list[tuple[int, Rubbish]]) -> Extract:
        """Export all records of a file, or those that no extract has had undamaged yet.

        modes:   the mode of each file that is in the extract.
        rubbish: which rows are damaged (by a number), and how. The next extract has them again.
        """
        keys = [
            key
            for key, record in self.records.items()
            if (mode := modes.get(KINDS[key[0]]))
            and (key in self.to_send if mode == "delta" else record.marked or not record.removed)
        ]
        damaged = {keys[at % len(keys)]: damage for at, damage in rubbish} if keys else {}
        for (kind, id_), damage in damaged.items():
            if damage == "role" and kind not in PEOPLE:
                damaged[kind, id_] = "short"
            if damage == "nowhere" and (
                kind not in REQUIRED
                or self.records[kind, id_].removed
                or not all(KINDS[to] in modes for to in next(iter(REQUIRED[kind].values())))
            ):
                damaged[kind, id_] = "status"
        rows: dict[str, list[Row]] = {file: [] for file in modes}
        for kind, id_ in sorted(keys, key=lambda key: list(KINDS).index(key[0])):
            record = self.records[kind, id_]
            status = "tobedeleted" if record.removed else "active"
            rows[KINDS[kind]].append({"sourcedId": id_, "status": status, **record.fields})
        covered = {key for key in self.to_send if KINDS[key[0]] in modes}
        self.to_send = self.to_send - covered | damaged.keys()
        return Extract(modes, rows, damaged)


@dataclass(slots=True)
class Expected:
    """What a reader of the extracts must know.

    records: each record as it was last delivered.
    active:  the active records.
    """

    records: dict[Key, Row] = field(default_factory=dict)
    active: set[Key] = field(default_factory=set)

    def may_omit(self, file: str) -> bool:
        """Return whether an extract may omit a file: its records are known, or not needed."""
        kinds = {kind for kind in KINDS if KINDS[kind] == file}
        return file in OMISSIBLE or kinds <= {kind for kind, _ in self.records}

    def apply(self, extract: Extract) -> None:
        """Update the state with an extract."""
        present, deferred = self._rows_present(extract)
        accepted: set[Key] = set()
        known_kinds = {kind for kind, _ in self.records}

        def not_extracted(targets: tuple[str, ...]) -> bool:
            return any(KINDS[to] not in extract.modes and to not in known_kinds for to in targets)

        for kind, file in KINDS.items():
            if file not in extract.modes:
                continue

            def exists(targets: tuple[str, ...], id_: str) -> bool:
                return not_extracted(targets) or any(
                    (target, id_) in accepted
                    or (
                        (target, id_) in self.records
                        and (extract.modes.get(KINDS[target]) != "bulk" or (target, id_) in present)
                    )
                    for target in targets
                )

            accepted_rows = []
            for row in _of(kind, extract.rows[file]):
                key = (kind, row["sourcedId"])
                if extract.rubbish.get(key, "twice") != "twice":
                    continue
                if row["status"] == "tobedeleted":
                    self.active.discard(key)
                elif all(exists(to, row[name]) for name, to in REQUIRED.get(kind, {}).items()):
                    accepted.add(key)
                    accepted_rows.append(dict(row))
            for row in accepted_rows:
                for name, to in OPTIONAL.get(kind, {}).items():
                    row[name] = ",".join(id_ for id_ in row[name].split(",") if exists(to, id_))
                self.records[kind, row["sourcedId"]] = row
                self.active.add((kind, row["sourcedId"]))
            if extract.modes[file] == "bulk" and kind not in deferred:
                self.active -= {k for k in self.active if k[0] == kind and k not in present}

    def _rows_present(self, extract: Extract) -> tuple[set[Key], set[str]]:
        """Return the records with a recognizable row, and the kinds that may have other rows."""
        present, deferred = set(), set()
        for kind, file in KINDS.items():
            for row in _of(kind, extract.rows.get(file, [])):
                key = (kind, row["sourcedId"])
                damage = extract.rubbish.get(key)
                if damage not in WITHOUT_OWNER:
                    present.add(key)
                elif file == "users" and damage != "no id":
                    deferred |= KINDS.keys()  # such a row may belong to any kind
                else:
                    deferred.add(kind)
        return present, deferred


def kind_of(file: str, row: Row) -> str:
    """Return the kind of a file's row."""
    if file == "users":
        return "student" if row["role"] == "student" else "staff"
    return next(kind for kind in KINDS if KINDS[kind] == file)


def _of(kind: str, rows: list[Row]) -> list[Row]:
    return [row for row in rows if kind_of(KINDS[kind], row) == kind]


def _line(row: Row) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(row.values())
    return out.getvalue()
