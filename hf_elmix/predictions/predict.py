"""What a trained classifier says of some rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from hf_elmix.errors import UsageError
from hf_elmix.predictions.records import Predictions, at_one_point
from hf_elmix.predictions.rows import check_rows, evaluating, labelled
from hf_elmix.training.model_support import base_model, check_class_logits, logits_of

__all__ = ["predict"]


def predict(model: nn.Module, loader: Iterable[Mapping[str, Any]], *, progress: bool = True) -> Predictions:
    """What a classifier says of the rows of a loader: of text, images or anything else with one class each.

    Args:
        model: Any that returns logits (N, C), on the device it is to run on. It is left as it was.
        loader: Batches of its inputs with ``labels`` (N,), class ids.
        progress: Show a bar, if standard error is a terminal.

    Returns:
        One point, at step 0.

    Raises:
        UsageError: If there is no batch, one has no labels, or there is not one class for each row.
    """
    check_class_logits(base_model(model), [])
    device = next(model.parameters()).device
    logits, labels = [], []
    with evaluating(model), torch.no_grad():
        for batch in tqdm(loader, desc="rows", unit="batch", disable=None if progress else True):
            inputs, ids = labelled(batch, model, device)
            labels.append(ids.cpu())
            logits.append(logits_of(model(**inputs), "labels" in inputs).float().cpu())
            check_rows(logits[-1], labels[-1])
    if not logits:
        raise UsageError("Expected rows to look at, but the loader has none.")
    return at_one_point(torch.cat(logits).numpy(), torch.cat(labels).numpy())
