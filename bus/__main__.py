"""`python -m bus`: the same as `bus`."""

from bus.cli import main

main()
