"""Streams of agreements without Kafka, the registry and the record of disclosures, for unit tests."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from bus.vendors import agreement_streams, outbox, vendor_messages, vendor_stream
from bus.vendors.agreement import Agreement
from bus.vendors.applied import Applied, fingerprint

KEY = bytes(range(64))


class Encoder:
    """Encodes records so that a test can read them."""

    def __init__(self, *_: Any) -> None:
        """Do nothing."""

    def encode_columns(self, columns: dict[str, list[Any]]) -> list[bytes]:
        """Return the records, pickled."""
        rows = zip(*columns.values(), strict=True)
        return [pickle.dumps(dict(zip(columns, row, strict=True))) for row in rows]


def applied(deal: Agreement, **more: Any) -> Applied:
    """Return an agreement as it was applied."""
    at = datetime(2026, 8, 1, tzinfo=UTC)
    return replace(Applied(deal, "active", "math", b"now", at, fingerprint(deal)), **more)


def without_services(
    patch: pytest.MonkeyPatch,
    producer: type,
    *,
    ends: Callable[..., Any],
    not_written_again: Callable[..., Any] = lambda *_: [],
    delete: Callable[..., Any] = lambda *_: None,
    inside: Callable[..., Any] = lambda *_: set(),
) -> None:
    """Replace what streams of agreements need of other programs.

    producer: the class of the outbox's producer.
    ends, not_written_again, delete: the functions of `bus.vendors.old_records`.
    inside:   the students of an agreement, as the record of disclosures says.
    """
    streams, messages = agreement_streams, vendor_messages
    patch.setattr(messages, "lookup", lambda _, __, scope: dict.fromkeys(scope.kinds, 1))
    patch.setattr(messages, "Encoder", Encoder)
    patch.setattr(messages, "vendor_schema", lambda *_: None)
    patch.setattr(vendor_stream, "unwrapped", lambda *_: KEY)
    patch.setattr(streams.master_key, "read", lambda _: [])
    patch.setattr(streams.topics, "ensure", lambda *_: None)
    patch.setattr(streams.old_records, "ends", ends)
    patch.setattr(streams.old_records, "not_written_again", not_written_again)
    patch.setattr(streams.old_records, "delete", delete)
    patch.setattr(streams.written_editions, "note", lambda *_: None)
    patch.setattr(streams, "decoded_entries", lambda *_: [])
    patch.setattr(streams.disclosures, "entries", lambda *_: [])
    patch.setattr(streams.disclosure_questions, "inside", inside)
    patch.setattr(outbox, "Producer", producer)
