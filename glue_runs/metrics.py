"""GLUE's metrics as an `evaluate.Metric` that lives in this package: scoring needs no network and no remote code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import EvalPrediction

from glue_runs.tasks import TASKS, Task

__all__ = ["GlueMetric", "compute_metrics_for", "predicted_classes"]

CITATION = """\
@inproceedings{wang2018glue,
  title={{GLUE}: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding},
  author={Wang, Alex and Singh, Amanpreet and Michael, Julian and Hill, Felix and Levy, Omer and Bowman, Samuel R.},
  booktitle={Proceedings of the 2018 EMNLP Workshop BlackboxNLP},
  year={2018}
}"""

METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "matthews_correlation": matthews_corrcoef,
}


class GlueMetric(evaluate.Metric):
    """Metrics of one GLUE task; the configuration name is the task's.

    ``GlueMetric("mrpc").compute(predictions=[0, 1], references=[0, 1])`` gives ``{"accuracy": 1.0, "f1": 1.0}``.
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in TASKS:
            raise KeyError(f"Expected one of {', '.join(TASKS)}, but got {self.config_name!r}.")
        return evaluate.MetricInfo(
            description="Accuracy, and the metric GLUE ranks the task by where that is another one.",
            citation=CITATION,
            inputs_description="predictions and references: class ids.",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
            format="numpy",
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        names = TASKS[self.config_name].metrics
        return {name: float(METRICS[name](references, predictions)) for name in names}


def predicted_classes(outputs: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """The Trainer's `preprocess_logits_for_metrics`: the class of each row (rows,), all of an output that is kept."""
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    return logits.argmax(-1)


def compute_metrics_for(task: Task) -> Callable[[EvalPrediction], dict[str, float]]:
    """The Trainer's `compute_metrics` for a task: classes (rows,) or logits (rows, C), and labels (rows,)."""
    metric = GlueMetric(task.name, keep_in_memory=True)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        outputs = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        classes = outputs if np.ndim(outputs) == 1 else np.argmax(outputs, axis=-1)
        return metric.compute(predictions=classes, references=prediction.label_ids)

    return compute_metrics
