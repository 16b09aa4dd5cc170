"""Many records at once: Avro to columns and columns to Avro, where all is as it should be.

What fastavro does record by record, pyruhvro does for a whole batch, some ten times as fast, with
Arrow's columns on the other side. It is a young library, so it is trusted with nothing: what it has
read is written again and must give the same bytes. Whatever is not so, or makes it fail, is left to
`bus.registry.codec`, which goes record by record with fastavro and says what is wrong with which.
That both give the same is held by tests over every schema of the standard
(tests/unit/test_batch_codec.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bus.standard import KINDS, Record

if TYPE_CHECKING:
    import pyarrow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_DAY = date(1970, 1, 1)
FEWEST = 50
"""Fewer values are read sooner one by one."""


class BatchCodec:
    """Reads and writes values of one kind with our schema of it. Not for several threads."""

    def __init__(self, kind: str) -> None:
        self._schema = json.dumps(KINDS[kind].schema)
        self._records = _maker(KINDS[kind].fields)

    def read(self, values: Sequence[bytes]) -> list[Record] | None:
        """The records of these values (Avro, without a frame), just as fastavro gives them.

        None: at least one of them is not as it should be; nothing is said of which.
        """
        found = self.columns(values)
        return None if found is None else self.records(found)

    def records(self, found: pyarrow.RecordBatch) -> list[Record] | None:
        """The records of what `columns` gave; None: one of them is nothing that Python has."""
        try:
            return self._records([_values(column) for column in found])
        except (OverflowError, ValueError):  # a day or a moment that Python does not have
            return None

    def columns(self, values: Sequence[bytes]) -> pyarrow.RecordBatch | None:
        """The same as columns: days are `date32`, moments `timestamp[ms]` in UTC."""
        import pyarrow
        from pyruhvro import deserialize_array, serialize_record_batch

        try:
            found = deserialize_array(values, self._schema)
            (again,) = serialize_record_batch(found, self._schema, 1)
            same: bool = again.equals(pyarrow.array(values, again.type))
            return found if same else None
        except Exception:  # of many types; what is wrong is told by whoever reads one by one
            return None

    def write(self, batch: pyarrow.RecordBatch) -> list[bytes] | None:
        """The value (Avro, without a frame) of each row of a batch with the kind's own columns.

        Strings, booleans and lists as Arrow has them; days are `date32`, moments `timestamp[ms]` in
        UTC, enumerations strings. None: at least one row is not of the schema.
        """
        from pyruhvro import deserialize_array, serialize_record_batch

        try:
            (values,) = serialize_record_batch(batch, self._schema, 1)
            written: list[bytes] = values.to_pylist()
            again = deserialize_array(written, self._schema)
            return written if again.columns == batch.columns else None
        except Exception:  # of many types; whoever writes row by row tells what is wrong
            return None


def rows(batch: pyarrow.RecordBatch) -> list[Record]:
    """The rows of a batch, as fastavro takes them."""
    names = batch.schema.names
    columns = [_values(column) for column in batch]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: Any) -> list[Any]:
    """A column as Python values; a day or a moment that comes again is made only once."""
    import pyarrow

    if pyarrow.types.is_date32(column.type):
        return _made(_numbers(column, pyarrow.int32()), _day)
    if pyarrow.types.is_timestamp(column.type):
        return _made(_numbers(column, pyarrow.int64()), _moment)
    values: list[Any] = column.to_pylist()
    return values


def _numbers(column: Any, number: Any) -> list[int | None]:
    """The numbers that days or moments are. `cast` would import Arrow's functions, which takes a
    tenth of a second of every start."""
    chunks = getattr(column, "chunks", [column])
    return [one for chunk in chunks for one in chunk.view(number).to_pylist()]


def _made(numbers: list[int | None], make: Callable[[int], Any]) -> list[Any]:
    made: dict[int | None, Any] = {n: make(n) for n in set(numbers) if n is not None}
    made[None] = None
    return [made[number] for number in numbers]


def _day(number: int) -> date:
    return FIRST_DAY + timedelta(days=number)


def _moment(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


def _maker(fields: Sequence[str]) -> Callable[[list[list[Any]]], list[Record]]:
    """From columns to records. A dict written out is made in a quarter of the time that `dict(zip)`
    takes, so it is written out, as the standard library does for its named tuples."""
    names = [f"v{at}" for at in range(len(fields))]
    record = ", ".join(f"{field!r}: {name}" for field, name in zip(fields, names, strict=True))
    made: Callable[[list[list[Any]]], list[Record]] = eval(
        f"lambda columns: [{{{record}}} for {', '.join(names)} in zip(*columns, strict=True)]"
    )
    return made
