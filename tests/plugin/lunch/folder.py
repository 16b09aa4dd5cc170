"""A delivery into a folder: each table is a CSV file that holds the latest row of each record.

A row replaces the one with the same first column, so a batch may come twice. The file `offsets.json`
is written last, and has the offsets up to which the folder is complete. Each file is replaced as a
whole. A lock keeps instances from writing at the same time.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bus import Batch, Overtaken, Part, Position, Refusal, RetryLater


class Folder:
    """A `bus.Delivery`."""

    def __init__(self, out: Path) -> None:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._out = out

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Return the offsets of the folder, or none if they belong to another cluster."""
        with self._alone() as journal:
            if journal.get("cluster") != cluster:
                journal.clear()
                journal.update({"cluster": cluster, "offsets": {}})
                self._keep(journal)
            known = journal["offsets"]
            return {at: known[_key(at)] for at in partitions if _key(at) in known}

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Take all rows of a batch. A folder refuses nothing."""
        with self._alone() as journal:
            self._take(batch.parts)
            journal["offsets"] |= {_key(at): offset for at, offset in batch.offsets.items()}
            self._keep(journal)
        return ()

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]:
        """Take rows of a replay, unless a live instance has delivered events after `seen`."""
        with self._alone() as journal:
            known = journal["offsets"]
            if any(known.get(_key(at), 0) > offset for at, offset in seen.items()):
                raise Overtaken
            self._take(batch.parts)
        return ()

    def settle(self) -> None:
        """Do nothing, because no rows are deferred."""

    def release(self, partitions: Iterable[Position]) -> None:
        """Do nothing, because no rows are held for a partition."""

    def close(self) -> None:
        """Do nothing, because nothing is open."""

    @contextmanager
    def _alone(self) -> Iterator[dict[str, Any]]:
        """Yield the journal while no other instance writes."""
        try:
            with (self._out / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                path = self._out / "offsets.json"
                yield json.loads(path.read_text("utf-8")) if path.exists() else {"offsets": {}}
        except OSError as error:
            raise RetryLater(f"{self._out} cannot be written ({error.strerror})") from None

    def _keep(self, journal: dict[str, Any]) -> None:
        self._replace("offsets.json", json.dumps(journal))

    def _take(self, parts: Iterable[Part]) -> None:
        for part in parts:
            first = part.table.columns[0]
            rows = {row[first]: row for row in rows_of(self._out / part.table.name)}
            rows |= {row[first]: row for row in part.rows}
            self._replace(part.table.name, "".join(_lines(part.table.columns, rows.values())))

    def _replace(self, name: str, text: str) -> None:
        new = self._out / f"{name}.new"
        with new.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._out / name)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file, or none if it does not exist."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class _Line:
    """A file for `csv.writer` that returns the line to the caller."""

    def write(self, line: str) -> str:
        return line


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    writer = csv.writer(_Line())
    for cells in [columns, *(row.values() for row in rows)]:
        yield str(writer.writerow(cells))


def _key(at: Position) -> str:
    return f"{at.topic}/{at.partition}"
