"""An id gives a vendor's pseudonym. Only pseudonyms of this vendor give the id back."""

from __future__ import annotations

from base64 import b32encode
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bus.contract import a_record
from bus.errors import Never
from bus.standard.kinds import KINDS
from bus.vendors import pseudonyms
from bus.vendors.pseudonyms import Pseudonyms, WrongMasterKey, base32
from bus.vendors.scope import compile_scope, records_of
from tests.agreements import an_agreement

KEYS = [bytes([number]) * 64 for number in range(3)]
OURS, EARLIER, THEIRS = map(Pseudonyms, KEYS)
IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)
SCOPE = compile_scope(
    an_agreement(
        share={
            "categories": [
                "Student Name",
                "Enrollment",
                "Schedule",
                "Assessment",
                "Attendance",
                "Demographics",
                "Parent/Guardian Name",
                "Parent/Guardian ID",
            ]
        },
        roles=["teacher", "guardian"],
    )
)


@given(IDS)
def test_an_id_has_one_pseudonym_that_gives_the_id_back(real: str) -> None:
    pseudonym = Pseudonyms(KEYS[0]).pseudonym(real)
    assert OURS.pseudonym(real) == pseudonym == pseudonym.lower()
    assert OURS.real(pseudonym) == OURS.real(pseudonym.upper()) == real
    assert THEIRS.real(pseudonym) is None and EARLIER.real(pseudonym) is None


@settings(max_examples=20)
@given(IDS, IDS)
def test_a_text_that_is_nearly_a_pseudonym_gives_no_id(real: str, text: str) -> None:
    pseudonym = OURS.pseudonym(real)
    for other in "abcdefghijklmnopqrstuvwxyz234567=":  # the last one has bits that mean nothing
        changed = pseudonym[:-1] + other
        assert OURS.real(changed) is None or changed == pseudonym
    assert OURS.real(pseudonym[1:]) is None
    assert OURS.real(text) is None


@pytest.mark.parametrize("kind", SCOPE.kinds)
@given(st.data())
def test_a_record_that_the_vendor_received_gives_the_real_ids_back(
    kind: str, data: st.DataObject
) -> None:
    references = SCOPE.kinds[kind].references
    record: dict[str, Any] = a_record(kind, sourcedId=data.draw(IDS))
    for field in references:
        many = isinstance(record[field], list) or "array" in str(_type(kind, field))
        record[field] = data.draw(st.lists(IDS, max_size=3) if many else st.none() | IDS)
    (received,) = records_of(SCOPE.project(kind, [record], OURS.pseudonym, lambda _: True))
    real = {field: record[field] for field in ("sourcedId", *references)}
    assert OURS.real_record(received, references) == received | real
    for field in ("sourcedId", *references):
        value = received[field]
        if not value:
            continue
        for others in (THEIRS, EARLIER):
            foreign = others.pseudonym("s1")
            wrong = received | {field: [*value, foreign] if isinstance(value, list) else foreign}
            with pytest.raises(Never, match=f"^{field} holds") as error:
                OURS.real_record(wrong, references, EARLIER)
            before = "before the rekey" in str(error.value)
            assert before == (others is EARLIER)
            assert foreign not in str(error.value)


def test_the_kinds_of_the_test_are_all_kinds_that_a_vendor_can_receive() -> None:
    assert set(SCOPE.kinds) == set(KINDS) - {"optOut"}


def test_each_master_key_in_the_file_opens_its_keys() -> None:
    masters = bytes(32), bytes([1]) * 32
    sealed = pseudonyms.wrapped(KEYS[0], masters[1])
    assert pseudonyms.unwrapped(sealed, masters) == KEYS[0]
    with pytest.raises(WrongMasterKey, match="does not open the key"):
        pseudonyms.unwrapped(sealed, masters[:1])


def _type(kind: str, field: str) -> Any:
    return next(one["type"] for one in KINDS[kind].schema["fields"] if one["name"] == field)


@given(st.binary(min_size=1, max_size=200))
@example(b"\x00" * 32)
@example(b"\xff" * 48)
def test_base32_is_that_of_the_standard_library(data: bytes) -> None:
    assert base32(data) == b32encode(data).decode().rstrip("=").lower()
