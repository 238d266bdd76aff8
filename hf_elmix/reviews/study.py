"""Reviews as tasks of a study: one for each architecture, with everything that a record must state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from transformers import DataCollatorWithPadding

from hf_elmix.losses.registry import expand_losses
from hf_elmix.reviews.data import Reviews
from hf_elmix.reviews.models import LSTMClassifier
from hf_elmix.reviews.protocol import ARCHITECTURES, ARGUMENTS, LEAST_COUNT
from hf_elmix.study.spec import Method, Select, Study, Task, TrainerInputs
from hf_elmix.text.metrics import compute_metrics_for, predicted_classes
from hf_elmix.text.tasks import TextTask

__all__ = ["review_task", "reviews_study"]

OVERHEAD = 40  # width of a layer that takes as long as the rest of a step
METRICS = compute_metrics_for(TextTask("reviews", (), ()), count_classes=True)


def reviews_study(
    reviews: Reviews,
    seeds: Iterable[int],
    losses: Iterable[str],
    architectures: Iterable[str] = tuple(ARCHITECTURES),
    arguments: Mapping[str, Any] | None = None,
) -> Study:
    """The paper's study of reviews.

    Args:
        reviews: The reviews.
        seeds: The seeds.
        losses: The losses to compare.
        architectures: Names from `ARCHITECTURES`; each is a task.
        arguments: Training arguments that override those of `ARGUMENTS`.

    Raises:
        UsageError: If a loss does not exist or a name is given twice.
    """
    tasks = tuple(review_task(reviews, name) for name in architectures)
    methods = tuple(map(Method, expand_losses(losses)))
    return Study(tasks, methods, tuple(seeds), {**ARGUMENTS, **(arguments or {})})


def review_task(reviews: Reviews, architecture: str) -> Task:
    """Reviews and an architecture as a task: the best epoch by validation accuracy, scored by test accuracy."""
    layers, width = ARCHITECTURES[architecture]
    shape = len(reviews.tokenizer), len(reviews.classes), layers, width
    settings = {
        "architecture": architecture,
        "dataset": reviews.name,
        "config": reviews.config,
        "max_length": reviews.tokenizer.model_max_length,
        "classes": list(reviews.classes),
        "vocabulary": {"size": len(reviews.tokenizer), "least_count": LEAST_COUNT},
        "rows": reviews.digests,
    }
    select = Select("accuracy", "best", chosen_on="validation", scored_on="test")
    tokens = sum(map(len, reviews.rows["train"].tokens))
    work = float(tokens * layers * (width + OVERHEAD) ** 2)
    return Task(architecture, select, partial(_inputs, reviews, shape), settings, work=work)


def _inputs(reviews: Reviews, shape: tuple[int, int, int, int], seed: int) -> TrainerInputs:
    trainer = {
        "model": LSTMClassifier.seeded(seed, *shape),
        "train_dataset": reviews.rows["train"],
        "eval_dataset": {split: rows for split, rows in reviews.rows.items() if split != "train"},
        "data_collator": DataCollatorWithPadding(reviews.tokenizer),
        "compute_metrics": METRICS,
        "preprocess_logits_for_metrics": predicted_classes,
    }
    provenance = {"data_revision": reviews.revision}
    return TrainerInputs(trainer, {"data_rows": {s: len(part) for s, part in reviews.rows.items()}, **provenance})
