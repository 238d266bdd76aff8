"""Hold out rows for validation: once, or anew for every seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from datasets import Dataset, concatenate_datasets
from sklearn.model_selection import train_test_split

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.study.spec import Task, TrainerInputs

__all__ = ["HELD_OUT", "hold_out", "resampled"]

HELD_OUT = 0.2  # share of the training rows that are held out where there are no validation rows


def hold_out(rows: Dataset, size: float | int, seed: int, label: str = "label") -> tuple[Dataset, Dataset]:
    """Divide rows in two, with the same share of each class in both.

    Args:
        rows: The rows.
        size: How many rows to hold out, or which share of them.
        seed: Seed of the division.
        label: The column of classes.

    Returns:
        The rows to train on and those that are held out, each in their former order.

    Raises:
        UsageError: If a class has too few rows to be in both.
    """
    labels = np.asarray(rows.with_format("arrow")[:][label])
    try:
        kept, held = train_test_split(np.arange(len(rows)), test_size=size, random_state=seed, stratify=labels)
    except ValueError as error:
        raise UsageError(
            f"Cannot hold out rows for validation: {in_one_line(error)} Give validation rows, or more rows."
        ) from error
    return rows.select(sorted(kept)), rows.select(sorted(held))


def resampled(task: Task) -> Task:
    """The task with its training and validation rows divided anew for each seed, in the same way for all methods.

    Args:
        task: A task whose Trainer is given tokenised training rows, and validation rows as its evaluation set or, if
            it has several, under the name of the set that is scored. Other evaluation sets stay as they are.
    """
    return replace(
        task,
        inputs=partial(_divided_anew, task.inputs, task.select.scored_on),
        settings={**task.settings, "resample": True},
    )


def _divided_anew(inputs: Callable[[int], TrainerInputs], scored_on: str | None, seed: int) -> TrainerInputs:
    made = inputs(seed)
    train, sets = made.trainer["train_dataset"], made.trainer["eval_dataset"]
    validation = sets if scored_on is None else sets[scored_on]
    label = next(name for name in ("label", "labels", "label_ids") if name in train.column_names)
    train, validation = hold_out(concatenate_datasets([train, validation]), len(validation), seed, label)
    evaluated = validation if scored_on is None else {**sets, scored_on: validation}
    return replace(made, trainer={**made.trainer, "train_dataset": train, "eval_dataset": evaluated})
