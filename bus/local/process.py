"""Starts child processes that keep running, and later finds exactly those again.

Each start has its own token. It is on the process's command line and in `run/NAME.json`, which is
written before the start. A process is ours if both its id and its token match. So a process that
got the same id later is never touched, even if the clock was changed.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import psutil

from bus.errors import Stop
from bus.local.home import read_json, read_text, write_json

TERM_SECONDS = 30.0
"""How many seconds a process may take to end after SIGTERM before it gets SIGKILL."""

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LD_LIBRARY_PATH")
"""The environment variables that a child inherits: none of our secrets, and no options for Java or
Quarkus."""

LAUNCH = 'out=$1; shift; "$@" >"$out" 2>&1 </dev/null & echo $!'
"""The shell ends at once, so init becomes the parent and no command has to wait for the child."""


def start(
    home: Path, name: str, java: Sequence[str], *, cwd: Path, env: dict[str, str]
) -> psutil.Process:
    """Start a detached Java program.

    java: the program's path, followed by its arguments.

    Its output goes to `logs/NAME.out`, which is overwritten at each start.
    """
    token = token_hex(8)
    record = home / "run" / f"{name}.json"
    write_json(record, {"token": token, "pid": 0})
    program, *arguments = java
    out = str(home / "logs" / f"{name}.out")
    try:
        launched = subprocess.run(
            ["/bin/sh", "-c", LAUNCH, "sh", out, program, f"-Dschoolbus.run={token}", *arguments],
            cwd=cwd,
            env=environment() | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            check=True,
        )
    except OSError as error:
        raise Stop(f"{name} could not be started: /bin/sh: {error.strerror}") from None
    pid = int(launched.stdout)
    write_json(record, {"token": token, "pid": pid})
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        raise Stop(died(home, name)) from None


def environment() -> dict[str, str]:
    """Return the part of our environment that a child inherits."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def recorded(home: Path, name: str) -> bool:
    """Return whether the process was started and not stopped by us, and so should be running."""
    return bool(read_json(home / "run" / f"{name}.json"))


def find(home: Path, name: str) -> psutil.Process | None:
    """Return the running process, or None."""
    record = read_json(home / "run" / f"{name}.json")
    if not (token := record.get("token")):
        return None
    if pid := record.get("pid"):
        try:
            candidates: Iterable[psutil.Process] = [psutil.Process(pid)]
        except psutil.NoSuchProcess:
            return None
    else:  # the starting command was killed before it wrote the id
        candidates = psutil.process_iter()
    return next((one for one in candidates if _is(one, f"-Dschoolbus.run={token}")), None)


def _is(process: psutil.Process, mark: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and mark in process.cmdline()
    except psutil.Error:
        return False


def alive(process: psutil.Process) -> bool:
    """Return whether the process still runs."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def stop(home: Path, names: Iterable[str]) -> list[str]:
    """End these processes, wait until they have ended, and return the names that were running."""
    running = {name: process for name in names if (process := find(home, name))}
    for process in running.values():
        _signal(process.terminate)
    left = _wait(running.values())
    for process in left:
        _signal(process.kill)
    _wait(left)
    for name in names:
        (home / "run" / f"{name}.json").unlink(missing_ok=True)
    return list(running)


def _wait(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes to end, and return those that still run after TERM_SECONDS.

    psutil's own wait continues until init has read the exit status. That never happens in a
    container whose first process is not an init.
    """
    until = time.monotonic() + TERM_SECONDS
    while (left := [one for one in processes if alive(one)]) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def _signal(send: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        send()


def died(home: Path, name: str) -> str:
    """Return why a process ended during its start: the essence of its last output, for a person."""
    out = home / "logs" / f"{name}.out"
    return (
        f"{name} ended while it was starting. Its last output:\n  {gist(read_text(out))}\n"
        f"See {out.with_suffix('.log')} and {out}; `bus doctor` checks this machine. If the output "
        f"says that data is damaged, restore {home} from a backup, or move it away, and run "
        "`bus up` again."
    )


def gist(said: str) -> str:
    """Return what matters of a Java program's output, for a person.

    That is at most four lines, without stack traces or repetition.
    """
    lines = [
        line.strip()
        for line in said.splitlines()
        if line.strip() and not line.startswith(("\t", "WARNING"))
    ]
    causes = [line for line in lines if "ERROR" in line or "Exception" in line or "rror:" in line]
    last = list(dict.fromkeys(causes or lines))[-4:]
    return "\n  ".join(line[:300] for line in last) or "it printed nothing"
