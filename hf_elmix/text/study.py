"""A text task as a task of a study: tokenised rows, a pre-trained model, and everything that a record must state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_elmix.errors import UsageError, not_one_of
from hf_elmix.hub.client import ModelSource
from hf_elmix.study.spec import Select, Task, TrainerInputs
from hf_elmix.text.limits import tokens_for
from hf_elmix.text.metrics import compute_metrics_for, predicted_classes
from hf_elmix.text.models import check_model, find_model, load_config, load_model, load_tokenizer
from hf_elmix.text.padding_free import can_drop_padding, drop_padding
from hf_elmix.text.rows import digest, revision, warn_of_unseen
from hf_elmix.text.tasks import MAX_LENGTH, PADDINGS, TextTask
from hf_elmix.text.tokens import count_tokens
from hf_elmix.text.used_tokens import keep_used_tokens, used_tokens

__all__ = ["collator_for", "possible_padding", "text_task"]


def text_task(
    task: TextTask,
    rows: DatasetDict,
    model: str | Path | ModelSource,
    *,
    origin: Mapping[str, Any],
    max_length: int = MAX_LENGTH,
    padding: str = PADDINGS[0],
    compiled: bool = False,
    in_memory: bool = False,
    kinds: Mapping[str, str] | None = None,
) -> Task:
    """Make a task of a study from a text task, its rows and a pre-trained model; rows are tokenised once for all runs.

    Args:
        task: The text task.
        rows: The split ``train`` and the evaluation splits of the task, checked (see `load_task` and `custom_task`).
        model: Model id or folder, or a model that has been found.
        origin: Settings that say where the rows come from: ``dataset``, and limits such as ``max_train_samples``.
        max_length: Tokens to which a row is truncated; the settings record fewer if the model reads fewer.
        padding: One of `PADDINGS`; the settings record the padding that is used (see `possible_padding`). With
            ``free``, only embeddings of tokens that occur are trained (see `used_tokens`).
        compiled: Whether the model is compiled, which changes the padding.
        in_memory: Hold the rows in memory, so that a pickled task contains them.
        kinds: Values of the column ``kind`` of the training rows, each with a description. The model is also evaluated
            on the training rows of each kind, and the score on them becomes a secondary metric.

    Raises:
        UsageError: If the model, the padding or the maximum length cannot be used, or a kind has no rows.
    """
    warn_of_unseen(task, rows)
    source, kinds = find_model(model), kinds or {}
    tokenizer = load_tokenizer(source)
    padding = possible_padding(padding, source, tokenizer, compiled)
    rows = DatasetDict({**rows, **{f"train_{kind}": _of_kind(rows["train"], kind, task) for kind in kinds}})
    tokens, max_length = tokens_for(source, tokenizer, task, rows, max_length, in_memory=in_memory)
    provenance: dict[str, Any] = {"data_rows": {split: len(part) for split, part in rows.items()}}
    provenance |= {"data_revision": revision(rows["train"]), "model_revision": source.revision}
    settings = {
        "text": task.to_settings(),
        "model": source.name,
        # The weights and rows determine the result, whatever they are called: with others it is a different run.
        "weights": source.fingerprint,
        "max_length": max_length,
        "padding": padding,
        "rows": {split: digest(part, task) for split, part in rows.items()},
        **origin,
    }
    select = Select(metric := task.metrics[0], scored_on=None if len(rows) == 2 else _evaluation_set(task.splits[0]))
    collator = collator_for(tokenizer, padding, max_length)
    check_model(load_model(source, task, 0), tokens, collator)
    used = used_tokens(tokens.values(), tokenizer.pad_token_id) if padding == "free" else None
    inputs = partial(_inputs, task, source, tokens, collator, used, provenance)
    secondary = {f"train_{kind}_{metric}": description for kind, description in kinds.items()}
    return Task(task.name, select, inputs, settings, work=count_tokens(tokens["train"]), secondary_metrics=secondary)


def possible_padding(
    padding: str, source: ModelSource, tokenizer: PreTrainedTokenizerBase, compiled: bool = False
) -> str:
    """The given padding, or another one instead of ``free``, if that cannot be used.

    It is ``multiple_of_16`` for a compiled model, which would be compiled for each number of tokens, and ``longest``
    for one that is not known to work without padding.

    Raises:
        UsageError: If it is not one of `PADDINGS`.
    """
    if padding not in PADDINGS:
        raise not_one_of("--padding", PADDINGS, padding)
    if compiled and padding == "free":
        return "multiple_of_16"
    can = tokenizer.padding_side == "right" and can_drop_padding(load_config(source))
    return padding if can or padding != "free" else "longest"


def collator_for(tokenizer: PreTrainedTokenizerBase, padding: str, max_length: int) -> DataCollatorWithPadding:
    """The collator for a padding; with ``free`` the model removes the padding again (see `drop_padding`)."""
    if padding == "max_length":
        return DataCollatorWithPadding(tokenizer, "max_length", max_length)
    # No row is padded beyond the maximum length, which may be all that the model reads.
    multiple = math.gcd(16, max_length) if padding == "multiple_of_16" else None
    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=multiple)


def _inputs(
    task: TextTask,
    source: ModelSource,
    tokens: DatasetDict,
    collator: DataCollatorWithPadding,
    used: Tensor | None,
    provenance: Mapping[str, Any],
    seed: int,
) -> TrainerInputs:
    model = load_model(source, task, seed)
    if used is not None:
        drop_padding(model)
    evaluated = {_evaluation_set(split): part for split, part in tokens.items() if split != "train"}
    trainer = {
        "model": model,
        "train_dataset": tokens["train"],
        "eval_dataset": evaluated if len(evaluated) > 1 else tokens[task.splits[0]],
        "data_collator": collator,
        "compute_metrics": compute_metrics_for(task, count_classes=True),
        "preprocess_logits_for_metrics": predicted_classes,
    }
    return TrainerInputs(trainer, dict(provenance), None if used is None else partial(keep_used_tokens, used))


def _of_kind(rows: Dataset, kind: str, task: TextTask) -> Dataset:
    kinds = rows["kind"][:] if "kind" in rows.column_names else []
    found = [index for index, value in enumerate(kinds) if value == kind]
    if not found:
        raise UsageError(f"Expected training rows of task {task.name} with {kind!r} in a column 'kind', but got none.")
    return rows.select(found)


def _evaluation_set(split: str) -> str:
    """Name of a split in the names of metrics: ``matched`` for ``validation_matched``."""
    return split.removeprefix("validation_")
