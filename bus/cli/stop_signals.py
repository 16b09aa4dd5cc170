"""Ends a long-running command cleanly."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


def stop_on_signals(stop: Callable[[], None]) -> None:
    """End cleanly on SIGTERM and Ctrl-C. A second Ctrl-C ends at once and loses nothing."""

    def ending(number: int, _: object) -> None:
        stop()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # Not through the stream: the signal may have interrupted a write to it.
            os.write(2, b"ending after the current batch; press Ctrl-C again to end at once\n")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ending)


ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that end a command: `kill`, Ctrl-C, and a terminal that is closed."""


def end_on_signals() -> None:
    """On SIGTERM or a closed terminal, end as on Ctrl-C, so that `finally` blocks run."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def ignore_signals() -> None:
    """Ignore the signals that end a command, while it stops its own processes."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
