"""The file in which a consumer keeps the ids of delivered records between two runs.

A consumer must know the ids of all delivered records to which others may refer. The time to read
them from Kafka grows with the size of the district. So they are kept in one DuckDB file of the
group, `BUS_HOME/standing/GROUP/delivered.duckdb`. A start reads only what was added since:

    about      mark: the cluster, the layout, the topics
    reach      topic, part, next: the ids of all messages before this offset are in the file
    delivered  topic, id: the key of a message; the same id may be there several times

The file is a cache of the topics (`bus.consume.cache_database`). It only covers offsets that the
group has committed. So after a kill at any moment the file is correct, but it may be behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bus.consume.cache_database import CacheDatabase
from bus.delivery import Position

FILE = "delivered.duckdb"
ROWS = 100_000
"""The number of ids that are read from the file at once."""
REPEATED = 100_000
"""The file is rewritten when it has more than this many repeated ids."""


class DeliveredFile:
    """The file of one group. For one thread.

    topics:  the topics whose ids are kept.
    ids:     for each topic, the hashes of the ids that were in the file when it was opened.
    reach:   for each partition, the offset before which all ids are in the file.
    on_disk: whether there is a file. A second instance on the same machine cannot open it too.
    """

    def __init__(self, folder: Path, mark: str, topics: Sequence[str]) -> None:
        self.ids: dict[str, set[int]] = {}
        self.reach: dict[Position, int] = {}
        self._topics = list(topics)
        self._files = CacheDatabase(folder, "the index of delivered records")
        self._con = self._files.con
        self.on_disk = self._files.open("held", FILE, lambda: self._is_usable(mark))

    def close(self) -> None:
        """Close the file."""
        self._files.close()

    def empty(self) -> None:
        """Remove all rows, because the file does not fit the group's committed offsets."""
        with self._files.faults(), self._files.transaction():
            self._con.execute("DELETE FROM held.delivered")
            self._con.execute("DELETE FROM held.reach")
        self.ids = {topic: set() for topic in self._topics}
        self.reach = {}

    def write(self, ids: Mapping[str, Sequence[str]], reached: Mapping[Position, int]) -> None:
        """Add the ids of each topic, and store that all ids before these offsets are in the file.

        Raises `RetryLater` or `Stop` when the disk does not take them. Then nothing has changed.
        """
        import pyarrow

        with self._files.faults(), self._files.transaction():
            for topic, added in ids.items():
                if not added:
                    continue
                rows = pyarrow.table({"id": pyarrow.array(added, pyarrow.string())})
                with self._files.given("added", rows):
                    self._con.execute(
                        "INSERT INTO held.delivered SELECT ?, id FROM added",
                        [self._topics.index(topic)],
                    )
            for place, offset in reached.items():
                self._con.execute(
                    "DELETE FROM held.reach WHERE topic = ? AND part = ?", self._key(place)
                )
                self._con.execute(
                    "INSERT INTO held.reach VALUES (?, ?, ?)", [*self._key(place), offset]
                )
        self.reach |= reached

    # ---- within --------------------------------------------------------------------------------

    def _key(self, place: Position) -> list[int]:
        """Return the number of the topic and the partition, as the file has them."""
        return [self._topics.index(place.topic), place.partition]

    def _is_usable(self, mark: str) -> bool:
        """Create the tables of a new file, or read a file that has this mark.

        Returns whether the file can be used.
        """
        for table in (
            "about (mark VARCHAR)",
            "reach (topic TINYINT, part INTEGER, next BIGINT)",
            "delivered (topic TINYINT, id VARCHAR)",
        ):
            self._con.execute(f"CREATE TABLE IF NOT EXISTS held.{table}")
        self.ids = {topic: set() for topic in self._topics}
        found = self._files.rows("SELECT mark FROM held.about")
        if not found:
            self._con.execute("INSERT INTO held.about VALUES (?)", [mark])
        elif found[0][0] != mark:
            return False
        self.reach = {
            Position(self._topics[topic], part): offset
            for topic, part, offset in self._files.rows("SELECT topic, part, next FROM held.reach")
        }
        number = 0
        for at, topic in enumerate(self._topics):
            for some in self._ids_of(at):
                self.ids[topic].update(map(hash, some))
                number += len(some)
        if number - sum(map(len, self.ids.values())) > REPEATED:
            with self._files.transaction():
                self._con.execute(
                    "CREATE OR REPLACE TABLE held.delivered AS "
                    "SELECT DISTINCT topic, id FROM held.delivered"
                )
        return True

    def _ids_of(self, topic: int) -> Iterator[list[str]]:
        """Yield the ids of a topic, `ROWS` at a time."""
        found = self._con.sql(f"SELECT id FROM held.delivered WHERE topic = {topic:d}")
        for some in found.to_arrow_reader(ROWS):
            yield some.column(0).to_pylist()
