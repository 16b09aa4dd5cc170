"""Compares two states of a product.

* `folders` compares an old and a new translation. The same history is replayed `--into` a folder
  with each of them, and the two folders are compared.
* `reconcile` compares the product's own export with what the topics say that it should have.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from bus.consume.dependency_order import KindRecords
from bus.consume.equivalents import Equivalents
from bus.consume.translation import translate
from bus.delivery import Batch, Delivery, Part, Position
from bus.errors import Stop
from bus.product import Product
from bus.registry.subjects import schema_lookup
from bus.replay import history
from bus.replay.latest import LatestStates
from bus.replay.product_rows import Differences, ProductStates, RowOrigin
from bus.replay.record_filter import FilteredRecords, RecordFilter
from bus.replay.replay_log import ReplayRequest
from bus.replay.selection import Selection, select
from bus.replay.window import Window, resolve
from bus.settings import Settings

SHOULD, HAS, MADE, WITHDRAWN = "should", "has", "made", "withdrawn"
Progress = Callable[[int], None]


def folders(product: Product, old: Path, new: Path) -> Differences:
    """Return how the files of one folder differ from those of another.

    Raises `Stop` for a folder that has none of the product's files.
    """
    with _states(product) as states:
        states.read("old", old)
        states.read("new", new)
        return states.differences("old", "new")


def reconcile(
    settings: Settings,
    product: Product,
    export: Path,
    open_into: Callable[[Path], Delivery],
    progress: Progress = lambda _: None,
) -> tuple[Differences, dict[str, set[str]]]:
    """Compare what a product has with what the topics say that it should have.

    open_into: opens the product's delivery into a folder. It writes the expected rows there as it
               would for the product, with the district's settings.

    Returns the differences, and the ids of the records that cause them, by kind.

    An extra row is attributed to the withdrawn record that it was made from, if the topics have
    that record. Some products keep the rows of withdrawn records. Such a row is no difference if
    it equals the row that was delivered last for its record.

    Raises `Stop` for an export that cannot be read, `RetryLater` when Kafka does not answer.
    """
    if not any(table.columns for table in product.tables):
        raise Stop(f"{product.name} takes requests, so it has no files to reconcile")
    selection = select(settings, product.kinds)
    window = resolve(settings, selection.kinds)
    with (
        _states(product) as states,
        _folder_writer(open_into, window) as active_writer,
        _folder_writer(open_into, window) as withdrawn_writer,
        tempfile.TemporaryDirectory(prefix="schoolbus-") as folder,
    ):
        states.read(HAS, export)
        equivalents = Equivalents(
            settings, product, schema_lookup(settings), Path(folder), latest_only=True
        )
        with closing(equivalents):
            _write_expected(
                settings,
                product,
                states,
                selection,
                window,
                equivalents,
                active_writer,
                withdrawn_writer,
                progress,
            )
        if active_writer.settle():
            states.read(SHOULD, active_writer.folder)
        with suppress(Stop):  # a delivery may refuse a set that has only withdrawn records
            if withdrawn_writer.settle():
                states.read(WITHDRAWN, withdrawn_writer.folder)
        found = states.differences(SHOULD, HAS, WITHDRAWN)
        to_repair: dict[str, set[str]] = {}
        for one in found.found:
            sources = states.sources_of(MADE, one.table, one.key)
            found.unknown += not sources
            for source in sources:
                to_repair.setdefault(source.kind, set()).add(source.id)
        return found, to_repair


class _FolderWriter:
    """Writes rows to a folder through the product's delivery."""

    def __init__(
        self, open_into: Callable[[Path], Delivery], places: list[Position], folder: Path
    ) -> None:
        self._open_into, self._places, self.folder = open_into, places, folder
        self._delivery: Delivery | None = None

    def deliver(self, parts: list[Part], offsets: Mapping[Position, int]) -> None:
        """Write these rows. The first call with rows opens the delivery."""
        if not any(row for part in parts for row in part.rows):
            return
        if self._delivery is None:
            self._delivery = self._open_into(self.folder)
            self._delivery.resume("", self._places)
        self._delivery.deliver(Batch(parts, offsets))

    def settle(self) -> bool:
        """Finish all writes, and return whether there were any."""
        if self._delivery is None:
            return False
        self._delivery.settle()
        return True

    def close(self) -> None:
        """Close the delivery."""
        if self._delivery is not None:
            self._delivery.close()


@contextmanager
def _folder_writer(
    open_into: Callable[[Path], Delivery], window: Window
) -> Iterator[_FolderWriter]:
    with tempfile.TemporaryDirectory(prefix="schoolbus-") as folder:
        writer = _FolderWriter(open_into, list(window.start), Path(folder))
        try:
            yield writer
        finally:
            writer.close()


def _write_expected(
    settings: Settings,
    product: Product,
    states: ProductStates,
    selection: Selection,
    window: Window,
    equivalents: Equivalents,
    active_writer: _FolderWriter,
    withdrawn_writer: _FolderWriter,
    progress: Progress,
) -> None:
    """Write the rows of active and of withdrawn records, and store which record each came from."""
    about = ReplayRequest("", product.name, "beginning", "now", only_current=True)
    latest = LatestStates(settings, window)
    try:
        record_filter = RecordFilter(settings, about, selection, latest)
        number = 0
        for messages in history.read(settings, window, "level"):
            taken = FilteredRecords()
            record_filter.take(messages, taken)
            active, withdrawn = _apart(taken.records)
            parts = _rows_of(product, states, active)
            if (counting := equivalents.decide(active, read_to=window.stop)) is not active:
                parts, _, _ = translate(product, counting)
            active_writer.deliver(parts, taken.ends)
            # A row of a withdrawn record counts only if no active equivalent record has that key.
            withdrawn_writer.deliver(_rows_of(product, states, withdrawn), taken.ends)
            # A withdrawn record may have no row. Its row as an active record gives the key, by
            # which an extra row is attributed to it.
            _rows_of(
                product, states, {kind: _as_active(group) for kind, group in withdrawn.items()}
            )
            number += len(messages)
            progress(number)
    finally:
        latest.close()


def _apart(
    records: Mapping[str, KindRecords],
) -> tuple[dict[str, KindRecords], dict[str, KindRecords]]:
    """Split records into those that are not withdrawn and those that are."""
    active: dict[str, KindRecords] = {}
    withdrawn: dict[str, KindRecords] = {}
    for kind, group in records.items():
        for record, message in zip(group.records, group.messages, strict=True):
            side = withdrawn if record["status"] == "tobedeleted" else active
            side.setdefault(kind, KindRecords()).add(record, message)
    return active, withdrawn


def _as_active(group: KindRecords) -> KindRecords:
    return KindRecords([record | {"status": "active"} for record in group.records], group.messages)


def _rows_of(
    product: Product, states: ProductStates, records: Mapping[str, KindRecords]
) -> list[Part]:
    """Return the rows of records, and store which record each row came from."""
    parts, _, _ = translate(product, records)
    for part in parts:
        rows, sources = [], []
        for row, record in zip(part.rows, part.records, strict=True):
            for one in row if isinstance(row, list) else [row]:
                rows.append({name: one[name] for name in part.table.key})
                sources.append(RowOrigin(part.kind, record["sourcedId"]))
        states.add(MADE, part.table, rows, sources)
    return parts


@contextmanager
def _states(product: Product) -> Iterator[ProductStates]:
    with tempfile.TemporaryDirectory(prefix="schoolbus-") as folder:
        states = ProductStates(product, Path(folder))
        try:
            yield states
        finally:
            states.close()
