"""The Avro schemas of a vendor's topics: only what the agreement shares, in a separate namespace.

Two agreements never have the same schema, so they never share a schema id of the registry. A schema
says nothing about fields that the agreement does not share: neither their names nor their
documentation.

A district may take a field out of an agreement and add it again later. Compatibility is
FULL_TRANSITIVE, so each field but `sourcedId` and `status`, which every vendor receives, may be
null and has null as its default (Avro 1.12, "Schema Resolution").
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from bus.errors import Stop
from bus.registry.subjects import apply_subjects, lookup_subjects
from bus.standard.kinds import KINDS
from bus.vendors.categories import ALWAYS

if TYPE_CHECKING:
    from bus.settings import Settings
    from bus.vendors.scope import Scope

NAMESPACE = "org.schoolbus.vendor"
SHOWN = ("name", "type", "doc", "default", "sensitivity", "oneroster", "ceds", "edfi")
"""Attributes of a field that a vendor's schema keeps. `references` is narrowed to the scope."""


PSEUDONYM_DOC = (
    "The id of the record, a pseudonym that only this agreement has; it never changes and is the "
    "key of the message."
)


def vendor_topic(settings: Settings, ids_name: str, kind: str) -> str:
    """Return a vendor's topic of a kind, such as `schoolbus.vendor.math-app.student`.

    ids_name: the agreement's name, or with `renews` that of the first agreement of the chain.
    """
    return settings.topic(f"vendor.{ids_name}.{kind}")


def vendor_subject(settings: Settings, ids_name: str, kind: str) -> str:
    """Return the subject of a vendor topic's schema (TopicNameStrategy)."""
    return f"{vendor_topic(settings, ids_name, kind)}-value"


def vendor_schema(scope: Scope, kind: str, ids_name: str) -> dict[str, Any]:
    """Return the Avro schema of what a vendor receives of a kind."""
    ours = KINDS[kind].schema
    narrowed = scope.kinds[kind]
    cut = set(KINDS[kind].fields) - set(narrowed.fields)
    fields = []
    for field in ours["fields"]:
        name = field["name"]
        if name not in narrowed.fields:
            continue
        shown = {key: deepcopy(field[key]) for key in SHOWN if key in field}
        shown["doc"] = _without_mentions(field["doc"], cut)
        if name == "sourcedId" and scope.pseudonymous:
            shown["doc"] = PSEUDONYM_DOC
        if name not in ALWAYS:
            shown["type"] = _nullable(shown["type"])
            shown["default"] = None
        if targets := narrowed.references.get(name):
            shown["references"] = list(targets)
        fields.append(shown)
    return {
        "type": "record",
        "name": ours["name"],
        "namespace": namespace(ids_name),
        # The standard's text of a kind describes fields that the vendor may not receive.
        "doc": f"What agreement {ids_name} shares of {kind} records.",
        "fields": fields,
    }


def namespace(ids_name: str) -> str:
    """Return the namespace of a vendor's schemas, such as `org.schoolbus.vendor.math_app`.

    A name of Avro has no dash and does not begin with a digit (Avro 1.12, "Names"). Different
    agreements always get different namespaces: an underscore of the name becomes two.
    """
    name = ids_name.replace("_", "__").replace("-", "_")
    return f"{NAMESPACE}.{'_' if name[0].isdigit() else ''}{name}"


def register(settings: Settings, ids_name: str, scope: Scope) -> dict[str, int]:
    """Register the schemas of a scope at FULL_TRANSITIVE, and return their ids by kind.

    Only `bus vendors apply` calls this. Repeating it changes nothing. Raises `Stop` if a schema
    would break an earlier version, `RetryLater` if the registry does not answer.
    """
    local = {
        kind: (vendor_subject(settings, ids_name, kind), vendor_schema(scope, kind, ids_name))
        for kind in scope.kinds
    }
    return {one.kind: one.id for one in apply_subjects(settings, local)}


def lookup(settings: Settings, ids_name: str, scope: Scope) -> dict[str, int]:
    """Return the registry's ids of the schemas of a scope by kind, and register nothing.

    Raises `Stop` if one is missing, `RetryLater` if the registry does not answer.
    """
    subjects = {kind: vendor_subject(settings, ids_name, kind) for kind in scope.kinds}
    found = lookup_subjects(
        settings,
        {name: vendor_schema(scope, kind, ids_name) for kind, name in subjects.items()},
    )
    if missing := [name for name in subjects.values() if name not in found]:
        raise Stop(
            f"schema {missing[0]} is not registered as agreement {scope.name} defines it "
            f"({len(missing)} of {len(subjects)} are missing): run `bus vendors apply`"
        )
    return {kind: found[name] for kind, name in subjects.items()}


def _nullable(avro: Any) -> Any:
    if isinstance(avro, list):
        return ["null", *(branch for branch in avro if branch != "null")]
    return ["null", avro]


def _without_mentions(doc: str, cut: set[str]) -> str:
    """Return a field's documentation without the sentences that name a field that was cut.

    Only names that are no English words are looked for, such as `orgSourcedIds`.
    """
    named = {name for name in cut if not name.islower()}
    sentences = re.split(r"(?<=[.;:]) ", doc)
    kept = [one for one in sentences if named.isdisjoint(re.findall(r"\w+", one))]
    return " ".join(kept)
