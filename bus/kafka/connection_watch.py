"""Whether a request of a transactional producer may still be on its way to Kafka.

librdkafka sends a request again on its own when its connection breaks or no answer comes, also the
one that ends a transaction; the first of the two may arrive after all, much later. Up to version 1
of Kafka's transactions, which is what librdkafka speaks, the broker takes such an end for that of
the transaction that the same producer has open by then: half of it is committed before its time, or
aborted while the other half is committed (Jepsen, "Bufstream 0.1.0", 2024; Kafka,
KIP-890). It does not do so once a successor has started, whose epoch is higher.

So a producer about which there is doubt begins no further transaction.
See docs/decisions/10-transactions.md.
"""

from __future__ import annotations

import logging

BROKEN = ("FAIL", "REQTMOUT")
"""librdkafka's log facilities for a connection that ends and for an answer that does not come."""

HEARD = {"log_level": 6, "log.connection.close": True}
"""librdkafka's settings without which it would not say so."""


class ConnectionWatch:
    """librdkafka's logger for one producer: hands on what it hears to the log, and remembers.

    What was logged is handed over in `Producer.poll`: poll, then ask. Once there is doubt it stays,
    as librdkafka says the same thing only once in 30 s.
    """

    def __init__(self) -> None:
        self._broken = False
        self._log = logging.getLogger("bus.librdkafka")

    def __bool__(self) -> bool:
        return self._broken

    def log(self, level: int, text: str, *parts: str) -> None:
        """As confluent-kafka calls it: facility, client and message are the parts of the text."""
        facility, message = (parts[0], parts[-1]) if parts else ("", text)
        # Nothing was sent by a connection that did not come about.
        if facility in BROKEN and "in state CONNECT" not in message:
            self._broken = True
        self._log.log(level, text, *parts)
