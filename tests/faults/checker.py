"""Check that a fault has lost, duplicated or reordered nothing.

The checks compare the student information system (SIS), the topics and the products. They do not
depend on how the bus works.

* `Topics` is what a reader of committed data finds. `has_valid_histories`: the history of each
  record is possible and repeats nothing. `equals_sis`: the current state equals the extract of the
  SIS. `has_whole_transactions`: the topics have all events of a logged transaction, or none.
* `ProductState` is what a product has: its rosters, and for each person the delivered states in
  order. `equals_sis`: as above. `has_states_in_order`: the product received each person's states
  in the order of the topics, each once. `has_all_committed`: the product has every event whose
  offset is committed.
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
STATE_FIELDS = dict.fromkeys(PEOPLE, ("givenName", "familyName"))
STATE_FIELDS |= {"enrollment": ("classSourcedId", "userSourcedId", "role")}
GUARDIAN = "guardian-"
"""The prefix of guardian ids in the made-up district (`bus.demo.sample`)."""
WITHDRAWN = "withdrawn"
CANVAS_ROLES = {"student": "student", "teacher": "teacher", "ta": "aide"}


class Event(NamedTuple):
    """An event in a topic.

    change: created, updated or withdrawn.
    state:  the names of a person; class, person and role of an enrollment; empty for other kinds.
            `WITHDRAWN` if the record is withdrawn.
    """

    id: str
    key: str
    kind: str
    change: str
    value: bytes
    state: str
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
                state = " ".join(record[name] for name in STATE_FIELDS.get(kind, ()))
                found.events.append(
                    Event(
                        id=headers["ce_id"],
                        key=(message.key() or b"").decode(),
                        kind=kind,
                        change=headers["ce_type"].rpartition(".")[2],
                        value=message.value() or b"",
                        state=state if active else WITHDRAWN,
                        place=(message.topic() or "", message.partition() or 0),
                        offset=message.offset() or 0,
                    )
                )
        return found

    def histories(self) -> Mapping[tuple[str, str, int], list[Event]]:
        """Return the events of each record, by kind, id and partition.

        A record that moves to another owner has a history for each owner.
        """
        found: dict[tuple[str, str, int], list[Event]] = {}
        for event in self.events:
            found.setdefault((event.kind, event.key, event.place[1]), []).append(event)
        return found

    def people(self, kinds: Iterable[str] = PEOPLE) -> Mapping[str, list[Event]]:
        """Return the histories of the people of these kinds, by id."""
        return {
            key: history for (kind, key, _), history in self.histories().items() if kind in kinds
        }

    def has_valid_histories(self) -> None:
        """Check that each record is created, then updated or withdrawn, and nothing repeats."""
        ids = [event.id for event in self.events]
        assert len(ids) == len(set(ids)), "one event twice"
        for name, history in self.histories().items():
            before: Event | None = None
            for event in history:
                was_active = before is not None and before.change != "withdrawn"
                right = event.change == "created" if not was_active else event.change != "created"
                assert right, f"{name}: {[one.change for one in history]}"
                same = was_active and before is not None and before.value == event.value
                assert not same, f"{name}: the same state twice in a row"
                before = event

    def equals_sis(self, extract: Path) -> None:
        """Check that the current state equals the extract."""
        wanted = {
            id_: f"{given} {family}" for id_, (given, family) in truth(extract).people.items()
        }
        assert _current(self.people()) == wanted
        people = _current(self.people()).keys()
        rosters = {
            event.state
            for (kind, *_), history in self.histories().items()
            if kind == "enrollment" and (event := history[-1]).state != WITHDRAWN
        }
        found = {one for text in rosters if (one := tuple(text.split(" ")))[1] in people}
        assert found == truth(extract).rosters

    def has_whole_transactions(self, log_lines: Iterable[str]) -> tuple[int, int]:
        """Check that the topics have all events of each logged transaction, or none.

        Return how many transactions are in the topics and how many are not.
        """
        present: dict[str, set[int]] = {}
        for event in self.events:
            run, _, number = event.id.partition("-")
            present.setdefault(run, set()).add(int(number))
        complete = none = 0
        for line in log_lines:
            if line.startswith("commit "):
                _, run, first, last = line.split()
                wanted = set(range(int(first), int(last) + 1))
                found = wanted & present.get(run, set())
                assert found in (set(), wanted), (
                    f"{line}: only {len(found)} of its events are in the topics"
                )
                complete, none = complete + bool(found), none + (not found)
                present.get(run, set()).difference_update(wanted)
        assert not any(present.values()), "events outside of all logged transactions"
        return complete, none


def _current(people: Mapping[str, Sequence[Event]]) -> dict[str, str]:
    return {
        key: history[-1].state for key, history in people.items() if history[-1].state != WITHDRAWN
    }


class ProductState(NamedTuple):
    """What a product has.

    rosters: class, person and role, in the words of the SIS.
    states:  for each person the delivered states, oldest first.
    ids:     for each kind the ids of the delivered events, where the product knows them.
    kinds:   the kinds of people that are delivered to it.
    """

    rosters: Rosters
    states: Mapping[str, Sequence[str]]
    ids: Mapping[str, set[str]] = {}
    kinds: Sequence[str] = PEOPLE[:2]

    def equals_sis(self, extract: Path) -> None:
        """Check that the product has what the SIS has; of guardians, only those a student names."""
        wanted = truth(extract)
        assert self.rosters == wanted.rosters
        current = {
            key: history[-1] for key, history in self.states.items() if history[-1] != WITHDRAWN
        }
        assert current == {
            id_: f"{given} {family}"
            for id_, (given, family) in wanted.people.items()
            if not id_.startswith(GUARDIAN) or ("guardian" in self.kinds and id_ in wanted.agents)
        }

    def has_states_in_order(self, published: Topics) -> None:
        """Check that each person's states arrived in order, each once, up to the current one.

        A product may receive several changes to a person within one batch as one.
        """
        people = published.people(self.kinds)
        assert self.states.keys() <= people.keys()
        for key, history in people.items():
            rest = iter([event.state for event in history])
            received = self.states.get(key, ())
            assert all(one in rest for one in received), f"{key}: {received} of {history}"
            # A person who is created and withdrawn within one batch may not be delivered at all.
            assert (received[-1] if received else WITHDRAWN) == history[-1].state, (
                f"{key}: {received} of {history}"
            )

    def has_all_committed(self, published: Topics, committed: Mapping[Place, int]) -> None:
        """Check that the product has everything that is committed.

        For each person it has the last committed state or a later one. Where it knows the ids of
        events, it has each committed id.
        """
        for event in published.events:
            if event.kind in self.ids and event.offset < committed.get(event.place, 0):
                assert event.id in self.ids[event.kind], f"{event.id}: committed, not delivered"
        for key, history in published.people(self.kinds).items():
            done = [event for event in history if event.offset < committed.get(event.place, 0)]
            if done:
                later = {event.state for event in history[len(done) - 1 :]}
                delivered = self.states.get(key, ())
                last = delivered[-1] if delivered else WITHDRAWN
                if key.startswith(GUARDIAN) and last == WITHDRAWN:
                    continue  # the students who name this guardian may have left
                assert last in later, f"{key}: has {last}, committed {later}"


def canvas(folder: Path) -> ProductState:
    """Return what Canvas makes of the zips in a folder."""
    state = canvas_model.apply([])
    states: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.zip")):
        before = dict(state["users.csv"])
        canvas_model.apply([path], state)
        for (user,), row in state["users.csv"].items():
            if row is not before.get((user,)):
                withdrawn = row["status"] != "active"
                names = f"{row['first_name']} {row['last_name']}"
                states.setdefault(user, []).append(WITHDRAWN if withdrawn else names)
    roster = {(c, u, CANVAS_ROLES[role]) for c, u, role in canvas_model.rosters(state)}
    return ProductState(roster, states)


def sds(folder: Path) -> ProductState:
    """Return what School Data Sync reads from the set in a folder; it keeps no history."""
    state = sds_model.load(folder)
    roster = sds_model.rosters(state)
    states = {i: [f"{r['givenName']} {r['familyName']}"] for (i,), r in state["users.csv"].items()}
    return ProductState(roster, states, kinds=PEOPLE)


def webhook(events: Iterable[Received]) -> ProductState:
    """Return what a vendor has that takes each id once and keeps the latest state of a record."""
    first = {event.id: event for event in reversed([*events])}
    states: dict[str, list[str]] = {}
    ids: dict[str, set[str]] = {kind: set() for kind in DEFAULT_KINDS}
    enrolled: dict[str, dict[str, str]] = {}
    for event in sorted(first.values(), key=lambda event: event.at):
        data, kind = event.data, event.event["type"].partition(".")[0]
        withdrawn = data["status"] != "active"
        ids[kind].add(event.id)
        if kind in PEOPLE:
            names = f"{data['givenName']} {data['familyName']}"
            states.setdefault(data["sourcedId"], []).append(WITHDRAWN if withdrawn else names)
        elif kind == "enrollment":
            enrolled[data["sourcedId"]] = data
    return ProductState(
        {
            (one["classSourcedId"], one["userSourcedId"], one["role"])
            for one in enrolled.values()
            if one["status"] == "active"
            and states.get(one["userSourcedId"], [WITHDRAWN])[-1] != WITHDRAWN
        },
        states,
        ids,
    )


def committed(settings: Settings, product: str) -> dict[Place, int]:
    """Return the offsets that a product's consumer group has committed."""
    config = client_settings(settings) | {"group.id": f"{settings.topic_prefix}.{product}"}
    consumer = Consumer(config)
    try:
        present = consumer.list_topics(timeout=30).topics
        places = [
            TopicPartition(name, number)
            for kind in KINDS
            if (name := topics.topic(settings, kind)) in present
            for number in present[name].partitions
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
        assert original.value() == message.value(), "a dead letter that differs from its message"
        number += 1
    return number


def log_lines(path: Path) -> Iterator[str]:
    """Yield the lines of the log of the processes."""
    yield from path.read_text().splitlines() if path.exists() else ()
