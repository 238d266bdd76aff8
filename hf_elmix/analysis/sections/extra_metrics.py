"""Report section: secondary metrics, such as the share of mislabelled rows that are memorised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from hf_elmix.analysis.formats import Table
from hf_elmix.analysis.numbers import difference_text, first_upper, number
from hf_elmix.analysis.plots import plot_curves
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import FigureSpec, Section
from hf_elmix.analysis.sections.scores import mean_rows
from hf_elmix.plotting import legend_rows, method_label

__all__ = ["ALL", "extra_metrics_section", "metric_sentence", "metric_summary", "secondary_metrics"]

ALL = "all tasks"


def extra_metrics_section(results: StudyResults) -> Section | None:
    """Make the section of secondary metrics; None if the tasks of the study declare none."""
    metrics, labels = secondary_metrics(results), results.runs_df.attrs.get("secondary_metrics", {})
    if not metrics:
        return None
    summaries = {name: metric_summary(found) for name, found in metrics.items()}
    tables, pictures = [], []
    for place, (name, found) in enumerate(metrics.items(), start=1):
        label, unit = first_upper(labels[name]), ", in percent" if found.scale == 100 else ""
        over = f" ({ALL}: over their runs)" if ALL in set(summaries[name]["task"]) else ""
        caption = f"{label}{unit}: mean ± standard deviation over seeds (n − 1){over}, with the number of runs."
        caption += results.selection
        rows = mean_rows(summaries[name], results.shown, found.scale)
        header = ["task", *map(method_label, results.shown)]
        tables.append(Table(f"secondary-{place}", label, caption, header, rows))
        if found.curves_df is not None:
            look: dict[str, Any] = {"order": results.shown, "scale": found.scale, "label": labels[name]}
            draw = partial(plot_curves, found.curves_df, name, **look)
            caption = f"{label}: mean over all runs of a method at the end of each epoch.{results.selection}"
            pictures.append(FigureSpec(f"secondary-{place}", caption, draw, 2.8 + 0.2 * legend_rows(results.shown)))
    data = {"secondary_metrics": _stacked(summaries)}
    if results.others:
        data["secondary_pairs"] = _stacked({name: found.pairs_df.reset_index() for name, found in metrics.items()})
    return Section(
        "secondary-metrics",
        "Secondary metrics",
        "The summary, the ranks and the performance profile do not take these metrics into account.",
        [metric_sentence(found, labels[name], results.shown) for name, found in metrics.items()],
        tables,
        [("", pictures)] if pictures else (),
        data,
    )


def secondary_metrics(results: StudyResults) -> dict[str, StudyResults]:
    """Take each declared secondary metric that some completed run has as the score, by its name."""
    done = results.runs_df[results.runs_df["status"] == "done"]
    declared = results.runs_df.attrs.get("secondary_metrics", {})
    return {name: results.with_metric(name) for name in declared if name in done and done[name].notna().any()}


def metric_summary(found: StudyResults) -> pd.DataFrame:
    """Compute `summary_table` of a metric; if there are several tasks, with rows over all of them, named `ALL`."""
    values, summary = found.scores, found.summary_df
    if summary["task"].nunique() < 2:
        return summary
    columns = {"mean": values.mean(), "sd": values.std(), "runs": values.count(), "expected": len(values)}
    over_all = pd.DataFrame({"task": ALL, **columns}).rename_axis("method").reset_index()
    return pd.concat([summary, over_all], ignore_index=True)


def metric_sentence(found: StudyResults, label: str, methods: Sequence[str] = ()) -> str:
    """Say the mean of each method, and which differ significantly from the baseline.

    Args:
        found: The results, with the metric as their score.
        label: Names the metric.
        methods: The methods to say it of, by default all.
    """
    scores = found.scores[list(methods or found.methods)]
    unit, base = " %" if found.scale == 100 else "", method_label(found.baseline)
    means = [f"{method_label(str(name))} {number(found.scale * mean)}{unit}" for name, mean in scores.mean().items()]
    counts = sorted(set(scores.count()))
    runs = " to ".join(map(str, counts[:: len(counts) - 1 or 1]))
    said = f"{first_upper(label)}: {', '.join(means)} (means of {runs} runs)."
    if not found.others:
        return said
    pairs = found.pairs_df.loc[[method for method in scores if method != found.baseline]]
    different = [
        f"{method_label(str(row.Index))} {difference_text(row, found.scale)}"
        for row in pairs[(pairs["low"] > 0) | (pairs["high"] < 0)].itertuples()
    ]
    if not different:
        return f"{said} No method is significantly different from {base}."
    rest = "; the other methods are not" if len(different) < len(pairs) else ""
    return f"{said} Significantly different from {base}, in points: {', '.join(different)}{rest}."


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, names=["metric"]).reset_index(level="metric").reset_index(drop=True)
