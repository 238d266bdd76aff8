"""The seven GLUE classification tasks of the study, as one table.

Columns, label names and splits are those of the dataset ``nyu-mll/glue`` on the Hugging Face Hub. STS-B is left out
because it is regression, WNLI because the paper leaves it out (its count is seven tasks).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """One GLUE task: which columns hold the text, which labels it has, where it is scored and how.

    Attributes:
        name: Configuration name on the Hub.
        columns: The text column, or the two text columns of a pair task, in the order they are fed to the model.
        labels: Label names in the order of their ids.
        metrics: Metric names; the first is the score of the study (the paper compares accuracies).
        splits: Evaluation splits; the first is the one that counts.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    splits: tuple[str, ...] = ("validation",)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("accuracy", "matthews_correlation")),
        Task("sst2", ("sentence",), ("negative", "positive")),
        Task("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            splits=("validation_matched", "validation_mismatched"),
        ),
        Task("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
        Task("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
    )
}
