"""From the labels in a user's rows to class ids, and the order a model has them in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import PreTrainedConfig

from hf_elmix.errors import UsageError
from hf_elmix.text.tasks import TextTask

__all__ = ["class_names", "in_order_of", "named_labels", "with_ids", "within"]

CLASSES = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
UNKNOWN = -1  # as GLUE marks the labels of its test rows
SHOWN = 10  # labels in an error


def class_names(dataset: Dataset, column: str, place: str) -> tuple[str, ...]:
    """Names of the classes in a column of labels, in the order of their ids: declared, or sorted; none for floats.

    Args:
        dataset: The rows.
        column: The column.
        place: What to call the rows.

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
    """The rows with the ids of their classes as the column ``label``; numbers stay as they are where there are none.

    Args:
        dataset: The rows.
        column: Their column of labels.
        labels: Names of the classes.
        place: What to call the rows.
        known: Refuse a label that is none of these; else it becomes -1.

    Raises:
        UsageError: If a label is none of these.
    """
    feature = dataset.features[column]
    values = _values(dataset, column)
    if labels:
        own = feature.names if isinstance(feature, ClassLabel) else None
        ids = {name: index for index, name in enumerate(labels)}
        names = [_name(value, own) for value in values]
        values = [UNKNOWN if name is None else ids.get(name, UNKNOWN) for name in names]
        if known and UNKNOWN in values:
            row = values.index(UNKNOWN)
            raise UsageError(
                f"Expected the labels of {place} to be among {_some(labels)}, but row {row} has {names[row]!r} "
                f"({values.count(UNKNOWN)} such rows)."
            )
    rest = dataset.remove_columns(list({column, "label"} & set(dataset.column_names)))
    return rest.add_column("label", values)


def named_labels(config: PreTrainedConfig) -> tuple[str, ...]:
    """Names of a model's classes, in the order of its logits; none if it was given no names."""
    given: dict[Any, Any] = config.id2label or {}
    names = tuple(str(given[index]) for index in sorted(given))
    return () if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else names


def in_order_of(config: PreTrainedConfig, task: TextTask, rows: DatasetDict) -> tuple[TextTask, DatasetDict]:
    """TextTask and rows with the class ids that a model has given to the same classes, whatever their case.

    A model that was fine-tuned on MNLI elsewhere may have another order of its three classes than GLUE's.
    """
    theirs, ours = ([name.lower() for name in names] for names in (named_labels(config), task.labels))
    if theirs == ours or sorted(theirs) != sorted(ours):
        return task, rows
    ids = [theirs.index(name) for name in ours]
    ordered = replace(task, labels=tuple(task.labels[ours.index(name)] for name in theirs))
    return ordered, DatasetDict({split: _renumbered(part, ids) for split, part in rows.items()})


def within(config: PreTrainedConfig, task: TextTask, rows: DatasetDict) -> tuple[TextTask, DatasetDict]:
    """TextTask and rows with the class ids of a trained model, which may know more classes than the rows have.

    Labels are the names of its classes, whatever their case, or its class ids. Where it has no names, as many names as
    it has classes will do, in their order.

    Args:
        config: Of the model.
        task: The task.
        rows: Its rows.

    Raises:
        UsageError: If the rows have a class that the model does not.
    """
    names = named_labels(config)
    theirs, ours = ([name.lower() for name in some] for some in (names, task.labels))
    numbers = [str(index) for index in range(config.num_labels or 0)]
    if ours and set(ours) <= set(theirs):
        ids = [theirs.index(name) for name in ours]
    elif ours and set(ours) <= set(numbers):
        ids = [numbers.index(name) for name in ours]
    elif not names and len(ours) == config.num_labels:
        return task, rows
    else:  # to take them in the order of the alphabet would be wrong as often as right
        known = _some(names) if names else f"{config.num_labels} without names"
        hint = "Write the labels as the model does, or as its class ids, from 0."
        raise UsageError(
            f"Expected rows of the model's classes ({known}), but got {_some(task.labels) or 'numbers'}. {hint}"
        )
    rows = DatasetDict({split: _renumbered(part, ids) for split, part in rows.items()})
    return replace(task, labels=names or tuple(numbers)), rows


def _renumbered(dataset: Dataset, ids: Sequence[int]) -> Dataset:
    if "label" not in dataset.column_names:
        return dataset
    labels = [ids[label] for label in _values(dataset, "label")]
    return dataset.remove_columns("label").add_column("label", labels)


def _values(dataset: Dataset, column: str) -> list[Any]:
    return dataset.with_format("arrow")[:][column].to_pylist()


def _name(value: Any, names: Sequence[str] | None) -> str | None:
    if value is None or names is None:
        return None if value is None else str(value)
    return names[value] if 0 <= value < len(names) else None


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
