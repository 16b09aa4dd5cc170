"""Shards that share the work send together what one instance sends alone."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.kafka.topics import partition_for
from bus.settings import Settings, VendorsSettings
from bus.standard.kinds import KINDS, Record
from bus.vendors import shard
from bus.vendors.agreement import Agreement
from bus.vendors.asked_records import AskedRecords, NeededRecords
from bus.vendors.asking import Asking, SaidBefore
from bus.vendors.district_view import DistrictView, student_of
from bus.vendors.projected import Outcome
from bus.vendors.projection import Projection
from bus.vendors.record_rules import Change, orgs_above
from bus.vendors.scope import compile_scope
from bus.vendors.shard import WHOLE, Shard
from bus.vendors.shard_words import (
    Asked,
    Disclosed,
    GivenUp,
    Round,
    RoundStage,
    Seen,
    Word,
    decoded,
    disclosed,
    encoded,
)
from bus.vendors.words_to_say import WordsToSay
from tests.unit.test_vendor_projection import CHANGE, DAY, DEALS, SCHOOLS, SOME, Vendor, record
from tests.vendor_checker import District

NUMBER = 2
New = tuple[str, str, Record | None]

# ---- which shard reads and keeps what ------------------------------------------------------------


def test_one_shard_reads_and_keeps_everything() -> None:
    assert all(WHOLE.reads(kind, 3) and WHOLE.keeps(None, kind) for kind in KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_record_is_kept_by_the_shard_that_sends_it(kind: str) -> None:
    """Classes and line items are also kept where they decide which results a vendor sees."""
    about = KINDS[kind].student
    for student in ("a", None) if about is not None and about.when else ("a" if about else None,):
        for part in range(5):
            kept_by = [
                one
                for one in (Shard(number, NUMBER) for number in range(NUMBER + 1))
                if one.reads(kind, part) and one.keeps(student, kind)
            ]
            if student is not None:
                assert kept_by == [Shard(1 + part % NUMBER, NUMBER)]
            else:
                assert kept_by[0] == Shard(0, NUMBER)
                assert len(kept_by) == (1 + NUMBER if kind in shard.RULED_BY else 1)


def test_each_shard_has_a_file_of_its_own(tmp_path: Path) -> None:
    """The files of another prefix that begins in the same way are others."""
    one = Settings(home=tmp_path, topic_prefix="bus")
    many = Settings(home=tmp_path, topic_prefix="bus", vendors=VendorsSettings(shards=3))
    assert [str(shard) for shard in shard.shards(many)] == [f"{at}-of-3" for at in range(4)]
    assert shard.shards(one) == [WHOLE]
    paths = [each.file(many) for each in [*shard.shards(one), *shard.shards(many)]]
    assert len(set(paths)) == 5
    other = Shard(1, 3).file(Settings(home=tmp_path, topic_prefix="bus.other"))
    for path in [*paths, other, paths[0].with_name("bus.sqlite-wal")]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert shard.files(one) == sorted(paths)


# ---- words ---------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 28, 7, tzinfo=UTC)
WORDS: list[Word] = [
    Round("math-app", "e" * 64, 3, RoundStage.STOP, ("district", "state")),
    Seen(2, 17),
    Asked("math-app", 3, "guardian", "g/1", "sölve", needed=True),
    Asked("math-app", 3, "class", "c", "", needed=False),
    Disclosed("math-app", 3, ("a", "b"), NOW, entered=True),
    Disclosed("math-app", 3, ("a",), NOW, entered=False, number=1000),
    GivenUp("enrollment", "e"),
]


@pytest.mark.parametrize("word", WORDS, ids=lambda one: type(one).__name__)
def test_a_word_is_read_as_it_was_said(word: Word) -> None:
    assert decoded(*encoded(word)) == word


@pytest.mark.parametrize(
    ("key", "value"),
    [(None, b"1"), (b"", b"1"), (b"{}", b"1"), (b'["later word", 1]', b"1"), (b'["seen"]', b"1"),
     (b'["round", "a"]', None), (b"\xff", b"1"), (b'["asked", "a"]', b"true")],
)  # fmt: skip
def test_what_is_no_word_of_this_version_is_ignored(key: bytes | None, value: bytes | None) -> None:
    assert decoded(key, value) is None


def test_many_students_are_said_in_several_words_with_keys_of_their_own() -> None:
    students = [f"s{number}" for number in range(2500)]
    words = list(disclosed("math-app", 1, students, NOW, entered=True))
    assert [one for word in words for one in word.students] == students
    assert len({encoded(word)[0] for word in words}) == len(words) == 3


def test_only_the_last_word_about_a_record_is_said() -> None:
    words = WordsToSay(DistrictView(None, "test", lambda *_: {}).con)
    asked = Asked("math-app", 1, "class", "c", "", needed=True)
    words.add([asked, GivenUp("result", "r")])
    said = words.rows()
    words.add([Asked("math-app", 1, "class", "c", "", needed=False)])
    words.remove(said)  # it was said; meanwhile the opposite must be said
    assert [row.word() for row in words.rows()] == [
        Asked("math-app", 1, "class", "c", "", needed=False)
    ]
    words.forget("math-app")
    assert words.rows() == []


def test_a_file_that_is_emptied_has_said_nothing(tmp_path: Path) -> None:
    """The numbers of its words begin again."""

    class Talk:
        def asked(self) -> int:
            return 17

    def asking(mark: str) -> Asking:
        talk: Any = Talk()
        return Asking(DistrictView(tmp_path / "view", mark, lambda *_: {}).con, talk)

    asking("one").keep([], 5)
    assert asking("one").said() == SaidBefore(17, 0, 5)
    assert asking("another cluster").said() == SaidBefore()


# ---- the law -------------------------------------------------------------------------------------


class ShardedWorld:
    """A district, the views of three shards, and one vendor.

    It delivers words between the shards in the order that Kafka keeps, but some of them late.
    """

    def __init__(self, deal: Agreement) -> None:
        self.deal = deal
        self.district, self.vendor = District(), Vendor()
        self.shards = [Shard(number, NUMBER) for number in range(NUMBER + 1)]
        self.views = [
            DistrictView(None, "test", lambda _, value: pickle.loads(value)) for _ in self.shards
        ]
        self.above = frozenset(["d"] if deal.students.schools else [])
        self.late: list[list[Asked]] = [[] for _ in self.shards]
        self.compile()

    def compile(self) -> None:
        scope = compile_scope(self.deal)
        self.projections = [
            Projection(
                scope,
                view,
                lambda id_: id_,
                self.above,
                records=NeededRecords if one.common else partial(AskedRecords, round_=1),
            )
            for one, view in zip(self.shards, self.views, strict=True)
        ]

    def change(self, order: list[int], *new: New) -> None:
        """Let the shards follow some changes, in this order."""
        changes: dict[tuple[str, str], Change] = {}
        for kind, id_, after in new:
            before = self.district.records.get((kind, id_))
            owner = KINDS[kind].owner
            if before and after and part_of(before[owner]) != part_of(after[owner]):
                continue  # it would be in two partitions; see the tests of moved records
            first = changes[kind, id_].before if (kind, id_) in changes else before
            changes[kind, id_] = Change(kind, id_, first, after)
            if after is None:
                self.district.records.pop((kind, id_), None)
            else:
                self.district.records[kind, id_] = after
        for number in order:
            self._follow(number, [one for one in changes.values() if one.before != one.after])

    def _follow(self, number: int, changes: list[Change]) -> None:
        """Let one shard follow those of the changes that it reads."""
        one, view = self.shards[number], self.views[number]
        mine = []
        for change in changes:
            states = [
                state if state and one.keeps(student_of(change.kind, state), change.kind) else None
                for state in (change.before, change.after)
            ]
            part = part_of((change.before or change.after or {})[KINDS[change.kind].owner])
            if one.reads(change.kind, part) and states[0] != states[1]:
                mine.append(Change(change.kind, change.id, *states))
        view.store(
            (each.kind, each.id, each.after, pickle.dumps(each.after) if each.after else None)
            for each in mine
        )
        self.send(number, self.projections[number].take(mine, DAY))

    def send(self, number: int, outcome: Outcome) -> None:
        """Ask the common shard, send, and say later what is not needed any more."""
        words = WordsToSay(self.views[number].con)
        rows = words.rows()
        asked = [word for row in rows if isinstance(word := row.word(), Asked)]
        if any(word.needed for word in asked):
            self.late[number] += [word for word in asked if word.needed]
            self.say(number)
        for sent in outcome.sent:
            if sent.record is not None:
                self.has_what_it_refers_to(sent.kind, sent.record)
        self.vendor.receive(outcome)
        self.late[number] += [word for word in asked if not word.needed]
        words.remove(rows)

    def say(self, number: int) -> None:
        """Let the common shard follow what a shard has said."""
        said, self.late[number] = self.late[number], []
        outcome, _ = self.projections[0].asked((number, word) for word in said)
        self.vendor.receive(outcome)

    def has_what_it_refers_to(self, kind: str, sent: Record) -> None:
        """Check that the vendor has the class of a record about a student."""
        class_ = sent.get("classSourcedId")
        if kind in ("enrollment", "attendance", "result") and sent.get("role") != "teacher":
            there = ("class", class_) in self.views[0].get_all([("class", class_ or "")])
            assert not class_ or not there or ("class", class_) in self.vendor.has

    def settle(self) -> None:
        for number in range(1, NUMBER + 1):
            self.say(number)

    def write_again(self) -> None:
        """Write the vendor's topics again, as when the agreement changes."""
        for projection in self.projections:
            projection.forget()
        self.late = [[] for _ in self.shards]
        self.above = orgs_above(self.views[0], self.deal)
        self.compile()
        self.vendor = Vendor()
        for number in range(1, NUMBER + 1):
            students = self.views[number].students_after(None, 100)
            self.send(number, self.projections[number].look_at(students, DAY))
        self.settle()


def part_of(owner: str) -> int:
    return partition_for(owner, NUMBER)


def ordered(kinds: list[list[New]]) -> st.SearchStrategy[list[tuple[list[int], list[New]]]]:
    """Draw, for each batch, the order in which the shards follow it."""
    orders = st.permutations(range(NUMBER + 1)).map(list)
    return st.tuples(*(st.tuples(orders, st.just(one)) for one in kinds)).map(list)


BATCHES = st.lists(st.lists(CHANGE, min_size=1, max_size=8), min_size=1, max_size=6)


@settings(deadline=None)
@given(DEALS, BATCHES.flatmap(ordered))
def test_the_vendor_has_what_the_agreement_and_the_district_say(
    deal: Agreement, batches: list[tuple[list[int], list[New]]]
) -> None:
    world = ShardedWorld(deal)
    world.change(
        [0, 1, 2],
        ("org", "d", record("org", "d")),
        *(("org", s, record("org", s, parentSourcedId="d")) for s in SCHOOLS),
    )
    world.change(
        [1, 0, 2], *((kind, id_, record(kind, id_, **values)) for kind, id_, values in SOME)
    )
    for order, batch in batches:
        world.change(order, *batch)
        world.settle()
        if orgs_above(world.views[0], deal) != world.above:
            world.write_again()
        assert world.vendor.has == world.district.expected(deal, DAY)
    before = dict(world.vendor.has)
    world.write_again()
    assert world.vendor.has == before
