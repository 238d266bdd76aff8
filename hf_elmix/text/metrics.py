"""Metrics of a text task, as the Trainer asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error
from transformers import EvalPrediction

from hf_elmix.errors import not_one_of
from hf_elmix.predictions.class_counts import class_counts
from hf_elmix.text.tasks import TextTask

__all__ = [
    "LEAST",
    "METRICS",
    "as_rows",
    "check_metric",
    "compute_metrics_for",
    "measure",
    "predicted_classes",
    "predicted_values",
]

METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "matthews_correlation": matthews_corrcoef,
    "mse": mean_squared_error,
    "pearson": lambda references, predictions: pearsonr(references, predictions).statistic,
    "spearmanr": lambda references, predictions: spearmanr(references, predictions).statistic,
}

LEAST = {"pearson": 2, "spearmanr": 2}  # rows that a metric needs, where one is not enough


def measure(task: TextTask, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """The metrics of a task by name, from predicted and true classes or numbers (rows,)."""
    place = task.labels.index(task.positive) if task.positive else 1  # of the class that F1 is of
    pairs = {"f1": (references == place, predictions == place)}
    return {name: float(METRICS[name](*pairs.get(name, (references, predictions)))) for name in task.metrics}


def check_metric(task: TextTask, name: str) -> str:
    """The name of a metric, which a task of this kind must have.

    Raises:
        UsageError: If it does not.
    """
    of_classes = ("accuracy", "matthews_correlation", *(("f1",) if len(task.labels) == 2 else ()))
    known = ("mse", "pearson", "spearmanr") if task.regression else of_classes
    if name not in known:
        raise not_one_of(f"the metric of {task.name}", known, name)
    return name


def predicted_classes(outputs: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Reduce logits to the predicted class of each row (rows,), as `preprocess_logits_for_metrics` of the Trainer."""
    return _logits(outputs).argmax(-1)


def predicted_values(outputs: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Reduce the outputs of a regression to the predicted number of each row (rows,); see `predicted_classes`."""
    return _logits(outputs).squeeze(-1)


def compute_metrics_for(
    task: TextTask, *, count_classes: bool = False
) -> Callable[[EvalPrediction], dict[str, float]]:
    """The Trainer's `compute_metrics` for a task, which names its metrics (see `METRICS`).

    It takes classes (rows,) or logits (rows, C), or numbers (rows,) for a regression, and labels (rows,).

    Args:
        task: The task.
        count_classes: Add what `class_counts` gives.
    """

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        outputs = as_rows(prediction.predictions)
        predictions = outputs if outputs.ndim == 1 else outputs.argmax(-1)
        metrics = measure(task, predictions, labels := as_rows(prediction.label_ids))
        return {**metrics, **class_counts(predictions, labels)} if count_classes else metrics

    return compute_metrics


def as_rows(outputs: Any) -> np.ndarray:
    """Outputs or labels of an evaluation as one array, whose first axis are the rows.

    With ``eval_do_concat_batches=False`` the Trainer gives a list of batches.
    """
    if isinstance(outputs, list):
        return np.concatenate([as_rows(batch) for batch in outputs])
    return np.asarray(_logits(outputs))


def _logits(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs
