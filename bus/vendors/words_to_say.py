"""The words that a shard has still to say to the others, in the file of the view.

They are committed with the messages of the same batch, so a kill loses none of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from typing import NamedTuple

from bus.vendors.district_view import SAID
from bus.vendors.shard_words import Asked, GivenUp, Word, decoded, encoded


class WaitingWord(NamedTuple):
    """A row of the table `word`: what must be said, as `shard_words.encoded` returns it."""

    key: str
    agreement: str
    value: str
    number: int

    def word(self) -> Word | None:
        """Return the word."""
        return decoded(self.key.encode(), self.value.encode())


class WordsToSay:
    """The words that a shard has still to say, in the file of the view."""

    def __init__(self, con: sqlite3.Connection) -> None:
        self._con = con

    def add(self, words: Collection[Asked | GivenUp]) -> None:
        """Add words, within the transaction of the view. The last word about a record counts."""
        if not words:
            return
        first = (self._con.execute("SELECT max(number) FROM word").fetchone()[0] or 0) + 1
        rows = []
        for number, word in enumerate(words, first):
            key, value = encoded(word)
            agreement = word.agreement if isinstance(word, Asked) else ""
            rows.append((key.decode(), agreement, value.decode(), number))
        self._con.executemany("INSERT OR REPLACE INTO word VALUES (?, ?, ?, ?)", rows)

    def rows(self) -> list[WaitingWord]:
        """Return the words, in order."""
        found = self._con.execute("SELECT * FROM word ORDER BY number")
        return [WaitingWord(*row) for row in found]

    def remove(self, rows: Iterable[WaitingWord]) -> None:
        """Remove words that were said, unless something else must be said about the same now."""
        self._con.executemany(
            "DELETE FROM word WHERE key = ? AND value = ? AND number = ?",
            [(row.key, row.value, row.number) for row in rows],
        )

    def forget(self, agreement: str) -> None:
        """Remove the words about an agreement."""
        self._con.execute("DELETE FROM word WHERE agreement = ?", [agreement])
        # The numbers may come again.
        self._con.execute("DELETE FROM about WHERE name = ?", [SAID])
