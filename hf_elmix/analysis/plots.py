"""Figures of scores. Each function draws on an axis and returns it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hf_elmix.analysis.numbers import counted
from hf_elmix.losses.schedules import MixingSchedule
from hf_elmix.losses.weights import focus_of
from hf_elmix.plotting import LONGEST, STYLES, drawn_name, escaped, finished, line_of, short_name, style_of

__all__ = ["plot_curves", "plot_differences", "plot_looks", "plot_profile", "plot_ranks", "plot_schedule"]

ROWS = 40  # tasks in a figure of differences, at most
CROWD = 4  # methods, at most, whose legend fits inside a profile


def plot_profile(
    profile: pd.DataFrame, ax: Axes | None = None, *, bands: tuple[pd.DataFrame, pd.DataFrame] | None = None
) -> Axes:
    """Draw a performance profile (Fig. 2): share of blocks over thresholds.

    The legend counts the runs of a method with missing ones (``27/28 runs``). A note below the axis counts the blocks
    whose best score is zero or negative.

    Args:
        profile: From `performance_profile`.
        ax: Where to draw; left out, the current axis.
        bands: From `profile_bands`, at the same or other thresholds.
    """
    ax = plt.gca() if ax is None else ax
    blocks, undefined = profile.attrs.get("blocks"), profile.attrs.get("undefined", 0)
    if profile.index[0] < 0:  # a negative ratio: it solves nothing at the thresholds that are drawn
        attrs = profile.attrs
        profile = profile[profile.index >= 0]
        profile.attrs |= attrs
    start = profile.index[0]
    if profile.attrs.get("complete"):  # constant below the first step: extended so that a flat line can be seen
        start = min(start, 0.95)
        profile = _extended(profile, start)
        bands = bands and (_extended(bands[0], start), _extended(bands[1], start))
    # The profile is a step function that falls right after each threshold, so each value holds back to the one before.
    for k, method in enumerate(profile):
        line, runs = line_of(k), profile.attrs.get("runs", {}).get(method)
        label = drawn_name(method) + ("" if runs == blocks else f" ({runs}/{blocks} runs)")
        ax.step(profile.index, profile[method], where="pre", label=label, **line)
        if bands:
            low, high = (band[method] for band in bands)
            ax.fill_between(low.index, low, high, step="pre", color=line["color"], alpha=0.1, lw=0)
            for end in (low, high):  # The shades of several methods mix; their edges do not.
                ax.step(end.index, end, where="pre", **{**line, "lw": 0.5})
    ax.set_xlim(start, 1 + 0.02 * (1 - start))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_ylim(0, 1.03)
    note = f"\nin {counted(undefined, 'block')} the best score is not positive:\nonly the best method solves it"
    ax.set_xlabel("threshold τ (share of the best score of the block)" + (note if undefined else ""))
    ax.set_ylabel("share of blocks with score ≥ τ · best")
    ax.set_title("Performance profile" + ("" if blocks is None else f" over {counted(blocks, 'block')}"))
    return finished(ax, legend="lower left" if len(profile.columns) <= CROWD else "below")


def plot_ranks(ranks: pd.Series, groups: Sequence[Sequence[str]], ax: Axes | None = None) -> Axes:
    """Draw mean ranks, with bars that join methods without a significant difference (Fig. 3).

    Args:
        ranks: Mean rank of each method, 1 is best.
        groups: From `groups`; a single method has no bar.
        ax: Where to draw; left out, the current axis.
    """
    ax = plt.gca() if ax is None else ax
    bars = [group for group in groups if len(group) > 1]
    order = ranks.sort_values(kind="stable")
    places = {method: place for place, method in enumerate(ranks.index)}
    for row, (method, rank) in enumerate(order.items()):
        style, height = style_of(places[method]), -(row + 1 + 0.5 * len(bars))
        ax.plot([rank, rank], [0, height], color="#888888", lw=0.8, zorder=1)
        ax.plot(rank, height, style.marker, color=style.colour, mec="#000000", ms=8, zorder=3)
        # The lines of the methods below are to the right.
        place: dict[str, Any] = {"xytext": (-9, 0), "textcoords": "offset points", "va": "center", "ha": "right"}
        ax.annotate(f"{drawn_name(method)}  {rank:.2f}", (rank, height), **place)
    for k, group in enumerate(bars):
        ends = ranks[list(group)]
        ax.plot([ends.min() - 0.03, ends.max() + 0.03], [-0.5 * (k + 1)] * 2, color="#000000", lw=4, zorder=2)
    room = 0.1 + 0.019 * max(len(drawn_name(method)) for method in ranks.index)  # of the width, for a name at rank 1
    worst = max(len(ranks), int(np.ceil(ranks.max())))  # of more methods than are drawn
    ax.set_xlim(1 - (worst - 0.9) * room / (1 - room), worst + 0.1)
    ax.set_xticks(range(1, worst + 1, max(1, worst // 20)))
    ax.set_ylim(-(len(ranks) + 0.6 + 0.5 * len(bars)), 0)
    ax.xaxis.set_ticks_position("top")
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("mean rank (1 is best)" + ("\nbars join methods without a significant difference" if bars else ""))
    ax.set_yticks([])
    ax.spines[["left", "right", "bottom"]].set_visible(False)
    return ax


def plot_differences(
    gains: pd.DataFrame,
    baseline: str,
    ax: Axes | None = None,
    *,
    order: Sequence[str] | None = None,
    scale: float = 100,
) -> Axes:
    """Draw the difference of each method from the baseline on each task, with its interval.

    Args:
        gains: From `task_gains`. The 40 tasks with the largest differences are drawn.
        baseline: The method that the others are compared with.
        ax: Where to draw; left out, the current axis.
        order: All methods of the study in order, for their styles; left out, the baseline and those of `gains`.
        scale: Factor on the differences: 100 draws percentage points.
    """
    ax = plt.gca() if ax is None else ax
    gains = gains.set_axis(gains.index.remove_unused_levels())  # `unstack` would take methods that were left out
    table = (gains[["difference", "low", "high"]] * scale).unstack("method", sort=False)
    largest = table["difference"].abs().max(axis=1).nlargest(ROWS).index
    table = table[table.index.isin(largest)].iloc[::-1]
    methods = list(dict.fromkeys(gains.index.get_level_values("method")))
    places = {method: place for place, method in enumerate(order or [baseline, *methods])}
    marks: dict[str, Any] = {"mec": "#000000", "mew": 0.6, "ms": 6, "ls": "", "elinewidth": 1.6}
    for k, method in enumerate(methods):
        style, rows = style_of(places[method]), np.arange(len(table)) + 0.6 * (0.5 - (k + 0.5) / len(methods))
        middle = table["difference", method]
        reach = np.nan_to_num((table["high", method] - middle).to_numpy())
        marks |= {"color": style.colour, "marker": style.marker, "label": drawn_name(method)}
        ax.errorbar(middle, rows, xerr=reach, **marks)
    ax.axvline(0, color="#000000", lw=1)
    for row in range(1, len(table)):
        ax.axhline(row - 0.5, color="#888888", lw=0.4)
    ax.set_yticks(range(len(table)), [short_name(str(task)) for task in table.index])
    ax.set_ylim(-0.5, len(table) - 0.5)
    ax.set_xlabel(f"points above {drawn_name(baseline)} (95 % interval)")
    return finished(ax, legend="below")


def plot_looks(looks_df: pd.DataFrame, margin: float, ax: Axes | None = None, *, order: Sequence[str]) -> Axes:
    """Draw the difference of each method from the baseline after every seed, with its interval.

    Args:
        looks_df: From `looks`.
        margin: Margin of practical equivalence, in points, drawn as a band.
        ax: Where to draw; left out, the current axis.
        order: All methods of the study in order, for their styles.
    """
    ax = plt.gca() if ax is None else ax
    shown = looks_df[np.isfinite(looks_df["high"].astype(float))]
    last = shown.drop_duplicates("method", keep="last")[["low", "high"]].abs().max(axis=None)
    top = 2 * max(margin, last if len(shown) else margin)  # early intervals are so wide that they would hide the rest
    ax.axhspan(-margin, margin, color="#888888", alpha=0.2, lw=0, label=f"practically equal (±{margin:g})")
    ax.axhline(0, color="#000000", lw=1)
    for method in dict.fromkeys(looks_df["method"]):
        path, place = looks_df[looks_df["method"] == method], order.index(method)
        line = line_of(place)
        ax.plot(
            path["seeds"], path["difference"], marker=style_of(place).marker, ms=4, label=drawn_name(method), **line
        )
        ends = path[["low", "high"]].astype(float)
        ends = ends.where(np.isfinite(ends)).clip(-10 * top, 10 * top)
        ax.fill_between(path["seeds"], ends["low"], ends["high"], color=line["color"], alpha=0.15, lw=0)
        ax.plot(path["seeds"], ends, color=line["color"], lw=0.8)
    ax.set_ylim(-top, top)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("seeds")
    ax.set_ylabel("mean difference, in points")
    return finished(ax, legend="above")


def plot_curves(
    curves_df: pd.DataFrame,
    quantity: str,
    ax: Axes | None = None,
    *,
    dotted: str = "",
    order: Sequence[str] | None = None,
    scale: float = 1,
    label: str = "",
    whiskers: bool = False,
    **look: Any,
) -> Axes:
    """Draw the mean of a quantity over all runs of each method, by epoch.

    Args:
        curves_df: From `curves_table`.
        quantity: The quantity, a value of that column.
        ax: Where to draw; left out, the current axis.
        dotted: A second quantity, drawn with dotted lines; those of the first are then solid.
        order: All methods of the study in order, for their styles; left out, the order of appearance.
        scale: Factor on the values.
        label: Label of the vertical axis; left out, the quantity.
        whiskers: Whether to draw whiskers from the lowest to the highest value.
        **look: Passed to Matplotlib for all lines.
    """
    ax = plt.gca() if ax is None else ax
    methods = order or list(dict.fromkeys(curves_df["method"]))
    for name in filter(None, (quantity, dotted)):
        chosen = curves_df[(curves_df["quantity"] == name) & curves_df["value"].notna()]
        for place, method in enumerate(methods):
            curve = scale * chosen[chosen["method"] == method].groupby("epoch")["value"].agg(["mean", "min", "max"])
            line: dict[str, Any] = {**line_of(place), "marker": style_of(place).marker, "ms": 4, **look}
            if dotted:
                line["ls"] = (0, (1, 1.2)) if name == dotted else "-"
            if not len(curve):
                continue
            if name == quantity:
                line["label"] = drawn_name(method)
            if whiskers:
                shift = 0.3 * (place + 0.5) / len(methods) - 0.15  # so that whiskers do not coincide
                reach = (curve[["min", "max"]].T - curve["mean"]).abs().to_numpy()
                ax.errorbar(curve.index + shift, curve["mean"], reach, elinewidth=1.2, **line)
            else:
                ax.plot(curve.index, curve["mean"], **line)
    if dotted:
        ax.set_ylim(bottom=0)
    ax.set_xlabel("epoch")
    ax.set_ylabel("\n".join(map(escaped, textwrap.wrap(label or quantity, LONGEST))))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finished(ax, legend="above")


def plot_schedule(schedule: MixingSchedule, ax: Axes | None = None) -> Axes:
    """Draw a schedule over training: the weights α and β, and the focus F on a second axis."""
    ax = plt.gca() if ax is None else ax
    right = ax.twinx()
    weights = [(float(phase.alpha), float(phase.beta)) for phase in schedule.phases]
    lines = {
        "α (CE)": (ax, [alpha for alpha, _ in weights], STYLES[1]),
        "β (EL)": (ax, [beta for _, beta in weights], STYLES[3]),
        "focus F": (right, [focus_of(*pair) for pair in weights], STYLES[2]),
    }
    ends = [*(100 * float(phase.start) for phase in schedule.phases), 100]
    for label, (side, values, style) in lines.items():
        look: dict[str, Any] = {"color": style.colour, "ls": style.line, "lw": style.width}
        side.step(ends, [*values, values[-1]], where="post", **look)
        ax.plot([], [], label=label, **look)  # one legend for both axes
    for side, label, top in ((ax, "weight", max(map(max, weights))), (right, "focus F", 0.5)):
        side.set_ylabel(label)
        side.set_ylim(-0.04 * top, 1.08 * top)
        side.spines["top"].set_visible(False)
    ax.set_xlim(0, 100)
    ax.set_xlabel("training (% of the steps)")
    return finished(ax, legend="above")


def _extended(table: pd.DataFrame, start: float) -> pd.DataFrame:
    """Extend the first value of a step function back to `start`."""
    extended = pd.concat([table.iloc[:1].set_axis([min(start, table.index[0])]), table])
    extended.attrs = table.attrs
    return extended
