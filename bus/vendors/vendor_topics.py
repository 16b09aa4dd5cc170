"""The topics and consumer groups of one agreement.

Each kind that the agreement shares has a topic, `PREFIX.vendor.NAME.KIND`, with as many partitions
as the standard's topics (`bus.kafka.topics.ensure` creates them). Kafka keeps the latest state of
each record forever, and a deletion for 30 days (`bus.kafka.topics.VENDOR`).

NAME is the agreement's own name, or with `renews` that of the first agreement of the chain
(`bus.vendors.applied.Applied.ids_name`).
"""

from __future__ import annotations

from bus.settings import Settings
from bus.standard.kinds import KINDS
from bus.vendors.scope import NEVER_SHARED, Scope
from bus.vendors.vendor_schema import vendor_topic


def topics_by_kind(settings: Settings, scope: Scope, ids_name: str) -> dict[str, str]:
    """Return the topic of each kind that an agreement shares."""
    return {kind: vendor_topic(settings, ids_name, kind) for kind in scope.kinds}


def possible_topics(settings: Settings, ids_name: str) -> list[str]:
    """Return every topic that an agreement may have or may have had: one for each kind.

    That includes kinds that the agreement no longer shares. Some of the topics may not exist.
    """
    return [vendor_topic(settings, ids_name, kind) for kind in KINDS if kind not in NEVER_SHARED]


def roots(settings: Settings, ids_name: str) -> list[str]:
    """Return the names under which only this vendor's topics and groups are.

    A name is under `schoolbus.vendor.math-app` if it equals that, or begins with that and a dot.
    The topics are the vendor's own, and the dead letters of its ways. The groups are those of its
    programs, and those of its ways (`bus.vendors.ways`).
    """
    names = (f"vendor.{ids_name}", f"way.{ids_name}", f"deadletters.way.{ids_name}")
    return [settings.topic(name) for name in names]


def group_prefix(settings: Settings, ids_name: str) -> str:
    """Return the prefix of the vendor's consumer groups, `schoolbus.vendor.math-app.`."""
    return settings.topic(f"vendor.{ids_name}.")
