"""Masks the personal values of records: each is replaced by its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bus.standard.kinds import KINDS


def masked(kind: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Return a record with its personal values replaced by their class.

    Ids stay, as they identify the record. The schema's `sensitivity` says which fields are
    personal.
    """
    open_ = {
        field["name"]
        for field in KINDS[kind].schema["fields"]
        if field.get("sensitivity") in ("operational", "public")
        or field["name"].endswith(("ourcedId", "ourcedIds"))
    }
    return {
        name: str(value) if name in open_ or value in (None, [], "") else value_class(value)
        for name, value in record.items()
    }


def value_class(value: Any) -> str:
    """Return what sort of value this is, such as "text of 12 characters"; never the value."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, list | tuple | dict):
        return f"{len(value)} value" + ("" if len(value) == 1 else "s")
    return type(value).__name__
