"""Counts how many records of an agreement refer to each record that is sent because of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from bus.vendors.district_view import DistrictView, Key, marks, slices


class Need:
    """The counts of one agreement, in the file of the view."""

    def __init__(self, view: DistrictView, agreement: str) -> None:
        self._con = view.con
        self._agreement = agreement
        self._counts: dict[Key, int] = {}
        self._changed: set[Key] = set()
        self._waiting: Counter[Key] = Counter()

    def count(self, key: Key) -> int:
        """Return how many sent records refer to a record."""
        if key not in self._counts:
            self._look_up([key])
        return self._counts[key]

    def add(self, key: Key, number: int) -> None:
        """Count more or fewer references. `work` then applies the new counts."""
        self._waiting[key] += number

    def add_all(self, numbers: Mapping[Key, int]) -> None:
        """Count more references."""
        self._waiting.update(numbers)

    def work(
        self,
        first: Callable[[Key], None],
        last: Callable[[Key], None],
        still: Callable[[Key], None],
        prepare: Callable[[Sequence[Key], Sequence[Key]], None],
    ) -> None:
        """Apply the new counts until no more references are counted.

        first:   called with a record when its first reference appears. It may count references.
        last:    called with a record when its last reference disappears. It may count references.
        still:   called with a record that had references before and still has some, if references
                 were added or removed. Their number may be the same as before.
        prepare: called with all of these records, and with those that `first` or `last` will get,
                 before these functions get each of them.
        """
        while self._waiting:
            waiting, self._waiting = self._waiting, Counter()
            self._look_up([key for key in waiting if key not in self._counts])
            calls: list[tuple[Callable[[Key], None], Key]] = []
            # New references first, so that a record is not dropped and sent again.
            for key, number in sorted(waiting.items(), key=lambda one: -one[1]):
                before = self._counts[key]
                after = before + number
                if number:
                    self._counts[key] = after
                    self._changed.add(key)
                if before <= 0 < after:
                    calls.append((first, key))
                elif after <= 0 < before:
                    calls.append((last, key))
                elif before > 0:
                    calls.append((still, key))
            prepare([key for _, key in calls], [key for call, key in calls if call != still])
            for call, key in calls:
                call(key)

    def _look_up(self, keys: Iterable[Key]) -> None:
        """Read counts from the file."""
        by_kind: dict[str, list[str]] = {}
        for kind, id_ in keys:
            by_kind.setdefault(kind, []).append(id_)
            self._counts[kind, id_] = 0
        for kind, ids in by_kind.items():
            for some in slices(ids):
                for id_, count in self._con.execute(
                    "SELECT id, count FROM need WHERE agreement = ? AND kind = ? AND id IN "
                    f"({marks(some)})",
                    [self._agreement, kind, *some],
                ):
                    self._counts[kind, id_] = count

    def store(self) -> None:
        """Write the counts into the file."""
        rows = [(self._agreement, *key, self._counts[key]) for key in self._changed]
        self._con.executemany(
            "INSERT OR REPLACE INTO need VALUES (?, ?, ?, ?)", [row for row in rows if row[3]]
        )
        self._con.executemany(
            "DELETE FROM need WHERE agreement = ? AND kind = ? AND id = ?",
            [row[:3] for row in rows if not row[3]],
        )
        self._changed.clear()
        if len(self._counts) > 200_000:
            self._counts.clear()

    def forget(self) -> None:
        """Forget all counts."""
        self._con.execute("DELETE FROM need WHERE agreement = ?", [self._agreement])
        self.clear()

    def clear(self) -> None:
        """Forget what is in memory, because a batch was dropped."""
        self._counts.clear()
        self._changed.clear()
        self._waiting.clear()
