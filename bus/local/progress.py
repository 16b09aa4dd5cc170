"""How a download shows itself: a bar on a terminal, else a line now and then; always on stderr."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from bus.errors import Stop

EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


class Bar:
    """One file's share of the whole, in the form in which pooch's downloader reports it."""

    def __init__(self, whole: Download) -> None:
        self._whole = whole
        self._done = 0

    @property
    def total(self) -> int:
        """Unused; pooch sets it at the start of every try, which then counts from nothing."""
        return self._done

    @total.setter
    def total(self, _: int) -> None:
        self.reset()

    def update(self, n: int) -> None:
        self._done += n
        self._whole.advance(n)

    def reset(self) -> None:
        self.update(-self._done)

    def close(self) -> None:
        """Called by pooch; nothing to do."""

    def finish(self, size: int) -> None:
        """The file is there: it counts in full, whether it was fetched or found."""
        self.update(size - self._done)


class Download:
    """The whole of a download, in bytes; `show` is told how many more there are."""

    def __init__(self, show: Callable[[int], None]) -> None:
        self._show = show
        self._lock = threading.Lock()
        self._cancelled = False

    def bar(self) -> Bar:
        """The share of one more file."""
        return Bar(self)

    def cancel(self) -> None:
        """End the files that are still on their way, at their next piece."""
        self._cancelled = True

    def advance(self, n: int) -> None:
        if self._cancelled:
            raise Stop("the download was cancelled")
        with self._lock:
            self._show(n)


@contextmanager
def progress(text: str, size: int, say: Callable[[str], None]) -> Iterator[Download]:
    """Show how much of `size` bytes is there."""
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
    done, told = 0, time.monotonic()

    def show(n: int) -> None:
        nonlocal done, told
        done += n
        if time.monotonic() - told > EVERY:
            told = time.monotonic()
            say(f"{text}: {done // 1_000_000} of {size // 1_000_000} MB")

    yield Download(show)
