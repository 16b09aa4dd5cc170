"""Who replays what, when and why, and how far it is: the topic `PREFIX.replays`.

Compacted, with three keys for each replay, whose values are JSON: `ID/about`, written once when it
begins; `ID/state`, by the process that runs it, after each batch; `ID/wish`, by whoever wants it to
pause, to go on or to end. A replay's own progress is here and nowhere else: it is in no consumer
group, so no group's offsets move.

A process that runs a replay reads the topic once, and then only what is new in it.
"""

from __future__ import annotations

import getpass
import json
import secrets
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from confluent_kafka import KafkaException, Producer

from bus.delivery import Position
from bus.errors import RetryLater, Stop
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import now
from bus.kafka.kafka_errors import explained
from bus.kafka.reader import Reader, scan
from bus.kafka.sender import send
from bus.kafka.transactions import fence
from bus.replay.window import Window
from bus.settings import Settings

Status = Literal["running", "paused", "cancelled", "done", "failed"]
Wish = Literal["run", "pause", "cancel"]
SECONDS = 30.0
ABORT_SECONDS = 5.0
LOOK_SECONDS = 5.0
"""How long Kafka may take to say what is new in the topic."""
FENCED = "another process runs this replay now; this one has ended"
UNREAD = "could not read what is wished of the replay: Kafka says {}; try again when it is up"


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What a replay is.

    since, until, entities, schools, students, only_current, rate, into: as the options say.
    records: single records by kind, of a repair.
    by, at, why: who started it (user@machine), when (UTC), and the reason that was given.
    start, stop: the window, as `topic/partition` and offset.
    """

    id: str
    product: str
    since: str
    until: str
    entities: tuple[str, ...] = ()
    schools: tuple[str, ...] = ()
    students: tuple[str, ...] = ()
    records: Mapping[str, Sequence[str]] = field(default_factory=dict)
    only_current: bool = False
    rate: float = 0.0
    into: str = ""
    why: str = ""
    by: str = ""
    at: str = ""
    start: Mapping[str, int] = field(default_factory=dict)
    stop: Mapping[str, int] = field(default_factory=dict)

    @property
    def window(self) -> Window:
        """The window."""
        return Window(_places(self.start), _places(self.stop))


@dataclass(frozen=True, slots=True)
class ReplayState:
    """How far a replay is.

    done:      for each partition (`topic/partition`) up to where it was replayed.
    delivered: records delivered, by kind. passed: those read and not delivered. left_out: those
               that could not be decoded or translated, or that the product refused.
    seconds:   for how long it has run, over all its processes.
    """

    status: Status = "running"
    done: Mapping[str, int] = field(default_factory=dict)
    delivered: Mapping[str, int] = field(default_factory=dict)
    passed: int = 0
    left_out: int = 0
    seconds: float = 0.0
    at: str = ""
    error: str = ""

    @property
    def reached(self) -> dict[Position, int]:
        """`done` by partition."""
        return _places(self.done)

    def plus(
        self,
        done: Mapping[Position, int],
        delivered: Mapping[str, int],
        passed: int,
        left_out: int,
        seconds: float,
    ) -> ReplayState:
        """This and one more batch."""
        return replace(
            self,
            done={**self.done, **keyed(done)},
            delivered=dict(Counter(self.delivered) + Counter(delivered)),
            passed=self.passed + passed,
            left_out=self.left_out + left_out,
            seconds=round(self.seconds + seconds, 3),
        )


@dataclass(frozen=True, slots=True)
class ReplayEntry:
    """A replay, as the topic has it."""

    about: ReplayRequest
    state: ReplayState
    wish: Wish = "run"

    @property
    def status(self) -> Status:
        """What it is; one that is to end has ended, whoever was running it."""
        over = self.state.status in ("done", "cancelled")
        return self.state.status if over or self.wish != "cancel" else "cancelled"

    @property
    def share(self) -> float:
        """How much of the window is done, 0 to 1."""
        whole = self.about.window
        return 1 - len(whole.after(self.state.reached)) / len(whole) if len(whole) else 1.0


def new_id(product: str) -> str:
    """A name for a replay: the product, the time in UTC, and four random digits."""
    return f"{product}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def user_at_machine() -> str:
    """Who runs this process: user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def entries(settings: Settings) -> dict[str, ReplayEntry]:
    """All replays, oldest first. Raises `RetryLater` when Kafka does not answer."""
    parts: dict[str, dict[str, Any]] = {}
    for message in scan(settings, topics.replays(settings)):
        id_, _, what = (message.key() or b"").decode().rpartition("/")
        parts.setdefault(id_, {})[what] = json.loads(message.value() or b"{}")
    found = {}
    for id_, part in parts.items():
        if "about" in part:
            about = part["about"]
            for name in ("entities", "schools", "students"):
                about[name] = tuple(about[name])
            found[id_] = ReplayEntry(
                ReplayRequest(**about),
                ReplayState(**part.get("state", {})),
                part.get("wish", {}).get("to", "run"),
            )
    return dict(sorted(found.items(), key=lambda item: item[1].about.at))


def entry(settings: Settings, id_: str) -> ReplayEntry:
    """A replay; raises `Stop` when there is none of this name."""
    found = entries(settings)
    if id_ not in found:
        raise Stop(f"there is no replay {id_}; `bus replay list` names them")
    return found[id_]


def wish(settings: Settings, id_: str, to: Wish) -> None:
    """Ask whoever runs a replay to pause, go on or end; it does so after the batch in hand."""
    value = {"to": to, "by": user_at_machine(), "at": now()}
    send(
        settings,
        topics.replays(settings),
        json.dumps(value).encode(),
        f"{id_}/wish".encode(),
        doing=f"ask the replay to {to}",
        seconds=SECONDS,
    )


class ReplayLog:
    """The log of one replay, for the process that runs it. Only one process can write: an earlier
    one's next write fails. Not for several threads."""

    def __init__(self, settings: Settings, id_: str) -> None:
        topics.ensure(settings, [topics.replays(settings)])
        self._settings = settings
        self._id = id_
        self._topic = topics.replays(settings)
        self._tail = _Tail(settings, id_)
        self._start()
        # What may be the last state there as long as no other process writes.
        self._written = {self._tail.read().get("state")}

    def close(self) -> None:
        """Let go of the client that reads."""
        self._tail.close()

    def begin(self, about: ReplayRequest) -> None:
        """Note what it is."""
        self._write("about", json.dumps(asdict(about)).encode())

    def note(self, state: ReplayState) -> None:
        """Note how far it is. It may be called again after `RetryLater`."""
        value = json.dumps(asdict(replace(state, at=now()))).encode()
        self._written.add(value)
        self._write("state", value)
        self._written = {value}

    def wish(self) -> Wish:
        """What is wished of it by now; raises `RetryLater` when Kafka does not answer."""
        found: Wish = json.loads(self._tail.read().get("wish", b"{}")).get("to", "run")
        return found

    def _start(self) -> None:
        """A producer that no earlier one of this replay can write beside."""
        self._doubt = False
        self._producer = Producer(
            client_settings(self._settings)
            | {"transactional.id": f"{self._settings.topic_prefix}.replay.{self._id}"}
        )
        with _explained():
            try:
                fence(self._producer)
            except KafkaException:
                self._doubt = True
                raise

    def _write(self, what: str, value: bytes) -> None:
        if self._doubt:
            self._start_again()
        try:
            with _explained():
                self._producer.begin_transaction()
                self._producer.produce(self._topic, value, f"{self._id}/{what}".encode())
                self._producer.commit_transaction(SECONDS)
        except RetryLater:
            self._abort()
            raise

    def _abort(self) -> None:
        """End a transaction that failed. Where Kafka cannot do that now, or does not answer, the
        next write has a new producer, whose start ends it."""
        try:
            self._producer.abort_transaction(ABORT_SECONDS)
        except KafkaException:
            self._doubt = True

    def _start_again(self) -> None:
        """Another producer, unless another process has gone on with the replay meanwhile: that one
        must not be fenced off."""
        if self._tail.read().get("state") not in self._written:
            raise Stop(f"could not note the replay's progress: {FENCED}")
        self._start()


class _Tail:
    """What the topic has of one replay, read only as far as it is new. Not for several threads."""

    def __init__(self, settings: Settings, id_: str) -> None:
        self._settings = settings
        self._id = id_
        self._topic = topics.replays(settings)
        self._next: dict[Position, int] = {}
        self._latest: dict[str, bytes] = {}
        self._reader: Reader | None = None

    def read(self) -> Mapping[str, bytes]:
        """The latest value by what it is: about, state, wish.

        Raises `RetryLater` when Kafka does not answer; the next call goes on from where it was.
        """
        try:
            if self._reader is None:
                self._reader = Reader(self._settings, UNREAD, seconds=LOOK_SECONDS)
            if not self._next:
                self._next = dict.fromkeys(self._reader.places([self._topic]), 0)
            for batch in self._reader.batches(self._next, silence=LOOK_SECONDS):
                for message in batch:
                    id_, _, what = (message.key() or b"").decode().rpartition("/")
                    if id_ == self._id:
                        self._latest[what] = message.value() or b"{}"
            self._next |= self._reader.reached
        except RetryLater:
            self.close()
            raise
        return self._latest

    def close(self) -> None:
        """Let go of the client."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _explained() -> AbstractContextManager[None]:
    return explained(
        "note the replay's progress",
        fenced=FENCED,
        later="`bus replay resume` goes on when it is up",
    )


def keyed(places: Mapping[Position, int]) -> dict[str, int]:
    """Offsets by `topic/partition`, as JSON can have them."""
    return {f"{place.topic}/{place.partition}": at for place, at in places.items()}


def _places(keys: Mapping[str, int]) -> dict[Position, int]:
    found = {}
    for key, at in keys.items():
        topic, _, number = key.rpartition("/")
        found[Position(topic, int(number))] = at
    return found
