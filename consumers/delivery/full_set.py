"""Delivery of a complete set of CSV files into a folder; every set that is written is valid.

For products that take whole sets, where a missing record counts as removed. The rows of every
record are kept in `OUT/.schoolbus/state.sqlite` (`consumers.delivery.set_state`). In a folder
without that file, the consumer reads the topics again from their beginnings. The files are written
from a mirror of these rows (`consumers.delivery.set_mirror`), which can be deleted at any time.

The set is written when the consumer has caught up (`settle`) and something has changed since the
last set. The state records this, so a crash does not lose it. The steps are:

    1. every file is written as .schoolbus/FILE.part, durably (`consumers.delivery.set_file`)
    2. each file is renamed to OUT/FILE, one after the other
    3. .schoolbus/set.json: the time (UTC), and the number of rows and the SHA-256 of each file
    4. the state: this set has been written

After a crash between steps 2 and 4 the set is written again. A script that takes the files away
should check them against set.json. It never finds an incomplete file.

A set is never written if one of its required files would have no rows, because it would remove
everyone. This can happen after the bus was rebuilt. A row that is valid until a last day is left
out of the first set that is written after that day.

A product may want one zip (`Archive`) instead of separate files. Steps 1 and 2 then are:

    1. every file is written as .schoolbus/FILE.part; the zip is made of them, .schoolbus/ZIP.part
    2. the zip is renamed to OUT/ZIP

Several instances may share a folder (`consumers.delivery.shared_folder`). A set from partly read
topics would remove people. So no set is written until every partition of the state has an owner
that has caught up with it. Only the user who owns the files can read them (0600).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import structlog

from bus.delivery import Batch, Position, Refusal, Table
from consumers.delivery import set_mirror
from consumers.delivery.disk import private, sync
from consumers.delivery.set_file import Reference, Unique, write_file
from consumers.delivery.set_mirror import SetMirror
from consumers.delivery.set_state import SetState
from consumers.delivery.shared_folder import SharedFolder

log = structlog.get_logger(__name__)
CHUNK = 1024**2
"""Bytes that are packed at once."""
MORE_MEMORY = 4
"""How many times the usual memory a set may take that does not fit into the usual one."""


@dataclass(frozen=True, slots=True)
class Archive:
    """One zip that holds the files of a set that have rows. The same rows give the same bytes.

    name:     the name of the zip.
    order:    the names of the files, in the order in which the zip has them.
    describe: takes the names of the files that have rows, and returns the name and the content of
              one more file, which comes first in the zip.

    A set without any row is written only if a zip exists, to remove the rows in it.
    """

    name: str
    order: Sequence[str]
    describe: Callable[[Collection[str]], tuple[str, bytes]]


class FullSet:
    """A `bus.delivery.Redelivery` of a whole set into a folder; its rows are lists of `Row`.

    tables:     the files, referenced tables first; every set has all of them.
    references: for each table, the columns that refer to another table.
    ends:       for each table whose rows are valid until a day, the record's field with the last
                day.
    today:      returns the current day of the district, which decides whether such rows are in the
                set.
    required:   the tables that must have rows; otherwise no set is written.
    revision:   the version of the translation; change it when the same records give other rows than
                before.
    named_by:   for each table whose rows are in the set only if another row names them, the tables
                with such rows (see `consumers.delivery.set_file.write_file`).
    unique:     for each table, the columns whose value only one row may have.
    archive:    the zip that holds the set. None: the files are in the folder itself.
    by_partition: whether records may lack their owner, such as a deletion in a vendor's topics.
                Such a record replaces the rows that came from its own partition.
    """

    def __init__(
        self,
        out: Path,
        tables: Sequence[Table],
        references: Mapping[str, Sequence[Reference]],
        ends: Mapping[str, str],
        today: Callable[[], date],
        required: Sequence[str] = (),
        revision: str = "",
        named_by: Mapping[str, Sequence[Table]] | None = None,
        unique: Mapping[str, Sequence[Unique]] | None = None,
        archive: Archive | None = None,
        *,
        by_partition: bool = False,
    ) -> None:
        self._tables = tables
        self._archive = archive
        self._named_by = named_by or {}
        self._unique = unique or {}
        self._references = references
        self._today = today
        self._required = required
        self._empty: list[str] = []
        self._folder = SharedFolder(out, "set")
        self._state = SetState(self._folder, tables, ends, revision, by_partition=by_partition)

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Take the partitions and return the next offsets of the state, 0 where it has none."""
        return self._state.claim(cluster, list(partitions))

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Keep the batch's rows and offsets in one transaction; a set refuses nothing."""
        self._state.keep(batch)
        return ()

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]:
        """Replace the rows of the batch's records.

        Raises `Overtaken` when the state covers offsets beyond `seen`. Doing this twice has the
        same result as doing it once.
        """
        self._state.keep_again(batch, seen)
        return ()

    def settle(self) -> None:
        """Write the set if it has changed and every instance has caught up."""
        with self._state.faults(), self._folder.alone():
            self._state.note_caught_up()
            today = self._today().isoformat()
            if not self._state.due(today):
                return
            if behind := self._state.behind:
                log.info(
                    "the set waits until other instances have caught up", partitions_behind=behind
                )
                return
            self._write(today)

    def release(self, partitions: Iterable[Position]) -> None:
        """Give the partitions up; no set is written until their next owner has caught up."""
        self._state.give_up(partitions)

    def withdraw(self) -> None:
        """Delete the zip, unless another set has taken the folder over."""
        if self._archive is not None and self._state.is_ours():
            (self._folder.out / self._archive.name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the state."""
        self._state.close()

    def _write(self, today: str) -> None:
        """Do the steps of the module's docstring."""
        out, own = self._folder.out, self._folder.own
        changes, files, left_out = self._write_parts(today)
        empty = [name for name in self._required if not files[name]["rows"]]
        if empty:
            if empty != self._empty:  # logged once, not at every try
                log.warning("no set is written because required files would be empty", files=empty)
            self._empty = empty
            self._remove_parts()
            return
        account = {"writtenAt": datetime.now(UTC).isoformat(timespec="seconds"), "files": files}
        if self._archive is None:
            for table in self._tables:
                (own / f"{table.name}.part").replace(out / table.name)
        elif any(file["rows"] for file in files.values()) or (out / self._archive.name).exists():
            account = {**account, "files": self._pack(self._archive, files), "contents": files}
        else:
            self._remove_parts()
            return
        sync(out)
        new = own / "set.json.part"
        with private(new) as file:
            file.write(json.dumps(account, indent=2).encode())
        new.replace(own / "set.json")
        sync(own)
        self._state.note_written(changes, today)
        if left_out:
            log.info(
                "rows left out: a referenced record is not in the set, or no row refers to them",
                **left_out,
            )

    def _pack(self, archive: Archive, files: Mapping[str, Any]) -> dict[str, Any]:
        """Put the zip into the folder and return its entry for set.json."""
        own = self._folder.own
        new = own / f"{archive.name}.part"
        filled = [name for name in archive.order if files[name]["rows"]]
        with private(new) as file, zipfile.ZipFile(file, "w") as packed:
            name, content = archive.describe(filled)
            packed.writestr(_entry(name, len(content)), content)
            for name in filled:
                part = own / f"{name}.part"
                with (
                    part.open("rb") as source,
                    packed.open(_entry(name, part.stat().st_size), "w") as target,
                ):
                    shutil.copyfileobj(source, target, CHUNK)
        with new.open("rb") as file_again:
            digest = hashlib.file_digest(file_again, "sha256").hexdigest()
        new.replace(self._folder.out / archive.name)
        self._remove_parts()
        rows = sum(files[name]["rows"] for name in filled)
        return {archive.name: {"rows": rows, "sha256": digest}}

    def _remove_parts(self) -> None:
        for table in self._tables:
            (self._folder.own / f"{table.name}.part").unlink()

    def _write_parts(self, today: str) -> tuple[str, dict[str, Any], dict[str, int]]:
        """Do step 1 and return the number of the change, the files' entries and the rows left out.

        A mirror that fails is deleted, and the step is repeated once with a new one. A mirror for
        which the memory was too small is kept, and the step is repeated once with more memory.
        """
        memory = set_mirror.MEMORY_MB
        mirror = SetMirror(self._folder, self._tables, memory)
        try:
            return self._write_from(mirror, today)
        except mirror.too_small:
            memory *= MORE_MEMORY
            log.warning("the rows of the set need more memory", megabytes=memory)
        except mirror.error as error:
            log.info("the mirror of the set's rows is rebuilt", error=type(error).__name__)
            mirror.delete()
        finally:
            mirror.close()
        mirror = SetMirror(self._folder, self._tables, memory)
        with mirror.faults(), closing(mirror):
            return self._write_from(mirror, today)

    def _write_from(
        self, mirror: SetMirror, today: str
    ) -> tuple[str, dict[str, Any], dict[str, int]]:
        con, changes = mirror.follow(self._state)
        files, left_out = {}, {}
        for table in self._tables:
            references = self._references.get(table.name, ())
            named_by = [
                (other, self._references.get(other.name, ()))
                for other in self._named_by.get(table.name, ())
            ]
            unique = self._unique.get(table.name, ())
            part = self._folder.own / f"{table.name}.part"
            files[table.name], missing = write_file(
                con, part, table, references, today, named_by, unique
            )
            if missing:
                left_out[table.name] = missing
        return changes, files, left_out


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    """Return the entry of a file in a zip: without a time, and readable only by its owner."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    entry.file_size = size  # decides whether the entry is a large one (ZIP64)
    return entry
