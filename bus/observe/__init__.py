"""Observation: what an operator sees of a running bus, without personal data.

telemetry  logs and traces
metrics    a consumer's Prometheus metrics
health     readiness, liveness and metrics over HTTP
doctor     finds what is wrong with a bus, and suggests how to correct it
"""

from __future__ import annotations

import sys


def _import_structlog_without_rich() -> None:
    """Import structlog as if rich were not installed.

    With rich, a program that writes no tables starts a tenth of a second later. And before
    `bus.observe.telemetry` has set up the logs, structlog would write the local variables of an
    exception to a terminal. They may be personal data.
    """
    rich = sys.modules.get("rich")
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        if rich is None:
            del sys.modules["rich"]
        else:
            sys.modules["rich"] = rich


_import_structlog_without_rich()
