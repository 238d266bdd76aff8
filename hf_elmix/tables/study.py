"""Tables as tasks of a study: rows, an untrained classifier, and everything that a record must state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hf_elmix.losses.registry import expand_losses
from hf_elmix.study.models import accuracy, predicted
from hf_elmix.study.spec import Method, Select, Study, Task, TrainerInputs
from hf_elmix.tables.data import Table
from hf_elmix.tables.models import TableClassifier
from hf_elmix.tables.protocol import ARGUMENTS, LEARNING_RATES

__all__ = ["Rows", "table_task", "tables_study", "trainer_inputs", "work_of"]

OVERHEAD = 1500  # parameters whose arithmetic takes as long as the rest of a step
SETUP = 250  # training rows that take as long as preparing, tracing and recording a stack


class Rows(Dataset[dict[str, Any]]):
    """Rows of a table for a Trainer: features (I,) and a class id each."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"features": self.features[row], "labels": self.labels[row]}


def tables_study(
    tables: Iterable[Table],
    seeds: Iterable[int],
    losses: Iterable[str],
    model: str,
    arguments: Mapping[str, Any] | None = None,
    sweep: Sequence[Mapping[str, Any]] = (),
) -> Study:
    """The paper's study of tables with one of its models.

    Args:
        tables: The tables.
        seeds: The seeds.
        losses: The losses to compare.
        model: ``linear`` or ``hidden``.
        arguments: Training arguments that override the paper's. With a learning rate, there is no choice among the
            paper's three.
        sweep: Training arguments to choose among by validation accuracy; without learning rates, each is tried with
            the paper's three.

    Raises:
        UsageError: If a loss does not exist or a name is given twice.
    """
    own = {**ARGUMENTS, **(arguments or {})}
    if "learning_rate" not in own and not any("learning_rate" in override for override in sweep):
        sweep = [{**override, "learning_rate": rate} for override in sweep or ({},) for rate in LEARNING_RATES]
    methods = tuple(Method(loss, sweep=tuple(sweep)) for loss in expand_losses(losses))
    tasks = sorted((table_task(table, model) for table in tables), key=lambda task: task.work)  # results come early
    return Study(tuple(tasks), methods, tuple(seeds), own)


def table_task(table: Table, model: str) -> Task:
    """A table as a task: the best epoch by validation accuracy, scored by test accuracy."""
    width = table.features["train"].shape[1]
    parts = {
        split: Rows(torch.from_numpy(features), torch.from_numpy(table.labels[split]))
        for split, features in table.features.items()
    }
    settings = {"table": {"features": width, "classes": table.classes}, "model": model, "rows": table.digests()}
    select = Select("accuracy", "best", chosen_on="validation", scored_on="test")
    inputs = partial(trainer_inputs, parts, width, table.classes, model)
    work = work_of(len(parts["train"]), width, table.classes, model)
    return Task(table.name, select, inputs, settings, work=work)


def trainer_inputs(parts: Mapping[str, Rows], width: int, classes: int, model: str, seed: int) -> TrainerInputs:
    """The inputs of a Trainer for the splits of a table.

    Args:
        parts: The rows of each split; those of ``train`` are trained on, and the others are evaluation sets.
        width: Number of features.
        classes: Number of classes.
        model: ``linear`` or ``hidden``.
        seed: Seed of the initial weights.
    """
    evaluated = {split: rows for split, rows in parts.items() if split != "train"}
    trainer = {
        "model": TableClassifier.seeded(seed, width, classes, model),
        "train_dataset": parts["train"],
        "eval_dataset": evaluated if len(evaluated) > 1 else next(iter(evaluated.values())),
        "compute_metrics": accuracy,
        "preprocess_logits_for_metrics": predicted,
    }
    return TrainerInputs(trainer, {"data_rows": {split: len(rows) for split, rows in parts.items()}})


def work_of(rows: int, width: int, classes: int, model: str) -> float:
    """The relative cost of a run on a table, given its number of training rows."""
    parameters = sum(p.numel() for p in TableClassifier(width, classes, model).parameters())
    return float(SETUP * OVERHEAD + rows * (OVERHEAD + parameters))
