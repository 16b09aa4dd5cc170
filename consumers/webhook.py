"""Webhooks: each event, signed, to one URL, by Standard Webhooks 1.0.0.

Source: the Standard Webhooks specification (github.com/standard-webhooks/standard-webhooks,
spec/standard-webhooks.md), by section:

* "Payload structure": a JSON object of `type` ("student.updated"), `timestamp` (when the bus
  learned of the change from the SIS, RFC 3339 in UTC) and `data` (the record in its new state).
* "Webhook headers": `webhook-id` is the event's id. It is the same every time the event is sent, so
  a receiver that remembers ids processes each event once. `webhook-timestamp` is the time of the
  try, in seconds. `webhook-signature` is `v1,` and an HMAC-SHA256 in base64 (symmetric, secrets
  `whsec_…` of 24 to 64 bytes).
* the same section, on rotation: while `old_secret` is set there are two signatures, separated by a
  space.
* "Signature scheme": an id must not have a full stop, because `id.timestamp.body` is signed. If an
  event's id has a full stop or other unusual characters, `webhook-id` is a hash of the event's
  source and id.
* "Event types": the receiver chooses kinds, the sender filters (`kinds`).
* "Deliverability", "Delivery success and failure": see `consumers.delivery.http` and
  `consumers.delivery.endpoint`.
* "Payload size": less than 20 kB is recommended; a record of the standard has about 0.5 kB.

Little data is sent, because a district must be able to explain why a vendor has it. By default,
`kinds` has the roster and attendance, without demographics, guardians, line items, opt-outs and
results. Fields with the sensitivity `sensitive` (the reason of an absence, pronouns, all of
demographics, the scope of an opt-out) are left out unless the setting `sensitive` is true.

A withdrawal is a separate event type, such as `student.withdrawn`, with the record's status
`tobedeleted`.

Under an agreement with a vendor (`bus consume webhook --agreement NAME`), the agreement decides
which kinds and fields are sent, and the settings `kinds` and `sensitive` are ignored. When a vendor
must delete a record, the event is, for example, `student.deleted`, and `data` has only the
`sourcedId`. The event gives no reason.
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
DELETED = "deleted"
"""The last part of the type of an event after which a vendor must delete a record."""
PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""The form of W3C Trace Context, section 3.2.2. Other values are not passed on."""
NEW_SECRET = (
    'python -c "import base64, secrets; '
    "print('whsec_' + base64.b64encode(secrets.token_bytes(32)).decode())\""
)


VENDOR_SECRETS = ("vendors.webhook_secrets", "vendors.webhook_old_secrets")
"""The settings of the secrets of vendors' endpoints."""


def _names(value: Any) -> Any:
    """Split a text at commas, because a list in the environment is one text."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


class WebhookSettings(HttpSettings):
    """The settings of an endpoint, `[products.webhook]`; see `HttpSettings` for the others.

    secret:     signs each event: `whsec_` and 24 to 64 random bytes in base64. The receiver has the
                same secret.
    old_secret: signs too, while the receiver changes from it to `secret`.
    kinds:      the kinds of record that the endpoint receives.
    sensitive:  whether fields with the sensitivity `sensitive` are sent.
    out:        not used, because no files are written.
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
            raise ValueError(
                f"unknown kind: {', '.join(unknown)}; the kinds are {', '.join(KINDS)}"
            )
        return kinds


def _instant(moment: datetime, precision: str) -> str:
    """Return a time as RFC 3339 in UTC; a time without a zone is UTC, as everywhere in the bus."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec=precision).replace("+00:00", "Z")


def signer(secret: SecretStr, where: str = "BUS_PRODUCTS__WEBHOOK__SECRET") -> Webhook:
    """Return the object that signs with a secret; raise `Stop` if the secret's form is invalid.

    where: the name of the setting, for the error message.
    """
    text = secret.get_secret_value().strip()
    advice = f"make one with: {NEW_SECRET}"
    if not text:
        raise Stop(f"the webhook has no secret for its signatures; set {where}; {advice}")
    try:
        encoded = text.removeprefix("whsec_")
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise Stop(f"{where} must be `whsec_` and 24 to 64 bytes in base64; {advice}")
    return Webhook(key)


def event_id(event: Attributes) -> str:
    """Return the event's id in the form of `webhook-id`, always the same for the same event."""
    if PLAIN_ID.fullmatch(event.id):
        return event.id
    return "evt_" + hashlib.sha256(f"{event.source}\n{event.id}".encode()).hexdigest()


def body(kind: str, data: Row, event: Attributes, *, deleted: bool = False) -> str:
    """Return the payload: type, timestamp and data, as compact JSON."""
    change = DELETED if deleted else event.type.removeprefix(f"{TYPE_PREFIX}{kind}.")
    return json.dumps(
        {
            "type": f"{kind}.{change if deleted or change in CHANGES else 'recorded'}",
            "timestamp": _instant(event.time, "microseconds"),
            "data": data,
        },
        ensure_ascii=False,
        separators=(",", ":"),
        allow_nan=False,
    )


def compose(settings: WebhookSettings) -> Compose:
    """Return the function that makes the signed request of an event.

    Each try of the same event has a new timestamp and signature.
    """
    terms = settings.terms
    names = (
        [f"{name} (for {terms.name})" for name in VENDOR_SECRETS]
        if terms
        else ["BUS_PRODUCTS__WEBHOOK__SECRET", "BUS_PRODUCTS__WEBHOOK__OLD_SECRET"]
    )
    signers = [signer(settings.secret, names[0])]
    if settings.old_secret.get_secret_value():
        signers.append(signer(settings.old_secret, names[1]))
    kinds = frozenset(terms.fields if terms else settings.kinds)
    left_out = {
        kind: frozenset(KINDS[kind].fields) - set(terms.fields[kind])
        if terms
        else _left_out(kind, settings.sensitive)
        for kind in kinds
    }
    always = {
        "content-type": "application/json",
        "user-agent": f"Schoolbus/{version('schoolbus')}",
    }

    def request(kind: str, data: Row, message: Message) -> Post | None:
        if kind not in kinds:
            return None
        event, hidden = attributes(message), left_out[kind]
        deleted = terms is not None and message.value() is None
        shown = {k: v for k, v in data.items() if k not in hidden}
        if deleted:
            shown = {"sourcedId": data["sourcedId"]}
        text = body(kind, shown, event, deleted=deleted)
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
    """Open the delivery; raise `Stop` when the URL or the secret is missing or invalid."""
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
