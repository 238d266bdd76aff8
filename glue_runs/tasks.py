"""GLUE's tasks as one table: the seven of the study, and the two that only ``finetune`` takes.

Columns, label names and splits are those of the dataset ``nyu-mll/glue`` on the Hugging Face Hub. The study leaves out
STS-B because it is regression, and WNLI because the paper leaves it out (its count is seven tasks).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GLUE_TASKS", "TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """A text classification task, or a regression: which columns hold the text, which labels it has, how it is scored.

    Attributes:
        name: Configuration name on the Hub.
        columns: The text column, or the two text columns of a pair task, in the order they are fed to the model.
        labels: Label names in the order of their ids; none for a regression.
        metrics: Metric names; the first is the score of the study (the paper compares accuracies).
        splits: Evaluation splits; the first is the one that counts.
        test_splits: Splits to predict, whose labels need not be known; one for each evaluation split.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)

    @property
    def regression(self) -> bool:
        """Whether labels are numbers to be met and no classes."""
        return not self.labels


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
            test_splits=("test_matched", "test_mismatched"),
        ),
        Task("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
        Task("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
    )
}

GLUE_TASKS: dict[str, Task] = {
    **TASKS,
    "stsb": Task("stsb", ("sentence1", "sentence2"), (), ("pearson", "spearmanr")),
    "wnli": Task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment")),
}
