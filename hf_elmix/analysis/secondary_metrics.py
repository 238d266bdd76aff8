"""What a task wants reported beside its score, such as the share of mislabelled rows that end up memorised."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from hf_elmix.analysis.frames import metric_runs, scale_of, scores_table, summary_table
from hf_elmix.analysis.ranks import compare

__all__ = ["ALL", "SecondaryMetric", "find_secondary_metrics"]

ALL = "all tasks"


@dataclass(frozen=True)
class SecondaryMetric:
    """One metric, told beside the score and apart from it.

    Attributes:
        metric: Its name in records.
        label: What it measures, in words.
        values: Like the scores: a row for each experiment, a column for each method.
        summary_df: Mean, standard deviation and counts for each task and method (see `summary_table`), and over
            all tasks together under the name `ALL` where there are several.
        pairs_df: Each method beside the baseline (see `compare`).
    """

    metric: str
    label: str
    values: pd.DataFrame
    summary_df: pd.DataFrame
    pairs_df: pd.DataFrame

    @property
    def scale(self) -> float:
        """Factor on its values where they are shown."""
        return scale_of(self.values)


def find_secondary_metrics(runs_df: pd.DataFrame, baseline: str) -> list[SecondaryMetric]:
    """The metrics that a study's tasks declared, as far as its runs have them.

    Args:
        runs_df: From `runs_table`.
        baseline: What methods are compared with.
    """
    declared = runs_df.attrs.get("secondary_metrics", {})
    return [_secondary(runs_df, metric, label, baseline) for metric, label in declared.items() if metric in runs_df]


def _secondary(runs_df: pd.DataFrame, metric: str, label: str, baseline: str) -> SecondaryMetric:
    runs = metric_runs(runs_df, metric)
    values, summary = scores_table(runs), summary_table(runs)
    if summary["task"].nunique() > 1:
        summary = pd.concat([summary, _over_all(values)], ignore_index=True)
    pairs = compare(values, baseline) if len(values.columns) > 1 else pd.DataFrame()
    return SecondaryMetric(metric, label, values, summary, pairs)


def _over_all(values: pd.DataFrame) -> pd.DataFrame:
    """A row for each method, over all of its runs."""
    columns = {"mean": values.mean(), "sd": values.std(), "runs": values.count(), "expected": len(values)}
    return pd.DataFrame({"task": ALL, **columns}).rename_axis("method").reset_index()
