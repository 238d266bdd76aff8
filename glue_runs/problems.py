"""GLUE tasks as problems, and the study of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from datasets import DatasetDict
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from glue_runs.data import digest, find_task, load_task, tokenise
from glue_runs.metrics import compute_metrics_for
from glue_runs.models import load_model, load_tokenizer
from glue_runs.protocol import ARGUMENTS, BERT, GLUE, MAX_LENGTH, MIXINGS, SEEDS, TASK_NAMES
from glue_runs.tasks import Task
from hf_elmix.errors import UsageError
from hf_elmix.study.spec import Materials, Method, Problem, Study

__all__ = ["glue_problem", "glue_study"]


def glue_study(
    tasks: Iterable[str] = TASK_NAMES,
    seeds: Iterable[int] = SEEDS,
    mixings: Iterable[str] = MIXINGS,
    *,
    model: str = BERT,
    dataset: str = GLUE,
    max_length: int = MAX_LENGTH,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Study:
    """The grid of the paper's Fig. 2, or any part of it.

    The rows of every task are loaded, checked and tokenised here, so that a mistake shows before anything is trained.

    Args:
        tasks: Names of GLUE tasks.
        seeds: Seeds, the same for all methods.
        mixings: Schedules, as `MixingSchedule.parse` reads them.
        model: Model id or folder.
        dataset: Dataset id or folder.
        max_length: Tokens a row is cut to.
        max_train_samples: Keep so many of the first training rows of each task.
        max_eval_samples: Keep so many of the first rows of each evaluation split.
        arguments: Training arguments in place of the protocol's.

    Raises:
        UsageError: (a ValueError) If a task or mixing is unknown, or data or model cannot be used.
    """
    methods = tuple(Method(mixing) for mixing in mixings)
    chosen = [find_task(name) for name in tasks]
    limits = {"max_train_samples": max_train_samples, "max_eval_samples": max_eval_samples}
    problems = tuple(glue_problem(task, model, dataset, max_length, **limits) for task in chosen)
    return Study(problems, methods, tuple(seeds), {**ARGUMENTS, **(arguments or {})})


def glue_problem(task: Task, model: str, dataset: str, max_length: int, **limits: int | None) -> Problem:
    """A GLUE task with a pre-trained model; its rows are loaded and tokenised once for all runs."""
    tokenizer = load_tokenizer(model)
    if max_length < 1:
        raise UsageError(f"Expected --max_seq_length to be 1 or more, but got {max_length}.")
    rows = load_task(task, dataset, **limits)
    provenance = {"data_rows": {split: len(part) for split, part in rows.items()}}
    # The rows determine the result, whatever the dataset is called: runs on other rows are other runs.
    digests = {split: digest(part, task) for split, part in rows.items()}
    tokens = tokenise(rows, task, tokenizer, max_length)
    settings = {"model": model, "dataset": dataset, "max_length": max_length, "rows": digests, **limits}
    score = task.metrics[0] if len(task.splits) == 1 else f"{_short(task.splits[0])}_{task.metrics[0]}"
    return Problem(task.name, score, partial(_materials, task, model, tokenizer, tokens, provenance), settings)


def _materials(
    task: Task,
    model_name: str,
    tokenizer: PreTrainedTokenizerBase,
    rows: DatasetDict,
    provenance: Mapping[str, Any],
    seed: int,
) -> Materials:
    model = load_model(model_name, task, seed)
    evaluated = {_short(split): rows[split] for split in task.splits}
    trainer = {
        "model": model,
        "train_dataset": rows["train"],
        "eval_dataset": evaluated if len(evaluated) > 1 else rows[task.splits[0]],
        "data_collator": DataCollatorWithPadding(tokenizer),
        "compute_metrics": compute_metrics_for(task),
    }
    return Materials(trainer, {**provenance, "model_revision": getattr(model.config, "_commit_hash", None)})


def _short(split: str) -> str:
    """``matched`` for ``validation_matched``: how MNLI's two sets are told apart in the names of metrics."""
    return split.removeprefix("validation_")
