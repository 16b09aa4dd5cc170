"""Pseudonyms are texts that the bus alone maps back."""

from __future__ import annotations

from base64 import b32encode

from hypothesis import example, given
from hypothesis import strategies as st

from bus.vendors.pseudonyms import Pseudonyms, base32, new_key


@given(st.binary(min_size=1, max_size=200))
@example(b"\x00" * 32)
@example(b"\xff" * 48)
def test_base32_is_that_of_the_standard_library(data: bytes) -> None:
    assert base32(data) == b32encode(data).decode().rstrip("=").lower()


@given(st.text(max_size=80))
def test_a_pseudonym_maps_back_and_only_with_its_key(real: str) -> None:
    mine, other = Pseudonyms(new_key()), Pseudonyms(new_key())
    assert mine.real(mine.pseudonym(real)) == real
    assert other.real(mine.pseudonym(real)) is None
