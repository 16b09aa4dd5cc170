"""Check that a fault has lost, duplicated or reordered nothing.

The checks compare the student information system (SIS), the topics and the products. They do not
depend on how the bus works.

* `Topics` is what a reader of committed data finds. `is_sound`: the history of each record is
  possible and repeats nothing. `is_the_sis`: the current state equals the extract of the SIS.
  `is_whole`: the topics have all events of a noted transaction, or none.
* `Has` is what a product has: its rosters, and for each person the delivered states in order.
  `is_the_sis`: as above. `follows`: each person's states came in topic order, each once.
  `is_not_behind`: the product has every event whose offset is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Consumer, TopicPartition

from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import headers_of
from bus.kafka.reader import scan
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard import KINDS
from consumers.webhook import DEFAULT_KINDS
from tests import canvas_model, sds_model
from tests.oneroster_truth import truth
from tests.webhook_receiver import Received

Place = tuple[str, int]
Rosters = set[tuple[str, str, str]]
PEOPLE = ("student", "staff", "guardian")
TOLD = dict.fromkeys(PEOPLE, ("givenName", "familyName"))
TOLD |= {"enrollment": ("classSourcedId", "userSourcedId", "role")}
GUARDIAN = "guardian-"
"""The prefix of guardian ids in the made-up district (`bus.demo.sample`)."""
GONE = "gone"
CANVAS_ROLES = {"student": "student", "teacher": "teacher", "ta": "aide"}


class Event(NamedTuple):
    """An event in a topic.

    change: created, updated or withdrawn.
    told:   the names of a person; class, person and role of an enrollment; empty for other kinds.
            `GONE` if the record is withdrawn.
    """

    id: str
    key: str
    kind: str
    change: str
    value: bytes
    told: str
    place: Place
    offset: int


@dataclass(slots=True)
class Topics:
    """The committed events in the topics of a prefix, in order within each partition."""

    events: list[Event] = field(default_factory=list)

    @classmethod
    def of(cls, settings: Settings) -> Topics:
        """Read all topics of the prefix."""
        found = cls()
        for kind in KINDS:
            decode = Decoder(kind, schema_lookup(settings)).decode
            for message in scan(settings, topics.topic(settings, kind)):
                headers = {name: (value or b"").decode() for name, value in headers_of(message)}
                record = decode(message.value())
                active = record["status"] == "active"
                told = " ".join(record[name] for name in TOLD.get(kind, ()))
                found.events.append(
                    Event(
                        id=headers["ce_id"],
                        key=(message.key() or b"").decode(),
                        kind=kind,
                        change=headers["ce_type"].rpartition(".")[2],
                        value=message.value() or b"",
                        told=told if active else GONE,
                        place=(message.topic() or "", message.partition() or 0),
                        offset=message.offset() or 0,
                    )
                )
        return found

    def stories(self) -> Mapping[tuple[str, str, int], list[Event]]:
        """Return the events of each record, by kind, id and partition.

        A record that moves to another owner has a history for each owner.
        """
        found: dict[tuple[str, str, int], list[Event]] = {}
        for event in self.events:
            found.setdefault((event.kind, event.key, event.place[1]), []).append(event)
        return found

    def people(self, kinds: Iterable[str] = PEOPLE) -> Mapping[str, list[Event]]:
        """Return the histories of the people of these kinds, by id."""
        return {key: story for (kind, key, _), story in self.stories().items() if kind in kinds}

    def is_sound(self) -> None:
        """Check that each record is created, then updated or withdrawn, and nothing repeats."""
        ids = [event.id for event in self.events]
        assert len(ids) == len(set(ids)), "one event twice"
        for name, story in self.stories().items():
            before: Event | None = None
            for event in story:
                stood = before is not None and before.change != "withdrawn"
                right = event.change == "created" if not stood else event.change != "created"
                assert right, f"{name}: {[one.change for one in story]}"
                same = stood and before is not None and before.value == event.value
                assert not same, f"{name}: told twice of the same"
                before = event

    def is_the_sis(self, extract: Path) -> None:
        """Check that the current state equals the extract."""
        wanted = {
            id_: f"{given} {family}" for id_, (given, family) in truth(extract).people.items()
        }
        assert _standing(self.people()) == wanted
        people = _standing(self.people()).keys()
        rosters = {
            event.told
            for (kind, *_), story in self.stories().items()
            if kind == "enrollment" and (event := story[-1]).told != GONE
        }
        found = {one for text in rosters if (one := tuple(text.split(" ")))[1] in people}
        assert found == truth(extract).rosters

    def is_whole(self, notes: Iterable[str]) -> tuple[int, int]:
        """Check that the topics have all events of each noted transaction, or none.

        Return how many transactions are there and how many are not.
        """
        there: dict[str, set[int]] = {}
        for event in self.events:
            run, _, number = event.id.partition("-")
            there.setdefault(run, set()).add(int(number))
        whole = none = 0
        for line in notes:
            if line.startswith("commit "):
                _, run, first, last = line.split()
                wanted = set(range(int(first), int(last) + 1))
                found = wanted & there.get(run, set())
                assert found in (set(), wanted), f"{line}: only {len(found)} of it are there"
                whole, none = whole + bool(found), none + (not found)
                there.get(run, set()).difference_update(wanted)
        assert not any(there.values()), "there is what was in no transaction"
        return whole, none


def _standing(people: Mapping[str, Sequence[Event]]) -> dict[str, str]:
    return {key: story[-1].told for key, story in people.items() if story[-1].told != GONE}


class Has(NamedTuple):
    """What a product has.

    rosters: class, person and role, in the words of the SIS.
    told:    for each person the delivered states, oldest first.
    ids:     for each kind the ids of the delivered events, where the product knows them.
    kinds:   the kinds of people that are delivered to it.
    """

    rosters: Rosters
    told: Mapping[str, Sequence[str]]
    ids: Mapping[str, set[str]] = {}
    kinds: Sequence[str] = PEOPLE[:2]

    def is_the_sis(self, extract: Path) -> None:
        """Check that the product has what the SIS has; of guardians, only those a student names."""
        wanted = truth(extract)
        assert self.rosters == wanted.rosters
        standing = {key: told[-1] for key, told in self.told.items() if told[-1] != GONE}
        assert standing == {
            id_: f"{given} {family}"
            for id_, (given, family) in wanted.people.items()
            if not id_.startswith(GUARDIAN) or ("guardian" in self.kinds and id_ in wanted.agents)
        }

    def follows(self, published: Topics) -> None:
        """Check that each person's states came in order, each once, up to the current one.

        Several changes to a person within one batch may come as one.
        """
        people = published.people(self.kinds)
        assert self.told.keys() <= people.keys()
        for key, story in people.items():
            rest = iter([event.told for event in story])
            came = self.told.get(key, ())
            assert all(one in rest for one in came), f"{key}: {came} of {story}"
            # A person who is created and withdrawn within one batch may not be delivered at all.
            assert (came[-1] if came else GONE) == story[-1].told, f"{key}: {came} of {story}"

    def is_not_behind(self, published: Topics, committed: Mapping[Place, int]) -> None:
        """Check that the product has everything that is committed.

        For each person it has the last committed state or a later one. Where it knows the ids of
        events, it has each committed id.
        """
        for event in published.events:
            if event.kind in self.ids and event.offset < committed.get(event.place, 0):
                assert event.id in self.ids[event.kind], f"{event.id}: committed, not delivered"
        for key, story in published.people(self.kinds).items():
            done = [event for event in story if event.offset < committed.get(event.place, 0)]
            if done:
                later = {event.told for event in story[len(done) - 1 :]}
                told = self.told.get(key, ())
                last = told[-1] if told else GONE
                if key.startswith(GUARDIAN) and last == GONE:
                    continue  # the students who name this guardian may have left
                assert last in later, f"{key}: has {last}, committed {later}"


def canvas(folder: Path) -> Has:
    """Return what Canvas makes of the zips in a folder."""
    state = canvas_model.apply([])
    told: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.zip")):
        before = dict(state["users.csv"])
        canvas_model.apply([path], state)
        for (user,), row in state["users.csv"].items():
            if row is not before.get((user,)):
                gone = row["status"] != "active"
                names = f"{row['first_name']} {row['last_name']}"
                told.setdefault(user, []).append(GONE if gone else names)
    roster = {(c, u, CANVAS_ROLES[role]) for c, u, role in canvas_model.rosters(state)}
    return Has(roster, told)


def sds(folder: Path) -> Has:
    """Return what School Data Sync reads from the set in a folder; it keeps no history."""
    state = sds_model.load(folder)
    roster = sds_model.rosters(state)
    told = {i: [f"{r['givenName']} {r['familyName']}"] for (i,), r in state["users.csv"].items()}
    return Has(roster, told, kinds=PEOPLE)


def webhook(events: Iterable[Received]) -> Has:
    """Return what a vendor has that takes each id once and keeps the latest state of a record."""
    first = {event.id: event for event in reversed([*events])}
    told: dict[str, list[str]] = {}
    ids: dict[str, set[str]] = {kind: set() for kind in DEFAULT_KINDS}
    enrolled: dict[str, dict[str, str]] = {}
    for event in sorted(first.values(), key=lambda event: event.at):
        data, kind = event.data, event.event["type"].partition(".")[0]
        gone = data["status"] != "active"
        ids[kind].add(event.id)
        if kind in PEOPLE:
            names = f"{data['givenName']} {data['familyName']}"
            told.setdefault(data["sourcedId"], []).append(GONE if gone else names)
        elif kind == "enrollment":
            enrolled[data["sourcedId"]] = data
    return Has(
        {
            (one["classSourcedId"], one["userSourcedId"], one["role"])
            for one in enrolled.values()
            if one["status"] == "active" and told.get(one["userSourcedId"], [GONE])[-1] != GONE
        },
        told,
        ids,
    )


def committed(settings: Settings, product: str) -> dict[Place, int]:
    """Return the offsets that a product's consumer group has committed."""
    config = client_settings(settings) | {"group.id": f"{settings.topic_prefix}.{product}"}
    consumer = Consumer(config)
    try:
        there = consumer.list_topics(timeout=30).topics
        places = [
            TopicPartition(name, number)
            for kind in KINDS
            if (name := topics.topic(settings, kind)) in there
            for number in there[name].partitions
        ]
        found = consumer.committed(places, timeout=30)
    finally:
        consumer.close()
    return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}


def dead_letters(settings: Settings, product: str) -> int:
    """Count the dead letters of a product.

    Check that each has a reason, and that its bytes equal the message at the place it names.
    """
    number = 0
    for message in scan(settings, topics.deadletters(settings, product)):
        headers = dict(headers_of(message))
        if "dl_state" in headers:  # an operator's action on a dead letter
            continue
        assert headers.get("dl_reason"), "a dead letter without a reason"
        topic, partition, offset = (headers["dl_place"] or b"").decode().split("/")
        at = {int(partition): int(offset)}
        to = {int(partition): int(offset) + 1}
        (original,) = scan(settings, topic, start=at, stop=to)
        assert original.value() == message.value(), "a dead letter that is not as it came"
        number += 1
    return number


def notes(path: Path) -> Iterator[str]:
    """Yield the lines that processes have noted."""
    yield from path.read_text().splitlines() if path.exists() else ()
