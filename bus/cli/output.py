"""The output and the exit status of every command.

stdout has only the result: text for a person, or with `--json` exactly one JSON object. Logs and
progress go to stderr. docs/exit-statuses.md says what 0, 1 and 2 mean.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from bus.errors import BusError
from bus.extras import missing_extra

if TYPE_CHECKING:
    from rich.console import Console

    stdout: Console
    stderr: Console

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON object, without other output on stdout."
    ),
]
"""The option that every command has: `json: Json = False`."""


@cache
def _console(name: str) -> Console:
    """Return rich's console for stdout or stderr.

    It is imported here, because a command with `--json` prints nothing with it.
    """
    from rich.console import Console

    # Without `emoji=False`, rich prints an id such as m8:ghost:1 with a picture in it.
    return Console(stderr=name == "stderr", highlight=False, emoji=False, soft_wrap=True)


def __getattr__(name: str) -> Any:
    """Return `stdout` or `stderr` of this module."""
    if name in ("stdout", "stderr"):
        return _console(name)
    raise AttributeError(f"module 'bus.cli.output' has no attribute {name!r}")


def emit(json_wanted: bool, result: dict[str, Any], text: Callable[[Console], None]) -> None:
    """Print a command's result: as JSON, or with `text`, which prints it for a person."""
    if json_wanted:
        sys.stdout.write(json.dumps(result, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()
    else:
        text(_console("stdout"))


@contextmanager
def failures(json_wanted: bool) -> Iterator[None]:
    """Turn an exception into a message on stderr, or {"error": …} on stdout, and status 1.

    The texts of a `BusError` and of an error of the operating system (a full disk, a missing
    folder) are printed. Any other exception is a defect. Its text may quote a record, so only its
    type and the lines of code that raised it are printed.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):  # typer handles `bus … | head`
        raise
    except BusError as error:
        _fail(json_wanted, str(error))
    except ModuleNotFoundError as error:
        _fail(json_wanted, str(missing_extra(error) or _defect(error)))
    except OSError as error:
        if error.errno is None:
            _fail(json_wanted, _defect(error))
        named = "" if error.filename is None else f"{error.filename}: "
        _fail(json_wanted, f"{named}{os.strerror(error.errno)}")
    except Exception as error:
        _fail(json_wanted, _defect(error))


def _fail(json_wanted: bool, message: str) -> NoReturn:
    if json_wanted:
        sys.stdout.write(json.dumps({"error": message}, ensure_ascii=False) + "\n")
    else:
        _console("stderr").print(f"[bold red]error:[/] {_plain(message)}")
    raise typer.Exit(1) from None


def _defect(error: Exception) -> str:
    """Return the message for an unexpected error: its type and the lines of code that raised it."""
    lines = [
        f"  {frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)[1:]
    ]
    return (
        f"a defect of Schoolbus: {type(error).__module__}.{type(error).__name__}; the command has "
        "stopped. Please report it with these lines:\n" + "\n".join(lines)
    )


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def warn(text: str) -> None:
    """Print a warning to stderr. The command goes on."""
    from rich.markup import escape

    _console("stderr").print(f"[yellow]warning[/] {escape(text)}")
