"""Whole batches decode exactly as fastavro decodes single records, or not at all."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import duckdb
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.contract import a_record
from bus.contract.example_records import records
from bus.ingest.columns import columns, definition, encodable
from bus.registry.batch_codec import FEWEST, BatchCodec, rows
from bus.registry.codec import Decoder, Encoder
from bus.standard import KINDS, Record

FRAME = 5
EXAMPLES = max(5, settings().max_examples // 3)
"""The number of batches per kind where each one needs a separate database."""


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)  # the first batch imports the reader
@given(data=st.data())
def test_a_batch_reads_as_its_records_do_one_by_one(kind: str, data: st.DataObject) -> None:
    written = data.draw(st.lists(records(kind), min_size=1, max_size=5))
    encoder, decoder = Encoder(kind, 7), Decoder(kind, lambda _: KINDS[kind].schema)
    values = [encoder.encode(record) for record in written]
    one_by_one = [decoder.decode(value) for value in values]
    assert BatchCodec(kind).read([value[FRAME:] for value in values]) == one_by_one


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data())
def test_rows_of_duckdb_are_written_as_fastavro_writes_them(kind: str, data: st.DataObject) -> None:
    records_ = data.draw(st.lists(records(kind), min_size=1, max_size=5))
    con = duckdb.connect()
    con.execute(f"CREATE TABLE t ({definition(kind)})")
    marks = ", ".join("?" for _ in columns(kind))
    for record in records_:
        is_active = [record[name] for name in columns(kind)]
        values = [v.replace(tzinfo=None) if isinstance(v, datetime) else v for v in is_active]
        con.execute(f"INSERT INTO t VALUES ({marks})", values)
    (batch,) = con.sql(f"SELECT {encodable(kind, 't')} FROM t").to_arrow_table().to_batches()
    written, encoder = BatchCodec(kind).write(batch), Encoder(kind, 7)
    assert written == [encoder.encode(record)[FRAME:] for record in records_]
    assert [encoder.encode(row)[FRAME:] for row in rows(batch)] == written
    con.close()


def columns_of(records_: list[Record]) -> dict[str, list[Any]]:
    return {name: [record[name] for record in records_] for name in records_[0]}


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data())
def test_records_are_written_as_fastavro_writes_them(kind: str, data: st.DataObject) -> None:
    given_ = data.draw(st.lists(records(kind), min_size=1, max_size=5))
    encoder = Encoder(kind, 7)
    one_by_one = [encoder.encode(record) for record in given_]
    found = BatchCodec(kind).write_columns(columns_of(given_), one_by_one[0][FRAME:])
    assert found == [value[FRAME:] for value in one_by_one]
    assert encoder.encode_columns(columns_of(given_ * FEWEST)) == one_by_one * FEWEST


def test_many_records_of_which_one_is_not_of_the_schema_are_not_written() -> None:
    given_ = [a_record("enrollment")] * FEWEST + [a_record("enrollment", role="wizard")]
    with pytest.raises(ValueError, match="wizard"):
        Encoder("enrollment", 7).encode_columns(columns_of(given_))


def test_a_row_that_is_not_of_the_schema_is_not_written() -> None:
    batch = pyarrow.RecordBatch.from_pylist([a_record("enrollment", role="wizard")])
    assert BatchCodec("enrollment").write(batch) is None
    with pytest.raises(ValueError, match="wizard"):
        Encoder("enrollment", 7).encode_all(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_with_one_wrong_value_is_read_rightly_or_not_at_all(kind: str) -> None:
    rng = random.Random(kind)
    decoder = Decoder(kind, lambda _: KINDS[kind].schema)
    good, codec = Encoder(kind, 7).encode(a_record(kind)), BatchCodec(kind)
    for _ in range(300):
        wrong = mutated(rng, good)
        _, failures = decoder.decode_all([good, wrong])
        block = codec.read([good[FRAME:], wrong[FRAME:]])
        if failures:
            assert block is None
        elif block is not None:
            assert block == [decoder.decode(good), decoder.decode(wrong)]


def mutated(rng: random.Random, value: bytes) -> bytes:
    """Return the value with some bytes changed, removed or inserted."""
    at = rng.randrange(FRAME, len(value))
    inserted = rng.randbytes(rng.randrange(4))
    return value[:at] + inserted + value[at + rng.randrange(4) :]


@pytest.mark.parametrize("rest", [b"x", b"\0" * 9])
def test_bytes_left_over_are_seen(rest: bytes) -> None:
    value = Encoder("enrollment", 7).encode(a_record("enrollment"))[FRAME:]
    assert BatchCodec("enrollment").read([value, value + rest, value]) is None


def test_one_wrong_value_in_a_large_batch_is_named_and_the_others_are_read() -> None:
    good = Encoder("enrollment", 7).encode(a_record("enrollment"))
    values = [good] * FEWEST + [good[:-1]] + [good] * FEWEST
    read, failures = Decoder("enrollment", lambda _: KINDS["enrollment"].schema).decode_all(values)
    assert read == [a_record("enrollment")] * 2 * FEWEST
    assert [index for index, _ in failures] == [FEWEST]
