"""The `bus` command: one file a group of commands, and no logic of its own."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    raise NotImplementedError
