"""Detects when a request of a transactional producer may still be on its way to Kafka.

librdkafka repeats a request when its connection breaks or when no answer arrives in time. That
includes the request that ends a transaction (EndTxn). The first of the two requests may still
arrive, much later. librdkafka speaks version 1 of Kafka's transaction protocol. Up to that version,
the broker applies a late EndTxn to the transaction that the same producer has open by then. Half of
that transaction is then committed too early, or half is aborted and the other half committed
(Jepsen, "Bufstream 0.1.0", 2024; Kafka, KIP-890). The broker rejects the late request once a
successor of the producer has started, because the successor has a higher epoch.

Therefore a producer begins no further transaction after its connection broke or a request timed
out. See docs/decisions/10-transactions.md.
"""

from __future__ import annotations

import logging

BROKEN = ("FAIL", "REQTMOUT")
"""librdkafka's log facilities for a connection that ended and for a request that timed out."""

LOG_SETTINGS = {"log_level": 6, "log.connection.close": True}
"""The librdkafka settings that make it log these events."""


class ConnectionWatch:
    """A logger for one producer that also remembers whether a connection broke.

    It forwards each of librdkafka's lines to the logger `bus.librdkafka`. It is true after a
    connection broke or a request timed out. It then stays true, because librdkafka logs the same
    event only once in 30 s. librdkafka hands over its lines during `Producer.poll`: call that
    before the test.
    """

    def __init__(self) -> None:
        self._broken = False
        self._log = logging.getLogger("bus.librdkafka")

    def __bool__(self) -> bool:
        return self._broken

    def log(self, level: int, text: str, *parts: str) -> None:
        """Log one line of librdkafka.

        confluent-kafka calls this method. The parts of the text are facility, client and message.
        """
        facility, message = (parts[0], parts[-1]) if parts else ("", text)
        # A connection that was never established has sent nothing.
        if facility in BROKEN and "in state CONNECT" not in message:
            self._broken = True
        self._log.log(level, text, *parts)
