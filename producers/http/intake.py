"""From a request's body to the events that it stands for: all of them, or a problem.

Pure but for event ids made up where the client gave no Idempotency-Key. With one, ids follow from
client, key and body, so that the same request has the same events, in whatever process and
whenever.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pydantic_core

from bus.registry.codec import Encoder
from bus.standard import KINDS, Record
from bus.standard.json import Invalid, from_json
from producers.http.problems import Problem, pointer

EVENTS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:schoolbus:http:event")
ATTENDANCE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:schoolbus:http:attendance")
SAME_ATTENDANCE = (
    "studentSourcedId",
    "schoolSourcedId",
    "classSourcedId",
    "eventDate",
    "classPeriod",
)
"""What two notes of one client agree in when the later one corrects the earlier."""

MESSAGE_BYTES = 900_000
"""Below what a broker takes as one message by default (Kafka, `message.max.bytes`), headers and
framing included."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A record that is fit to publish: its ids, what it is placed by, and its bytes."""

    event_id: str
    sourced_id: str
    owner: str
    value: bytes


def take(
    kind: str,
    body: bytes,
    *,
    client: str,
    encoder: Encoder,
    most: int,
    request: bytes | None,
) -> list[Taken]:
    """The records of a body, checked and encoded, in its order.

    most:    how many there may be.
    request: what the events' ids follow from; None: they are random.

    Raises `Problem`: 400 for what is not JSON, 413 for too many records, 422 with every field that
    is wrong; nothing is taken then.
    """
    records = _records(kind, body, client, most)
    owner = KINDS[kind].owner
    taken = []
    for index, record in enumerate(records):
        value = encoder.encode(record)
        if len(value) > MESSAGE_BYTES:
            raise _too_large(f"record {index} is larger than {MESSAGE_BYTES} bytes")
        identity = (
            uuid.uuid4() if request is None else uuid.uuid5(EVENTS, f"{request.hex()}{index}")
        )
        taken.append(Taken(str(identity), record["sourcedId"], str(record[owner]), value))
    return taken


def _records(kind: str, body: bytes, client: str, most: int) -> list[Record]:
    document = _parsed(body)
    alone = isinstance(document, dict)
    items: Sequence[Any] = [document] if alone else document
    if not isinstance(items, list):
        raise _invalid([("#", "must be an object, or an array of objects")])
    if not items:
        raise _invalid([("#", "must hold at least one record")])
    if len(items) > most:
        raise _too_large(f"{len(items)} records are too many; send at most {most} at once")
    records = []
    errors = []
    for index, item in enumerate(items):
        at: tuple[int, ...] = () if alone else (index,)
        if not isinstance(item, dict):
            errors.append((pointer(*at), "must be an object"))
            continue
        try:
            records.append(_record(kind, item, client))
        except Invalid as invalid:
            errors += [(pointer(*at, field), reason) for field, reason in invalid.problems]
    if errors:
        raise _invalid(errors)
    return records


def _record(kind: str, item: dict[str, Any], client: str) -> Record:
    if kind != "attendance":
        return from_json(kind, item)
    nameless = item.get("sourcedId") is None
    if nameless:
        # Checked first, so that one day written in two ways gives one id.
        item = item | {"sourcedId": str(ATTENDANCE)}
    record = from_json(kind, {"status": "active"} | item)
    if nameless:
        record["sourcedId"] = attendance_id(client, record)
    return record


def attendance_id(client: str, record: Record) -> str:
    """The id of an attendance record that came without one: a UUID (RFC 9562, version 5).

    It follows from the client and from which student, school, class, day and period it is about,
    so that the next note about the same is its correction.
    """
    parts = [client, *(str(record.get(field) or "") for field in SAME_ATTENDANCE)]
    return str(uuid.uuid5(ATTENDANCE, json.dumps(parts)))


def _parsed(body: bytes) -> Any:
    try:
        # Also refuses NaN and infinities, text that is not UTF-8, and nesting without end.
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, "not-json", f"the body is not JSON (RFC 8259): {error}") from None


def _invalid(errors: list[tuple[str, str]]) -> Problem:
    return Problem(
        422,
        "invalid-records",
        "nothing of this request was taken; correct what `errors` names and send all of it again",
        errors,
    )


def _too_large(detail: str) -> Problem:
    return Problem(413, "too-large", detail)
