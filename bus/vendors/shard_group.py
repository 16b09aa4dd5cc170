"""The shards of one instance of `bus vendors run`, when several instances share the work.

The instances are a consumer group on the topic `PREFIX.vendors.shards-N`. If an instance has
partition 2 of this topic, it works shard 2, in a thread. When an instance starts or ends, Kafka
assigns the partitions anew. An instance stops its shards before it gives up their partitions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from bus.errors import RetryLater
from bus.kafka import topics
from bus.kafka.client import group_settings
from bus.standard.kinds import KINDS
from bus.vendors import shard_number
from bus.vendors.projection_run import Run, RunOutcome, attempts
from bus.vendors.shard import Shard
from bus.vendors.shard_work import CommonWork, ShardWork, StudentWork

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.1
PAUSED_SECONDS = 8.0
"""Less than the ten seconds after which Kafka gives a silent instance up."""
DONE_LOOKS = 5
GIVEN_AWAY_SECONDS = 15.0
"""Seconds after which Kafka has given away the shards of an instance that was killed: its session
ends after ten (`bus.kafka.client.group_settings`)."""


class ShardThread:
    """A shard that is worked in a thread of its own.

    run:   the run of the instance.
    there: whether the instance still has the shard, as far as it can know.

    The attributes `outcome` and `error` have what it did, and what ended it.
    """

    def __init__(self, run: Run, shard: Shard, there: Callable[[], bool]) -> None:
        self.outcome = RunOutcome()
        self.error: BaseException | None = None
        self._stopping = threading.Event()
        self._latest: ShardWork | None = None
        own = replace(run, stopping=self._stopping, outcome=self.outcome)

        def attempt() -> ShardWork:
            self._latest = (CommonWork if shard.common else StudentWork)(own, shard, there)
            return self._latest

        def work() -> None:
            try:
                attempts(attempt, self._stopping)
            except BaseException as error:  # the main thread raises it
                self.error = error

        self._thread = threading.Thread(target=work, name=f"shard-{shard.number}", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether everything that was in the topics is with the vendors."""
        return self._latest is not None and self._latest.done

    def ask_to_stop(self) -> None:
        """Ask it to end after the current batch."""
        self._stopping.set()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()


class ShardGroup:
    """The shards that this instance works. Use it from one thread only."""

    def __init__(self, run: Run) -> None:
        self.worked = False
        self._run = run
        self._settings = run.settings
        self._clock = run.clock
        self._since = run.clock()  # when this instance got its shards
        self._looks = 0  # how many times in turn all shards were done
        self._polled = run.clock()
        self._agreed = False
        self._wanted: list[int] = []
        self._threads: dict[int, ShardThread] = {}
        self._consumer: Consumer | None = None

    def work(self) -> None:
        """Work the shards that Kafka gives to this instance, until a stop is requested.

        Raises `RetryLater` if the same must be tried again, and `Stop` if a person must act.
        """
        topic = topics.vendor_shards(self._settings)
        kinds = [topics.topic(self._settings, kind) for kind in KINDS]
        topics.ensure(self._settings, [*kinds, topics.vendors(self._settings), topic])
        try:
            self._consumer = Consumer(
                group_settings(self._settings, shard_number.GROUP)
                | {
                    "partition.assignment.strategy": "range",
                    "client.id": shard_number.client_id(self._settings.vendors.shards),
                }
            )
            self._consumer.subscribe(
                [topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
            while not self._run.stopping.is_set():
                self._consumer.poll(LOOK_SECONDS)
                if self._threads and not self._is_there():
                    # Kafka says so only later. Until then, nothing may be sent.
                    raise RetryLater("this process was paused, so it begins again")
                self._polled = self._clock()
                if self._wanted and not self._agreed:
                    # An instance that was away may find another number.
                    self._agreed = shard_number.agreed(
                        self._settings, self._run.stopping, partial(self._consumer.poll, 0)
                    )
                elif self._agreed:
                    self._start()
                    if self._run.until_caught_up and self._all_done():
                        return
        except KafkaException as error:
            raise RetryLater(f"Kafka reports {error.args[0].name()}") from None

    def close(self) -> None:
        """Stop the shards, and leave the group."""
        self._stop()
        if self._consumer is not None:
            self._consumer.close()

    def _assigned(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        consumer.assign(parts)
        if parts:
            consumer.pause(parts)  # the shards read the topic themselves
        self._wanted = [one.partition for one in parts]
        self._since = self._clock()
        log.info("this instance works some shards now", shards=sorted(self._wanted))

    def _revoked(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._wanted, self._agreed = [], False
        self._stop()

    def _start(self) -> None:
        """Start the shards that do not run yet, and raise what ended one."""
        for number in self._wanted:
            if number not in self._threads:
                shard = Shard(number, self._settings.vendors.shards)
                self._threads[number] = ShardThread(self._run, shard, self._is_there)
                self.worked = True
        for thread in self._threads.values():
            if thread.error is not None:
                raise thread.error
        self._run.outcome.agreements = sorted(
            {name for thread in self._threads.values() for name in thread.outcome.agreements}
        )

    def _is_there(self) -> bool:
        """Return false if this process was paused for so long that Kafka may have given it up."""
        return self._clock() - self._polled < PAUSED_SECONDS

    def _all_done(self) -> bool:
        """Return whether all shards are done: those of this instance, and of others that live."""
        missing = len(self._threads) <= self._settings.vendors.shards
        if not self._threads or (missing and self._clock() - self._since < GIVEN_AWAY_SECONDS):
            return False
        # What one shard says may give another one something to do.
        self._looks = self._looks + 1 if all(one.done for one in self._threads.values()) else 0
        return self._looks > DONE_LOOKS

    def _stop(self) -> None:
        threads, self._threads = self._threads, {}
        for thread in threads.values():
            thread.ask_to_stop()
        for thread in threads.values():
            thread.join()
            self._run.outcome.sent += thread.outcome.sent
            self._run.outcome.undecodable += thread.outcome.undecodable
