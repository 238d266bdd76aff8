"""What a trained classifier says of some rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from hf_elmix.diagnostics.predictions import Predictions, at_one_point
from hf_elmix.errors import UsageError
from hf_elmix.heads import logits_of

__all__ = ["predict"]


def predict(model: nn.Module, loader: Iterable[Mapping[str, Any]], *, progress: bool | None = None) -> Predictions:
    """What a classifier says of the rows of a loader: of text, images or anything else with one class each.

    Args:
        model: Any that returns logits (N, C), on the device it is to run on. It is left as it was.
        loader: Batches of its inputs with ``labels`` (N,), class ids.
        progress: Show a bar; left out, where standard error is a terminal.

    Returns:
        One point, at step 0.

    Raises:
        UsageError: (a ValueError) If there is no batch, one has no labels, or the logits are not of this shape.
    """
    device, training = next(model.parameters()).device, model.training
    logits, labels = [], []
    try:
        model.eval()
        for batch in tqdm(loader, desc="rows", unit="batch", disable=None if progress is None else not progress):
            inputs = {name: value.to(device) for name, value in batch.items()}
            labels.append(_labels_of(inputs))
            with torch.no_grad():
                logits.append(logits_of(model(**inputs)).float().cpu())
            _check_shapes(logits[-1], labels[-1])
    finally:
        model.train(training)
    if not logits:
        raise UsageError("Expected rows to look at, but the loader has none.")
    return at_one_point(torch.cat(logits).numpy(), torch.cat(labels).numpy())


def _labels_of(inputs: dict[str, Any]) -> torch.Tensor:
    if "labels" not in inputs:
        raise UsageError(f"Expected each batch to have 'labels', but this one has {', '.join(inputs)}.")
    return inputs.pop("labels").cpu()


def _check_shapes(logits: torch.Tensor, labels: torch.Tensor) -> None:
    whole = not labels.is_floating_point()
    if logits.dim() != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1] or not whole:
        raise UsageError(
            "Expected a class for each row, that is, logits (N, C) of two classes or more and whole labels (N,), but "
            f"got logits {tuple(logits.shape)} and labels {tuple(labels.shape)} of {labels.dtype}."
        )
    outside = (labels < 0) | (labels >= logits.shape[1])
    if outside.any():
        raise UsageError(f"Expected labels from 0 to {logits.shape[1] - 1}, but got {labels[outside][0]}.")
