"""Labelled rows of a data loader through a classifier, as instruments want them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_elmix.errors import UsageError
from hf_elmix.training.model_support import base_model, requires_labels

__all__ = ["check_rows", "evaluating", "labelled"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards each module is in the mode it was in.

    Args:
        model: The model.
    """
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def labelled(batch: Mapping[str, Any], model: nn.Module, device: torch.device) -> tuple[dict[str, Any], Tensor]:
    """What a model takes of a batch, and the labels; it gets them too if it cannot be called without.

    Args:
        batch: Its inputs with ``labels``.
        model: Under any wrapper.
        device: Where tensors are to be.

    Raises:
        UsageError: If there are no labels.
    """
    if "labels" not in batch:
        raise UsageError(f"Expected batches with 'labels', but got one with {', '.join(batch) or 'nothing'}.")
    inputs = {name: part.to(device) if isinstance(part, Tensor) else part for name, part in batch.items()}
    labels = inputs["labels"] if requires_labels(base_model(model)) else inputs.pop("labels")
    return inputs, labels


def check_rows(logits: Tensor, labels: Tensor) -> None:
    """Refuse what is not a class for each row.

    Args:
        logits: To be of shape (N, C) with two classes or more.
        labels: To be of shape (N,), class ids.

    Raises:
        UsageError: If they are not.
    """
    whole = not labels.is_floating_point()
    if logits.dim() != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1] or not whole:
        raise UsageError(
            "Expected logits of shape (N, C), two classes or more, and a class id for each row, but got logits "
            f"{tuple(logits.shape)} and labels {tuple(labels.shape)} of {labels.dtype}."
        )
    outside = labels[(labels < 0) | (labels >= logits.shape[-1])]
    if len(outside):
        raise UsageError(
            f"Expected labels from 0 to {logits.shape[-1] - 1}, but got {int(outside[0])}: leave out rows without a "
            "class (-100)."
        )
