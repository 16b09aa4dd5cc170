"""A rekey gives a vendor new ids once, and a crosswalk that agrees with the keys."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.errors import Stop
from bus.vendors import (
    applied,
    crosswalk,
    key_rotation,
    master_key,
    pseudonyms,
    vendor_topics,
    written_editions,
)
from bus.vendors.applied import Applied
from bus.vendors.pseudonyms import Pseudonyms
from bus.vendors.rekey import Rekey, rekey, repeat
from bus.vendors.scope import compile_scope
from tests.agreements import DAY
from tests.fakes.harness import Bus
from tests.kills import Kills
from tests.unit.test_vendors_applied import an_applied
from tests.unit.test_vendors_key_rotation import overtaking, sealed

NOW = datetime(2026, 11, 28, 4, 0, tzinfo=UTC)
OLD = bytes([1]) * 64
IDS = {"student": ["s1", "s2"], "class": ["c1"], "enrollment": ["e1", "e2", "e3"]}


class District:
    """A bus on the fakes with a vendor that has records, its renewal, and another vendor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.bus = Bus(monkeypatch, home=folder / "home", partitions=3)
        self.settings = self.bus.settings
        folder.joinpath("private").mkdir(parents=True, mode=0o700)
        self.file = folder / "private" / "crosswalk.csv"
        self.recorded: list[tuple[str, int]] = []
        (master,) = master_key.read_or_make(self.settings, needed=False)
        math = replace(an_applied(), wrapped_key=sealed(OLD, master))
        later = replace(an_applied("math-2", renews="math-app"), ids_name="math-app")
        other = replace(an_applied("library"), wrapped_key=sealed(bytes([2]) * 64, master))
        applied.write(self.settings, math, applied.with_keys_of(later, math), other)
        scope = compile_scope(math.agreement)
        self.topics = vendor_topics.topics_by_kind(self.settings, scope, "math-app")
        for topic in self.topics.values():
            self.bus.broker.create(topic, 3)
        for kind, ids in IDS.items():
            for id_ in ids:
                self.send(kind, id_, OLD)
        self.send("student", "s3", OLD)
        self.send("student", "s3", OLD, value=None)

    def send(self, kind: str, id_: str, key: bytes, value: bytes | None = b"x") -> None:
        """Send a record to the vendor."""
        pseudonym = Pseudonyms(key).pseudonym(id_)
        place = self.bus.broker.partition(self.topics[kind], pseudonym.encode())
        self.bus.broker.append(self.topics[kind], place, key=pseudonym.encode(), value=value)

    def rewrite(self) -> None:
        """Write the topics whole, as `bus vendors run` does."""
        for topic in self.topics.values():
            self.bus.broker.create(topic, 3)
        for kind, ids in IDS.items():
            for id_ in ids:
                self.send(kind, id_, self.key)

    def rekeyed(self, name: str, at: datetime, times: int) -> None:
        """Note what the record of disclosures would get. The new ids must not be valid yet."""
        assert self.applied[name].rekeyed == times - 1
        self.recorded.append((name, times))

    def rekey(self, name: str = "math-app", file: Path | None = None) -> Rekey:
        return rekey(self.settings, name, file or self.file, NOW, self)

    @property
    def applied(self) -> dict[str, Applied]:
        return applied.read(self.settings)

    def opened(self, sealed_key: bytes) -> bytes:
        return pseudonyms.unwrapped(sealed_key, master_key.read(self.settings))

    @property
    def key(self) -> bytes:
        return self.opened(self.applied["math-app"].wrapped_key)

    def expected(self, old: bytes, new: bytes) -> set[tuple[str, str, str]]:
        was, is_ = Pseudonyms(old).pseudonym, Pseudonyms(new).pseudonym
        return {(kind, was(id_), is_(id_)) for kind, ids in IDS.items() for id_ in ids}


@pytest.fixture(autouse=True)
def day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.vendors.applied.today", lambda: DAY)


@pytest.fixture
def district(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> District:
    return District(monkeypatch, tmp_path)


def test_the_whole_chain_gets_a_new_key_and_nobody_else(district: District) -> None:
    before = district.applied
    assert district.rekey() == Rekey(("math-2", "math-app"), 6, 1)
    after = district.applied
    assert after["library"] == before["library"]
    assert applied.with_keys_of(after["math-2"], after["math-app"]) == after["math-2"]
    assert district.key != OLD and district.opened(after["math-app"].earlier_key) == OLD
    for name in ("math-app", "math-2"):
        assert after[name].edition != before[name].edition
    assert district.recorded == [("math-2", 1), ("math-app", 1)]


@pytest.mark.parametrize("written", [False, True])
def test_a_rekey_alone_narrows_nothing(district: District, written: bool) -> None:
    one = replace(district.applied["math-app"], narrowed=True)
    applied.write(district.settings, one)
    if written:
        written_editions.note(district.settings, one.name, one.edition)
    district.rekey()
    assert district.applied["math-app"].narrowed is not written


def test_the_crosswalk_has_what_the_vendor_has_and_only_its_owner_reads_it(
    district: District,
) -> None:
    district.rekey()
    with district.file.open(newline="") as lines:
        header, *rows = csv.reader(lines)
    assert header == ["kind", "oldId", "newId"]
    assert [tuple(row) for row in rows] == sorted(district.expected(OLD, district.key))
    assert district.file.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in district.file.parent.iterdir()] == ["crosswalk.csv"]


def test_the_same_command_again_changes_nothing(district: District) -> None:
    done, stored, written = district.rekey(), district.applied, district.file.read_bytes()
    for _ in range(2):
        assert district.rekey() == district.rekey("math-2") == done
        assert district.applied == stored and district.file.read_bytes() == written
        district.rewrite()
    assert district.recorded == [("math-2", 1), ("math-app", 1)]


def test_killed_at_any_step_the_same_command_gives_the_same_ids(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = (
        "bus.vendors.applied._send",
        "bus.vendors.crosswalk.write",
        "tests.unit.test_vendors_rekey.disclose",
    )
    kills = Kills(steps, halves=steps[:1])
    count = 0
    for moment in kills.moments():
        one = District(monkeypatch, tmp_path / str(moment))
        monkeypatch.setattr(one, "rekeyed", lambda *about, one=one: disclose(one, *about))
        count += kills.run(one.rekey)
        begun = one.applied["math-app"]
        coming = begun.wrapped_key if begun.rekeyed else begun.next_key
        rows = crosswalk.read(one.file)
        if rows is not None:
            assert coming and rows == one.expected(OLD, one.opened(coming)), moment
        if begun.rekeyed:
            assert rows is not None, "no id changes before the crosswalk is there"
            assert ("math-2", 1) in one.recorded and ("math-app", 1) in one.recorded
        assert one.rekey().times == 1
        assert crosswalk.read(one.file) == one.expected(OLD, one.key)
        assert not coming or one.opened(coming) == one.key, moment
        assert {(one.rekeyed, one.next_key) for one in one.applied.values() if one.rekeyed} == {
            (1, b"")
        }
        assert one.applied["math-2"].wrapped_key == one.applied["math-app"].wrapped_key
        assert set(one.recorded) == {("math-2", 1), ("math-app", 1)}
    assert count == 12


def disclose(district: District, name: str, at: datetime, times: int) -> None:
    """Write to the record of disclosures, as a step at which a test can kill."""
    District.rekeyed(district, name, at, times)


def test_what_the_vendor_receives_meanwhile_is_added(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = crosswalk.write

    def late(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr("bus.vendors.crosswalk.write", write)
        district.send("student", "s9", OLD)

    monkeypatch.setattr("bus.vendors.crosswalk.write", late)
    assert district.rekey().rows == 7
    was, is_ = Pseudonyms(OLD).pseudonym("s9"), Pseudonyms(district.key).pseudonym("s9")
    assert ("student", was, is_) in (crosswalk.read(district.file) or ())


def test_a_second_rekey_waits_until_the_topics_have_the_new_ids(district: District) -> None:
    district.rekey()
    between, second = district.key, district.file.with_name("second.csv")
    with pytest.raises(Stop, match="still have ids from before the last rekey"):
        district.rekey(file=second)
    assert not second.exists()
    district.rewrite()
    assert district.rekey(file=second) == Rekey(("math-2", "math-app"), 6, 2)
    assert crosswalk.read(second) == district.expected(between, district.key)
    with pytest.raises(Stop, match="the crosswalk of another rekey"):
        district.rekey()


def test_a_lost_crosswalk_is_written_again(district: District) -> None:
    with pytest.raises(Stop, match="were never changed"):
        repeat(district.settings, "math-app", district.file)
    district.rekey()
    written, stored = district.file.read_bytes(), district.applied
    for _ in range(2):
        district.file.unlink()
        assert repeat(district.settings, "math-app", district.file).rows == 6
        assert district.file.read_bytes() == written
        district.rewrite()
    assert district.applied == stored


def test_a_rotation_of_the_master_key_in_between_changes_nothing(district: District) -> None:
    kills = Kills(("bus.vendors.crosswalk.write",))
    next(moments := kills.moments())
    assert kills.run(district.rekey)
    next(moments)
    coming = district.opened(district.applied["math-app"].next_key)
    key_rotation.rotate(district.settings)
    district.rekey()
    assert district.key == coming
    assert key_rotation.rotate(district.settings).rewrapped == 3
    assert crosswalk.read(district.file) == district.expected(OLD, district.key)


def test_a_command_that_read_before_and_writes_after_keeps_the_new_ids(district: District) -> None:
    stale = district.applied["math-2"]
    district.rekey()
    key = district.key
    applied.write(district.settings, replace(stale, confirmed=5))
    assert district.applied["math-2"].confirmed == 5
    assert district.applied["math-2"].rekeyed == 1
    assert district.opened(district.applied["math-2"].wrapped_key) == key


def test_two_at_the_same_time_never_give_two_sets_of_ids(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = district.file.with_name("other.csv")
    overtaking(monkeypatch, lambda: district.rekey(file=other))
    with pytest.raises(Stop, match="at the same time"):
        district.rekey()
    assert district.applied["math-app"].rekeyed == 1
    assert crosswalk.read(other) == district.expected(OLD, district.key)
    assert not district.file.exists()


def test_a_rekey_that_another_one_overtakes_keeps_the_key_of_the_other(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = District.rekeyed

    def overtaken(one: District, name: str, at: datetime, times: int) -> None:
        original(one, name, at, times)
        if name == "math-app":  # the last one of the chain
            monkeypatch.setattr(District, "rekeyed", original)
            one.rekey(file=one.file.with_name("other.csv"))

    monkeypatch.setattr(District, "rekeyed", overtaken)
    with pytest.raises(Stop, match="at the same time"):
        district.rekey()
    stored = district.applied["math-app"]
    assert stored.rekeyed == 1 and district.key not in (b"", OLD)


@pytest.mark.parametrize("order", [1, -1])
def test_a_rekey_counts_more_than_a_rotation_at_the_same_moment(
    district: District, order: int
) -> None:
    stored = district.applied["math-app"]
    rotated = replace(stored, key_version=1)
    changed = replace(stored, key_version=1, rekeyed=1, wrapped_key=b"new", earlier_key=b"old")
    applied._send(district.settings, "schoolbus.vendors", [rotated, changed][::order])
    assert district.applied["math-app"].wrapped_key == b"new"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"identifiers": "real"}, "has the ids of the SIS"),
        ({"until": DAY.replace(day=1)}, "has ended"),
    ],
)
def test_a_rekey_needs_pseudonyms_and_an_agreement_that_is_not_over(
    district: District, changes: dict[str, Any], why: str
) -> None:
    one = an_applied(**changes)
    applied.write(district.settings, applied.with_keys_of(one, district.applied["math-app"]))
    with pytest.raises(Stop, match=why):
        district.rekey()
    assert not district.file.exists() and district.key == OLD


def test_a_deleted_key_stays_deleted(district: District) -> None:
    ended = replace(district.applied["math-app"], state="ended", wrapped_key=b"")
    applied.write(district.settings, ended)
    district.rekey("math-2")
    assert district.applied["math-app"].wrapped_key == b""
    assert district.applied["math-2"].rekeyed == 1


def test_a_folder_that_others_can_read_is_refused_for_the_crosswalk(district: District) -> None:
    district.file.parent.chmod(0o750)
    with pytest.raises(Stop, match="chmod 700"):
        district.rekey()
    assert not district.applied["math-app"].next_key and not district.file.exists()


@pytest.mark.parametrize(
    "text", ["", "kind,oldId\r\n", "a list of something\n", "kind,oldId,newId\r\nstudent,a,b\r\n"]
)
def test_a_file_with_anything_else_stays_as_it_is(district: District, text: str) -> None:
    district.file.write_text(text, newline="")
    with pytest.raises(Stop, match=r"another file|a file that does not exist yet"):
        district.rekey()
    with district.file.open(newline="") as file:
        assert file.read() == text
    assert not district.applied["math-app"].next_key


REAL = st.tuples(st.sampled_from(sorted(IDS)), st.text("abc-\"', \r\né", min_size=1, max_size=20))


@settings(max_examples=40)
@given(st.sets(REAL, max_size=8), st.booleans())
def test_a_crosswalk_has_the_ids_that_the_keys_give(
    found: set[tuple[str, str]], already: bool
) -> None:
    old, new, third = (Pseudonyms(bytes([number]) * 64) for number in range(3))
    has = new if already else old
    rows = crosswalk.rows([(kind, has.pseudonym(id_)) for kind, id_ in found], old, new)
    assert {(kind, old.real(was)) for kind, was, _ in rows} == found
    assert {(kind, new.real(is_)) for kind, _, is_ in rows} == found
    assert len(rows) == len({(k, is_) for k, _, is_ in rows}) == len({(k, w) for k, w, _ in rows})
    assert crosswalk.belongs(rows, old, new)
    assert not rows or not (
        crosswalk.belongs(rows, old, third) or crosswalk.belongs(rows, new, old)
    )
    assert not crosswalk.rows([("student", third.pseudonym("s1"))], old, new)
