"""A child process that lives on, and that is found again, and only it.

Each start gets a token of its own, which stands on the process's command line and in
`run/NAME.json`, written before the start. A process is ours if its id and the token agree: an id
that the system gave to another program meanwhile is never touched, also after the clock was set.
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
"""How long a process may take to end after SIGTERM before it gets SIGKILL."""

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LD_LIBRARY_PATH")
"""The environment that a child sees: no secret of ours, no Java or Quarkus option of the user's."""

LAUNCH = 'out=$1; shift; "$@" >"$out" 2>&1 </dev/null & echo $!'
"""The shell ends at once, so the child belongs to init and no command has to wait for it."""


def start(
    home: Path, name: str, java: Sequence[str], *, cwd: Path, env: dict[str, str]
) -> psutil.Process:
    """Start a Java program, detached; `java` is the program's path followed by its arguments.

    What it prints goes to `logs/NAME.out`, which is new at each start.
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
    """What a child inherits of our environment."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def recorded(home: Path, name: str) -> bool:
    """Whether it was started and not stopped by us: then it ought to be running."""
    return bool(read_json(home / "run" / f"{name}.json"))


def find(home: Path, name: str) -> psutil.Process | None:
    """The running process, or None."""
    record = read_json(home / "run" / f"{name}.json")
    if not (token := record.get("token")):
        return None
    if pid := record.get("pid"):
        try:
            candidates: Iterable[psutil.Process] = [psutil.Process(pid)]
        except psutil.NoSuchProcess:
            return None
    else:  # whoever started it was killed before it could note the id
        candidates = psutil.process_iter()
    return next((one for one in candidates if _is(one, f"-Dschoolbus.run={token}")), None)


def _is(process: psutil.Process, mark: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and mark in process.cmdline()
    except psutil.Error:
        return False


def alive(process: psutil.Process) -> bool:
    """Whether it still runs."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def stop(home: Path, names: Iterable[str]) -> list[str]:
    """End these processes and wait until they are gone; answers with the names that ran."""
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
    """Those that still run after a while.

    psutil's own wait goes on until init has taken the exit status, which in a container whose
    first process is no init never happens.
    """
    until = time.monotonic() + TERM_SECONDS
    while (left := [one for one in processes if alive(one)]) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def _signal(send: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        send()


def died(home: Path, name: str) -> str:
    """Why a process ended while it was starting: the gist of what it said last, for a person."""
    out = home / "logs" / f"{name}.out"
    return (
        f"{name} ended while it was starting; its last words:\n  {gist(read_text(out))}\n"
        f"See {out.with_suffix('.log')} and {out}; `bus doctor` checks this machine. If it says "
        f"that its data is damaged: put {home} back from a backup, or move it away, and run "
        "`bus up` again."
    )


def gist(said: str) -> str:
    """What a Java program's words tell a person: no trace, nothing twice, at most four lines."""
    telling = [
        line.strip()
        for line in said.splitlines()
        if line.strip() and not line.startswith(("\t", "WARNING"))
    ]
    causes = [line for line in telling if "ERROR" in line or "Exception" in line or "rror:" in line]
    last = list(dict.fromkeys(causes or telling))[-4:]
    return "\n  ".join(line[:300] for line in last) or "it said nothing"
