"""What a shard's outbox says to the common shard before and after it sends messages."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable
from typing import NamedTuple, Protocol

from bus.errors import RetryLater
from bus.vendors.district_view import SAID
from bus.vendors.shard_words import Asked, Word
from bus.vendors.words_to_say import WaitingWord, WordsToSay


class NotAnswered(RetryLater):
    """Everything was said, but the common shard has not done it in time."""


class SaidBefore(NamedTuple):
    """What was said by an attempt that did not wait for the answer.

    offset: the offset after the words.
    word:   the number of the last of these words.
    note:   the number of the last note of who entered.
    """

    offset: int = 0
    word: int = 0
    note: int = 0


class Talk(Protocol):
    """How the outbox talks to the common shard."""

    def say(self, words: Collection[Word]) -> None:
        """Say words."""

    def ask(self, words: Collection[Word]) -> None:
        """Say words for which `wait` must wait."""

    def asked(self) -> int:
        """Return the offset after the words for which `wait` waits."""

    def wait(self, offset: int) -> None:
        """Wait until the common shard has done what was asked for, also before this offset."""


class Asking:
    """What the outbox of a shard says before and after its messages.

    talk:  tells the common shard; called from the outbox's thread, and never at the same time.
    waits: whether it may wait for another shard.
    """

    def __init__(self, con: sqlite3.Connection, talk: Talk, *, waits: bool = True) -> None:
        self.waits = waits
        self._con = con
        self._words = WordsToSay(con)
        self._talk = talk
        self.rows = self._words.rows

    def said(self) -> SaidBefore:
        """Return what was said already, by an attempt that did not wait for the answer."""
        query = "SELECT value FROM about WHERE name = ?"
        found = self._con.execute(query, [SAID]).fetchone()
        return SaidBefore(*json.loads(found[0])) if found else SaidBefore()

    def before(self, rows: Iterable[WaitingWord], said: SaidBefore) -> None:
        """Ask for records, and wait until they are sent. Raises `NotAnswered`, and `RetryLater`."""
        new = [row for row in rows if row.number > said.word]
        self._talk.ask([word for word in _words(new) if _asks(word)])
        self._talk.wait(said.offset)

    def keep(self, rows: Iterable[WaitingWord], noted: int) -> None:
        """Note what was said, after `NotAnswered`.

        noted: the last note of who entered that was said.
        """
        if offset := self._talk.asked():
            word = max((row.number for row in rows), default=0)
            value = json.dumps(SaidBefore(max(offset, self.said().offset), word, noted))
            self._con.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", [SAID, value])

    def after(self, rows: Iterable[WaitingWord]) -> None:
        """Say what must be said after the messages."""
        self._talk.say([word for word in _words(rows) if not _asks(word)])

    def remove(self, rows: Iterable[WaitingWord]) -> None:
        """Remove words that were said."""
        self._words.remove(rows)
        self._con.execute("DELETE FROM about WHERE name = ?", [SAID])


def _words(rows: Iterable[WaitingWord]) -> list[Word]:
    return [word for row in rows if (word := row.word()) is not None]


def _asks(word: Word) -> bool:
    return isinstance(word, Asked) and word.needed


class NotAsking:
    """What the outbox says if there is only one shard: nothing."""

    waits = False

    def rows(self) -> list[WaitingWord]:
        """Return no words."""
        return []

    def said(self) -> SaidBefore:
        """Return that nothing was said."""
        return SaidBefore()

    def before(self, rows: Iterable[WaitingWord], said: SaidBefore) -> None:
        """Say nothing."""

    def keep(self, rows: Iterable[WaitingWord], noted: int) -> None:
        """Note nothing."""

    def after(self, rows: Iterable[WaitingWord]) -> None:
        """Say nothing."""

    def remove(self, rows: Iterable[WaitingWord]) -> None:
        """Remove nothing."""
