"""A delivery into a folder: each table is a CSV file that holds the latest row of each thing.

A row replaces the one with the same first column, so the same batch may come twice. The file
`offsets.json` is written last and says for which offsets the folder stands. Each file is replaced as
a whole. A lock keeps several copies apart.
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
        """The offsets of the folder, unless they are those of another cluster."""
        with self._alone() as journal:
            if journal.get("cluster") != cluster:
                journal.clear()
                journal.update({"cluster": cluster, "offsets": {}})
                self._keep(journal)
            known = journal["offsets"]
            return {at: known[_key(at)] for at in partitions if _key(at) in known}

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Take all rows of a batch; a folder refuses nothing."""
        with self._alone() as journal:
            self._take(batch.parts)
            journal["offsets"] |= {_key(at): offset for at, offset in batch.offsets.items()}
            self._keep(journal)
        return ()

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]:
        """Take rows of a replay, unless a live copy has delivered what was not `seen`."""
        with self._alone() as journal:
            known = journal["offsets"]
            if any(known.get(_key(at), 0) > offset for at, offset in seen.items()):
                raise Overtaken
            self._take(batch.parts)
        return ()

    def settle(self) -> None:
        """Nothing is put off."""

    def release(self, partitions: Iterable[Position]) -> None:
        """Nothing is held for a partition."""

    def close(self) -> None:
        """Nothing is held open."""

    @contextmanager
    def _alone(self) -> Iterator[dict[str, Any]]:
        """The journal, while no other copy writes."""
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
    """The rows of a file; none when it is not there."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class _Line:
    """What a `csv.writer` writes to: gives the line back."""

    def write(self, line: str) -> str:
        return line


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    writer = csv.writer(_Line())
    for cells in [columns, *(row.values() for row in rows)]:
        yield str(writer.writerow(cells))


def _key(at: Position) -> str:
    return f"{at.topic}/{at.partition}"
