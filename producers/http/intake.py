"""Turns the body of a request into events: either all of its records, or a problem.

The functions here are pure, except that event ids are random when the client sends no
Idempotency-Key. With a key, the ids follow from client, key and body. The same request then gets
the same event ids, in any process and at any time.
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
"""An attendance record corrects an earlier one of the same client when these fields are equal."""

MESSAGE_BYTES = 900_000
"""Maximum size of an encoded record. With headers and framing it stays below the default limit of a
broker (Kafka, `message.max.bytes`).
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """A record that is ready to publish.

    event_id:   the CloudEvents id.
    sourced_id: the record's sourcedId.
    owner:      the value that determines the partition.
    value:      the encoded record.
    """

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
    """Check and encode the records of a body, and return them in the order of the body.

    most:    maximum number of records.
    request: identifies the request; the event ids follow from it. None: they are random.

    Raises `Problem`: 400 when the body is not JSON, 413 when it has too many records or one is too
    large, and 422 with every field that is wrong. No record is accepted then.
    """
    records = _records(kind, body, client, most)
    owner = KINDS[kind].owner
    taken = []
    for index, record in enumerate(records):
        value = encoder.encode(record)
        if len(value) > MESSAGE_BYTES:
            raise _too_large(
                f"record {index}, counted from 0, is larger than {MESSAGE_BYTES} bytes; shorten it"
            )
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
        raise _invalid([("#", "must be an object or an array of objects")])
    if not items:
        raise _invalid([("#", "must contain at least one record")])
    if len(items) > most:
        raise _too_large(f"the body has {len(items)} records; send at most {most} in one request")
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
        # Validate first, so that two ways to write the same date give the same id.
        item = item | {"sourcedId": str(ATTENDANCE)}
    record = from_json(kind, {"status": "active"} | item)
    if nameless:
        record["sourcedId"] = attendance_id(client, record)
    return record


def attendance_id(client: str, record: Record) -> str:
    """Return the id of an attendance record that came without one (RFC 9562, UUID version 5).

    The id follows from the client and from the student, school, class, day and period of the
    record. So the next record with the same values is a correction of this one.
    """
    parts = [client, *(str(record.get(field) or "") for field in SAME_ATTENDANCE)]
    return str(uuid.uuid5(ATTENDANCE, json.dumps(parts)))


def _parsed(body: bytes) -> Any:
    try:
        # This parser also refuses NaN, infinities, invalid UTF-8 and too deep nesting.
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, "not-json", f"the body is not JSON (RFC 8259): {error}") from None


def _invalid(errors: list[tuple[str, str]]) -> Problem:
    return Problem(
        422,
        "invalid-records",
        "no record of this request was accepted; correct the fields that `errors` lists and send "
        "the whole request again",
        errors,
    )


def _too_large(detail: str) -> Problem:
    return Problem(413, "too-large", detail)
