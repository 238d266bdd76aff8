"""GLUE's metrics as an `evaluate.Metric` inside this package: scoring needs neither a network nor remote code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from transformers import EvalPrediction

from glue_runs.tasks import GLUE_TASKS, find_task
from hf_elmix.text.metrics import compute_metrics_for, measure
from hf_elmix.text.tasks import TextTask

__all__ = ["COMBINED", "PAIRS", "GlueMetric", "with_combined_score"]

CITATION = """\
@inproceedings{wang2018glue,
  title={{GLUE}: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding},
  author={Wang, Alex and Singh, Amanpreet and Michael, Julian and Hill, Felix and Levy, Omer and Bowman, Samuel R.},
  booktitle={Proceedings of the 2018 EMNLP Workshop BlackboxNLP},
  year={2018}
}"""

# GLUE ranks tasks with these metrics by their mean, which run_glue reports too.
COMBINED = "combined_score"
PAIRS = (("accuracy", "f1"), ("pearson", "spearmanr"))


class GlueMetric(evaluate.Metric):
    """Metrics of one task.

    ``GlueMetric("mrpc").compute(predictions=[0, 1], references=[0, 1])`` gives ``{"accuracy": 1.0, "f1": 1.0}``.

    Args:
        task: Name of a GLUE task, or any `TextTask`.
        **kwargs: Further arguments of `evaluate.Metric`.

    Raises:
        UsageError: If GLUE has no task of that name.
    """

    def __init__(self, task: str | TextTask, **kwargs: Any) -> None:
        self.task = find_task(task, GLUE_TASKS) if isinstance(task, str) else task
        super().__init__(config_name=self.task.name, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float32" if self.task.regression else "int64")
        return evaluate.MetricInfo(
            description="The metrics of one text classification task, in GLUE those by which it ranks models.",
            citation=CITATION,
            inputs_description="predictions and references: class ids, or numbers for a regression.",
            features=datasets.Features({"predictions": value, "references": value}),
            format="numpy",
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return measure(self.task, predictions, references)


def with_combined_score(task: TextTask) -> Callable[[EvalPrediction], dict[str, float]]:
    """As `hf_elmix.text.metrics.compute_metrics_for`, with the mean of two metrics if GLUE ranks the task by it."""
    compute_metrics = compute_metrics_for(task)

    def compute_with_mean(prediction: EvalPrediction) -> dict[str, float]:
        scores = compute_metrics(prediction)
        return {**scores, COMBINED: float(np.mean(list(scores.values())))}

    return compute_with_mean if task.metrics in PAIRS else compute_metrics
