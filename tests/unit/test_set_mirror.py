"""The mirror of a set's rows: the set equals the state, also without it or with a damaged one."""

from __future__ import annotations

import csv
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bus.contract.fake_messages import Sent
from bus.delivery import Batch, Part, Position, Table
from bus.errors import RetryLater
from consumers.delivery import set_mirror
from consumers.delivery.full_set import FullSet
from consumers.delivery.set_mirror import SetMirror
from consumers.delivery.set_state import SetState
from tests.unit.test_full_set import Day

PEOPLE = Table("people.csv", ("id", "name"), {}, ("id",))
P0, P1 = Position("schoolbus.student", 0), Position("schoolbus.student", 1)
FIRST = {f"p{at}": "Ann" for at in range(40)}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what the mirror took of the state for each set so far: "all" or "changed"."""
    found: list[str] = []
    take = SetMirror._take

    def kept_changes(self: SetMirror, state: SetState, *, changed: bool) -> None:
        found.append("changed" if changed else "all")
        take(self, state, changed=changed)

    monkeypatch.setattr(SetMirror, "_take", kept_changes)
    return found


def opened(out: Path, *places: Position) -> FullSet:
    delivery = FullSet(out, [PEOPLE], {}, {}, Day())
    delivery.resume("cluster", places or (P0,))
    return delivery


def delivered_rows(named: dict[str, str | None], place: Position = P0) -> Batch:
    """Return a batch of people with a name, or without rows."""
    rows = [[{"id": id_, "name": name}] if name else [] for id_, name in named.items()]
    sent = [Sent("student", id_, at, partition_=place.partition) for at, id_ in enumerate(named)]
    records = [{"sourcedId": id_} for id_ in named]
    return Batch([Part(PEOPLE, "student", rows, records, sent)], {place: 1})  # type: ignore[arg-type]


def people(out: Path) -> dict[str, str]:
    with (out / PEOPLE.name).open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["name"] for row in csv.DictReader(file)}


def mirror(out: Path) -> Path:
    return out / ".schoolbus" / "mirror" / "rows.duckdb"


def begun(out: Path) -> FullSet:
    """Return a delivery whose folder has a set of `FIRST`."""
    delivery = opened(out)
    delivery.deliver(delivered_rows(dict(FIRST)))
    delivery.settle()
    assert people(out) == FIRST
    return delivery


def goes_on(delivery: FullSet, out: Path) -> None:
    """Check that the next set has the new changes and all other rows."""
    delivery.deliver(delivered_rows({"p1": "Bob", "p2": None, "new": "Zoë"}))
    delivery.settle()
    expected = {**FIRST, "p1": "Bob", "new": "Zoë"}
    del expected["p2"]
    assert people(out) == expected


def test_only_what_changed_is_taken(tmp_path: Path, taken: list[str]) -> None:
    delivery = begun(tmp_path)
    goes_on(delivery, tmp_path)
    delivery.close()
    assert taken == ["all", "changed"]
    again = opened(tmp_path)
    again.deliver(delivered_rows({"p3": "Cy"}))
    again.settle()
    assert people(tmp_path)["p3"] == "Cy"
    assert taken == ["all", "changed", "changed"]
    again.close()


def test_a_set_that_is_due_for_its_day_alone_takes_nothing(
    tmp_path: Path, taken: list[str]
) -> None:
    delivery = begun(tmp_path)
    delivery._write("2026-11-25")
    assert taken == ["all"]
    delivery.close()


def delete(path: Path) -> None:
    shutil.rmtree(path.parent)


def no_database(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damaged_within(path: Path) -> None:
    """Damage the rows and leave the header whole, so the error shows when rows are read."""
    data = bytearray(path.read_bytes())
    for at in range(3 * 4096, len(data), 512):
        data[at] ^= 0xFF
    path.write_bytes(data)


def another_layout(path: Path) -> None:
    with duckdb.connect(path) as con:
        con.execute("UPDATE about SET mark = '0:' || mark")


def other_columns(path: Path) -> None:
    with duckdb.connect(path) as con:
        con.execute('ALTER TABLE "people.csv" DROP COLUMN c1')


@pytest.mark.parametrize(
    "harm",
    [delete, no_database, cut_off, damaged_within, another_layout, other_columns],
)
def test_a_mirror_that_cannot_be_used_is_rebuilt(
    tmp_path: Path, taken: list[str], harm: Any
) -> None:
    delivery = begun(tmp_path)
    harm(mirror(tmp_path))
    goes_on(delivery, tmp_path)
    assert taken[-1] == "all"
    delivery.deliver(delivered_rows({"p3": "Cy"}))
    delivery.settle()
    assert people(tmp_path)["p3"] == "Cy"
    assert taken[-1] == "changed"
    delivery.close()


def test_a_mirror_that_fails_twice_is_delivered_in_the_terms_of_the_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = begun(tmp_path)
    delivery.deliver(delivered_rows({"p3": "Cy"}))

    def full(*_: object, **__: object) -> None:
        raise duckdb.IOException("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SetMirror, "_append", full)
        with pytest.raises(RetryLater, match="free disk space"):
            delivery.settle()
    assert people(tmp_path) == FIRST
    delivery.settle()
    assert people(tmp_path)["p3"] == "Cy"
    delivery.close()


def test_a_mirror_for_which_the_memory_is_too_small_is_kept(
    tmp_path: Path, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = begun(tmp_path)
    write, limits = SetMirror.follow, []

    def needing(self: SetMirror, state: SetState) -> Any:
        found = write(self, state)
        ((limit,),) = found[0].execute("SELECT current_setting('memory_limit')").fetchall()
        limits.append(limit)
        if len(limits) == 1:
            raise duckdb.OutOfMemoryException("could not allocate block")
        return found

    monkeypatch.setattr(SetMirror, "follow", needing)
    delivery.deliver(delivered_rows({"p3": "Cy"}))
    delivery.settle()
    assert people(tmp_path)["p3"] == "Cy"
    assert taken == ["all", "changed"]
    assert limits == ["488.2 MiB", "1.9 GiB"]
    delivery.close()


def test_a_mirror_of_another_version_of_the_layout_is_rebuilt(
    tmp_path: Path, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = begun(tmp_path)
    monkeypatch.setattr(set_mirror, "LAYOUT", "next")
    goes_on(delivery, tmp_path)
    assert taken == ["all", "all"]
    delivery.close()


def test_an_older_mirror_is_rebuilt(tmp_path: Path, taken: list[str]) -> None:
    delivery = begun(tmp_path)
    old = mirror(tmp_path).read_bytes()
    delivery.deliver(delivered_rows({"p7": "Eve"}))
    delivery.settle()
    mirror(tmp_path).write_bytes(old)
    delivery.deliver(delivered_rows({"p8": "Flo"}))
    delivery.settle()
    assert people(tmp_path) == {**FIRST, "p7": "Eve", "p8": "Flo"}
    assert taken == ["all", "changed", "all"]
    delivery.close()


def test_an_older_state_with_a_newer_mirror_rebuilds_it(tmp_path: Path, taken: list[str]) -> None:
    """A backup of only the state is restored, and the mirror has changes that the state lacks."""
    begun(tmp_path).close()
    state = tmp_path / ".schoolbus" / "state.sqlite"
    old = state.read_bytes()
    delivery = opened(tmp_path)
    delivery.deliver(delivered_rows({"p7": "Eve"}))
    delivery.settle()
    delivery.close()
    state.write_bytes(old)
    delivery = opened(tmp_path)
    delivery.deliver(delivered_rows({"p8": "Flo"}))  # as many changes as the mirror has
    delivery.settle()
    assert people(tmp_path) == {**FIRST, "p8": "Flo"}
    assert taken == ["all", "changed", "all"]
    delivery.close()


def test_a_mirror_of_another_folder_is_rebuilt(tmp_path: Path, taken: list[str]) -> None:
    one, two = begun(tmp_path / "one"), begun(tmp_path / "two")
    two.deliver(delivered_rows({"p7": "Eve"}))
    two.settle()
    shutil.copy(mirror(tmp_path / "two"), mirror(tmp_path / "one"))
    goes_on(one, tmp_path / "one")
    assert taken == ["all", "all", "changed", "all"]
    one.close()
    two.close()


def test_a_kill_while_a_mirror_is_made_leaves_none(
    tmp_path: Path, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = opened(tmp_path)
    delivery.deliver(delivered_rows(dict(FIRST)))

    append = SetMirror._append

    def killed(*arguments: Any) -> None:
        append(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SetMirror, "_append", killed)
        with pytest.raises(KeyboardInterrupt):
            delivery.settle()
    delivery.close()
    again = opened(tmp_path)
    again.settle()
    assert people(tmp_path) == FIRST
    assert taken == ["all", "all"]
    again.close()


@pytest.mark.parametrize(
    ("step", "then"),
    [
        ("consumers.delivery.set_state.SetState.note_mirrored", ["all", "changed", "all"]),
        ("consumers.delivery.full_set.write_file", ["all", "changed"]),
    ],
    ids=["between the two commits it is rebuilt", "after both it is up to date"],
)
def test_a_kill_around_the_two_commits(
    tmp_path: Path, taken: list[str], monkeypatch: pytest.MonkeyPatch, step: str, then: list[str]
) -> None:
    delivery = begun(tmp_path)
    delivery.deliver(delivered_rows({"p7": "Eve"}))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(step, killed)
        with pytest.raises(KeyboardInterrupt):
            delivery.settle()
    assert people(tmp_path) == FIRST
    delivery.close()
    again = opened(tmp_path)
    again.settle()
    assert people(tmp_path) == {**FIRST, "p7": "Eve"}
    assert taken == then
    again.close()


def test_two_instances_share_one_mirror(tmp_path: Path, taken: list[str]) -> None:
    one, two = begun(tmp_path), opened(tmp_path, P1)
    two.settle()
    expected = dict(FIRST)
    for turn in range(4):
        for delivery, place in ((one, P0), (two, P1)):
            delivery.deliver(
                delivered_rows({f"p{turn}": f"{turn}{place}", str(place): f"{turn}"}, place)
            )
            delivery.settle()
            expected |= {f"p{turn}": f"{turn}{place}", str(place): f"{turn}"}
            assert people(tmp_path) == expected
    assert taken == ["all"] + ["changed"] * 5 + ["all"] + ["changed"] * 2
    one.close()
    two.close()


def test_what_an_older_version_changes_is_not_missed(tmp_path: Path, taken: list[str]) -> None:
    """The older version writes rows and counts the change, but does not know the mirror."""
    delivery = begun(tmp_path)
    for name in ("Eve", "Flo"):
        with sqlite3.connect(tmp_path / ".schoolbus" / "state.sqlite") as old:
            old.execute(f'UPDATE "people.csv" SET cells = \'["p7", "{name}"]\' WHERE id = \'p7\'')
            old.execute("UPDATE fact SET value = value + 1 WHERE name = 'changes'")
        old.close()
        delivery.deliver(delivered_rows({"p8": name}))
        delivery.settle()
        assert people(tmp_path) == {**FIRST, "p7": name, "p8": name}
    assert taken == ["all", "all", "all"]
    delivery.close()


def test_a_state_of_an_older_version_is_used_as_it_is(tmp_path: Path, taken: list[str]) -> None:
    begun(tmp_path).close()
    shutil.rmtree(mirror(tmp_path).parent)
    with sqlite3.connect(tmp_path / ".schoolbus" / "state.sqlite") as old:
        old.execute("DROP TABLE changed")
        old.execute("DELETE FROM fact WHERE name IN ('mirror', 'logged', 'room')")
    old.close()
    delivery = FullSet(tmp_path, [PEOPLE], {}, {}, Day())
    assert delivery.resume("cluster", [P0]) == {P0: 1}
    goes_on(delivery, tmp_path)
    assert taken == ["all", "all"]
    delivery.close()


def kept_changes(out: Path) -> int:
    """Return how many changed records the state keeps for the mirror."""
    with sqlite3.connect(out / ".schoolbus" / "state.sqlite") as state:
        (number,) = state.execute("SELECT count(*) FROM changed").fetchone()
    state.close()
    return int(number)


def test_changes_are_kept_only_for_a_mirror_and_only_up_to_a_limit(
    tmp_path: Path, taken: list[str]
) -> None:
    delivery = opened(tmp_path)
    delivery.deliver(delivered_rows(dict(FIRST)))
    assert kept_changes(tmp_path) == 0
    delivery.settle()
    for some in (4, 6):
        delivery.deliver(delivered_rows({f"p{at}": "Bob" for at in range(some)}))
        assert kept_changes(tmp_path) == max(4, some)
    delivery.deliver(delivered_rows({"p30": "Bob"}))
    assert kept_changes(tmp_path) == 0  # one in four has changed
    delivery.deliver(delivered_rows({"p31": "Bob"}))
    assert kept_changes(tmp_path) == 0
    delivery.settle()
    changed = dict.fromkeys([f"p{at}" for at in (0, 1, 2, 3, 4, 5, 30, 31)], "Bob")
    assert people(tmp_path) == FIRST | changed
    delivery.deliver(delivered_rows({"p32": "Bob"}))
    assert kept_changes(tmp_path) == 1
    delivery.settle()
    assert kept_changes(tmp_path) == 0
    assert people(tmp_path) == FIRST | changed | {"p32": "Bob"}
    assert taken == ["all", "all", "changed"]
    delivery.close()


def test_a_state_that_is_read_again_leaves_nothing_of_the_old_one(
    tmp_path: Path, taken: list[str]
) -> None:
    delivery = begun(tmp_path)
    delivery.deliver(delivered_rows({"p1": "Bob"}))
    delivery.close()
    again = FullSet(tmp_path, [PEOPLE], {}, {}, Day())
    again.resume("another cluster", [P0])
    assert kept_changes(tmp_path) == 0
    again.deliver(delivered_rows({"q": "Cy"}))
    again.settle()
    assert people(tmp_path) == {"q": "Cy"}
    assert taken == ["all", "all"]
    again.close()


HOLD = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('open', flush=True); input()"


@pytest.fixture
def held(tmp_path: Path) -> Iterator[FullSet]:
    """Return a delivery whose mirror another process has open."""
    delivery = begun(tmp_path)
    command = [sys.executable, "-c", HOLD, str(mirror(tmp_path))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"open\n"
        yield delivery
        other.communicate(b"\n")
    delivery.close()


def test_a_mirror_that_another_process_has_is_in_memory(
    tmp_path: Path, held: FullSet, taken: list[str]
) -> None:
    goes_on(held, tmp_path)
    assert taken == ["all"]


def test_the_mirror_is_for_its_owner_alone_and_leaves_no_rows_elsewhere(tmp_path: Path) -> None:
    delivery = begun(tmp_path)
    spill = mirror(tmp_path).parent / "spill"
    spill.mkdir()
    (spill / "left by a kill").write_text("Ann")
    goes_on(delivery, tmp_path)
    delivery.close()
    assert [path.name for path in mirror(tmp_path).parent.iterdir()] == ["rows.duckdb"]
    assert stat.S_IMODE(mirror(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(mirror(tmp_path).parent.stat().st_mode) == 0o700
