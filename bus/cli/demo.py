"""`bus demo`: the main job, on the embedded bus, before your eyes."""

from __future__ import annotations


def demo() -> None:
    """Run the whole thing on a sample district."""
    raise NotImplementedError
