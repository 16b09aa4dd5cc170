"""The embedded bus: a real Kafka and a real schema registry as child processes.

All files of one bus are in its home (`BUS_HOME`, default `.bus`): data, logs, ports, process ids.
Both processes listen on 127.0.0.1 only, unless a secure home
is advertised to vendors outside. They keep running after the command that started them has
ended.
"""

from __future__ import annotations

from bus.local.credentials import Credentials, credentials
from bus.local.home import Endpoints
from bus.local.lifecycle import Running, Status, down, endpoints, reach, status, up

__all__ = [
    "Credentials",
    "Endpoints",
    "Running",
    "Status",
    "credentials",
    "down",
    "endpoints",
    "reach",
    "status",
    "up",
]
