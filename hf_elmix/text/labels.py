"""Class ids for the labels of custom rows, and for those of a model that has the same classes in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import PreTrainedConfig

from hf_elmix.errors import UsageError
from hf_elmix.text.tasks import TextTask

__all__ = ["class_names", "in_order_of", "named_labels", "with_ids", "within"]

CLASSES = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
UNKNOWN = -1  # as datasets mark the labels of test rows
SHOWN = 10  # labels in an error


def class_names(dataset: Dataset, column: str, place: str) -> tuple[str, ...]:
    """Names of the classes in a column of labels in the order of their ids: declared, else sorted; empty for floats.

    Args:
        dataset: The rows.
        column: The column.
        place: What to call the rows in an error.

    Raises:
        UsageError: If a row has no label or several, or there are fewer than two classes.
    """
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    values = dataset.with_format("arrow")[:][column]
    if values.null_count:
        row = next(index for index, value in enumerate(values) if not value.is_valid)
        raise UsageError(
            f"Expected a label in each row of {place}, but row {row} has none ({values.null_count} rows)."
        )
    if pa.types.is_floating(values.type):
        return ()
    if not any(is_kind(values.type) for is_kind in CLASSES):
        raise UsageError(
            f"Expected one class or number in the column {column!r} of {place}, but it holds {values.type}. Several "
            "labels at once (multi-label) have no single true class."
        )
    names = tuple(map(str, sorted(values.unique().to_pylist())))
    if len(names) < 2:
        raise UsageError(f"Expected two classes or more in the column {column!r} of {place}, but it has only {names}.")
    return names


def with_ids(dataset: Dataset, column: str, labels: Sequence[str], place: str, *, known: bool = True) -> Dataset:
    """Replace a column of labels by the column ``label`` with class ids; the numbers of a regression are kept.

    Args:
        dataset: The rows.
        column: Their column of labels.
        labels: Names of the classes; empty for a regression.
        place: What to call the rows in an error.
        known: Refuse a label that is not among the classes, rather than replace it by -1.

    Raises:
        UsageError: If a label is not among the classes.
    """
    feature = dataset.features[column]
    values = dataset.with_format("arrow")[:][column].to_pylist()
    if labels:
        decoded = map(dict(enumerate(feature.names)).get, values) if isinstance(feature, ClassLabel) else values
        names: list[Any] = [None if name is None else str(name) for name in decoded]
        ids = {name: index for index, name in enumerate(labels)}
        values = [ids.get(name, UNKNOWN) for name in names]
        if known and UNKNOWN in values:
            row = values.index(UNKNOWN)
            raise UsageError(
                f"Expected the labels of {place} to be among {_listed(labels)}, but row {row} has {names[row]!r} "
                f"({values.count(UNKNOWN)} such rows)."
            )
    rest = dataset.remove_columns(list({column, "label"} & set(dataset.column_names)))
    return rest.add_column("label", values)


def named_labels(config: PreTrainedConfig) -> tuple[str, ...]:
    """Names of the classes of a model in the order of its logits; empty if it was given no names."""
    names = tuple(str(name) for _, name in sorted((config.id2label or {}).items()))
    return () if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else names


def in_order_of(config: PreTrainedConfig, task: TextTask, rows: DatasetDict) -> tuple[TextTask, DatasetDict]:
    """The task and its rows with the class ids of a model that has the same classes; case does not matter.

    A model that was fine-tuned on MNLI elsewhere may have its three classes in another order than the dataset. If the
    model has other classes, the task and its rows are returned as they are.
    """
    theirs, ours = ([name.lower() for name in names] for names in (named_labels(config), task.labels))
    if theirs == ours or sorted(theirs) != sorted(ours):
        return task, rows
    labels = tuple(task.labels[ours.index(name)] for name in theirs)
    return replace(task, labels=labels), _aligned(rows, task, labels)


def within(config: PreTrainedConfig, task: TextTask, rows: DatasetDict) -> tuple[TextTask, DatasetDict]:
    """The task and its rows with the class ids of a trained model, which may have classes that the rows lack.

    Labels must be names of the model's classes, in any case, or its class ids. If the model has no names, labels are
    used in their order, provided that there are as many of them as classes.

    Raises:
        UsageError: If the rows have a class that the model lacks.
    """
    names, numbers = named_labels(config), tuple(map(str, range(config.num_labels or 0)))
    for theirs in (names, numbers):
        if task.labels and {name.lower() for name in task.labels} <= {name.lower() for name in theirs}:
            return replace(task, labels=names or numbers), _aligned(rows, task, theirs)
    if not names and len(task.labels) == config.num_labels:
        return task, rows
    # Assigning the classes in alphabetical order would be a guess.
    known = _listed(names) if names else f"{config.num_labels} without names"
    raise UsageError(
        f"Expected rows of the model's classes ({known}), but got {_listed(task.labels) or 'numbers'}. Write the "
        "labels as the model does, or as its class ids, from 0."
    )


def _aligned(rows: DatasetDict, task: TextTask, labels: Sequence[str]) -> DatasetDict:
    """The rows with class ids that are indices into other labels, which contain those of the task in any order."""
    feature, ids = ClassLabel(names=list(task.labels)), {name: index for index, name in enumerate(labels)}
    labelled = {split: part.cast_column("label", feature) for split, part in rows.items() if "label" in part.features}
    aligned = {split: part.align_labels_with_mapping(ids, "label") for split, part in labelled.items()}
    return DatasetDict({**rows, **aligned})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
