"""Batches of rows as zip files of CSV in a folder, each batch once.

A batch is one zip, `canvas-20261124T141502.123456Z-000001.zip`: the time in UTC, never before that
of the zip before it, and a running number. Sorted by name, the zips are in the order in which they
must be imported, also when several instances of a consumer write to the folder. A zip holds only
the files that have rows, in the product's order (see `consumers.delivery.csv_zip`).

Exactly once. `OUT/.schoolbus/NAME.json` is the journal: the offsets that the folder stands for. As
a district's script may take the zips away, it does not depend on them. A batch is written so, all
of it under a lock and each step on the disk before the next:

    1. the zip, as .schoolbus/ZIP.part
    2. the journal: "pending: ZIP, with these offsets"
    3. the zip is renamed to its place
    4. the journal: these offsets, nothing pending

Whoever comes next finishes what was begun. Something is pending: with its .part still there, step
3 was not done, and the batch never was; without it, the zip was given, and its offsets count. A
.part that nothing speaks of is from before step 2, and goes.

`consumers.delivery.shared_folder` has the lock, and says whose a partition is. The journal stores
the owners. Files are for their owner alone (0600).
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
    """A `bus.delivery.Redelivery` into a folder; `name` begins the zips' names."""

    def __init__(self, out: Path, name: str, layout: Layout | None = None) -> None:
        self._name = name
        self._layout = layout or Layout()
        self._folder = SharedFolder(out, name)
        self._claimed: set[Position] = set()
        self._written: dict[Position, int] = {}
        self._given: list[Part] = []  # in a zip that was given, while the journal cannot be written

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """The offsets of the folder for these partitions, which are now this instance's."""
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
        """Write the batch as one zip; nothing is ever refused by a folder."""
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
        """Write the batch as one zip after all others, unless the folder stands for what was not
        `seen`; a replay's own offsets keep it from being written twice."""
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
        """Nothing is ever put off."""

    def release(self, partitions: Iterable[Position]) -> None:
        """Nothing: the next owner takes them by `resume`."""

    def close(self) -> None:
        """Nothing is held between calls."""

    def _lost(self, journal: dict[str, Any]) -> set[Position]:
        """What was this instance's and has another owner now.

        A journal that was taken away and made anew names no owner: then nobody else has resumed.
        """
        owners, us = journal["owners"], self._folder.instance
        return {p for p in self._claimed if owners.get(_key(p), us) != us}

    def _new(self, parts: Iterable[Part], offsets: Mapping[Position, int]) -> list[Part]:
        """Parts without what is written already: by its offset, or in a zip that was given.

        offsets: the batch's; a batch without any tells again what was written.
        """
        written: Mapping[Any, int] = self._written if offsets else {}
        given = {_place(message) for part in self._given for message in part.messages}

        def new(message: Message) -> bool:
            topic, partition, offset = place = _place(message)
            return offset >= written.get((topic, partition), -1) and place not in given

        return [sifted(part, new) for part in parts]

    def _give(self, journal: dict[str, Any], data: bytes, given: dict[str, Any]) -> None:
        """Steps 1 to 3 of the module's docstring; `given` is what then counts in the journal."""
        zip_name = self._next(journal)
        part = self._folder.own / f"{zip_name}.part"
        self._write(part, data)
        journal["pending"] = {"zip": zip_name, **given}
        self._save(journal)
        part.rename(self._folder.out / zip_name)
        sync(self._folder.out)
        sync(self._folder.own)

    def _next(self, journal: dict[str, Any]) -> str:
        """The next zip's name: after every other, also when the clock went back."""
        now = datetime.now(UTC)
        if journal["last"]:
            last = datetime.strptime(journal["last"], MOMENT).replace(tzinfo=UTC)
            now = max(now, last + timedelta(microseconds=1))
        journal["last"] = now.strftime(MOMENT)
        journal["count"] += 1
        return f"{self._name}-{journal['last']}-{journal['count']:06d}.zip"

    @contextmanager
    def _alone(self) -> Iterator[dict[str, Any]]:
        """The journal, with nothing pending, and no other instance at work."""
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
                f"the journal {path} cannot be read; if the folder's zips have all been imported, "
                "delete it, and the group's own offsets are used"
            ) from None
        return journal

    def _save(self, journal: dict[str, Any]) -> None:
        path = self._folder.own / f"{self._name}.json"
        new = path.with_suffix(".new")
        self._write(new, json.dumps(journal, sort_keys=True).encode())
        new.replace(path)
        sync(self._folder.own)

    def _write(self, path: Path, data: bytes) -> None:
        """A file and its name, on the disk."""
        with private(path) as file:
            file.write(data)
        sync(path.parent)


def _place(message: Message) -> tuple[Any, Any, Any]:
    return message.topic(), message.partition(), message.offset()


def _key(position: Position) -> str:
    return f"{position.topic}/{position.partition}"
