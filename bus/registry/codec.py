"""Converts a record to the bytes of a message and back: Avro binary in the Confluent frame.

The frame is a zero byte and the schema's id in the registry as four bytes (big-endian). The Avro
binary encoding follows it (Confluent, "Wire Format"; Avro 1.12, "Binary Encoding"). Reading
resolves what was written with another version of the schema into ours (Avro 1.12, "Schema
Resolution").

`Encoder` and `Decoder` run for every event. For speed, they keep what they need in local names and
do nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import SchemaParseException

from bus.errors import Never
from bus.registry.batch_codec import FEWEST, BatchCodec, rows
from bus.standard import KINDS, Record
from bus.standard.meaning import meaning

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow

FRAME = struct.Struct(">bI")
MAGIC = 0


class Encoder:
    """Encodes records of one kind with the schema id that the registry assigned.

    schema: the schema that has this id, if it is not the standard's.
    """

    def __init__(self, kind: str, schema_id: int, schema: dict[str, Any] | None = None) -> None:
        self._schema = parse_schema(schema or KINDS[kind].schema)
        self._frame = FRAME.pack(MAGIC, schema_id)
        self._batch_codec = BatchCodec(kind, schema)

    def encode(self, record: Any) -> bytes:
        """Return the bytes of one record.

        Raises fastavro's errors if the record does not match the schema.
        """
        out = BytesIO()
        out.write(self._frame)
        schemaless_writer(out, self._schema, record)
        return out.getvalue()

    def encode_all(self, batch: pyarrow.RecordBatch) -> list[bytes]:
        """Return the bytes of each row of a batch, in order.

        `bus.registry.batch_codec` describes the columns. Raises fastavro's errors if a row does not
        match the schema.
        """
        frame = self._frame
        if (values := self._batch_codec.write(batch)) is not None:
            return [frame + value for value in values]
        return [self.encode(row) for row in rows(batch)]

    def encode_columns(self, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
        """Return the bytes of each record, in order.

        columns: for each field of the schema, its values in all records, as fastavro takes them.

        Raises fastavro's errors if a record does not match the schema.
        """
        rest = zip(*columns.values(), strict=True)
        records = (dict(zip(columns, row, strict=True)) for row in rest)
        number = len(next(iter(columns.values())))
        if number < FEWEST:
            return [self.encode(record) for record in records]
        first = self.encode(next(records))
        if (values := self._batch_codec.write_columns(columns, first[FRAME.size :])) is not None:
            frame = self._frame
            return [frame + value for value in values]
        return [first, *(self.encode(record) for record in records)]


class Decoder:
    """Decodes messages of one kind, written with any version of its schema.

    writer_schema: returns the schema with an id. It is called once for each id that the registry
                   has, and again in each call for other ids. It raises `Never` for an unknown id,
                   and `RetryLater` if the registry does not answer.
    schema:        the schema into which records are resolved, if it is not the standard's.
    as_written:    resolve nothing: a record has the fields of the schema with which it was written.
    """

    def __init__(
        self,
        kind: str,
        writer_schema: Callable[[int], dict[str, Any]],
        schema: dict[str, Any] | None = None,
        *,
        as_written: bool = False,
    ) -> None:
        self._kind = kind
        self._writer_schema = writer_schema
        self._schema = schema or KINDS[kind].schema
        self._ours = parse_schema(self._schema)
        self._as_written = as_written
        self._known: dict[bytes, tuple[Any, Any]] = {}
        self._batch_codec = BatchCodec(kind, schema)
        self._unknown_ids: dict[bytes, Never] | None = None  # set while `decode_all` runs

    def decode(self, value: bytes | None) -> Record:
        """Return one record.

        Raises `Never` if the bytes are not a record of this kind.
        """
        if value is None:
            raise Never("an erasure (tombstone) contains no record")
        try:
            writer, reader = self._known[value[:5]]
        except KeyError:
            writer, reader = self._resolve(value[:5])
        source = BytesIO(value)
        source.seek(5)
        try:
            record: Record = schemaless_reader(source, writer, reader)  # type: ignore[assignment]
        except Exception as error:  # many types, also IndexError and EOFError
            raise Never(
                f"the bytes do not decode as {self._kind} ({type(error).__name__}); "
                "correct their producer, which does not write with the schema that it names"
            ) from None
        if source.tell() != len(value):
            raise Never(
                f"bytes are left over after the {self._kind}; correct their producer, which does "
                "not write with the schema that it names"
            )
        return record

    def decode_all(
        self, values: Sequence[bytes | None], *, valid: bool = False
    ) -> tuple[list[Record], list[tuple[int, Never]]]:
        """Return the records of all values that decode, in order, and the failures of the others.

        A failure is the index of the value and the reason.

        valid: whether the caller knows that all values decode, because they did before. They are
               not checked again, which saves half of the time.
        """
        records, failures, _ = self.decode_with_columns(values, valid=valid)
        return records, failures

    def decode_with_columns(
        self, values: Sequence[bytes | None], *, valid: bool = False
    ) -> tuple[list[Record], list[tuple[int, Never]], pyarrow.RecordBatch | None]:
        """Return what `decode_all` returns, and the records as columns.

        The columns are None if the values were decoded one by one.
        """
        found = self.columns(values, valid=valid)
        if found is not None and (decoded := self._batch_codec.records(found)) is not None:
            return decoded, [], found
        decode = self.decode
        self._unknown_ids = {}  # begins empty: a schema may be registered later
        records = []
        failures: list[tuple[int, Never]] = []
        for index, value in enumerate(values):
            try:
                records.append(decode(value))
            except Never as reason:
                failures.append((index, reason))
        self._unknown_ids = None
        return records, failures, None

    def columns(
        self, values: Sequence[bytes | None], *, valid: bool = False
    ) -> pyarrow.RecordBatch | None:
        """Return the records of all values as columns (see `bus.registry.batch_codec`).

        Returns None if the values must be decoded one by one: there are only a few, they are not
        all written with our schema, or one of them is not valid.
        """
        unframed = self._without_frames(values)
        return None if unframed is None else self._batch_codec.columns(unframed, valid=valid)

    def valid_columns(self, values: Sequence[bytes | None]) -> pyarrow.RecordBatch | None:
        """Return `columns` if `decode_all` would return a record for each value, else None."""
        found = self.columns(values)
        return found if found is not None and self._batch_codec.representable(found) else None

    def _without_frames(self, values: Sequence[bytes | None]) -> list[bytes] | None:
        """Return the values without their frames.

        Returns None if there are only a few, or if they are not all written with our schema.
        """
        if len(values) < FEWEST or values[0] is None or self._as_written:
            return None
        frame = values[0][:5]
        unframed = [value[5:] for value in values if value is not None and value[:5] == frame]
        if len(unframed) < len(values):
            return None
        try:
            _, reader = self._known.get(frame) or self._resolve(frame)
        except Never:
            return None
        return unframed if reader is None else None

    def _resolve(self, frame: bytes) -> tuple[Any, Any]:
        """Return the writer's and the reader's schema for a frame.

        The reader's schema is None if both schemas mean the same, as decoding is faster without it.
        """
        if len(frame) < 5 or frame[0] != MAGIC:
            raise Never("the value is not Avro in the Confluent frame (no zero byte and schema id)")
        schema_id = FRAME.unpack(frame)[1]
        if self._unknown_ids and frame in self._unknown_ids:
            raise self._unknown_ids[frame]
        try:
            theirs = self._writer_schema(schema_id)
        except Never as reason:
            if self._unknown_ids is not None:
                self._unknown_ids[frame] = reason
            raise
        try:
            writer = parse_schema(theirs)
        except (SchemaParseException, ValueError, KeyError, TypeError) as error:
            raise Never(
                f"schema {schema_id} in the registry is not valid Avro ({type(error).__name__})"
            ) from None
        same = self._as_written or meaning(theirs) == meaning(self._schema)
        self._known[frame] = found = (writer, None if same else self._ours)
        return found
