"""The folder of a sandbox, and its embedded bus, which runs as long as the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bus import local
from bus.errors import Stop
from bus.local import Endpoints

TOML = """\
# Settings of a sandbox: in this folder, `bus` commands use the sandbox's own bus.
home = "."
"""


@contextmanager
def running_bus(
    home: Path, say: Callable[[str], None], ending: Callable[[], None] = lambda: None
) -> Iterator[Endpoints]:
    """Start the bus of a sandbox, and stop it when the block ends.

    home:   the folder. The data of an earlier sandbox in it is used again.
    say:    called with a line for everything that a person should know.
    ending: called before the bus is stopped, even after an error.

    Raises `Stop` if the folder holds something else, or if another sandbox uses it. Raises the
    errors of `bus.local.up`.
    """
    home = home.absolute()
    if home.exists() and not home.is_dir():
        raise Stop(f"{home} is not a folder; name another one with --home")
    if home.exists() and any(home.iterdir()) and not _is_sandbox(home):
        raise Stop(f"{home} holds something other than a sandbox; name another one with --home")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        held = FileLock(home / "sandbox.lock").acquire(timeout=0)
    except Timeout:
        raise Stop(
            f"another sandbox runs in {home}: end it, or name another folder with --home"
        ) from None
    with held:
        (home / "bus.toml").write_text(TOML, "utf-8")
        try:
            yield local.up(home, say=say)
        finally:
            ending()
            local.down(home)


def _is_sandbox(home: Path) -> bool:
    path = home / "bus.toml"
    return path.is_file() and path.read_text("utf-8") == TOML
