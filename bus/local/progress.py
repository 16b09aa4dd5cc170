"""How a download shows itself: a bar on a terminal, else a line now and then; always on stderr."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


class Bar:
    """One file's share of the whole, in the form in which pooch's downloader reports it."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._done = 0

    @property
    def total(self) -> int:
        return self._done

    @total.setter
    def total(self, _: int) -> None:
        self.reset()  # pooch sets it at the start of every try

    def update(self, n: int) -> None:
        self._done += n
        self._advance(n)

    def reset(self) -> None:
        self.update(-self._done)

    def whole(self, size: int) -> None:
        """The file is there: it counts in full, whether fetched or found."""
        self.update(size - self._done)

    def close(self) -> None:
        pass


@contextmanager
def progress(text: str, size: int, say: Callable[[str], None]) -> Iterator[Callable[[], Bar]]:
    """Show how much of `size` bytes is there; yields what makes a `Bar` for each file."""
    console = Console(stderr=True)
    lock = threading.Lock()
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
            yield lambda: Bar(lambda n: shown.advance(task, n))
        return
    say(f"{text} ({size // 1_000_000} MB)")
    done, told = 0, time.monotonic()

    def advance(n: int) -> None:
        nonlocal done, told
        with lock:
            done += n
            if time.monotonic() - told > EVERY:
                told = time.monotonic()
                say(f"{text}: {done // 1_000_000} of {size // 1_000_000} MB")

    yield lambda: Bar(advance)
