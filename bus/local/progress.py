"""Shows the progress of a download on stderr: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bus.errors import Stop

EVERY = 5.0
"""Seconds between two lines if there is no terminal."""


class Bar:
    """The progress of one file, with the interface that pooch's downloader requires."""

    def __init__(self, whole: Download) -> None:
        self._whole = whole
        self._done = 0

    @property
    def total(self) -> int:
        """Unused; pooch sets it at the start of each attempt, which begins at zero again."""
        return self._done

    @total.setter
    def total(self, _: int) -> None:
        self.reset()

    def update(self, n: int) -> None:
        """Add bytes to the progress."""
        self._done += n
        self._whole.advance(n)

    def reset(self) -> None:
        """Set the progress of this file to zero."""
        self.update(-self._done)

    def close(self) -> None:
        """Do nothing; pooch calls it."""

    def finish(self, size: int) -> None:
        """Set the progress to the file's full size, whether it was downloaded or already there."""
        self.update(size - self._done)


class Download:
    """The progress of a whole download, in bytes; `show` is called with each increase."""

    def __init__(self, show: Callable[[int], None]) -> None:
        self._show = show
        self._lock = threading.Lock()
        self._cancelled = False

    def bar(self) -> Bar:
        """Return the progress of one more file."""
        return Bar(self)

    def cancel(self) -> None:
        """Stop the files that are still downloading, at their next block."""
        self._cancelled = True

    def advance(self, n: int) -> None:
        """Add bytes to the progress; raises `Stop` if the download was cancelled."""
        if self._cancelled:
            raise Stop("the download was cancelled")
        with self._lock:
            self._show(n)


@contextmanager
def progress(text: str, size: int, say: Callable[[str], None]) -> Iterator[Download]:
    """Show how much of `size` bytes has been downloaded."""
    # Imported here, because every command imports this module, and few of them download.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(
            TextColumn(text),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
        ) as shown:
            task = shown.add_task(text, total=size)
            yield Download(lambda n: shown.advance(task, n))
        return
    say(f"{text} ({size // 1_000_000} MB)")
    done, reported = 0, time.monotonic()

    def show(n: int) -> None:
        nonlocal done, reported
        done += n
        if time.monotonic() - reported > EVERY:
            reported = time.monotonic()
            say(f"{text}: {done // 1_000_000} of {size // 1_000_000} MB")

    yield Download(show)
