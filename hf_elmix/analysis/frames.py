"""Tables of runs, scores and training curves, from records or from a file of scores."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hf_elmix import parquet_files
from hf_elmix.analysis.formats import text_of
from hf_elmix.csv_files import read_table
from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.losses.schedules import REGIMES
from hf_elmix.study.schema import LARGEST
from hf_elmix.study.select import choose_parts
from hf_elmix.study.spec import RunKey, RunRecord

__all__ = [
    "BLOCK",
    "StudyTables",
    "curves_table",
    "read_scores",
    "runs_table",
    "scale_of",
    "scores_table",
    "study_tables",
    "summary_table",
]

BLOCK = ["task", "seed"]  # methods are compared within a block
KEY = ["task", "method", "seed"]
COST = ("seconds", "steps_trained", "steps_inherited")
COLUMNS = [*KEY, "status", "score", *COST, "error"]  # of the table of runs, before those of metrics
LOGGED = ("loss_ce", "loss_el", "alpha", "beta")


class StudyTables(NamedTuple):
    """What a report takes from the records of a study.

    Attributes:
        runs: From `runs_table`.
        curves: From `curves_table`.
        chosen: The key of the record that counts for each run that has one; see `choose_runs`.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    chosen: dict[RunKey, RunKey]


def study_tables(records: Iterable[RunRecord], expected: Iterable[RunKey] = ()) -> StudyTables:
    """Tabulate runs and curves; of each record, only what the tables need is kept in memory."""
    parts = _Parts()
    runs = choose_parts(records, expected, parts)
    known = {key: part for key, part in runs.items() if part is not None}
    chosen = {key: part.key for key, part in known.items()}
    points = {key: part.points for key, part in known.items()}
    return StudyTables(_table(runs), parts.curves(points), chosen)


def runs_table(records: Iterable[RunRecord], expected: Iterable[RunKey] = ()) -> pd.DataFrame:
    """Tabulate runs: key, status, score, cost, error, every metric at the last evaluation, and settings as JSON.

    Args:
        records: The runs.
        expected: Runs that the study asked for (see `Store.asked`); those without a record are ``missing``.

    Returns:
        One row per run, sorted by task, seed and method. ``score`` is missing unless a run is done. ``seconds`` are
        wall-clock time, steps are optimizer steps. ``attrs["secondary_metrics"]`` has the labels of the metrics that
        the tasks declare, ``attrs["score_metrics"]`` the metric that is the score of each task.
    """
    return study_tables(records, expected).runs


def curves_table(records: Iterable[RunRecord], expected: Iterable[RunKey] = ()) -> pd.DataFrame:
    """Tabulate everything that was logged during training, in long form.

    Args:
        records: The runs.
        expected: As in `runs_table`.

    Returns:
        Columns ``task``, ``method``, ``seed``, ``epoch``, ``quantity`` and ``value``, with texts as categories. The
        quantity is ``score`` or the name of a secondary metric (at the end of each epoch), ``loss_ce`` or ``loss_el``
        (the terms of the loss on the training rows, unweighted), ``alpha`` or ``beta``.
    """
    return study_tables(records, expected).curves


def read_scores(path: str | Path) -> pd.DataFrame:
    """Read the runs of any study from a CSV (or Parquet) file with the columns ``task``, ``method`` and ``score``.

    The column of tasks may also be called ``experiment``. A column ``seed`` distinguishes repeats. A run with an empty
    score is missing. Larger scores are better. Other columns are kept.

    Args:
        path: The file: Parquet if its name ends in ``.parquet``, else CSV.

    Returns:
        A table like that of `runs_table`. The status is ``done`` or ``missing``; without a column, all seeds are 0.

    Raises:
        UsageError: If a line has more or fewer cells than the header, a column is missing or given twice, a score is
            not a number, or a run is given twice.
    """
    table = _read(Path(path)).rename(columns={"experiment": "task"})
    if table.columns.has_duplicates:
        name = table.columns[table.columns.duplicated()][0]
        also = " (also called experiment)" if name == "task" else ""
        raise UsageError(f"Expected each column of {path} once, but {name!r}{also} is given twice.")
    if not {"task", "method", "score"} <= set(table):
        raise UsageError(
            f"Expected the columns task (or experiment), method and score in {path}, separated by commas, but got "
            f"{', '.join(table.columns.map(repr))}."
        )
    _check_names(table, path)
    seeds = table.get("seed", pd.Series(0, table.index))
    numbers = pd.to_numeric(seeds, errors="coerce")
    table = table.assign(
        task=table["task"].astype(str),
        method=table["method"].astype(str),
        score=_numbers(table["score"], path),
        seed=numbers.astype(int) if ((numbers % 1 == 0) & (numbers.abs() < 2**53)).all() else seeds.astype(str),
    )
    twice = table[table.duplicated(KEY)]
    if len(twice):
        row = twice.iloc[0]
        raise UsageError(
            f"Expected each run of {path} once, but task {row['task']!r}, method {row['method']!r} is given twice. "
            "Add a column named seed to distinguish repeats."
        )
    table["status"] = np.where(table["score"].isna(), "missing", "done")
    first = [*KEY, "status", "score"]
    order = sorted(table.index, key=lambda k: (table["task"][k], table["seed"][k], _place(table["method"][k])))
    return table.loc[order, [*first, *table.columns.drop(first)]].reset_index(drop=True)


def scores_table(runs_df: pd.DataFrame) -> pd.DataFrame:
    """Arrange scores by block and method.

    Args:
        runs_df: From `runs_table` or `read_scores`.

    Returns:
        One row per block, indexed by (task, seed), and one column per method, the paper's first; missing if a run has
        no score.
    """
    table = runs_df.pivot(index=BLOCK, columns="method", values="score")
    return table.reindex(columns=sorted(table.columns, key=_place))


def scale_of(scores: pd.DataFrame) -> float:
    """Choose the factor by which scores are shown: 100, for percent, if all lie in [-1, 1]; else 1."""
    return 100.0 if scores.abs().max(axis=None) <= 1 else 1.0


def summary_table(runs_df: pd.DataFrame) -> pd.DataFrame:
    """Compute mean, standard deviation (n - 1) and number of scores over seeds, for each task and method.

    Args:
        runs_df: From `runs_table` or `read_scores`.

    Returns:
        Columns ``task``, ``method``, ``mean``, ``sd`` (missing for a single run), ``runs`` (with a score) and
        ``expected`` (seeds of the task, over all methods).
    """
    groups = runs_df.groupby(["task", "method"])["score"]
    summary = groups.agg(mean="mean", sd="std", runs="count").reset_index()
    summary["expected"] = summary["task"].map(runs_df.groupby("task")["seed"].nunique())
    return summary.sort_values(["task", "method"], key=lambda column: column.map(_place), ignore_index=True)


def _place(method: str) -> tuple[int, str]:
    """Sort key of methods: the paper's regimes in its order, then others by name."""
    regimes = list(REGIMES)
    return (regimes.index(method) if method in regimes else len(regimes), method)


class _Part(NamedTuple):
    """What the tables need of a record: its key, the points of its curves, its row and its declared metrics."""

    key: RunKey
    points: np.ndarray  # shape (points, 3): epoch, number of the quantity, value
    row: dict[str, Any]
    labels: Mapping[str, str]
    metric: str | None


def _table(runs: Mapping[RunKey, _Part | None]) -> pd.DataFrame:
    """`runs_table` from the part of each run that has a record."""
    keys = sorted(runs, key=lambda key: (key.task, key.seed, _place(key.method)))
    parts = [(key, part) for key in keys if (part := runs[key]) is not None]
    rows = [part.row if (part := runs[key]) is not None else {**vars(key), "status": "missing"} for key in keys]
    names = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row if name != "settings"), "settings"])
    table = pd.DataFrame(rows, columns=list(names))
    table["settings"] = table["settings"].astype(object)  # in memory once, not once for each run
    table.attrs["secondary_metrics"] = {name: label for _, one in parts for name, label in one.labels.items()}
    table.attrs["score_metrics"] = {key.task: one.metric for key, one in parts if one.metric}
    return table


class _Parts:
    """Makes the parts of records, with texts that several have in common in memory once."""

    def __init__(self) -> None:
        self.settings: dict[str, tuple[str, Mapping[str, str], str | None]] = {}
        self.quantities: dict[str, int] = {}

    def __call__(self, record: RunRecord) -> _Part:
        text = json.dumps(record.settings, ensure_ascii=False, sort_keys=True)
        metric = select.scored_metric if (select := record.select) else None
        labels = record.settings.get("secondary_metrics", {})
        declared = text, {name: label for name, label in labels.items() if name not in COLUMNS}, metric
        text, labels, metric = self.settings.setdefault(text, declared)
        last = {name: values["last"] for name, values in record.scores.items()}
        cost = {name: record.cost.get(name) for name in COST}
        run = {**vars(record.key.reported), "status": record.status, "score": record.score, **cost}
        row = {**last, **run, "error": record.error, "settings": text}  # a metric never replaces a column
        points = [
            (epoch, self.quantities.setdefault(name, len(self.quantities)), value)
            for epoch, name, value in _points(record)
        ]
        return _Part(record.key, np.array(points, dtype=float).reshape(-1, 3), row, labels, metric)

    def curves(self, runs: Mapping[RunKey, np.ndarray]) -> pd.DataFrame:
        """The points of all runs, in long form."""
        keys = pd.DataFrame(map(vars, runs), columns=KEY)
        places = np.repeat(np.arange(len(runs)), list(map(len, runs.values())))
        epochs, numbers, values = (
            np.concatenate([np.empty(0), *(points[:, k] for points in runs.values())]) for k in range(3)
        )
        # Texts are in memory once: there may be a million points.
        texts = {name: keys[name].astype("category").array.take(places) for name in ("task", "method")}
        seeds = keys["seed"].array.take(places)
        quantities = pd.Categorical.from_codes(numbers.astype(int), list(self.quantities))
        columns = {**texts, "seed": seeds, "epoch": epochs, "quantity": quantities, "value": values}
        return pd.DataFrame(columns, copy=False)


def _points(record: RunRecord) -> Iterator[tuple[float | None, str, float | None]]:
    curves = {name: record.curve(name) for name in record.settings.get("secondary_metrics", {})}
    for quantity, epochs in {**curves, "score": record.curve()}.items():
        yield from ((float(k), quantity, value) for k, value in enumerate(epochs, start=1))
    for log in record.training:
        yield from ((log.get("epoch"), name, log[name]) for name in LOGGED if name in log)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return parquet_files.read_table(path).to_pandas(ignore_metadata=True)  # an index is a column
        # All cells as text, since a method may be called '0' or 'NA'.
        header, rows = read_table(path)
        cells = (list(map(text_of, row)) for row in rows)
        return pd.DataFrame(cells, columns=list(map(text_of, header)), dtype=str)
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:  # pandas and pyarrow derive their errors from ValueError
        raise UsageError(f"Expected {path} to be a CSV or Parquet file, but {in_one_line(error)}") from error


def _check_names(table: pd.DataFrame, path: str | Path) -> None:
    """Refuse tasks and methods that are missing or that nobody can tell apart, and cells of several values."""
    for name in ("task", "method"):
        if (missing := table[name].isna() | (table[name].astype(str).str.strip() == "")).any():
            raise UsageError(f"Expected a {name} in each row of {path}, but row {missing.argmax() + 1} has none.")
        known: dict[str, str] = {}
        for value in table[name].astype(str).unique():
            other = known.setdefault(unicodedata.normalize("NFC", value.strip()), value)
            if other != value:
                raise UsageError(f"Expected one spelling of each {name} in {path}, but got {other!r} and {value!r}.")
    for name in (name for name in table if table[name].dtype == object):
        nested = table[name].map(lambda cell: isinstance(cell, dict | list | tuple | set | np.ndarray))
        if nested.any():
            raise UsageError(f"Expected one value in each cell of {path}, but the column {name!r} holds several.")


def _numbers(column: pd.Series, path: str | Path) -> pd.Series:
    texts = column.astype(str).str.strip()
    numbers = pd.to_numeric(texts, errors="coerce")
    missing = column.isna() | texts.str.lower().isin(["", "nan", "na", "none"])
    bad = (numbers.abs() > LARGEST) | (numbers.isna() & ~missing)
    if bad.any():
        row = int(np.argmax(bad))
        raise UsageError(
            f"Expected scores to be numbers up to {LARGEST:g}, but row {row + 1} of {path} has {column.iloc[row]!r}."
        )
    return numbers.astype(float)
