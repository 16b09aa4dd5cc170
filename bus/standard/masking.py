"""Records without their personal values: each is told by what sort of value it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bus.standard.kinds import KINDS


def masked(kind: str, record: Mapping[str, Any]) -> dict[str, str]:
    """A record in which personal values are told by their class alone; ids stay, as by them it is
    found. What is personal is said by the schema (`sensitivity`)."""
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
    """What sort of value it is, never it."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, list | tuple | dict):
        return f"{len(value)} value" + ("" if len(value) == 1 else "s")
    return type(value).__name__
