"""Tokens that a model can read: not more than it has positions, none that it has no embedding for."""

from __future__ import annotations

import sys
import warnings
from typing import NamedTuple

import pyarrow.compute as pc
import torch
from datasets import DatasetDict
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from hf_elmix.errors import UsageError
from hf_elmix.hub.client import ModelSource
from hf_elmix.text.models import load_config
from hf_elmix.text.tasks import TextTask
from hf_elmix.text.tokens import tokenise

__all__ = ["Limits", "limits_of", "tokens_for"]

NONE = sys.maxsize


class Limits(NamedTuple):
    """The number of tokens in the longest row that a model can read, and the number of tokens that it knows."""

    length: int
    vocabulary: int


def tokens_for(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    task: TextTask,
    rows: DatasetDict,
    max_length: int,
    *,
    in_memory: bool = False,
) -> tuple[DatasetDict, int]:
    """Tokenise rows for a model; see `tokenise`.

    Returns:
        The tokens, and the number of them to which rows were truncated: `max_length`, or less if the model reads less.

    Raises:
        UsageError: If the tokenizer does not fit the model or the rows, or a row has no tokens.
    """
    limits = limits_of(source)
    most = min(limits.length, tokenizer.model_max_length)
    if max_length > most:
        warnings.warn(f"Rows are truncated to {most} tokens, the most that {source.name!r} reads.", stacklevel=2)
    length = min(max_length, most)
    tokens = tokenise(rows, task, tokenizer, length, in_memory=in_memory)
    for split, part in tokens.items():
        ids = part.with_format("arrow")[:]["input_ids"]
        shortest, largest = pc.min(pc.list_value_length(ids)).as_py(), pc.max(pc.list_flatten(ids)).as_py()
        if shortest == 0:
            row = pc.index(pc.list_value_length(ids), 0).as_py()
            raise UsageError(
                f"Expected text in each row of the split {split!r}, but row {row} has no tokens. Delete it."
            )
        largest = max(largest, tokenizer.pad_token_id or 0)
        if largest >= limits.vocabulary:
            raise UsageError(
                f"Expected the tokenizer of {source.name!r} to have the {limits.vocabulary} tokens of its model, but "
                f"the split {split!r} has token {largest}. Load the tokenizer that the model was trained with, or "
                "enlarge the model's embeddings (resize_token_embeddings) and save it again."
            )
    return tokens, length


def limits_of(source: ModelSource) -> Limits:
    """The limits of a model, from the sizes of its tables of embeddings: its weights are not needed.

    Relative positions have no limit. Some models put their positions behind the index of padding (RoBERTa), or behind
    two others (OPT), so they read fewer tokens than they have positions.
    """
    config = load_config(source)
    try:
        with torch.device("meta"):
            network = AutoModelForSequenceClassification.from_config(config, trust_remote_code=source.code)
        words = network.get_input_embeddings()
    except Exception:  # loading the model will say what is wrong, or it is of another kind, without these tables
        return Limits(NONE, NONE)
    lengths = [
        table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        for name, table in network.named_modules()
        if isinstance(table, nn.Embedding)
        and table is not words
        and ("position" in name or name.endswith("wpe"))
        and "relative" not in name
    ]
    said = getattr(config, "max_position_embeddings", None)
    if lengths and isinstance(said, int) and said > 0:
        lengths.append(said)
    return Limits(min(lengths, default=NONE), getattr(words, "num_embeddings", NONE))
