"""Metrics that say whether a classifier has learned anything, whatever its score."""

from __future__ import annotations

import numpy as np

__all__ = ["CONSTANT_ACCURACY", "PREDICTED_CLASSES", "class_counts", "constant_accuracy_of"]

PREDICTED_CLASSES = "predicted_classes"  # how many classes a model predicts for some row
CONSTANT_ACCURACY = "constant_accuracy"  # what always predicting the most frequent class would give


def class_counts(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The number of classes that are predicted, and the share of the most frequent class, by name of the metric.

    Args:
        predictions: Predicted class ids, shape (rows,).
        labels: Class ids, shape (rows,).
    """
    return {
        PREDICTED_CLASSES: float(np.count_nonzero(np.bincount(predictions))),
        CONSTANT_ACCURACY: float(np.bincount(labels).max() / len(labels)),
    }


def constant_accuracy_of(metric: str) -> str:
    """The name of `CONSTANT_ACCURACY` beside an accuracy on the same rows; that of no metric if it is another one."""
    return metric.removesuffix("accuracy") + CONSTANT_ACCURACY if metric.endswith("accuracy") else ""
