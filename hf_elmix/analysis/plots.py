"""Figures. Each function takes an axis, draws on it and returns it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

__all__ = ["method_label", "plot_profile"]

# Colour, line style and width of each method. The colours differ in lightness too, so that figures read in grey, and
# later lines are thinner than earlier ones, so that lines which coincide are all seen.
STYLES = (
    ("#BBBBBB", "-", 6.0),
    ("#56B4E9", "-", 4.0),
    ("#000000", "--", 2.4),
    ("#D55E00", "-", 1.4),
    ("#009E73", "-.", 1.4),
    ("#0072B2", ":", 1.4),
)


def method_label(method: str) -> str:
    """A method in the paper's words: ``CE``, ``EL``, ``F = 0-0.5``."""
    if method in ("ce", "el"):
        return method.upper()
    return f"F = {method}" if method[:1].isdigit() and ":" not in method else method


def plot_profile(profile: pd.DataFrame, ax: Axes | None = None, *, experiments: int | None = None) -> Axes:
    """Draw a performance profile (Fig. 2): thresholds across, share of experiments upwards.

    Args:
        profile: From `performance_profile`.
        ax: Where to draw; the current axis if left out.
        experiments: Number of experiments, for the title.

    Returns:
        The axis.
    """
    ax = plt.gca() if ax is None else ax
    start = profile.index[0]
    if profile.attrs.get("complete"):  # Nothing changes below the first step: a little room to see a flat line in.
        start = min(start, 0.95)
        profile = pd.concat([profile.iloc[:1].set_axis([start]), profile])
    # The profile is a step function that falls right after each threshold, so each value holds back to the one before.
    for k, method in enumerate(profile):
        colour, style, width = STYLES[k % len(STYLES)]
        ax.step(
            profile.index, profile[method], where="pre", label=method_label(method), color=colour, ls=style, lw=width
        )
    ax.set_xlim(start, 1 + 0.02 * (1 - start))
    ax.set_ylim(0, 1.03)
    ax.set_xlabel("threshold τ (share of the best score of the experiment)")
    ax.set_ylabel("share of experiments with score ≥ τ · best")
    ax.set_title("Performance profile" + ("" if experiments is None else f" over {experiments} experiments"))
    ax.legend(loc="lower left", frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    return ax
