"""The embedded bus: a real Kafka and a real schema registry as child processes.

Everything of one bus lies in its home (`BUS_HOME`, default `.bus`): data, logs, ports, process ids.
Both listen on 127.0.0.1 alone and live on when the command that started them has ended.
"""

from __future__ import annotations

from bus.local.home import Endpoints
from bus.local.lifecycle import Running, Status, down, endpoints, reach, status, up

__all__ = ["Endpoints", "Running", "Status", "down", "endpoints", "reach", "status", "up"]
