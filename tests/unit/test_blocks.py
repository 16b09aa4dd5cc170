"""Whole batches are read just as fastavro reads record by record, or not at all."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.blocks import FEWEST, Blocks
from bus.codec import Decoder, Encoder
from bus.contract import a_record
from bus.contract.records import records
from bus.standard import KINDS

FRAME = 5


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)  # the first batch imports what reads it
@given(data=st.data())
def test_a_batch_reads_as_its_records_do_one_by_one(kind: str, data: st.DataObject) -> None:
    written = data.draw(st.lists(records(kind), min_size=1, max_size=5))
    values = Encoder(kind, 7).encode_all(written)
    one_by_one = [Decoder(kind, lambda _: KINDS[kind].schema).decode(value) for value in values]
    assert Blocks(kind).read([value[FRAME:] for value in values]) == one_by_one


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_with_one_wrong_value_is_read_rightly_or_not_at_all(kind: str) -> None:
    rng = random.Random(kind)
    decoder = Decoder(kind, lambda _: KINDS[kind].schema)
    good = Encoder(kind, 7).encode(a_record(kind))
    for _ in range(300):
        wrong = mutated(rng, good)
        _, failures = decoder.decode_all([good, wrong])
        block = Blocks(kind).read([good[FRAME:], wrong[FRAME:]])
        if failures:
            assert block is None
        elif block is not None:
            assert block == [decoder.decode(good), decoder.decode(wrong)]


def mutated(rng: random.Random, value: bytes) -> bytes:
    """The value with some of its bytes changed, taken out, or put in."""
    at = rng.randrange(FRAME, len(value))
    inserted = rng.randbytes(rng.randrange(4))
    return value[:at] + inserted + value[at + rng.randrange(4) :]


@pytest.mark.parametrize("rest", [b"x", b"\0" * 9])
def test_bytes_left_over_are_seen(rest: bytes) -> None:
    value = Encoder("enrollment", 7).encode(a_record("enrollment"))[FRAME:]
    assert Blocks("enrollment").read([value, value + rest, value]) is None


def test_one_wrong_value_in_a_large_batch_is_named_and_the_others_are_read() -> None:
    good = Encoder("enrollment", 7).encode(a_record("enrollment"))
    values = [good] * FEWEST + [good[:-1]] + [good] * FEWEST
    read, failures = Decoder("enrollment", lambda _: KINDS["enrollment"].schema).decode_all(values)
    assert read == [a_record("enrollment")] * 2 * FEWEST
    assert [index for index, _ in failures] == [FEWEST]
