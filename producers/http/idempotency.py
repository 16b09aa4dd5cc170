"""Idempotency keys: the same request sent again is answered again, and not done again.

draft-ietf-httpapi-idempotency-key-header ("The Idempotency-Key HTTP Request Header Field"): the
header is a Structured Field string; the same key with another body is refused with 422, a request
still in progress with 409. A bare word is taken as well as a quoted string, as most clients send
it so. A key is a client's own, counts for `idempotency_hours`, and the body's hash is the
fingerprint.

Keys outlive the service in Kafka, in one compacted topic: written in the very transaction that
publishes the events, so there is no moment at which one is there without the other. A message's key
is the SHA-256 of client and Idempotency-Key, its value the body's SHA-256, how many events came of
it and when: no personal data, and not the events' ids, which follow from client, key and body.
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

    body: the request's fingerprint; done: when Kafka had it, in POSIX seconds, or None: not yet.
    """

    body: bytes
    done: float | None


class Keys:
    """The keys that this service remembers. For one thread alone.

    seconds: for how long; most: how many, the newest. clock: POSIX seconds.
    """

    def __init__(self, seconds: float, most: int, clock: Callable[[], float] = time.time) -> None:
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._seen: dict[bytes, Seen] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def done(self, key: bytes, body: bytes) -> bool:
        """Whether just this was done before.

        Raises a 422 `Problem` when the key came with another body, and a 409 one when it is being
        done at this moment.
        """
        seen = self._seen.get(key)
        if seen is None or (seen.done is not None and seen.done < self._clock() - self._seconds):
            return False
        if seen.body != body:
            raise Problem(
                422,
                "idempotency-key-reused",
                "this Idempotency-Key came before with another body or path; make a new key for "
                "each request, and use one again only to repeat the very same request",
            )
        if seen.done is None:
            raise in_progress()
        return True

    def begin(self, key: bytes, body: bytes) -> None:
        """A request with this key is being worked on."""
        self._seen[key] = Seen(body, None)

    def finish(self, key: bytes, body: bytes, when: float | None = None) -> None:
        """It is done: Kafka has its events."""
        self._seen.pop(key, None)  # so that the oldest come first
        self._seen[key] = Seen(body, self._clock() if when is None else when)
        self._forget()

    def drop(self, key: bytes) -> None:
        """It came to nothing; the key may be used again."""
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
    """The Idempotency-Key of a request, or None; raises a 400 `Problem` when it is no such key.

    header: the values of all headers of this name.
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
            f"send one Idempotency-Key of 1 to {LONGEST} printable ASCII characters, such as a "
            "UUID in double quotes",
        )
    return key


def digest(client: str, key: str) -> bytes:
    """What a client's key is remembered by."""
    return sha256(client.encode() + b"\0" + key.encode()).digest()


def fingerprint(kind: str, body: bytes) -> bytes:
    """What tells one request from another: the kind and the body's bytes."""
    return sha256(kind.encode() + b"\0" + body).digest()


def value(body: bytes, records: int, when: float) -> bytes:
    """The message's value by which a key is remembered in Kafka."""
    return json.dumps({"body": body.hex(), "events": records, "time": round(when, 3)}).encode()


def load(settings: Settings, keys: Keys, seconds: float = 60.0) -> None:
    """Fill `keys` from the topic, up to what was committed when this was called.

    Raises `RetryLater` when Kafka does not answer within `seconds`.
    """
    topic = topics.idempotency(settings)
    failure = (
        "the idempotency keys could not be read ({}); start again when Kafka is up, and see that "
        f"this client may read the topic {topic}"
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
        told = json.loads(message)
        keys.finish(key, bytes.fromhex(told["body"]), float(told["time"]))
    except (ValueError, KeyError, TypeError):
        return  # not one of ours
