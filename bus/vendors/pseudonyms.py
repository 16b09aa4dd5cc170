"""A vendor's own ids: pseudonyms that are stable for the agreement and useless to another vendor.

A pseudonym is the real id, encrypted deterministically with the key of the agreement (AES-SIV,
RFC 5297). So the bus maps back what the vendor sends without keeping a table, equal ids stay
equal within the agreement, and two vendors' ids have nothing in common. The text is base32 in
lower case, because some products ignore case in ids. Real ids are padded to blocks of 16 bytes, so
that a pseudonym's length tells little about the real id.

The key of an agreement never changes: a new one would cost the vendor all of a student's work
(`bus vendors rekey` does it, with a crosswalk). Keys are stored wrapped (AES key wrap with padding,
RFC 5649) by the district's master key, which can be rotated freely.
"""

from __future__ import annotations

import secrets
from base64 import b32decode
from binascii import Error as NotBase32
from functools import cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from bus.errors import Stop

BLOCK = 16
KEY_BYTES = 64
"""AES-SIV with two AES-256 keys."""
ALPHABET = b"abcdefghijklmnopqrstuvwxyz234567".ljust(256)
CACHED = 500_000
"""Ids of which the pseudonym is remembered; about 150 bytes each."""


class Pseudonyms:
    """Converts real ids to the ids of one agreement and back.

    key: the key of the agreement, 64 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESSIV(key)
        self._known: dict[str, str] = {}

    def pseudonym(self, real: str) -> str:
        """Return the vendor's id for a real one."""
        if (found := self._known.get(real)) is not None:
            return found
        plain = real.encode()
        plain += b"\x80" + bytes(-(len(plain) + 1) % BLOCK)  # ISO/IEC 7816-4 padding
        found = base32(self._cipher.encrypt(plain, None))
        if len(self._known) >= CACHED:
            self._known.clear()
        self._known[real] = found
        return found

    def real(self, pseudonym: str) -> str | None:
        """Return the real id of a vendor's one, or None if it is not an id of this agreement."""
        text = pseudonym.upper()
        try:
            sealed = b32decode(text + "=" * (-len(text) % 8))
            plain = self._cipher.decrypt(sealed, None)
            return plain.rstrip(b"\x00")[:-1].decode()
        except (NotBase32, InvalidTag, ValueError):
            return None


def base32(data: bytes) -> str:
    """Return base32 in lower case and without padding (RFC 4648, section 6).

    `base64.b32encode` takes five times as long. This one spreads the groups of five bits over
    bytes, all at once: first it moves the halves of the groups apart, then the quarters, and so on.
    """
    groups = -(-len(data) * 8 // 5)
    spread = int.from_bytes(data, "big") << (-len(data) * 8 % 5)
    for low_groups, shift in _steps(groups):
        low = spread & low_groups
        spread = low | ((spread ^ low) << shift)
    return spread.to_bytes(groups, "big").translate(ALPHABET).decode()


@cache
def _steps(groups: int) -> list[tuple[int, int]]:
    """Return what moves groups of five bits apart: a mask of those that stay, and the distance."""
    found = []
    half = 1 << (groups - 1).bit_length() >> 1
    while half:
        fields = -(-groups // (2 * half))
        stay = sum(((1 << 5 * half) - 1) << (16 * half * field) for field in range(fields))
        found.append((stay, 3 * half))
        half >>= 1
    return found


def new_key() -> bytes:
    """Return a new key for an agreement."""
    return secrets.token_bytes(KEY_BYTES)


def wrapped(key: bytes, master: bytes) -> bytes:
    """Return a key wrapped by the master key (32 bytes)."""
    return aes_key_wrap_with_padding(master, key)


def unwrapped(sealed: bytes, master: bytes) -> bytes:
    """Return a key that was wrapped by this master key. Raises `Stop` if it was another one."""
    try:
        return aes_key_unwrap_with_padding(master, sealed)
    except (InvalidUnwrap, ValueError):
        raise Stop(
            "the master key does not open the key of an agreement: restore the master key with "
            "which it was written"
        ) from None
