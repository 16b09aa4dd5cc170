"""The argument NAME of the commands for one agreement."""

from __future__ import annotations

from typing import Annotated

import typer

AgreementName = Annotated[str, typer.Argument(help="The agreement's name: its file without .toml.")]
