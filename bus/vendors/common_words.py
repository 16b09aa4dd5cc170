"""What the common shard says to the shards of students (`bus.vendors.shard_words`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import Message

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka import topics
from bus.kafka.reader import Reader, scan
from bus.settings import Settings
from bus.vendors.asking import NotAnswered
from bus.vendors.shard_words import GivenUp, Round, Seen, Word, decoded

NOT_READ = "could not read what the common shard says: Kafka reports {}"
WAIT_SECONDS = 10.0
"""Seconds for which a shard waits for the common shard. Then it begins again, and first sends the
deletions that have come meanwhile."""
LOOK_SECONDS = 0.1
END = 2**62
"""A partition is read to its end."""


class CommonWords:
    """What the common shard has said. A thread reads it.

    shard:   the number of the shard that listens.
    reached: the offset before which the shard has followed everything; None: a new shard, which
             needs only the last words about rounds.

    The attribute `place` is the partition with these words.
    """

    def __init__(self, settings: Settings, shard: int, reached: int | None) -> None:
        self._shard = shard
        self._given_up: list[GivenUp] = []
        self._news = threading.Condition()
        self._rounds: dict[str, Round] = {}
        self._changed = False
        self._seen = 0
        self._error: RetryLater | None = None
        self._ending = False
        self._reader = Reader(settings, NOT_READ)
        self._ends = Reader(settings, NOT_READ)
        self.place = place = Position(topics.vendor_shards(settings), 0)
        with self._closed_on_error():
            end = self._reader.ends([place.topic])[place]
            self._from = end if reached is None else reached
            self._next = self._from
            for batch in self._reader.batches({place: 0}, {place: end}, silence=30.0):
                for message in batch:
                    self._take(message)
            self._reader.assign({place: end})
        self._thread = threading.Thread(target=self._listen, name="common-words", daemon=True)
        self._thread.start()

    def changed(self) -> bool:
        """Return whether a round has changed since the last call."""
        with self._news:
            if self._error is not None:
                raise self._error
            changed, self._changed = self._changed, False
            return changed

    def round(self, agreement: str) -> Round | None:
        """Return the common shard's last word about an agreement."""
        with self._news:
            return self._rounds.get(agreement)

    def given_up(self) -> tuple[list[GivenUp], int]:
        """Return the records that other shards gave up since the last call.

        Also returns the offset before which everything was returned.
        """
        with self._news:
            found, self._given_up = self._given_up, []
            return found, self._next

    def behind(self) -> bool:
        """Return whether the common shard has said something that was not returned yet."""
        end = self._ends.ends([self.place.topic])[self.place]
        with self._news:
            return bool(self._given_up) or self._changed or self._next < end

    def wait(self, offset: int, stopping: Callable[[], bool]) -> None:
        """Wait until the common shard has done what was said before an offset.

        Raises `NotAnswered` if it does not within ten seconds, or if `stopping` returns true.
        """
        waited = 0.0
        with self._news:
            while self._seen < offset:
                if self._error is not None:
                    raise self._error
                if stopping() or self._ending:
                    raise NotAnswered("the projection ends")
                if waited >= WAIT_SECONDS:
                    raise NotAnswered(
                        f"the common shard has not answered for {WAIT_SECONDS:g} s; check that an "
                        "instance of `bus vendors run` works it"
                    )
                if not self._news.wait(LOOK_SECONDS):
                    waited += LOOK_SECONDS

    def end(self) -> None:
        """End all waits."""
        with self._news:
            self._ending = True
            self._news.notify_all()

    def close(self) -> None:
        """Stop to listen."""
        self.end()
        self._thread.join()
        self._reader.close()
        self._ends.close()

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._reader.close()
            self._ends.close()
            raise

    def _listen(self) -> None:
        while not self._ending:
            try:
                messages, _ = self._reader.take(patience=LOOK_SECONDS)
            except RetryLater as error:
                with self._news:
                    self._error = error
                    self._news.notify_all()
                return
            for message in messages:
                self._take(message)

    def _take(self, message: Message) -> None:
        word, offset = decoded(message.key(), message.value()), message.offset() or 0
        with self._news:
            self._next = max(self._next, offset + 1)
            match word:
                case GivenUp() if offset >= self._from:
                    self._given_up.append(word)
                case Round():
                    # An instance that was paused may say an old word late.
                    before = self._rounds.get(word.agreement)
                    if before is None or not word.is_before(before):
                        self._rounds[word.agreement] = word
                        self._changed = True
                case Seen() if word.shard == self._shard:
                    self._seen = max(self._seen, word.next)
                    self._news.notify_all()


def said(settings: Settings) -> list[Word]:
    """Return all that the common shard has said, as far as Kafka still has it.

    Raises `RetryLater` if Kafka does not answer.
    """
    messages = scan(settings, topics.vendor_shards(settings), stop={0: END})
    words = (decoded(message.key(), message.value()) for message in messages)
    return [word for word in words if word is not None]
