"""The categories of data of an agreement's schedule, and the fields that each one means.

Source: the National Data Privacy Agreement (Student Data Privacy Consortium), "Schedule of Data".
`schemas/categories.toml` has the mapping.
"""

from __future__ import annotations

from functools import cache
from tomllib import loads
from typing import TYPE_CHECKING

from bus.standard.kinds import KINDS, schema_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bus.vendors.agreement import Share

ALWAYS = ("sourcedId", "status")
"""Fields of every record that a vendor receives: its key, and whether it is active."""


@cache
def categories() -> Mapping[str, tuple[str, ...]]:
    """Return the fields (`KIND.FIELD`) of each category; empty if the standard has none for it."""
    text = (schema_directory() / "categories.toml").read_text("utf-8")
    return {name: tuple(table["fields"]) for name, table in loads(text)["category"].items()}


def shared_fields(share: Share) -> dict[str, tuple[str, ...]]:
    """Return the fields that are shared, by kind, in the order of the schemas.

    Each kind has `sourcedId` and `status`. Names that do not exist are ignored here;
    `bus.vendors.check` reports them.
    """
    named = {field for one in share.categories for field in categories().get(one, ())}
    named = (named | set(share.fields)) - set(share.without)
    found = {}
    for kind, about in KINDS.items():
        fields = [one for one in about.fields if one in ALWAYS or f"{kind}.{one}" in named]
        if any(f"{kind}.{one}" in named for one in about.fields):
            found[kind] = tuple(fields)
    return found
