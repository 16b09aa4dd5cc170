"""The vendor's program during a certification: its processes, its settings and its offsets.

The program gets all its settings in environment variables:

    BUS_KAFKA__BOOTSTRAP   Kafka's address; there is no password
    BUS_REGISTRY__URL      the schema registry's address
    BUS_TOPIC_PREFIX       the first part of all topics
    CERTIFY_AGREEMENT      the agreement's name in the topics
    CERTIFY_GROUP          the consumer group, as `bus.subscribe` takes it
    CERTIFY_KINDS          the kinds of record to read, separated by commas
    CERTIFY_STATE          the file for what the program holds (`bus.sandbox.state_file`)

A killed program stays a member of its consumer group until its session times out, and a new member
must wait for that. So each start has a new group, which gets the offsets of the earlier group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from bus.delivery import Position
from bus.errors import Stop
from bus.kafka.client import client_settings
from bus.kafka.offsets import Offsets, retryable
from bus.settings import Settings
from bus.vendors.vendor_schema import vendor_topic

ANSWER_SECONDS = 10.0
SILENT_SECONDS = 5.0
"""If a program has committed no offset for this many seconds, it keeps its offsets elsewhere."""


class Subscriber:
    """One program, which is started and killed several times.

    settings:  the bus.
    agreement: the agreement's name in the topics.
    kinds:     the kinds that the program reads.
    command:   the command line.
    folder:    a folder for the state file. The program may keep its own files there.
    """

    def __init__(
        self,
        settings: Settings,
        agreement: str,
        kinds: Sequence[str],
        command: Sequence[str],
        folder: Path,
    ) -> None:
        self.kinds = kinds
        self.state = folder / "state.jsonl"
        self._settings = settings
        self._agreement = agreement
        self._command = list(command)
        self._folder = folder
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self, offsets: Mapping[Position, int] | None = None) -> None:
        """Start the program with a new consumer group. Raises `Stop` if it cannot be started.

        offsets: where the group begins, by topic and partition. None: the group has no offsets, as
                 at a vendor's first start.
        """
        self.kill()
        self._starts += 1
        if offsets:
            self._set(offsets)
        self._log = (self._folder / "program.log").open("wb")
        try:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise Stop(f"{self._command[0]} cannot be started: {error.strerror}") from None

    def kill(self) -> None:
        """Kill the program and all processes that it started, with SIGKILL."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def ended(self) -> int | None:
        """Return the exit status of the program if it has ended by itself, or None."""
        return None if self._process is None else self._process.poll()

    def last_lines(self, number: int = 10) -> list[str]:
        """Return the last lines that the program has printed since its last start."""
        path = self._folder / "program.log"
        if not path.exists():
            return []
        return path.read_text("utf-8", errors="replace").splitlines()[-number:]

    def offsets(self, back: int = 0) -> dict[Position, int]:
        """Return the offsets that the program has committed since its last start.

        back: how many messages to move each offset back, but not before the first offset.
        """
        with self._asked() as asked:
            committed = self._committed(asked)
            marks = asked.marks(committed)
            return {
                place: max(marks[place][0], offset - back) for place, offset in committed.items()
            }

    def beginnings(self) -> dict[Position, int]:
        """Return the first offset of each partition."""
        with self._asked() as asked:
            return {place: first for place, (first, _) in self._bounds(asked).items()}

    def ends(self) -> dict[Position, int]:
        """Return the end of each partition."""
        with self._asked() as asked:
            return {place: end for place, (_, end) in self._bounds(asked).items()}

    def wait_for_offsets(self, until: float) -> None:
        """Wait until the program has committed all offsets, or keeps them elsewhere.

        until: the latest moment at which this returns (`time.monotonic`).
        """
        silent = time.monotonic() + SILENT_SECONDS
        with self._asked() as asked:
            bounds = self._bounds(asked)
            before = self._committed(asked)
            while time.monotonic() < until and self.ended() is None:
                now = self._committed(asked)
                if all(now.get(at, 0) >= end for at, (first, end) in bounds.items() if first < end):
                    return
                if now == before and time.monotonic() > silent:
                    return
                time.sleep(0.2)

    @property
    def _group(self) -> str:
        return f"certify-{self._starts}"

    @property
    def _topics(self) -> list[str]:
        return [vendor_topic(self._settings, self._agreement, kind) for kind in self.kinds]

    @property
    def _group_name(self) -> str:
        return self._settings.topic(f"vendor.{self._agreement}.{self._group}")

    @contextmanager
    def _asked(self) -> Iterator[Offsets]:
        """Yield a client that asks for the offsets of the group.

        Raises `RetryLater` if Kafka does not answer.
        """
        group = {"group.id": self._group_name, "enable.auto.commit": False}
        client = Offsets(client_settings(self._settings) | group, lambda _: True)
        try:
            with retryable():
                yield client
        finally:
            client.close()

    def _bounds(self, asked: Offsets) -> dict[Position, tuple[int, int]]:
        """Return the first offset and the end of each partition."""
        return asked.marks(asked.partitions(self._topics))

    def _committed(self, asked: Offsets) -> dict[Position, int]:
        """Return the committed offset of each partition that has one."""
        found = asked.committed(asked.partitions(self._topics))
        return {place: offset for place, offset in found.items() if offset >= 0}

    def _set(self, offsets: Mapping[Position, int]) -> None:
        """Set the offsets of the group, which has no members yet."""
        wanted = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        admin = AdminClient(client_settings(self._settings))  # keep it until Kafka has answered
        with retryable():
            answers = admin.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(self._group_name, wanted)],
                request_timeout=ANSWER_SECONDS,
            )
            for answer in answers.values():
                for place in answer.result().topic_partitions:
                    if place.error is not None:
                        raise KafkaException(place.error)

    def _environment(self) -> dict[str, str]:
        from bus.local import reach

        ends = reach(self._settings.home) if self._settings.embedded else None
        own = {name: value for name, value in os.environ.items() if not name.startswith("BUS_")}
        # Otherwise, a bus.toml in the current folder could lead to another bus.
        (self._folder / "bus.toml").touch()
        return own | {
            "BUS_CONFIG": str(self._folder / "bus.toml"),
            "BUS_KAFKA__BOOTSTRAP": ends.bootstrap if ends else self._settings.kafka.bootstrap,
            "BUS_REGISTRY__URL": self._settings.registry.url or (ends.registry if ends else ""),
            "BUS_TOPIC_PREFIX": self._settings.topic_prefix,
            "CERTIFY_AGREEMENT": self._agreement,
            "CERTIFY_GROUP": self._group,
            "CERTIFY_KINDS": ",".join(self.kinds),
            "CERTIFY_STATE": str(self.state),
        }
