"""The task of a dataset of your own, inferred from its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Value

from hf_elmix.columns import find_label, is_no_feature
from hf_elmix.errors import UsageError
from hf_elmix.text.labels import NUMBER, class_names, with_ids
from hf_elmix.text.rows import checked_rows, first_rows
from hf_elmix.text.tasks import TextTask

__all__ = ["custom_task", "find_splits"]

PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)


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
    text_delimiter: str | None = None,
    label_column: str | None = None,
    labels: tuple[str, ...] | None = None,
) -> tuple[TextTask, DatasetDict]:
    """Infer a task from the columns of rows; check the rows and replace their labels by class ids.

    Args:
        rows: All splits.
        name: What to call the task.
        splits: The evaluation splits.
        test_splits: The splits to predict.
        limits: The splits to use, and how many of the first rows of each to keep; by default all.
        text_columns: Text columns, with commas between them; more than two are joined. By default they are found.
        text_delimiter: Between joined columns; if it is given, two are joined, too.
        label_column: The column of labels; by default it is found.
        labels: Classes of the rows' model, empty for a regression; by default those of the first split.

    Returns:
        The task, and the splits that are used.

    Raises:
        UsageError: If splits, columns, rows or labels are missing or unclear.
    """
    used = _used_splits(rows, dict.fromkeys(rows) if limits is None else limits, test_splits, name)
    unlabelled, first = set(test_splits) - set(splits), next(iter(used))
    has_labels = first not in unlabelled
    column = find_label(rows[first], label_column, name) if has_labels else label_column or "label"
    columns = _text_columns(rows[first], column, name) if text_columns is None else _given_columns(text_columns)
    if text_delimiter is not None and len(columns) == 1:
        raise UsageError(
            f"--text_column_delimiter is put between columns of text, but there is only {columns[0]!r}. Leave it out, "
            "or name the columns with --text_column_names."
        )
    if column in columns:
        raise UsageError(f"Expected text and labels in different columns, but {column!r} is given for both.")
    named = class_names(rows[first], column, f"split {first!r} of {name}") if labels is None and has_labels else labels
    classes = named or ()
    task = TextTask(name, columns, classes, ("accuracy",) if classes else ("mse",), splits, test_splits)
    for split, part in used.items():
        where, labelled = f"split {split!r} of {name}", split not in unlabelled
        if column in part.column_names:
            part = with_ids(part, column, classes, where, strict=labelled, ids=labels is not None)
        used[split] = checked_rows(_with_text(part, columns), task, where, labelled=labelled)
    if len(columns) > 2 or (text_delimiter is not None and len(columns) > 1):
        return _joined(task, used, " " if text_delimiter is None else text_delimiter)
    return task, used


def _used_splits(
    rows: DatasetDict, limits: Mapping[str, int | None], test_splits: tuple[str, ...], name: str
) -> DatasetDict:
    used = DatasetDict()
    for split, limit in limits.items():
        flag = "--test_split_name" if split in test_splits else "--validation_split_name"
        hint = "Choose another dataset." if split == "train" else f"Name one of them with {flag}."
        used[split] = first_rows(rows, split, limit, name, hint)
    return used


def _given_columns(text: str) -> tuple[str, ...]:
    given = tuple(filter(None, map(str.strip, text.split(","))))
    if not given:
        raise UsageError(f"Expected --text_column_names to name a column, but got {text!r}.")
    if len(set(given)) < len(given):
        raise UsageError(f"Expected each text column once, but got {text!r}.")
    return given


def _with_text(rows: Dataset, columns: tuple[str, ...]) -> Dataset:
    """The rows, with whole numbers in text columns as the words that they are."""
    schema = rows.data.schema
    whole = [name for name in columns if name in schema.names and pa.types.is_integer(schema.field(name).type)]
    return rows.cast(Features({**rows.features, **dict.fromkeys(whole, Value("string"))})) if whole else rows


def _joined(task: TextTask, rows: DatasetDict, delimiter: str) -> tuple[TextTask, DatasetDict]:
    """The task with one text column in place of several, as run_classification joins them."""
    name = " + ".join(task.columns)
    for split, part in rows.items():
        texts = zip(*(part[column][:] for column in task.columns), strict=True)
        rest = part.remove_columns([column for column in (name,) if column in part.column_names])
        rows[split] = rest.add_column(name, [delimiter.join(row) for row in texts])
    return replace(task, columns=(name,)), rows


def _text_columns(dataset: Dataset, label: str, name: str) -> tuple[str, ...]:
    """The columns that hold text: a well-known pair, else all text columns if there are one or two."""
    for pair in PAIRS:
        if set(pair) <= set(dataset.column_names):
            return pair
    texts = [
        column
        for column in dataset.column_names
        if not is_no_feature(dataset, column, label) and _is_text(dataset, column)
    ]
    if len(texts) not in (1, 2):
        raise UsageError(
            f"Expected one or two text columns in {name}, but it has {', '.join(texts) or 'none'} (all columns: "
            f"{', '.join(dataset.column_names)}). Name one, a pair, or three and more to join, with "
            "--text_column_names COLUMN,COLUMN."
        )
    return tuple(texts)


def _is_text(dataset: Dataset, column: str) -> bool:
    """Whether a column holds words, and not only numbers, which in a CSV file are text, too."""
    if getattr(dataset.features[column], "dtype", None) not in ("string", "large_string"):
        return False
    cells = pc.drop_null(dataset.with_format("arrow")[:][column])
    return not len(cells) or not all(NUMBER.fullmatch(cell) for cell in cells.to_pylist())
