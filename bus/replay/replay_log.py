"""Records each replay and its progress in the topic `PREFIX.replays`.

The topic is compacted and has three keys for each replay. Their values are JSON:

* `ID/about`: who replays what, when and why. Written once, at the start.
* `ID/state`: the progress. Written after each batch by the process that runs the replay.
* `ID/wish`: a request to pause, to go on or to end. Written by the command that requests it.

A replay's progress is stored only here. A replay commits no group offsets.

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
Requested = Literal["run", "pause", "cancel"]
SECONDS = 30.0
ABORT_SECONDS = 5.0
LOOK_SECONDS = 5.0
"""How long a read of the topic may take, in seconds."""
FENCED = "another process runs this replay now, so this one has stopped"
UNREAD = "could not read the log of the replay: Kafka says {}; try again when it is up"


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What a replay does.

    since, until, entities, schools, students, only_current, rate, into: the options of the command.
    records:     ids of single records by kind, for a repair.
    by, at, why: who started it (user@machine), when (UTC), and the reason that was given.
    start, stop: the window: offsets by `topic/partition`.
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
        """The offsets that the replay reads."""
        return Window(_places(self.start), _places(self.stop))


@dataclass(frozen=True, slots=True)
class ReplayState:
    """The progress of a replay.

    done:      for each partition (`topic/partition`), the offset up to which it was replayed.
    delivered: how many records were delivered, by kind.
    passed:    how many messages were read and not selected.
    left_out:  how many records could not be decoded or translated, or were refused by the product.
    seconds:   how long the replay has run, over all its processes.
    at:        when this was recorded (UTC).
    error:     why it failed, or "".
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
        """`done` by `Position`."""
        return _places(self.done)

    def plus(
        self,
        done: Mapping[Position, int],
        delivered: Mapping[str, int],
        passed: int,
        left_out: int,
        seconds: float,
    ) -> ReplayState:
        """Return this state after one more batch."""
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
    """One replay in the topic."""

    about: ReplayRequest
    state: ReplayState
    request: Requested = "run"

    @property
    def status(self) -> Status:
        """The status. A replay that was asked to end counts as cancelled at once."""
        over = self.state.status in ("done", "cancelled")
        return self.state.status if over or self.request != "cancel" else "cancelled"

    @property
    def share(self) -> float:
        """The share of the window that is done, from 0 to 1."""
        whole = self.about.window
        return 1 - len(whole.after(self.state.reached)) / len(whole) if len(whole) else 1.0


def new_id(product: str) -> str:
    """Return an id for a replay: the product, the time in UTC, and four random hex digits."""
    return f"{product}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def user_at_machine() -> str:
    """Return who runs this process, as user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def entries(settings: Settings) -> dict[str, ReplayEntry]:
    """Return all replays by id, oldest first. Raises `RetryLater` when Kafka does not answer."""
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
    """Return one replay. Raises `Stop` if there is none with this id."""
    found = entries(settings)
    if id_ not in found:
        raise Stop(f"there is no replay {id_}; `bus replay list` shows all replays")
    return found[id_]


def request(settings: Settings, id_: str, to: Requested) -> None:
    """Ask the process of a replay to pause, go on or end. It does so after the current batch."""
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
    """The log of one replay, for the process that runs it. Not thread-safe.

    Only one process can write. When another one opens the log, the next write of the earlier one
    fails.
    """

    def __init__(self, settings: Settings, id_: str) -> None:
        topics.ensure(settings, [topics.replays(settings)])
        self._settings = settings
        self._id = id_
        self._topic = topics.replays(settings)
        self._tail = _Tail(settings, id_)
        self._start()
        # The values that the last state in the topic can have if no other process has written.
        self._written = {self._tail.read().get("state")}

    def close(self) -> None:
        """Close the client that reads."""
        self._tail.close()

    def begin(self, about: ReplayRequest) -> None:
        """Record what the replay does."""
        self._write("about", json.dumps(asdict(about)).encode())

    def note(self, state: ReplayState) -> None:
        """Record the progress. It may be called again after `RetryLater`."""
        value = json.dumps(asdict(replace(state, at=now()))).encode()
        self._written.add(value)
        self._write("state", value)
        self._written = {value}

    def request(self) -> Requested:
        """Return the newest request. Raises `RetryLater` when Kafka does not answer."""
        found: Requested = json.loads(self._tail.read().get("wish", b"{}")).get("to", "run")
        return found

    def _start(self) -> None:
        """Create a producer, and fence off every earlier producer of this replay."""
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
        """End a transaction that failed.

        If Kafka cannot do that now or does not answer, the next write uses a new producer. Its
        start ends the transaction.
        """
        try:
            self._producer.abort_transaction(ABORT_SECONDS)
        except KafkaException:
            self._doubt = True

    def _start_again(self) -> None:
        """Create another producer, unless another process has continued the replay.

        That process must not be fenced off.
        """
        if self._tail.read().get("state") not in self._written:
            raise Stop(f"could not save the replay's progress: {FENCED}")
        self._start()


class _Tail:
    """Reads the entries of one replay. Each call reads only what is new. Not thread-safe."""

    def __init__(self, settings: Settings, id_: str) -> None:
        self._settings = settings
        self._id = id_
        self._topic = topics.replays(settings)
        self._next: dict[Position, int] = {}
        self._latest: dict[str, bytes] = {}
        self._reader: Reader | None = None

    def read(self) -> Mapping[str, bytes]:
        """Return the newest value of each of the keys about, state and wish.

        Raises `RetryLater` when Kafka does not answer; the next call continues where this one
        stopped.
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
        """Close the client."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _explained() -> AbstractContextManager[None]:
    return explained(
        "save the replay's progress",
        fenced=FENCED,
        later="run `bus replay resume` when it is up",
    )


def keyed(places: Mapping[Position, int]) -> dict[str, int]:
    """Return offsets by `topic/partition`, a key that JSON allows."""
    return {f"{place.topic}/{place.partition}": at for place, at in places.items()}


def _places(keys: Mapping[str, int]) -> dict[Position, int]:
    found = {}
    for key, at in keys.items():
        topic, _, number = key.rpartition("/")
        found[Position(topic, int(number))] = at
    return found
