"""The Prometheus metrics of the service, by kind and status, never by person or record."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one service. `/metrics` shows `registry`.

    counted: the same metrics, without the names that they had in an earlier release.
    """

    def __init__(self) -> None:
        self.counted = CollectorRegistry()
        self.registry = CollectorRegistry()
        self.registry.register(self.counted)
        self.registry.register(_EarlierNames(self.counted))
        self.requests = Counter(
            "schoolbus_http_requests",
            "Requests answered, by kind of record and status.",
            ["kind", "status"],
            registry=self.counted,
        )
        self.records = Counter(
            "schoolbus_http_records", "Records published.", ["kind"], registry=self.counted
        )
        self.request_seconds = Histogram(
            "schoolbus_http_request_seconds",
            "Seconds from the headers of a request to its answer.",
            buckets=SECONDS,
            registry=self.counted,
        )
        self.commit_seconds = Histogram(
            "schoolbus_http_commit_seconds",
            "Seconds from the first attempt at a transaction to its commit.",
            buckets=SECONDS,
            registry=self.counted,
        )
        self.commit_requests = Histogram(
            "schoolbus_http_commit_requests",
            "Requests in one transaction.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=self.counted,
        )
        self.queued = Gauge(
            "schoolbus_http_queued_records", "Events that wait for Kafka.", registry=self.counted
        )
        self.keys = Gauge(
            "schoolbus_http_idempotency_keys",
            "Idempotency keys that are remembered.",
            registry=self.counted,
        )

    def committed(self, seconds: float, requests: int) -> None:
        """Record that a transaction was committed."""
        self.commit_seconds.observe(seconds)
        self.commit_requests.observe(requests)


class _EarlierNames(Collector):
    """The same metrics by their names in 0.1.0 (`bus_http_…`), for one release."""

    def __init__(self, counted: CollectorRegistry) -> None:
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        for metric in self._counted.collect():
            earlier = Metric(_earlier(metric.name), metric.documentation, metric.type)
            earlier.samples = [one._replace(name=_earlier(one.name)) for one in metric.samples]
            yield earlier


def _earlier(name: str) -> str:
    return name.removeprefix("school")
