"""Records as JSON, for what goes out to a vendor and what comes in over HTTP.

Dates are `YYYY-MM-DD`. Moments follow RFC 3339 (sections 5.6 and 5.8) in UTC, written with `Z`. An
enumeration is its symbol. Avro's null, array and boolean are JSON's (RFC 8259).

Input is never guessed. A number is not text, and `"true"` is not a boolean. A field that the
standard does not have is a fault, as it is usually misspelled. A missing field gets its Avro
default (Avro 1.12, "Complex Types", "Records"). A moment needs its offset from UTC and is cut to
milliseconds, as in the topics. The rules go beyond the schema:

* An id has 1 to 255 characters (OneRoster 1.2 CSV Binding, "GUID") and no control characters.
* Required text is not blank.
* Text has no control characters other than tab and line ends.
* A field with the attribute `when` has a value if, and only if, other fields have the values that
  the attribute names (`bus.standard.kinds`). This value is not blank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from functools import cache
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, with_config
from pydantic import ValidationError as NotValid
from typing_extensions import TypedDict

from bus.errors import Never
from bus.standard.kinds import KINDS, Record

ID_LENGTH = 255
BLANK = r" \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
"""Spaces, listed one by one, as dialects of regular expressions differ in the meaning of `\\s`."""
CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
ID = rf"^[^{CONTROL}]*[^{BLANK}{CONTROL}][^{CONTROL}]*$"
UNFIT = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
"""Control characters other than tab and line ends."""
TEXT = rf"^[^{UNFIT}]*$"
REQUIRED_TEXT = rf"^[^{UNFIT}]*[^{BLANK}{CONTROL}][^{UNFIT}]*$"
NOT_BLANK = rf"[^{BLANK}{CONTROL}]"
DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
MOMENT = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
UNKNOWN = "(a field that the standard does not have)"


class FieldProblem(NamedTuple):
    """A field that is wrong, and what it must be; `reason` never holds the value."""

    field: str
    reason: str


class Invalid(Never):
    """A record that does not fit its kind; `problems` lists each wrong field once.

    `problems` has the names of unknown fields, for the sender. `str(error)` does not, as it may be
    logged and an unknown name may be anything, even personal data.
    """

    def __init__(self, kind: str, problems: list[FieldProblem]) -> None:
        known = KINDS[kind].fields
        listed = "; ".join(f"{f if f in known else UNKNOWN} {reason}" for f, reason in problems)
        super().__init__(f"this is not a valid {kind}: {listed}")
        self.problems = problems


def to_json(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as JSON, with every field of its kind in the schema's order.

    Raises `Never` for a number that JSON cannot express (infinity, NaN).
    """
    return {
        field: (value if plain is None else plain(value))
        for field, plain in _WRITERS[kind]
        for value in (record[field],)
    }


def from_json(kind: str, document: Mapping[str, Any]) -> Record:
    """Return the record of a JSON object, with every field of its kind; raises `Invalid`."""
    try:
        record: Record = _adapter(kind).validate_python(_defaults(kind) | dict(document))
    except NotValid as error:
        raise Invalid(kind, _problems(kind, error)) from None
    if KINDS[kind].when and (problems := _wrong_combinations(kind, record)):
        raise Invalid(kind, problems)
    return record


def text_keywords(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that `from_json` puts on a field's text, as keywords of JSON Schema.

    Source: JSON Schema 2020-12, "Validation", section 6.3.

    field: the field of the Avro schema.
    """
    if _is_id(field):
        return {"minLength": 1, "maxLength": ID_LENGTH, "pattern": ID}
    if _is_required_text(field):
        return {"minLength": 1, "pattern": REQUIRED_TEXT}
    return {"pattern": TEXT}


def _problems(kind: str, error: NotValid) -> list[FieldProblem]:
    expected = _expected(kind)
    found: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        field = str(problem["loc"][0])
        if problem["type"] == "missing":
            found.setdefault(field, f"is missing and {expected[field]}")
        else:
            found.setdefault(field, expected.get(field, f"is not a field of {kind}"))
    return [FieldProblem(field, reason) for field, reason in found.items()]


def _wrong_combinations(kind: str, record: Record) -> list[FieldProblem]:
    """Return the fields that lack a value that other fields require, or that must have none."""
    problems = []
    for field, when in KINDS[kind].when.items():
        wanted = all(record[other] == value for other, value in when.items())
        value = record[field]
        blank = value is None or (isinstance(value, str) and not re.search(NOT_BLANK, value))
        words = " and ".join(f"{other} is {symbol}" for other, symbol in when.items())
        if wanted and blank:
            problems.append(FieldProblem(field, f"must have a value that is not blank if {words}"))
        elif not wanted and value is not None:
            problems.append(FieldProblem(field, f"must be null unless {words}"))
    return problems


@cache
def _defaults(kind: str) -> dict[str, Any]:
    return {f["name"]: f["default"] for f in KINDS[kind].schema["fields"] if "default" in f}


@cache
def _expected(kind: str) -> dict[str, str]:
    """Return for each field what it must be, in words."""
    return {f["name"]: f"must be {_words(f, f['type'])}" for f in KINDS[kind].schema["fields"]}


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    """Return what checks and converts a whole record; cached, as building it is slow."""
    schema = KINDS[kind].schema
    fields = {f["name"]: _checked(f, f["type"]) for f in schema["fields"]}
    shape: Any = TypedDict(schema["name"], fields)  # type: ignore[misc]
    strict: Any = with_config(ConfigDict(extra="forbid", allow_inf_nan=False))(shape)
    return TypeAdapter(strict)


def _checked(field: Mapping[str, Any], avro: Any) -> Any:
    """Return the annotated Python type, for pydantic, of an Avro type."""
    if isinstance(avro, list):
        branches = [_checked(field, branch) for branch in avro if branch != "null"]
        return branches[0] | None if len(branches) < len(avro) else branches[0]
    if isinstance(avro, dict) and "logicalType" in avro:
        return _LOGICAL[avro["logicalType"]]
    if isinstance(avro, dict) and avro["type"] == "array":
        return Annotated[list[_checked(field, avro["items"])], Field(strict=True)]  # type: ignore[misc]
    if isinstance(avro, dict):
        return Annotated[str, Field(strict=True, pattern=f"^({'|'.join(avro['symbols'])})$")]
    if avro == "string" and _is_id(field):
        return Annotated[str, Field(strict=True, max_length=ID_LENGTH, pattern=ID)]
    if avro == "string" and _is_required_text(field):
        return Annotated[str, Field(strict=True, pattern=REQUIRED_TEXT)]
    return _PRIMITIVES[avro]


def _words(field: Mapping[str, Any], avro: Any) -> str:
    """Return in words what an Avro type is in JSON."""
    if isinstance(avro, list):
        words = [_words(field, branch) for branch in avro if branch != "null"]
        return " or ".join([*words, "null"] if "null" in avro else words)
    if isinstance(avro, dict) and "logicalType" in avro:
        return _WORDS[avro["logicalType"]]
    if isinstance(avro, dict) and avro["type"] == "array":
        return f"an array, each item {_words(field, avro['items'])}"
    if isinstance(avro, dict):
        return f"one of {', '.join(avro['symbols'])}"
    if avro == "string" and _is_id(field):
        return f"an id: text of 1 to {ID_LENGTH} characters without control characters"
    if avro == "string" and _is_required_text(field):
        return "text that is not blank, without control characters"
    return _WORDS[avro]


def _is_id(field: Mapping[str, Any]) -> bool:
    return "references" in field or field["name"].endswith(("ourcedId", "ourcedIds"))


def _is_required_text(field: Mapping[str, Any]) -> bool:
    """Return whether the field is required text."""
    return bool(field["type"] == "string" and "default" not in field)


def _whole(number: Any) -> Any:
    """Return a float without a fraction as an int.

    JSON has one type of number: 2027.0 is the whole number 2027 (JSON Schema 2020-12, "Core",
    section 4.2.3).
    """
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _utc(moment: datetime) -> datetime:
    """Return the moment in UTC and whole milliseconds, as a topic returns it."""
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("out of range") from None
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


def _text_of(pattern: str) -> Any:
    """Let only text of this form reach pydantic, which would also read numbers as dates."""
    adapter: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(strict=True, pattern=pattern)])
    return BeforeValidator(adapter.validate_python)


_LOGICAL: dict[str, Any] = {
    "date": Annotated[date, _text_of(DATE)],
    "timestamp-millis": Annotated[datetime, AfterValidator(_utc), _text_of(MOMENT)],
}
_PRIMITIVES: dict[str, Any] = {
    "string": Annotated[str, Field(strict=True, pattern=TEXT)],
    "boolean": Annotated[bool, Field(strict=True)],
    "int": Annotated[int, Field(strict=True, ge=-(2**31), lt=2**31), BeforeValidator(_whole)],
    "long": Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63), BeforeValidator(_whole)],
    "float": Annotated[float, Field(strict=True)],
    "double": Annotated[float, Field(strict=True)],
}
_WORDS = {
    "string": "text without control characters",
    "boolean": "true or false",
    "int": "a whole number of 32 bits",
    "long": "a whole number of 64 bits",
    "float": "a number",
    "double": "a number",
    "date": "a date, YYYY-MM-DD",
    "timestamp-millis": "a moment by RFC 3339 (2026-11-24T08:15:00Z, or with an offset)",
}


def _plain_date(value: date | None) -> str | None:
    return None if value is None else value.isoformat()


def _plain_moment(value: datetime | None) -> str | None:
    if value is None:
        return None
    utc = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _plain_number(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise Never("a number in the record is infinite or NaN, which JSON cannot express")
    return value


def _writer(avro: Any) -> Callable[[Any], Any] | None:
    """Return the function that turns a field's value into JSON; None if it already is JSON."""
    if isinstance(avro, list):
        return next((found for branch in avro if (found := _writer(branch))), None)
    if isinstance(avro, dict):
        return {"date": _plain_date, "timestamp-millis": _plain_moment}.get(
            avro.get("logicalType", "")
        )
    return _plain_number if avro in ("float", "double") else None


_WRITERS = {
    kind: tuple((f["name"], _writer(f["type"])) for f in about.schema["fields"])
    for kind, about in KINDS.items()
}
