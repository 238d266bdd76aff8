"""The rows of a task: load, check, fingerprint."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset, load_dataset_builder
from datasets.config import HF_DATASETS_CACHE, HF_HUB_OFFLINE
from datasets.packaged_modules.csv.csv import CsvConfig

from hf_elmix.errors import UsageError, did_you_mean
from hf_elmix.hub.client import with_retries
from hf_elmix.parquet_files import check_cells
from hf_elmix.text.files import read_rows
from hf_elmix.text.labels import with_ids
from hf_elmix.text.loading import loading
from hf_elmix.text.tasks import TextTask

__all__ = ["checked_rows", "digest", "first_rows", "load_task", "read_dataset", "revision", "warn_of_unseen"]

# A commit in the address of a file on the Hub, and in its path in the cache of `datasets`.
SHOWN = 10  # classes in a warning
COMMIT = re.compile(r"(?:@|/\d+\.\d+\.\d+/)([0-9a-f]{40})/")


def load_task(
    task: TextTask,
    dataset_name: str,
    *,
    splits: Iterable[str] | None = None,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    max_predict_samples: int | None = None,
) -> DatasetDict:
    """Load the rows of a task from the configuration of its name, and check them.

    Args:
        task: The task.
        dataset_name: A dataset on the Hub, or a local folder laid out like one.
        splits: The splits to load; by default ``train`` and the evaluation splits.
        max_train_samples: Keep the first N training rows.
        max_eval_samples: Keep the first N rows of each evaluation split.
        max_predict_samples: Keep the first N rows of each split to predict.

    Returns:
        The splits with the text columns, ``label`` and any other columns; a split to predict has labels only if all of
        them are known.

    Raises:
        UsageError: If the data cannot be loaded, a limit is below 1, a split is missing or empty, a column is missing,
            or a label is not one of the task's.
    """
    rows, name = read_dataset(dataset_name, task.name), f"task {task.name} in {dataset_name!r}"
    limits = {
        "train": max_train_samples,
        **dict.fromkeys(task.splits, max_eval_samples),
        **dict.fromkeys(task.test_splits, max_predict_samples),
    }
    kept = DatasetDict()
    for split in ("train", *task.splits) if splits is None else splits:
        part, labelled = first_rows(rows, split, limits.get(split), name), split not in task.test_splits
        where = f"split {split!r} of {name}"
        if _in_words(part, task):
            part = with_ids(part, "label", task.labels, where, strict=labelled, ids=True)
        kept[split] = checked_rows(part, task, where, labelled=labelled)
    return kept


def read_dataset(name: str, config: str | None = None) -> DatasetDict:
    """Read all rows of a dataset on the Hub, or of a local folder laid out like one.

    Args:
        name: Id of the dataset, or the folder.
        config: Name of its configuration.

    Raises:
        UsageError: If it cannot be loaded.
    """
    what = repr(name) if config is None else f"task {config} from {name!r}"
    expected = "Expected a dataset id such as 'stanfordnlp/imdb' or a folder laid out like a dataset on the Hub."
    if config is None:
        expected += " If it has several configurations, choose one with --dataset_config_name."
    folder = Path(name).expanduser()
    with loading(what, expected):
        if folder.is_dir():
            rows = _read_folder(folder, config)
        elif name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise FileNotFoundError(f"{name} is not a folder.")
        else:  # offline, a file that is not in the cache now will not be there later either
            rows = _load(name, config) if HF_HUB_OFFLINE else with_retries(partial(_load, name, config))
        for part in rows.values():
            check_cells(part.data.table)
        return rows


def first_rows(rows: DatasetDict, split: str, limit: int | None, name: str, hint: str = "") -> Dataset:
    """The first `limit` rows of a split, or all of them.

    Args:
        rows: All splits.
        split: The split.
        limit: How many rows; None for all.
        name: What to call the splits in an error.
        hint: What to do if the split does not exist.

    Raises:
        UsageError: If the split does not exist, or the limit is below 1.
    """
    if split not in rows:
        only = f"it has only {', '.join(map(str, rows))}. {hint}".rstrip()
        raise UsageError(f"Expected {name} to have the split {split!r}, but {only}{did_you_mean(split, rows)}")
    if limit is not None and limit < 1:
        raise UsageError(f"Expected to keep 1 row or more, but got {limit}.")
    return rows[split] if limit is None else rows[split].select(range(min(limit, len(rows[split]))))


def checked_rows(dataset: Dataset, task: TextTask, where: str, *, labelled: bool) -> Dataset:
    """Refuse rows that a model cannot be trained on or used with, before anything is trained.

    Args:
        dataset: The rows.
        task: The task, which says what their columns and labels must be.
        where: What to call the rows in an error.
        labelled: Whether the rows must have labels.

    Returns:
        The rows. If they need no labels, the column of labels is kept only if all of them are known.

    Raises:
        UsageError: If there are no rows, a column or a text is missing, or a label is not one of the task's.
    """
    if not labelled and "label" in dataset.column_names and not _all_known(dataset, task):
        dataset = dataset.remove_columns("label")
    expected = (*task.columns, "label") if labelled else task.columns
    missing = [column for column in expected if column not in dataset.column_names]
    if missing:
        raise UsageError(
            f"Expected the columns {', '.join(expected)} in {where}, but it has no {', '.join(missing)}; it has "
            f"{', '.join(dataset.column_names)}.{did_you_mean(missing[0], dataset.column_names)}"
        )
    if not len(dataset):
        raise UsageError(f"Expected rows in {where}, but it is empty.")
    for column in task.columns:
        kind = getattr(dataset.features[column], "dtype", dataset.features[column])
        if kind not in ("string", "large_string"):
            raise UsageError(f"Expected text in the column {column!r} of {where}, but got {kind}.")
        empty = np.flatnonzero(dataset.with_format("arrow")[:][column].is_null())
        if len(empty):
            raise UsageError(
                f"Expected text in the column {column!r} of {where}, but row {empty[0]} has none ({len(empty)} rows)."
            )
    if labelled:
        _check_labels(np.asarray(dataset.with_format("arrow")[:]["label"]), task, where)
    return dataset


def warn_of_unseen(task: TextTask, rows: DatasetDict) -> None:
    """Warn of classes that a model is scored on and not trained on.

    Args:
        task: The task.
        rows: Its splits, with class ids; without the split ``train``, nothing is trained.
    """
    if task.regression or "train" not in rows:
        return
    counts = {
        split: np.bincount(np.asarray(part.with_format("arrow")[:]["label"]), minlength=len(task.labels))
        for split, part in rows.items()
        if "label" in part.column_names
    }
    others = sum((count for split, count in counts.items() if split != "train"), np.zeros(len(task.labels), int))
    unseen = np.flatnonzero((counts["train"] == 0) & (others > 0))
    if len(unseen):
        names = ", ".join(repr(task.labels[place]) for place in unseen[:SHOWN])
        more = f" and {len(unseen) - SHOWN} more classes" if len(unseen) > SHOWN else ""
        warnings.warn(
            f"No training row of {task.name} has the label {names}{more}, which {others[unseen].sum()} rows to "
            "evaluate have: the model cannot learn it.",
            stacklevel=2,
        )


def digest(rows: Dataset, task: TextTask) -> str:
    """A fingerprint of the texts and labels that a run reads, equal for equal rows on any machine."""
    columns = rows.select_columns([name for name in (*task.columns, "label") if name in rows.column_names])
    hashes = pd.util.hash_pandas_object(columns.to_pandas(), index=False).to_numpy()
    return hashlib.sha256(hashes.tobytes()).hexdigest()[:16]


def revision(rows: Dataset) -> str | None:
    """The commit of the dataset on the Hub from which rows were read; None for rows of a folder."""
    places = [*(rows.info.download_checksums or ()), *(file["filename"] for file in rows.cache_files)]
    commits = {found[1] for found in map(COMMIT.search, places) if found}
    return commits.pop() if len(commits) == 1 else None


def _load(name: str, config: str | None, **options: Any) -> DatasetDict:
    """The rows as `datasets` reads them; but in CSV only an empty cell is a missing value, since "NA" is a word."""
    builder = load_dataset_builder(name, config, **options)
    cells = {"keep_default_na": False, "na_values": [""]} if isinstance(builder.config, CsvConfig) else {}
    return load_dataset(name, config, **options, **cells)


def _read_folder(folder: Path, config: str | None) -> DatasetDict:
    """The rows of a local folder: `datasets` says which files it has, and reads those that are not plain text."""
    cache = _cache_of(folder)
    builder = load_dataset_builder(str(folder), config, cache_dir=cache)
    files = {str(split): list(map(str, paths)) for split, paths in (builder.config.data_files or {}).items()}
    usual = type(builder.config)(name=builder.config.name, data_files=builder.config.data_files)
    plain = {Path(path).suffix.lower() for paths in files.values() for path in paths} <= {
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
    }
    if not plain or builder.config != usual or not files:
        return _load(str(folder), config, cache_dir=cache)
    rows = DatasetDict({split: read_rows(paths, f"{folder} ({split})") for split, paths in files.items()})
    features = builder.info.features  # which its README may declare
    return rows if features is None else DatasetDict({split: part.cast(features) for split, part in rows.items()})


def _cache_of(folder: Path) -> str:
    """A separate cache for each state of a local folder.

    `datasets` 5.2 names the cache of a folder after its last component and its README alone: rows that were loaded
    once would silently replace other rows in the same place, or in a folder of the same name. The contents count,
    since a file may be replaced by another of the same size and time.
    """
    state = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            state.update(repr((str(path.resolve()), hashlib.file_digest(file, "sha256").hexdigest())).encode())
    return str(Path(HF_DATASETS_CACHE, "local", state.hexdigest()[:16]))


def _in_words(rows: Dataset, task: TextTask) -> bool:
    """Whether labels are text, or ids of classes that are declared in another order or under other names."""
    feature = rows.features.get("label")
    if isinstance(feature, ClassLabel):
        return tuple(feature.names) != task.labels
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _all_known(dataset: Dataset, task: TextTask) -> bool:
    """Whether each row has a label of the task; in test sets, all labels may be -1."""
    column = dataset.with_format("arrow")[:]["label"]
    labels = np.asarray(column)
    if labels.dtype.kind not in "iuf" or column.null_count or len(_outside(labels, task)):
        return False
    return not (task.regression and (labels == -1).all())


def _check_labels(labels: np.ndarray, task: TextTask, where: str) -> None:
    if labels.dtype.kind not in ("iuf" if task.regression else "iu"):
        wanted = "numbers" if task.regression else "whole numbers"
        raise UsageError(f"Expected {wanted} as labels in {where}, but got {labels.dtype} (row 0: {labels[0]!r}).")
    outside = _outside(labels, task)
    if len(outside):
        row = int(outside[0])
        wanted = "numbers" if task.regression else f"from 0 to {len(task.labels) - 1} ({', '.join(task.labels)})"
        raise UsageError(
            f"Expected labels {wanted} in {where}, but row {row} has {labels[row]} ({len(outside)} such rows)."
        )


def _outside(labels: np.ndarray, task: TextTask) -> np.ndarray:
    """Indices of labels that are not among the task's."""
    wrong = ~np.isfinite(labels) if task.regression else (labels < 0) | (labels >= len(task.labels))
    return np.flatnonzero(wrong)
