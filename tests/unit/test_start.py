"""What `bus consume` imports when it starts: each import is paid for at every start."""

from __future__ import annotations

import subprocess
import sys

from bus.cli import COMMANDS, app

STARTED = """
import sys
import typer
from bus.cli import app
typer.main.get_command(app).get_command(None, "consume")
from bus import plugins, settings
import bus.observe.telemetry
import bus.consume.worker, bus.observe.health, bus.observe.metrics
plugins.product({product!r})
bus.observe.telemetry.configure(settings.TelemetrySettings(), passes_traces_on=False)
import bus.local
print(*sys.modules)
"""
NOT_NEEDED = (
    *("uvicorn", "starlette", "rich", "opentelemetry.sdk"),
    *("bus.bench", "bus.cli.bench", "bus.demo", "bus.ingest"),
)


def test_a_consumer_does_not_import_what_it_does_not_use() -> None:
    for product in ("canvas", "microsoft-sds"):
        code = STARTED.format(product=product)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        imported = done.stdout.split()
        assert "bus.consume.worker" in imported
        assert [
            name
            for name in imported
            if any(name == one or name.startswith(f"{one}.") for one in NOT_NEEDED)
        ] == []


def test_a_start_does_not_look_for_garbage_in_what_it_imports() -> None:
    code = (
        "import gc, sys, bus.__main__ as program\n"
        "sys.argv = ['bus', '--version']\n"
        "try:\n    program.main()\nfinally:\n"
        "    print(gc.get_threshold()[0] > 10_000, gc.get_freeze_count() > 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True True"


FAILING = """
from bus.observe import telemetry
from bus.settings import TelemetrySettings
import structlog
telemetry.configure(TelemetrySettings(log_format="console"))
def fail(name):
    raise ValueError("of the test")
try:
    fail("".join(["Ma", "ya"]))
except ValueError:
    structlog.get_logger("bus").exception("it failed")
"""


def test_a_log_for_a_terminal_shows_no_local_variables() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILING], capture_output=True, text=True, check=True
    )
    assert "of the test" in done.stderr
    assert "Maya" not in done.stderr


def test_each_command_has_the_name_in_the_table() -> None:
    import typer

    group = typer.main.get_command(app)
    assert group.list_commands(None) == list(COMMANDS)  # type: ignore[attr-defined]
    for name in COMMANDS:
        assert group.get_command(None, name).name == name  # type: ignore[attr-defined]
    assert group.get_command(None, "none") is None  # type: ignore[attr-defined]
