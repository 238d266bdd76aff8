"""Tables from records.

``runs_df`` has one row for each run; ``scores`` one row for each experiment (task, seed) and one column for each
method; ``curves_df`` one row for each number that was logged while a run trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.losses.schedules import REGIMES
from hf_elmix.study.select import choose_runs
from hf_elmix.study.spec import RunKey, RunRecord

__all__ = [
    "EXPERIMENT",
    "curves_table",
    "metric_runs",
    "read_scores",
    "runs_table",
    "scale_of",
    "scores_table",
    "summary_table",
]

EXPERIMENT = ["task", "seed"]
KEY = ["task", "method", "seed"]
COST = ("seconds", "steps_trained", "steps_inherited")
LOGGED = ("loss_ce", "loss_el", "alpha", "beta")


def runs_table(records: Iterable[RunRecord], expected: Iterable[RunKey] = ()) -> pd.DataFrame:
    """One row for each run: key, status, score, cost, error, every metric at the last evaluation, and the settings.

    ``score`` is the study's score where the run is done, else missing: a run that failed or diverged has none. The
    attribute ``secondary_metrics`` has the metrics that tasks want reported beside it, each with its meaning in words.

    Args:
        records: The runs.
        expected: Runs that were asked for (see `Store.asked`); one without a record has the status ``missing``.

    Returns:
        One row for each run, by task, seed and method. ``seconds`` are on the clock, steps are optimizer steps.
    """
    runs = choose_runs(records, expected)
    keys = sorted(runs, key=_order)
    known = {key: record for key, record in runs.items() if record is not None}
    rows = [_row(key, known[key]) if key in known else {**_key(key), "status": "missing"} for key in keys]
    columns = [*KEY, "status", "score", *COST, "error"]
    names = dict.fromkeys([*columns, *(name for row in rows for name in row), "settings"])
    table = pd.DataFrame(rows, columns=[*(name for name in names if name != "settings"), "settings"])
    settings = [known[key].settings for key in keys if key in known]
    table.attrs["secondary_metrics"] = {
        name: label for part in settings for name, label in part.get("secondary_metrics", {}).items()
    }
    return table


def metric_runs(runs_df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The same runs with another metric in the place of the score: missing, too, where a run is not done."""
    return runs_df.assign(score=runs_df[metric].where(runs_df["status"] == "done"))


def curves_table(records: Iterable[RunRecord], expected: Iterable[RunKey] = ()) -> pd.DataFrame:
    """What was logged while runs trained, in long form.

    Args:
        records: The runs.
        expected: Runs that were asked for (see `Store.asked`).

    Returns:
        Columns ``task``, ``method``, ``seed``, ``epoch``, ``quantity`` and ``value``, where the quantity is
        ``score`` or the name of a metric that is reported beside it (at the end of each epoch), ``loss_ce`` and
        ``loss_el`` (the terms of the loss on the training rows, unweighted), ``alpha`` or ``beta``.
    """
    runs = choose_runs(records, expected)
    rows = [row for key, record in runs.items() if record is not None for row in _curves(key, record)]
    return pd.DataFrame(rows, columns=[*KEY, "epoch", "quantity", "value"])


def read_scores(path: str | Path) -> pd.DataFrame:
    """The runs of any study, from a CSV (or Parquet) with the columns ``experiment``, ``method`` and ``score``.

    A column ``seed`` tells repeats of one experiment apart; without it every experiment has one. An empty score is a
    run that has none. Larger scores are better. Other columns are kept as they are.

    Args:
        path: The file; a name that ends in ``.parquet`` is read as Parquet, any other as CSV.

    Returns:
        ``runs_df``: the experiment under ``task``, its seed, the status ``done`` or ``missing``.

    Raises:
        UsageError: If a column is missing, a score is no number or a run is there twice.
    """
    table = _read(Path(path)).rename(columns={"experiment": "task"})
    missing = [name for name in ("task", "method", "score") if name not in table]
    if missing:
        found = ", ".join(table.columns.map(repr))
        raise UsageError(
            f"Expected the columns experiment, method and score in {path}, separated by commas, but it has {found}."
        )
    names = {name: table[name].astype(str) for name in ("task", "method")}
    table = table.assign(score=_numbers(table["score"], path), seed=_seeds(table), **names)
    twice = table[table.duplicated(KEY)]
    if len(twice):
        row = twice.iloc[0]
        raise UsageError(
            f"Expected each run of {path} once, but experiment {row['task']!r}, method {row['method']!r} is there "
            "twice. A column named seed tells repeats apart."
        )
    table["status"] = np.where(table["score"].isna(), "missing", "done")
    first = [*KEY, "status", "score"]
    order = sorted(table.index, key=lambda k: (table["task"][k], table["seed"][k], _place(table["method"][k])))
    return table.loc[order, [*first, *table.columns.drop(first)]].reset_index(drop=True)


def scores_table(runs_df: pd.DataFrame) -> pd.DataFrame:
    """Scores of each experiment by method, missing where there is none; the paper's methods first, in its order.

    Args:
        runs_df: From `runs_table` or `read_scores`.

    Returns:
        One row for each experiment, indexed by (task, seed), and one column for each method.
    """
    table = runs_df.pivot(index=EXPERIMENT, columns="method", values="score")
    return table.reindex(columns=sorted(table.columns, key=_place))


def scale_of(scores: pd.DataFrame) -> float:
    """Factor on scores where they are shown: 100 where all lie in [-1, 1], so that they are in points."""
    return 100.0 if scores.abs().max(axis=None) <= 1 else 1.0


def summary_table(runs_df: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (n - 1) and counts of the score over seeds, for each task and method.

    Args:
        runs_df: From `runs_table` or `read_scores`.

    Returns:
        Columns ``task``, ``method``, ``mean``, ``sd`` (missing for a single run), ``runs`` (with a score) and
        ``expected`` (the task's seeds: those that any method has a record of).
    """
    groups = runs_df.groupby(["task", "method"])["score"]
    summary = groups.agg(mean="mean", sd="std", runs="count").reset_index()
    summary["expected"] = summary["task"].map(runs_df.groupby("task")["seed"].nunique())
    return summary.sort_values(["task", "method"], key=lambda column: column.map(_place), ignore_index=True)


def _order(key: RunKey) -> tuple[str, int, tuple[int, str]]:
    return key.task, key.seed, _place(key.method)


def _place(method: str) -> tuple[int, str]:
    """Where a method stands: the paper's regimes first, in the paper's order; then others by name."""
    regimes = list(REGIMES)
    return (regimes.index(method) if method in regimes else len(regimes), method)


def _row(key: RunKey, record: RunRecord) -> dict[str, Any]:
    last = {name: values["last"] for name, values in record.scores.items()}
    cost = {name: record.cost.get(name) for name in COST}
    settings = json.dumps(record.settings, ensure_ascii=False, sort_keys=True)
    run = {**_key(key), "status": record.status, "score": record.score, **cost}
    run |= {"error": record.error, "settings": settings}
    return {**run, **{name: value for name, value in last.items() if name not in run}}


def _key(key: RunKey) -> dict[str, Any]:
    return {"task": key.task, "method": key.method, "seed": key.seed}


def _curves(key: RunKey, record: RunRecord) -> Iterator[tuple[Any, ...]]:
    run = (key.task, key.method, key.seed)
    curves = {name: record.curve(name) for name in record.settings.get("secondary_metrics", {})}
    for name, epochs in {**curves, "score": record.curve()}.items():
        yield from ((*run, float(k), name, value) for k, value in enumerate(epochs, start=1))
    for log in record.training:
        yield from ((*run, log.get("epoch"), name, log[name]) for name in LOGGED if name in log)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        # A method may be called '0' or 'NA'.
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:  # pandas' and pyarrow's own are kinds of it
        raise UsageError(f"Expected {path} to be a CSV or Parquet file, but {in_one_line(error)}") from error


def _numbers(column: pd.Series, path: str | Path) -> pd.Series:
    texts = column.astype(str).str.strip()
    numbers = pd.to_numeric(texts, errors="coerce")
    missing = column.isna() | texts.str.lower().isin(["", "nan", "na", "none"])
    bad = np.isinf(numbers) | (numbers.isna() & ~missing)
    if bad.any():
        row = int(np.argmax(bad))
        raise UsageError(f"Expected scores to be numbers, but row {row + 1} of {path} has {column.iloc[row]!r}.")
    return numbers.astype(float)


def _seeds(table: pd.DataFrame) -> pd.Series:
    """Seeds as numbers where they all are; 0 where there are none."""
    if "seed" not in table:
        return pd.Series(0, table.index)
    numbers = pd.to_numeric(table["seed"], errors="coerce")
    return numbers.astype(int) if (numbers % 1 == 0).all() else table["seed"].astype(str)
