"""A folder that instances share: its mode, its lock, and rows of a lost partition."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from bus.contract.fake_messages import Sent
from bus.delivery import Part, Position, Table
from bus.errors import RetryLater, Stop
from consumers.delivery import shared_folder
from consumers.delivery.shared_folder import SharedFolder, without

PEOPLE = Table("people.csv", ("id",), {}, ("id",))


def test_it_is_made_for_its_owner_alone_and_one_that_is_there_keeps_its_mode(
    tmp_path: Path,
) -> None:
    there = tmp_path / "there"
    there.mkdir(mode=0o750)
    for out, mode in ((tmp_path / "new" / "out", 0o700), (there, 0o750)):
        folder = SharedFolder(out, "canvas")
        with folder.alone():
            found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.own.iterdir()}
        assert found == {"canvas.lock": 0o600}
        assert [stat.S_IMODE(path.stat().st_mode) for path in (out, folder.own)] == [mode, 0o700]


def test_instances_wait_for_each_other_and_have_ids_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_folder, "LOCK_SECONDS", 0.05)
    one, two = SharedFolder(tmp_path, "set"), SharedFolder(tmp_path, "set")
    assert one.instance != two.instance
    with one.alone(), pytest.raises(RetryLater, match="another instance"), two.alone():
        pytest.fail("two at once")
    with two.alone():
        pass


def test_a_deleted_folder_stops_and_is_not_created_again(tmp_path: Path) -> None:
    folder = SharedFolder(tmp_path / "out", "set")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(Stop, match="No such file"), folder.alone():
        pytest.fail("there is no folder")
    assert not (tmp_path / "out").exists()


def test_of_a_part_only_the_rows_of_lost_partitions_are_left_out() -> None:
    messages = [Sent("student", id_, 1, partition_=at) for at, id_ in enumerate("abc")]
    part = Part(PEOPLE, "student", [{"id": id_} for id_ in "abc"], [*"abc"], messages)  # type: ignore[arg-type]
    topic = messages[0].topic()
    assert without(part, set()) is part
    assert without(part, {Position(topic, 7)}) is part
    left = without(part, {Position(topic, 1)})
    assert ([*left.rows], left.records) == ([{"id": "a"}, {"id": "c"}], ["a", "c"])
    assert left.messages == [messages[0], messages[2]]
