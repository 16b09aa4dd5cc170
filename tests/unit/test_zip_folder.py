"""A folder of zips: their content, their order, and each batch once despite crashes."""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from bus.delivery import Batch, Overtaken, Part, Position, Table
from bus.errors import RetryLater, Stop
from consumers.delivery import zip_folder
from consumers.delivery.csv_zip import Layout, pack, sheets, text
from consumers.delivery.zip_folder import ZipFolder

PEOPLE = Table("people.csv", ("id", "name"), {}, ("id",))
UNITS = Table("units.csv", ("id", "parent", "name"), {}, ("id",))
P0, P1 = Position("people", 0), Position("people", 1)


class Message:
    """The part of a Kafka message that deliveries use."""

    def __init__(self, position: Position, offset: int) -> None:
        self._at = (*position, offset)

    def topic(self) -> str:
        return self._at[0]

    def partition(self) -> int:
        return self._at[1]

    def offset(self) -> int:
        return self._at[2]


def part(table: Table, *rows: tuple[Any, ...], position: Position = P0, start: int = 0) -> Part:
    return Part(
        table,
        "student",
        [dict(zip(table.columns, row, strict=True)) for row in rows],
        [{} for _ in rows],
        [Message(position, start + at) for at in range(len(rows))],  # type: ignore[misc]
    )


def batch(*names: str, position: Position = P0, start: int = 0) -> Batch:
    """Return people in a partition from an offset on; the id is the name's first letter."""
    rows = [(name[0], name) for name in names]
    return Batch(
        [part(PEOPLE, *rows, position=position, start=start)], {position: start + len(names)}
    )


def zips(out: Path) -> list[Path]:
    return sorted(out.glob("*.zip"))


def contents(out: Path) -> list[str]:
    """Return the names in all zips, in the order of import."""
    names = []
    for path in zips(out):
        with zipfile.ZipFile(path) as archive:
            lines = archive.read("people.csv").decode().splitlines()[1:]
            names += [line.split(",")[1] for line in lines]
    return names


# The content of a zip


def test_only_the_last_row_of_one_key_is_written() -> None:
    found = sheets([part(PEOPLE, ("a", "Ann"), ("b", "Bob"), ("a", "Anna"))], Layout())
    assert text(found[0], Layout()) == "id,name\nb,Bob\na,Anna\n"
    assert [message.offset() for message in found[0].messages] == [1, 2]


def test_parents_come_before_children_whatever_their_order() -> None:
    layout = Layout(parents={"units.csv": "parent"})
    rows = [
        ("room", "school", ""),
        ("school", "district", ""),
        ("district", "", ""),
        ("x", "y", ""),
    ]
    found = sheets([part(UNITS, *rows)], layout)
    assert [row["id"] for row in found[0].rows] == ["district", "school", "room", "x"]
    assert [message.offset() for message in found[0].messages] == [2, 1, 0, 3]


def test_a_circle_of_parents_is_written_as_it_comes() -> None:
    layout = Layout(parents={"units.csv": "parent"})
    found = sheets([part(UNITS, ("a", "b", ""), ("b", "a", ""), ("c", "c", ""))], layout)
    assert {row["id"] for row in found[0].rows} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("O'Neil, Jr.", '"O\'Neil, Jr."'),
        ('Chase "The Man"', '"Chase ""The Man"""'),
        ("Zoë 李 𝔘", "Zoë 李 𝔘"),
        ("two\nlines", "two lines"),
        ("two\r\nlines", "two lines"),
        ("old\rmac", "old mac"),
        (None, ""),
        ("", ""),
    ],
)
def test_a_row_is_one_line_whatever_is_in_it(name: str | None, written: str) -> None:
    found = sheets([part(PEOPLE, ("a", name), ("b", "Bob"))], Layout())
    assert text(found[0], Layout()) == f"id,name\na,{written}\nb,Bob\n"


def test_cells_are_written_in_the_form_that_the_settings_ask_for() -> None:
    layout = Layout(cells={"name": str.upper})
    found = sheets([part(PEOPLE, ("a", "Ann"), ("b", "Bo\nb"))], layout)
    assert text(found[0], layout) == "id,name\na,ANN\nb,BO B\n"
    assert found[0].rows[0]["name"] == "Ann"


def test_parts_of_one_table_are_one_file_and_files_come_in_the_products_order() -> None:
    parts = [part(UNITS, ("u", "", "")), part(PEOPLE, ("a", "Ann")), part(PEOPLE, ("b", "Bob"))]
    found = sheets([*parts, part(UNITS)], Layout())
    assert [(s.table.name, len(s.rows)) for s in found] == [("units.csv", 1), ("people.csv", 2)]
    assert pack(found, Layout()) == pack(sheets(parts, Layout()), Layout())


# The folder


def test_a_batch_is_one_zip_for_its_owner_alone(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    folder = ZipFolder(out, "canvas")
    assert folder.deliver(batch("Ann", "Bob")) == ()
    (path,) = zips(out)
    assert contents(out) == ["Ann", "Bob"]
    assert [stat.S_IMODE(p.stat().st_mode) for p in (out, path)] == [0o700, 0o600]
    assert [
        p.name for p in (out / ".schoolbus").iterdir() if p.suffix not in (".json", ".lock")
    ] == []
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["people.csv"]


def test_names_sort_by_order_of_writing_also_among_instances_and_when_the_clock_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([50, 40, 40, 10])

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime(2026, 11, 24, 14, 15, next(seconds), tzinfo=tz)

    monkeypatch.setattr(zip_folder, "datetime", Clock)
    one, two = ZipFolder(tmp_path, "canvas"), ZipFolder(tmp_path, "canvas")
    one.deliver(batch("Ann"))
    two.deliver(batch("Bob", position=P1))
    one.deliver(batch("Cleo", start=1))
    assert contents(tmp_path) == ["Ann", "Bob", "Cleo"]
    assert [path.name for path in zips(tmp_path)] == [
        "canvas-20261124T141550.000000Z-000001.zip",
        "canvas-20261124T141550.000001Z-000002.zip",
        "canvas-20261124T141550.000002Z-000003.zip",
    ]
    (tmp_path / ".schoolbus" / "canvas.json").unlink()
    ZipFolder(tmp_path, "canvas").deliver(batch("Dora", start=2))
    assert contents(tmp_path)[-1] == "Dora"


def test_a_batch_without_rows_leaves_no_zip_but_moves_on(tmp_path: Path) -> None:
    folder = ZipFolder(tmp_path, "canvas")
    folder.deliver(Batch([part(PEOPLE)], {P0: 7}))
    assert zips(tmp_path) == []
    assert folder.resume("cluster", [P0, P1]) == {P0: 7}


# Each batch once


def test_after_a_restart_the_folder_says_what_it_has(tmp_path: Path) -> None:
    ZipFolder(tmp_path, "canvas").deliver(batch("Ann", "Bob"))
    assert ZipFolder(tmp_path, "canvas").resume("cluster", [P0, P1]) == {P0: 2}


def test_the_same_batch_or_one_that_overlaps_is_not_written_twice(tmp_path: Path) -> None:
    folder = ZipFolder(tmp_path, "canvas")
    folder.resume("cluster", [P0])
    folder.deliver(batch("Ann", "Bob"))
    folder.deliver(batch("Ann", "Bob"))
    folder.deliver(batch("Bob", "Cleo", start=1))
    assert contents(tmp_path) == ["Ann", "Bob", "Cleo"]


def test_what_is_delivered_again_without_offsets_is_written_though_it_lies_before(
    tmp_path: Path,
) -> None:
    folder = ZipFolder(tmp_path, "canvas")
    folder.resume("cluster", [P0])
    folder.deliver(batch("Ann", "Bob"))
    folder.deliver(Batch(batch("Ada").parts, {}))
    assert contents(tmp_path) == ["Ann", "Bob", "Ada"]
    assert ZipFolder(tmp_path, "canvas").resume("cluster", [P0]) == {P0: 2}


def test_a_replay_from_an_earlier_offset_is_written_again(tmp_path: Path) -> None:
    folder = ZipFolder(tmp_path, "canvas")
    folder.deliver(batch("Ann", "Bob"))
    folder.resume("cluster", [P0])  # the answer is ignored: an operator asked for a replay
    folder.deliver(batch("Ann"))
    assert contents(tmp_path) == ["Ann", "Bob", "Ann"]
    assert folder.resume("cluster", [P0]) == {P0: 1}


class Killed(BaseException):
    """The process ends here, without any cleanup."""


def killed_at(point: int) -> Iterator[None]:
    """Yield None `point` times, then raise `Killed`."""
    yield from [None] * point
    raise Killed


Step = Callable[..., Any]


def dying(monkeypatch: pytest.MonkeyPatch, point: int) -> None:
    """Die before step `point` of those that change the disk: write, rename, replace, unlink."""
    left = killed_at(point)

    def before(step: Step) -> Step:
        def stepped(*args: Any, **options: Any) -> Any:
            next(left)
            return step(*args, **options)

        return stepped

    monkeypatch.setattr(ZipFolder, "_write", before(ZipFolder._write))
    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(Path, name, before(getattr(Path, name)))


STEPS = 6  # .part, journal.new, journal, rename, journal.new, journal


@pytest.mark.parametrize("picked_up", [False, True], ids=["zips stay", "zips are taken away"])
@pytest.mark.parametrize("point", range(STEPS + 1))
def test_killed_at_any_step_and_started_again_every_batch_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int, picked_up: bool
) -> None:
    out, taken = tmp_path / "out", []

    def pick_up() -> None:
        if picked_up:
            taken.extend(contents(out))
            for path in zips(out):
                path.unlink()

    stream = ["Ann", "Bob", "Cleo", "Dora"]
    first = ZipFolder(out, "canvas")
    first.resume("cluster", [P0])
    first.deliver(batch(*stream[:2]))
    pick_up()
    with monkeypatch.context() as patch:
        dying(patch, point)
        if point < STEPS:
            with pytest.raises(Killed):
                first.deliver(batch(stream[2], start=2))
        else:
            first.deliver(batch(stream[2], start=2))
    pick_up()

    # The recovery may be killed too.
    for again in range(4):
        with monkeypatch.context() as patch:
            dying(patch, again)
            with suppress(Killed):
                ZipFolder(out, "canvas").resume("cluster", [P0])

    second = ZipFolder(out, "canvas")
    at = second.resume("cluster", [P0])[P0]
    assert at == (3 if point >= 4 else 2)  # the offset counts once the zip is renamed, not before
    second.deliver(batch(*stream[at:], start=at))
    assert taken + contents(out) == stream
    assert not list((out / ".schoolbus").glob("*.part"))


def test_a_partition_that_moved_is_written_by_its_new_owner_alone(tmp_path: Path) -> None:
    old, new = ZipFolder(tmp_path, "canvas"), ZipFolder(tmp_path, "canvas")
    old.resume("cluster", [P0, P1])
    old.deliver(batch("Ann"))
    assert new.resume("cluster", [P0]) == {P0: 1}
    new.deliver(batch("Bea", start=1))
    late, other = batch("Bob", start=1), batch("Pia", position=P1)
    old.deliver(Batch(late.parts + other.parts, {**late.offsets, **other.offsets}))
    assert contents(tmp_path) == ["Ann", "Bea", "Pia"]
    assert old.resume("cluster", [P0, P1]) == {P0: 2, P1: 1}


def test_a_disk_that_is_full_is_waited_for_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ZipFolder(tmp_path, "canvas")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(RetryLater, match="No space left"):
            folder.deliver(batch("Ann"))
    assert zips(tmp_path) == []
    folder.deliver(batch("Ann"))
    assert contents(tmp_path) == ["Ann"]


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "another instance between"])
def test_a_zip_that_was_given_is_not_given_again_when_the_journal_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    folder = ZipFolder(tmp_path, "canvas")
    folder.resume("cluster", [P0])
    # The worker holds Ann back: offsets stay before her, although Bob is in the batch.
    batch_ = Batch(batch("Bob", start=1).parts, {P0: 0})
    with monkeypatch.context() as patch:
        real, left = ZipFolder._save, iter([True, False])

        def save(self: ZipFolder, journal: dict[str, Any]) -> None:
            if not next(left):
                raise OSError(28, "full")
            real(self, journal)

        patch.setattr(ZipFolder, "_save", save)
        with pytest.raises(RetryLater):
            folder.deliver(batch_)
    if shared:
        ZipFolder(tmp_path, "canvas").deliver(batch("Pia", position=P1))
    folder.deliver(batch_)
    folder.deliver(Batch(batch("Ann").parts, {P0: 2}))
    assert contents(tmp_path) == ["Bob", *(["Pia"] if shared else []), "Ann"]


def test_a_place_that_is_no_folder_stops(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Stop, match="--out"):
        ZipFolder(tmp_path / "file", "canvas")


def test_a_journal_that_is_damaged_stops_with_what_to_do(tmp_path: Path) -> None:
    folder = ZipFolder(tmp_path, "canvas")
    folder.deliver(batch("Ann"))
    (tmp_path / ".schoolbus" / "canvas.json").write_text("{")
    with pytest.raises(Stop, match="delete it"):
        folder.resume("cluster", [P0])


def test_the_journal_holds_no_personal_data(tmp_path: Path) -> None:
    ZipFolder(tmp_path, "canvas").deliver(batch("Ann"))
    journal = json.loads((tmp_path / ".schoolbus" / "canvas.json").read_text())
    assert set(journal) == {"offsets", "owners", "pending", "last", "count"}
    assert "Ann" not in json.dumps(journal)


def test_offsets_of_another_cluster_mean_nothing(tmp_path: Path) -> None:
    """The bus was rebuilt and the folder was not, so its journal must not hide the new events."""
    folder = ZipFolder(tmp_path, "canvas")
    folder.resume("one", [P0])
    folder.deliver(Batch([], {P0: 1}))
    assert folder.resume("one", [P0]) == {P0: 1}
    assert folder.resume("another", [P0]) == {}


def test_a_folder_that_goes_away_stops_and_takes_nothing(tmp_path: Path) -> None:
    folder = ZipFolder(tmp_path / "out", "people")
    folder.resume("cluster", [P0])
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(Stop, match="cannot be written to: No such file"):
        folder.deliver(batch("Ann"))
    assert not (tmp_path / "out").exists()


def test_without_its_journal_an_instance_goes_on_with_what_is_its_own(tmp_path: Path) -> None:
    folder = ZipFolder(tmp_path, "people")
    folder.resume("cluster", [P0])
    (tmp_path / ".schoolbus" / "people.json").unlink()
    folder.deliver(batch("Ann"))
    assert len(zips(tmp_path)) == 1


# Replays while the live consumer runs


def test_a_replay_waits_until_it_has_seen_what_the_live_consumer_delivered(tmp_path: Path) -> None:
    ZipFolder(tmp_path, "canvas").deliver(batch("Ann", "Bob"))
    replay = ZipFolder(tmp_path, "canvas")
    with pytest.raises(Overtaken):
        replay.redeliver(batch("Ann"), "r1", {P0: 1})
    assert contents(tmp_path) == ["Ann", "Bob"]
    replay.redeliver(batch("Ann"), "r1", {P0: 2})
    assert contents(tmp_path) == ["Ann", "Bob", "Ann"]


def test_a_replay_moves_no_offset_and_writes_a_batch_once(tmp_path: Path) -> None:
    ZipFolder(tmp_path, "canvas").deliver(batch("Ann", "Bob"))
    for _ in range(2):
        ZipFolder(tmp_path, "canvas").redeliver(batch("Ann"), "r1", {P0: 2})
    assert contents(tmp_path) == ["Ann", "Bob", "Ann"]
    ZipFolder(tmp_path, "canvas").redeliver(batch("Ann"), "r2", {P0: 2})
    assert len(contents(tmp_path)) == 4
    assert ZipFolder(tmp_path, "canvas").resume("cluster", [P0]) == {P0: 2}


@pytest.mark.parametrize("point", range(STEPS + 1))
def test_a_replay_killed_at_any_step_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    ZipFolder(tmp_path, "canvas").deliver(batch("Ann", "Bob"))
    with monkeypatch.context() as patch, suppress(Killed):
        dying(patch, point)
        ZipFolder(tmp_path, "canvas").redeliver(batch("Ann"), "r1", {P0: 2})
    ZipFolder(tmp_path, "canvas").redeliver(batch("Ann"), "r1", {P0: 2})
    assert contents(tmp_path) == ["Ann", "Bob", "Ann"]
