"""Converts whole batches of valid records between Avro and Arrow columns.

pyruhvro converts a whole batch at once, about ten times as fast as fastavro converts record by
record. It is a young library, so its results are verified: what it reads is written again and must
give the same bytes. If that check or the conversion fails, `bus.registry.codec` converts record by
record with fastavro, and reports which record is wrong and why. Tests over every schema of the
standard verify that both give the same results (tests/unit/test_batch_codec.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bus.standard import KINDS, Record

if TYPE_CHECKING:
    import pyarrow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_DAY = date(1970, 1, 1)
FEWEST = 50
"""Fewer values than this are read faster one by one."""


class BatchCodec:
    """Reads and writes values of one kind with our schema of it.

    schema: another schema of the kind, such as a vendor's; None: the standard's.

    Use it from one thread only.
    """

    def __init__(self, kind: str, schema: dict[str, Any] | None = None) -> None:
        schema = schema or KINDS[kind].schema
        self._schema = json.dumps(schema)
        self._types: pyarrow.Schema | None = None
        self._records = _record_builder(tuple(field["name"] for field in schema["fields"]))

    def read(self, values: Sequence[bytes]) -> list[Record] | None:
        """Return the records of these values, exactly as fastavro returns them.

        The values are Avro without a frame. Returns None if at least one of them is not valid,
        without saying which.
        """
        found = self.columns(values)
        return None if found is None else self.records(found)

    def records(self, found: pyarrow.RecordBatch) -> list[Record] | None:
        """Return the records of what `columns` returned.

        Returns None if one of them has a value that Python cannot represent.
        """
        try:
            return self._records([_values(column) for column in found])
        except (OverflowError, ValueError):  # a date or time outside of Python's range
            return None

    def representable(self, found: pyarrow.RecordBatch) -> bool:
        """Return whether `records` returns the records of what `columns` returned."""
        import pyarrow

        try:
            for column in found:
                if pyarrow.types.is_temporal(column.type):
                    _values(column)
        except (OverflowError, ValueError):
            return False
        return True

    def columns(
        self, values: Sequence[bytes], *, valid: bool = False
    ) -> pyarrow.RecordBatch | None:
        """Return the records of these values as columns.

        Dates are `date32`, times are `timestamp[ms]` in UTC. Returns None if at least one value is
        not valid.

        valid: whether the caller knows that they are valid, because this function returned them as
               columns before.
        """
        import pyarrow
        from pyruhvro import deserialize_array, serialize_record_batch

        try:
            found = deserialize_array(values, self._schema)
            if valid:
                return found
            (rewritten,) = serialize_record_batch(found, self._schema, 1)
            same: bool = rewritten.equals(pyarrow.array(values, rewritten.type))
            return found if same else None
        except Exception:  # of many types; reading one by one reports the cause
            return None

    def write(self, batch: pyarrow.RecordBatch) -> list[bytes] | None:
        """Return the value of each row of a batch: Avro without a frame.

        The batch has the columns of the kind. Strings, booleans and lists are Arrow's; dates are
        `date32`, times are `timestamp[ms]` in UTC, and enumerations are strings. Returns None if at
        least one row does not match the schema.
        """
        from pyruhvro import deserialize_array, serialize_record_batch

        try:
            (values,) = serialize_record_batch(batch, self._schema, 1)
            written: list[bytes] = values.to_pylist()
            rewritten = deserialize_array(written, self._schema)
            return written if rewritten.columns == batch.columns else None
        except Exception:  # of many types; writing row by row reports the cause
            return None

    def write_columns(
        self, columns: Mapping[str, Sequence[Any]], example: bytes
    ) -> list[bytes] | None:
        """Return the value of each record, exactly as fastavro writes it: Avro without a frame.

        Returns None if at least one record does not match the schema.

        columns: for each field of the schema, its values in all records, as fastavro takes them.
        example: the value of one of the records, which shows the types of the columns.
        """
        import pyarrow
        from pyruhvro import deserialize_array

        try:
            types = self._types = self._types or deserialize_array([example], self._schema).schema
            arrays = [pyarrow.array(columns[field.name], field.type) for field in types]
            batch = pyarrow.RecordBatch.from_arrays(arrays, schema=types)
        except Exception:  # the types differ; writing record by record reports the cause
            return None
        return self.write(batch)


def rows(batch: pyarrow.RecordBatch) -> list[Record]:
    """Return the rows of a batch in the form that fastavro takes."""
    names = batch.schema.names
    columns = [_values(column) for column in batch]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: Any) -> list[Any]:
    """Return a column as Python values, and create each distinct date or time only once."""
    import pyarrow

    if pyarrow.types.is_date32(column.type):
        return _convert_distinct(_numbers(column, pyarrow.int32()), _day)
    if pyarrow.types.is_timestamp(column.type):
        return _convert_distinct(_numbers(column, pyarrow.int64()), _moment)
    values: list[Any] = column.to_pylist()
    return values


def _numbers(column: Any, number: Any) -> list[int | None]:
    """Return the integers of a column of days or times.

    `cast` would import Arrow's compute functions, which adds a tenth of a second to every start.
    """
    chunks = getattr(column, "chunks", [column])
    return [one for chunk in chunks for one in chunk.view(number).to_pylist()]


def _convert_distinct(numbers: list[int | None], make: Callable[[int], Any]) -> list[Any]:
    """Return the value that `make` gives for each number, and call it once for equal numbers."""
    built: dict[int | None, Any] = {n: make(n) for n in set(numbers) if n is not None}
    built[None] = None
    return [built[number] for number in numbers]


def _day(number: int) -> date:
    return FIRST_DAY + timedelta(days=number)


def _moment(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


@lru_cache(256)  # to compile the source text takes a millisecond
def _record_builder(fields: tuple[str, ...]) -> Callable[[list[list[Any]]], list[Record]]:
    """Return a function that turns columns into records.

    It contains the dict display as source text, as the standard library does for its named tuples.
    That takes a quarter of the time of `dict(zip(...))`.
    """
    names = [f"v{at}" for at in range(len(fields))]
    record = ", ".join(f"{field!r}: {name}" for field, name in zip(fields, names, strict=True))
    built: Callable[[list[list[Any]]], list[Record]] = eval(
        f"lambda columns: [{{{record}}} for {', '.join(names)} in zip(*columns, strict=True)]"
    )
    return built
