"""Agreements for tests."""

from __future__ import annotations

from datetime import date
from typing import Any

from bus.vendors.agreement import Agreement, parse

DAY = date(2026, 11, 28)
"""A day on which `an_agreement` holds."""


def a_table(**changes: Any) -> dict[str, Any]:
    """Return the table of an agreement file; None removes a key."""
    table: dict[str, Any] = {
        "vendor": "Example Math",
        "purpose": "instruction",
        "basis": "school-official",
        "from": date(2026, 8, 1),
        "until": date(2027, 7, 31),
        "document": {"title": "Data privacy agreement", "sha256": "0" * 64},
        "contacts": {"vendor": "privacy@vendor.example", "district": "privacy@district.example"},
        "share": {"categories": ["Enrollment", "Schedule"]},
    } | changes
    return {key: value for key, value in table.items() if value is not None}


def an_agreement(name: str = "math-app", **changes: Any) -> Agreement:
    """Return an agreement that is in order, with changes by the keys of the file."""
    return parse(name, a_table(**changes), f"{name}.toml")
