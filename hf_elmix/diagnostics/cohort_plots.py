"""Plots of predictions during training: a Sankey diagram of cohorts and a ridgeline plot of probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from hf_elmix.predictions.cohorts import COHORTS, flow_table, histogram_table, start_of
from hf_elmix.predictions.records import THRESHOLD, Predictions

__all__ = ["draw_ridgeline", "draw_sankey", "plot_ridgeline", "plot_sankey"]

# Light, medium and dark, so that they can also be distinguished in greyscale.
COLOURS = {"correct": "#8CC9F0", "near": "#D55E00", "far": "#00679F"}
BAR, GAP, LABEL = 0.05, 0.05, 0.21  # axis units: width of a bar, space between bars, least distance between labels
RIDGES = 10  # histograms in a ridgeline plot, at most
TALLEST = 0.92  # height of the tallest ridge; the distance between ridges is 1


def plot_sankey(
    predictions: Predictions,
    ax: Axes | None = None,
    *,
    threshold: float = THRESHOLD,
    start: float | None = None,
) -> Axes:
    """Draw a Sankey diagram: how the rows of each cohort at a point of training end up.

    Args:
        predictions: On an evaluation set.
        ax: Axis to draw on; by default the current one.
        threshold: As in `cohorts_of`.
        start: As in `start_of`.

    Raises:
        UsageError: If the threshold is not between 0 and 1, or there is only one point.
    """
    names = [f"epoch {predictions.epochs[point]:.4g}" for point in (start_of(predictions, start), -1)]
    return draw_sankey(flow_table(predictions, threshold, start), ax, names=names, threshold=threshold)


def draw_sankey(
    flow: pd.DataFrame,
    ax: Axes | None = None,
    *,
    names: Sequence[str] = ("start", "end"),
    threshold: float = THRESHOLD,
) -> Axes:
    """Draw a flow table as a Sankey diagram: cohorts at the start on the left, at the end on the right.

    Args:
        flow: From `flow_table`, or a sum of several.
        ax: Axis to draw on; by default the current one.
        names: Headings of the two sides.
        threshold: Shown in the names of the cohorts.
    """
    ax = plt.gca() if ax is None else ax
    counts = flow.to_numpy()
    starts, ends = counts.sum(axis=1), counts.sum(axis=0)
    end_correct = [
        f"\n{_count(*pair)} end correct" if pair[1] else "" for pair in zip(counts[:, 0], starts, strict=True)
    ]
    cohorts = ("correct", f"near (p > {threshold:g})", f"far (p ≤ {threshold:g})")
    _draw_bands(ax, counts)
    for edge, label_at, align, rows, notes, name in (
        (0.0, -0.03, "right", starts, end_correct, names[0]),
        (1 - BAR, 1.03, "left", ends, ["", "", ""], names[1]),
    ):
        shares, tops = rows / max(1, rows.sum()), _tops(rows)
        for top, share, cohort in zip(tops, shares, COHORTS, strict=True):
            ax.add_patch(Rectangle((edge, top - share), BAR, share, fc=COLOURS[cohort], ec="#000000", lw=0.6))
        ax.text(edge + BAR / 2, 1 + 2 * GAP, name, ha="center", va="bottom", fontweight="bold")
        for y, cohort, count, note in zip(_spread(tops - shares / 2), cohorts, rows, notes, strict=True):
            ax.text(label_at, y, f"{cohort}\n{_count(count, rows.sum())}{note}", ha=align, va="center", fontsize=9)
    ax.set_xlim(-0.95, 1.55)
    ax.set_ylim(-0.06, 1.06 + 2 * GAP)
    ax.axis("off")
    return ax


def plot_ridgeline(predictions: Predictions, ax: Axes | None = None, *, threshold: float = THRESHOLD) -> Axes:
    """Draw a ridgeline plot of the probabilities of the true labels, with a histogram for each recorded point.

    Args:
        predictions: On an evaluation set.
        ax: Axis to draw on; by default the current one.
        threshold: Marked by a line.
    """
    return draw_ridgeline(histogram_table(predictions), ax, threshold=threshold)


def draw_ridgeline(
    table: pd.DataFrame, ax: Axes | None = None, *, threshold: float = THRESHOLD, label: str = "epoch"
) -> Axes:
    """Draw histograms above each other, the first at the bottom, with square-root heights to show bins of few rows.

    Args:
        table: From `histogram_table`, or a sum of several. Of more than 10 histograms, 10 evenly spaced are drawn.
        ax: Axis to draw on; by default the current one.
        threshold: Marked by a line.
        label: Axis label for the index of the table.
    """
    ax = plt.gca() if ax is None else ax
    if len(table) > RIDGES:
        table = table.iloc[np.unique(np.linspace(0, len(table) - 1, RIDGES).round().astype(int))]
    shares = table.to_numpy() / table.to_numpy().sum(axis=1, keepdims=True).clip(1)
    heights = TALLEST * np.sqrt(shares / max(shares.max(), 1e-9))
    edges = np.append(table.columns.to_numpy(dtype=float), 1.0)
    for ridge, height in enumerate(heights):
        ax.stairs(ridge + height, edges, baseline=ridge, fill=True, color="#9C9C9C")
        ax.stairs(ridge + height, edges, baseline=ridge, color="#000000", lw=0.8)
    ax.axvline(threshold, color=COLOURS["near"], ls="--", lw=1.4)
    ax.set_yticks(range(len(table)), [f"{name:.4g}" if isinstance(name, float) else str(name) for name in table.index])
    ax.set_ylabel(label)
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.05, len(table) + 0.05)
    ax.set_xlabel(f"probability of the true label (dashed: {threshold:g})\nheight: square root of the share of rows")
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def _tops(rows: np.ndarray) -> np.ndarray:
    """Upper ends of the bars of one side, the first on top."""
    below = np.cumsum(rows[:-1] / max(1, rows.sum()))
    return 1 + 2 * GAP - np.concatenate(([0.0], below)) - GAP * np.arange(len(rows))


def _draw_bands(ax: Axes, counts: np.ndarray) -> None:
    """Draw a band for each flow, as thick as its share; the bands of a bar are in the order of the opposite bars."""
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3]
    lefts, rights = _tops(counts.sum(axis=1)), _tops(counts.sum(axis=0))
    for before, after in np.ndindex(counts.shape):
        left, right, colour = lefts[before], rights[after], COLOURS[COHORTS[before]]
        height = counts[before, after] / max(1, counts.sum())
        lefts[before] -= height
        rights[after] -= height
        if height:
            upper = [(BAR, left), (0.5, left), (0.5, right), (1 - BAR, right)]
            lower = [(x, y - height) for x, y in reversed(upper)]
            # The outline keeps a band of few rows visible.
            ax.add_patch(PathPatch(Path([*upper, *lower], codes), fc=colour, ec=colour, alpha=0.65, lw=0.6))


def _count(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / max(1, total):.1f} %)"


def _spread(centres: np.ndarray) -> list[float]:
    """Heights of labels: those of their bars, from the top, moved just enough not to overlap or leave the axis."""
    heights, ceiling, floor = [], 1 + 2 * GAP - LABEL / 2, 0.0
    for centre in centres:
        heights.append(min(float(centre), ceiling))
        ceiling = heights[-1] - LABEL
    for k in reversed(range(len(heights))):
        heights[k] = max(heights[k], floor)
        floor = heights[k] + LABEL
    return heights
