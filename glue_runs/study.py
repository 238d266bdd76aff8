"""The study of GLUE: the tasks, methods and seeds of the paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from glue_runs.protocol import ARGUMENTS, BERT, GLUE, MAX_LENGTH, MIXINGS, SEEDS, TASK_NAMES
from glue_runs.tasks import find_task
from hf_elmix.errors import UsageError
from hf_elmix.losses.baselines import NegativeComplementEntropy
from hf_elmix.losses.registry import expand_losses
from hf_elmix.study.spec import Method, Study
from hf_elmix.text.models import find_model
from hf_elmix.text.rows import load_task
from hf_elmix.text.study import text_task
from hf_elmix.text.tasks import PADDINGS, TextTask

__all__ = ["glue_study"]


def glue_study(
    tasks: Iterable[str] = TASK_NAMES,
    seeds: Iterable[int] = SEEDS,
    losses: Iterable[str] = MIXINGS,
    *,
    model: str = BERT,
    dataset: str = GLUE,
    max_length: int = MAX_LENGTH,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    padding: str = PADDINGS[0],
    in_memory: bool = False,
    arguments: Mapping[str, Any] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Study:
    """The grid of the paper's Fig. 2, or any part of it.

    All rows are loaded, checked and tokenised here, so that a mistake shows before anything is trained.

    Args:
        tasks: Names of GLUE tasks.
        seeds: Seeds, the same for all methods.
        losses: Losses as `hf_elmix.parse_loss` reads them, and names of sets in `hf_elmix.losses.registry.LOSS_SETS`.
        model: Model id or folder.
        dataset: Dataset id or folder.
        max_length: Tokens to which a row is truncated.
        max_train_samples: Keep the first N training rows of each task.
        max_eval_samples: Keep the first N rows of each evaluation split.
        padding: One of `PADDINGS`; ``free`` becomes ``multiple_of_16`` with ``torch_compile``, and ``longest`` for an
            unknown model.
        in_memory: Hold the rows in memory, for workers that share no disk with this process.
        arguments: Training arguments that override the protocol's.
        kinds: Kinds of training rows to score separately (see `hf_elmix.text.study.text_task`).

    Raises:
        UsageError: If a task or loss is unknown, or data or model cannot be used.
    """
    methods = tuple(map(Method, expand_losses(losses)))
    chosen = [find_task(name) for name in tasks]
    _check_complement(methods, chosen)
    arguments = {**ARGUMENTS, **(arguments or {})}
    limits: dict[str, Any] = {"max_train_samples": max_train_samples, "max_eval_samples": max_eval_samples}
    options: dict[str, Any] = {"max_length": max_length, "padding": padding, "in_memory": in_memory, "kinds": kinds}
    options["compiled"] = bool(arguments.get("torch_compile"))
    rows = [load_task(task, dataset, **limits) for task in chosen]  # a mistake shows before a model is downloaded
    source, origin = find_model(model), {"dataset": dataset, **limits}
    made = (text_task(task, part, source, origin=origin, **options) for task, part in zip(chosen, rows, strict=True))
    return Study(tuple(made), methods, tuple(seeds), arguments)


def _check_complement(methods: Iterable[Method], tasks: Iterable[TextTask]) -> None:
    """Refuse complement objective training on a task with only one incorrect class."""
    pairs = [task.name for task in tasks if len(task.labels) == 2]
    if pairs and any(isinstance(method.loss.at(0, 1), NegativeComplementEntropy) for method in methods):
        raise UsageError(
            f"The loss 'cot' evens out the probabilities of the incorrect classes, and {pairs[0]} has only one. Of "
            "GLUE's tasks it can be used with --tasks mnli."
        )
