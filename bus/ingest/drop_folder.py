"""Watch a drop folder, and publish each extract that arrives once, in the order of arrival.

A published extract is moved to the folder `taken`. A refused extract is moved to `refused`, with a
text file next to it that says why. A kill between publishing and moving is harmless: publishing
the same extract again publishes no event.

An extract that the guard stops is moved to `waiting`. The text file next to it says which command
allows it (`allow`). Later extracts are published as usual. At most one extract waits. A later
extract that is published, or that the guard also stops, replaces it, and the earlier one is
refused. So nobody can undo a later extract by allowing an earlier one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import structlog
from filelock import FileLock, Timeout
from tenacity import Retrying, retry_if_exception_type, wait_random_exponential
from watchfiles import watch as changes

from bus.errors import RetryLater, Stop
from bus.ingest.pipeline import MassWithdrawal

Outcome = TypeVar("Outcome")

log = structlog.get_logger(__name__)

SETTLED_SECONDS = 2.0
"""An extract is complete when none of its files has changed for this many seconds."""

TAKEN, REFUSED, WAITING = "taken", "refused", "waiting"

Command = Callable[[str], str]
"""A function that returns the command with which a person allows the extract of a name."""


def watch(
    folder: Path,
    take: Callable[[Path], None],
    stopped: Callable[[], bool],
    command: Command = "--allow {}".format,
) -> None:
    """Call `take` with each extract that arrives, until `stopped` returns True.

    take:    publishes an extract. It may raise `MassWithdrawal` (the extract waits for approval),
             or `Stop` (the extract is refused). After both, the next extract is taken. It may raise
             `RetryLater`: the same extract is tried again until it succeeds, before any later one.
    command: returns the command that allows an extract.

    Raises `Stop` if `folder` is not a folder.
    """
    if not folder.is_dir():
        raise Stop(f"{folder} is not a folder; create it, or name the folder where extracts arrive")
    for name in (TAKEN, REFUSED, WAITING):
        (folder / name).mkdir(exist_ok=True, mode=0o700)
    arrivals = changes(folder, recursive=True, rust_timeout=500, yield_on_timeout=True)
    for _ in arrivals:
        for extract in list(_complete(folder)):
            if stopped():
                return
            with _lock(folder):
                _take(extract, take, stopped, command)
        if stopped():
            return


def allow(folder: Path, name: str, take: Callable[[Path], Outcome]) -> Outcome:
    """Publish the waiting extract of this name, because a person approved it.

    take: publishes an extract even if the guard would stop it.

    Raises `Stop` if no such extract waits, or if a later extract is in the folder. Raises
    `RetryLater` while another extract is being published.
    """
    waiting = folder / WAITING
    try:
        held = _lock(folder).acquire(timeout=0)
    except Timeout:
        raise RetryLater(
            f"an extract of {folder} is being published; try again when it is done"
        ) from None
    with held:
        there = list(_extracts(waiting)) if waiting.is_dir() else []
        extract = next((one for one in there if one.name == name), None)
        if extract is None:
            names = ", ".join(one.name for one in there) or "none"
            raise Stop(
                f"no extract of this name waits in {waiting} (waiting: {names}); if a later "
                f"extract was published, it is in {folder / REFUSED}"
            )
        if later := next(_extracts(folder), None):
            raise Stop(
                f"a later extract, {later.name}, is in {folder}; let `--watch` publish it first. "
                "If the guard stops it too, allow that one instead"
            )
        outcome = take(extract)
        _reason(extract).unlink(missing_ok=True)
        _move(folder, extract, TAKEN)
    return outcome


def _lock(folder: Path) -> FileLock:
    """Return the lock that is held while an extract is published."""
    return FileLock(folder / ".lock")


def _take(
    extract: Path,
    take: Callable[[Path], None],
    stopped: Callable[[], bool],
    command: Command,
) -> None:
    folder = extract.parent
    again = Retrying(
        retry=retry_if_exception_type(RetryLater),
        wait=wait_random_exponential(1, 60),
        stop=lambda _: stopped(),
        reraise=True,
        before_sleep=lambda state: log.warning(
            "extract is tried again soon",
            why=str(state.outcome.exception()) if state.outcome else "",
        ),
    )
    try:
        again(take, extract)
    except MassWithdrawal as reason:
        _replace_waiting(folder, f"the later extract {extract.name} waits in its place")
        name = _free(folder / WAITING, extract).name
        how = command(name)
        log.error("extract waits for approval", extract=name, why=str(reason), command=how)
        yes = f"It waits for approval. Until a later extract arrives, this publishes it:\n{how}"
        _put_aside(folder, extract, WAITING, f"{reason}\n{yes}")
    except Stop as reason:
        log.error("extract refused", extract=extract.name, why=str(reason))
        _put_aside(folder, extract, REFUSED, str(reason))
    except RetryLater:
        return  # stopped during a wait: the extract stays in the folder for the next start
    else:
        # Move the published extract last. After a kill in between, it is published again.
        _replace_waiting(folder, f"the later extract {extract.name} was published")
        _move(folder, extract, TAKEN)


def _replace_waiting(folder: Path, why: str) -> None:
    """Refuse the extract that waits, if there is one."""
    for earlier in list(_extracts(folder / WAITING)):
        log.warning("waiting extract refused", extract=earlier.name, why=why)
        text = (
            f"The guard stopped this extract, nobody allowed it, and {why}. Publishing it now "
            "would undo the later one. If it has changes that no later extract has, publish it "
            "by hand"
        )
        _reason(earlier).unlink(missing_ok=True)
        _put_aside(folder, earlier, REFUSED, text)


def _put_aside(folder: Path, extract: Path, where: str, why: str) -> None:
    moved = _move(folder, extract, where)
    _reason(moved).write_text(f"{why}\n", "utf-8")


def _reason(extract: Path) -> Path:
    """Return the path of the text file next to an extract that says why it was moved."""
    return extract.with_name(extract.name + ".reason.txt")


def _complete(folder: Path) -> Iterator[Path]:
    """Return the complete extracts, oldest first. An extract is a zip, or a folder with files."""
    found = []
    for path in _extracts(folder):
        latest = max(file.stat().st_mtime for file in _files(path))
        if time.time() - latest >= SETTLED_SECONDS:
            found.append((latest, path.name, path))
    return (path for _, _, path in sorted(found))


def _extracts(folder: Path) -> Iterator[Path]:
    """Yield all extracts in a folder, complete or not."""
    for path in folder.iterdir():
        ours = path.name in (TAKEN, REFUSED, WAITING)
        if not ours and not path.name.startswith(".") and _files(path):
            yield path


def _files(path: Path) -> list[Path]:
    """Return the files of an extract, or none if the path is not an extract."""
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file()]
    return [path] if path.suffix.lower() == ".zip" else []


def _move(folder: Path, extract: Path, where: str) -> Path:
    """Move an extract to another folder, without overwriting one of the same name."""
    return Path(shutil.move(extract, _free(folder / where, extract)))


def _free(where: Path, extract: Path) -> Path:
    """Return a path for an extract in a folder that no other file has."""
    target = where / extract.name
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{extract.stem}-{number}{extract.suffix}")
    return target
