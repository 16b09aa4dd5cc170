"""Continues the trace of a request in its events."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from bus.observe.telemetry import W3C

TRACER = trace.get_tracer("schoolbus")


@contextmanager
def traced(name: str, traceparent: str) -> Iterator[str]:
    """Open a span that continues the client's trace, if any. Yield the events' traceparent.

    traceparent: the client's header (W3C Trace Context, section 3.2), or "" if it sent none.
    """
    parent = W3C.extract({"traceparent": traceparent})
    with TRACER.start_as_current_span(name, context=parent, kind=SpanKind.SERVER):
        carrier: dict[str, str] = {}
        W3C.inject(carrier)
        # Without tracing, the events still get a trace id, so that they can be followed.
        yield carrier.get("traceparent") or _random_traceparent()


def _random_traceparent() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
