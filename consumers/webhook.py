"""Webhooks: each event, signed, to one URL, by Standard Webhooks 1.0.0.

Source: the Standard Webhooks specification (github.com/standard-webhooks/standard-webhooks,
spec/standard-webhooks.md), by section:

* "Payload structure": a JSON object of `type` ("student.updated"), `timestamp` (when the change was
  learnt from the SIS, RFC 3339 in UTC) and `data` (the record as it now stands).
* "Webhook headers": `webhook-id` is the event's id and stays the same however often the event is
  sent, so a receiver that remembers ids takes each once; `webhook-timestamp` is that of the try, in
  seconds; `webhook-signature` is `v1,` and an HMAC-SHA256 in base64 (symmetric, secrets `whsec_…`
  of 24 to 64 bytes).
* the same, on rotation: while `old_secret` is set there are two signatures, a space between them.
* "Signature scheme": an id must not hold a full stop, as it is signed in `id.timestamp.body`. An
  event's id that holds one, or anything else unusual, is sent as a hash of its source and itself.
* "Event types": the receiver chooses kinds, the sender filters (`kinds`).
* "Deliverability", "Delivery success and failure": see `consumers.delivery.http` and `.endpoint`.
* "Payload size": below 20 kB is advised; a record of the standard has about 0.5 kB.

What is sent is kept small, as a district must be able to say why a vendor has a thing. Unless
`kinds` names others, there are the roster and attendance: no demographics, no guardians, no line
items, no results. Fields that the schemas class as sensitive (the reason of an absence, pronouns,
all of demographics) are left out unless `sensitive` is true.

A withdrawal is an event of its own, `student.withdrawn`, with the record's status `tobedeleted`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from standardwebhooks import Webhook

from bus.delivery import Row, Table
from bus.errors import Stop
from bus.kafka.cloudevents import TYPE_PREFIX, Attributes, Change, attributes
from bus.product import Product
from bus.standard import KINDS
from bus.standard.json import to_json
from consumers.delivery.http import Compose, Http, HttpSettings, Post

if TYPE_CHECKING:
    from confluent_kafka import Message

DEFAULT_KINDS = (
    "org",
    "academicSession",
    "course",
    "class",
    "student",
    "staff",
    "enrollment",
    "attendance",
)
CHANGES = frozenset(get_args(Change))
PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2.2; anything else is not passed on."""
NEW_SECRET = (
    'python -c "import base64, secrets; '
    "print('whsec_' + base64.b64encode(secrets.token_bytes(32)).decode())\""
)


def _names(value: Any) -> Any:
    """The environment has one text for a list: names with commas between them."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


class WebhookSettings(HttpSettings):
    """An endpoint's settings, `[products.webhook]`; see `HttpSettings` for the others.

    secret:     signs; `whsec_` and 24 to 64 random bytes in base64; the receiver has the same.
    old_secret: signs as well, while the receiver changes over from it to `secret`.
    kinds:      the kinds of record that the endpoint is told of.
    sensitive:  whether fields of the class sensitive are sent.
    out:        not used, as no files are written.
    """

    secret: SecretStr = SecretStr("")
    old_secret: SecretStr = SecretStr("")
    kinds: Annotated[tuple[str, ...], BeforeValidator(_names)] = DEFAULT_KINDS
    sensitive: bool = False
    out: Path | None = Field(default=None, exclude=True)

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(kinds) - KINDS.keys()):
            raise ValueError(f"no such kind: {', '.join(unknown)}; there are {', '.join(KINDS)}")
        return kinds


def _instant(moment: datetime, precision: str) -> str:
    """RFC 3339 in UTC; a moment without a zone is UTC, as all of the bus are."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec=precision).replace("+00:00", "Z")


def signer(secret: SecretStr, name: str = "secret") -> Webhook:
    """What signs with a secret; raises `Stop` when it is not one of the specification's form."""
    text = secret.get_secret_value().strip()
    advice = f"make one with: {NEW_SECRET}"
    where = f"BUS_PRODUCTS__WEBHOOK__{name.upper()}"
    if not text:
        raise Stop(f"the webhook has no secret to sign with; set {where}; {advice}")
    try:
        encoded = text.removeprefix("whsec_")
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise Stop(f"{where} is not `whsec_` and 24 to 64 bytes in base64; {advice}")
    return Webhook(key)


def event_id(event: Attributes) -> str:
    """The event's id as `webhook-id` may have it; the same for the same event, always."""
    if PLAIN_ID.fullmatch(event.id):
        return event.id
    return "evt_" + hashlib.sha256(f"{event.source}\n{event.id}".encode()).hexdigest()


def body(kind: str, data: Row, event: Attributes) -> str:
    """The payload: type, timestamp and data, as short as JSON can be."""
    change = event.type.removeprefix(f"{TYPE_PREFIX}{kind}.")
    return json.dumps(
        {
            "type": f"{kind}.{change if change in CHANGES else 'recorded'}",
            "timestamp": _instant(event.time, "microseconds"),
            "data": data,
        },
        ensure_ascii=False,
        separators=(",", ":"),
        allow_nan=False,
    )


def compose(settings: WebhookSettings) -> Compose:
    """From an event to its signed request, by these settings; each try has its own timestamp."""
    signers = [signer(settings.secret)]
    if settings.old_secret.get_secret_value():
        signers.append(signer(settings.old_secret, "old_secret"))
    kinds = frozenset(settings.kinds)
    left_out = {kind: _left_out(kind, settings.sensitive) for kind in kinds}
    always = {
        "content-type": "application/json",
        "user-agent": f"Schoolbus/{version('schoolbus')}",
    }

    def request(kind: str, data: Row, message: Message) -> Post | None:
        if kind not in kinds:
            return None
        event, hidden = attributes(message), left_out[kind]
        text = body(kind, {k: v for k, v in data.items() if k not in hidden}, event)
        name, now = event_id(event), datetime.fromtimestamp(int(time.time()), UTC)
        signatures = " ".join(each.sign(name, now, text) for each in signers)
        headers = {
            **always,
            "webhook-id": name,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signatures,
        }
        if event.traceparent and TRACEPARENT.fullmatch(event.traceparent):
            headers["traceparent"] = event.traceparent
        return Post(text.encode(), headers)

    return request


def _left_out(kind: str, sensitive: bool) -> frozenset[str]:
    if sensitive:
        return frozenset()
    fields = KINDS[kind].schema["fields"]
    return frozenset(field["name"] for field in fields if field["sensitivity"] == "sensitive")


def delivery(settings: WebhookSettings) -> Http:
    """Open the delivery; raises `Stop` when the URL or the secret is missing or not fit."""
    return Http(settings, compose(settings))


PRODUCT = Product(
    name="webhook",
    tables=(
        Table(
            "events",
            (),
            {kind: partial(to_json, kind) for kind in KINDS},
            gone={"status": ("tobedeleted",)},
        ),
    ),
    settings=WebhookSettings,
    open=delivery,
    batch_records=500,
    tells_time=True,
    batch_seconds=0.0,
)
