"""From a record to the bytes of a message and back: Avro binary in the Confluent frame.

The frame is a zero byte, the schema's id in the registry as four bytes (big-endian), then the Avro
binary encoding (Confluent, "Wire Format"; Avro 1.12, "Binary Encoding"). Reading resolves what was
written with another version of the schema into ours (Avro 1.12, "Schema Resolution").

These two run for every event, so each keeps what it needs in local names and does nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
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
    """Encodes records of one kind under the schema id that the registry gave for it."""

    def __init__(self, kind: str, schema_id: int) -> None:
        self._schema = parse_schema(KINDS[kind].schema)
        self._frame = FRAME.pack(MAGIC, schema_id)
        self._blocks = BatchCodec(kind)

    def encode(self, record: Any) -> bytes:
        """The bytes of one record. Raises what fastavro raises when it is not of the schema."""
        out = BytesIO()
        out.write(self._frame)
        schemaless_writer(out, self._schema, record)
        return out.getvalue()

    def encode_all(self, batch: pyarrow.RecordBatch) -> list[bytes]:
        """The bytes of each row of a batch, in order; its columns as `bus.registry.batch_codec` has
        them.

        Raises what fastavro raises when a row is not of the schema.
        """
        frame = self._frame
        if (values := self._blocks.write(batch)) is not None:
            return [frame + value for value in values]
        return [self.encode(row) for row in rows(batch)]


class Decoder:
    """Decodes messages of one kind, whatever version of its schema they were written with.

    writer_schema: from a schema id to the schema with that id; asked once for each id, or once each
                   time for one that is not known. It raises `Never` for such an id, `RetryLater`
                   when the registry does not answer.
    """

    def __init__(self, kind: str, writer_schema: Callable[[int], dict[str, Any]]) -> None:
        self._kind = kind
        self._writer_schema = writer_schema
        self._ours = parse_schema(KINDS[kind].schema)
        self._known: dict[bytes, tuple[Any, Any]] = {}
        self._blocks = BatchCodec(kind)
        self._refused: dict[bytes, Never] | None = None  # of the values that `decode_all` has

    def decode(self, value: bytes | None) -> Record:
        """One record; raises `Never` when the bytes are not one of this kind."""
        if value is None:
            raise Never("an erasure (tombstone) holds no record")
        try:
            writer, reader = self._known[value[:5]]
        except KeyError:
            writer, reader = self._resolve(value[:5])
        source = BytesIO(value)
        source.seek(5)
        try:
            record: Record = schemaless_reader(source, writer, reader)  # type: ignore[assignment]
        except Exception as error:  # fastavro raises of many types, also IndexError and EOFError
            raise Never(
                f"the bytes do not decode as {self._kind} ({type(error).__name__}); "
                "its producer does not write what it registered"
            ) from None
        if source.tell() != len(value):
            raise Never(
                f"bytes are left over after the {self._kind}: its producer does not write what it "
                "registered"
            )
        return record

    def decode_all(
        self, values: Sequence[bytes | None]
    ) -> tuple[list[Record], list[tuple[int, Never]]]:
        """The records of all values that decode, in order, and (index, reason) of the others."""
        records, failures, _ = self.decode_with_columns(values)
        return records, failures

    def decode_with_columns(
        self, values: Sequence[bytes | None]
    ) -> tuple[list[Record], list[tuple[int, Never]], pyarrow.RecordBatch | None]:
        """As `decode_all`; and the records as columns, if they were decoded as a whole."""
        found = self.columns(values)
        if found is not None and (block := self._blocks.records(found)) is not None:
            return block, [], found
        decode = self.decode
        self._refused = {}  # a schema may be registered by the next time
        records = []
        failures: list[tuple[int, Never]] = []
        for index, value in enumerate(values):
            try:
                records.append(decode(value))
            except Never as reason:
                failures.append((index, reason))
        self._refused = None
        return records, failures, None

    def columns(self, values: Sequence[bytes | None]) -> pyarrow.RecordBatch | None:
        """The records of all values as columns (see `bus.registry.batch_codec`); None: they are to
        be decoded one by one, as they are few, or not all written with our schema, or one is not as
        it should be.
        """
        bare = self._bare(values)
        return None if bare is None else self._blocks.columns(bare)

    def _bare(self, values: Sequence[bytes | None]) -> list[bytes] | None:
        """Values without their frames; None: they are not all written with our schema."""
        if len(values) < FEWEST or values[0] is None:
            return None
        frame = values[0][:5]
        bare = [value[5:] for value in values if value is not None and value[:5] == frame]
        if len(bare) < len(values):
            return None
        try:
            _, reader = self._known.get(frame) or self._resolve(frame)
        except Never:
            return None
        return bare if reader is None else None

    def _resolve(self, frame: bytes) -> tuple[Any, Any]:
        """Writer and reader schema for a frame; no reader where the two are the same (faster)."""
        if len(frame) < 5 or frame[0] != MAGIC:
            raise Never("the value is not Avro in the Confluent frame (no zero byte and schema id)")
        schema_id = FRAME.unpack(frame)[1]
        if self._refused and frame in self._refused:
            raise self._refused[frame]
        try:
            theirs = self._writer_schema(schema_id)
        except Never as reason:
            if self._refused is not None:
                self._refused[frame] = reason
            raise
        try:
            writer = parse_schema(theirs)
        except (SchemaParseException, ValueError, KeyError, TypeError) as error:
            raise Never(
                f"schema {schema_id} in the registry is not Avro ({type(error).__name__})"
            ) from None
        same = meaning(theirs) == meaning(KINDS[self._kind].schema)
        self._known[frame] = found = (writer, None if same else self._ours)
        return found
