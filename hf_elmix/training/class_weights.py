"""Class weights: a factor for the loss of every sample of a class."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

import torch
from torch import Tensor

from hf_elmix.errors import UsageError

__all__ = ["BALANCED", "ClassWeights", "parse_class_weights"]

BALANCED = "balanced"
ClassWeights = str | Iterable[float | str] | Tensor


def parse_class_weights(given: ClassWeights | None, rows: Any, label: str, classes: int | None) -> Tensor | None:
    """Read class weights.

    Args:
        given: A number for each class, or ``"balanced"``: n / (C · n_c) for a class with n_c of n labels, as in
            scikit-learn. A class without labels gets 1. None is returned unchanged.
        rows: The training rows, whose labels are counted for ``"balanced"``.
        label: Name of the label column; ``label`` is tried, too.
        classes: C, if the model says so.

    Returns:
        Shape (C,), in float32.

    Raises:
        UsageError: If they are not numbers of 0 or more, one for each class, or there are no rows to count.
    """
    if given is None:
        return None
    values = [given] if isinstance(given, str) else list(given)
    if values == [BALANCED]:
        return _balanced(rows, label, classes)
    try:
        weights = torch.tensor([float(value) for value in values])
    except (TypeError, ValueError):
        weights = torch.empty(0)
    if not (weights.isfinite().all() and (weights >= 0).all() and weights.sum() > 0):
        raise UsageError(
            f"Expected class_weights to be {BALANCED!r} or a number for each class, 0 or more and one above, but "
            f"got {given}."
        )
    if classes is not None and len(weights) != classes:
        raise UsageError(f"Expected {classes} class_weights, one for each class, but got {len(weights)}.")
    return weights


def _balanced(rows: Any, label: str, classes: int | None) -> Tensor:
    if not isinstance(rows, Sized) or not len(rows):
        raise UsageError(
            f"Expected a train_dataset with a length, whose labels {BALANCED!r} class_weights can count. Give a "
            "number for each class instead."
        )
    counts = torch.bincount(_labels(rows, label), minlength=classes or 0)
    weights = counts.sum() / (len(counts) * counts)
    return torch.where(counts > 0, weights, 1.0).float()


def _labels(rows: Any, label: str) -> Tensor:
    """All class ids of the rows, shape (N,), without ignored ones."""
    columns = getattr(rows, "column_names", None)
    if columns is None:
        columns = list(rows[0])
    name = next((name for name in (label, "label", "label_ids") if name in columns), None)
    if name is None:
        raise UsageError(f"Expected the training rows to have {label!r}, but they have {', '.join(columns)}.")
    if hasattr(rows, "select_columns"):  # a Dataset: without its transform, which could draw random numbers
        column = rows.with_format("numpy", columns=[name])[:][name]
    else:
        column = [row[name] for row in rows]
    labels = torch.cat([torch.as_tensor(part).reshape(-1) for part in column])
    if labels.is_floating_point():
        raise UsageError(f"Expected the column {name!r} to hold class ids to count, but it holds floats.")
    labels = labels[labels != -100].long()
    if len(labels) and labels.min() < 0:
        raise UsageError(f"Expected class ids from 0 in the column {name!r}, but got {labels.min()}.")
    return labels
