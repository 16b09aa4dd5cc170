"""The projection handles many records at once, with the same results as one by one."""

from __future__ import annotations

import base64
import pickle
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.contract.example_records import records
from bus.registry.batch_codec import BatchCodec
from bus.registry.codec import Decoder, Encoder
from bus.standard.kinds import KINDS
from bus.vendors.district_view import DistrictView, about_all, ref_of, student_of
from bus.vendors.outbox_rows import OutboxRows, Outgoing, batches
from bus.vendors.pseudonyms import Pseudonyms, base32_all
from bus.vendors.record_rules import RecordRules
from bus.vendors.scope import compile_scope, records_of
from tests.unit.test_vendor_projection import agreement, record

EXAMPLES = max(5, settings().max_examples // 3)


def view() -> DistrictView:
    return DistrictView(None, "test", lambda _, value: pickle.loads(value))


def stored(there: DistrictView, kind: str, id_: str, **values: Any) -> None:
    one = record(kind, id_, **values)
    there.store([(kind, id_, one, pickle.dumps(one))])


# ---- ids -----------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=300))
def test_many_values_are_converted_to_base32_as_the_standard_library_does(
    values: list[bytes],
) -> None:
    expected = [base64.b32encode(value).decode().rstrip("=").lower() for value in values]
    assert base32_all(values) == expected


@given(st.lists(st.text(max_size=40)))
def test_prepared_ids_are_those_that_are_made_one_by_one(ids: list[str]) -> None:
    ours, one_by_one = Pseudonyms(bytes(64)), Pseudonyms(bytes(64))
    ours.prepare(ids[:3])
    ours.prepare(ids)
    assert list(map(ours.lookup, ids)) == list(map(one_by_one.pseudonym, ids))
    assert [ours.real(ours.pseudonym(one)) for one in ids] == ids


# ---- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind, about in KINDS.items() if about.student])
@pytest.mark.parametrize("students", [{}, {"schools": ["s1"]}])
@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data())
def test_references_are_counted_as_for_single_records(
    kind: str, students: dict[str, list[str]], data: st.DataObject
) -> None:
    some = data.draw(st.lists(records(kind), max_size=5))
    some = [one for one in some if student_of(kind, one) is not None]
    scope = compile_scope(agreement(students=students))
    if kind not in scope.kinds:
        return
    rules = RecordRules(scope, view(), ())
    expected = Counter(key for one in some for key in rules.refers(kind, one))
    assert rules.count_refers(kind, some) == expected


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data())
def test_the_student_of_each_column_is_that_of_its_record(kind: str, data: st.DataObject) -> None:
    some = data.draw(st.lists(records(kind), min_size=1, max_size=5))
    columns = BatchCodec(kind).columns([Encoder(kind, 1).encode(one)[5:] for one in some])
    assert columns is not None
    students, refs = about_all(kind, columns)
    assert students == [student_of(kind, one) for one in some]
    assert refs == [ref_of(kind, one) for one in some]


def test_columns_of_a_day_that_python_does_not_have_are_not_valid() -> None:
    encoder = Encoder("attendance", 1)
    there = encoder.encode(record("attendance", "a"))
    decoder = Decoder("attendance", lambda _: KINDS["attendance"].schema)
    assert decoder.valid_columns([there] * 100) is not None
    codec = decoder._batch_codec
    columns = codec.columns([there[5:]] * 100)
    import pyarrow

    days = pyarrow.array([2**31 - 1] * 100, pyarrow.int32()).view(pyarrow.date32())
    at = columns.schema.get_field_index("eventDate")  # type: ignore[union-attr]
    broken = columns.set_column(at, "eventDate", days)  # type: ignore[union-attr]
    assert not codec.representable(broken)
    assert codec.records(broken) is None


# ---- the view and the outbox ---------------------------------------------------------------------


def test_a_transaction_reads_again_what_it_has_changed() -> None:
    there = view()
    stored(there, "student", "a", givenName="Ada")
    there.begin()
    for name in ("Ada", "Grace"):
        stored(there, "student", "a", givenName=name)
        for _ in range(2):
            assert there.get_all([("student", "a")])["student", "a"]["givenName"] == name
            ((_, (found,)),) = there.by_kind(["a"], ["student"]).values()
            assert found["givenName"] == name
    there.rollback()
    assert there.get_all([("student", "a")])["student", "a"]["givenName"] == "Ada"
    there.close()


def test_each_agreement_gets_the_students_for_whom_it_asks() -> None:
    there = view()
    for id_ in "abc":
        stored(there, "student", id_)
    there.begin()
    for wanted in (["a", "b"], ["b", "c"], ["c"], [], ["a", "b", "c"], ["a", "d"]):
        owners, found = there.by_kind(wanted, ["student"], ["a", "b", "c"])["student"]
        assert owners == [one["sourcedId"] for one in found] == [one for one in wanted if one < "d"]
    there.rollback()
    there.close()


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("abc"), st.none() | st.binary()))
    )
)
def test_the_last_states_of_several_rows_are_sent_in_order(
    rows: list[list[tuple[str, str, bytes | None]]],
) -> None:
    there = view()
    outbox = OutboxRows(there.con)
    for row in rows:
        outbox.add(
            batches(Outgoing("math", topic, 0, key, value, "t", 0) for topic, key, value in row)
        )
    last = {}
    for topic, key, value in (one for row in rows for one in row):
        last.pop((topic, key), None)
        last[topic, key] = value
    found = [
        ((batch.topic, key), value)
        for batch in outbox.latest()
        for key, value in zip(batch.keys, batch.values, strict=True)
    ]
    assert found == list(last.items())
    there.close()


def test_columns_as_records() -> None:
    assert records_of({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
