"""Read a dataset from local files, and infer its task from its columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset

from hf_elmix.errors import UsageError
from hf_elmix.text.labels import class_names, with_ids
from hf_elmix.text.loading import loading
from hf_elmix.text.rows import check_json, checked_rows, first_rows
from hf_elmix.text.tasks import TextTask

__all__ = ["custom_task", "find_splits", "read_files"]

# How `datasets` reads a file. Only an empty cell is a missing value: "None" and "NA" are words.
CELLS = {"keep_default_na": False, "na_values": [""]}
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", CELLS),
    ".tsv": ("csv", {**CELLS, "sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}

LABEL_COLUMNS = ("label", "labels")
PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)


def read_files(files: Mapping[str, str]) -> DatasetDict:
    """Read rows from local files.

    Args:
        files: Path by split; CSV, TSV, JSON (an object in each line, or a list of objects) or Parquet.

    Raises:
        UsageError: If a file does not exist or cannot be read.
    """
    rows = DatasetDict()
    for split, path in files.items():
        file = Path(path).expanduser()
        suffix = file.suffix.lower()
        if suffix not in READERS:
            raise UsageError(f"Expected a file {', '.join(READERS)}, but got {path!r}.")
        if not file.is_file():
            raise UsageError(f"Expected a file of rows, but {path!r} does not exist.")
        kind, options = READERS[suffix]
        expected = f"Expected a {suffix[1:].upper()} file with a column for each text and one for the label."
        with loading(f"{path!r}", expected):
            if kind == "json":
                check_json(file)
            rows[split] = load_dataset(kind, data_files=str(file), split="train", **options)
    return rows


def find_splits(rows: DatasetDict, given: str | None, *, test: bool = False) -> tuple[str, ...]:
    """The splits to evaluate or, with `test`, to predict: the given one, otherwise the conventional ones."""
    if given is not None:
        return (given,)
    split = "test" if test else "validation"
    pair = (f"{split}_matched", f"{split}_mismatched")  # as in MNLI
    return pair if split not in rows and set(pair) <= set(rows) else (split,)


def custom_task(
    rows: DatasetDict,
    name: str,
    *,
    splits: tuple[str, ...] = TextTask.splits,
    test_splits: tuple[str, ...] = TextTask.test_splits,
    limits: Mapping[str, int | None] | None = None,
    text_columns: str | None = None,
    label_column: str | None = None,
    labels: tuple[str, ...] = (),
) -> tuple[TextTask, DatasetDict]:
    """Infer a task from the columns of rows; check the rows and replace their labels by class ids.

    Args:
        rows: All splits.
        name: What to call the task.
        splits: The evaluation splits.
        test_splits: The splits to predict.
        limits: The splits to use, and how many of the first rows of each to keep (None: all); by default all rows.
        text_columns: The text column, or the two of a pair with a comma between them; by default they are found.
        label_column: The column of labels; by default it is found.
        labels: Names of the classes if only splits to predict are used.

    Returns:
        The task, and the splits that are used.

    Raises:
        UsageError: If a split or column is missing, it is not clear which columns hold the text, or rows or labels
            cannot be used.
    """
    used, limits = DatasetDict(), dict.fromkeys(rows) if limits is None else limits
    for split, limit in limits.items():
        flag = "--test_split_name" if split in test_splits else "--validation_split_name"
        hint = "Choose another dataset." if split == "train" else f"Name one of them with {flag}."
        used[split] = first_rows(rows, split, limit, name, hint)
    first, unlabelled = next(iter(limits)), set(test_splits) - set(splits)
    has_labels = first not in unlabelled
    column = _label_column(rows[first], label_column, name) if has_labels else label_column or "label"
    columns = tuple(filter(None, (text_columns or "").split(","))) or _text_columns(rows[first], column, name)
    if has_labels:
        labels = class_names(rows[first], column, f"split {first!r} of {name}")
    task = TextTask(name, columns, labels, ("accuracy",) if labels else ("mse",), splits, test_splits)
    for split, part in used.items():
        where, labelled = f"split {split!r} of {name}", split not in unlabelled
        if column in part.column_names:
            part = with_ids(part, column, labels, where, strict=labelled)
        used[split] = checked_rows(part, task, where, labelled=labelled)
    return task, used


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
    """The columns that hold text: a well-known pair, else all text columns if there are one or two."""
    for pair in PAIRS:
        if set(pair) <= set(dataset.column_names):
            return pair
    texts = [
        column
        for column, feature in dataset.features.items()
        # A column such as "label_text" is the label in words: as an input it would give the answer away.
        if getattr(feature, "dtype", None) in ("string", "large_string") and "label" not in column and column != label
    ]
    if len(texts) not in (1, 2):
        raise UsageError(
            f"Expected one or two text columns in {name}, but it has {', '.join(texts) or 'none'} (all columns: "
            f"{', '.join(dataset.column_names)}). Name them with --text_column_names COLUMN or COLUMN,COLUMN."
        )
    return tuple(texts)
