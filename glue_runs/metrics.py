"""GLUE's metrics as an `evaluate.Metric` that lives in this package: scoring needs no network and no remote code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error
from transformers import EvalPrediction

from glue_runs.tasks import GLUE_TASKS
from hf_elmix.text.tasks import TextTask

__all__ = ["COMBINED", "GlueMetric", "compute_metrics_for", "predicted_classes", "predicted_values"]

CITATION = """\
@inproceedings{wang2018glue,
  title={{GLUE}: A Multi-TextTask Benchmark and Analysis Platform for Natural Language Understanding},
  author={Wang, Alex and Singh, Amanpreet and Michael, Julian and Hill, Felix and Levy, Omer and Bowman, Samuel R.},
  booktitle={Proceedings of the 2018 EMNLP Workshop BlackboxNLP},
  year={2018}
}"""

METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "matthews_correlation": matthews_corrcoef,
    "mse": mean_squared_error,
    "pearson": lambda references, predictions: pearsonr(references, predictions).statistic,
    "spearmanr": lambda references, predictions: spearmanr(references, predictions).statistic,
}

# GLUE ranks these tasks by the mean of two metrics, which run_glue reports beside them.
COMBINED = "combined_score"
PAIRS = (("accuracy", "f1"), ("pearson", "spearmanr"))


class GlueMetric(evaluate.Metric):
    """Metrics of one task.

    ``GlueMetric("mrpc").compute(predictions=[0, 1], references=[0, 1])`` gives ``{"accuracy": 1.0, "f1": 1.0}``.

    Args:
        task: Name of a GLUE task, or any `TextTask`.
        **kwargs: Further arguments of `evaluate.Metric`.

    Raises:
        KeyError: If GLUE has no task of that name.
    """

    def __init__(self, task: str | TextTask, **kwargs: Any) -> None:
        if isinstance(task, str) and task not in GLUE_TASKS:
            raise KeyError(f"Expected one of {', '.join(GLUE_TASKS)}, but got {task!r}.")
        self.task = GLUE_TASKS[task] if isinstance(task, str) else task
        super().__init__(config_name=self.task.name, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float32" if self.task.regression else "int64")
        return evaluate.MetricInfo(
            description="Accuracy, and the metric GLUE ranks the task by where that is another one.",
            citation=CITATION,
            inputs_description="predictions and references: class ids, or numbers for a regression.",
            features=datasets.Features({"predictions": value, "references": value}),
            format="numpy",
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {name: float(METRICS[name](references, predictions)) for name in self.task.metrics}


def predicted_classes(outputs: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """The Trainer's `preprocess_logits_for_metrics`: the class of each row (rows,), all of an output that is kept."""
    return _logits(outputs).argmax(-1)


def predicted_values(outputs: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """As `predicted_classes` for a regression: the number that is predicted for each row (rows,)."""
    return _logits(outputs).squeeze(-1)


def compute_metrics_for(task: TextTask, *, combined: bool = False) -> Callable[[EvalPrediction], dict[str, float]]:
    """The Trainer's `compute_metrics` for a task.

    It takes classes (rows,) or logits (rows, C), or numbers (rows,) for a regression, and labels (rows,).

    Args:
        task: The task.
        combined: Add the mean of two metrics where GLUE ranks a task by it.
    """
    metric = GlueMetric(task, keep_in_memory=True)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        outputs = _logits(prediction.predictions)
        predictions = outputs if np.ndim(outputs) == 1 else np.argmax(outputs, axis=-1)
        # Not by way of `compute`, which writes all rows to a table and reads them again: eight times as slow.
        scores = metric._compute(np.asarray(predictions), np.asarray(prediction.label_ids))
        pair = combined and task.metrics in PAIRS
        return {**scores, COMBINED: float(np.mean(list(scores.values())))} if pair else scores

    return compute_metrics


def _logits(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs
