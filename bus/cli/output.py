"""What every command prints, and with which status it ends.

stdout holds the result and nothing else: a text for a person, or with `--json` exactly one JSON
object. Logs and progress go to stderr. Status: 0 done, 1 failed, 2 wrong use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from bus.failures import BusError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
"""The option that every command has: `json: Json = False`."""

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def emit(json_wanted: bool, result: dict[str, Any], text: Callable[[Console], None]) -> None:
    """Print a command's result: as JSON, or by `text`, which prints it for a person."""
    if json_wanted:
        sys.stdout.write(json.dumps(result, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()
    else:
        text(stdout)


@contextmanager
def failures(json_wanted: bool) -> Iterator[None]:
    """Turn a `BusError` into its message on stderr (or {"error": …}) and status 1."""
    try:
        yield
    except BusError as error:
        if json_wanted:
            sys.stdout.write(json.dumps({"error": str(error)}, ensure_ascii=False) + "\n")
        else:
            stderr.print(f"[bold red]error:[/] {_plain(str(error))}")
        raise typer.Exit(1) from None


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
