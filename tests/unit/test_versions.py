"""History of older versions of the standard, read by a translation that knows the latest.

There are three versions of every kind (`tests.three_versions`). Each message keeps its values. A
field that its version did not know has the default.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.contract.example_records import records
from bus.errors import Never
from bus.product import Product
from bus.registry.codec import Decoder
from bus.standard import KINDS
from bus.standard.evolution import breaks
from consumers.canvas import PRODUCT as CANVAS
from consumers.microsoft_sds import PRODUCT as SDS
from consumers.oneroster_csv import PRODUCT as ONEROSTER
from consumers.webhook import PRODUCT as WEBHOOK
from tests.three_versions import knowing, optional, versions, written


@pytest.mark.parametrize("kind", KINDS)
def test_the_registry_takes_each_version_after_the_others(kind: str) -> None:
    first, second, third = versions(kind)
    assert [breaks(a, b) for a, b in ((first, second), (second, third), (first, third))] == [[]] * 3


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(data=st.data())
def test_history_of_three_versions_reads_as_the_last(kind: str, data: st.DataObject) -> None:
    record = data.draw(records(kind))
    note = data.draw(st.none() | st.just("sits in front"))
    said = versions(kind)
    first = written(said[0], record, 1)
    second = written(said[1], record | {"note": note}, 2)
    third = written(said[2], record | {"districtNote": note}, 3)
    with knowing({kind: said[2]}):
        decoder = Decoder(kind, lambda version: said[version - 1])
        read: list[Any] = [decoder.decode(value) for value in (first, second, third)]
        whole, failures = decoder.decode_all([first, second, third] * 20)
    assert read[0] == record | {optional(kind): None, "districtNote": None}
    assert read[1] == read[2] == record | {"districtNote": note}
    assert (whole, failures) == (read * 20, [])


@pytest.mark.parametrize(
    "product", [CANVAS, SDS, ONEROSTER, WEBHOOK], ids=lambda product: product.name
)
@settings(max_examples=25)
@given(data=st.data())
def test_a_translation_gives_the_same_rows_for_old_and_new_history(
    product: Product, data: st.DataObject
) -> None:
    """A field that a version did not know equals a field without a value."""
    kind = data.draw(st.sampled_from(product.kinds))
    record = data.draw(records(kind)) | {optional(kind): None}
    said = versions(kind)
    with knowing({kind: said[2]}):
        decoder = Decoder(kind, lambda version: said[version - 1])
        old: Any = decoder.decode(written(said[0], record, 1))
        new: Any = decoder.decode(written(said[2], record | {"districtNote": None}, 3))
    for _, translate in product.translations(kind):
        assert outcome(translate, old) == outcome(translate, new)


def outcome(translate: Any, record: Any) -> Any:
    """Return the row, or the reason why there is none."""
    try:
        return translate(record)
    except Never as reason:
        return str(reason)
