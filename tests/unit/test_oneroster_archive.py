"""The forms of an extract: zips and folders, whole, damaged and hostile."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest

from bus.errors import Stop
from producers.oneroster_csv import archive
from producers.oneroster_csv.archive import files


def zipped(path: Path, entries: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in entries.items():
            made.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path


def names(found: list[Path]) -> list[str]:
    return [file.name for file in found]


def test_a_zip_is_unpacked_for_its_owner_only(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"orgs.csv": "sourcedId\n1\n", "USERS.CSV": "sourcedId\n"})
    found = files(path, tmp_path / "work")
    assert names(found) == ["USERS.CSV", "orgs.csv"]
    assert found[1].read_text() == "sourcedId\n1\n"
    assert {stat.S_IMODE(file.stat().st_mode) for file in found} == {0o600}


def test_one_folder_inside_a_zip_is_fine_and_what_macos_adds_is_not_read(tmp_path: Path) -> None:
    entries = ["x/orgs.csv", "x/.DS_Store", "__MACOSX/x/._orgs.csv", "x/readme.txt", "x/sub/"]
    assert names(
        files(zipped(tmp_path / "a.zip", dict.fromkeys(entries, "")), tmp_path / "work")
    ) == ["orgs.csv"]


def test_backslashes_of_windows_are_folders(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"x\\orgs.csv": "", "x\\users.csv": ""})
    assert names(files(path, tmp_path / "work")) == ["orgs.csv", "users.csv"]


def test_a_folder_is_read_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "orgs.csv").touch()
    assert files(tmp_path, tmp_path / "work") == [tmp_path / "in" / "orgs.csv"]


@pytest.mark.parametrize(
    "name",
    ["../orgs.csv", "a/../../orgs.csv", "/etc/orgs.csv", "..\\orgs.csv", "C:\\orgs.csv", "C:x.csv"],
)
def test_names_that_climb_out_refuse_the_extract(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "in.zip", {"users.csv": "", name: "sourcedId\n"})
    with pytest.raises(Stop, match="leads out of the zip"):
        files(path, tmp_path / "work")
    assert not list(tmp_path.rglob("*.csv"))


def test_links_refuse_the_extract(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("orgs.csv")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(link, "/etc/passwd")
    with pytest.raises(Stop, match="is a link"):
        files(tmp_path / "a.zip", tmp_path / "work")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "orgs.csv").symlink_to("/etc/passwd")
    with pytest.raises(Stop, match="contains a link"):
        files(tmp_path / "folder", tmp_path / "work")


@pytest.mark.parametrize("kept", [0, 1, 40, 300, -1, -30])
def test_a_truncated_zip_says_so(tmp_path: Path, kept: int) -> None:
    whole = zipped(tmp_path / "a.zip", {"orgs.csv": bytes(range(256)) * 20}).read_bytes()
    (tmp_path / "b.zip").write_bytes(whole[:kept])
    with pytest.raises(Stop, match=r"b\.zip is truncated or damaged"):
        files(tmp_path / "b.zip", tmp_path / "work")


def test_a_damaged_entry_refuses_the_extract(tmp_path: Path) -> None:
    raw = bytearray(zipped(tmp_path / "a.zip", {"orgs.csv": bytes(range(256)) * 20}).read_bytes())
    raw[100] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(Stop, match="truncated or damaged"):
        files(tmp_path / "a.zip", tmp_path / "work")


def test_a_bomb_is_measured_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unpacked size is counted during unpacking, not taken from the headers."""
    monkeypatch.setattr(archive, "RATIO_COUNTS_FROM", 1024**2)
    bomb = zipped(tmp_path / "a.zip", {"orgs.csv": b"0" * 20 * 1024**2})
    with pytest.raises(Stop, match="zip bomb"):
        files(bomb, tmp_path / "work")
    assert sum(file.stat().st_size for file in (tmp_path / "work").rglob("*.csv")) < 5 * 1024**2


def test_more_than_an_extract_can_hold_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 5_000)
    path = zipped(tmp_path / "a.zip", {"orgs.csv": "a" * 3_000, "users.csv": "b" * 3_000})
    with pytest.raises(Stop, match="zip bomb"):
        files(path, tmp_path / "work")


def test_an_entry_without_a_name_is_no_file(tmp_path: Path) -> None:
    nameless = zipfile.ZipInfo("x")
    nameless.filename = ""
    path = tmp_path / "extract.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("orgs.csv", "sourcedId\n")
        made.writestr(nameless, "what is this")
    assert names(files(path, tmp_path)) == ["orgs.csv"]


def test_too_many_files(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {f"{number}.txt": "" for number in range(1_001)})
    with pytest.raises(Stop, match="more than 1,000 files"):
        files(path, tmp_path / "work")


def test_an_encrypted_zip_says_what_to_do(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("orgs.csv", "sourcedId\n")
    raw = bytearray(made.getvalue())
    raw[6] |= 1  # the flag in the entry, and in the directory at the end
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(Stop, match="without a password"):
        files(tmp_path / "a.zip", tmp_path / "work")


def test_an_extract_is_one(tmp_path: Path) -> None:
    two = zipped(tmp_path / "a.zip", {"mon/orgs.csv": "", "tue/orgs.csv": ""})
    with pytest.raises(Stop, match="more than one folder"):
        files(two, tmp_path / "work")
    twice = zipped(tmp_path / "b.zip", {"orgs.csv": "", "Orgs.csv": ""})
    with pytest.raises(Stop, match="add each file once"):
        files(twice, tmp_path / "work")


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="does not exist"):
        files(tmp_path / "no.zip", tmp_path / "work")
    with pytest.raises(Stop, match="contains no CSV file"):
        files(zipped(tmp_path / "a.zip", {"orgs.txt": ""}), tmp_path / "work")
    (tmp_path / "orgs.txt").write_text("sourcedId\n")
    with pytest.raises(Stop, match="truncated or damaged"):
        files(tmp_path / "orgs.txt", tmp_path / "work")


@pytest.mark.parametrize("name", ["users.csv", "USERS.CSV"])
def test_a_single_csv_is_not_called_a_damaged_zip(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("sourcedId\n")
    with pytest.raises(Stop, match="is a single CSV file; name the zip or the folder"):
        files(tmp_path / name, tmp_path / "work")


def test_a_zip_is_a_zip_whatever_it_is_called(tmp_path: Path) -> None:
    path = zipped(tmp_path / "extract.csv", {"orgs.csv": ""})
    assert names(files(path, tmp_path / "work")) == ["orgs.csv"]
