"""Report section: scores, losses and weights of the loss by epoch."""

from __future__ import annotations

from functools import partial
from typing import Any

from hf_elmix.analysis.numbers import counted
from hf_elmix.analysis.plots import plot_curves
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import MAX_DRAWN, FigureSpec, Section
from hf_elmix.plotting import legend_rows

__all__ = ["training_section"]


def training_section(results: StudyResults) -> Section | None:
    """Make the section of training curves for up to 8 tasks; None if nothing was logged."""
    curves_df, order = results.curves_df, results.shown
    if curves_df is None or curves_df.empty:
        return None
    tasks, height = sorted(curves_df["task"].unique()), 3.0 + 0.2 * legend_rows(order)
    losses = {"dotted": "loss_el", "label": "mean loss: CE solid, EL dotted"}
    scores = {"scale": results.scale, "label": "score: mean, lowest, highest", "whiskers": True}
    # A logged weight has held since the log before.
    weights = {"dotted": "beta", "label": "weight: α solid, β dotted", "drawstyle": "steps-pre"}

    def picture(name: str, caption: str, task: str, quantity: str, look: dict[str, Any]) -> FigureSpec:
        draw = partial(plot_curves, curves_df[curves_df["task"] == task], quantity, order=order, **look)
        return FigureSpec(name, caption, draw, height, page_only=True)

    pictures = []
    for k, task in enumerate(tasks[:MAX_DRAWN]):
        score = picture(f"score-{k}", "Score at the end of each epoch.", task, "score", scores)
        loss = picture(f"loss-{k}", "Both terms of the loss on the training rows.", task, "loss_ce", losses)
        pictures.append((task, [score, loss]))
    caption = f"α (of CE) and β (of EL), as logged on {tasks[0]}; a schedule is the same on all tasks."
    pictures.append(("Weights of the loss", [picture("weights", caption, tasks[0], "alpha", weights)]))
    more = f" {counted(len(tasks) - MAX_DRAWN, 'more task')} can be found in data/curves.csv."
    about = f"Scores and losses of each task.{more if len(tasks) > MAX_DRAWN else ''}{results.selection}"
    return Section("training", "Training", about, pictures=pictures, folded=True)
