"""A common shard and one shard of students, with a Kafka that is a dict."""

from __future__ import annotations

import pickle
from datetime import datetime
from typing import Any, ClassVar
from unittest.mock import MagicMock

from bus.delivery import Position
from bus.settings import KafkaSettings, Settings, VendorsSettings
from bus.standard.kinds import Record
from bus.vendors.asking import Asking
from bus.vendors.district_view import DistrictView, student_of
from bus.vendors.outbox import Outbox
from bus.vendors.record_rules import Change
from bus.vendors.shard import Shard
from bus.vendors.shard_streams import CommonStreams, StudentStreams
from bus.vendors.shard_talk import CommonTalk
from bus.vendors.shard_words import (
    GivenUp,
    Round,
    ShardFile,
    Word,
    disclosed,
)
from tests.unit.test_vendor_outbox import NoKafka
from tests.unit.test_vendor_projection import DAY, SOME, agreement, record
from tests.without_services import applied

LOG: dict[str, list[tuple[str, Record | None]]] = {}
"""What Kafka got for the vendor: for each topic, the keys and the records, in order.

Each topic has one partition.
"""
LOW: dict[str, int] = {}
"""The first offset of each topic that was not deleted."""


class OneKafka(NoKafka):
    """All producers write to the same topics."""

    def produce(self, topic: str, value: Any, key: str, partition: int, **more: Any) -> None:
        LOG.setdefault(topic, []).append((key, pickle.loads(value) if value else None))


def ends(_: object, names: Any) -> dict[Position, int]:
    return {Position(name, 0): len(LOG.get(name, ())) for name in names}


def not_written_again(_: object, old: Any) -> list[tuple[Position, bytes]]:
    found = []
    for place, end in old.items():
        keys = [key for key, _ in LOG.get(place.topic, ())]
        before = keys[LOW.get(place.topic, 0) : end]
        found += [(place, key.encode()) for key in dict.fromkeys(before) if key not in keys[end:]]
    return found


def delete(_: object, old: Any) -> None:
    for place, end in old.items():
        LOW[place.topic] = max(end, LOW.get(place.topic, 0))


class Words:
    """What the common shard has said, for a shard of students."""

    def __init__(self) -> None:
        self.rounds: dict[str, Round] = {}

    def round(self, name: str) -> Round | None:
        return self.rounds.get(name)


class Talk:
    """What shards of students have said and the common shard has not heard."""

    said: ClassVar[list[tuple[int, Word]]] = []

    def __init__(self, number: int) -> None:
        self.rounds: dict[str, int] = {}
        self._number = number

    def entered(self, name: str, students: Any, at: datetime) -> None:
        self.say(list(disclosed(name, self.rounds.get(name, 0), students, at, entered=True)))

    def left(self, name: str, students: Any, at: datetime) -> None:
        self.say(list(disclosed(name, self.rounds.get(name, 0), students, at, entered=False)))

    def say(self, words: Any) -> None:
        self.said += [(self._number, word) for word in words]

    ask = say

    def asked(self) -> int:
        return 0

    def wait(self, _: int) -> None:
        """The test lets the common shard hear."""


SETTINGS = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"), vendors=VendorsSettings(shards=2))


def new_view() -> DistrictView:
    return DistrictView(None, "test", lambda _, value: pickle.loads(value))


class OneShard:
    """A shard, with its file."""

    def __init__(self, number: int, view: DistrictView | None = None) -> None:
        self.shard = Shard(number, 1)
        self.view = view or new_view()

    def store(self, changes: list[Change]) -> list[Change]:
        found = []
        for one in changes:
            if not self.shard.reads(one.kind, 0):
                continue
            states = [
                state
                if state is not None and self.shard.keeps(student_of(one.kind, state), one.kind)
                else None
                for state in (one.before, one.after)
            ]
            if states[0] != states[1]:
                found.append(Change(one.kind, one.id, *states))
        self.view.store(
            (one.kind, one.id, one.after, pickle.dumps(one.after) if one.after else None)
            for one in found
        )
        return found

    def change(self, changes: list[Change], *, send: bool = True) -> None:
        with self.streams.batch():
            self.streams.take(self.store(changes), DAY)
        if send:
            self.streams.begin_sending()
            self.streams.confirm()


class Students(OneShard):
    streams: StudentStreams

    def __init__(self, view: DistrictView | None = None) -> None:
        super().__init__(1, view)
        self.words = Words()
        self.start()

    def start(self) -> None:
        self.talk = Talk(1)
        self.outbox = Outbox(SETTINGS, self.view, self.talk, Asking(self.view.con, self.talk))
        args: Any = (SETTINGS, self.view, self.outbox, MagicMock(), 1, lambda: 0.0, self.shard)
        self.streams = StudentStreams(*args)
        words: Any = self.words
        talk: Any = self.talk
        talk.say([ShardFile(self.view.id)])
        self.streams.listen(words, talk)

    def repeat(self, given_up: set[tuple[str, str]]) -> None:
        """Send the records again that another shard gave up (`StudentWork._go_on`)."""
        if given_up:
            with self.streams.batch():
                self.streams.send_again(given_up)
            self.streams.begin_sending()
            self.streams.confirm()


class Common(OneShard):
    streams: CommonStreams

    def __init__(self, said: list[Word], view: DistrictView | None = None) -> None:
        super().__init__(0, view)
        self.said = said
        self.start()

    def start(self) -> None:
        record = MagicMock(**{"students.return_value": {}})
        sender: Any = MagicMock()
        sender.say = self.said.extend
        asking = Asking(self.view.con, CommonTalk(sender), waits=False)
        self.outbox = Outbox(SETTINGS, self.view, record, asking)
        args: Any = (SETTINGS, self.view, self.outbox, record, 1, lambda: 0.0, self.shard)
        self.streams = CommonStreams(*args)
        self.streams.lead(sender, 1, list(self.said))

    def hear(self) -> list[Word]:
        """Hear the words, send what follows, and lead on. Returns what was heard."""
        words, Talk.said[:] = list(Talk.said), []
        HEARD.extend(words)
        with self.streams.batch():
            self.streams.heard(words)
        self.streams.begin_sending()
        self.streams.confirm()
        self.streams.advance()
        return [word for _, word in words]


HEARD: list[tuple[int, Word]] = []
"""All words of shards of students that a common shard has heard."""
SAID: list[Word] = []
"""Partition 0 of the topic of words."""


class Two:
    """A common shard and one shard of students."""

    def __init__(self, **deal: Any) -> None:
        LOG.clear()
        LOW.clear()
        HEARD.clear()
        SAID.clear()
        Talk.said.clear()
        self.records: dict[tuple[str, str], Record] = {}
        self.applied = {"math": applied(agreement(**deal))}
        self.common, self.students = Common(SAID), Students()
        self.change(*((kind, id_, record(kind, id_, **values)) for kind, id_, values in SOME))
        self.common.streams.follow(self.applied, DAY, new=True)
        self.settle()

    def changes(self, *rows: tuple[str, str, Record | None]) -> list[Change]:
        found = []
        for kind, id_, after in rows:
            found.append(Change(kind, id_, self.records.get((kind, id_)), after))
            self.records.pop((kind, id_), None)
            if after is not None:
                self.records[kind, id_] = after
        return found

    def change(self, *rows: tuple[str, str, Record | None]) -> None:
        changes = self.changes(*rows)
        self.common.change(changes)
        self.students.change(changes)

    def listen(self) -> None:
        """The shard of students follows the last words of the common shard."""
        for one in SAID:
            before = self.students.words.rounds.get(getattr(one, "agreement", ""))
            if isinstance(one, Round) and (before is None or one.number >= before.number):
                self.students.words.rounds[one.agreement] = one
        self.students.streams.follow(self.applied, DAY, new=True)
        self.students.streams.begin_sending()
        self.students.repeat({(one.kind, one.id) for one in SAID if isinstance(one, GivenUp)})

    def settle(self) -> None:
        for _ in range(10):
            self.common.hear()
            self.listen()
            if self.students.streams.busy:
                self.students.streams.go_on(DAY)
            self.students.streams.confirm()
            self.students.streams.tell()
        self.common.hear()

    @property
    def has(self) -> dict[tuple[str, str], Record]:
        """What the vendor has, by kind and id."""
        last = {
            (topic.rpartition(".")[2], key): value
            for topic, some in LOG.items()
            for key, value in some[LOW.get(topic, 0) :]
        }
        return {key: value for key, value in last.items() if value is not None}
