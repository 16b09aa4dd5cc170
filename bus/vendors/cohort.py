"""The students who are in an agreement now, or who are leaving it.

A student with a row has one of these states. A student without a row is not in the agreement.

    IN       the student's records are sent
    LEAVING  the roster no longer puts the student into the agreement: the vendor has the records as
             withdrawn, until they are deleted `leave_after` days later
    HELD     the guard holds the student back: the vendor keeps what it has, until a person decides

For a student who is LEAVING or HELD, the row has the keys of the vendor's records, with the ids to
which these records refer. So the projection can delete these records later, even if the district's
records have changed by then.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import IntEnum
from itertools import islice

from bus.vendors.district_view import AT_ONCE, EARLIER, Key


class State(IntEnum):
    """The state of a student in an agreement."""

    IN = 1
    LEAVING = 2
    HELD = 3


@dataclass(slots=True)
class CohortMember:
    """A student of an agreement.

    state:   the state.
    since:   the day since which it has this state; only for LEAVING.
    keys:    the records about the student that the vendor has; only for LEAVING and HELD.
    refers:  the records to which these refer, once for each reference.
    """

    state: State
    since: date | None = None
    keys: list[Key] = field(default_factory=list)
    refers: list[Key] = field(default_factory=list)


class Cohort:
    """The students of one agreement, in the file of the view."""

    def __init__(self, con: sqlite3.Connection, agreement: str) -> None:
        self._con = con
        self._agreement = agreement

    def get(self, students: Iterable[str]) -> dict[str, CohortMember]:
        """Return the rows of these students; a student without a row is missing."""
        found = {}
        rest = iter(students)
        while some := list(islice(rest, AT_ONCE)):
            for student, state, since, keys in self._con.execute(
                "SELECT student, state, since, keys FROM cohort WHERE agreement = ? AND student IN "
                f"({','.join('?' * len(some))})",
                [self._agreement, *some],
            ):
                found[student] = _member(state, since, keys)
        return found

    def among(self, students: Iterable[str]) -> set[str]:
        """Return those of these students who have a row, in any state."""
        found: set[str] = set()
        rest = iter(students)
        while some := list(islice(rest, AT_ONCE)):
            rows = self._con.execute(
                "SELECT student FROM cohort WHERE agreement = ? AND student IN "
                f"({','.join('?' * len(some))})",
                [self._agreement, *some],
            )
            found.update(student for (student,) in rows)
        return found

    def put(self, student: str, member: CohortMember | None) -> None:
        """Store a student's state; None: the student is not in the agreement any more."""
        if member is None:
            self._con.execute(
                "DELETE FROM cohort WHERE agreement = ? AND student = ?", [self._agreement, student]
            )
            return
        keys = json.dumps([member.keys, member.refers]) if member.keys else None
        since = member.since.isoformat() if member.since else None
        self._con.execute(
            "INSERT OR REPLACE INTO cohort VALUES (?, ?, ?, ?, ?)",
            [self._agreement, student, int(member.state), since, keys],
        )

    def put_in(self, students: Iterable[str]) -> None:
        """Store that students are in the agreement (state `IN`)."""
        self._con.executemany(
            "INSERT OR REPLACE INTO cohort VALUES (?, ?, ?, NULL, NULL)",
            [(self._agreement, student, int(State.IN)) for student in students],
        )

    def left_before(self, day: date, leave_after: int) -> list[str]:
        """Return the students who have been LEAVING for this many days."""
        last = (day - timedelta(days=leave_after)).isoformat()
        return [
            student
            for (student,) in self._con.execute(
                "SELECT student FROM cohort WHERE agreement = ? AND state = ? AND since <= ?",
                [self._agreement, int(State.LEAVING), last],
            )
        ]

    def students(self, *states: State) -> list[str]:
        """Return the students in one of these states."""
        return [
            student
            for (student,) in self._con.execute(
                "SELECT student FROM cohort WHERE agreement = ? AND state IN "
                f"({','.join('?' * len(states))})",
                [self._agreement, *map(int, states)],
            )
        ]

    def size(self) -> int:
        """Return how many students are IN."""
        (number,) = self._con.execute(
            "SELECT count(*) FROM cohort WHERE agreement = ? AND state = ?",
            [self._agreement, int(State.IN)],
        ).fetchone()
        return int(number)

    def after(self, student: str, number: int) -> list[str]:
        """Return the next students in any state, in order of their ids."""
        return [
            one
            for (one,) in self._con.execute(
                "SELECT student FROM cohort WHERE agreement = ? AND student > ? "
                "ORDER BY student LIMIT ?",
                [self._agreement, student, number],
            )
        ]

    def clear(self) -> None:
        """Forget all students."""
        self._con.execute("DELETE FROM cohort WHERE agreement = ?", [self._agreement])

    def move_to_earlier(self, agreement: str) -> None:
        """Move all students to the earlier cohort of an agreement, beside those who are in it."""
        self._con.execute(
            "UPDATE OR IGNORE cohort SET agreement = ? WHERE agreement = ?",
            [agreement + EARLIER, self._agreement],
        )
        self.clear()


def _member(state: int, since: str | None, keys: str | None) -> CohortMember:
    stored, refers = json.loads(keys) if keys else ((), ())
    return CohortMember(
        State(state),
        date.fromisoformat(since) if since else None,
        [_key(one) for one in stored],
        [_key(one) for one in refers],
    )


def _key(pair: Sequence[str]) -> Key:
    kind, id_ = pair
    return kind, id_
