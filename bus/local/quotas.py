"""Sets client quotas in the embedded Kafka, which librdkafka cannot.

It speaks Kafka's own protocol, with the certificate of the node. Kafka's command line would start a
Java process for each user, which takes two seconds.

Source: Apache Kafka protocol, "AlterClientQuotas" and "DescribeClientQuotas" (version 0), request
header version 1, response header version 0.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bus.errors import RetryLater, Stop
from bus.local.home import is_secure, read_bus_file, tls

DESCRIBE, ALTER = 48, 49
"""The API keys."""

EXACT = 0
"""The match type for one entity by its name."""

SECONDS = 10.0
LONGEST = 1 << 24
"""The most bytes of an answer. A longer one is not Kafka's."""


def alter_quotas(home: Path, quotas: Mapping[str, Mapping[str, float | None]]) -> None:
    """Set quotas of users.

    quotas: the value of each key (`producer_byte_rate`, `consumer_byte_rate`,
            `request_percentage`) by user; None deletes it.

    Raises `Stop` if the home is not secure or Kafka refuses, and `RetryLater` if Kafka does not
    answer.
    """
    body = struct.pack(">i", len(quotas))
    for user, values in quotas.items():
        body += struct.pack(">i", 1) + _string("user") + _string(user)
        body += struct.pack(">i", len(values))
        for key, value in values.items():
            body += _string(key) + struct.pack(">d?", value or 0.0, value is None)
    answer = _ask(home, ALTER, body + struct.pack(">?", False))
    for _ in range(answer.int32()):
        code, message = answer.int16(), answer.string()
        for _ in range(answer.int32()):
            answer.string(), answer.string()
        if code:
            raise Stop(f"Kafka refuses a quota (error {code}): {message}")


def quotas_of(home: Path, user: str) -> dict[str, float]:
    """Return the quotas of a user by key; empty if it has none. Raises as `alter_quotas` does."""
    body = struct.pack(">i", 1) + _string("user") + struct.pack(">b", EXACT) + _string(user)
    answer = _ask(home, DESCRIBE, body + struct.pack(">?", True))
    code, message = answer.int16(), answer.string()
    if code:
        raise Stop(f"Kafka does not return the quotas (error {code}): {message}")
    found = {}
    for _ in range(max(0, answer.int32())):
        for _ in range(answer.int32()):
            answer.string(), answer.string()
        for _ in range(answer.int32()):
            key = answer.string()
            found[key] = answer.float64()
    return found


@dataclass(slots=True)
class _Answer:
    """The bytes of an answer, which are read from its start on."""

    content: bytes
    at: int = 0

    def _take(self, form: str) -> tuple[int | float, ...]:
        found = struct.unpack_from(form, self.content, self.at)
        self.at += struct.calcsize(form)
        return found

    def int16(self) -> int:
        return int(self._take(">h")[0])

    def int32(self) -> int:
        return int(self._take(">i")[0])

    def float64(self) -> float:
        return float(self._take(">d")[0])

    def string(self) -> str:
        """Return a text; "" for null."""
        size = max(0, self.int16())
        found = self.content[self.at : self.at + size]
        self.at += size
        return found.decode()


def _ask(home: Path, api: int, body: bytes) -> _Answer:
    """Send a request to the listener INSIDE and return the answer, after its throttle time."""
    home = home.absolute()
    if not is_secure(home):
        raise Stop(f"the bus in {home} is not secure: run `bus down`, then `bus up --secure`")
    request = struct.pack(">hhi", api, 0, 1) + _string("schoolbus") + body
    folder = tls(home)
    try:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "node.pem")
        port = read_bus_file(home).ports["inside"]
        with (
            socket.create_connection(("127.0.0.1", port), SECONDS) as plain,
            closing(context.wrap_socket(plain, server_hostname="localhost")) as wire,
        ):
            wire.sendall(struct.pack(">i", len(request)) + request)
            (size,) = struct.unpack(">i", _receive(wire, 4))
            if not 8 <= size <= LONGEST:
                raise ValueError("not an answer of Kafka")
            answer = _Answer(_receive(wire, size), 8)  # after correlation id and throttle time
    except (OSError, ValueError, KeyError) as error:
        raise RetryLater(
            f"Kafka of the bus in {home} does not answer ({type(error).__name__}): check that it "
            "is up with `bus status`"
        ) from None
    return answer


def _receive(wire: ssl.SSLSocket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = wire.recv(size - len(found))
        if not part:
            raise ValueError("the connection has ended")
        found += part
    return found


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded
