"""The fictional district of the demo."""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from bus.demo.sample import District
from bus.ingest.integrity import validate
from bus.ingest.workspace import Workspace
from tests.oneroster_files import staged

DISTRICT = District(seed=3, students=300, change=0.2)


def table(path: Path, name: str) -> dict[str, dict[str, str]]:
    with zipfile.ZipFile(path) as archive:
        text = archive.read(f"{name}.csv").decode("utf-8")
    return {row["sourcedId"]: row for row in csv.DictReader(io.StringIO(text, newline=""))}


def test_the_same_seed_gives_the_same_district(tmp_path: Path) -> None:
    one, two = DISTRICT.write(tmp_path / "1.zip"), DISTRICT.write(tmp_path / "2.zip")
    with zipfile.ZipFile(one) as a, zipfile.ZipFile(two) as b:
        assert [a.read(n) for n in a.namelist()] == [b.read(n) for n in b.namelist()]


def test_another_seed_gives_another(tmp_path: Path) -> None:
    one = table(DISTRICT.write(tmp_path / "1.zip"), "users")
    two = table(District(seed=4, students=300).write(tmp_path / "2.zip"), "users")
    assert one != two


def test_every_reference_is_there(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        path = DISTRICT.write(tmp_path / f"{day}.zip", day)
        users, classes, orgs = (table(path, name) for name in ("users", "classes", "orgs"))
        for enrollment in table(path, "enrollments").values():
            assert enrollment["userSourcedId"] in users
            assert enrollment["classSourcedId"] in classes
            assert enrollment["schoolSourcedId"] in orgs
        assert table(path, "demographics").keys() <= users.keys()


def test_about_one_student_in_a_hundred_has_an_opt_out_and_the_other_files_stay(
    tmp_path: Path,
) -> None:
    plain = District(seed=5, students=3_000)
    with_opt_outs = replace(plain, opt_outs=0.01)
    one, two = plain.write(tmp_path / "1"), with_opt_outs.write(tmp_path / "2")
    for path in one.iterdir():
        if path.name != "manifest.csv":
            assert path.read_bytes() == (two / path.name).read_bytes()
    assert not (one / "optOuts.csv").exists()

    staging = staged(two, tmp_path / "work")
    assert staging.coverage["optOut"] == "bulk"
    workspace = Workspace(staging)
    validate(workspace)
    assert [fault for fault in staging.faults if fault.kind == "optOut"] == []
    found = Counter(
        scope for (scope,) in workspace.sql(f"SELECT scope FROM {workspace.record('optOut')}")
    )
    assert found.keys() == {"protected", "directoryInformation", "vendor", "purpose"}
    assert 0.005 * 3_000 < found.total() < 0.02 * 3_000


def test_a_small_district_has_a_protected_student(tmp_path: Path) -> None:
    district = District(students=5, opt_outs=0.01)
    opt_outs = table(district.write(tmp_path / "1.zip"), "optOuts")
    assert "protected" in {row["scope"] for row in opt_outs.values()}


def test_a_later_day_changes_about_the_share(tmp_path: Path) -> None:
    one = table(DISTRICT.write(tmp_path / "1.zip"), "users")
    two = table(DISTRICT.write(tmp_path / "2.zip", 2), "users")
    changed = sum(one[id_] != two[id_] for id_ in one.keys() & two.keys())
    removed, added = len(one.keys() - two.keys()), len(two.keys() - one.keys())
    assert 0.1 * 300 < changed + removed < 0.3 * 300
    assert added == DISTRICT.newcomers(2) == 18
    assert Counter(row["status"] for row in two.values())["tobedeleted"] > 0


def test_a_folder_holds_what_a_zip_does(tmp_path: Path) -> None:
    district = District(students=20)
    folder, archive = district.write(tmp_path / "folder"), district.write(tmp_path / "day.zip")
    with zipfile.ZipFile(archive) as packed:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            name: packed.read(name) for name in packed.namelist()
        }
