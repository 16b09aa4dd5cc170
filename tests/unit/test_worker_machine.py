"""Laws of the worker loop that hold for any sequence of events.

Instances of one consumer deliver to one product. At the same time records arrive, partitions move, the
product is down, and instances are killed at any point. The product checks each batch that it gets.
Each step ends with a check of the broker. At the end nothing is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
from confluent_kafka import KafkaError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bus.product import Equivalent
from tests.fakes.harness import Batch, Bus, FakeProduct, Instance, Killed, RetryLater, fate

STUDENTS = st.sampled_from([f"s{n}" for n in range(4)])
SEVERAL = st.lists(STUDENTS, min_size=2, max_size=5)
CLASSES = st.sampled_from([f"c{n}" for n in range(3)])
FATES = st.sampled_from(["", "", "", "", "refused", "untranslatable", "rubbish"])
STATUS = st.sampled_from(["active", "active", "tobedeleted"])
TURNS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), min_size=1, max_size=5)
"""Which instances take turns, in order, and how many turns each one takes."""
OWNERS = st.lists(st.integers(0, 2), min_size=8, max_size=8)
"""Which instance gets which partition."""
PARTITIONS = 2
Place = tuple[Any, Any, Any]


def place(message: Any) -> Place:
    """Return the topic, partition and offset of a message."""
    return message.topic(), message.partition(), message.offset()


def key(message: Any) -> tuple[str, str]:
    """Return the kind and the id of a message's record."""
    return message.topic().rpartition(".")[2], message.key().decode()


class Instances(RuleBasedStateMachine):
    """Two or three instances of a consumer, and one product.

    how: the product's fields that differ from `tests.fakes.harness.PRODUCT`.
    """

    how: ClassVar[Mapping[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.home = TemporaryDirectory()
        self.bus = Bus(
            self.patch,
            partitions=PARTITIONS,
            home=Path(self.home.name),
            retry_first=0.1,
            retry_most=2,
        )
        self.lunch = FakeProduct()
        self.lunch.before = self.check_batch
        self.instances: list[Instance] = []
        self.busy: list[Instance] = []
        self.delivered_rows: set[Place] = set()
        self.first: dict[tuple[str, str], int] = {}
        self.wrong: list[str] = []
        self.when: dict[Place, int] = {}

    @initialize(number=st.integers(2, 3), fetch=st.integers(1, 6))
    def begin(self, number: int, fetch: int) -> None:
        self.bus.broker.fetch = fetch
        for _ in range(number):
            self.start()

    def start(self) -> None:
        self.instances.append(self.bus.worker(self.lunch, batch_records=6, **self.how).join())

    def teardown(self) -> None:
        try:
            if self.instances:
                self.drain()
                self.check_end()
        finally:
            for instance in self.instances:
                instance.kill()
            self.home.cleanup()
            self.patch.undo()

    # ---- steps -------------------------------------------------------------------------------

    def publish(self, kind: str, id_: str, **more: Any) -> None:
        message = self.bus.publish(kind, id_, **more)
        self.when[place(message)] = len(self.when)

    @rule(id_=STUDENTS, status=STATUS, become=FATES)
    def student(self, id_: str, status: str, become: Any) -> None:
        self.publish("student", id_, status=status, become=become)

    @rule(id_=CLASSES, status=STATUS, become=FATES)
    def class_(self, id_: str, status: str, become: Any) -> None:
        self.publish("class", id_, status=status, become=become)

    @rule(student=STUDENTS, class_=CLASSES, status=STATUS, become=FATES)
    def enrollment(self, student: str, class_: str, status: str, become: Any) -> None:
        fields = {"userSourcedId": student, "classSourcedId": class_, "status": status}
        self.publish("enrollment", f"{student}-{class_}", become=become, **fields)

    @rule(students=SEVERAL)
    def many(self, students: list[str]) -> None:
        for at, student in enumerate(students):
            self.publish("student", student)
            self.enrollment(student, f"c{at % 3}", "active", "")
            self.publish("class", f"c{at % 3}")

    @rule(turns=TURNS)
    def turn(self, turns: list[tuple[int, int]]) -> None:
        """Let instances take turns, and replace one that is killed."""
        for which, times in turns:
            instance = self.instances[which % len(self.instances)]
            if instance in self.busy:
                continue
            self.busy.append(instance)
            try:
                instance.turn(times)
            except Killed:
                self.replace(instance)
            finally:
                self.busy.remove(instance)

    def replace(self, instance: Instance) -> None:
        instance.kill()
        self.instances.remove(instance)
        self.start()

    @rule(which=st.integers(0, 2))
    def kill(self, which: int) -> None:
        self.replace(self.instances[which % len(self.instances)])

    @rule(owners=OWNERS, turns=TURNS)
    def rebalance(self, owners: list[int], turns: list[tuple[int, int]]) -> None:
        self.share(owners)
        self.turn(turns)

    def share(self, owners: list[int]) -> None:
        places = self.bus.every_place()
        self.bus.share(
            {
                p: self.instances[at % len(self.instances)]
                for p, at in zip(places, owners, strict=True)
            }
        )

    @rule(tries=st.integers(1, 6), students=SEVERAL, owners=OWNERS, turns=TURNS)
    def down(
        self, tries: int, students: list[str], owners: list[int], turns: list[tuple[int, int]]
    ) -> None:
        """Make the product fail for some tries, while partitions move and records change.

        The instances that then have the partitions deliver.
        """
        self.lunch.failures = [RetryLater("down", after=3) for _ in range(tries)]

        def act_between(batch: Batch) -> None:
            self.check_batch(batch)
            self.lunch.before = self.check_batch
            self.bus.clock.after(1, lambda: self.share(owners))
            self.bus.clock.after(2, lambda: self.many(students))
            self.bus.clock.after(2, lambda: self.turn([(0, 5), (1, 5), (2, 5)]))

        self.lunch.before = act_between
        self.many(students)
        self.turn(turns)

    @rule()
    def up(self) -> None:
        self.lunch.failures = []

    @rule(taken=st.booleans(), students=SEVERAL, turns=TURNS)
    def killed_in_the_delivery(
        self, taken: bool, students: list[str], turns: list[tuple[int, int]]
    ) -> None:
        """Kill the next instance that delivers, before or after the product has the batch."""
        if taken:
            self.lunch.aftermath = [Killed()]
        else:
            self.lunch.failures = [Killed()]
        self.many(students)
        self.turn(turns)

    @rule(number=st.integers(1, 2), students=SEVERAL, turns=TURNS)
    def commits_fail(self, number: int, students: list[str], turns: list[tuple[int, int]]) -> None:
        self.bus.broker.commits = [KafkaError.REBALANCE_IN_PROGRESS] * number
        self.many(students)
        self.turn(turns)

    @rule(number=st.integers(1, 2), id_=STUDENTS, turns=TURNS)
    def dead_letters_fail(self, number: int, id_: str, turns: list[tuple[int, int]]) -> None:
        self.bus.broker.unwritten = number
        self.student(id_, "active", "refused")
        self.turn(turns)

    @rule(seconds=st.sampled_from([0.5, 2, 40]))
    def time_passes(self, seconds: float) -> None:
        self.bus.clock.advance(seconds)

    # ---- laws --------------------------------------------------------------------------------

    def check_batch(self, batch: Batch) -> None:
        """Check a batch when the product gets it."""
        committed = self.bus.committed()
        dead = {dead_letter.place for dead_letter in self.bus.dead_letters}
        known = self.reached(dead)
        for part in batch.parts:
            for record, message in zip(part.records, part.messages, strict=True):
                at, id_ = message.offset() or 0, record["sourcedId"]
                if at < committed.get(self.bus.place(part.kind, message.partition() or 0), 0):
                    self.wrong.append(f"{part.kind} {id_} was delivered after its commit")
                if part.kind == "enrollment" and record["status"] == "active":
                    for kind, name in (("student", "userSourcedId"), ("class", "classSourcedId")):
                        if (kind, record[name]) not in known and self.carried(kind, message):
                            self.wrong.append(f"{id_} came before {kind} {record[name]}")
                self.check_order(part.kind, record, message)
                known.add((part.kind, id_))
        if not (self.lunch.failures or self.wrong):
            self.delivered_rows |= {
                place(m) for part in batch.parts for m in part.messages if not fate(m)
            }

    def carried(self, kind: str, message: Any) -> bool:
        """Return whether a record of the kind was published before this message.

        If there was none, no record waits for the kind.
        """
        return any(
            key(m)[0] == kind and self.when[place(m)] < self.when[place(message)]
            for m in self.bus.published
        )

    def check_order(self, kind: str, record: Any, message: Any) -> None:
        """Check that the records of one kind and student are first delivered in order."""
        owner = record["userSourcedId"] if kind == "enrollment" else record["sourcedId"]
        if self.lunch.failures or place(message) in self.delivered_rows or fate(message):
            return
        if message.offset() < self.first.get((kind, owner), 0):
            self.wrong.append(f"{kind} {record['sourcedId']} was overtaken")
        self.first[kind, owner] = message.offset()

    def reached(self, dead: set[str]) -> set[tuple[str, str]]:
        """Return the records that the product has had or that are dead letters."""
        return {
            key(message)
            for message in self.bus.published
            if place(message) in self.delivered_rows or "/".join(map(str, place(message))) in dead
        }

    @invariant()
    def nothing_is_committed_that_did_not_go(self) -> None:
        assert self.wrong == []
        dead = {dead_letter.place for dead_letter in self.bus.dead_letters}
        committed = self.bus.committed()
        for message in self.bus.published:
            topic, partition, offset = place(message)
            if offset < committed.get((topic, partition), 0):  # type: ignore[call-overload]
                delivered_or_dead = (
                    place(message) in self.delivered_rows or f"{topic}/{partition}/{offset}" in dead
                )
                assert delivered_or_dead, (
                    f"{topic}/{partition}/{offset} was committed, but is neither delivered nor a dead letter"
                )

    @invariant()
    def nothing_is_given_up_that_was_there(self) -> None:
        for dead_letter in self.bus.dead_letters:
            if dead_letter.kind != "enrollment" or " refers to " not in dead_letter.reason:
                continue
            lacks = dead_letter.reason.partition(" refers to ")[2].partition(",")[0].split()[-1]
            given_up = next(
                m for m in self.bus.published if "/".join(map(str, place(m))) == dead_letter.place
            )
            there = [
                m
                for m in self.bus.published
                if (m.key() or b"").decode() == lacks
                and self.when[place(m)] < self.when[place(given_up)]
            ]
            assert all(fate(m) for m in there), (
                f"{dead_letter.id} was given up although {lacks} was there"
            )

    # ---- the end -------------------------------------------------------------------------------

    def drain(self) -> None:
        """End all faults, and run until everything is delivered."""
        self.lunch.failures, self.lunch.aftermath = [], []
        self.lunch.before = self.check_batch
        self.bus.broker.commits, self.bus.broker.unwritten = [], 0
        for _ in range(400):
            self.turn([(which, 3) for which in range(len(self.instances))])
            if self.bus.committed() == self.bus.ends():
                return
        raise AssertionError(f"stuck at {self.bus.committed()} of {self.bus.ends()}")

    def check_end(self) -> None:
        self.nothing_is_committed_that_did_not_go()
        self.nothing_is_given_up_that_was_there()
        dead = {dead_letter.place for dead_letter in self.bus.dead_letters}
        assert all(dead_letter.reason for dead_letter in self.bus.dead_letters)
        latest: dict[tuple[str, str], Any] = {}
        for message in self.bus.published:
            if "/".join(map(str, place(message))) not in dead:
                latest[key(message)] = message
        had: dict[tuple[str, str], Place] = {}
        for message, kind, record in self.lunch.delivered_rows:
            had[kind, record["sourcedId"]] = place(message)
        assert had == {key: place(message) for key, message in latest.items()}


TestInstances = Instances.TestCase
TestInstances.settings = settings(
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class WithAnIndex(Instances):
    """The same laws for a product that declares equivalent enrollments.

    No two enrollments here are equivalent, so each record counts. The index is on disk: instances
    take over its files, and leave them behind when killed.

    When a batch has several states of one enrollment, the product gets only the last one.
    """

    how: ClassVar = {
        "siblings": {
            "enrollment": Equivalent(
                ("classSourcedId", "userSourcedId", "role"), last="endDate", first="beginDate"
            )
        }
    }

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        if self.lunch.failures or self.wrong:
            return
        last = {key(m): m.offset() for part in batch.parts for m in part.messages if not fate(m)}
        self.delivered_rows |= {
            place(m)
            for m in self.bus.published
            if key(m)[0] == "enrollment" and m.offset() < last.get(key(m), 0)
        }


TestWithAnIndex = WithAnIndex.TestCase
TestWithAnIndex.settings = settings(
    max_examples=10,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
