"""Runs the command line: `bus`, or `python -m bus`."""

from __future__ import annotations

import gc
import sys

from bus.extras import missing_extra

FEW_COLLECTIONS = (200_000, 20, 20)
"""After how many new objects Python looks for garbage in cycles (`gc.set_threshold`).

With Python's own numbers, a start spends a fifth of its time on looking through what it imports,
and batches of many records are looked through again and again. Almost nothing is in cycles."""


def main() -> None:
    """Run the command line. If a package is missing, name its extra and exit with 1."""
    gc.set_threshold(*FEW_COLLECTIONS)
    try:
        from bus.cli import main as run

        run()
    except ModuleNotFoundError as error:
        stop = missing_extra(error)
        if stop is None:
            raise
        sys.exit(f"error: {stop}")
    finally:
        gc.freeze()  # or Python would look through everything once more when it ends


if __name__ == "__main__":
    main()
