"""When a producer may still have a request in flight."""

from __future__ import annotations

import logging

import pytest

from bus.kafka.connection_watch import ConnectionWatch

TEXT = "%s [%s] %s"
"""The log text of confluent-kafka, with librdkafka's facility, the client and a message."""


@pytest.mark.parametrize(
    ("facility", "message", "doubtful"),
    [
        ("FAIL", "kafka:9092/1: Disconnected (after 601ms in state UP)", True),
        ("REQTMOUT", "kafka:9092/1: Timed out EndTxnRequest in flight (after 60000ms)", True),
        ("FAIL", "kafka:9092/1: Connect failed: refused (after 0ms in state CONNECT)", False),
        ("GETPID", "Coordinator load in progress: retrying", False),
    ],
)
def test_what_leaves_a_doubt(
    facility: str, message: str, doubtful: bool, caplog: pytest.LogCaptureFixture
) -> None:
    doubt = ConnectionWatch()
    doubt.log(logging.INFO, "one line")
    assert not doubt
    with caplog.at_level(logging.INFO, "bus.librdkafka"):
        doubt.log(logging.INFO, TEXT, facility, "producer-1", message)
    assert bool(doubt) is doubtful
    assert message in caplog.text


def test_a_doubt_stays() -> None:
    doubt = ConnectionWatch()
    doubt.log(logging.INFO, TEXT, "FAIL", "producer-1", "Disconnected (after 1ms in state UP)")
    doubt.log(logging.INFO, TEXT, "GETPID", "producer-1", "there it is")
    assert doubt
