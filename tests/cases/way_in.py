"""The days of a source, one after another, through all of `bus.ingest`, with topics in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from bus.delivery import Position
from bus.ingest import ownership, pipeline, quarantine, snapshot
from bus.ingest.report import ExtractDryRun, Report
from bus.kafka import topics
from bus.registry import subjects
from bus.registry.batch_codec import rows
from bus.registry.codec import Encoder
from bus.settings import Settings
from bus.source import Fault
from bus.standard import KINDS
from producers.oneroster_csv.read import RULES, read
from tests.cases import district

IDS = {kind: number for number, kind in enumerate(KINDS)}
"""The schema ids that the registry would give."""


@dataclass(frozen=True, slots=True)
class Event:
    """One published state of a record."""

    change: str
    kind: str
    record: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {self.record['sourcedId']} {self.change}"


@dataclass(frozen=True, slots=True)
class Day:
    """The outcome of one extract.

    reported: the events in short form, sorted: "student u-1 created".
    """

    report: Report
    events: list[Event]

    @property
    def reported(self) -> list[str]:
        return sorted(map(str, self.events))

    @property
    def faults(self) -> list[Fault]:
        return self.report.faults

    @property
    def left_out(self) -> list[Fault]:
        """Return the faults for which a row was left out."""
        return [fault for fault in self.faults if fault.fatal]

    def record(self, kind: str, id_: str) -> dict[str, Any]:
        """Return a record as this day published it."""
        (found,) = (
            event.record
            for event in self.events
            if (event.kind, event.record["sourcedId"]) == (kind, id_)
        )
        return found


@dataclass(slots=True)
class Topics:
    """What a publisher writes and a reader reads: the events of all days in order."""

    log: list[Event] = field(default_factory=list)
    replaced: bool = False
    unchecked: Mapping[str, Sequence[str]] = field(default_factory=dict)

    # As a publisher

    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield

    def publish(self, kind: str, change: str, batch: Any) -> None:
        self.log += [Event(change, kind, record) for record in rows(batch)]

    def raw(self, *_: object) -> None:
        """Ignore what goes to the quarantine, because the report has it too."""

    def close(self) -> None:
        pass

    # As a reader

    def __enter__(self) -> Topics:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def cluster(self) -> str:
        return "a cluster"

    def ends(self, names: list[str]) -> dict[Position, int]:
        return {Position(name, 0): len(self.log) for name in names}

    def since(
        self, ends: Mapping[Position, int], positions: dict[Position, int]
    ) -> Iterator[dict[str, snapshot._MessageColumns]]:
        """Yield the events after the positions, and move the positions to the end."""
        chunks: dict[str, snapshot._MessageColumns] = {}
        for at, event in enumerate(self.log[min(positions.values(), default=0) :]):
            chunk = chunks.setdefault(event.kind, snapshot._MessageColumns())
            chunk.ids.append(event.record["sourcedId"])
            chunk.times.append(at)
            chunk.offsets.append(at)
            chunk.values.append(Encoder(event.kind, IDS[event.kind]).encode(event.record))
        positions.update(ends)
        yield chunks


class WayIn:
    """One source of OneRoster extracts, before its first day."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._numbers = count(1)
        self._settings = Settings(home=folder / "home")
        self.topics = Topics()
        for module, name, instead in (
            (subjects, "lookup", lambda _: IDS),
            (topics, "ensure", lambda *_: None),
            (pipeline, "Publisher", lambda *_, **__: self.topics),
            (pipeline, "known_ids", lambda *_, **__: set()),
            (ownership, "announce", lambda *_: set()),
            (ownership, "others", lambda *_: set()),
            (quarantine, "scan", lambda *_: []),
            (snapshot, "Reader", lambda *_: self.topics),
            (snapshot, "schema_lookup", lambda _: lambda id_: list(KINDS.values())[id_].schema),
            (snapshot, "_published", lambda _, __, reader, *ends: reader.since(*ends)),
        ):
            monkeypatch.setattr(module, name, instead)

    def set(self, **limits: float) -> None:
        """Set thresholds of the guard."""
        changed = self._settings.mass_withdrawal.model_copy(update=limits)
        self._settings = self._settings.model_copy(update={"mass_withdrawal": changed})

    def day(self, *, allow: bool = False, rules: str = RULES, **how: Any) -> Day:
        """Publish the next day's extract: the district's, changed as in `district.write`.

        Raises `Stop` when the guard does.
        """
        return self.publish(partial(read, self._extract(how)), allow=allow, rules=rules)

    def publish(self, read: pipeline.Read, *, allow: bool = False, rules: str = "") -> Day:
        """Publish what a source reads."""
        begin = len(self.topics.log)
        report = pipeline.produce(
            self._settings, "sis", read, allow_mass_withdrawal=allow, rules=rules
        )
        return Day(report, self.topics.log[begin:])

    def dry_run(self, **how: Any) -> ExtractDryRun:
        """Return what the next day's extract would do."""
        return pipeline.dry_run(
            self._settings, "sis", partial(read, self._extract(how)), rules=RULES, most=10
        )

    def _extract(self, how: Mapping[str, Any]) -> Path:
        return district.write(self._folder / f"day {next(self._numbers)}", **how)
