"""The rows of a task: load, check, fingerprint."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, load_dataset
from datasets.config import HF_DATASETS_CACHE, HF_HUB_OFFLINE

from hf_elmix.errors import UsageError
from hf_elmix.hub.client import with_retries
from hf_elmix.text.loading import loading
from hf_elmix.text.tasks import TextTask

__all__ = ["check_json", "checked_rows", "digest", "first_rows", "load_task", "read_dataset", "revision"]

# A commit in the address of a file on the Hub, and in its path in the cache of `datasets`.
COMMIT = re.compile(r"(?:@|/\d+\.\d+\.\d+/)([0-9a-f]{40})/")
JSON = (".json", ".jsonl")


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
        kept[split] = checked_rows(part, task, f"split {split!r} of {name}", labelled=labelled)
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
            for path in folder.rglob("*.json*"):
                if path.suffix in JSON and path.is_file():
                    check_json(path)
            return load_dataset(str(folder), config, cache_dir=_cache_of(folder))
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise FileNotFoundError(f"{name} is not a folder.")
        # Offline, a file that is not in the cache now will not be there later either.
        return load_dataset(name, config) if HF_HUB_OFFLINE else with_retries(partial(load_dataset, name, config))


def check_json(path: Path) -> None:
    """Refuse a JSON file that does not begin with a row or a list: the reader of `datasets` would end the process.

    Raises:
        ValueError: If it does not.
    """
    with path.open("rb") as file:
        start = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith((b"{", b"[")):
        raise ValueError(f"{path.name} is empty or does not begin with {{ or [ but with {start[:20]!r}.")


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
        raise UsageError(f"Expected {name} to have the split {split!r}, but {only}")
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
            f"{', '.join(dataset.column_names)}."
        )
    if not len(dataset):
        raise UsageError(f"Expected rows in {where}, but it is empty.")
    for column in task.columns:
        kind = getattr(dataset.features[column], "dtype", dataset.features[column])
        empty = dataset.with_format("arrow")[:][column].null_count
        if kind not in ("string", "large_string") or empty:
            raise UsageError(f"Expected text in the column {column!r} of {where}, but got {kind}, {empty} rows empty.")
    if labelled:
        _check_labels(np.asarray(dataset.with_format("arrow")[:]["label"]), task, where)
    return dataset


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


def _cache_of(folder: Path) -> str:
    """A separate cache for each state of a local folder.

    `datasets` 5.2 names the cache of a folder after its last component and its README alone: rows that were loaded
    once would silently replace other rows in the same place, or in a folder of the same name.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return str(Path(HF_DATASETS_CACHE, "local", hashlib.sha256(repr(state).encode()).hexdigest()[:16]))


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
