"""The students of the record of disclosures, and their commitments.

An entry of the record names a student by a commitment: the SHA-256 of 32 random bytes (the salt)
and the student's id. Each student has one salt. The salts and ids are in a table of their own, the
compacted topic `PREFIX.disclosures.students`, with a random handle as the key.

The reason is erasure. The entries form a hash chain, so no entry can ever change. If entries had
the ids, the bus could not erase a student without breaking the chain. With commitments, the bus
erases a student by a tombstone in the table. Every entry and every hash stays as it is. Without the
salt, nobody can connect the commitment with a person, not even by trying all ids. A plain hash of
the id would not be safe, because ids can be guessed. For the same reason, the key of a row is
random: Kafka keeps the key of a tombstone.

This module is pure: it does no I/O.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from hashlib import sha256

SALT_BYTES = 32
HANDLE_BYTES = 16

Row = tuple[bytes, bytes | None]
"""A message of the table: its key and value; None is a tombstone."""


def commitment(salt: bytes, student: str) -> str:
    """Return the commitment of a student: SHA-256(salt || id), as 64 hexadecimal digits."""
    return sha256(salt + student.encode()).hexdigest()


def new_row(student: str) -> Row:
    """Return a message that gives a student a new salt."""
    value = {"id": student, "salt": secrets.token_hex(SALT_BYTES)}
    return secrets.token_hex(HANDLE_BYTES).encode(), json.dumps(value, ensure_ascii=False).encode()


class DisclosedStudents:
    """The table of students, as far as it has been read."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._secrets: dict[str, list[bytes]] = {}  # by id: salt and handle, in one
        self._ids: dict[bytes, str] = {}  # by handle
        for key, value in rows:
            self.take(key, value)

    def __len__(self) -> int:
        return len(self._secrets)

    def take(self, key: bytes, value: bytes | None) -> None:
        """Add one message of the table. A message that is not a row of the table is ignored."""
        try:
            handle = bytes.fromhex(key.decode())
            table = json.loads(value) if value is not None else None
            salt = bytes.fromhex(table["salt"]) if table is not None else b""
            student = str(table["id"]) if table is not None else ""
        except (ValueError, TypeError, KeyError):
            return
        self._forget(handle)
        if table is not None:
            self._ids[handle] = student
            self._secrets.setdefault(student, []).append(salt + handle)

    def __contains__(self, student: object) -> bool:
        return student in self._secrets

    def commitments(self, student: str) -> list[str]:
        """Return the commitments of a student; empty if the table lacks the student."""
        return [commitment(one[:SALT_BYTES], student) for one in self._secrets.get(student, ())]

    def by_commitment(self) -> dict[str, str]:
        """Return the ids of all students by their commitments."""
        return {one: student for student in self._secrets for one in self.commitments(student)}

    def tombstones(self, student: str) -> list[Row]:
        """Return the messages that erase a student; empty if the table lacks the student."""
        return [(one[SALT_BYTES:].hex().encode(), None) for one in self._secrets.get(student, ())]

    def _forget(self, handle: bytes) -> None:
        student = self._ids.pop(handle, None)
        if student is None:
            return
        left = [one for one in self._secrets[student] if one[SALT_BYTES:] != handle]
        if left:
            self._secrets[student] = left
        else:
            del self._secrets[student]
