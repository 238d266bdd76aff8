"""Batches without padding: the rows of a batch laid end to end, so that no time goes into places that hold nothing.

The batch that comes in is padded as ever, and the logits that come out are the padded batch's up to rounding. In
between, the encoder sees one long row of all tokens. Each row attends to itself only, and behind the last attention
only the first token of each row is left, as the classifier reads no other.

Nothing of this is in the weights, the configuration or the class of the model: it hangs on hooks and on an attention
function. Dropout is drawn from the global generator, as ever, but for fewer numbers. Not for ``--torch_compile``: the
number of tokens differs from batch to batch, and each new one would be compiled anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["can_drop_padding", "drop_padding"]

NAME = "padding_free"
ROWS = "rows_end_to_end"  # the keyword under which the layers are handed the layout of the batch
PER_TOKEN = ("input_ids", "token_type_ids", "position_ids")
SHOWN = ("output_hidden_states", "output_attentions")

# Where the last layer stops needing all tokens, for each kind of encoder whose classifier reads the first token.
LAST_INPUT = {
    **dict.fromkeys(("bert", "camembert", "electra", "roberta", "xlm-roberta"), "attention.output"),
    "distilbert": "sa_layer_norm",
}


@dataclass(frozen=True)
class Rows:
    """Where the tokens of a padded batch lie when its rows are laid end to end.

    Attributes:
        shape: Rows and columns of the padded batch.
        tokens: Place of each token in the flattened padded batch (T,).
        first: Place of each row's first token among the tokens (rows,).
        mask: Which places of the padded batch hold a token (rows, 1, 1, columns).
    """

    shape: tuple[int, int]
    tokens: Tensor
    first: Tensor
    mask: Tensor

    @classmethod
    def of(cls, attention_mask: Tensor) -> Rows:
        """The layout of a batch padded on the right."""
        mask = attention_mask.bool()
        lengths = mask.sum(1)
        rows, columns = mask.shape
        tokens = mask.flatten().nonzero().flatten()
        return cls((rows, columns), tokens, lengths.cumsum(0) - lengths, mask[:, None, None])

    def select(self, values: Tensor) -> Tensor:
        """The tokens (1, T, ...) of a padded batch (rows, columns, ...)."""
        return values.flatten(0, 1).index_select(0, self.tokens)[None]

    def pad(self, values: Tensor) -> Tensor:
        """The padded batch (rows, columns, ...) of tokens (T, ...), zero where there is none."""
        zeros = values.new_zeros(self.shape[0] * self.shape[1], *values.shape[1:])
        return zeros.index_copy(0, self.tokens, values).unflatten(0, self.shape)


def can_drop_padding(config: PreTrainedConfig) -> bool:
    """Whether `drop_padding` knows the sequence classifier of a configuration."""
    return config.model_type in LAST_INPUT and not getattr(config, "is_decoder", False)


def drop_padding(model: PreTrainedModel) -> None:
    """Let a sequence classifier work on batches without padding, in training and in evaluation.

    Args:
        model: A sequence classifier whose configuration `can_drop_padding`; its batches must be padded on the right.

    Raises:
        ValueError: If it is another model.
    """
    kind = model.config.model_type
    if not can_drop_padding(model.config) or not type(model).__name__.endswith("ForSequenceClassification"):
        raise ValueError(f"Expected a sequence classifier of {', '.join(LAST_INPUT)}, but got {type(model).__name__}.")
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    encoder = model.base_model
    layers: Any = encoder.get_submodule("transformer" if kind == "distilbert" else "encoder")
    last = layers.layer[-1]
    narrow = last.get_submodule(LAST_INPUT[kind])
    encoder.register_forward_pre_hook(_lay_end_to_end, with_kwargs=True)
    # On a part of the layer, not on the layer itself: gradient checkpointing runs only what is within a second time.
    last.attention.register_forward_pre_hook(partial(_tell, narrow), with_kwargs=True)
    narrow.register_forward_pre_hook(_keep_first)
    layers.register_forward_hook(_one_row_each, with_kwargs=True)


def _lay_end_to_end(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Before the encoder: a padded batch becomes one long row."""
    given = {**dict(zip(("input_ids",), args, strict=False)), **kwargs}
    mask = given.get("attention_mask")
    shown = [given.get(name, getattr(encoder.config, name, False)) for name in SHOWN]
    if mask is None or mask.ndim != 2 or given.get("input_ids") is None or any(shown):
        return None  # as it is: what is asked for is the padded batch's
    rows = Rows.of(mask)
    given["position_ids"] = _positions(encoder, given)
    laid = {name: rows.select(given[name]) for name in PER_TOKEN if given.get(name) is not None}
    return (), {**given, **laid, "attention_mask": None, ROWS: rows}


def _positions(encoder: Any, given: dict[str, Any]) -> Tensor:
    """The positions that the encoder gives the tokens of the padded batch."""
    ids, embeddings = given["input_ids"], encoder.embeddings
    if given.get("position_ids") is not None:
        return given["position_ids"].expand_as(ids)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):  # RoBERTa's begin behind the padding id
        return embeddings.create_position_ids_from_input_ids(ids, embeddings.padding_idx)
    return embeddings.position_ids[:, : ids.shape[1]].expand_as(ids)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of each row to itself, on queries, keys and values (1, heads, T, width) of one long row."""
    rows: Rows | None = kwargs.pop(ROWS, None)
    if rows is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    q, k, v = (rows.pad(part[0].transpose(0, 1)).transpose(1, 2) for part in (query, key, value))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=rows.mask, dropout_p=dropout, scale=scaling)
    return rows.select(mixed.transpose(1, 2)), None


def _tell(narrow: Any, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before the last attention: leave the part behind it the places of the first tokens."""
    rows: Rows | None = kwargs.get(ROWS)
    narrow.first_tokens = None if rows is None else rows.first


def _keep_first(narrow: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Behind the last attention: of each row its first token is all that counts."""
    first, narrow.first_tokens = getattr(narrow, "first_tokens", None), None
    return None if first is None else tuple(values.index_select(1, first) for values in args)


def _one_row_each(layers: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Behind the last layer: a batch again (rows, 1, width), for the head that takes the first of each row."""
    rows: Rows | None = kwargs.get(ROWS)
    if rows is None:
        return
    tokens = output.last_hidden_state
    if tokens.shape[1] != len(rows.first):  # a copy of the layers that was not told, as DataParallel makes them
        tokens = tokens.index_select(1, rows.first)
    output.last_hidden_state = tokens.transpose(0, 1)
