"""Says whether a fault has cost anything: it knows what the student information system has, what is
in the topics and what the product has in the end, and nothing of how the bus works.

* `Topics` is what a reader of committed data finds. `is_sound`: every record's story could have
  happened, and none of it is told twice. `is_the_sis`: it ends where the system's extract does.
  `is_whole`: of each transaction that was noted all is there, or nothing.
* A product `Has` people, each with what it was told of them, in order. `is_the_sis`: as above.
  `follows`: it was told each person's story in the topics' order and nothing twice.
  `is_not_behind`: no offset is committed of which the product does not have the event.
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
"""So their ids begin in the made-up district (`bus.demo.sample`)."""
GONE = "gone"
CANVAS_ROLES = {"student": "student", "teacher": "teacher", "ta": "aide"}


class Event(NamedTuple):
    """An event in a topic. change: created, updated, withdrawn. told: of a person the names, of an
    enrollment class, person and role, else ""; or `GONE`."""

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
    """What is in the topics of a prefix and committed, in order within each partition."""

    events: list[Event] = field(default_factory=list)

    @classmethod
    def of(cls, settings: Settings) -> Topics:
        """Read them all."""
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
        """The events of each record, by kind, id and partition; a record that goes to another owner
        has a story with each."""
        found: dict[tuple[str, str, int], list[Event]] = {}
        for event in self.events:
            found.setdefault((event.kind, event.key, event.place[1]), []).append(event)
        return found

    def people(self, kinds: Iterable[str] = PEOPLE) -> Mapping[str, list[Event]]:
        """The stories of people of these kinds, by id."""
        return {key: story for (kind, key, _), story in self.stories().items() if kind in kinds}

    def is_sound(self) -> None:
        """Nothing is there twice: created before it stands, changed while it does."""
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
        """They end with what the system has."""
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
        """Of each transaction in the producers' notes all is there, or nothing; how many are there
        and how many are not."""
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
    """What a product has: rosters (class, person, role as the system says it); for each person what
    it was told of them, oldest first; of each kind that it is told of the events' ids, where it
    knows them; the kinds of people that it is told of."""

    rosters: Rosters
    told: Mapping[str, Sequence[str]]
    ids: Mapping[str, set[str]] = {}
    kinds: Sequence[str] = PEOPLE[:2]

    def is_the_sis(self, extract: Path) -> None:
        """It is what the system has; of guardians those whom a student names."""
        wanted = truth(extract)
        assert self.rosters == wanted.rosters
        standing = {key: told[-1] for key, told in self.told.items() if told[-1] != GONE}
        assert standing == {
            id_: f"{given} {family}"
            for id_, (given, family) in wanted.people.items()
            if not id_.startswith(GUARDIAN) or ("guardian" in self.kinds and id_ in wanted.agents)
        }

    def follows(self, published: Topics) -> None:
        """Each person's story came in its order, nothing of it twice, to its end. What happened to
        a person within one batch may have come as one."""
        people = published.people(self.kinds)
        assert self.told.keys() <= people.keys()
        for key, story in people.items():
            rest = iter([event.told for event in story])
            came = self.told.get(key, ())
            assert all(one in rest for one in came), f"{key}: {came} of {story}"
            # Who came and went in one batch need not have been told of at all.
            assert (came[-1] if came else GONE) == story[-1].told, f"{key}: {came} of {story}"

    def is_not_behind(self, published: Topics, committed: Mapping[Place, int]) -> None:
        """The product has at least all that is committed: of each person the last such event, or a
        later one; and of each event the id, where it knows them."""
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
                    continue  # the students who name a guardian may have left
                assert last in later, f"{key}: has {last}, committed {later}"


def canvas(folder: Path) -> Has:
    """What Canvas makes of the zips in a folder."""
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
    """What School Data Sync reads from the set in a folder; it has no history."""
    state = sds_model.load(folder)
    roster = sds_model.rosters(state)
    told = {i: [f"{r['givenName']} {r['familyName']}"] for (i,), r in state["users.csv"].items()}
    return Has(roster, told, kinds=PEOPLE)


def webhook(events: Iterable[Received]) -> Has:
    """What a vendor has who takes each id once, and for each record the latest."""
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
    """The offsets that a product's group has committed."""
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
    """How many there are; each has a reason, and what it is of lies where it says."""
    number = 0
    for message in scan(settings, topics.deadletters(settings, product)):
        headers = dict(headers_of(message))
        if "dl_state" in headers:  # what somebody did with one
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
    """The lines that processes have noted."""
    yield from path.read_text().splitlines() if path.exists() else ()
