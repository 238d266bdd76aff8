"""Tables from records.

``runs_df`` has one row for each run; ``scores`` one row for each experiment (problem, seed) and one column for each
method.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from hf_elmix.schedules import REGIMES
from hf_elmix.study.spec import RunRecord

__all__ = ["runs_table", "scores_table", "summary_table", "summary_text"]

EXPERIMENT = ["problem", "seed"]


def runs_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row for each run: key, status, the score, cost, and every metric at the last evaluation.

    ``score`` is the study's score where the run is done, else missing: a run that failed or diverged has none.
    """
    rows = [_row(record) for record in sorted(records, key=_order)]
    columns = ["problem", "method", "seed", "status", "score", "seconds", "steps_trained"]
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*columns, *(name for row in rows for name in row)])))


def scores_table(runs_df: pd.DataFrame) -> pd.DataFrame:
    """Scores of each experiment by method, missing where there is none; the paper's methods first, in its order."""
    table = runs_df.pivot(index=EXPERIMENT, columns="method", values="score")
    return table.reindex(columns=sorted(table.columns, key=_place))


def summary_table(runs_df: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (n - 1) and counts of the score over seeds, for each problem and method.

    Columns: ``problem``, ``method``, ``mean``, ``sd`` (missing for a single run), ``runs`` (with a score),
    ``expected`` (the problem's seeds: those that any method has a record of).
    """
    groups = runs_df.groupby(["problem", "method"])["score"]
    summary = groups.agg(mean="mean", sd="std", runs="count").reset_index()
    summary["expected"] = summary["problem"].map(runs_df.groupby("problem")["seed"].nunique())
    return summary.sort_values(["problem", "method"], key=lambda column: column.map(_place), ignore_index=True)


def summary_text(summary: pd.DataFrame, scale: float = 100) -> str:
    """The summary as a Markdown table: a row for each problem, ``mean ± sd (runs)`` for each method.

    Args:
        summary: From `summary_table`.
        scale: Factor on the scores; 100 shows them in percent, as the paper does.
    """
    cells = summary.assign(cell=[_cell(row, scale) for row in summary.itertuples()])
    table = cells.pivot(index="problem", columns="method", values="cell").fillna("no run")
    methods = sorted(table.columns, key=_place)
    table = table[methods]
    rows = [["task", *methods], *([str(name), *row] for name, row in zip(table.index, table.to_numpy(), strict=True))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _order(record: RunRecord) -> tuple[str, int, tuple[int, str]]:
    return record.key.problem, record.key.seed, _place(record.key.method)


def _place(method: str) -> tuple[int, str]:
    """Where a method stands: the paper's regimes first, in the paper's order; then others by name."""
    regimes = list(REGIMES)
    return (regimes.index(method) if method in regimes else len(regimes), method)


def _row(record: RunRecord) -> dict[str, Any]:
    last = {name: values["last"] for name, values in record.scores.items()}
    score = last.get(record.settings.get("score", "")) if record.status == "done" else None
    cost = {name: record.cost.get(name) for name in ("seconds", "steps_trained")}
    key = {"problem": record.key.problem, "method": record.key.method, "seed": record.key.seed}
    run = {**key, "status": record.status, "score": score, **cost}
    return {**run, **{name: value for name, value in last.items() if name not in run}}


def _cell(row: Any, scale: float) -> str:
    """``mean ± sd (runs)``; the count is ``k/n`` where runs have no score."""
    count = str(row.runs) if row.runs == row.expected else f"{row.runs}/{row.expected}"
    if not row.runs:
        return f"no score ({count})"
    spread = f" ± {scale * row.sd:.2f}" if row.runs > 1 else ""
    return f"{scale * row.mean:.2f}{spread} ({count})"
