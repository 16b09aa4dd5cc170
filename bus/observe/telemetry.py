"""Logs and traces for an operator, without personal data.

Records are named by kind and sourcedId, values by their class. Normal operation logs nothing:
metrics show what succeeds.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import structlog
from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import Processor

from bus.settings import TelemetrySettings

W3C = TraceContextTextMapPropagator()
LINKS = 32
"""The largest number of producers' traces that one delivery's span links to."""


def configure(settings: TelemetrySettings, *, passes_traces_on: bool = True) -> None:
    """Set up the logs (to stderr) and traces of this process.

    Call it once, when the program starts.

    passes_traces_on: whether this process needs traces even if it exports none, because the events
                      that it publishes carry them. A consumer does not: without an export it starts
                      sooner.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # Without local variables, which may be personal data.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("bus").setLevel(level)
    # librdkafka logs many problems that it recovers from; it reports the others as errors.
    logging.getLogger("bus.librdkafka").setLevel(logging.CRITICAL if level > 10 else level)
    if not (passes_traces_on or settings.otlp_endpoint):
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(resource=Resource.create({"service.name": "schoolbus"}))
    if settings.otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


@contextmanager
def span(name: str, *, parents: Iterable[str] = (), consumer: bool = False) -> Iterator[str | None]:
    """Open a span of the current trace, and yield its W3C traceparent.

    Yields None if there is no active trace.

    parents:  the traceparents of the events that this work handles. The span links to them.
    consumer: whether this work consumes events; otherwise it produces them.
    """
    links = [
        Link(context)
        for parent in list(dict.fromkeys(parents))[:LINKS]
        if (
            context := trace.get_current_span(
                W3C.extract({"traceparent": parent})
            ).get_span_context()
        ).is_valid
    ]
    kind = SpanKind.CONSUMER if consumer else SpanKind.PRODUCER
    tracer = trace.get_tracer("schoolbus")
    with tracer.start_as_current_span(name, kind=kind, links=links):
        carrier: dict[str, str] = {}
        W3C.inject(carrier)
        yield carrier.get("traceparent")
