"""How shards talk to each other (`bus.vendors.shard_words`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime

from confluent_kafka import KafkaError, Message

from bus.kafka import topics
from bus.kafka.sender import Sender
from bus.settings import Settings
from bus.vendors.common_words import CommonWords
from bus.vendors.shard_words import Word, disclosed, encoded


class WordSender(Sender):
    """Says the words of one shard. For one thread at a time.

    number: the shard's number.
    """

    def __init__(self, settings: Settings, number: int) -> None:
        topic, doing = topics.vendor_shards(settings), "talk to the other shards"
        super().__init__(settings, topic, doing, more={"linger.ms": 1}, partition=number)
        self._next = 0

    def say(self, words: Iterable[Word]) -> int:
        """Say words, and return when Kafka has stored them.

        Returns the offset after the last one; 0 if there was none yet. Raises the errors of
        `flush`.
        """
        for word in words:
            key, value = encoded(word)
            self.add(value, key)
        self.flush()
        return self._next

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        super()._delivered(error, message)
        if error is None:
            self._next = max(self._next, (message.offset() or 0) + 1)


class StudentTalk:
    """What a shard of students says to the common shard. The outbox has it as its `Disclosing`.

    words:    what the common shard says.
    stopping: whether the shard must stop.

    The attribute `rounds` has the number of the round of each agreement. Set it before the outbox
    says who enters or has left.
    """

    def __init__(
        self, sender: WordSender, words: CommonWords, stopping: Callable[[], bool]
    ) -> None:
        self.rounds: dict[str, int] = {}
        self._sender = sender
        self._words = words
        self._stopping = stopping
        self._asked = 0

    def entered(self, name: str, students: Sequence[str], at: datetime) -> None:
        """Say that a vendor receives data about these students. Only `wait` makes it sure."""
        self.ask(list(disclosed(name, self.rounds.get(name, 0), students, at, entered=True)))

    def left(self, name: str, students: Sequence[str], at: datetime) -> None:
        """Say that a vendor receives no more data about these students."""
        self.say(list(disclosed(name, self.rounds.get(name, 0), students, at, entered=False)))

    def say(self, words: Collection[Word]) -> None:
        """Say words. Raises `RetryLater` if Kafka does not store them."""
        if words:
            self._sender.say(words)

    def ask(self, words: Collection[Word]) -> None:
        """Say words for which `wait` must wait."""
        if words:
            self._asked = self._sender.say(words)

    def asked(self) -> int:
        """Return the offset after the words for which `wait` waits."""
        return self._asked

    def wait(self, offset: int) -> None:
        """Wait until the common shard has done what it was asked for, also before this offset."""
        self._words.wait(max(self._asked, offset), self._stopping)


class CommonTalk:
    """What the common shard's own outbox says: it asks nobody, and waits for nobody."""

    def __init__(self, sender: WordSender) -> None:
        self._sender = sender

    def say(self, words: Collection[Word]) -> None:
        """Say words. Raises `RetryLater` if Kafka does not store them."""
        if words:
            self._sender.say(words)

    ask = say

    def asked(self) -> int:
        """Return 0: nothing is asked for."""
        return 0

    def wait(self, offset: int) -> None:
        """Return at once."""
