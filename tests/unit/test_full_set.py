"""A folder with one whole set: what is in it, when it is written, and recovery after crashes."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import shutil
import stat
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from bus.consume.cache_database import CacheDatabase
from bus.contract.fake_messages import Sent
from bus.delivery import Batch, Overtaken, Part, Position, Table
from bus.errors import RetryLater, Stop
from consumers.delivery import full_set, shared_folder
from consumers.delivery.full_set import FullSet
from consumers.delivery.set_file import Reference
from consumers.delivery.set_mirror import SetMirror
from consumers.delivery.set_state import SetState

UNITS = Table("units.csv", ("id", "parent", "name"), {}, ("id",))
PEOPLE = Table("people.csv", ("id", "name"), {}, ("id",))
PLACES = Table("places.csv", ("person", "units"), {}, ("person", "units"))
SEATS = Table("seats.csv", ("person", "unit"), {}, ("person", "unit"))
TABLES = (UNITS, PEOPLE, PLACES, SEATS)
REFERENCES = {
    "units.csv": [Reference("parent", "units.csv", required=False)],
    "places.csv": [
        Reference("person", "people.csv", kind="student"),
        Reference("units", "units.csv", many=True),
    ],
    "seats.csv": [Reference("person", "people.csv"), Reference("unit", "units.csv")],
}
P0, P1 = Position("schoolbus.student", 0), Position("schoolbus.student", 1)


class Day:
    """A calendar that the tests move forward."""

    def __init__(self) -> None:
        self.today = date(2026, 11, 24)

    def __call__(self) -> date:
        return self.today


def open_set(out: Path, day: Day | None = None, **more: Any) -> FullSet:
    return FullSet(out, TABLES, REFERENCES, {"seats.csv": "endDate"}, day or Day(), **more)


def started(out: Path, day: Day | None = None, *places: Position, **more: Any) -> FullSet:
    """Return a delivery that has its partitions, as after a start of the worker."""
    delivery = open_set(out, day, **more)
    delivery.resume("cluster", places or (P0,))
    return delivery


def part(
    table: Table,
    rows: dict[str, list[tuple[str, ...]]],
    *,
    kind: str = "student",
    place: Position = P0,
    end: date | None = None,
) -> Part:
    """Return records of a kind by their ids, each with its rows in a table."""
    return Part(
        table,
        kind,
        [[dict(zip(table.columns, row, strict=True)) for row in made] for made in rows.values()],  # type: ignore[misc]
        [{"sourcedId": id_, "endDate": end} for id_ in rows],
        [Sent("student", id_, at, partition_=place.partition) for at, id_ in enumerate(rows)],  # type: ignore[misc]
    )


def batch(*parts: Part, place: Position = P0, offset: int = 1) -> Batch:
    return Batch(list(parts), {place: offset})


def people(*names: str, place: Position = P0, offset: int = 1) -> Batch:
    """Return people whose id is the first letter of the name in lower case."""
    rows = {name[0].lower(): [(name[0].lower(), name)] for name in names}
    return batch(part(PEOPLE, rows, place=place), place=place, offset=offset)


def units(*ids: str) -> Part:
    return part(UNITS, {id_: [(id_, "", id_)] for id_ in ids}, kind="org")


def lines(out: Path, table: Table) -> list[list[str]]:
    with (out / table.name).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == table.columns
    return rows


def write(out: Path, *parts: Part) -> None:
    delivery = started(out)
    delivery.deliver(batch(*parts))
    delivery.settle()
    delivery.close()


# What is in the set


@pytest.mark.parametrize("ended_first", [True, False])
def test_an_enrollment_that_goes_to_another_student_stays_whichever_partition_is_read_first(
    tmp_path: Path, ended_first: bool
) -> None:
    """The end for one student and the start for the other are in two partitions."""

    def seat(student: str, *is_active: tuple[str, str]) -> Batch:
        one = part(SEATS, {"e": list(is_active)}, kind="enrollment")
        one.records[0] |= {"userSourcedId": student}  # type: ignore[operator]
        return batch(one)

    delivery = started(tmp_path)
    delivery.deliver(batch(units("u"), part(PEOPLE, {i: [(i, i)] for i in "ab"})))
    delivery.deliver(seat("a", ("a", "u")))
    moves = [seat("a"), seat("b", ("b", "u"))]
    for moved in moves if ended_first else reversed(moves):
        delivery.deliver(moved)
    delivery.settle()
    delivery.close()
    assert lines(tmp_path, SEATS) == [["b", "u"]]


def test_every_file_is_there_also_without_rows(tmp_path: Path) -> None:
    write(tmp_path, part(PEOPLE, {"a": [("a", "Ann")]}))
    assert {path.name for path in tmp_path.glob("*.csv")} == {table.name for table in TABLES}
    assert (tmp_path / "people.csv").read_bytes() == b"id,name\r\na,Ann\r\n"
    assert (tmp_path / "seats.csv").read_bytes() == b"person,unit\r\n"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("O'Neil, Jr.", "O'Neil, Jr."),
        ('Chase "The Man"', 'Chase "The Man"'),
        ("Zoë 李 𝔘\u00a0", "Zoë 李 𝔘\u00a0"),
        ("C:\\new", "C:\\new"),
        ("two\r\nlines", "two lines"),
        ("two\u2028lines", "two lines"),
        ("two\x85lines", "two lines"),
        ("a\x00b", "a b"),
        ("", ""),
    ],
)
def test_a_row_is_one_line_whatever_is_in_it(tmp_path: Path, name: str, written: str) -> None:
    write(tmp_path, part(PEOPLE, {"a": [("a", name)]}))
    assert lines(tmp_path, PEOPLE) == [["a", written]]
    assert len((tmp_path / "people.csv").read_text("utf-8").splitlines()) == 2


def test_a_record_has_many_rows_and_the_later_ones_replace_all_of_them(tmp_path: Path) -> None:
    places = {"a": [("a", "u"), ("a", "v"), ("a", "w")]}
    delivery = started(tmp_path)
    known = [units("u", "v", "w"), part(PEOPLE, {"a": [("a", "Ann")]})]
    delivery.deliver(batch(*known, part(PLACES, places)))
    delivery.settle()
    assert lines(tmp_path, PLACES) == [["a", "u"], ["a", "v"], ["a", "w"]]
    delivery.deliver(batch(part(PLACES, {"a": [("a", "w")]})))
    delivery.settle()
    assert lines(tmp_path, PLACES) == [["a", "w"]]
    delivery.close()


def test_a_record_without_rows_is_removed_from_the_set(tmp_path: Path) -> None:
    delivery = started(tmp_path)
    delivery.deliver(people("Ann", "Bob"))
    delivery.deliver(batch(part(PEOPLE, {"a": []})))
    delivery.settle()
    assert lines(tmp_path, PEOPLE) == [["b", "Bob"]]
    delivery.close()


def test_the_last_state_within_a_batch_counts(tmp_path: Path) -> None:
    first, last = (part(PEOPLE, {"a": [("a", name)]}) for name in ("Ann", "Anna"))
    together = Part(
        PEOPLE,
        "student",
        first.rows + last.rows,
        first.records + last.records,
        first.messages + last.messages,
    )
    write(tmp_path, together)
    assert lines(tmp_path, PEOPLE) == [["a", "Anna"]]


def test_equivalent_records_are_written_once(tmp_path: Path) -> None:
    seats = {"old": [("a", "u")], "new": [("a", "u")]}
    delivery = started(tmp_path)
    known = [units("u"), part(PEOPLE, {"a": [("a", "Ann")]})]
    delivery.deliver(batch(*known, part(SEATS, seats)))
    delivery.settle()
    assert lines(tmp_path, SEATS) == [["a", "u"]]
    delivery.deliver(batch(part(SEATS, {"old": []})))
    delivery.settle()
    assert lines(tmp_path, SEATS) == [["a", "u"]]
    delivery.deliver(batch(part(SEATS, {"new": []})))
    delivery.settle()
    assert lines(tmp_path, SEATS) == []
    delivery.close()


def test_a_row_whose_reference_is_missing_waits_outside_and_comes_back(tmp_path: Path) -> None:
    delivery = started(tmp_path)
    delivery.deliver(batch(part(PEOPLE, {"a": [("a", "Ann")]}), part(SEATS, {"s": [("a", "u")]})))
    delivery.settle()
    assert lines(tmp_path, SEATS) == []
    delivery.deliver(batch(units("u")))
    delivery.settle()
    assert lines(tmp_path, SEATS) == [["a", "u"]]
    delivery.deliver(batch(part(UNITS, {"u": []}, kind="org")))
    delivery.settle()
    assert lines(tmp_path, SEATS) == []
    delivery.close()


def test_an_optional_reference_that_is_missing_is_emptied(tmp_path: Path) -> None:
    rows = {"u": [("u", "nowhere", "U")], "v": [("v", "u", "V")]}
    write(tmp_path, part(UNITS, rows, kind="org"))
    assert lines(tmp_path, UNITS) == [["u", "", "U"], ["v", "u", "V"]]


def test_of_several_references_those_that_are_missing_are_dropped(tmp_path: Path) -> None:
    person = part(PEOPLE, {"a": [("a", "Ann")]})
    write(tmp_path, units("u", 'v"'), person, part(PLACES, {"a": [("a", 'u,x,v",y')]}))
    assert lines(tmp_path, PLACES) == [["a", 'u,v"']]


def test_none_of_several_references_is_an_empty_cell(tmp_path: Path) -> None:
    person = part(PEOPLE, {"a": [("a", "Ann")], "b": [("b", "Bob")]})
    write(tmp_path, person, part(PLACES, {"a": [("a", "x,y")], "b": [("b", "")]}))
    assert lines(tmp_path, PLACES) == [["a", ""], ["b", ""]]


def test_a_reference_may_ask_for_a_kind(tmp_path: Path) -> None:
    staff = part(PEOPLE, {"t": [("t", "Tom")]}, kind="staff")
    student = part(PEOPLE, {"a": [("a", "Ann")]})
    write(tmp_path, staff, student, part(PLACES, {"a": [("a", "")], "t": [("t", "")]}))
    assert lines(tmp_path, PLACES) == [["a", ""]]


def test_rows_are_in_the_order_of_their_key(tmp_path: Path) -> None:
    write(tmp_path, part(PEOPLE, {"z": [("9", "")], "y": [("10", "")], "x": [("a", "")]}))
    assert [row[0] for row in lines(tmp_path, PEOPLE)] == ["10", "9", "a"]


def test_a_row_is_in_the_set_until_its_last_day(tmp_path: Path) -> None:
    day = Day()
    delivery = started(tmp_path, day)
    delivery.deliver(
        batch(
            units("u", "v"),
            part(PEOPLE, {"a": [("a", "Ann")]}),
            part(SEATS, {"1": [("a", "u")]}, end=date(2026, 11, 23)),
            part(SEATS, {"2": [("a", "v")]}, end=date(2026, 11, 24)),
        )
    )
    delivery.settle()
    assert lines(tmp_path, SEATS) == [["a", "v"]]
    day.today = date(2026, 11, 25)
    delivery.settle()  # no new events, but a day has passed
    assert lines(tmp_path, SEATS) == []
    delivery.close()


def test_an_ended_row_does_not_hide_one_that_stays(tmp_path: Path) -> None:
    ended = part(SEATS, {"1": [("a", "u")]}, end=date(2026, 11, 1))
    person = part(PEOPLE, {"a": [("a", "Ann")]})
    write(tmp_path, units("u"), person, ended, part(SEATS, {"2": [("a", "u")]}))
    assert lines(tmp_path, SEATS) == [["a", "u"]]


# When the set is written


def test_nothing_is_written_before_the_end_is_reached(tmp_path: Path) -> None:
    delivery = started(tmp_path)
    delivery.deliver(people("Ann"))
    assert not list(tmp_path.glob("*.csv"))
    delivery.settle()
    assert list(tmp_path.glob("*.csv"))
    delivery.close()


def test_a_set_that_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    write(tmp_path, part(PEOPLE, {"a": [("a", "Ann")]}))
    before = (tmp_path / "people.csv").stat().st_ino
    again = started(tmp_path)
    again.settle()
    assert (tmp_path / "people.csv").stat().st_ino == before
    again.deliver(people("Bob"))
    again.settle()
    assert (tmp_path / "people.csv").stat().st_ino != before
    again.close()


def test_a_set_without_what_is_required_is_never_written(tmp_path: Path) -> None:
    delivery = started(tmp_path, required=("units.csv", "people.csv"))
    delivery.settle()
    delivery.deliver(people("Ann"))
    delivery.settle()
    assert not list(tmp_path.glob("*.csv"))
    delivery.deliver(batch(units("u")))
    delivery.settle()
    assert lines(tmp_path, PEOPLE) == [["a", "Ann"]]
    delivery.deliver(batch(part(PEOPLE, {"a": []})))
    delivery.settle()
    assert lines(tmp_path, PEOPLE) == [["a", "Ann"]]  # the previous set, not one without people
    assert not list((tmp_path / ".schoolbus").glob("*.part"))
    delivery.close()


def test_the_account_names_each_file(tmp_path: Path) -> None:
    write(tmp_path, part(PEOPLE, {"a": [("a", "Ann")], "b": [("b", "Bob")]}))
    files = json.loads((tmp_path / ".schoolbus" / "set.json").read_text("utf-8"))["files"]
    assert list(files) == [table.name for table in TABLES]
    assert files["people.csv"]["rows"] == 2
    for name, about in files.items():
        data = (tmp_path / name).read_bytes()
        assert about["sha256"] == hashlib.sha256(data).hexdigest()


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    write(out, part(PEOPLE, {"a": [("a", "Ann")]}))
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    for path in out.rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path.name


# Starting again


def test_a_restart_goes_on_after_what_is_in_the_state(tmp_path: Path) -> None:
    first = started(tmp_path, None, P0, P1)
    first.deliver(people("Ann", offset=7))
    first.close()
    again = open_set(tmp_path)
    assert again.resume("cluster", [P0, P1]) == {P0: 7, P1: 0}
    again.settle()
    assert lines(tmp_path, PEOPLE) == [["a", "Ann"]]
    again.close()


def test_the_same_batch_again_changes_nothing(tmp_path: Path) -> None:
    delivery = started(tmp_path)
    for _ in range(2):
        delivery.deliver(people("Ann", "Bob"))
    delivery.settle()
    assert lines(tmp_path, PEOPLE) == [["a", "Ann"], ["b", "Bob"]]
    delivery.close()


@pytest.mark.parametrize(
    "changed", [{"cluster": "another"}, {"revision": "2"}, {"tables": TABLES[1:2]}]
)
def test_another_cluster_revision_or_layout_is_read_again(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    first = started(tmp_path)
    first.deliver(people("Ann", offset=7))
    first.settle()
    first.close()
    new = FullSet(
        tmp_path, changed.get("tables", TABLES), {}, {}, Day(), (), changed.get("revision", "")
    )
    assert new.resume(changed.get("cluster", "cluster"), [P0]) == {P0: 0}
    assert lines(tmp_path, PEOPLE) == [["a", "Ann"]]  # the old set stays until a new one is written
    new.deliver(people("Zoë"))
    new.settle()
    assert lines(tmp_path, PEOPLE) == [["z", "Zoë"]]
    new.close()


STEPS = 54


PROCESSES = multiprocessing.get_context("forkserver")
"""Starts each process as a copy of one that has only imported this module. A copy of the process of
the tests would have locks of threads that it does not have."""
PROCESSES.set_forkserver_preload([__name__])


def _die_at(step: int, out: Path) -> int | None:
    """Deliver and settle in a process that dies at a step, and return its exit status."""
    process = PROCESSES.Process(target=_deliver, args=(step, out))
    process.start()
    process.join()
    return process.exitcode


def _deliver(step: int, out: Path) -> None:
    """Deliver and settle, and end with status 9 at a step."""
    left = [step]

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return function(*arguments, **named)

        return call

    steps: list[tuple[Any, str]] = [
        (SetState, "_keep"),
        (SetState, "_learn"),
        (SetMirror, "_append"),
        (CacheDatabase, "close"),
        (full_set, "write_file"),
        (Path, "replace"),
        (os, "fsync"),
    ]
    for owner, name in steps:
        setattr(owner, name, counted(getattr(owner, name)))
    delivery = started(out)
    delivery.deliver(people("Ann", "Bob", offset=2))
    delivery.settle()
    delivery.deliver(batch(part(PEOPLE, {"a": []}), units("u"), offset=4))
    delivery.settle()
    os._exit(0)


@pytest.mark.parametrize("step", range(STEPS))
def test_killed_at_any_step_and_started_again_the_set_is_whole(tmp_path: Path, step: int) -> None:
    assert _die_at(step, tmp_path) == 9
    again = open_set(tmp_path)
    done = again.resume("cluster", [P0])[P0]
    assert done in (0, 2, 4)
    if done < 2:
        again.deliver(people("Ann", "Bob", offset=2))
    if done < 4:
        again.deliver(batch(part(PEOPLE, {"a": []}), units("u"), offset=4))
    again.settle()
    again.close()
    assert lines(tmp_path, PEOPLE) == [["b", "Bob"]]
    assert lines(tmp_path, UNITS) == [["u", "", "u"]]
    files = json.loads((tmp_path / ".schoolbus" / "set.json").read_text("utf-8"))["files"]
    for name, about in files.items():
        assert about["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert not list((tmp_path / ".schoolbus").glob("*.part"))


def test_the_steps_are_all_there_are(tmp_path: Path) -> None:
    assert _die_at(STEPS - 1, tmp_path / "last") == 9
    assert _die_at(STEPS, tmp_path / "none") == 0


# Several instances


def test_no_set_is_written_before_every_instance_has_caught_up(tmp_path: Path) -> None:
    one, two = started(tmp_path, None, P0), started(tmp_path, None, P1)
    one.deliver(people("Ann", place=P0))
    one.settle()
    assert not list(tmp_path.glob("*.csv"))
    two.deliver(people("Bob", place=P1))
    assert not list(tmp_path.glob("*.csv"))
    two.settle()
    assert lines(tmp_path, PEOPLE) == [["a", "Ann"], ["b", "Bob"]]
    one.close()
    two.close()


def test_a_partition_that_moved_is_written_by_its_new_owner_alone(tmp_path: Path) -> None:
    old = started(tmp_path, None, P0, P1)
    old.deliver(people("Ann", place=P1, offset=1))
    new = started(tmp_path, None, P1)
    new.deliver(people("Anna", place=P1, offset=2))
    old.deliver(people("Ann", place=P1, offset=1))  # a batch that it still had
    old.settle()
    new.settle()
    assert [row[1] for row in lines(tmp_path, PEOPLE)] == ["Anna"]
    assert open_set(tmp_path).resume("cluster", [P1]) == {P1: 2}
    old.close()
    new.close()


def test_an_instance_that_writes_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_folder, "LOCK_SECONDS", 0.05)
    one, two = started(tmp_path), started(tmp_path)
    two.deliver(people("Ann"))
    with one._folder.alone(), pytest.raises(RetryLater, match="another instance"):
        two.settle()
    two.settle()
    assert (tmp_path / "people.csv").exists()
    one.close()
    two.close()


# What may fail


def test_a_disk_that_is_full_is_waited_for_and_the_old_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = started(tmp_path)
    delivery.deliver(people("Ann"))
    delivery.settle()
    delivery.deliver(people("Bob"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RetryLater, match="No space left"):
            delivery.settle()
    assert len(lines(tmp_path, PEOPLE)) == 1
    delivery.settle()
    assert len(lines(tmp_path, PEOPLE)) == 2
    delivery.close()


def test_a_place_that_is_no_folder_stops(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Stop, match="--out"):
        open_set(tmp_path / "file")


def test_a_folder_that_goes_away_is_not_rebuilt(tmp_path: Path) -> None:
    """The folder may be a mount, and the set must not go to the disk below it."""
    delivery = started(tmp_path / "out")
    delivery.deliver(people("Ann"))
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(Stop, match="cannot be written to: No such file"):
        delivery.settle()
    with pytest.raises(Stop, match="no longer exists"):
        delivery.deliver(people("Bob"))
    assert not (tmp_path / "out").exists()
    delivery.close()


def test_a_state_that_is_damaged_stops_with_what_to_do(tmp_path: Path) -> None:
    own = tmp_path / ".schoolbus"
    own.mkdir()
    (own / "state.sqlite").write_bytes(b"not a database, but long enough to be read as one" * 50)
    with pytest.raises(Stop, match="delete"):
        open_set(tmp_path)


def test_the_account_and_the_log_hold_no_personal_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, part(PEOPLE, {"a": [("a", "Ann")]}), part(SEATS, {"s": [("Bob", "u")]}))
    said = (tmp_path / ".schoolbus" / "set.json").read_text("utf-8") + "".join(_all(capsys))
    assert "Ann" not in said
    assert "Bob" not in said


def _all(capsys: pytest.CaptureFixture[str]) -> Iterable[str]:
    delivered_rows = capsys.readouterr()
    return delivered_rows.out, delivered_rows.err


# Replays while the live consumer runs


def test_a_replay_waits_until_it_has_seen_what_the_live_consumer_delivered(tmp_path: Path) -> None:
    live = started(tmp_path)
    live.deliver(people("Ann", "Bob", offset=2))
    replay = open_set(tmp_path)
    with pytest.raises(Overtaken):
        replay.redeliver(people("Abe"), "r1", {P0: 1})
    replay.redeliver(people("Abe"), "r1", {P0: 2})
    live.settle()
    assert lines(tmp_path, PEOPLE) == [["a", "Abe"], ["b", "Bob"]]
    assert started(tmp_path).resume("cluster", [P0]) == {P0: 2}
    for one in (live, replay):
        one.close()


def test_a_replay_does_not_mix_translations(tmp_path: Path) -> None:
    started(tmp_path, revision="1").close()
    newer = open_set(tmp_path, revision="2")
    with pytest.raises(Stop, match="another version of the translation"):
        newer.redeliver(people("Abe"), "r1", {})
    newer.close()
