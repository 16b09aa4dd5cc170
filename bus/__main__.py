"""Runs the command line: `bus`, or `python -m bus`."""

from __future__ import annotations

import sys

from bus.extras import missing_extra


def main() -> None:
    """Run the command line. If a package is missing, name its extra and exit with 1."""
    try:
        from bus.cli import main as run

        run()
    except ModuleNotFoundError as error:
        stop = missing_extra(error)
        if stop is None:
            raise
        sys.exit(f"error: {stop}")


if __name__ == "__main__":
    main()
