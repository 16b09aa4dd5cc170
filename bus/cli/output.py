"""What every command prints, and with which status it ends.

stdout holds the result and nothing else: a text for a person, or with `--json` exactly one JSON
object. Logs and progress go to stderr. docs/exit-statuses.md says what 0, 1 and 2 mean.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from bus.errors import BusError, missing_extra

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
"""The option that every command has: `json: Json = False`."""

# No emoji: an id such as m8:ghost:1 is no picture.
stdout = Console(highlight=False, emoji=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def emit(json_wanted: bool, result: dict[str, Any], text: Callable[[Console], None]) -> None:
    """Print a command's result: as JSON, or by `text`, which prints it for a person."""
    if json_wanted:
        sys.stdout.write(json.dumps(result, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()
    else:
        text(stdout)


@contextmanager
def failures(json_wanted: bool) -> Iterator[None]:
    """Turn what goes wrong into a message on stderr (or {"error": …}) and status 1.

    A `BusError` and what the machine refuses (a full disk, a folder that is not there) are told as
    they stand. Anything else is a defect: its own text may quote a record, so only what kind it is
    and where it arose are told.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):  # the last: `bus … | head`, typer's own
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
        stderr.print(f"[bold red]error:[/] {_plain(message)}")
    raise typer.Exit(1) from None


def _defect(error: Exception) -> str:
    """What is told of an error that nobody foresaw: its kind and the lines of code it went by."""
    lines = [
        f"  {frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)[1:]
    ]
    return (
        f"a defect of Schoolbus: {type(error).__module__}.{type(error).__name__}; nothing more "
        "was done. Please report it with these lines:\n" + "\n".join(lines)
    )


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
