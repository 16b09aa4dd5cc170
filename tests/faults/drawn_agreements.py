"""Agreements that are drawn at random, and their files."""

from __future__ import annotations

import json
import random
from datetime import date, timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bus.vendors.agreement import Agreement
from tests.faults.canaries import MadeUp
from tests.unit.test_vendor_projection import DEALS

SENSITIVE = ("student.email", "student.pronouns", "result.comment", "staff.email")
"""Fields that no category has; an agreement may name them one by one."""
GUARD_STUDENTS = 6


def drawn_deals(rng: random.Random, number: int) -> list[Agreement]:
    """Return agreements from the strategy of the unit tests, drawn from `rng`."""
    found: list[Agreement] = []

    @seed(rng.getrandbits(32))
    @settings(
        max_examples=8 * number,
        database=None,
        derandomize=False,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(DEALS, st.lists(st.sampled_from(SENSITIVE), unique=True, max_size=2))
    def take(deal: Agreement, more: list[str]) -> None:
        share = deal.share.model_copy(update={"fields": tuple(more)})
        found.append(deal.model_copy(update={"share": share}))

    take()
    return rng.sample(found, number)


def table(deal: Agreement, name: str, identifiers: str, district: MadeUp) -> dict[str, Any]:
    """Return the table of an agreement's file, with the district's own ids, valid today."""
    rules, share, today = deal.students, deal.share, date.today()
    return {
        "vendor": f"{name.title()} Inc.",
        "purpose": deal.purpose,
        "basis": str(deal.basis),
        "from": today - timedelta(days=60),
        "until": today + timedelta(days=300),
        "roles": list(deal.roles),
        "identifiers": identifiers,
        "document": {"title": "Agreement", "sha256": "0" * 64},
        "contacts": {"vendor": "v@vendor.example", "district": "d@district.example"},
        "share": {
            "categories": list(share.categories),
            "fields": list(share.fields),
            "why": dict.fromkeys((*share.categories, *share.fields), "the app needs it"),
        },
        "students": {
            "schools": [district.schools[one] for one in rules.schools],
            "grades": list(rules.grades),
            "classes": [district.classes[one] for one in rules.classes],
            "leave_after": 0,
        },
        "guard": {"share": 0.1, "students": GUARD_STUDENTS},
    }


def as_toml(found: dict[str, Any], path: str = "") -> str:
    """Return a table as TOML: its plain values, then its tables."""
    plain = {key: value for key, value in found.items() if not isinstance(value, dict)}
    lines = [f"[{path}]"] if path else []
    lines += [
        f"{json.dumps(key)} = {value.isoformat() if isinstance(value, date) else json.dumps(value)}"
        for key, value in plain.items()
    ]
    for key, value in found.items():
        if isinstance(value, dict):
            lines.append(as_toml(value, f"{path}.{key}" if path else key))
    return "\n".join(lines)
