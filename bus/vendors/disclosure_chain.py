"""The entries of the record of disclosures, and the hash chain that links them.

34 CFR 99.32(a) requires a record of each disclosure: who received what about which student, for
what purpose. The record of Schoolbus has an entry for each change: a vendor's scope changed, or
students entered or left an agreement. `bus.vendors.disclosure_questions` finds from the entries to
whom a student's data was disclosed, and when.

An entry is canonical JSON: keys in order, no spaces, UTF-8. `number` counts from 1. `previous` is
the SHA-256 of the bytes of the entry before, so nobody can change, remove, add or move an entry
without changing every later one. The administrator of Kafka could rewrite the whole chain. So its
head (the last number and hash) is also kept outside Kafka, with the agreements: see `ChainHead`.

| what | says | further keys |
| --- | --- | --- |
| scope | the vendor receives this from now on | agreement, vendor, purpose, basis, document, categories, fields, identifiers, from, until, renews, subprocessors, fingerprint |
| entered | the vendor receives data about these students from now on | agreement, students |
| left | the vendor receives no more data about these students | agreement, students |
| ended, revoked | the vendor receives no more data | agreement, why |
| rekeyed | the vendor receives the same records under new ids from now on | agreement, times |
| deleted | the bus deleted this of the vendor's | agreement, objects |
| attested | the vendor attested that it deleted what it held | agreement, by, statement |
| access | somebody asked this record a question | by, why, question, about, students |
| erased | this many students can no longer be found in the record | by, why, count |

`students` are commitments: see `bus.vendors.disclosed_students`. Every entry has `at`, a time in
UTC.

This module is pure: it does no I/O.
"""  # noqa: E501

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

Entry = Mapping[str, Any]
"""A decoded entry."""
NO_ENTRY = "0" * 64
"""`previous` of the first entry."""
HASH_LENGTH = 64
Code = Literal["unreadable", "changed", "missing", "added", "order", "short", "head"]


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The end of a chain. With it, everything before it can be checked.

    number: the number of the last entry; 0 for an empty chain.
    sha256: the SHA-256 of its bytes, as 64 hexadecimal digits; zeros for an empty chain.
    at:     the time of the last entry, RFC 3339 in UTC; "" for an empty chain.
    """

    number: int = 0
    sha256: str = NO_ENTRY
    at: str = ""


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """Something wrong with the chain.

    number: the number of the entry that has the problem, or that is missing.
    code:   what is wrong, for a program.
    text:   what is wrong, for a person.
    """

    number: int
    code: Code
    text: str


def canonical(entry: Mapping[str, Any]) -> bytes:
    """Return an entry's bytes: JSON with keys in order and without spaces, in UTF-8."""
    return json.dumps(
        entry, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    ).encode()


def decoded(value: bytes | None) -> Entry | None:
    """Return the entry of these bytes, or None if they are no entry in canonical form."""
    try:
        entry = json.loads(value or b"")
        proper = (
            isinstance(entry, dict)
            and type(entry.get("number")) is int
            and all(isinstance(entry.get(key), str) for key in ("previous", "what", "at"))
            and canonical(entry) == value
        )
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or a lone surrogate
        return None
    return entry if proper else None


def linked(content: Mapping[str, Any], head: ChainHead) -> tuple[bytes, ChainHead]:
    """Return the bytes of the next entry after a head, and the head after it.

    content: the entry without `number` and `previous`.
    """
    entry = {**content, "number": head.number + 1, "previous": head.sha256}
    value = canonical(entry)
    return value, ChainHead(head.number + 1, sha256(value).hexdigest(), str(content["at"]))


def head_of(value: bytes | None) -> ChainHead | None:
    """Return the head that an entry forms, or None if the bytes are no entry."""
    entry = decoded(value)
    if entry is None or value is None:
        return None
    return ChainHead(entry["number"], sha256(value).hexdigest(), entry["at"])


def moment_text(moment: datetime) -> str:
    """Return a time as entries hold it: RFC 3339 in UTC with milliseconds.

    Raises ValueError for a time without a zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a time in the record of disclosures needs a time zone")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def verify(values: Iterable[bytes | None], head: ChainHead | None = None) -> list[ChainProblem]:
    """Return the problems of a chain; none if nobody has changed it.

    Finds every entry that was changed, removed, added or moved, if an entry after it, or a head,
    still has the old hash. Only a head shows that the end of the chain was changed or cut off.
    Without a head, or after an old one, only the links between entries are checked.

    values: the bytes of all entries, in the order of the topic.
    head:   a head that was noted earlier, from a place outside Kafka.
    """
    problems: list[ChainProblem] = []
    last = ChainHead()
    seen: set[int] = set()
    at_head = NO_ENTRY if head is not None and head.number == 0 else None
    for place, value in enumerate(values, 1):
        here = head_of(value)
        entry = decoded(value)
        if here is None or entry is None:
            problems.append(
                ChainProblem(last.number + 1, "unreadable", f"message {place} is no entry")
            )
            continue
        problems += _step(last, here, entry["previous"], here.number in seen)
        seen.add(here.number)
        if head is not None and here.number == head.number and at_head != head.sha256:
            at_head = here.sha256
        last = here
    if head is not None:
        problems += _against(head, at_head, last)
    return problems


def _step(last: ChainHead, here: ChainHead, previous: str, seen: bool) -> list[ChainProblem]:
    """Return what is wrong between an entry and the one before it."""
    number, expected = here.number, last.number + 1
    if number == expected:
        if previous == last.sha256:
            return []
        named = f"entry {last.number}" if last.number else "the beginning"
        text = (
            f"{named} does not have the hash that entry {number} names: one of the two was changed"
        )
        return [ChainProblem(number, "changed", text)]
    if seen:
        return [ChainProblem(number, "added", f"there is more than one entry {number}")]
    if number > expected:
        missing = (
            f"entry {expected}" if number == expected + 1 else f"entries {expected} to {number - 1}"
        )
        verb = "is" if number == expected + 1 else "are"
        return [
            ChainProblem(expected, "missing", f"{missing} {verb} missing before entry {number}")
        ]
    text = f"entry {number} comes after entry {last.number}"
    return [ChainProblem(number, "order", text)]


def _against(head: ChainHead, at_head: str | None, last: ChainHead) -> list[ChainProblem]:
    """Return the difference between a chain and a noted head; None if they agree.

    at_head: the hash of the entry with the head's number, or None if there is none.
    """
    if at_head == head.sha256:
        return []
    if at_head is not None:
        text = f"entry {head.number} is not the one that was noted as the head"
        return [ChainProblem(head.number, "head", text)]
    text = f"the chain ends at entry {last.number}, and the noted head is entry {head.number}"
    return [ChainProblem(head.number, "short", text)]


def head_text(head: ChainHead) -> str:
    """Return a head as the text of its file, in TOML."""
    return (
        "# The end of the record of disclosures when `bus vendors apply` ran last. Commit this "
        "file.\n"
        "# `bus vendors verify` compares the record with it.\n"
        f'number = {head.number}\nsha256 = "{head.sha256}"\nat = "{head.at}"\n'
    )
