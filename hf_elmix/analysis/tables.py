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
    """Scores of each experiment by method, missing where there is none; methods in the order they first appear."""
    methods = list(dict.fromkeys(runs_df["method"]))
    return runs_df.pivot(index=EXPERIMENT, columns="method", values="score").reindex(columns=methods)


def summary_table(runs_df: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (n - 1) and counts of the score over seeds, for each problem and method.

    Columns: ``problem``, ``method``, ``mean``, ``sd`` (missing for a single run), ``runs`` (with a score),
    ``expected`` (with a record).
    """
    groups = runs_df.groupby(["problem", "method"], sort=False)["score"]
    return groups.agg(mean="mean", sd="std", runs="count", expected="size").reset_index()


def summary_text(summary: pd.DataFrame, scale: float = 100) -> str:
    """The summary as a Markdown table: a row for each problem, ``mean ± sd (runs)`` for each method.

    Args:
        summary: From `summary_table`.
        scale: Factor on the scores; 100 shows them in percent, as the paper does.
    """
    cells = summary.assign(cell=[_cell(row, scale) for row in summary.itertuples()])
    methods = list(dict.fromkeys(summary["method"]))
    table = cells.pivot(index="problem", columns="method", values="cell").reindex(columns=methods).fillna("no run")
    rows = [["task", *methods], *([str(name), *row] for name, row in zip(table.index, table.to_numpy(), strict=True))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _order(record: RunRecord) -> tuple[str, int, int, str]:
    """By experiment, and in it the paper's regimes first, in the paper's order."""
    method, regimes = record.key.method, list(REGIMES)
    place = regimes.index(method) if method in regimes else len(regimes)
    return record.key.problem, record.key.seed, place, method


def _row(record: RunRecord) -> dict[str, Any]:
    last = {name: values["last"] for name, values in record.scores.items()}
    score = last.get(record.settings.get("score", "")) if record.status == "done" else None
    cost = {name: record.cost.get(name) for name in ("seconds", "steps_trained")}
    key = {"problem": record.key.problem, "method": record.key.method, "seed": record.key.seed}
    return {**key, "status": record.status, "score": score, **cost, **last}


def _cell(row: Any, scale: float) -> str:
    """``mean ± sd (runs)``; the count is ``k/n`` where runs have no score."""
    count = str(row.runs) if row.runs == row.expected else f"{row.runs}/{row.expected}"
    if not row.runs:
        return f"no score ({count})"
    spread = f" ± {scale * row.sd:.2f}" if row.runs > 1 else ""
    return f"{scale * row.mean:.2f}{spread} ({count})"
