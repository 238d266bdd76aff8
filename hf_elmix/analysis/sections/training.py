"""The section of a report on training: scores, losses and weights by epoch."""

from __future__ import annotations

from functools import partial
from typing import Any

from hf_elmix.analysis.numbers import counted
from hf_elmix.analysis.plots import plot_curves
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
    losses = {"dotted": "loss_el", "label": "mean loss: CE solid, EL dotted"}
    scores = {"scale": results.scale, "label": "score: mean, lowest, highest", "whiskers": True}
    # A logged weight has held since the log before.
    weights = {"dotted": "beta", "label": "weight: α solid, β dotted", "drawstyle": "steps-pre"}

    def picture(name: str, task: str, quantity: str, look: dict[str, Any], caption: str = "") -> Picture:
        part = curves_df[curves_df["task"] == task]
        return Picture(
            name, caption, partial(plot_curves, part, quantity, order=order, **look), height, page_only=True
        )

    pictures = {
        task: [picture(f"score-{k}", task, "score", scores), picture(f"loss-{k}", task, "loss_ce", losses)]
        for k, task in enumerate(tasks[:DRAWN])
    }
    caption = f"α (of CE) and β (of EL), as logged on {tasks[0]}; a schedule is the same on all tasks."
    pictures["Weights of the loss"] = [picture("weights", tasks[0], "alpha", weights, caption)]
    about = "Score at the end of each epoch, and both terms of the loss on the training rows, by task."
    if len(tasks) > DRAWN:
        about += f" {counted(len(tasks) - DRAWN, 'more task')} can be found in data/curves.csv."
    return Section("training", "Training", about, pictures=pictures, folded=True)
