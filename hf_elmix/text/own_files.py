"""Rows of a user's own, from files or any dataset on the Hub; what the task is follows from their columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset

from glue_runs.tasks import GLUE_TASKS
from hf_elmix.errors import UsageError
from hf_elmix.text.labels import class_names, with_ids
from hf_elmix.text.rows import check_rows, explained, first_rows, without_unknown_labels
from hf_elmix.text.tasks import TextTask

__all__ = ["find_splits", "own_task", "read_files"]

# How `datasets` reads a file. Only an empty cell is a missing one: "None" and "NA" are words.
CELLS = {"keep_default_na": False, "na_values": [""]}
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", CELLS),
    ".tsv": ("csv", {**CELLS, "sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}

LABEL_COLUMNS = ("label", "labels")
PAIRS = tuple(task.columns for task in GLUE_TASKS.values() if len(task.columns) == 2)
EVALUATION, TEST = ({task.splits for task in GLUE_TASKS.values()}, {task.test_splits for task in GLUE_TASKS.values()})


def read_files(files: Mapping[str, str]) -> DatasetDict:
    """Rows of local files.

    Args:
        files: Split to path; CSV, TSV, JSON (one object in each line, or a list of them) or Parquet.

    Raises:
        UsageError: If there is no such file, or it cannot be read.
    """
    return DatasetDict({split: _read_file(path) for split, path in files.items()})


def find_splits(rows: DatasetDict, given: str | None, *, test: bool = False) -> tuple[str, ...]:
    """The splits that a dataset is scored on or predicted: the one that is given, else those named as GLUE's are.

    Args:
        rows: The dataset.
        given: Name of the split, if the user said one.
        test: Those to predict.
    """
    if given is not None:
        return (given,)
    known = sorted(TEST if test else EVALUATION, key=len)
    return next((splits for splits in known if set(splits) <= set(rows)), known[0])


def own_task(
    rows: DatasetDict,
    name: str,
    *,
    splits: tuple[str, ...],
    test_splits: tuple[str, ...],
    limits: Mapping[str, int | None],
    text_columns: Iterable[str] = (),
    label_column: str | None = None,
    labels: tuple[str, ...] = (),
) -> tuple[TextTask, DatasetDict]:
    """What the task of some rows is, and the rows as it wants them, checked.

    Args:
        rows: All splits.
        name: What to call the task.
        splits: Those it is scored on.
        test_splits: Those to predict.
        limits: The splits that are used, and how many of the first rows of each are kept (None: all).
        text_columns: The text columns, if the user said them.
        label_column: The column of labels, if the user said it.
        labels: Names of the classes where no labelled split says them.

    Raises:
        UsageError: If a split or column is missing, it is not clear which columns hold the text, or
            rows or labels cannot be used.
    """
    for split in limits:
        if split not in rows:
            raise UsageError(_no_split(split, rows, name, split in test_splits))
    first = next(iter(limits))
    column = _label_column(rows[first], label_column, name) if first not in test_splits else label_column or "label"
    columns = tuple(text_columns) or _text_columns(rows[first], column, name)
    if first not in test_splits:
        labels = class_names(rows[first], column, f"split {first!r} of {name}")
    metrics = ("accuracy",) if labels else ("mse",)
    task = TextTask(name, columns, labels, metrics, splits, test_splits)
    used = {split: _prepared(rows[split], task, column, split, limit) for split, limit in limits.items()}
    return task, DatasetDict(used)


def _read_file(path: str) -> Dataset:
    file = Path(path).expanduser()
    if file.suffix.lower() not in READERS:
        raise UsageError(f"Expected a file {', '.join(READERS)}, but got {path!r}.")
    if not file.is_file():
        raise UsageError(f"Expected a file of rows, but {path!r} is none.")
    kind, options = READERS[file.suffix.lower()]
    return explained(
        f"{path!r}",
        lambda: load_dataset(kind, data_files=str(file), split="train", **options),
        f"Expected a {file.suffix[1:].upper()} file with a column for each text and one for the label.",
    )


def _prepared(dataset: Dataset, task: TextTask, column: str, split: str, limit: int | None) -> Dataset:
    place, test = f"split {split!r} of {task.name}", split in task.test_splits
    dataset = first_rows(dataset, limit)
    if column in dataset.column_names:
        dataset = with_ids(dataset, column, task.labels, place, known=not test)
    if test:
        dataset = without_unknown_labels(dataset, task)
    check_rows(dataset, task, place, labelled=not test)
    return dataset


def _label_column(dataset: Dataset, given: str | None, name: str) -> str:
    wanted = LABEL_COLUMNS if given is None else (given,)
    found = [column for column in wanted if column in dataset.column_names]
    if not found:
        raise UsageError(
            f"Expected a column {' or '.join(map(repr, wanted))} in {name}, but it has "
            f"{', '.join(dataset.column_names)}. Name the column of labels with --label_column_name."
        )
    return found[0]


def _text_columns(dataset: Dataset, label: str, name: str) -> tuple[str, ...]:
    """The columns that hold text: those of a GLUE pair task, else all that are text, if they are one or two."""
    for pair in PAIRS:
        if set(pair) <= set(dataset.column_names):
            return pair
    texts = [
        column
        for column, feature in dataset.features.items()
        # A column such as "label_text" says the label in words: read as text, it would give the answer away.
        if getattr(feature, "dtype", None) in ("string", "large_string") and "label" not in column and column != label
    ]
    if len(texts) not in (1, 2):
        raise UsageError(
            f"Expected one or two text columns in {name}, but it has {', '.join(texts) or 'none'} (all columns: "
            f"{', '.join(dataset.column_names)}). Name them with --text_column_names COLUMN or COLUMN,COLUMN."
        )
    return tuple(texts)


def _no_split(split: str, rows: DatasetDict, name: str, test: bool) -> str:
    flag = "--test_split_name" if test else "--validation_split_name"
    hint = "Choose another dataset" if split == "train" else f"Name one of them with {flag}"
    return f"Expected {name} to have the split {split!r}, but it has only {', '.join(map(str, rows))}. {hint}."
