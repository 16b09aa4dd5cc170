"""Two states of a product side by side: of an old and a new translation, or of the topics and what
the product really has.

    shadow     what a new translation makes of the same history is replayed `--into` a folder and
               compared with the folder that the old one made
    reconcile  what the topics say should be there, against the product's own export
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bus.consume.dependency_order import KindRecords
from bus.consume.equivalents import Equivalents
from bus.consume.translation import translate
from bus.delivery import Batch, Delivery
from bus.errors import Stop
from bus.product import Product
from bus.registry.subjects import schema_lookup
from bus.replay import history
from bus.replay.latest import LatestStates
from bus.replay.product_rows import Differences, ProductStates, RowOrigin
from bus.replay.record_filter import FilteredRecords, RecordFilter
from bus.replay.replay_log import ReplayRequest
from bus.replay.selection import select
from bus.replay.window import resolve
from bus.settings import Settings

SHOULD, HAS, MADE = "should", "has", "made"
Progress = Callable[[int], None]


def folders(product: Product, old: Path, new: Path) -> Differences:
    """How the files of one folder differ from those of another.

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
    """What the product has, against what the topics say; and of which records that comes, by kind.

    open_into: the product's delivery into a folder: what should be there is written as it would be
               for the product, with the district's settings.

    An extra thing comes of the record that the topics say is gone, if they know of it at all.

    Raises `Stop` for an export that cannot be read, `RetryLater` when Kafka does not answer.
    """
    if not any(table.columns for table in product.tables):
        raise Stop(f"{product.name} is told by requests: it has no files to be reconciled")
    with _states(product) as states, tempfile.TemporaryDirectory(prefix="schoolbus-") as folder:
        states.read(HAS, export)
        delivery = open_into(Path(folder))
        try:
            _should(settings, product, states, delivery, progress, Path(folder) / "standing")
        finally:
            delivery.close()
        states.read(SHOULD, Path(folder))
        found = states.differences(SHOULD, HAS)
        concerned: dict[str, set[str]] = {}
        for one in found.found:
            for source in states.sources_of(MADE, one.table, one.key):
                concerned.setdefault(source.kind, set()).add(source.id)
        return found, concerned


def _should(
    settings: Settings,
    product: Product,
    states: ProductStates,
    delivery: Delivery,
    progress: Progress,
    folder: Path,
) -> None:
    """Deliver what stands, and note of which record each row is made, be it gone."""
    selection = select(settings, product.kinds)
    window = resolve(settings, selection.kinds)
    about = ReplayRequest("", product.name, "beginning", "now", only_current=True)
    latest = LatestStates(settings, window)
    equivalents = Equivalents(settings, product, schema_lookup(settings), folder, standing=True)
    try:
        delivery.resume("", list(window.start))
        sieve = RecordFilter(settings, about, selection, latest)
        number = 0
        for messages in history.read(settings, window, "level"):
            taken = FilteredRecords()
            sieve.take(messages, taken)
            _made(product, states, taken.lots)
            standing = {kind: _standing(lot) for kind, lot in taken.lots.items()}
            told = equivalents.decide(standing, read_to=window.stop)
            parts, _, _ = translate(product, told)
            delivery.deliver(Batch(parts, taken.ends))
            number += len(messages)
            progress(number)
        delivery.settle()
    finally:
        equivalents.close()
        latest.close()


def _standing(lot: KindRecords) -> KindRecords:
    found = KindRecords()
    for record, message in zip(lot.records, lot.messages, strict=True):
        if record["status"] != "tobedeleted":
            found.add(record, message)
    return found


def _made(product: Product, states: ProductStates, lots: dict[str, KindRecords]) -> None:
    parts, _, _ = translate(product, lots)
    for part in parts:
        rows, sources = [], []
        for row, record in zip(part.rows, part.records, strict=True):
            for one in row if isinstance(row, list) else [row]:
                rows.append({name: one[name] for name in part.table.key})
                sources.append(RowOrigin(part.kind, record["sourcedId"]))
        states.add(MADE, part.table, rows, sources)


@contextmanager
def _states(product: Product) -> Iterator[ProductStates]:
    with tempfile.TemporaryDirectory(prefix="schoolbus-") as folder:
        states = ProductStates(product, Path(folder))
        try:
            yield states
        finally:
            states.close()
