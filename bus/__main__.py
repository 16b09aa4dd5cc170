"""Runs the command line as `python -m bus`."""

from bus.cli import main

main()
