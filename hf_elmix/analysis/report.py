"""From a folder of runs to its figure and tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt

from hf_elmix.analysis.plots import plot_profile
from hf_elmix.analysis.profile import performance_profile
from hf_elmix.analysis.tables import runs_table, scores_table, summary_table, summary_text
from hf_elmix.errors import UsageError
from hf_elmix.study.spec import RunRecord

__all__ = ["write_report"]


def write_report(records: Iterable[RunRecord], folder: str | Path) -> str:
    """Write the profile (Fig. 2) as PNG and SVG and the tables as CSV, and return the summary as text.

    Args:
        records: The runs.
        folder: Where ``profile.png``, ``profile.svg``, ``profile.csv``, ``runs.csv`` and ``summary.csv`` go.

    Raises:
        UsageError: (a ValueError) If no run has a score.
    """
    runs_df = runs_table(records)
    if runs_df["score"].isna().all():
        raise UsageError(f"Expected runs with a score, but there are {len(runs_df)} runs and none has one.")
    scores, summary = scores_table(runs_df), summary_table(runs_df)
    profile = performance_profile(scores)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in {"runs": runs_df, "summary": summary, "profile": profile.reset_index()}.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    with plt.rc_context({"svg.hashsalt": "hf_elmix", "svg.fonttype": "none"}):
        figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        plot_profile(profile, ax, experiments=len(scores))
        for kind in ("png", "svg"):
            figure.savefig(folder / f"profile.{kind}", dpi=160, metadata={"Date": None} if kind == "svg" else None)
        plt.close(figure)
    return summary_text(summary)
