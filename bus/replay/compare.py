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

from bus.ordering import Lot
from bus.product import Product
from bus.replay import history
from bus.replay.latest import Latest
from bus.replay.ledger import About
from bus.replay.rows import NOBODY, Difference, Differences, Source, States
from bus.replay.selection import Selection
from bus.replay.sieve import Sieve, Taken
from bus.replay.window import resolve
from bus.settings import Settings
from bus.translation import translate

SHOULD, HAS = "should", "has"
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
    selection: Selection,
    progress: Progress = lambda _: None,
) -> tuple[Differences, dict[str, set[str]]]:
    """What the product has, against what the topics say; and of which records that comes, by kind.

    An extra thing comes of the record that the topics say is gone, if they know of it at all.

    Raises `Stop` for an export that cannot be read, `RetryLater` when Kafka does not answer.
    """
    with _states(product) as states:
        states.read(HAS, export)
        _should(settings, product, selection, states, progress)
        found = states.differences(SHOULD, HAS)
        concerned: dict[str, set[str]] = {}
        for one in found.found:
            source = one.source if one.source != NOBODY else _of(states, one)
            if source != NOBODY:
                concerned.setdefault(source.kind, set()).add(source.id)
        return found, concerned


def _of(states: States, one: Difference) -> Source:
    return states.source_of(SHOULD, one.table, one.key)


def _should(
    settings: Settings,
    product: Product,
    selection: Selection,
    states: States,
    progress: Progress,
) -> None:
    """Make the state of the latest of each record, those that are gone included."""
    window = resolve(settings, selection.kinds, owners=selection.students)
    about = About("", product.name, "beginning", "now", only_current=True)
    latest = Latest(settings, window)
    try:
        sieve = Sieve(settings, about, selection, latest)
        number = 0
        for messages in history.read(settings, window, "level"):
            taken = Taken()
            sieve.take(messages, taken)
            _add(product, states, taken.lots)
            number += len(messages)
            progress(number)
    finally:
        latest.close()
    for table in states.tables.values():  # also where nothing is to be in it
        states.add(SHOULD, table, [], [])


def _add(product: Product, states: States, lots: dict[str, Lot]) -> None:
    parts, _, _ = translate(product, lots, {})
    for part in parts:
        rows, sources = [], []
        for row, record in zip(part.rows, part.records, strict=True):
            for one in row if isinstance(row, list) else [row]:
                rows.append(one)
                sources.append(Source(part.kind, record["sourcedId"]))
        states.add(SHOULD, part.table, rows, sources, standing_first=True)


@contextmanager
def _states(product: Product) -> Iterator[States]:
    with tempfile.TemporaryDirectory(prefix="schoolbus-") as folder:
        states = States(product, Path(folder))
        try:
            yield states
        finally:
            states.close()
