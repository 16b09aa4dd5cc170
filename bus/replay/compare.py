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

SHOULD, HAS, MADE, TOLD = "should", "has", "made", "told"
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
        _opened(open_into, window) as standing,
        _opened(open_into, window) as withdrawn,
        tempfile.TemporaryDirectory(prefix="schoolbus-") as folder,
    ):
        states.read(HAS, export)
        equivalents = Equivalents(
            settings, product, schema_lookup(settings), Path(folder), standing=True
        )
        with closing(equivalents):
            _should(
                settings,
                product,
                states,
                selection,
                window,
                equivalents,
                standing,
                withdrawn,
                progress,
            )
        if standing.settle():
            states.read(SHOULD, standing.folder)
        with suppress(Stop):  # a delivery may refuse a set that has only withdrawn records
            if withdrawn.settle():
                states.read(TOLD, withdrawn.folder)
        found = states.differences(SHOULD, HAS, TOLD)
        concerned: dict[str, set[str]] = {}
        for one in found.found:
            sources = states.sources_of(MADE, one.table, one.key)
            found.unknown += not sources
            for source in sources:
                concerned.setdefault(source.kind, set()).add(source.id)
        return found, concerned


class _Written:
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
def _opened(open_into: Callable[[Path], Delivery], window: Window) -> Iterator[_Written]:
    with tempfile.TemporaryDirectory(prefix="schoolbus-") as folder:
        written = _Written(open_into, list(window.start), Path(folder))
        try:
            yield written
        finally:
            written.close()


def _should(
    settings: Settings,
    product: Product,
    states: ProductStates,
    selection: Selection,
    window: Window,
    equivalents: Equivalents,
    standing: _Written,
    withdrawn: _Written,
    progress: Progress,
) -> None:
    """Write the rows of active and of withdrawn records, and note which record each came from."""
    about = ReplayRequest("", product.name, "beginning", "now", only_current=True)
    latest = LatestStates(settings, window)
    try:
        sieve = RecordFilter(settings, about, selection, latest)
        number = 0
        for messages in history.read(settings, window, "level"):
            taken = FilteredRecords()
            sieve.take(messages, taken)
            stand, gone = _apart(taken.lots)
            parts = _made(product, states, stand)
            if (told := equivalents.decide(stand, read_to=window.stop)) is not stand:
                parts, _, _ = translate(product, told)
            standing.deliver(parts, taken.ends)
            # A row of a withdrawn record counts only if no active equivalent record has that key.
            withdrawn.deliver(_made(product, states, gone), taken.ends)
            # A withdrawn record may have no row. Its row as an active record gives the key, by
            # which an extra row is attributed to it.
            _made(product, states, {kind: _as_active(lot) for kind, lot in gone.items()})
            number += len(messages)
            progress(number)
    finally:
        latest.close()


def _apart(
    lots: Mapping[str, KindRecords],
) -> tuple[dict[str, KindRecords], dict[str, KindRecords]]:
    """Split records into those that are not withdrawn and those that are."""
    stand: dict[str, KindRecords] = {}
    gone: dict[str, KindRecords] = {}
    for kind, lot in lots.items():
        for record, message in zip(lot.records, lot.messages, strict=True):
            side = gone if record["status"] == "tobedeleted" else stand
            side.setdefault(kind, KindRecords()).add(record, message)
    return stand, gone


def _as_active(lot: KindRecords) -> KindRecords:
    return KindRecords([record | {"status": "active"} for record in lot.records], lot.messages)


def _made(product: Product, states: ProductStates, lots: Mapping[str, KindRecords]) -> list[Part]:
    """Return the rows of records, and note which record each row came from."""
    parts, _, _ = translate(product, lots)
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
