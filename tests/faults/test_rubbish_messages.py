"""Damaged Avro messages in Kafka, through the decoder and through the real consumers.

Each message is read, or is in the dead letters unchanged and with a reason. None crashes or stops
the bus, and no reason and no log line contains a value of a message.
"""

from __future__ import annotations

import base64
import random
import secrets
from collections import Counter
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Producer

from bus.consume import deadletters
from bus.consume.dependency_order import KindRecords
from bus.consume.translation import translate
from bus.consume.worker import Worker
from bus.contract import a_record
from bus.contract.fake_messages import Sent
from bus.errors import Never
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import headers_of
from bus.kafka.reader import scan
from bus.observe.metrics import ConsumerMetrics
from bus.registry import subjects
from bus.registry.codec import Decoder, Encoder
from bus.standard import KINDS
from consumers.canvas import PRODUCT as CANVAS
from consumers.microsoft_sds import PRODUCT as SDS
from consumers.webhook import PRODUCT as WEBHOOK
from tests import canvas_model, sds_model
from tests.faults import rubbish
from tests.faults.conftest import Findings
from tests.faults.rubbish import MARK
from tests.integration.commands import Commands
from tests.webhook_receiver import Receiver

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
PRODUCTS = (CANVAS, SDS, WEBHOOK)
MESSAGES, MESSAGES_ON_THE_BUS, SOUND = 3_000, 150, 5
"""How many messages of each kind."""


def sound_records(kind: str) -> list[dict[str, Any]]:
    """Return sound records of a kind, which refer to one another by number."""
    names = {"givenName": MARK, "familyName": MARK, "name": MARK, "title": MARK}
    found = []
    for n in range(SOUND):
        record = a_record(kind, sourcedId=f"{kind}-{n}")
        for name, targets in KINDS[kind].references.items():
            ids = [f"{targets[0]}-{n}"]
            record[name] = ids if isinstance(record[name], list) else ids[0]
        if kind == "org":
            record["parentSourcedId"] = f"org-{n - 1}" if n else None
        found.append(record | {name: names[name] for name in names if name in record})
    return found


def test_messages(rng: random.Random, turn: int, findings: Findings) -> None:
    """Run only the decoder and the products' translations."""
    fates: Counter[str] = Counter()
    for kind in KINDS:
        encoder = Encoder(kind, 7)
        sound = [encoder.encode(record) for record in sound_records(kind)]
        decoder = Decoder(kind, partial(schema, kind))
        values = [rubbish.message(rng, rng.choice(sound))[1] for _ in range(MESSAGES)]
        decoded, failures = decoder.decode_all(values)
        assert len(decoded) + len(failures) == len(values)
        for record in decoded:  # a record that was read can be encoded again
            assert decoder.decode(encoder.encode(record)) == record
        assert all(MARK not in str(reason) and str(reason) for _, reason in failures)
        fates["read"] += len(decoded)
        fates["a reason for the dead letters"] += len(failures)
        translated(kind, decoded)
    findings.add("Avro messages as rubbish", f"{fates.total():,} messages", rubbish.summary(fates))


def schema(kind: str, id_: int) -> dict[str, Any]:
    """Return the schema of a kind, from a registry that has only one."""
    if id_ != 7:
        raise Never(f"the registry has no schema {id_}")
    return KINDS[kind].schema


def translated(kind: str, records: list[dict[str, Any]]) -> None:
    """Check that each record is delivered to each product, is left out, or has a reason."""
    chunks = {kind: KindRecords(records, [Sent(kind, str(n), n) for n in range(len(records))])}  # type: ignore[misc]
    for product in PRODUCTS:
        parts, _, dead_letters = translate(product, chunks)
        assert all(len(part.rows) == len(part.messages) for part in parts)
        assert all(reason and MARK not in reason for _, reason in dead_letters)


@pytest.mark.long
def test_messages_on_the_bus(
    commands: Commands,
    rng: random.Random,
    turn: int,
    findings: Findings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Damaged messages are in the dead letters unchanged; the others are delivered."""
    caplog.set_level("DEBUG")
    consumer = commands.settings.consumer.model_copy(update={"hold_seconds": 1.0})
    settings = commands.settings.model_copy(update={"consumer": consumer})
    ids = subjects.lookup(settings)
    topics.ensure(settings, [topics.topic(settings, kind) for kind in KINDS])
    producer = Producer(client_settings(settings))
    written: dict[str, set[bytes]] = {}
    for kind in KINDS:
        encoder = Encoder(kind, ids[kind])
        sound = [encoder.encode(record) for record in sound_records(kind)]
        broken = [rubbish.message(rng, rng.choice(sound))[1] for _ in range(MESSAGES_ON_THE_BUS)]
        written[kind] = {*sound, *broken}
        for n, value in enumerate([*sound, *broken]):
            key = f"{kind}-{n}"
            producer.produce(topics.topic(settings, kind), value, key, n % 3)
    assert producer.flush(30) == 0
    with Receiver(SECRET) as vendor:
        for product, options in (
            (CANVAS, {"out": commands.cwd / "canvas"}),
            (SDS, {"out": commands.cwd / "sds"}),
            (WEBHOOK, {"url": vendor.url, "secret": SECRET, "kinds": tuple(KINDS)}),
        ):
            delivery = product.open(product.settings(**options))
            outcome = Worker(settings, product, delivery, ConsumerMetrics()).run(
                until_caught_up=True
            )
            delivery.close()
            number = (MESSAGES_ON_THE_BUS + SOUND) * len(product.kinds)
            dead_letters = deadletters.read(settings, product.name)
            assert len(dead_letters) == outcome.dead_lettered
            assert all(
                dead_letter.reason and MARK not in dead_letter.reason
                for dead_letter in dead_letters
            )
            for dead_letter in scan(settings, topics.deadletters(settings, product.name)):
                place = (dict(headers_of(dead_letter))["dl_place"] or b"").decode()
                kind = topics.kind_of(settings, place.partition("/")[0])
                assert kind and (dead_letter.value() or b"") in written[kind]
            fates = Counter(delivered=outcome.delivered.total())
            fates["in the dead letters"] = len(dead_letters)
            fates["not for this product"] = number - fates.total()
            if product is WEBHOOK:
                assert fates["not for this product"] == 0
            findings.add(
                f"Avro messages as rubbish, to {product.name}",
                f"{number:,} messages",
                rubbish.summary(fates),
            )
    canvas_model.apply(sorted((commands.cwd / "canvas").glob("*.zip")), refused=[])
    sds_model.load(commands.cwd / "sds")
    assert MARK not in caplog.text
