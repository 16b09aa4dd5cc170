"""An index of the values that only one record may have at a product.

It holds which records claim a value, and which record has it at the product. There is one DuckDB
file for all partitions of a group, `BUS_HOME/standing/GROUP/unique.duckdb`:

    about  mark: the cluster, the rule, the layout
    reach  kind, part, next: all messages before this offset are in the file
    claim  kind, number (a hash of the record's id), value (a hash of the value, ignoring case),
           part, at_offset, at_time (milliseconds), told: whether the product has the value of
           this record

The file is a cache of the topics (`bus.consume.cache_database`). It is rebuilt when its mark names
another cluster or another rule. Then the oldest of several records that claim one value counts as
having it. A kind is stored as its index in `bus.product.Product.unique`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bus.consume.cache_database import CacheDatabase

if TYPE_CHECKING:
    import pyarrow

FILE = "unique.duckdb"


class ClaimIndex:
    """The claims of all partitions.

    Two more tables describe the batch in hand:

        news    slot, kind, number, value, part, at_offset, at_time: its records. The value is NULL
                for a record that claims none: it is empty, or the record is not active.
        denied  kind, slot, number: the records whose value another record has

    lacks_values: whether some record was delivered without its value.
    """

    def __init__(self, folder: Path, mark: str) -> None:
        self._files = CacheDatabase(folder, "the index of unique values")
        self._con = self._files.con
        self._files.open("held", FILE, lambda: self._is_usable(mark))
        self._next: dict[tuple[int, int], int] = {
            (k, p): at for k, p, at in self._files.rows("SELECT * FROM held.reach")
        }
        self._con.execute("CREATE TEMP TABLE own (kind TINYINT, part INTEGER)")
        self._own: set[tuple[int, int]] = set()
        self.lacks_values = self._any_without_value()

    def close(self) -> None:
        """Close the file."""
        self._files.close()

    def own(self, places: set[tuple[int, int]]) -> None:
        """Set the partitions for which this instance knows what the product has."""
        if places == self._own:
            return
        self._own = places
        self._con.execute("DELETE FROM own")
        for kind, part in places:
            self._con.execute("INSERT INTO own VALUES (?, ?)", [kind, part])

    def next(self, kind: int, part: int) -> int:
        """Return the offset before which all messages are in the index."""
        return self._next.get((kind, part), 0)

    def note(self, reached: Mapping[tuple[int, int], int]) -> None:
        """Remember that all messages before these offsets are in the index."""
        moved = {at: offset for at, offset in reached.items() if offset > self.next(*at)}
        if moved:
            with self._files.faults(), self._files.transaction():
                self._note(moved)

    def take(self, arriving: Sequence[pyarrow.Table]) -> None:
        """Load a batch and find the records whose value another record has.

        Nothing is written yet.

        arriving: tables as `UniqueValues._columns` makes them.
        """
        with self._files.faults():
            self._con.execute(
                "CREATE OR REPLACE TEMP TABLE news (slot BIGINT, kind TINYINT, number UBIGINT, "
                "value UBIGINT, part INTEGER, at_offset BIGINT, at_time BIGINT)"
            )
            for some in arriving:
                with self._files.given("arriving", some):
                    self._con.execute(
                        "INSERT INTO news SELECT slot, kind, hash(CAST(id AS VARCHAR)), "
                        "CASE WHEN CAST(status AS VARCHAR) = 'active' AND value <> '' "
                        "THEN hash(lower(CAST(value AS VARCHAR))) END, part, at_offset, at_time "
                        "FROM arriving"
                    )
            self._con.execute(
                """
                CREATE OR REPLACE TEMP TABLE denied AS
                WITH others AS (
                    SELECT n.kind, n.slot, n.number FROM news n JOIN held.claim c USING (value)
                    WHERE c.number <> n.number AND (
                        c.told OR NOT EXISTS (FROM own WHERE kind = c.kind AND part = c.part))
                ), first AS (
                    SELECT value, arg_min(number, (at_time, kind, part, at_offset)) AS number
                    FROM news WHERE value IS NOT NULL
                    GROUP BY value HAVING count(DISTINCT number) > 1
                ), later AS (
                    SELECT n.kind, n.slot, n.number FROM news n JOIN first f USING (value)
                    WHERE f.number <> n.number
                )
                SELECT * FROM (FROM others UNION FROM later) d
                WHERE NOT EXISTS (
                    FROM held.claim c JOIN news n ON n.kind = d.kind AND n.slot = d.slot
                    WHERE c.number = d.number AND c.value = n.value AND c.told)
                """
            )

    def new_values(self) -> bool:
        """Return whether a record of the batch claims a value that it does not have yet."""
        with self._files.faults():
            return bool(
                self._files.rows(
                    "SELECT 1 FROM news n WHERE value IS NOT NULL AND NOT EXISTS ("
                    "FROM held.claim c WHERE c.kind = n.kind AND c.number = n.number "
                    "AND c.value = n.value AND c.told) LIMIT 1"
                )
            )

    def taken(self) -> set[tuple[int, int]]:
        """Return the records of the batch whose value another record has, as (kind, slot)."""
        with self._files.faults():
            return {
                (kind, slot) for kind, slot in self._files.rows("SELECT kind, slot FROM denied")
            }

    def write(
        self,
        reached: Mapping[tuple[int, int], int],
        lost: set[tuple[int, int | None, int | None]],
        *,
        read: bool = False,
    ) -> None:
        """Write the batch, except for the records that the product did not take.

        reached: for each partition, the offset before which all messages are now in the index.
        lost:    the records that the product did not take: kind, partition, offset.
        read:    whether the batch was read from the topics rather than delivered. Then the oldest
                 of several records that claim one value counts as having it.
        """
        with self._files.faults(), self._files.transaction():
            for kind, part, offset in lost:
                self._con.execute(
                    "DELETE FROM news WHERE kind = ? AND part = ? AND at_offset = ?",
                    [kind, part, offset],
                )
            self._con.execute(
                "CREATE OR REPLACE TEMP TABLE latest AS SELECT * FROM news "
                "QUALIFY row_number() OVER (PARTITION BY kind, number ORDER BY at_offset DESC) = 1"
            )
            self._con.execute(
                "DELETE FROM latest WHERE EXISTS (FROM held.claim c WHERE c.kind = latest.kind "
                "AND c.number = latest.number AND c.at_offset > latest.at_offset)"
            )
            self._con.execute(
                "DELETE FROM held.claim WHERE EXISTS (FROM latest n "
                "WHERE n.kind = claim.kind AND n.number = claim.number)"
            )
            self._con.execute(
                "INSERT INTO held.claim SELECT kind, number, value, part, at_offset, at_time, "
                "NOT EXISTS (FROM denied d WHERE d.kind = n.kind AND d.slot = n.slot) "
                "FROM latest n WHERE value IS NOT NULL"
            )
            if read:
                self._con.execute(
                    """
                    UPDATE held.claim SET told = (claim.number = f.number) FROM (
                        SELECT value, arg_min(number, (at_time, kind, part, at_offset)) AS number
                        FROM held.claim WHERE value IN (SELECT value FROM latest)
                        GROUP BY value HAVING count(DISTINCT number) > 1) f
                    WHERE claim.value = f.value
                    """
                )
            self._note(reached)
        self.lacks_values = self._any_without_value()

    def free(self) -> list[tuple[int, int, int]]:
        """Return the records that can have their value now, as (kind, partition, offset).

        No other record has the value any more. If several records of this instance claim it, only
        the oldest is returned.
        """
        with self._files.faults():
            found = self._files.rows(
                """
                SELECT c.kind, c.part, c.at_offset FROM held.claim c JOIN own USING (kind, part)
                WHERE NOT c.told AND NOT EXISTS (
                    FROM held.claim o WHERE o.value = c.value AND o.number <> c.number AND (
                        o.told OR NOT EXISTS (FROM own WHERE kind = o.kind AND part = o.part)))
                QUALIFY row_number() OVER (
                    PARTITION BY value ORDER BY at_time, kind, part, at_offset) = 1
                """
            )
        return [tuple(row) for row in found]

    def note_delivered(self, places: Sequence[tuple[int, int, int]]) -> None:
        """Remember that the product has these records with their values."""
        with self._files.faults(), self._files.transaction():
            for place in places:
                self._con.execute(
                    "UPDATE held.claim SET told = true "
                    "WHERE kind = ? AND part = ? AND at_offset = ?",
                    list(place),
                )
        self.lacks_values = self._any_without_value()

    # ---- within --------------------------------------------------------------------------------

    def _any_without_value(self) -> bool:
        """Return whether some record was delivered without its value."""
        return bool(self._files.rows("SELECT 1 FROM held.claim WHERE NOT told LIMIT 1"))

    def _note(self, reached: Mapping[tuple[int, int], int]) -> None:
        """Write the offsets before which all messages are in the file."""
        for (kind, part), offset in reached.items():
            if offset > self.next(kind, part):
                self._con.execute(
                    "DELETE FROM held.reach WHERE kind = ? AND part = ?", [kind, part]
                )
                self._con.execute("INSERT INTO held.reach VALUES (?, ?, ?)", [kind, part, offset])
                self._next[kind, part] = offset

    def _is_usable(self, mark: str) -> bool:
        """Create the tables of a new file. Return whether the file has this mark."""
        self._con.execute("CREATE TABLE IF NOT EXISTS held.about (mark VARCHAR)")
        self._con.execute(
            "CREATE TABLE IF NOT EXISTS held.reach (kind TINYINT, part INTEGER, next BIGINT)"
        )
        self._con.execute(
            "CREATE TABLE IF NOT EXISTS held.claim (kind TINYINT, number UBIGINT, value UBIGINT, "
            "part INTEGER, at_offset BIGINT, at_time BIGINT, told BOOLEAN)"
        )
        found = self._files.rows("SELECT mark FROM held.about")
        if not found:
            self._con.execute("INSERT INTO held.about VALUES (?)", [mark])
        return not found or found[0][0] == mark
