"""The section of a report on training: scores, losses and weights by epoch."""

from __future__ import annotations

from functools import partial

from hf_elmix.analysis.numbers import counted
from hf_elmix.analysis.plots import plot_losses, plot_scores, plot_weights
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import DRAWN, Picture, Section
from hf_elmix.plotting import legend_rows

__all__ = ["training_section"]


def training_section(results: StudyResults) -> Section | None:
    """Curves of each task, up to 8 of them; None if nothing was logged.

    Args:
        results: The study.
    """
    curves_df, order = results.curves_df, results.methods
    if curves_df is None or curves_df.empty:
        return None
    tasks, height = sorted(curves_df["task"].unique()), 3.0 + 0.2 * legend_rows(order)
    curves = {task: curves_df[curves_df["task"] == task] for task in tasks[:DRAWN]}
    pictures = {
        task: [
            Picture(f"score-{k}", "", partial(plot_scores, part, order=order, scale=results.scale), height, True),
            Picture(f"loss-{k}", "", partial(plot_losses, part, order=order), height, True),
        ]
        for k, (task, part) in enumerate(curves.items())
    }
    caption = f"α (of CE) and β (of EL), as logged on {tasks[0]}; a schedule is the same on all tasks."
    weights = Picture("weights", caption, partial(plot_weights, curves[tasks[0]], order=order), height, True)
    about = "Score at the end of each epoch, and both terms of the loss on the training rows, by task."
    if len(tasks) > DRAWN:
        about += f" {counted(len(tasks) - DRAWN, 'more task')} can be found in data/curves.csv."
    groups = {**pictures, "Weights of the loss": [weights]}
    return Section("training", "Training", about, pictures=groups, folded=True)
