"""Draws the results of benchmarks as one picture for the documentation, with bars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bus.errors import Stop

OURS, THEIRS = "#1b6ca8", "#b8c4cc"


def draw(results: Sequence[Path], out: Path) -> None:
    """Draw the results that `bus bench … --json` printed into these files.

    out: an .svg or a .png file.

    Raises `Stop` when a file holds no such result, or when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise Stop("drawing needs matplotlib; install it with: pip install matplotlib") from None
    printed = [_read(path) for path in results]
    comparisons = [each for result in printed for each in result["comparisons"]]
    machine = printed[0]["machine"] if printed else ""
    heights = [len(each["figures"]) for each in comparisons]
    figure = Figure(figsize=(9, 0.5 + sum(0.42 * height + 0.75 for height in heights)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(
        len(comparisons), 1, squeeze=False, height_ratios=[h + 1 for h in heights]
    )
    for row, comparison in zip(axes[:, 0], comparisons, strict=True):
        _bars(row, comparison)
    figure.supxlabel(f"records per second (inside the bars: peak memory) · {machine}", fontsize=8)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=120)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        found["comparisons"][0]["figures"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise Stop(
            f"{path} does not contain the output of `bus bench … --json`; name a file that does"
        ) from None
    return found


def _bars(axes: Any, comparison: dict[str, Any]) -> None:
    figures = comparison["figures"]
    names = [figure["subject"] for figure in figures]
    rates = [figure["rate"] for figure in figures]
    bars = axes.barh(names, rates, color=[OURS, *[THEIRS] * (len(figures) - 1)], height=0.7)
    axes.invert_yaxis()
    for bar, figure in zip(bars, figures, strict=True):
        ratio = "" if figure is figures[0] else f"  (ratio {figure['ratio']:.2f})"
        middle = bar.get_y() + bar.get_height() / 2
        axes.text(bar.get_width(), middle, f" {figure['rate']:,}{ratio}", va="center", fontsize=8)
        memory, ink = f" {figure['peakMiB']:,} MiB", "#333333" if ratio else "white"
        axes.text(0, middle, memory, va="center", fontsize=7, color=ink)
    target = f" — to reach: {comparison['target']}" if comparison["target"] else ""
    axes.set_title(f"{comparison['job']}{target}", loc="left", fontsize=9)
    axes.set_xlim(0, max(rates) * 1.3)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
