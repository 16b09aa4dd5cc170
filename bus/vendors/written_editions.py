"""The edition that the topics of each agreement hold whole.

A consumer that makes complete sets must not make one while half of the records are written. So
`bus vendors run` notes the `Applied.edition` that the topics hold whole, in `PREFIX.vendors` under
the key `written/NAME`. It notes it after the old records are deleted.
"""

from __future__ import annotations

from bus.kafka import topics
from bus.kafka.reader import scan
from bus.kafka.sender import Sender
from bus.settings import Settings

KEY = b"written/"


def is_note(key: bytes) -> bool:
    """Return whether a key of `PREFIX.vendors` is one of these notes, and not an agreement's."""
    return key.startswith(KEY)


def read_all(settings: Settings) -> dict[str, str]:
    """Return the editions that the topics of all agreements hold whole, by name.

    Raises `RetryLater` if Kafka does not answer.
    """
    found = {}
    for message in scan(settings, topics.vendors(settings)):
        key = message.key() or b""
        if is_note(key):
            found[key[len(KEY) :].decode()] = (message.value() or b"").decode()
    return found


def read(settings: Settings, name: str) -> str:
    """Return the edition that an agreement's topics hold whole; "" if there is none yet.

    Raises `RetryLater` if Kafka does not answer.
    """
    return read_all(settings).get(name, "")


def note(settings: Settings, name: str, edition: str) -> None:
    """Store that an agreement's topics hold this edition whole. Doing it again changes nothing.

    Raises the errors of `bus.kafka.sender.Sender.flush`.
    """
    if read(settings, name) != edition:
        sender = Sender(settings, topics.vendors(settings), "store what the topics hold")
        sender.add(edition.encode(), KEY + name.encode())
        sender.flush()
