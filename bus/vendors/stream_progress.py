"""How much of each agreement's topics the projection has written, in the file of the view.

The projection writes a vendor's topics whole when an agreement is applied for the first time, when
the agreement or its ids change, and when the file was lost. It writes student by student, in slices
between the live changes. So a new vendor does not delay the other vendors.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from bus.vendors.applied import rekeys
from bus.vendors.cohort import Cohort
from bus.vendors.district_view import EARLIER, PROJECTION_TABLES, forget_agreement


@dataclass(slots=True)
class EarlierAgreement:
    """An agreement under which records in the vendor's topics were written.

    agreement: as its file has it.
    above:     the organizations above the selected schools, as the topics show them.
    rekeyed:   how many times a rekey had changed the ids before.
    """

    agreement: dict[str, Any]
    above: list[str]
    rekeyed: int = 0


@dataclass(slots=True)
class StreamProgress:
    """How much of one agreement's topics is written.

    fingerprint: what the vendor's topics show: the agreement's `Applied.edition`.
    agreement:   that agreement, as its file has it.
    earlier:     the agreements under which the messages before `ends` were written; empty when
                 everything is written.
    checked:     the last student of the earlier cohort who was looked at, before the topics are
                 written; None: all have been looked at.
    above:       the organizations above the selected schools, as the topics show them.
    reached:     the last student who was written; "" at the beginning; None after the last one.
    written:     whether the topics have been written whole. Until then, students after `reached`
                 are not sent.
    ends:        the ends of the vendor's partitions when writing began, by "topic/partition". The
                 messages before these ends are deleted when everything is written.
    confirmed:   how many of a person's confirmations took effect already (`Applied.confirmed`).
    held:        how many students the guard has held back since the last confirmation.
    round:       the number of the round in which the topics are written, if several shards write
                 them (`bus.vendors.shard_words`).
    stopped:     whether this shard must wait with writing until all shards have stopped to write
                 under the earlier edition.
    """

    fingerprint: str
    agreement: dict[str, Any] = field(default_factory=dict)
    above: list[str] = field(default_factory=list)
    earlier: list[EarlierAgreement] = field(default_factory=list)
    checked: str | None = None
    reached: str | None = ""
    written: bool = False
    ends: dict[str, int] = field(default_factory=dict)
    confirmed: int = 0
    held: int = 0
    round: int = 0
    stopped: bool = False

    @property
    def unfinished(self) -> bool:
        """Whether students must still be looked at, or old records be deleted."""
        return self.checked is not None or self.reached is not None or not self.written

    @property
    def busy(self) -> bool:
        """Whether `VendorStream.go_on` has something to do now."""
        return self.checked is not None or (self.reached is not None and not self.stopped)

    def shown(self) -> list[EarlierAgreement]:
        """Return the agreements under which the messages in the vendor's topics were written."""
        if not self.agreement:
            return self.earlier
        now = EarlierAgreement(self.agreement, self.above, rekeys(self.fingerprint))
        return [*self.earlier, now]


def read(con: sqlite3.Connection, agreement: str) -> StreamProgress | None:
    """Return how far an agreement is; None if it has not begun."""
    row = con.execute("SELECT body FROM progress WHERE agreement = ?", [agreement]).fetchone()
    if row is None:
        return None
    found = StreamProgress(**json.loads(row[0]))
    found.earlier = [EarlierAgreement(**one) for one in found.earlier]  # type: ignore[arg-type]
    return found


def shows(con: sqlite3.Connection, agreement: str) -> str:
    """Return the `Applied.edition` that the vendor's topics show; "" if they show none."""
    stored = read(con, agreement)
    return stored.fingerprint if stored else ""


def store(con: sqlite3.Connection, agreement: str, progress: StreamProgress) -> None:
    """Store how far an agreement is."""
    con.execute(
        "INSERT OR REPLACE INTO progress VALUES (?, ?)", [agreement, json.dumps(asdict(progress))]
    )


def hand_over(con: sqlite3.Connection, ended: str, renewal: str) -> None:
    """Make the students of an agreement that has ended the earlier cohort of its renewal.

    The renewal writes the same topics whole. Until then, they show the agreement that has ended.
    """
    progress = read(con, ended)
    if progress is None:
        return
    for name in (ended, ended + EARLIER):
        Cohort(con, name).move_to_earlier(renewal)
    forget_agreement(con, ended)
    store(con, renewal, StreamProgress("", earlier=progress.shown()))


def forget_others(con: sqlite3.Connection, wanted: Iterable[str]) -> None:
    """Remove the rows of all other agreements, which ended while no projection ran."""
    rows = {name for table in PROJECTION_TABLES for name in _names(con, table)}
    known = {name.removesuffix(EARLIER) for name in rows}
    for name in known.difference(wanted):
        forget_agreement(con, name)


def _names(con: sqlite3.Connection, table: str) -> Iterator[str]:
    """Yield the agreements in a table, with one look-up for each, even in a large table."""
    name = ""
    query = f"SELECT min(agreement) FROM {table} WHERE agreement > ?"
    while (name := con.execute(query, [name]).fetchone()[0]) is not None:
        yield name
