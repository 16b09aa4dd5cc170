"""Watches a drop folder and takes each extract that arrives, once, in the order of arrival.

An extract that was published is moved into the folder `taken`, a refused one into `refused`, with
a text beside it that says why. A kill between publishing and moving is harmless: the same
extract again publishes nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
from tenacity import Retrying, retry_if_exception_type, wait_random_exponential
from watchfiles import watch as changes

from bus.errors import RetryLater, Stop

log = structlog.get_logger(__name__)

SETTLED_SECONDS = 2.0
"""An extract is complete when nothing of it has changed for this long."""

TAKEN, REFUSED = "taken", "refused"


def watch(folder: Path, take: Callable[[Path], None], stopped: Callable[[], bool]) -> None:
    """Call `take` with each extract until `stopped` says so.

    take: publishes an extract; may raise `Stop` (the extract is refused, the next is taken) or
          `RetryLater` (it is tried again until it goes through, before any later one).
    """
    if not folder.is_dir():
        raise Stop(f"{folder} is not a folder; make it, or name the one in which extracts arrive")
    for name in (TAKEN, REFUSED):
        (folder / name).mkdir(exist_ok=True, mode=0o700)
    arrivals = changes(folder, recursive=True, rust_timeout=500, yield_on_timeout=True)
    for _ in arrivals:
        for extract in list(_complete(folder)):
            if stopped():
                return
            _take(extract, take, stopped)
        if stopped():
            return


def _take(extract: Path, take: Callable[[Path], None], stopped: Callable[[], bool]) -> None:
    again = Retrying(
        retry=retry_if_exception_type(RetryLater),
        wait=wait_random_exponential(1, 60),
        stop=lambda _: stopped(),
        reraise=True,
        before_sleep=lambda state: log.warning(
            "tried again soon", why=str(state.outcome.exception()) if state.outcome else ""
        ),
    )
    try:
        again(take, extract)
    except Stop as reason:
        log.error("extract refused", extract=extract.name, why=str(reason))
        moved = _move(extract, REFUSED)
        moved.with_name(moved.name + ".reason.txt").write_text(f"{reason}\n", "utf-8")
    except RetryLater:
        return  # stopped while waiting: it is still in the folder, for the next start
    else:
        _move(extract, TAKEN)


def _complete(folder: Path) -> Iterator[Path]:
    """Extracts that have settled, oldest first; a zip, or a folder with CSV files."""
    found = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in (TAKEN, REFUSED):
            continue
        if path.is_dir():
            files = [file for file in path.rglob("*") if file.is_file()]
        elif path.suffix.lower() == ".zip":
            files = [path]
        else:
            continue
        if files:
            latest = max(file.stat().st_mtime for file in files)
            if time.time() - latest >= SETTLED_SECONDS:
                found.append((latest, path.name, path))
    return (path for _, _, path in sorted(found))


def _move(extract: Path, where: str) -> Path:
    """Move an extract away; one of the same name that is there already is not overwritten."""
    target = extract.parent / where / extract.name
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{extract.stem}-{number}{extract.suffix}")
    return Path(shutil.move(extract, target))
