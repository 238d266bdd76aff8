"""GLUE tasks as tasks, and the study of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from glue_runs.metrics import compute_metrics_for, predicted_classes
from glue_runs.protocol import ARGUMENTS, BERT, GLUE, MAX_LENGTH, MIXINGS, PADDINGS, SEEDS, TASK_NAMES
from hf_elmix.errors import UsageError
from hf_elmix.hub.client import ModelSource
from hf_elmix.losses.baselines import ComplementEntropy
from hf_elmix.losses.registry import expand_losses
from hf_elmix.study.spec import Method, Select, Study, Task, TrainerInputs
from hf_elmix.text.models import find_model, load_config, load_model, load_tokenizer
from hf_elmix.text.padding_free import can_drop_padding, drop_padding
from hf_elmix.text.rows import count_tokens, digest, find_task, load_task, revision, tokenise
from hf_elmix.text.tasks import TextTask

__all__ = ["collator_for", "glue_study", "glue_task", "possible_padding"]

NO_KINDS: Mapping[str, str] = MappingProxyType({})


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
    kinds: Mapping[str, str] = NO_KINDS,
) -> Study:
    """The grid of the paper's Fig. 2, or any part of it.

    The rows of every task are loaded, checked and tokenised here, so that a mistake shows before anything is trained.

    Args:
        tasks: Names of GLUE tasks.
        seeds: Seeds, the same for all methods.
        losses: What `hf_elmix.parse_loss` reads, and names of sets of them (`hf_elmix.losses.registry.LOSS_SETS`).
        model: Model id or folder.
        dataset: Dataset id or folder.
        max_length: Tokens a row is cut to.
        max_train_samples: Keep so many of the first training rows of each task.
        max_eval_samples: Keep so many of the first rows of each evaluation split.
        padding: What batches are padded to: ``free`` (nothing, or the longest row for a model where that is not known
            to work), ``longest`` or ``max_length``. With ``torch_compile``, ``free`` is ``longest``.
        in_memory: Hold the rows in memory, for workers that share no disk with this process.
        arguments: Training arguments in place of the protocol's.
        kinds: Kinds of training rows to score by themselves (see `glue_task`).

    Raises:
        UsageError: If a task or loss is unknown, or data or model cannot be used.
    """
    methods = tuple(Method(loss) for loss in expand_losses(losses))
    chosen = [find_task(name) for name in tasks]
    _check_complement(methods, chosen)
    source = find_model(model)
    if (arguments or {}).get("torch_compile") and padding == "free":  # each number of tokens would be compiled anew
        padding = "longest"
    made = tuple(
        glue_task(
            task,
            source,
            dataset,
            max_length,
            max_train_samples=max_train_samples,
            max_eval_samples=max_eval_samples,
            padding=padding,
            in_memory=in_memory,
            kinds=kinds,
        )
        for task in chosen
    )
    return Study(made, methods, tuple(seeds), {**ARGUMENTS, **(arguments or {})})


def _check_complement(methods: Iterable[Method], tasks: Iterable[TextTask]) -> None:
    """Refuse complement objective training on a task with one wrong class only."""
    pairs = [task.name for task in tasks if len(task.labels) == 2]
    if pairs and any(isinstance(method.loss.at(0, 1), ComplementEntropy) for method in methods):
        raise UsageError(
            f"The loss 'cot' evens out the probabilities of the wrong classes, and {pairs[0]} has only one of "
            "them. Of GLUE's tasks it can be used with --tasks mnli."
        )


def glue_task(
    task: TextTask,
    model: str | ModelSource,
    dataset: str,
    max_length: int,
    *,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    padding: str = PADDINGS[0],
    in_memory: bool = False,
    kinds: Mapping[str, str] = NO_KINDS,
) -> Task:
    """A GLUE task with a pre-trained model: found, loaded and tokenised here, once for all runs.

    Args:
        task: The task.
        model: Model id or folder, or one that has been found.
        dataset: Dataset id or folder.
        max_length: Tokens a row is cut to.
        max_train_samples: Keep so many of the first training rows.
        max_eval_samples: Keep so many of the first rows of each evaluation split.
        padding: What batches are padded to (see `glue_study`); the settings say what is really done.
        in_memory: Hold the rows in memory, so that a pickle of the task takes them along.
        kinds: Kinds of training rows, told by their column ``kind``, on which the model is scored too, each with what
            the share of rows that get their label stands for. A report shows it beside the score.

    Raises:
        UsageError: If data or model cannot be used.
    """
    source = find_model(model)
    tokenizer = load_tokenizer(source)
    if max_length < 1:
        raise UsageError(f"Expected --max_seq_length to be 1 or more, but got {max_length}.")
    padding = possible_padding(padding, source, tokenizer)
    limits: dict[str, Any] = {"max_train_samples": max_train_samples, "max_eval_samples": max_eval_samples}
    rows = load_task(task, dataset, **limits)
    rows.update({f"train_{kind}": _of_kind(rows["train"], kind, task) for kind in kinds})
    provenance = {
        "data_rows": {split: len(part) for split, part in rows.items()},
        "data_revision": revision(rows["train"]),
        "model_revision": source.revision,
    }
    settings = {
        "text": task.to_settings(),
        "model": source.name,
        # Weights and rows determine the result, whatever they are called: runs on other ones are other runs.
        "weights": source.fingerprint,
        "dataset": dataset,
        "max_length": max_length,
        "padding": padding,
        "rows": {split: digest(part, task) for split, part in rows.items()},
        **limits,
    }
    tokens = tokenise(rows, task, tokenizer, max_length, in_memory=in_memory)
    metric = task.metrics[0]
    select = Select(metric, scored_on=None if len(rows) == 2 else _short(task.splits[0]))
    collator = collator_for(tokenizer, padding, max_length)
    materials = partial(_materials, task, source, tokens, collator, padding == "free", provenance)
    secondary = {f"train_{kind}_{metric}": label for kind, label in kinds.items()}
    return Task(
        task.name, select, materials, settings, work=count_tokens(tokens["train"]), secondary_metrics=secondary
    )


def _materials(
    task: TextTask,
    source: ModelSource,
    rows: DatasetDict,
    collator: DataCollatorWithPadding,
    padding_free: bool,
    provenance: Mapping[str, Any],
    seed: int,
) -> TrainerInputs:
    evaluated = {_short(split): part for split, part in rows.items() if split != "train"}
    model = load_model(source, task, seed)
    if padding_free:
        drop_padding(model)
    trainer = {
        "model": model,
        "train_dataset": rows["train"],
        "eval_dataset": evaluated if len(evaluated) > 1 else rows[task.splits[0]],
        "data_collator": collator,
        "compute_metrics": compute_metrics_for(task),
        "preprocess_logits_for_metrics": predicted_classes,
    }
    return TrainerInputs(trainer, dict(provenance))


def _of_kind(rows: Dataset, kind: str, task: TextTask) -> Dataset:
    kinds = rows["kind"] if "kind" in rows.column_names else []
    found = [place for place, one in enumerate(kinds) if one == kind]
    if not found:
        raise UsageError(f"Expected training rows of task {task.name} with {kind!r} in a column 'kind', but got none.")
    return rows.select(found)


def possible_padding(padding: str, source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> str:
    """The padding that is asked for, or the longest row's where it takes a model that is not known to do without.

    Raises:
        UsageError: If there is no such padding.
    """
    if padding not in PADDINGS:
        raise UsageError(f"Expected --padding to be one of {', '.join(PADDINGS)}, but got {padding!r}.")
    can = tokenizer.padding_side == "right" and can_drop_padding(load_config(source))
    return padding if can or padding != "free" else "longest"


def collator_for(tokenizer: PreTrainedTokenizerBase, padding: str, max_length: int) -> DataCollatorWithPadding:
    """The collator of a padding; where there is to be none, it is taken out again later (see `drop_padding`)."""
    whole = padding == "max_length"
    return DataCollatorWithPadding(tokenizer, "max_length" if whole else True, max_length if whole else None)


def _short(split: str) -> str:
    """``matched`` for ``validation_matched``: how MNLI's two sets are told apart in the names of metrics."""
    return split.removeprefix("validation_")
