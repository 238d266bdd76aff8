"""Report section: the scores of each task."""

from __future__ import annotations

import pandas as pd

from hf_elmix.analysis.formats import Cell, Table
from hf_elmix.analysis.numbers import difference_text, number
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import Section
from hf_elmix.plotting import method_label

__all__ = ["mean_rows", "score_table", "scores_section"]


def scores_section(results: StudyResults) -> Section:
    """Make the section of scores, and of differences from the baseline, by task."""
    tables = [score_table(results)]
    data = {"scores": results.scores.reset_index(), "summary": results.summary_df}
    if results.others:
        base = method_label(results.baseline)
        found: dict[str, list[Cell]] = {}
        for row in results.gains_df.reset_index().itertuples():
            if row.method not in results.shown:
                continue
            cell = Cell(difference_text(row, results.scale), row.difference)
            found.setdefault(str(row.task), [Cell(str(row.task))]).append(cell)
        caption = f"Mean difference from {base} on each task, in points, with its 95 % interval.{results.selection}"
        header = ["task", *(method_label(method) for method in results.shown if method != results.baseline)]
        tables.append(Table("gains", "Differences by task", caption, header, list(found.values())))
        data["gains"] = results.gains_df.reset_index()
    return Section("scores", "Scores by task", tables=tables, data=data)


def score_table(results: StudyResults) -> Table:
    """Tabulate the mean score of each method on each task."""
    unit = " in percent" if results.scale == 100 else ""
    caption = f"Mean score{unit} ± standard deviation over seeds (n − 1), with the number of runs.{results.selection}"
    rows = mean_rows(results.summary_df, results.shown, results.scale)
    return Table("scores", "Scores", caption, ["task", *map(method_label, results.shown)], rows)


def mean_rows(summary_df: pd.DataFrame, methods: list[str], scale: float) -> list[list[Cell]]:
    """Format a `summary_table` as rows: the task, then mean, standard deviation and runs of each method."""
    cells = {}
    for row in summary_df.itertuples():
        count = f"({row.runs})" if row.runs == row.expected else f"({row.runs}/{row.expected})"
        spread = "" if pd.isna(row.sd) else f" ± {number(scale * row.sd)}"
        text = f"{number(scale * row.mean)}{spread} {count}" if row.runs else f"no score {count}"
        cells[row.task, row.method] = Cell(text, row.mean if row.runs else None)
    return [
        [Cell(str(task)), *(cells.get((task, method), Cell("no run")) for method in methods)]
        for task in dict.fromkeys(summary_df["task"])
    ]
