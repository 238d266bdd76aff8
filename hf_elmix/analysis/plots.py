"""Figures. Each function takes an axis, draws on it and returns it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hf_elmix.losses.schedules import MixingSchedule
from hf_elmix.losses.weights import focus_of
from hf_elmix.plotting import LONGEST, STYLES, Style, drawn_name, escaped, finished, short_name, style_of

__all__ = [
    "plot_differences",
    "plot_losses",
    "plot_means",
    "plot_profile",
    "plot_ranks",
    "plot_schedule",
    "plot_scores",
    "plot_weights",
]


ROWS = 40  # tasks in a figure of differences
SHADE = 0.1
CROWD = 4  # methods whose legend still leaves a profile to see


def plot_profile(
    profile: pd.DataFrame,
    ax: Axes | None = None,
    *,
    experiments: int | None = None,
    bands: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> Axes:
    """Draw a performance profile (Fig. 2): thresholds across, share of experiments upwards.

    A method of which runs have no score says so in the legend (``27/28``). Where experiments have a best score that
    is zero or negative, a line below the axis says what was done with them.

    Args:
        profile: From `performance_profile`.
        ax: Where to draw; the current axis if left out.
        experiments: Number of experiments, for the title.
        bands: From `profile_bands`, at the same or other thresholds.

    Returns:
        The axis.
    """
    ax = plt.gca() if ax is None else ax
    start = profile.index[0]
    if profile.attrs.get("complete"):  # Nothing changes below the first step: a little room to see a flat line in.
        start = min(start, 0.95)
        profile = _held_from(profile, start)
        bands = bands and (_held_from(bands[0], start), _held_from(bands[1], start))
    # The profile is a step function that falls right after each threshold, so each value holds back to the one before.
    for k, method in enumerate(profile):
        style, label = style_of(k), drawn_name(method) + _runs(method, profile.attrs)
        look: dict[str, Any] = {"color": style.colour, "ls": style.line, "lw": style.width}
        ax.step(profile.index, profile[method], where="pre", label=label, **look)
        if bands:
            low, high = (band[method] for band in bands)
            ax.fill_between(low.index, low, high, step="pre", color=style.colour, alpha=SHADE, lw=0)
            for end in (low, high):  # The shades of several methods mix; their edges do not.
                ax.step(end.index, end, where="pre", color=style.colour, ls=style.line, lw=0.5)
    ax.set_xlim(start, 1 + 0.02 * (1 - start))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_ylim(0, 1.03)
    ax.set_xlabel("threshold τ (share of the best score of the experiment)" + _undefined(profile.attrs))
    ax.set_ylabel("share of experiments with score ≥ τ · best")
    ax.set_title("Performance profile" + ("" if experiments is None else f" over {experiments} experiments"))
    return finished(ax, legend="lower left" if len(profile.columns) <= CROWD else "below")


def plot_ranks(ranks: pd.Series, groups: Sequence[Sequence[str]], ax: Axes | None = None) -> Axes:
    """Draw mean ranks with bars that join methods which do not differ (Fig. 3).

    Args:
        ranks: Mean rank of each method, 1 the best.
        groups: From `groups`; a group of one has no bar.
        ax: Where to draw; the current axis if left out.

    Returns:
        The axis.
    """
    ax = plt.gca() if ax is None else ax
    bars = [group for group in groups if len(group) > 1]
    order = ranks.sort_values(kind="stable")
    places = {method: place for place, method in enumerate(ranks.index)}
    for row, (method, rank) in enumerate(order.items()):
        style, height = style_of(places[method]), -(row + 1 + 0.5 * len(bars))
        ax.plot([rank, rank], [0, height], color="#888888", lw=0.8, zorder=1)
        ax.plot(rank, height, style.marker, color=style.colour, mec="#000000", ms=8, zorder=3)
        # To the left: the lines of the methods below are to the right.
        place: dict[str, Any] = {"xytext": (-9, 0), "textcoords": "offset points", "va": "center", "ha": "right"}
        ax.annotate(f"{drawn_name(method)}  {rank:.2f}", (rank, height), **place)
    for k, group in enumerate(bars):
        ends = ranks[list(group)]
        ax.plot([ends.min() - 0.03, ends.max() + 0.03], [-0.5 * (k + 1)] * 2, color="#000000", lw=4, zorder=2)
    room = 0.1 + 0.019 * max(len(drawn_name(method)) for method in ranks.index)  # of the width, for a name at rank 1
    ax.set_xlim(1 - (len(ranks) - 0.9) * room / (1 - room), len(ranks) + 0.1)
    ax.set_xticks(range(1, len(ranks) + 1))
    ax.set_ylim(-(len(ranks) + 0.6 + 0.5 * len(bars)), 0)
    ax.xaxis.set_ticks_position("top")
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("mean rank (1 is best); a bar joins methods that do not differ")
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
    """Draw how far each method is from the baseline on each task, with the interval over seeds.

    Args:
        gains: From `task_gains`. Of more than 40 tasks, those with the largest differences are drawn.
        baseline: What they are compared with.
        ax: Where to draw; the current axis if left out.
        order: All methods in the study's order, which gives each its style; left out, the baseline is the first.
        scale: Factor on the differences: 100 draws points of percent.

    Returns:
        The axis.
    """
    ax = plt.gca() if ax is None else ax
    table = (gains[["difference", "low", "high"]] * scale).unstack("method", sort=False)
    largest = table["difference"].abs().max(axis=1).nlargest(ROWS).index
    table = table[table.index.isin(largest)].iloc[::-1]
    methods = list(dict.fromkeys(gains.index.get_level_values("method")))
    places = {method: place for place, method in enumerate(order or [baseline, *methods])}
    for k, method in enumerate(methods):
        style, rows = style_of(places[method]), np.arange(len(table)) + 0.6 * (0.5 - (k + 0.5) / len(methods))
        middle = table["difference", method]
        reach = np.nan_to_num((table["high", method] - middle).to_numpy())
        look: dict[str, Any] = {
            "color": style.colour,
            "mec": "#000000",
            "mew": 0.6,
            "ms": 6,
            "ls": "",
            "elinewidth": 1.6,
        }
        ax.errorbar(middle, rows, xerr=reach, marker=style.marker, label=drawn_name(method), **look)
    ax.axvline(0, color="#000000", lw=1)
    for row in range(1, len(table)):
        ax.axhline(row - 0.5, color="#888888", lw=0.4)
    ax.set_yticks(range(len(table)), [short_name(str(task)) for task in table.index])
    ax.set_ylim(-0.5, len(table) - 0.5)
    ax.set_xlabel(f"points above {drawn_name(baseline)} (95 % interval)")
    return finished(ax, legend="below")


def plot_scores(
    curves_df: pd.DataFrame, ax: Axes | None = None, *, order: Sequence[str] | None = None, scale: float = 100
) -> Axes:
    """Draw the score at the end of each epoch: the mean over seeds, and whiskers from the lowest to the highest.

    Args:
        curves_df: From `curves_table`, of one task.
        ax: Where to draw; the current axis if left out.
        order: All methods in the study's order, which gives each its style; left out, that of appearance.
        scale: Factor on the scores.

    Returns:
        The axis.
    """
    ax = plt.gca() if ax is None else ax
    curves = _curves(curves_df, "score", order)
    for k, (method, style, curve) in enumerate(curves):
        aside = 0.3 * (k + 0.5) / len(curves) - 0.15  # so that whiskers stand beside each other
        middle, reach = scale * curve["mean"], scale * (curve[["min", "max"]].T - curve["mean"]).abs().to_numpy()
        ax.errorbar(curve.index + aside, middle, reach, label=drawn_name(method), elinewidth=1.2, **_line(style))
    ax.set_ylabel("score: mean, lowest, highest")
    return _over_epochs(ax)


def plot_means(
    curves_df: pd.DataFrame,
    quantity: str,
    ax: Axes | None = None,
    *,
    order: Sequence[str] | None = None,
    scale: float = 100,
    label: str = "",
) -> Axes:
    """Draw a quantity at the end of each epoch: the mean over all runs of each method.

    Args:
        curves_df: From `curves_table`.
        quantity: Which one.
        ax: Where to draw; the current axis if left out.
        order: As in `plot_scores`.
        scale: Factor on its values.
        label: What it is, for the axis; left out, its name.

    Returns:
        The axis.
    """
    ax = plt.gca() if ax is None else ax
    for method, style, curve in _curves(curves_df, quantity, order):
        ax.plot(curve.index, scale * curve["mean"], label=drawn_name(method), **_line(style))
    ax.set_ylabel("\n".join(map(escaped, textwrap.wrap(label or quantity, LONGEST))))
    return _over_epochs(ax)


def plot_losses(curves_df: pd.DataFrame, ax: Axes | None = None, *, order: Sequence[str] | None = None) -> Axes:
    """Draw both terms of the loss on the training rows, the mean over seeds: CE with lines, EL with dots between.

    Args:
        curves_df: From `curves_table`, of one task.
        ax: Where to draw; the current axis if left out.
        order: As in `plot_scores`.

    Returns:
        The axis.
    """
    ax = _plot_both(curves_df, ("loss_ce", "loss_el"), ax, order)
    ax.set_ylabel("mean loss: CE solid, EL dotted")
    ax.set_ylim(bottom=0)
    return _over_epochs(ax)


def plot_weights(curves_df: pd.DataFrame, ax: Axes | None = None, *, order: Sequence[str] | None = None) -> Axes:
    """Draw the weights of the loss while a run trains: α with lines, β with dots between.

    Args:
        curves_df: From `curves_table`, of one task.
        ax: Where to draw; the current axis if left out.
        order: As in `plot_scores`.

    Returns:
        The axis.
    """
    # What is logged held since the log before.
    ax = _plot_both(curves_df, ("alpha", "beta"), ax, order, drawstyle="steps-pre")
    ax.set_ylabel("weight: α solid, β dotted")
    ax.set_ylim(bottom=0)
    return _over_epochs(ax)


def plot_schedule(schedule: MixingSchedule, ax: Axes | None = None) -> Axes:
    """Draw a schedule over training: the weights α and β, and the focus at an axis of its own on the right.

    Args:
        schedule: The schedule.
        ax: Where to draw; the current axis if left out.

    Returns:
        The axis.
    """
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
        ax.plot([], [], label=label, **look)  # the legend is that of both axes
    for side, label, top in ((ax, "weight", max(map(max, weights))), (right, "focus F", 0.5)):
        side.set_ylabel(label)
        side.set_ylim(-0.04 * top, 1.08 * top)
        side.spines["top"].set_visible(False)
    ax.set_xlim(0, 100)
    ax.set_xlabel("training (% of the steps)")
    return finished(ax, legend="above")


def _plot_both(
    curves_df: pd.DataFrame, quantities: tuple[str, str], ax: Axes | None, order: Sequence[str] | None, **more: Any
) -> Axes:
    """Draw two quantities of each method: the first with a line and in the legend, the second dotted."""
    ax = plt.gca() if ax is None else ax
    for quantity, dotted in zip(quantities, (False, True), strict=True):
        for method, style, curve in _curves(curves_df, quantity, order):
            name = {"ls": (0, (1, 1.2))} if dotted else {"ls": "-", "label": drawn_name(method)}
            ax.plot(curve.index, curve["mean"], **{**_line(style), **name, **more})
    return ax


def _line(style: Style) -> dict[str, Any]:
    """A method's style, for a line with markers."""
    return {"color": style.colour, "ls": style.line, "lw": style.width, "marker": style.marker, "ms": 4}


def _curves(
    curves_df: pd.DataFrame, quantity: str, order: Sequence[str] | None
) -> list[tuple[str, Style, pd.DataFrame]]:
    """Mean, lowest and highest value at each epoch, for each method that has any."""
    methods = order or list(dict.fromkeys(curves_df["method"]))
    chosen = curves_df[(curves_df["quantity"] == quantity) & curves_df["value"].notna()]
    parts = {method: chosen[chosen["method"] == method].groupby("epoch")["value"] for method in methods}
    return [
        (method, style_of(place), values.agg(["mean", "min", "max"]))
        for place, (method, values) in enumerate(parts.items())
        if len(values)
    ]


def _over_epochs(ax: Axes) -> Axes:
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finished(ax, legend="above")


def _held_from(table: pd.DataFrame, start: float) -> pd.DataFrame:
    """The same steps, with the first value held back to `start`."""
    held = pd.concat([table.iloc[:1].set_axis([min(start, table.index[0])]), table])
    held.attrs = table.attrs
    return held


def _runs(method: str, attrs: Mapping[str, Any]) -> str:
    runs, experiments = attrs.get("runs", {}).get(method), attrs.get("experiments")
    return "" if runs == experiments else f" ({runs}/{experiments} runs)"


def _undefined(attrs: Mapping[str, Any]) -> str:
    count = attrs.get("undefined", 0)
    of = "1 experiment" if count == 1 else f"{count} experiments"
    return f"\nin {of} the best score is not positive:\nonly the best method counts as solving it" if count else ""
