"""A consumer's Prometheus metrics.

Labels are product, kind and the like. None identifies a person.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)


@dataclass(frozen=True, slots=True)
class ConsumerMetrics:
    """The metrics of one process."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    delivered: Counter = field(init=False)
    dead: Counter = field(init=False)
    retries: Counter = field(init=False)
    freshness: Histogram = field(init=False)
    delivery: Histogram = field(init=False)
    batch: Histogram = field(init=False)
    waiting: Gauge = field(init=False)
    circuit: Gauge = field(init=False)
    assigned: Gauge = field(init=False)
    behind: Gauge = field(init=False)

    def __post_init__(self) -> None:
        def make(name: str, metric: object) -> None:
            object.__setattr__(self, name, metric)

        where = self.registry
        kinds = ["product", "kind"]
        product = ["product"]
        make(
            "delivered",
            Counter("schoolbus_delivered", "Records delivered", kinds, registry=where),
        )
        make(
            "dead",
            Counter(
                "schoolbus_dead_letters", "Records that became dead letters", kinds, registry=where
            ),
        )
        make(
            "retries",
            Counter("schoolbus_retries", "Deliveries tried again", product, registry=where),
        )
        make(
            "freshness",
            Histogram(
                "schoolbus_freshness_seconds",
                "Seconds from the change in the SIS (ce_time) to its delivery",
                kinds,
                buckets=SECONDS,
                registry=where,
            ),
        )
        make(
            "delivery",
            Histogram(
                "schoolbus_delivery_seconds",
                "Seconds that the delivery of a batch took",
                product,
                buckets=SECONDS,
                registry=where,
            ),
        )
        make(
            "batch",
            Histogram(
                "schoolbus_batch_records",
                "Records in a delivered batch",
                product,
                buckets=(1, 10, 100, 1_000, 10_000, 100_000),
                registry=where,
            ),
        )
        make(
            "waiting",
            Gauge(
                "schoolbus_waiting_records",
                "Records that wait for the records that they refer to",
                product,
                registry=where,
            ),
        )
        make(
            "circuit",
            Gauge(
                "schoolbus_circuit_open",
                "1 while the product counts as unavailable",
                product,
                registry=where,
            ),
        )
        make(
            "assigned",
            Gauge(
                "schoolbus_assigned_partitions",
                "Partitions of this instance",
                product,
                registry=where,
            ),
        )
        make(
            "behind",
            Gauge(
                "schoolbus_partitions_behind",
                "Partitions of this instance that have more to read",
                product,
                registry=where,
            ),
        )
