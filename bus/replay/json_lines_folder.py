"""Writes the rows of a product that takes requests to a folder, and sends nothing.

So the output of a translation can be inspected and compared.

`OUT/TABLE.ndjson` has a line for each row: the kind and id of its record, and the row.
`OUT/.schoolbus.json` has the offsets that were reached, and the size of each file at that point. A
killed process may have written more: that is cut off when the folder is opened again.
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
    """Return whether a replay into this place writes JSON lines.

    It does if the place is a folder and the product takes requests.
    """
    return "://" not in into and not any(table.columns for table in product.tables)


class JsonLinesFolder:
    """A `bus.delivery.Delivery` into a folder; see the module's docstring."""

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
        """Return the offsets that the folder has reached."""
        return {
            p: self._offsets[key]
            for p in partitions
            if (key := f"{p.topic}/{p.partition}") in self._offsets
        }

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Append the batch's rows to the files."""
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
        """Do nothing: `deliver` writes everything at once."""

    def release(self, partitions: Iterable[Position]) -> None:
        """Do nothing: no other process shares the folder."""

    def close(self) -> None:
        """Do nothing: no file stays open between calls."""
