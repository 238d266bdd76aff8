"""Pictures of what a training changes: flows between cohorts, and probabilities over time.

Each function takes an axis, draws on it and returns it.
"""

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

__all__ = ["draw_flow", "draw_histograms", "plot_flow", "plot_histograms"]

# Light, middle and dark, so that they are told apart in grey too.
COLOURS = {"right": "#8CC9F0", "near": "#D55E00", "far": "#00679F"}
BAR, GAP, LEAST = 0.05, 0.05, 0.21  # of the picture: width of a bar, space between two, between two labels
RIDGES = 10  # histograms that are drawn at most
OVERLAP = 0.92  # height of the tallest, of the space between two


def plot_flow(
    predictions: Predictions,
    ax: Axes | None = None,
    *,
    threshold: float = THRESHOLD,
    start: float | None = None,
) -> Axes:
    """Draw what became of each cohort between a point and the end.

    Args:
        predictions: On an evaluation set.
        ax: Where to draw; the current axis if left out.
        threshold: As in `cohorts_of`.
        start: As in `start_of`.

    Returns:
        The axis.

    Raises:
        UsageError: If the threshold is not between 0 and 1, or there is no point but the last.
    """
    place = start_of(predictions, start)
    names = [f"epoch {predictions.epochs[k]:.4g}" for k in (place, -1)]
    return draw_flow(flow_table(predictions, threshold, start), ax, names=names, threshold=threshold)


def draw_flow(
    flow: pd.DataFrame,
    ax: Axes | None = None,
    *,
    names: Sequence[str] = ("start", "end"),
    threshold: float = THRESHOLD,
) -> Axes:
    """Draw a table of flows: cohorts at the start as bars on the left, at the end on the right, bands between.

    Args:
        flow: From `flow_table`, or a sum of several.
        ax: Where to draw; the current axis if left out.
        names: What the two sides are called.
        threshold: For the names of the cohorts.

    Returns:
        The axis.
    """
    ax = plt.gca() if ax is None else ax
    counts = flow.to_numpy()
    starts, ends = counts.sum(axis=1), counts.sum(axis=0)
    _bands(ax, counts)
    for edge, rows, name in ((0.0, starts, names[0]), (1 - BAR, ends, names[1])):
        _bars(ax, edge, rows)
        ax.text(edge + BAR / 2, 1 + 2 * GAP, name, ha="center", va="bottom", fontweight="bold")
    for x, align, rows, texts in (
        (-0.03, "right", starts, _start_texts(counts, threshold)),
        (1.03, "left", ends, _texts(ends, threshold)),
    ):
        for place, text in zip(_apart(_tops(rows) - _shares(rows) / 2), texts, strict=True):
            ax.text(x, place, text, ha=align, va="center", fontsize=9)
    ax.set_xlim(-0.95, 1.55)
    ax.set_ylim(-0.06, 1.06 + 2 * GAP)
    ax.axis("off")
    return ax


def plot_histograms(predictions: Predictions, ax: Axes | None = None, *, threshold: float = THRESHOLD) -> Axes:
    """Draw how the probabilities of the true labels move while a model trains, a histogram for each point.

    Args:
        predictions: On an evaluation set.
        ax: Where to draw; the current axis if left out.
        threshold: Marked by a line.

    Returns:
        The axis.
    """
    return draw_histograms(histogram_table(predictions), ax, threshold=threshold)


def draw_histograms(
    table: pd.DataFrame, ax: Axes | None = None, *, threshold: float = THRESHOLD, label: str = "epoch"
) -> Axes:
    """Draw histograms above each other, the first one lowest; heights are roots of shares, so that few rows are seen.

    Args:
        table: From `histogram_table`, or a sum of several. Of more than 10 rows, 10 are drawn, evenly spread.
        ax: Where to draw; the current axis if left out.
        threshold: Marked by a line.
        label: What the names of the rows are.

    Returns:
        The axis.
    """
    ax = plt.gca() if ax is None else ax
    chosen = np.unique(np.linspace(0, len(table) - 1, RIDGES).round().astype(int))
    table = table.iloc[chosen] if len(table) > RIDGES else table
    shares = table.to_numpy() / table.to_numpy().sum(axis=1, keepdims=True).clip(1)
    heights = OVERLAP * np.sqrt(shares / max(shares.max(), 1e-9))
    edges = np.append(table.columns.to_numpy(dtype=float), 1.0)
    for row, height in enumerate(heights):
        ax.stairs(row + height, edges, baseline=row, fill=True, color="#9C9C9C")
        ax.stairs(row + height, edges, baseline=row, color="#000000", lw=0.8)
    ax.axvline(threshold, color=COLOURS["near"], ls="--", lw=1.4)
    ax.set_yticks(range(len(table)), [f"{name:.4g}" if isinstance(name, float) else str(name) for name in table.index])
    ax.set_ylabel(label)
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.05, len(table) + 0.05)
    ax.set_xlabel(f"probability of the true label (dashed: {threshold:g})\nheight: root of the share of rows")
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def _shares(rows: np.ndarray) -> np.ndarray:
    return rows / max(1, rows.sum())


def _tops(rows: np.ndarray) -> np.ndarray:
    """Upper ends of bars above each other, the first on top, with a gap between."""
    return 1 + 2 * GAP - np.concatenate(([0.0], np.cumsum(_shares(rows)[:-1]))) - GAP * np.arange(len(rows))


def _bars(ax: Axes, edge: float, rows: np.ndarray) -> None:
    for top, height, name in zip(_tops(rows), _shares(rows), COHORTS, strict=True):
        ax.add_patch(Rectangle((edge, top - height), BAR, height, fc=COLOURS[name], ec="#000000", lw=0.6))


def _bands(ax: Axes, counts: np.ndarray) -> None:
    """A band for each flow, as thick as its share; those of a bar leave and arrive in the order of the others."""
    left, right = _tops(counts.sum(axis=1)), _tops(counts.sum(axis=0))
    for before, after in np.ndindex(counts.shape):
        height = float(counts[before, after] / max(1, counts.sum()))
        if height:
            _band(ax, float(left[before]), float(right[after]), height, COLOURS[COHORTS[before]])
        left[before] -= height
        right[after] -= height


def _band(ax: Axes, left: float, right: float, height: float, colour: str) -> None:
    """A band from one bar to another, between its upper ends, with level ends."""
    start, stop = BAR, 1 - BAR
    middle = (start + stop) / 2
    there = [(start, left), (middle, left), (middle, right), (stop, right)]
    back = [(stop, right - height), (middle, right - height), (middle, left - height), (start, left - height)]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3]
    # The line keeps a band of few rows in sight.
    ax.add_patch(PathPatch(Path([*there, *back], codes), facecolor=colour, edgecolor=colour, alpha=0.65, lw=0.6))


def _start_texts(counts: np.ndarray, threshold: float) -> list[str]:
    texts = _texts(counts.sum(axis=1), threshold)
    ends = zip(counts[:, 0], counts.sum(axis=1), strict=True)
    return [
        f"{text}\n{_count(end, rows)} end right" if rows else text
        for text, (end, rows) in zip(texts, ends, strict=True)
    ]


def _texts(sums: np.ndarray, threshold: float) -> list[str]:
    names = ["right", f"wrong, p > {threshold:g}", f"wrong, p ≤ {threshold:g}"]
    return [f"{name}\n{_count(rows, sums.sum())}" for name, rows in zip(names, sums, strict=True)]


def _count(count: int, total: int) -> str:
    """``235 (38.5 %)``."""
    return f"{count:,} ({100 * count / max(1, total):.1f} %)"


def _apart(middles: np.ndarray) -> list[float]:
    """Where labels go, from the top: beside their bars, moved apart where two would meet, none past their ends."""
    places, ceiling, floor = [], 1 + 2 * GAP - LEAST / 2, 0.0
    for middle in middles:
        places.append(min(float(middle), ceiling))
        ceiling = places[-1] - LEAST
    for k in reversed(range(len(places))):
        places[k] = max(places[k], floor)
        floor = places[k] + LEAST
    return places
