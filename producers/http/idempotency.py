"""Idempotency keys: a request that is sent again gets the same answer and publishes nothing again.

This module follows draft-ietf-httpapi-idempotency-key-header ("The Idempotency-Key HTTP Request
Header Field"). The header is a Structured Field string. The same key with another body is refused
with 422, and a request that is still in progress with 409. A bare word is accepted as well as a
quoted string, because most clients send one. A key belongs to one client and is valid for
`idempotency_hours`. The fingerprint of a request is a hash of its kind and body.

Keys are kept in one compacted Kafka topic, so they survive a restart of the service. A key is
written in the same transaction as the events, so Kafka has both or neither. The key of the message
is the SHA-256 of client and Idempotency-Key. The value holds the fingerprint, the number of events
and the time. It holds no personal data. It does not hold the ids of the events either, because they
follow from client, key and body.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from bus.kafka import topics
from bus.kafka.reader import Reader
from bus.settings import Settings
from producers.http.problems import Problem, in_progress

QUOTED = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
BARE = re.compile(r"[\x21-\x7e]+")
LONGEST = 255


class Seen(NamedTuple):
    """A key that was used.

    body: the fingerprint of the request.
    done: when Kafka had committed the request, in POSIX seconds. None while it is in progress.
    """

    body: bytes
    done: float | None


class Keys:
    """The keys that this service remembers. Use it in one thread only.

    seconds: how long a key is remembered.
    most:    how many keys are remembered. Beyond that number the oldest are forgotten.
    clock:   returns POSIX seconds.
    """

    def __init__(self, seconds: float, most: int, clock: Callable[[], float] = time.time) -> None:
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._seen: dict[bytes, Seen] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def done(self, key: bytes, body: bytes) -> bool:
        """Return whether this same request was committed before.

        Raises a 422 `Problem` when the key came with another body, and a 409 `Problem` when a
        request with this key is in progress.
        """
        seen = self._seen.get(key)
        if seen is None or (seen.done is not None and seen.done < self._clock() - self._seconds):
            return False
        if seen.body != body:
            raise Problem(
                422,
                "idempotency-key-reused",
                "this Idempotency-Key was used for a request with another body or path; use a new "
                "key for each request, and repeat a key only to send the same request again",
            )
        if seen.done is None:
            raise in_progress()
        return True

    def begin(self, key: bytes, body: bytes) -> None:
        """Record that a request with this key is in progress."""
        self._seen[key] = Seen(body, None)

    def finish(self, key: bytes, body: bytes, when: float | None = None) -> None:
        """Record that Kafka has committed the events of the request with this key."""
        self._seen.pop(key, None)  # keeps the oldest first
        self._seen[key] = Seen(body, self._clock() if when is None else when)
        self._forget()

    def drop(self, key: bytes) -> None:
        """Forget a key whose request published nothing. The key may be used again."""
        self._seen.pop(key, None)

    def _forget(self) -> None:
        limit = self._clock() - self._seconds
        while self._seen:
            oldest = next(iter(self._seen))
            done = self._seen[oldest].done
            if done is None or (done >= limit and len(self._seen) <= self._most):
                return
            del self._seen[oldest]


def parse(header: list[str]) -> str | None:
    """Return the Idempotency-Key of a request, or None if it has none.

    header: the values of all headers of this name.

    Raises a 400 `Problem` when the key is malformed.
    """
    if not header:
        return None
    text = header[0].strip()
    quoted = QUOTED.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    right = quoted or (BARE.fullmatch(text) and not text.startswith('"'))
    if len(header) > 1 or not right or not 0 < len(key) <= LONGEST:
        raise Problem(
            400,
            "idempotency-key-malformed",
            f"the Idempotency-Key is malformed; send one key of 1 to {LONGEST} printable ASCII "
            "characters, such as a UUID in double quotes",
        )
    return key


def digest(client: str, key: str) -> bytes:
    """Return the hash under which a client's key is remembered."""
    return sha256(client.encode() + b"\0" + key.encode()).digest()


def fingerprint(kind: str, body: bytes) -> bytes:
    """Return a hash of kind and body, by which requests are distinguished."""
    return sha256(kind.encode() + b"\0" + body).digest()


def value(body: bytes, records: int, when: float) -> bytes:
    """Return the value of the Kafka message that stores a key. `body` is the fingerprint."""
    return json.dumps({"body": body.hex(), "events": records, "time": round(when, 3)}).encode()


def load(settings: Settings, keys: Keys, seconds: float = 60.0) -> None:
    """Fill `keys` from the topic, with everything that is committed at the time of the call.

    Raises `RetryLater` when Kafka does not answer within `seconds`.
    """
    topic = topics.idempotency(settings)
    failure = (
        "the idempotency keys could not be read ({}); restart the service when Kafka is up, and "
        f"check that this Kafka user may read the topic {topic}"
    )
    with Reader(settings, failure, seconds=seconds) as reader:
        start = dict.fromkeys(reader.places([topic]), 0)
        for messages in reader.batches(start, silence=seconds):
            for message in messages:
                _remember(keys, message.key(), message.value())


def _remember(keys: Keys, key: bytes | None, message: bytes | None) -> None:
    if key is None or message is None:
        return
    try:
        stored = json.loads(message)
        keys.finish(key, bytes.fromhex(stored["body"]), float(stored["time"]))
    except (ValueError, KeyError, TypeError):
        return  # not a message with a key, such as the marker of a transaction
