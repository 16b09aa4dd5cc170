"""Records to bytes and back, across versions of a schema, and values that are not from the bus."""

from __future__ import annotations

import contextlib
import copy
from datetime import UTC, date, datetime
from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.contract import a_record
from bus.errors import Never
from bus.registry.codec import Decoder, Encoder
from bus.standard import KINDS

ENROLLMENT = KINDS["enrollment"].schema


def decoder(schema: dict[str, Any] = ENROLLMENT) -> Decoder:
    return Decoder("enrollment", lambda _: schema)


def test_a_record_comes_back_as_it_went() -> None:
    record = a_record(
        "enrollment",
        dateLastModified=datetime(2026, 11, 24, 7, tzinfo=UTC),
        beginDate=date(2026, 8, 17),
        primary=None,
    )
    assert decoder().decode(Encoder("enrollment", 7).encode(record)) == record


def test_the_frame_is_confluents() -> None:
    assert Encoder("enrollment", 258).encode(a_record("enrollment"))[:5] == b"\0\0\0\x01\x02"


def test_what_was_written_with_an_older_version_gets_the_defaults() -> None:
    older = copy.deepcopy(ENROLLMENT)
    older["fields"] = [f for f in older["fields"] if f["name"] != "primary"]
    record = a_record("enrollment")
    del record["primary"]
    out = BytesIO()
    out.write(b"\0\0\0\0\x07")
    fastavro.schemaless_writer(out, fastavro.parse_schema(older), record)
    assert decoder(older).decode(out.getvalue()) == record | {"primary": None}


def test_documentation_alone_makes_no_other_version() -> None:
    """The decoder then needs no reader schema, which costs a third of the speed."""
    reworded = copy.deepcopy(ENROLLMENT) | {"doc": "other words"}
    found = decoder(reworded)
    found.decode(Encoder("enrollment", 7).encode(a_record("enrollment")))
    assert found._known[b"\0\0\0\0\x07"][1] is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"", "Confluent frame"),
        (b'{"sourcedId": "4711"}', "Confluent frame"),
        (b"\0\0\0\0\x07", "do not decode"),
        (Encoder("enrollment", 7).encode(a_record("enrollment"))[:-1], "do not decode"),
        (Encoder("enrollment", 7).encode(a_record("enrollment")) + b"x", "left over"),
    ],
)
def test_what_is_no_record_is_never_one(value: bytes | None, reason: str) -> None:
    with pytest.raises(Never, match=reason):
        decoder().decode(value)


def test_the_reason_holds_nothing_of_the_value() -> None:
    with pytest.raises(Never) as caught:
        decoder().decode(b"\0\0\0\0\x07" + b"\x0eSoledad")
    assert "Soledad" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_never(value: bytes) -> None:
    with contextlib.suppress(Never):
        decoder().decode(b"\0\0\0\0\x07" + value)


def test_one_bad_value_does_not_take_the_others_along() -> None:
    good = Encoder("enrollment", 7).encode(a_record("enrollment"))
    records, failures = decoder().decode_all([good, b"rubbish", good])
    assert len(records) == 2
    assert [index for index, _ in failures] == [1]


def test_the_registry_is_asked_once_for_what_it_does_not_know_however_often_that_comes() -> None:
    asked: list[int] = []

    def none(schema_id: int) -> dict[str, Any]:
        asked.append(schema_id)
        raise Never(f"the registry has no schema {schema_id}")

    decoder = Decoder("enrollment", none)
    for _ in range(2):
        _, failures = decoder.decode_all([b"\0\0\0\0\x63?"] * 5)
        assert len(failures) == 5
    assert asked == [99, 99]  # it might have been registered before the second call
