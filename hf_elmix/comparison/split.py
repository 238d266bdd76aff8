"""The splits of a comparison, and held-out rows for validation: once, or anew for every seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from sklearn.model_selection import train_test_split

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.study.spec import Select, Task, TrainerInputs

__all__ = [
    "TEST",
    "TRAIN",
    "VALIDATION",
    "counted_rows",
    "hold_out",
    "named_splits",
    "on_validation",
    "resampled",
    "with_validation",
]

TRAIN, VALIDATION, TEST = "train", "validation", "test"

HELD_OUT = 0.2  # share of the training rows that are held out where there are no validation rows


def named_splits(
    rows: DatasetDict, name: str, validation: str | None, test: str | None, max_train_samples: int | None
) -> DatasetDict:
    """The splits of a comparison under the names ``train``, ``validation`` and ``test``, of which two may be missing.

    Args:
        rows: The splits, as they were read.
        name: What to call them in an error.
        validation: The split to compare methods on; by default ``validation``, if there is one.
        test: The split whose score is shown at the end, if any.
        max_train_samples: Keep the first N training rows.

    Raises:
        UsageError: If a split is missing, or is named for two purposes.
    """
    validation = validation or (VALIDATION if VALIDATION in rows else None)
    splits = {ours: theirs for ours, theirs in ((TRAIN, TRAIN), (VALIDATION, validation), (TEST, test)) if theirs}
    if absent := [theirs for theirs in splits.values() if theirs not in rows]:
        raise UsageError(f"Expected {name} to have the split {absent[0]!r}, but it has {', '.join(rows)}.")
    if TRAIN in (validation, test):
        raise UsageError(
            "Expected other rows than those of train, on which methods are trained, to compare them on. Name another "
            "split, or leave it out."
        )
    if validation is not None and validation == test:
        raise UsageError(
            f"Expected other rows to test on than those to compare methods on, but both are the split {test!r}. Name "
            "another, or leave one out."
        )
    named = DatasetDict({ours: rows[theirs] for ours, theirs in splits.items()})
    if max_train_samples is not None:
        named[TRAIN] = named[TRAIN].select(range(min(max_train_samples, len(named[TRAIN]))))
    return named


def with_validation(rows: DatasetDict) -> DatasetDict:
    """The splits with a fifth of the training rows held out, the same ones for every seed, if none are for validation.

    Args:
        rows: The splits, with class ids in ``label``.

    Raises:
        UsageError: If a class has too few rows to be in both parts.
    """
    if VALIDATION in rows:
        return rows
    train, held_out = hold_out(rows[TRAIN], HELD_OUT, 0)
    return DatasetDict({TRAIN: train, VALIDATION: held_out, **{k: v for k, v in rows.items() if k != TRAIN}})


def on_validation(metric: str, epoch: str, rows: DatasetDict) -> Select:
    """What counts in a comparison: a metric on the validation rows, which are named where there are test rows, too."""
    split = VALIDATION if TEST in rows else None
    return Select(metric, epoch, chosen_on=split, scored_on=split)


def counted_rows(rows: DatasetDict, held_out: bool, resample: bool) -> str:
    """How many rows the splits have: ``80 train, 20 validation (held out), 30 test rows``."""
    how = [*["held out"] * held_out, *["divided anew for every seed"] * resample]
    note = f" ({', '.join(how)})" if how else ""
    return ", ".join(f"{len(part)} {split}{note * (split == VALIDATION)}" for split, part in rows.items()) + " rows"


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
