"""The ways to a vendor that a product serves: `bus consume PRODUCT --agreement NAME`.

The consumer of a way reads the agreement's own topics, `PREFIX.vendor.NAME.KIND`. `bus vendors run`
writes there what the scope allows, and nothing else. So the same scope applies to all ways.

Its group is `PREFIX.way.NAME.PRODUCT`, and the topic of its dead letters is
`PREFIX.deadletters.way.NAME.PRODUCT`. Neither lies under `PREFIX.vendor.NAME.`, where the vendor
has rights. NAME is `bus.vendors.applied.Applied.ids_name`, so a renewal continues where the renewed
agreement ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bus.consume.feed import Feed
from bus.delivery import AgreementOver, Terms
from bus.errors import Stop
from bus.kafka.reader import Reader
from bus.product import Product
from bus.settings import Settings
from bus.standard import KINDS
from bus.vendors import applied as store
from bus.vendors import revocation
from bus.vendors.agreement import Agreement
from bus.vendors.agreement_watch import AgreementWatch, why_over
from bus.vendors.scope import compile_scope
from bus.vendors.vendor_schema import vendor_schema, vendor_topic


@dataclass(frozen=True, slots=True)
class Way:
    """One way of one agreement.

    feed:     what the product's consumer reads.
    terms:    what the product's delivery may do.
    settings: the product's settings that follow from the agreement, such as `url`.
    watch:    a context manager that the consumer enters before it delivers anything.
    over:     why the agreement is over; None if it is active. The caller then opens and closes the
              delivery, so that the delivery deletes what it can still reach.
    """

    feed: Feed
    terms: Terms
    settings: dict[str, Any]
    watch: AgreementWatch
    over: Stop | None = None


def _webhook(settings: Settings, agreement: Agreement) -> dict[str, Any] | None:
    """Return the settings of a vendor's webhook; None if the agreement has no webhook."""
    if agreement.webhook is None:
        return None
    vendors, name = settings.vendors, agreement.name
    found: dict[str, Any] = {"url": agreement.webhook.url}
    if name not in vendors.webhook_secrets:
        raise Stop(
            f"the webhook of the agreement {name} has no secret for its signatures: set it in the "
            f"table [vendors.webhook_secrets] of bus.toml, or in the folder of secrets as "
            f"bus_vendors__webhook_secrets__{name}, and give the same secret to the vendor"
        )
    found["secret"] = vendors.webhook_secrets[name]
    if name in vendors.webhook_old_secrets:
        found["old_secret"] = vendors.webhook_old_secrets[name]
    return found


def _csv(_: Settings, agreement: Agreement) -> dict[str, Any] | None:
    """Return the settings of a vendor's CSV files; None if the agreement has none."""
    return None if agreement.csv is None else {"out": agreement.csv.folder}


class ServedWay(NamedTuple):
    """How a product serves a way.

    table:    the table of the agreement file that turns this way on.
    settings: returns the product's settings under an agreement, or None if the agreement does not
              have this table.
    """

    table: str
    settings: Callable[[Settings, Agreement], dict[str, Any] | None]


PRODUCTS: Mapping[str, ServedWay] = {
    "webhook": ServedWay("webhook", _webhook),
    "oneroster-csv": ServedWay("csv", _csv),
}
"""The products that serve a way."""


def consumer_name(ids_name: str, product: str) -> str:
    """Return the name of the consumer of a way (`bus.consume.feed.Feed.name`)."""
    return f"way.{ids_name}.{product}"


def stored_consumer_name(settings: Settings, product: str, name: str) -> str:
    """Return the name of the consumer of a way, even if the agreement is over.

    Raises `Stop` if the agreement was never applied, `RetryLater` if Kafka does not answer.
    """
    return consumer_name(revocation.find(store.read(settings), name).ids_name, product)


def _ended_kinds(settings: Settings, ids_name: str, kinds: Collection[str]) -> frozenset[str]:
    """Return those of some kinds that the agreement shared earlier: their topics exist.

    The consumer must still deliver the deletions of their records.
    """
    names = {vendor_topic(settings, ids_name, kind): kind for kind in kinds}
    with Reader(settings, "could not ask for a vendor's topics: Kafka reports {}") as reader:
        return frozenset(names[place.topic] for place in reader.places(names))


def open_way(settings: Settings, product: Product, name: str) -> Way:
    """Return the way of an agreement that a product serves.

    The agreement may be over. Raises `Stop` if it has not begun, if it does not have this way, or
    if its secret is missing. Raises `RetryLater` if Kafka does not answer.
    """
    applied = revocation.find(store.read(settings), name)
    over = why_over(applied, applied, store.today())
    if over is not None and not isinstance(over, AgreementOver):
        raise over
    if product.name not in PRODUCTS:
        raise Stop(
            f"{product.name} cannot deliver under an agreement; these products can: "
            f"{', '.join(PRODUCTS)}"
        )
    served = PRODUCTS[product.name]
    try:
        own = served.settings(settings, applied.agreement)
    except Stop as missing:
        raise over or missing from None
    if own is None:
        raise Stop(
            f"the agreement {name} has no [{served.table}]; add it to the agreement file, and run "
            "`bus vendors apply`"
        )
    scope = compile_scope(applied.agreement)
    kinds = {kind: about for kind, about in scope.kinds.items() if kind in product.kinds}
    ended = _ended_kinds(settings, applied.ids_name, set(product.kinds) - set(kinds))
    topics = {
        vendor_topic(settings, applied.ids_name, kind): kind
        for kind in KINDS
        if kind in kinds or kind in ended
    }
    named = consumer_name(applied.ids_name, product.name)
    watch = AgreementWatch(settings, applied, list(topics), named, over=over)
    return Way(
        Feed(
            named,
            topics,
            watch,
            {kind: vendor_schema(scope, kind, applied.ids_name) for kind in kinds},
            {kind: kinds[kind].references if kind in kinds else {} for kind in topics.values()},
            ended,
        ),
        Terms(
            applied.ids_name,
            applied.edition,
            {kind: about.fields for kind, about in kinds.items()}
            | dict.fromkeys(ended, ("sourcedId",)),
            watch,
            settings.vendors.internal_networks,
            settings.vendors.loopback_endpoints,
            name,
        ),
        own,
        watch,
        over,
    )
