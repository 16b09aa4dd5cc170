"""A folder in the place of a product that is told by requests: what a translation makes of history,
to be looked at and compared, sent to nobody.

`OUT/TABLE.ndjson` has a line for each row: the kind and id of its record, and the row. How far it
is stands in `OUT/.schoolbus.json`, with the size of each file: what a killed process wrote after it
is cut off before anything is added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bus.delivery import Batch, Position, Refusal
from bus.errors import Stop
from bus.product import Product
from bus.replay.replay_log import keyed

JOURNAL = ".schoolbus.json"


def wanted(product: Product, into: str) -> bool:
    """Whether a replay into this place is a shadow: a folder, for a product that takes requests."""
    return "://" not in into and not any(table.columns for table in product.tables)


class JsonLinesFolder:
    """A `bus.delivery.Delivery`; see the module's docstring."""

    def __init__(self, out: Path) -> None:
        self._out = out
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._offsets: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        try:
            journal = json.loads((out / JOURNAL).read_bytes())
            self._offsets, self._sizes = journal["offsets"], journal["sizes"]
        except FileNotFoundError:
            pass
        except (ValueError, KeyError):
            raise Stop(f"{out / JOURNAL} cannot be read; replay into an empty folder") from None
        for path in out.glob("*.ndjson"):
            os.truncate(path, self._sizes.get(path.name, 0))

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """The offsets of the folder."""
        return {
            p: self._offsets[key]
            for p in partitions
            if (key := f"{p.topic}/{p.partition}") in self._offsets
        }

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Add the batch's rows."""
        for part in batch.parts:
            name = f"{part.table.name}.ndjson"
            handle = os.open(self._out / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - for its mode
                for row, record in zip(part.rows, part.records, strict=True):
                    line = {"kind": part.kind, "id": record["sourcedId"], "row": row}
                    file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
                file.flush()
                os.fsync(file.fileno())
                self._sizes[name] = file.tell()
        self._offsets |= keyed(batch.offsets)
        new = self._out / f"{JOURNAL}.new"
        new.write_text(json.dumps({"offsets": self._offsets, "sizes": self._sizes}))
        new.replace(self._out / JOURNAL)
        return ()

    def settle(self) -> None:
        """Nothing is ever put off."""

    def release(self, partitions: Iterable[Position]) -> None:
        """Nobody else has them."""

    def close(self) -> None:
        """Nothing is held between calls."""
