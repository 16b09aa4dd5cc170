"""A record that moved to another owner is in two partitions, which Kafka does not order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

import pytest
from confluent_kafka import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.registry import codec
from bus.registry.codec import Encoder
from bus.settings import KafkaSettings, Settings
from bus.standard.kinds import KINDS, Record
from bus.vendors import district_changes
from bus.vendors.district_changes import DistrictChanges
from bus.vendors.district_view import DistrictView, Key
from bus.vendors.record_rules import Change
from tests.unit.test_vendor_projection import record

SETTINGS = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))
ENCODERS = {kind: Encoder(kind, id_) for id_, kind in enumerate(KINDS)}


class State(NamedTuple):
    """A state of an enrollment, or of an opt-out, in one partition. status None: a tombstone."""

    part: int
    time: int
    status: str | None = "active"
    kind: str = "enrollment"
    id: str = "e"

    @property
    def owner(self) -> str:
        return f"owner-{self.part}"

    def record(self) -> Record | None:
        if self.status is None:
            return None
        more = {"role": "student"} if self.kind == "enrollment" else {}
        owner = {KINDS[self.kind].owner: self.owner}
        return record(self.kind, self.id, status=self.status, **owner, **more)

    def message(self) -> Message:
        one = self.record()
        return Message(
            topic=f"schoolbus.{self.kind}",
            partition=self.part,
            key=self.id.encode(),
            value=None if one is None else ENCODERS[self.kind].encode(one),
            timestamp=(1, self.time),
        )


class Reader:
    """A view, and what somebody knows who has only the changes."""

    def __init__(self) -> None:
        self.changes = DistrictChanges(SETTINGS)
        self.view = DistrictView(
            None, "test", self.changes.decode_stored, self.changes.decode_all_stored
        )
        self.told: dict[Key, Record] = {}

    def take(self, *states: State, build: bool = False) -> list[Change]:
        self.view.begin()
        messages = [one.message() for one in states]
        found = self.changes.take(self.view, messages, only_opt_outs=build)
        self.view.commit()
        for one in found:
            key = one.kind, one.id
            assert self.told.get(key) == one.before != one.after
            if one.after is None:
                del self.told[key]
            else:
                self.told[key] = one.after
        return found

    def has(self, kind: str = "enrollment", id_: str = "e") -> Record | None:
        return self.view.get(kind, id_)


@pytest.fixture(scope="module", autouse=True)
def _no_registry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        by_id = [KINDS[kind].schema for kind in KINDS]
        patch.setattr(district_changes, "schema_lookup", lambda _: by_id.__getitem__)
        patch.setattr(codec, "FEWEST", 1)  # few messages are stored as columns, too
        yield


CREATED, GONE, HERE = State(1, 10), State(1, 20, "tobedeleted"), State(2, 20)
"""An enrollment that moves from the owner of partition 1 to that of partition 2."""


def readings(*partitions: Sequence[State]) -> list[list[State]]:
    """Return each order in which these partitions can be read."""
    numbers = [at for at, some in enumerate(partitions) for _ in some]
    found = []
    for order in sorted(set(permutations(numbers))):
        rest = [iter(some) for some in partitions]
        found.append([next(rest[at]) for at in order])
    return found


@pytest.mark.parametrize("build", [True, False], ids=["build", "live"])
@pytest.mark.parametrize("at_once", [True, False], ids=["one batch", "batches"])
@pytest.mark.parametrize("order", readings([CREATED, GONE], [HERE]))
def test_a_moved_record_is_with_its_new_owner(
    order: list[State], at_once: bool, build: bool
) -> None:
    reader = Reader()
    for batch in [order] if at_once else [[one] for one in order]:
        reader.take(*batch, build=build)
    assert reader.has() == HERE.record()
    assert reader.view.by_kind(["owner-1", "owner-2"], ["enrollment"]) == {
        "enrollment": (["owner-2"], [HERE.record()])
    }
    if not build:
        assert reader.told == {("enrollment", "e"): HERE.record()}


@pytest.mark.parametrize("build", [True, False], ids=["build", "live"])
@pytest.mark.parametrize(
    "order", readings([CREATED, GONE, State(1, 30)], [HERE, GONE._replace(part=2, time=30)])
)
def test_a_record_that_moved_back_is_with_its_first_owner(order: list[State], build: bool) -> None:
    """Each message of the moves has the time of the other one."""
    reader = Reader()
    for one in order:
        reader.take(one, build=build)
    assert reader.has() == State(1, 30).record()


def test_what_comes_too_late_is_no_change() -> None:
    reader = Reader()
    reader.take(HERE)
    assert reader.take(GONE) == []
    assert reader.take(CREATED, GONE) == []
    other = State(3, 20, id="f")
    assert [one.id for one in reader.take(GONE, other)] == ["f"]
    assert reader.take(GONE, HERE, GONE) == []


def test_an_opt_out_that_moved_is_compared_while_the_view_is_built() -> None:
    here, gone = HERE._replace(kind="optOut"), GONE._replace(kind="optOut")
    reader = Reader()
    (change,) = reader.take(here, gone, build=True)
    assert change.after == here.record() == reader.has("optOut")
    assert reader.take(gone, build=True) == []


@pytest.mark.parametrize("build", [True, False], ids=["build", "live"])
def test_messages_of_one_partition_follow_their_offsets(build: bool) -> None:
    """The clock of their producer may have been set back."""
    reader = Reader()
    reader.take(State(1, 30), build=build)
    reader.take(State(1, 20, "tobedeleted"), build=build)
    assert reader.has() == State(1, 20, "tobedeleted").record()
    reader.take(State(2, 10), build=build)
    assert reader.has() == State(1, 20, "tobedeleted").record()


@pytest.mark.parametrize("build", [True, False], ids=["build", "live"])
def test_a_tombstone_erases_only_what_its_partition_has(build: bool) -> None:
    """docs/operations.md erases a person in each partition in which the person owned a record.

    A record of somebody else may have been the person's earlier.
    """
    erased = State(1, 40, None)
    reader = Reader()
    reader.take(CREATED, GONE, HERE, build=build)
    assert reader.take(erased, build=build) == []
    assert reader.has() == HERE.record()
    reader.take(State(2, 50, "tobedeleted"), build=build)
    changes = reader.take(State(2, 60, None), State(1, 60, id="f"), build=build)
    assert reader.has() is None
    assert [one.id for one in changes] == ([] if build else ["e", "f"])
    assert reader.take(State(2, 70, None), build=build) == []


def test_a_tombstone_and_other_states_in_one_batch_follow_their_order() -> None:
    erased = State(1, 30, None)
    reader = Reader()
    reader.take(CREATED, State(2, 20), erased, State(2, 15, "tobedeleted"), State(1, 40))
    assert reader.has() == State(1, 40).record()
    reader.take(State(2, 50, None), State(1, 60, "tobedeleted"), State(2, 70, None))
    assert reader.has() == State(1, 60, "tobedeleted").record()


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[State], dict[str, State]]:
    """Return moves of some enrollments in an order in which Kafka may give them, and their ends.

    Each partition is in its order. Several moves may fall into the same millisecond as long as a
    partition has each of its states at another time.
    """
    parts: dict[int, list[State]] = {}
    ends = {}
    for id_ in "ef":
        now = draw(st.integers(1, 3))
        one = State(draw(st.integers(0, 2)), now, id=id_)
        parts.setdefault(one.part, []).append(one)
        for part in draw(st.lists(st.integers(0, 2), max_size=4)):
            now += draw(st.integers(1, 2))
            if part != one.part:
                gone = one._replace(time=now, status="tobedeleted")
                parts[one.part].append(gone)
            status = draw(st.sampled_from(["active", "active", "tobedeleted"]))
            after = now + 1 if status == "tobedeleted" else now
            if status == "tobedeleted":
                now = after
            one = State(part, after, status, id=id_)
            parts.setdefault(part, []).append(one)
        ends[id_] = one
    rest = [iter(some) for some in parts.values()]
    numbers = [at for at, some in enumerate(parts.values()) for _ in some]
    return [next(rest[at]) for at in draw(st.permutations(numbers))], ends


@settings(deadline=None)
@given(histories(), st.data())
def test_the_last_owner_has_each_record_in_any_order(
    history: tuple[list[State], dict[str, State]], data: st.DataObject
) -> None:
    order, ends = history
    reader = Reader()
    built = data.draw(st.integers(0, len(order)))
    at = 0
    while at < len(order):
        number = data.draw(st.integers(1, len(order)))
        build = at < built
        reader.take(*order[at : at + number], build=build)
        at += number
        if build:  # as if an agreement began here
            keys = [("enrollment", id_) for id_ in ends]
            reader.told = dict(reader.view.get_all(keys))
    for id_, one in ends.items():
        assert reader.has("enrollment", id_) == one.record()
        assert reader.told["enrollment", id_] == one.record()
    reader.view.close()
