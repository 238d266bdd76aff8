"""GLUE's tasks as one table: the seven of the study, and the two that only ``finetune`` accepts.

Columns, label names and splits are those of the dataset ``nyu-mll/glue`` on the Hugging Face Hub. The study leaves out
STS-B because it is a regression, and WNLI because the paper does (it counts seven tasks).
"""

from __future__ import annotations

from collections.abc import Mapping

from hf_elmix.errors import not_one_of
from hf_elmix.text.tasks import TextTask

__all__ = ["GLUE_TASKS", "TASKS", "find_task"]


TASKS: dict[str, TextTask] = {
    task.name: task
    for task in (
        TextTask("cola", ("sentence",), ("unacceptable", "acceptable"), ("accuracy", "matthews_correlation")),
        TextTask("sst2", ("sentence",), ("negative", "positive")),
        TextTask("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        TextTask("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        TextTask(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            splits=("validation_matched", "validation_mismatched"),
            test_splits=("test_matched", "test_mismatched"),
        ),
        TextTask("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
        TextTask("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
    )
}

GLUE_TASKS: dict[str, TextTask] = {
    **TASKS,
    "stsb": TextTask("stsb", ("sentence1", "sentence2"), (), ("pearson", "spearmanr")),
    "wnli": TextTask("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment")),
}


def find_task(name: str, tasks: Mapping[str, TextTask] = TASKS) -> TextTask:
    """Look a task up by its name.

    Args:
        name: The name.
        tasks: The tasks that exist.

    Raises:
        UsageError: If there is no such task; the message lists the tasks and suggests a close match.
    """
    if name in tasks:
        return tasks[name]
    raise not_one_of("the task", tasks, name)
