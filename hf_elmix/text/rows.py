"""The rows of a task: load, check, tokenise."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, load_dataset
from datasets.config import HF_DATASETS_CACHE
from datasets.exceptions import DatasetsError
from datasets.utils import logging
from transformers import PreTrainedTokenizerBase

from glue_runs.protocol import GLUE
from glue_runs.tasks import TASKS
from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.hub.client import HTTPError, with_retries
from hf_elmix.text import cache
from hf_elmix.text.tasks import TextTask

__all__ = ["check_rows", "count_tokens", "digest", "explained", "find_task", "first_rows", "load_task"]
__all__ += ["read_dataset", "revision", "tokenise", "without_unknown_labels"]

T = TypeVar("T")

# In a file's address on the Hub, and in its place in the cache of `datasets`.
COMMIT = re.compile(r"(?:@|/\d+\.\d+\.\d+/)([0-9a-f]{40})/")


def find_task(name: str, tasks: Mapping[str, TextTask] = TASKS) -> TextTask:
    """The task of a name.

    Args:
        name: The name.
        tasks: Those that exist.

    Raises:
        UsageError: If there is none; the message shows those that exist and a close match.
    """
    if name in tasks:
        return tasks[name]
    close = difflib.get_close_matches(name.lower().replace("-", ""), tasks, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UsageError(f"Unknown task {name!r}. Expected one of {', '.join(tasks)}.{hint}")


def load_task(
    task: TextTask,
    dataset_name: str = GLUE,
    *,
    splits: Iterable[str] | None = None,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    max_predict_samples: int | None = None,
) -> DatasetDict:
    """Rows of a task, checked.

    Args:
        task: The task; its name is the configuration that is loaded.
        dataset_name: A dataset on the Hub, or a local folder laid out like one.
        splits: Which ones; left out, ``train`` and those the task is scored on.
        max_train_samples: Keep so many of the first training rows.
        max_eval_samples: Keep so many of the first rows of each evaluation split.
        max_predict_samples: Keep so many of the first rows of each split that is predicted.

    Returns:
        The splits with the text columns, ``label`` and any others; a split that is predicted has labels only where
        they are known.

    Raises:
        UsageError: If the data cannot be loaded, a limit is below 1, a split is missing or empty, a
            column is missing, or a label is none of the task's.
    """
    rows = read_dataset(dataset_name, task.name)
    limits = {
        "train": max_train_samples,
        **dict.fromkeys(task.splits, max_eval_samples),
        **dict.fromkeys(task.test_splits, max_predict_samples),
    }
    kept = DatasetDict()
    for split in ("train", *task.splits) if splits is None else splits:
        if split not in rows:
            raise UsageError(
                f"Expected {dataset_name!r} to have the split {split!r} for task {task.name}, but it has only "
                f"{', '.join(map(str, rows))}."
            )
        place = f"split {split!r} of task {task.name} in {dataset_name!r}"
        part = first_rows(rows[split], limits.get(split))
        kept[split] = without_unknown_labels(part, task) if split in task.test_splits else part
        check_rows(kept[split], task, place, labelled=split not in task.test_splits)
    return kept


def read_dataset(name: str, config: str | None = None) -> DatasetDict:
    """All rows of a dataset on the Hub, or in a local folder laid out like one.

    Raises:
        UsageError: If they cannot be loaded.
    """
    place = f"{name!r}" if config is None else f"task {config} from {name!r}"
    expected = f"Expected a dataset id such as {GLUE!r} or a folder laid out like it."
    if config is None:
        expected += " Of several configurations, --dataset_config_name says which."
    return explained(place, lambda: _read(name, config), expected)


def explained(place: str, read: Callable[[], T], expected: str) -> T:
    """Read rows; an error of any library says, in one line, what could not be read.

    Raises:
        UsageError: If they cannot be read.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # What goes wrong is said below, in one line.
    try:
        return read()
    except (OSError, ValueError, TypeError, NotImplementedError, DatasetsError, HTTPError) as error:
        raise UsageError(f"Cannot load {place}: {in_one_line(error)} {expected}") from error
    finally:
        logging.set_verbosity(verbosity)


def _read(name: str, config: str | None) -> DatasetDict:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return load_dataset(str(folder), config, cache_dir=_cache_of(folder))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"{name} is no folder.")
    return with_retries(lambda: load_dataset(name, config))


def first_rows(dataset: Dataset, limit: int | None) -> Dataset:
    """The first `limit` rows, or all of them.

    Raises:
        UsageError: If the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"Expected to keep 1 row or more, but got {limit}.")
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


def without_unknown_labels(dataset: Dataset, task: TextTask) -> Dataset:
    """The rows without the column of labels if one of them is not known; GLUE marks those of its test rows by -1."""
    if "label" not in dataset.column_names:
        return dataset
    column = dataset.with_format("arrow")[:]["label"]
    labels = np.asarray(column)
    known = labels.dtype.kind in "iuf" and not column.null_count and not len(_outside(labels, task))
    if known and not (task.regression and (labels == -1).all()):
        return dataset
    return dataset.remove_columns("label")


def tokenise(
    rows: DatasetDict, task: TextTask, tokenizer: PreTrainedTokenizerBase, max_length: int, *, in_memory: bool = False
) -> DatasetDict:
    """Token ids for the text of each row, cut to `max_length` and not padded; only inputs and any labels are kept.

    They are made once for the same rows, tokenizer and length, and then read from the cache of `datasets`.

    Args:
        rows: The splits.
        task: The task; it names the text columns.
        tokenizer: The tokenizer.
        max_length: Tokens a row is cut to.
        in_memory: Hold them in memory, so that a pickle of them needs no file.
    """
    tokens = {split: _tokens(part, task, tokenizer, max_length) for split, part in rows.items()}
    return DatasetDict({split: cache.in_memory(part) if in_memory else part for split, part in tokens.items()})


def count_tokens(rows: Dataset) -> int:
    """Tokens in all rows together."""
    ids = rows.with_format("arrow")[:].column("input_ids")
    return sum(len(chunk.flatten()) for chunk in ids.chunks)


def digest(rows: Dataset, task: TextTask) -> str:
    """A fingerprint of the text and labels that a run reads: equal for equal rows, on any machine."""
    columns = rows.select_columns([*task.columns, *_label_of(rows)]).to_pandas()
    hashes = pd.util.hash_pandas_object(columns, index=False).to_numpy()
    return hashlib.sha256(hashes.tobytes()).hexdigest()[:16]


def revision(rows: Dataset) -> str | None:
    """The commit of the Hub's dataset that rows were read from; None for rows of a folder."""
    places = [*(rows.info.download_checksums or ()), *(file["filename"] for file in rows.cache_files)]
    commits = {found[1] for found in map(COMMIT.search, places) if found}
    return commits.pop() if len(commits) == 1 else None


def _tokens(rows: Dataset, task: TextTask, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    labels = repr(rows.features.get("label"))
    name = cache.name_of(digest(rows, task), labels, task.columns, max_length, cache.identity(tokenizer))

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        return dict(tokenizer(*(batch[column] for column in task.columns), truncation=True, max_length=max_length))

    def make(path: str) -> Dataset:
        drop = [column for column in rows.column_names if column != "label"]
        # The name says what is in it, so there is nothing for `datasets` to hash.
        return rows.map(encode, batched=True, remove_columns=drop, cache_file_name=path, new_fingerprint=name)

    return cache.kept(name, len(rows), make)


def _label_of(rows: Dataset) -> list[str]:
    return [column for column in rows.column_names if column == "label"]


def _cache_of(folder: Path) -> str:
    """A cache of its own for a local folder as it is now.

    `datasets` 5.2 names the cache of a folder after its last component and its README alone: other rows in the same
    place, or in a folder of the same name, would silently be those that were loaded first.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return str(Path(HF_DATASETS_CACHE, "local", hashlib.sha256(repr(state).encode()).hexdigest()[:16]))


def check_rows(dataset: Dataset, task: TextTask, place: str, *, labelled: bool = True) -> None:
    """Refuse rows that cannot be trained on, before anything is trained.

    Args:
        dataset: The rows.
        task: What their columns and labels must be.
        place: What to call them.
        labelled: Whether they must have labels.

    Raises:
        UsageError: If there are none, a column is missing, a text is none, or a label is none of the
            task's.
    """
    expected = (*task.columns, "label") if labelled else task.columns
    missing = [column for column in expected if column not in dataset.column_names]
    if missing:
        raise UsageError(
            f"Expected the columns {', '.join(expected)} in {place}, but it has no {', '.join(missing)}; it has "
            f"{', '.join(dataset.column_names)}."
        )
    if not len(dataset):
        raise UsageError(f"Expected rows in {place}, but it is empty.")
    for column in task.columns:
        kind = getattr(dataset.features[column], "dtype", dataset.features[column])
        empty = dataset.with_format("arrow")[:][column].null_count
        if kind not in ("string", "large_string") or empty:
            raise UsageError(f"Expected text in the column {column!r} of {place}, but got {kind}, {empty} rows empty.")
    if "label" in expected:
        _check_labels(np.asarray(dataset.with_format("numpy")["label"]), task, place)


def _check_labels(labels: np.ndarray, task: TextTask, place: str) -> None:
    if labels.dtype.kind not in ("iuf" if task.regression else "iu"):
        wanted = "numbers" if task.regression else "whole numbers"
        raise UsageError(f"Expected {wanted} as labels in {place}, but got {labels.dtype} (row 0: {labels[0]!r}).")
    outside = _outside(labels, task)
    if len(outside):
        row = int(outside[0])
        wanted = "numbers" if task.regression else f"from 0 to {len(task.labels) - 1} ({', '.join(task.labels)})"
        raise UsageError(
            f"Expected labels {wanted} in {place}, but row {row} has {labels[row]} ({len(outside)} such rows)."
        )


def _outside(labels: np.ndarray, task: TextTask) -> np.ndarray:
    """Places of labels that are none of the task's."""
    wrong = ~np.isfinite(labels) if task.regression else (labels < 0) | (labels >= len(task.labels))
    return np.flatnonzero(wrong)
