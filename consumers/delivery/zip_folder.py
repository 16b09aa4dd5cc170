"""Delivery of batches as zip files of CSV into a folder, each batch exactly once.

A batch is one zip, such as `canvas-20261124T141502.123456Z-000001.zip`. The name has the time in
UTC, which is always later than that of the previous zip, and a running number. Sorted by name, the
zips are in the order in which they must be imported, also when several instances of a consumer
write to the folder. A zip holds only the files that have rows, in the product's order (see
`consumers.delivery.csv_zip`).

Exactly once. `OUT/.schoolbus/NAME.json` is the journal. It has the offsets that the folder covers.
It does not depend on the zips, because a district's script may take them away. A batch is written
in these steps, all under a lock. Each step is durable before the next one begins:

    1. the zip is written as .schoolbus/ZIP.part
    2. the journal: "pending: ZIP, with these offsets"
    3. the zip is renamed to its place
    4. the journal: these offsets, nothing pending

The next instance that takes the lock completes an interrupted batch. If a zip is pending and its
.part still exists, step 3 was not done: the batch does not count. If the .part does not exist, the
zip was delivered and its offsets count. A .part that the journal does not name is from before step
2 and is deleted.

`consumers.delivery.shared_folder` has the lock and explains the owners of partitions. The journal
stores the owners. Only the user who owns the files can read them (0600).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bus.delivery import Batch, Overtaken, Part, Position, Refusal
from bus.errors import Stop
from consumers.delivery.csv_zip import Layout, pack, sheets
from consumers.delivery.disk import private, sync
from consumers.delivery.shared_folder import SharedFolder, sifted, without

if TYPE_CHECKING:
    from confluent_kafka import Message

MOMENT = "%Y%m%dT%H%M%S.%fZ"


class ZipFolder:
    """A `bus.delivery.Redelivery` into a folder; the zips' names begin with `name`."""

    def __init__(self, out: Path, name: str, layout: Layout | None = None) -> None:
        self._name = name
        self._layout = layout or Layout()
        self._folder = SharedFolder(out, name)
        self._claimed: set[Position] = set()
        self._written: dict[Position, int] = {}
        self._given: list[Part] = []  # in a zip that is in its place but not yet in the journal

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Take the partitions and return the offsets that the folder has for them."""
        asked = list(partitions)
        with self._alone() as journal:
            if journal.setdefault("cluster", cluster) != cluster:
                journal |= {"cluster": cluster, "offsets": {}, "owners": {}}
            found = {p: journal["offsets"][_key(p)] for p in asked if _key(p) in journal["offsets"]}
            for position in asked:
                journal["owners"][_key(position)] = self._folder.instance
                self._claimed.add(position)
                self._written.pop(position, None)
            self._save(journal)
        return found

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Write the batch as one zip; a folder refuses nothing."""
        with self._alone() as journal:
            lost = self._lost(journal)
            parts = self._new([without(part, lost) for part in batch.parts], batch.offsets)
            found = sheets(parts, self._layout)
            ours = {p: offset for p, offset in batch.offsets.items() if p not in lost}
            offsets = {_key(position): offset for position, offset in ours.items()}
            if found:
                self._give(journal, pack(found, self._layout), {"offsets": offsets})
                self._given = parts
            journal["pending"] = None
            journal["offsets"] |= offsets
            journal["owners"] |= dict.fromkeys(offsets, self._folder.instance)
            self._save(journal)
            self._claimed |= set(ours)
            self._written |= ours
            self._given = []
        return ()

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]:
        """Write the batch as one zip after all others.

        Raises `Overtaken` when the folder covers offsets beyond `seen`. The journal stores the
        offsets of each replay, so that no batch of it is written twice.
        """
        with self._alone() as journal:
            if any(journal["offsets"].get(_key(p), 0) > at for p, at in seen.items()):
                raise Overtaken
            offsets = {_key(position): offset for position, offset in batch.offsets.items()}
            done = journal.setdefault("replays", {}).get(replay, {})
            if any(offset > done.get(key, -1) for key, offset in offsets.items()):
                found = sheets(batch.parts, self._layout)
                given = {"offsets": {}, "replays": {replay: done | offsets}}
                if found:
                    self._give(journal, pack(found, self._layout), given)
                journal["pending"] = None
                journal["replays"] |= given["replays"]
                self._save(journal)
        return ()

    def settle(self) -> None:
        """Do nothing: `deliver` defers nothing."""

    def release(self, partitions: Iterable[Position]) -> None:
        """Do nothing: the next owner takes the partitions with `resume`."""

    def close(self) -> None:
        """Do nothing: the delivery holds nothing between calls."""

    def _lost(self, journal: dict[str, Any]) -> set[Position]:
        """Return the partitions that this instance had and that have another owner now.

        A journal that was deleted and rebuilt names no owner. Then no other instance has resumed.
        """
        owners, us = journal["owners"], self._folder.instance
        return {p for p in self._claimed if owners.get(_key(p), us) != us}

    def _new(self, parts: Iterable[Part], offsets: Mapping[Position, int]) -> list[Part]:
        """Return the parts without the rows that were written before.

        A row was written if its offset is covered, or if it is in a zip that was put into the
        folder while the journal could not be saved.

        offsets: the offsets of the batch. A batch without offsets delivers written records again.
        """
        written: Mapping[Any, int] = self._written if offsets else {}
        given = {_place(message) for part in self._given for message in part.messages}

        def new(message: Message) -> bool:
            topic, partition, offset = place = _place(message)
            return offset >= written.get((topic, partition), -1) and place not in given

        return [sifted(part, new) for part in parts]

    def _give(self, journal: dict[str, Any], data: bytes, given: dict[str, Any]) -> None:
        """Do steps 1 to 3 of the module's docstring.

        given: what the journal gets when the zip is in its place: offsets, or a replay's offsets.
        """
        zip_name = self._next(journal)
        part = self._folder.own / f"{zip_name}.part"
        self._write(part, data)
        journal["pending"] = {"zip": zip_name, **given}
        self._save(journal)
        part.rename(self._folder.out / zip_name)
        sync(self._folder.out)
        sync(self._folder.own)

    def _next(self, journal: dict[str, Any]) -> str:
        """Return the next zip's name, which sorts after all others even if the clock went back."""
        now = datetime.now(UTC)
        if journal["last"]:
            last = datetime.strptime(journal["last"], MOMENT).replace(tzinfo=UTC)
            now = max(now, last + timedelta(microseconds=1))
        journal["last"] = now.strftime(MOMENT)
        journal["count"] += 1
        return f"{self._name}-{journal['last']}-{journal['count']:06d}.zip"

    @contextmanager
    def _alone(self) -> Iterator[dict[str, Any]]:
        """Hold the lock and yield the journal, with nothing pending."""
        with self._folder.alone():
            yield self._recovered()

    def _recovered(self) -> dict[str, Any]:
        journal = self._load()
        pending = journal["pending"]
        if pending is not None and not (self._folder.own / f"{pending['zip']}.part").exists():
            journal["offsets"] |= pending["offsets"]
            journal.setdefault("replays", {}).update(pending.get("replays", {}))
        if pending is not None:
            journal["pending"] = None
            self._save(journal)
        for orphan in self._folder.own.glob(f"{self._name}-*.part"):
            orphan.unlink()
        return journal

    def _load(self) -> dict[str, Any]:
        path = self._folder.own / f"{self._name}.json"
        try:
            journal: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            zips = sorted(self._folder.out.glob(f"{self._name}-*Z-??????.zip"))
            last = zips[-1].name.removeprefix(f"{self._name}-")[:23] if zips else ""
            return {"offsets": {}, "owners": {}, "pending": None, "last": last, "count": len(zips)}
        except ValueError:
            raise Stop(
                f"the journal {path} is damaged; if all zips of the folder have been imported, "
                "delete it: the consumer then uses the offsets of its consumer group"
            ) from None
        return journal

    def _save(self, journal: dict[str, Any]) -> None:
        path = self._folder.own / f"{self._name}.json"
        new = path.with_suffix(".new")
        self._write(new, json.dumps(journal, sort_keys=True).encode())
        new.replace(path)
        sync(self._folder.own)

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file and its name to the disk."""
        with private(path) as file:
            file.write(data)
        sync(path.parent)


def _place(message: Message) -> tuple[Any, Any, Any]:
    return message.topic(), message.partition(), message.offset()


def _key(position: Position) -> str:
    return f"{position.topic}/{position.partition}"
