"""Compare losses with any function that builds a Trainer: ``hf_elmix.compare``."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from typing import Any

from datasets import Dataset
from rich.console import Console
from transformers import (
    DefaultFlowCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_elmix.comparison.loop import MAX_SEEDS, rules_for, run_comparison, seconds_in
from hf_elmix.comparison.result import Comparison
from hf_elmix.comparison.split import TEST, resampled
from hf_elmix.errors import UsageError
from hf_elmix.losses.registry import parse_loss
from hf_elmix.study.runner import check_study
from hf_elmix.study.spec import Method, Select, Study, Task, TrainerInputs
from hf_elmix.study.store import Store
from hf_elmix.training.callback import MixingCallback
from hf_elmix.training.complement import ComplementTrainer
from hf_elmix.training.trainer import MixedLossTrainer

__all__ = ["compare"]

TRAINERS = (Trainer, MixedLossTrainer, ComplementTrainer)
PARTS = (
    *("model", "train_dataset", "eval_dataset", "data_collator", "processing_class", "compute_metrics"),
    "preprocess_logits_for_metrics",
)
SAMPLE = 1000  # rows by which data that has changed is noticed
OWN_CALLBACKS = (DefaultFlowCallback, MixingCallback, PrinterCallback, ProgressCallback)  # every Trainer has its own

# Training arguments, or how their names begin, that a study sets by itself or that do not change the weights.
SET_BY_STUDY = (
    *(
        "dataloader_pin_memory",
        "disable_tqdm",
        "do_",
        "eval_strategy",
        "eval_steps",
        "greater_is_better",
        "hub_",
        "load_best_model_at_end",
    ),
    *("log_", "logging_", "loss", "metric_for_best_model", "mixing", "output_dir", "project", "push_to_hub"),
    *("report_to", "resume_from_checkpoint", "run_name", "save_", "seed", "trackio_"),
)


def compare(
    make_trainer: Callable[[int], Trainer],
    losses: Iterable[Any] = ("ce", "0-0.5"),
    *,
    baseline: str | None = None,
    metric: str | Select = "accuracy",
    margin: float = 0.2,
    max_seeds: int = MAX_SEEDS,
    budget: float | str | None = None,
    resample: bool = False,
    output_dir: str | os.PathLike[str] = "comparison",
    name: str = "data",
) -> Comparison:
    """Compare losses seed after seed, and stop as soon as each is better, practically equal or worse.

    Args:
        make_trainer: Builds a Trainer for a seed, with a new model each time. Its model, data and arguments are used;
            the loss is replaced by each of the losses, and every epoch is evaluated.
        losses: Losses that `hf_elmix.parse_loss` reads, or `Method`s with training arguments of their own.
        baseline: Name of the method that the others are compared with; by default ``ce``, which is added if it is
            not among the losses.
        metric: The score, larger is better, as `compute_metrics` names it. Where the Trainer has several evaluation
            sets, it is measured on the first; on one named ``test`` only at the end.
        margin: Differences below it do not matter; in points (hundredths of a score that lies in [-1, 1]).
        max_seeds: The largest number of seeds.
        budget: Seconds, or a text such as ``"2h"``; no seed is begun that would probably end later.
        resample: Divide training and validation rows, which must be `datasets.Dataset`s, anew for each seed.
        output_dir: Folder of the study; called again with the same folder, the comparison continues.
        name: Name of the data in the report.

    Returns:
        The verdict on each method, with an interval that holds although it was looked at after every seed.

    Raises:
        UsageError: If the Trainer is of a class of its own or lacks metrics, a loss or an argument cannot be used, or
            the folder holds another study.
    """
    methods = [loss if isinstance(loss, Method) else Method(_name(loss), loss=loss) for loss in losses]
    methods, rules = rules_for(methods, baseline, margin)
    limit = math.inf if budget is None else seconds_in(budget) if isinstance(budget, str) else float(budget)
    first = _built(make_trainer, 0)
    task = _task(make_trainer, first, metric, name)
    study = Study((resampled(task) if resample else task,), tuple(methods), (0,), _arguments(first.args))
    store, show = Store(output_dir), _in_notebook() or _print
    check_study(study, store)
    return run_comparison(study, store, rules, max_seeds=max_seeds, budget=limit, show=show)


def _name(loss: Any) -> str:
    """The name of a method: a loss as it was written, or as it is read back."""
    return loss if isinstance(loss, str) else str(parse_loss(loss))


def _built(make_trainer: Callable[[int], Trainer], seed: int) -> Trainer:
    """The Trainer for a seed, which is set first: a fresh head would otherwise differ between methods."""
    set_seed(seed)
    trainer = make_trainer(seed)
    if type(trainer) not in TRAINERS:
        raise UsageError(
            f"Expected make_trainer to return a Trainer or MixedLossTrainer, but got {type(trainer).__name__}, whose "
            "own methods would be lost. Write a study with hf_elmix.study instead."
        )
    unused = ("compute_loss_func", "optimizer", "lr_scheduler", "optimizer_cls_and_kwargs")
    lost = [name for name in unused if getattr(trainer, name) is not None]
    if isinstance(trainer, MixedLossTrainer):
        lost = [name for name in lost if name != "compute_loss_func"]
    if lost:
        raise UsageError(f"Expected a Trainer without {lost[0]}, which the losses or the training arguments replace.")
    if trainer.compute_metrics is None or trainer.eval_dataset is None:
        raise UsageError("Expected a Trainer with compute_metrics and eval_dataset, on which methods are compared.")
    return trainer


def _task(make_trainer: Callable[[int], Trainer], first: Trainer, metric: str | Select, name: str) -> Task:
    sets = first.eval_dataset if isinstance(first.eval_dataset, dict) else {}
    if isinstance(metric, str) and sets:
        scored = next((each for each in sets if each != TEST), None)
        if scored is None:
            raise UsageError(f"Expected an evaluation set beside {TEST!r}, on which methods are compared.")
        metric = Select(metric, chosen_on=scored, scored_on=scored)
    model: Any = first.model
    settings = {
        "model": getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__,
        "parameters": sum(part.numel() for part in model.parameters()),
        "rows": _row_counts(first),
        "data": {split: digest for split, rows in _splits(first).items() if (digest := _digest(rows))},
        **{part: str(value) for part, value in _of_mixed_loss(first).items()},
    }
    return Task(name, metric, partial(_inputs, make_trainer), settings)


def _splits(trainer: Trainer) -> dict[str, Any]:
    """The data of a Trainer by split."""
    evaluated = trainer.eval_dataset
    sets = evaluated if isinstance(evaluated, dict) else {"validation": evaluated}
    return {"train": trainer.train_dataset, **sets}


def _row_counts(trainer: Trainer) -> dict[str, int]:
    """Number of rows of each split, as far as they have one."""
    return {split: len(rows) for split, rows in _splits(trainer).items() if hasattr(rows, "__len__")}


def _digest(rows: Any) -> str:
    """A fingerprint of a sample of rows of `datasets`; empty for other data, which may change whenever it is read."""
    if not isinstance(rows, Dataset):
        return ""
    sample: Any = rows.with_format("arrow").select(range(0, len(rows), max(1, len(rows) // SAMPLE)))
    return hashlib.sha256(repr(sample[:].to_pylist()).encode()).hexdigest()[:16]


def _of_mixed_loss(trainer: Trainer) -> dict[str, Any]:
    """What a MixedLossTrainer was given beside its loss and the parts of every Trainer."""
    given = {part: getattr(trainer, part, None) for part in ("class_weights", "replace_loss")}
    return {part: value for part, value in given.items() if value is not None and value is not False}


def _inputs(make_trainer: Callable[[int], Trainer], seed: int) -> TrainerInputs:
    trainer = _built(make_trainer, seed)
    own = [
        callback
        for callback in trainer.callback_handler.callbacks
        if not isinstance(callback, OWN_CALLBACKS)
        and not any(part in type(callback).__module__ for part in ("transformers.integrations", "notebook"))
    ]
    parts = {**{part: getattr(trainer, part) for part in PARTS}, **_of_mixed_loss(trainer)}
    parts |= {"callbacks": own} if own else {}
    return TrainerInputs(parts, {"data_rows": _row_counts(trainer)})


def _arguments(args: TrainingArguments) -> dict[str, Any]:
    """The arguments that differ from their defaults, apart from those that a study sets."""
    given, usual = args.to_dict(), TrainingArguments(output_dir="unused").to_dict()
    names = [field.name for field in fields(TrainingArguments) if field.init and field.name in given]
    changed = [name for name in names if given[name] != usual[name] and not name.startswith(SET_BY_STUDY)]
    return {name: given[name] for name in changed}


def _print(found: Comparison, line: str) -> None:
    print(line, flush=True)


def _in_notebook() -> Callable[[Comparison, str], None] | None:
    """What keeps one table in a notebook up to date; None elsewhere."""
    if not Console().is_jupyter:
        return None
    from IPython.display import display

    handle = display(display_id=True)
    return lambda found, line: handle.update(found)
