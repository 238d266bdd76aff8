"""Run a classifier over the labelled batches of a data loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_elmix.errors import UsageError
from hf_elmix.predictions.records import Predictions, check_class_labels
from hf_elmix.training.model_support import base_model, check_class_logits, logits_of, requires_labels

__all__ = ["evaluation_mode", "predict", "split_labels"]


def predict(model: nn.Module, loader: Iterable[Mapping[str, Any]], *, progress: bool = True) -> Predictions:
    """Run a classifier over the rows of a loader: texts, images or anything else with one class per row.

    Args:
        model: Returns logits (N, C); on the device to use. It is left unchanged.
        loader: Batches of model inputs with ``labels`` (N,), class ids.
        progress: Show a progress bar if standard error is a terminal.

    Returns:
        Predictions at one point, step 0.

    Raises:
        UsageError: If there are no rows, or not one class for each.
    """
    check_class_logits(base_model(model))
    device = next(model.parameters()).device
    logits, labels = [], []
    with evaluation_mode(model), torch.no_grad():
        for batch in tqdm(loader, desc="rows", unit="batch", disable=None if progress else True):
            inputs, ids = split_labels(batch, model, device)
            labels.append(ids.cpu().numpy())
            logits.append(logits_of(model(**inputs)).float().cpu().numpy())
            check_class_labels(labels[-1], logits[-1].shape)
    if not logits:
        raise UsageError("Expected a loader with rows, but it is empty.")
    return Predictions.from_logits(np.concatenate(logits), np.concatenate(labels))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode; afterwards restore the mode of each module."""
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def split_labels(batch: Mapping[str, Any], model: nn.Module, device: torch.device) -> tuple[dict[str, Any], Tensor]:
    """Split a batch into model inputs and labels. The inputs keep the labels if the model requires them.

    Args:
        batch: Model inputs with ``labels``.
        model: The model, possibly wrapped.
        device: Where to move tensors.

    Raises:
        UsageError: If there are no labels.
    """
    if "labels" not in batch:
        raise UsageError(f"Expected batches with 'labels', but got one with {', '.join(batch) or 'nothing'}.")
    inputs = {name: part.to(device) if isinstance(part, Tensor) else part for name, part in batch.items()}
    labels = inputs["labels"] if requires_labels(base_model(model)) else inputs.pop("labels")
    return inputs, labels
