"""A vendor's own ids: pseudonyms that are stable for the agreement and useless to another vendor.

A pseudonym is the real id, encrypted deterministically with the key of the agreement (AES-SIV,
RFC 5297). So the bus can find the real id of a pseudonym without a table. Equal ids stay equal
within the agreement, and two vendors' ids have nothing in common. The text is base32 in lower case,
because some products ignore case in ids. Real ids are padded to blocks of 16 bytes, so that a
pseudonym's length tells little about the real id.

With a new key, all ids change, and the vendor can no longer find a student's work. So only `bus
vendors rekey` replaces the key of an agreement, and writes a crosswalk. The district's master key
wraps these keys (AES key wrap with padding, RFC 5649). Rotating the master key changes no id.
"""

from __future__ import annotations

import secrets
from base64 import b32decode
from binascii import Error as NotBase32
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from itertools import groupby, islice, repeat

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from bus.errors import Never, Stop
from bus.standard.kinds import Record

BLOCK = 16
PADDING = tuple(b"\x80" + bytes(BLOCK - 1 - over) for over in range(BLOCK))
"""What fills an id up to whole blocks, by its length modulo `BLOCK` (ISO/IEC 7816-4)."""
KEY_BYTES = 64
"""AES-SIV with two AES-256 keys."""
ALPHABET = b"abcdefghijklmnopqrstuvwxyz234567".ljust(256)
TOGETHER = 128
"""Values that are converted to base32 together."""
CACHED = 100_000
"""How many pseudonyms are remembered; about 250 bytes each."""


class WrongMasterKey(Stop):
    """None of the master keys opens the key of an agreement."""


class _Known(dict[str, str]):
    """The pseudonyms that were made, by the real id. A missing one is made."""

    def __init__(self, cipher: AESSIV) -> None:
        self._cipher = cipher

    def __missing__(self, real: str) -> str:
        self.make([real])
        return self[real]

    def make(self, reals: Collection[str]) -> None:
        """Make the pseudonyms of these ids, of which none is known."""
        if len(self) + len(reals) > CACHED:
            self.clear()
        plain = [real + PADDING[len(real) % BLOCK] for real in map(str.encode, reals)]
        sealed = list(map(self._cipher.encrypt, plain, repeat(None)))
        self.update(zip(reals, base32_all(sealed), strict=True))


class Pseudonyms:
    """Converts real ids to the ids of one agreement and back.

    key: the key of the agreement, 64 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESSIV(key)
        self._known = _Known(self._cipher)

    def pseudonym(self, real: str) -> str:
        """Return the vendor's id for a real one."""
        return self._known[real]

    @property
    def lookup(self) -> Callable[[str], str]:
        """`pseudonym` as a function that is faster for an id that is known."""
        return self._known.__getitem__

    def prepare(self, reals: Iterable[str]) -> None:
        """Make the pseudonyms of many ids at once, which is faster than one by one."""
        self._known.make([one for one in dict.fromkeys(reals) if one not in self._known])

    def real(self, pseudonym: str) -> str | None:
        """Return the real id of a vendor's one, or None if it is not an id of this agreement."""
        text = pseudonym.upper()
        try:
            sealed = b32decode(text + "=" * (-len(text) % 8))
            plain = self._cipher.decrypt(sealed, None)
            real = plain.rstrip(b"\x00")[:-1].decode()
        except (NotBase32, InvalidTag, ValueError):
            return None
        # Base32 has unused bits. Without this check, several texts would mean the same id.
        return real if self.pseudonym(real) == pseudonym.lower() else None

    def real_record(
        self, record: Record, references: Iterable[str], earlier: Pseudonyms | None = None
    ) -> Record:
        """Return a record that the vendor sent, with the real ids in place of the vendor's.

        references: the fields besides `sourcedId` that hold an id, a list of ids, or None.
        earlier:    makes the vendor's ids from before the last rekey. They are refused, with an
                    error of their own.

        Raises `Never` if a field holds something that is not an id of this agreement.
        """
        found = dict(record)
        for field in ("sourcedId", *references):
            value = record[field]
            if isinstance(value, list):
                found[field] = [self._mapped_back(field, one, earlier) for one in value]
            elif value is not None:
                found[field] = self._mapped_back(field, value, earlier)
        return found

    def _mapped_back(self, field: str, pseudonym: str, earlier: Pseudonyms | None) -> str:
        if (real := self.real(pseudonym)) is not None:
            return real
        if earlier is not None and earlier.real(pseudonym) is not None:
            raise Never(
                f"{field} holds an id from before the rekey of this agreement: send the new id, "
                "which is in the crosswalk"
            )
        raise Never(
            f"{field} holds something that is not an id of this agreement: send an id from this "
            "agreement's records, not from those of another agreement"
        )


def base32_all(values: Sequence[bytes]) -> list[str]:
    """Return `base32` of each value.

    Values of the same length are converted together: each is filled up to whole groups of five
    bytes, which are eight characters.
    """
    found: list[str] = []
    for size, same in groupby(values, len):
        filled, characters = bytes(-size % 5), -(-size * 8 // 5)
        width = size + len(filled)
        rest = iter(same)
        while some := list(islice(rest, TOGETHER)):
            # `_steps` keeps what it needs for each length, so there are only a few lengths.
            together = 1 << (len(some) - 1).bit_length()
            text = base32(filled.join([*some, b""]).ljust(width * together, b"\0"))
            step = width * 8 // 5
            found += [text[at : at + characters] for at in range(0, step * len(some), step)]
    return found


def base32(data: bytes) -> str:
    """Return base32 in lower case and without padding (RFC 4648, section 6).

    `base64.b32encode` takes five times as long. This function spreads all groups of five bits over
    bytes at once: it moves the two halves of the groups apart, then the quarters, and so on.
    """
    groups = -(-len(data) * 8 // 5)
    spread = int.from_bytes(data, "big") << (-len(data) * 8 % 5)
    for low_groups, shift in _steps(groups):
        low = spread & low_groups
        spread = low | ((spread ^ low) << shift)
    return spread.to_bytes(groups, "big").translate(ALPHABET).decode()


@cache
def _steps(groups: int) -> list[tuple[int, int]]:
    """Return the steps that move groups of five bits apart.

    A step is the mask of the bits that stay, and the number of bits by which the others move.
    """
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


def unwrapped(sealed: bytes, masters: Iterable[bytes]) -> bytes:
    """Unwrap a key with the one of these master keys that has wrapped it.

    Raises `WrongMasterKey` if none of them has wrapped it.
    """
    for master in masters:
        try:
            return aes_key_unwrap_with_padding(master, sealed)
        except (InvalidUnwrap, ValueError):
            continue
    raise WrongMasterKey(
        "the master key does not open the key of an agreement: restore the master key that wrapped "
        "that key"
    )
