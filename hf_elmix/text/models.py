"""Pre-trained encoders: the tokenizer, and the model with a classifier for a task."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from datasets import DatasetDict
from pyarrow.compute import list_value_length
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.hub.client import ModelSource, pin_model
from hf_elmix.text.loading import loading
from hf_elmix.text.tasks import TextTask

__all__ = ["check_model", "find_model", "load_config", "load_model", "load_tokenizer", "load_trained"]

T = TypeVar("T")

LAYER = re.compile(r"(.+?)\.(\d+)\.")  # the list of layers, and the number of one, in the name of a weight
ROUNDING = 1e-3  # of logits, relative
EXPECTED = "Expected a model id such as 'google-bert/bert-base-uncased', or a folder with a model and its tokenizer."


def find_model(name: str | Path | ModelSource, revision: str | None = None, *, code: bool = False) -> ModelSource:
    """Find a model on the Hub or in a folder and pin its revision, so that every run loads the same files.

    Args:
        name: Model id or folder; a model that has been found is returned as it is.
        revision: Branch, tag or commit on the Hub; by default the main branch.
        code: Allow Python code of the model to be run.

    Raises:
        UsageError: If there is no such model.
    """
    if isinstance(name, ModelSource):
        return name
    with loading(f"the model {str(name)!r}", EXPECTED):
        return pin_model(str(name), revision, code=code)


def load_tokenizer(model: str | ModelSource) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, given its name or what `find_model` returned.

    One without a token for padding, as those of most decoders, pads with the token that ends a text.

    Raises:
        UsageError: If it cannot be loaded, or has neither token.
    """

    def load(folder: Any, **kwargs: Any) -> PreTrainedTokenizerBase:
        tokenizer = AutoTokenizer.from_pretrained(folder, **kwargs)
        if not isinstance(tokenizer.model_max_length, int | float):
            raise ValueError(f"its tokenizer's model_max_length is {tokenizer.model_max_length!r}, not a number")
        return tokenizer

    tokenizer = _load(load, model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise UsageError(
            f"Expected {tokenizer.name_or_path!r} to have a padding token. Give its tokenizer a pad_token."
        )
    return tokenizer


def load_config(model: str | ModelSource) -> PreTrainedConfig:
    """Load the configuration of a model, given its name or what `find_model` returned.

    Raises:
        UsageError: If it cannot be loaded.
    """
    return _load(AutoConfig.from_pretrained, model)


def load_model(
    model: str | ModelSource,
    task: TextTask,
    seed: int,
    *,
    ignore_mismatched_sizes: bool = False,
    trained: bool = False,
) -> PreTrainedModel:
    """Load an encoder with a fresh classifier for the labels of a task, or with a regression head.

    The head is initialised while the model is loaded, so the seed is set first: all methods with the same seed start
    from the same weights. If the model already has a head of the right size, it is kept.

    Args:
        model: Model id or folder, or a model that has been found.
        task: The task.
        seed: Seed of the head, and of all random numbers drawn afterwards.
        ignore_mismatched_sizes: Replace a head for another number of labels by a fresh one.
        trained: Refuse a model that has no head yet, since it will not be trained.

    Raises:
        UsageError: If it cannot be loaded, or has no head although it should be `trained`.
    """
    if task.regression:
        head: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    else:
        head = {"num_labels": len(task.labels), "problem_type": "single_label_classification"}
        head |= {"id2label": dict(enumerate(task.labels)), "label2id": {name: k for k, name in enumerate(task.labels)}}

    def load(folder: Any, **kwargs: Any) -> PreTrainedModel:
        set_seed(seed)
        kind = AutoModelForSequenceClassification
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        network, found = kind.from_pretrained(folder, **options, **head, **kwargs)
        _check_pretrained(network, found)
        if trained:
            _check_trained(found)
        if found["mismatched_keys"] and not ignore_mismatched_sizes:
            raise ValueError(
                f"its head is for another number of labels than {head['num_labels']}; --ignore_mismatched_sizes "
                "replaces it by a fresh one"
            )
        return network

    return _with_padding(_load(load, model), model)


def load_trained(model: str | ModelSource) -> PreTrainedModel:
    """Load a model with the classifier that it was trained with, given its name or what `find_model` returned.

    Raises:
        UsageError: If it cannot be loaded, or lacks weights such as those of a classifier.
    """

    def load(folder: Any, **kwargs: Any) -> PreTrainedModel:
        kind = AutoModelForSequenceClassification
        network, found = kind.from_pretrained(folder, output_loading_info=True, **kwargs)
        _check_trained(found)
        return network

    return _with_padding(_load(load, model), model)


def _check_trained(found: Mapping[str, Any]) -> None:
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"it was never trained as a classifier: it has no {', '.join(missing[:3])}.")


def _with_padding(network: PreTrainedModel, model: str | ModelSource) -> PreTrainedModel:
    """The model, which knows what its tokenizer pads with: decoders classify at the last token before the padding.

    Others may have another number there, which their tables of positions begin behind (RoBERTa).
    """
    reads_it = "pad_token_id" in inspect.unwrap(type(network).forward).__code__.co_names
    if reads_it or getattr(network.config, "pad_token_id", None) is None:
        network.config.pad_token_id = load_tokenizer(model).pad_token_id
    return network


def check_model(network: PreTrainedModel, tokens: DatasetDict, collator: DataCollatorWithPadding) -> None:
    """Try a model on the shortest and the longest row of each split, before anything is trained.

    If the padding of the shortest changes what the model says of it, its tokenizer is made to pad on the other side.

    Args:
        network: The model, as it was loaded: in evaluation mode.
        tokens: Rows as `hf_elmix.text.tokens.tokenise` returns them.
        collator: Makes a batch of rows.

    Raises:
        UsageError: If it gives no finite number for each label.
    """
    for split, rows in tokens.items():
        lengths = list_value_length(rows.with_format("arrow")[:].column("input_ids")).to_numpy()
        ends = [rows[int(lengths.argmin())], rows[int(lengths.argmax())]]
        ends = [{name: row[name] for name in row if name not in ("label", "labels")} for row in ends]
        try:
            logits = _logits(network, collator(ends))
        except Exception as error:  # a model can raise anything
            reason = in_one_line(error)
        else:
            if logits.shape == (2, network.config.num_labels) and logits.isfinite().all():
                _choose_side(network, ends, collator)
                continue
            reason = f"it gives {logits.flatten()[:4].tolist()}, shape {tuple(logits.shape)}."
        raise UsageError(
            f"Expected the model {network.name_or_path!r} to give {network.config.num_labels} finite numbers for each "
            f"row of the split {split!r}, but: {reason} Check that its config, weights and tokenizer belong together."
        )


def _choose_side(network: PreTrainedModel, rows: list[dict[str, Any]], collator: DataCollatorWithPadding) -> None:
    """Pad on the side on which padding does not change the logits of the first row; warn if it does on both."""
    tokenizer: Any = collator.tokenizer
    given = tokenizer.padding_side
    alone = _logits(network, {name: torch.tensor([value]) for name, value in rows[0].items()})[0]
    allowed = max(ROUNDING, 16 * torch.finfo(alone.dtype).eps) * (1 + alone.abs().max())
    for side in (given, *({"left", "right"} - {given})):
        tokenizer.padding_side = side
        if (_logits(network, collator(rows))[0] - alone).abs().max() <= allowed:
            if side != given:
                warnings.warn(
                    f"Rows are padded on the {side}: on the {given}, predictions would change.", stacklevel=3
                )
            return
    tokenizer.padding_side = given
    warnings.warn(f"Padding changes the predictions of {network.name_or_path!r}.", stacklevel=3)


def _logits(network: PreTrainedModel, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(**batch).logits


def _check_pretrained(network: PreTrainedModel, found: Mapping[str, Iterable[Any]]) -> None:
    """Refuse files that are not those of the encoder; its head and a pooler may be fresh.

    Args:
        network: The model.
        found: What `from_pretrained` says of the weights that it loaded.

    Raises:
        ValueError: If weights are missing, have another shape, or belong to layers that the model does not have.
    """
    prefix = f"{network.base_model_prefix}."
    shapes = [key for key, *_ in found["mismatched_keys"]]
    odd = {"are not in its files": found["missing_keys"], "have another shape in its files": shapes}
    for problem, keys in odd.items():
        if encoder := sorted(key for key in keys if key.startswith(prefix) and "pooler" not in key):
            raise ValueError(f"weights of its config {problem}: {', '.join(encoder[:2])} ({len(encoder)} in all).")
    counts = {name: len(part) for name, part in network.named_modules() if isinstance(part, torch.nn.ModuleList)}
    for key in sorted(found["unexpected_keys"]):
        layer = LAYER.match(f"{prefix}{key.removeprefix(prefix)}")
        if layer is not None and int(layer[2]) >= counts.get(layer[1], math.inf):
            raise ValueError(
                f"the length of {layer[1]} is {counts[layer[1]]} in its config, but its files have {key}."
            )


def _load(load: Callable[..., T], model: str | ModelSource, **kwargs: Any) -> T:
    """Load from the files on this machine, but under the name that was given rather than a path in a cache."""
    source = find_model(model)
    with loading(f"the model {source.name!r}", EXPECTED):
        # If trust_remote_code were left open, transformers would ask on the terminal whether to run a model's code.
        loaded: Any = load(source.folder(), trust_remote_code=source.code, **kwargs)
    if source.revision is not None:
        loaded.name_or_path = source.name
        if hasattr(loaded, "config"):
            loaded.config._name_or_path = source.name
    return loaded
