"""Finds which ids other sources have published, since records may refer to those as well."""

from __future__ import annotations

from collections.abc import Iterable

from bus.kafka import topics
from bus.kafka.cloudevents import header
from bus.kafka.reader import scan
from bus.settings import Settings


def known_ids(settings: Settings, kind: str, ids: Iterable[str], *, other_than: str) -> set[str]:
    """Return those of the ids that a source besides `other_than` has published as this kind."""
    wanted = {id_.encode(): id_ for id_ in ids}
    found = set()
    if wanted:
        for message in scan(settings, topics.topic(settings, kind)):
            key = message.key() or b""
            if key in wanted and header(message, "ce_source") != other_than:
                found.add(wanted[key])
    return found
