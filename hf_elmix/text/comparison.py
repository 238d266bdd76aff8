"""A text task for a comparison: methods are compared on validation rows, and a test set is only scored at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datasets import DatasetDict

from hf_elmix.comparison.split import HELD_OUT, hold_out, resampled
from hf_elmix.errors import UsageError
from hf_elmix.study.spec import Select, Task
from hf_elmix.text.custom import custom_task
from hf_elmix.text.labels import for_model
from hf_elmix.text.models import find_model, load_config
from hf_elmix.text.study import text_task
from hf_elmix.text.tasks import TextTask

__all__ = ["comparison_task"]

VALIDATION, TEST = "validation", "test"


def comparison_task(
    rows: DatasetDict,
    name: str,
    model: str,
    *,
    origin: Mapping[str, Any],
    validation_split: str | None = None,
    test_split: str | None = None,
    max_train_samples: int | None = None,
    text_columns: str | None = None,
    label_column: str | None = None,
    max_length: int = 64,
    epoch: str = "last",
    resample: bool = False,
) -> tuple[Task, str]:
    """Make the task of a comparison from rows, and describe it in one line.

    Args:
        rows: The splits, as they were read.
        name: What to call the task.
        model: Model id or folder.
        origin: See `text_task`.
        validation_split: The split to compare methods on; by default ``validation``. If there is none, a fifth of the
            training rows are held out, the same ones for every seed.
        test_split: The split whose score is shown at the end, if any.
        max_train_samples: Keep the first N training rows.
        text_columns: See `custom_task`.
        label_column: See `custom_task`.
        max_length: Tokens to which a row is truncated.
        epoch: Which evaluation counts, ``last`` or ``best``.
        resample: Divide training and validation rows anew for each seed.

    Raises:
        UsageError: If the rows or the model cannot be used, or the label is a number.
    """
    splits = (validation_split, test_split)
    task, used = _task_and_rows(rows, name, splits, max_train_samples, text_columns, label_column)
    source = find_model(model)
    task, used = for_model(load_config(source), task, used, trains=True)
    if held_out := VALIDATION not in used:
        used["train"], used[VALIDATION] = hold_out(used["train"], HELD_OUT, 0)
    made = text_task(task, used, source, origin=origin, max_length=max_length)
    chosen = VALIDATION if TEST in used else None
    made = replace(made, select=Select(task.metrics[0], epoch, chosen_on=chosen, scored_on=chosen))
    divided = " (held out)" * held_out + "; divided anew for every seed" * resample
    about = f"{_described(task, used, divided)}; model {model}; score: {task.metrics[0]}, {epoch} epoch"
    return resampled(made) if resample else made, about


def _task_and_rows(
    rows: DatasetDict,
    name: str,
    chosen: tuple[str | None, str | None],
    max_train_samples: int | None,
    text_columns: str | None,
    label_column: str | None,
) -> tuple[TextTask, DatasetDict]:
    """The task, and the rows with splits named ``train``, ``validation`` and ``test``, of which two may be missing."""
    validation, test = chosen[0] or (VALIDATION if VALIDATION in rows else None), chosen[1]
    splits = {ours: theirs for ours, theirs in (("train", "train"), (VALIDATION, validation), (TEST, test)) if theirs}
    if absent := [theirs for theirs in splits.values() if theirs not in rows]:
        raise UsageError(f"Expected {name} to have the split {absent[0]!r}, but it has {', '.join(rows)}.")
    if "train" in (validation, test):
        raise UsageError(
            "Expected other rows than those of train, on which methods are trained, to compare them on. Name another "
            "split, or leave it out."
        )
    task, used = custom_task(
        DatasetDict({ours: rows[theirs] for ours, theirs in splits.items()}),
        name,
        splits=(VALIDATION, *((TEST,) if TEST in splits else ())),
        test_splits=(),
        limits={split: max_train_samples if split == "train" else None for split in splits},
        text_columns=text_columns,
        label_column=label_column,
    )
    if task.regression:
        raise UsageError(f"Expected classes as labels of {name}, but got numbers. Write text or whole numbers.")
    return task, used


def _described(task: TextTask, rows: DatasetDict, divided: str) -> str:
    counts = ", ".join(f"{len(part)} {split}" for split, part in rows.items())
    labels = f"{', '.join(task.labels[:10])}{' …' if len(task.labels) > 10 else ''}"
    return f"{task.name}: {counts} rows{divided}; text from {' and '.join(task.columns)}; label: {labels}"
