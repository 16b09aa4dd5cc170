"""What the source `oneroster-csv` reads, the product `oneroster-csv` writes, and the source reads again.

Both readings are the same records, in all fields that have a column in the version. The exceptions
are those that the product's docstring names; `expected` is their model in plain Python.
"""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.consume.dependency_order import KindRecords
from bus.consume.translation import translate
from bus.contract.fake_messages import Sent
from bus.delivery import Batch, Position
from bus.ingest.integrity import validate
from bus.ingest.workspace import Workspace
from bus.source import Staging
from bus.standard import KINDS
from consumers.oneroster_csv import FIELDS, PRODUCT
from producers.oneroster_csv.read import read
from tests import oneroster_files
from tests.oneroster_set_model import BEGIN, COLUMNS, MANIFEST, load

Records = dict[str, dict[str, dict[str, Any]]]
SAMPLES = Path(__file__).parents[1] / "samples"
KIND_OF = {
    "orgs": ("org",),
    "academicSessions": ("academicSession",),
    "courses": ("course",),
    "classes": ("class",),
    "users": ("student", "staff", "guardian"),
    "demographics": ("demographics",),
    "enrollments": ("enrollment",),
    "lineItems": ("lineItem",),
    "results": ("result",),
}
FILE_OF = {kind: name for name, kinds in KIND_OF.items() for kind in kinds}
BREAK = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def records(path: Path) -> Records:
    """Return the records of an extract, as `bus produce oneroster-csv` would publish them."""
    found: Records = {}
    with tempfile.TemporaryDirectory() as work, duckdb.connect(config={"threads": 1}) as con:
        staging = Staging(con, Path(work))
        read(path, staging)
        workspace = Workspace(staging)
        for kind in staging.coverage:
            raw = workspace.raw(kind)
            con.execute(f"ALTER TABLE {raw} ADD COLUMN IF NOT EXISTS sourcedId VARCHAR")
        validate(workspace)
        for kind in staging.coverage:
            names = ", ".join(f'"{name}"' for name in KINDS[kind].fields)
            rows = con.execute(f"SELECT {names} FROM {workspace.record(kind)}").fetchall()
            made = [dict(zip(KINDS[kind].fields, row, strict=True)) for row in rows]
            found[kind] = {record["sourcedId"]: record for record in made}
    return found


def write(out: Path, version: str, found: Records) -> Path:
    """Deliver records with the product, and return the zip."""
    by_kind, offsets = {}, {}
    for kind in PRODUCT.kinds:
        made = list(found.get(kind, {}).values())
        sent = [Sent(kind, record["sourcedId"], at) for at, record in enumerate(made)]
        by_kind[kind] = KindRecords(made, sent)  # type: ignore[arg-type]
        offsets[Position(f"schoolbus.{kind}", 0)] = len(made)
    parts, _, failed = translate(PRODUCT, by_kind)
    assert not failed
    delivery = PRODUCT.open(PRODUCT.settings(out=out, version=version))
    delivery.resume("cluster", list(offsets))
    delivery.deliver(Batch(parts, offsets))
    delivery.settle()
    delivery.close()
    return out / "oneroster.zip"


def fields(version: str, kind: str) -> set[str]:
    """Return the fields that have a column in a version."""
    columns = f"{BEGIN}{COLUMNS[version][FILE_OF[kind]]}".replace("!", "").split()
    names = {FIELDS.get(column, column) for column in columns} - {"dateLastModified"}
    if FILE_OF[kind] == "users":
        names |= {"role", "orgSourcedIds"}  # 1.2 has them in roles.csv
    return names & set(KINDS[kind].fields)


def expected(version: str, found: Records) -> Records:
    """Return the records that a set holds, with the fields of its version."""
    active = {
        kind: {id_: dict(one) for id_, one in some.items() if one["status"] == "active"}
        for kind, some in found.items()
    }
    agents = {"agentSourcedIds": ("student", "staff", "guardian")}
    order = [kind for kind in KINDS if kind in FILE_OF and kind in active]
    # Guardians and staff refer to nothing that can leave them out; students neither.
    for kind in order:
        required = set(KINDS[kind].required) | ({"sourcedId"} if kind == "demographics" else set())
        references = {**KINDS[kind].references, **(agents if FILE_OF[kind] == "users" else {})}
        for id_, record in list(active[kind].items()):
            for name, targets in references.items():
                if name not in fields(version, kind):
                    continue
                files = {FILE_OF[target] for target in targets}
                in_file = {
                    one for file in files for k in KIND_OF[file] for one in active.get(k, {})
                }
                there = {one for target in targets for one in active.get(target, {})}
                if not in_file and kind not in targets:
                    continue  # the whole file is absent
                if isinstance(record[name], list):
                    record[name] = [one for one in record[name] if one in there]
                elif record[name] is not None and record[name] not in there:
                    if name in required:
                        active[kind].pop(id_, None)
                    else:
                        record[name] = None
    return {
        kind: {
            id_: {name: _flat(record[name]) for name in fields(version, kind)}
            for id_, record in active[kind].items()
        }
        for kind in order
        if active[kind]
    }


def _flat(value: Any) -> Any:
    if isinstance(value, list):
        return [_flat(one) for one in value]
    return BREAK.sub(" ", value) if isinstance(value, str) else value


def compared(version: str, again: Records) -> Records:
    """Return the records of a set that was read, with the fields of its version."""
    return {
        kind: {
            id_: {name: record[name] for name in fields(version, kind)}
            for id_, record in some.items()
        }
        for kind, some in again.items()
        if some
    }


# ---- any extract -----------------------------------------------------------------------------

TEXTS = st.sampled_from(
    [
        *(
            "Ada",
            "O'Neil, Jr.",
            'Chase "The Man"',
            "Zoë 李 𝔘",
            "two\nlines",
            "a\tb",
            "x;y",
            " Ann ",
        ),
        *("=1", "C:\\new", "1e5", "01", "TRUE", "ext:other", "null", "a\u2028b", '"', "'"),
    ]
)
ITEMS = st.lists(st.sampled_from(["Math", "Art 2", "{LDAP:12}", 'b"', "two\nlines"]), max_size=3)
DAYS = st.sampled_from(["2026-08-01", "2027-02-28", "2026-12-18"])
YES = st.sampled_from(["true", "false"])
NUMBERS = st.sampled_from(["0", "17", "17.5", "0.1", "1e-7", "123456789.123", "-3"])
ROLES = {
    "1.1": "student teacher aide proctor administrator parent guardian relative",
    "1.2": "student teacher aide counselor principal proctor districtAdministrator parent "
    "siteAdministrator systemAdministrator guardian relative",
}
CHOICES = {
    "academicSessions.type": "gradingPeriod semester schoolYear term trimester",
    "orgs.type": "department school district local state national galaxy",
    "classes.classType": "homeroom scheduled lab",
    "enrollments.role": "administrator aide proctor student teacher visitor",
    "demographics.sex": "male female other unspecified",
    "results.scoreStatus": "exempt|fully graded|not submitted|partially graded|submitted|late|?",
}
NUMBER = {"orgs": 3, "academicSessions": 3, "courses": 2, "classes": 3, "users": 6}
TARGETS = {
    "parentSourcedId": "",  # the file itself
    "schoolYearSourcedId": "academicSessions",
    "termSourcedIds": "academicSessions",
    "gradingPeriodSourcedId": "academicSessions",
    "academicSessionSourcedId": "academicSessions",
    "orgSourcedId": "orgs",
    "orgSourcedIds": "orgs",
    "primaryOrgSourcedId": "orgs",
    "schoolSourcedId": "orgs",
    "courseSourcedId": "courses",
    "classSourcedId": "classes",
    "userSourcedId": "users",
    "studentSourcedId": "users",
    "agentSourcedIds": "users",
    "lineItemSourcedId": "lineItems",
    "categorySourcedId": "categories",
}


def _ids(name: str) -> list[str]:
    return [f"{name}-{at}" for at in range(NUMBER.get(name, 4))]


def _cell(version: str, name: str, column: str, needed: bool) -> st.SearchStrategy[str]:
    place = f"{name}.{column}"
    if place in CHOICES:
        listed = CHOICES[place]
        made = st.sampled_from(listed.split("|" if "|" in listed else None))
    elif column in TARGETS:
        ids = st.sampled_from(_ids(TARGETS[column] or name))
        many = column.endswith("Ids")
        made = st.lists(ids, min_size=needed, max_size=3).map(",".join) if many else ids
    elif column in ("userIds", "subjects", "subjectCodes", "periods"):
        made = ITEMS.map(",".join)
    elif column == "grades":
        made = st.lists(st.sampled_from(["9", "KG", "10", "ungraded"]), max_size=2).map(",".join)
    elif column.endswith("Date"):
        made = DAYS
    elif column == "schoolYear":
        made = st.sampled_from(["2027", "2026"])
    elif column in ("score", "resultValueMin", "resultValueMax"):
        made = NUMBERS
    elif column in ("enabledUser", "primary") or (name == "demographics" and column[0] in "abnwdh"):
        made = YES
    elif column == "role":
        made = st.sampled_from(ROLES[version].split())
    elif column in ("password", "inProgress", "incomplete", "late", "missing"):
        made = st.just("")
    else:
        made = TEXTS
    return made if needed else made | st.just("")


@st.composite
def extracts(draw: st.DrawFn, version: str) -> dict[str, str]:
    """The text of each file, "" if it is absent: references to nothing, and withdrawn records."""
    found = {}
    roles = {id_: draw(_cell(version, "users", "role", True)) for id_ in _ids("users")}
    for name, listed in COLUMNS[version].items():
        columns = [one.rstrip("!") for one in (BEGIN + listed).split()]
        strategies = {
            one.rstrip("!"): _cell(version, name, one.rstrip("!"), one.endswith("!"))
            for one in listed.split()
        }
        rows = []
        if name == "roles":
            rows = [
                {"userSourcedId": id_, "roleType": "primary", "role": role, "orgSourcedId": org}
                for id_, role in roles.items()
                for org in draw(st.lists(st.sampled_from(_ids("orgs")), max_size=3, unique=True))
                or [""]
            ]
        elif name in ("orgs", "users") or draw(st.integers(0, 9)):
            ids = _ids("users" if name == "demographics" else name)
            for id_ in draw(st.lists(st.sampled_from(ids), unique=True, max_size=len(ids))):
                row = {column: draw(one) for column, one in strategies.items()}
                row |= {"sourcedId": id_, "role": roles.get(id_) or row.get("role", "")}
                row["status"] = draw(st.sampled_from(["", "active", "active", "tobedeleted"]))
                row["dateLastModified"] = "2026-11-24T10:00:00.000Z"
                rows.append(row)
        text = io.StringIO()
        lines = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
        lines.writeheader()
        lines.writerows(rows)
        found[name] = text.getvalue() if rows else ""
    return found


def put(folder: Path, version: str, files: Mapping[str, str]) -> Path:
    """Write an extract."""
    modes = {name: "bulk" if files.get(name) else "absent" for name in MANIFEST[version].split()}
    lines = ["propertyName,value", "manifest.version,1.0", f"oneroster.version,{version}"]
    lines += [f"file.{name},{mode}" for name, mode in modes.items()]
    return oneroster_files.extract(folder, **{**files, "manifest": "\n".join(lines)})


@pytest.mark.parametrize("version", ["1.1", "1.2"])
@settings(
    max_examples=max(6, settings().max_examples // 8),  # each example is read twice and written
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_any_extract_is_the_same_after_the_round_trip(version: str, data: st.DataObject) -> None:
    files = data.draw(extracts(version))
    if not any(files.values()):
        return
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        found = records(put(folder / "in", version, files))
        wanted = expected(version, found)
        path = write(folder / "out", version, found)
        if not wanted:
            assert not path.exists()
            return
        load(path)  # a strict importer takes it
        again = compared(version, records(path))
        assert _people(version, again, wanted) == _people(version, wanted, wanted)


def _people(version: str, found: Records, wanted: Records) -> Records:
    """Return the records, those of people without what the roles.csv of 1.2 cannot say.

    It has no order of the organizations, and if users.csv has no primary one, the first counts.
    """
    if version == "1.1":
        return found
    for kind in ("student", "staff", "guardian"):
        for id_, record in found.get(kind, {}).items():
            record["orgSourcedIds"] = set(record["orgSourcedIds"])
            if wanted.get(kind, {}).get(id_, {}).get("primaryOrgSourcedId") is None:
                record.pop("primaryOrgSourcedId", None)
    return found


def filled(version: str) -> dict[str, str]:
    """Return an extract with a value in every column that the standard has."""
    found = {}
    values = {
        "type": {"orgs": "galaxy", "academicSessions": "term"}.get,
        "role": {"users": "teacher", "enrollments": "visitor", "roles": "principal"}.get,
    }
    said = {
        **{"classType": "lab", "sex": "other", "scoreStatus": "partially graded", "grades": "9,KG"},
        **{"enabledUser": "false", "schoolYear": "2027", "score": "17.25", "roleType": "primary"},
        **{"resultValueMin": "0.1", "resultValueMax": "1e7", "userIds": "{LDAP:1},{SIS:2}"},
        **{"status": "", "dateLastModified": "", "password": "", "userProfileSourcedId": ""},
    }
    for name, listed in COLUMNS[version].items():
        row = {}
        for column in (BEGIN + listed).replace("!", "").split():
            flag = (name == "demographics" and column[0] in "abnwdh") or column == "primary"
            if column in values:
                row[column] = values[column](name) or "?"
            elif column in said:
                row[column] = said[column]
            elif column.endswith("Date"):
                row[column] = "2026-12-18"
            elif column.endswith(("ourcedId", "ourcedIds")):
                target = "users" if name == "demographics" else TARGETS.get(column) or name
                row[column] = f"{target}-0"
            else:
                row[column] = "true" if flag else f'{column}, "x"'
        if name == "results" and version == "1.2":
            row |= dict.fromkeys(["inProgress", "incomplete", "late", "missing"], "")
        if name in ("orgs", "academicSessions"):
            row["parentSourcedId"] = f"{name}-1"
        rows = [row]
        if name in ("orgs", "academicSessions"):
            rows.append(row | {"sourcedId": f"{name}-1", "parentSourcedId": ""})
        if name == "users":
            student = {"sourcedId": "users-s", "role": "student", "username": "s"}
            rows.append(row | student)
        if name == "roles":
            rows.append(row | {"sourcedId": "r", "userSourcedId": "users-s", "role": "student"})
        if name in ("demographics", "results"):
            row["sourcedId" if name == "demographics" else "studentSourcedId"] = "users-s"
        text = io.StringIO()
        lines = csv.DictWriter(text, list(row), extrasaction="ignore")
        lines.writeheader()
        lines.writerows(rows)
        found[name] = text.getvalue()
    return found


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_every_column_is_the_same_after_the_round_trip(tmp_path: Path, version: str) -> None:
    found = records(put(tmp_path / "in", version, filled(version)))
    path = write(tmp_path / "out", version, found)
    load(path, required=True)
    wanted, again = expected(version, found), compared(version, records(path))
    assert wanted.keys() == set(PRODUCT.kinds) - {"guardian"}
    for kind, some in wanted.items():
        for name in fields(version, kind):
            assert any(record[name] not in (None, []) for record in some.values()), (kind, name)
    assert _people(version, again, wanted) == _people(version, wanted, wanted)


@pytest.mark.parametrize("version", ["1.1", "1.2"])
@pytest.mark.parametrize("name", [path.name for path in sorted(SAMPLES.glob("*.zip"))])
def test_samples_are_the_same_after_the_round_trip(tmp_path: Path, name: str, version: str) -> None:
    found = records(SAMPLES / name)
    path = write(tmp_path / "out", version, found)
    load(path)
    wanted, again = expected(version, found), compared(version, records(path))
    assert _people(version, again, wanted) == _people(version, wanted, wanted)
    assert sum(map(len, again.values())) > 5
