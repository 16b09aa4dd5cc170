"""The topics of one agreement, and their schemas in the registry.

Each kind that the agreement shares has a topic, `PREFIX.vendor.NAME.KIND`, with as many partitions
as the standard's topics (`bus.kafka.topics.ensure` creates them). Kafka keeps the latest state of
each record forever, and a deletion for 30 days (`bus.kafka.topics.VENDOR`). Only `bus vendors
apply` registers schemas of vendors.
"""

from __future__ import annotations

import json

from bus.errors import Stop
from bus.kafka import topics
from bus.registry.registry_client import NOT_THERE, RegistryClient, RegistryError, answered, client
from bus.registry.subjects import LEVEL
from bus.settings import Settings
from bus.vendors.scope import Scope
from bus.vendors.vendor_schema import vendor_schema


def names(settings: Settings, scope: Scope, ids_name: str) -> dict[str, str]:
    """Return the topic of each kind that an agreement shares."""
    return {kind: topics.vendor_topic(settings, ids_name, kind) for kind in scope.kinds}


def group_prefix(settings: Settings, ids_name: str) -> str:
    """Return the prefix of the vendor's consumer groups."""
    return settings.topic(f"vendor.{ids_name}.")


def register(settings: Settings, scope: Scope, ids_name: str) -> dict[str, int]:
    """Register the schemas of an agreement; return the id of each kind's schema.

    A schema that is registered already keeps its id. Raises `Stop` if the registry refuses a
    schema, and `RetryLater` if it does not answer.
    """
    found = {}
    with client(settings) as registry:
        for kind, topic in names(settings, scope, ids_name).items():
            schema = vendor_schema(scope, kind, ids_name)
            text = json.dumps(schema, ensure_ascii=False)
            found[kind] = _register(registry, f"{topic}-value", text)
    return found


def _register(registry: RegistryClient, subject: str, text: str) -> int:
    with answered():
        try:
            return registry.lookup(subject, text).id
        except RegistryError as error:
            if error.code not in NOT_THERE:
                raise
        registry.set_compatibility(subject, LEVEL)
        try:
            return registry.register_schema(subject, text)
        except RegistryError as error:
            if error.status != 409:
                raise
            raise Stop(
                f"the registry refuses the schema of {subject}, because readers of an earlier "
                "version could not read it; the subject was not made by `bus vendors apply`"
            ) from None
