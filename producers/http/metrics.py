"""The Prometheus metrics of the service, by kind and status, never by person or record."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one service. `/metrics` shows `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "bus_http_requests",
            "Requests answered, by kind of record and status.",
            ["kind", "status"],
            registry=self.registry,
        )
        self.records = Counter(
            "bus_http_records", "Records published.", ["kind"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "bus_http_request_seconds",
            "Seconds from the headers of a request to its answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "bus_http_commit_seconds",
            "Seconds from the first attempt at a transaction to its commit.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.commit_requests = Histogram(
            "bus_http_commit_requests",
            "Requests in one transaction.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=self.registry,
        )
        self.queued = Gauge(
            "bus_http_queued_records", "Events that wait for Kafka.", registry=self.registry
        )
        self.keys = Gauge(
            "bus_http_idempotency_keys",
            "Idempotency keys that are remembered.",
            registry=self.registry,
        )

    def committed(self, seconds: float, requests: int) -> None:
        """Record that a transaction was committed."""
        self.commit_seconds.observe(seconds)
        self.commit_requests.observe(requests)
