"""Damage to a home's files is found before anything starts, and repaired if nothing is lost."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.errors import Stop
from bus.local.damage import H2, KEPT, back_up, check, damage, mend

META = (
    "#\n#Tue Sep 01 06:00:00 UTC 2026\ncluster.id=lQqSyhgJR-GOL7f0YmpwmA\n"
    "directory.id=tlTtKXvFVr3mWtEi36usZg\nnode.id=1\nversion=1\n"
)
TOPIC_ID = "version: 0\ntopic_id: 8nPTwkdbSTCfPVkFUEaUyA"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home in which Kafka has a topic, as after `bus down`."""
    files = {
        "kafka/meta.properties": META,
        KEPT: META,
        "kafka/bootstrap.checkpoint": struct.pack(">qi", 0, 5).decode() + "batch",
        "kafka/recovery-point-offset-checkpoint": "0\n2\nschoolbus.org 0 7\nschoolbus.org 1 9\n",
        "kafka/cleaner-offset-checkpoint": "",  # as Kafka creates it, without entries
        "kafka/__cluster_metadata-0/00000000000000000000.log": "records",
        "kafka/__cluster_metadata-0/quorum-state": '{"leaderId":1,"data_version":0}',
        "kafka/__cluster_metadata-0/leader-epoch-checkpoint": "0\n1\n1 0\n",
        "kafka/__cluster_metadata-0/partition.metadata": TOPIC_ID,
        "kafka/schoolbus.org-0/partition.metadata": TOPIC_ID,
        "kafka/schoolbus.org-0/leader-epoch-checkpoint": "0\n1\n0 0\n",
        H2: "H:2,block:1c".ljust(4096) + "H:2,block:1c".ljust(4096) + "chunk",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return tmp_path


def test_what_is_whole_is_left_alone(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    said: list[str] = []
    mend(home, said.append)
    back_up(home)
    assert damage(home).spare == damage(home).lost == ()
    assert said == []
    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("*")}


@pytest.mark.parametrize(
    "name",
    [
        "kafka/bootstrap.checkpoint",
        "kafka/recovery-point-offset-checkpoint",
        "kafka/__cluster_metadata-0/quorum-state",
        "kafka/__cluster_metadata-0/leader-epoch-checkpoint",
        "kafka/__cluster_metadata-0/partition.metadata",
        "kafka/schoolbus.org-0/leader-epoch-checkpoint",
    ],
)
def test_what_kafka_recreates_is_taken_away_when_it_is_cut_short(home: Path, name: str) -> None:
    path = home / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said: list[str] = []
    mend(home, said.append)
    assert said == [f"{path} was damaged and will be rebuilt"]
    assert not path.exists()


@pytest.mark.parametrize("content", ["", META[:60], META.replace("version=1", "")])
def test_whose_data_it_is_is_put_back_from_the_copy(home: Path, content: str) -> None:
    path = home / "kafka/meta.properties"
    path.write_text(content)
    said: list[str] = []
    mend(home, said.append)
    assert said == [f"{path} was damaged and has been restored"]
    assert path.read_text() == META


def test_the_copy_follows_what_kafka_has_taken_and_never_what_is_damaged(home: Path) -> None:
    path = home / "kafka/meta.properties"
    path.write_text("")
    back_up(home)
    assert (home / KEPT).read_text() == META

    path.write_text(other := META.replace("lQq", "mQq"))
    back_up(home)
    assert (home / KEPT).read_text() == other


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("kafka/schoolbus.org-0/partition.metadata", "version: 0\ntopic_id: "),
        (H2, None),
        (H2, ""),
        (H2, "H:2,block:1c".ljust(4096)),
    ],
)
def test_what_is_lost_stops_with_the_mend_before_anything_is_changed(
    home: Path, name: str, content: str | None
) -> None:
    path = home / name
    path.unlink() if content is None else path.write_text(content)
    (home / "kafka/meta.properties").write_text("")

    with pytest.raises(Stop, match="Without a backup, move it away") as raised:
        mend(home, lambda _: None)
    assert name in str(raised.value)
    assert (home / "kafka/meta.properties").read_text() == ""


def test_without_its_copy_a_damaged_meta_is_lost(home: Path) -> None:
    (home / KEPT).unlink()
    (home / "kafka/meta.properties").write_text("")
    with pytest.raises(Stop, match=r"damaged or missing: kafka/meta\.properties"):
        check(home)


def test_a_registry_without_a_topic_in_kafka_is_not_missed(home: Path) -> None:
    for path in (home / "kafka/schoolbus.org-0").iterdir():
        path.unlink()
    (home / "kafka/schoolbus.org-0").rmdir()
    (home / H2).unlink()
    check(home)


def test_one_whole_header_is_enough_for_the_registry(home: Path) -> None:
    path = home / H2
    path.write_bytes(b"\0" * 4096 + path.read_bytes()[4096:])
    check(home)


@pytest.mark.parametrize("begun", [(), ("kafka",), ("kafka", "kafka/meta.properties")])
def test_a_home_that_never_held_data_has_nothing_to_damage(
    tmp_path: Path, begun: tuple[str, ...]
) -> None:
    for name in begun:
        if name == "kafka":
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).touch()
    check(tmp_path)


def test_a_topic_that_kafka_deletes_at_the_same_time_is_no_damage(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    glob = Path.glob
    gone = home / "kafka" / "schoolbus.org-0"

    def meanwhile(path: Path, pattern: str) -> Iterator[Path]:
        found = glob(path, pattern)
        if path == gone and gone.exists():
            found = iter(list(found))  # it was listed, and is then deleted
            shutil.rmtree(gone)
        return found

    monkeypatch.setattr(Path, "glob", meanwhile)
    assert damage(home).spare == damage(home).lost == ()
    assert not gone.exists()
