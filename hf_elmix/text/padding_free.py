"""Batches without padding: the rows of a batch are concatenated, so that no time is spent on padding.

The input is a padded batch, and the logits are those of the padded batch up to rounding. In between, the encoder sees
one long row of all tokens. Each row attends only to itself, and after the last attention only the first token of each
row is kept, because the classifier reads no other.

The weights, the configuration and the class of the model stay the same: everything is done by hooks and an attention
function. Dropout uses the global generator, as always, but draws fewer numbers. Do not combine this with
``--torch_compile``: the number of tokens varies between batches, and the model would be compiled for each number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["can_drop_padding", "drop_padding"]

NAME = "padding_free"
LAYOUT = "padding_free_layout"  # keyword argument of the layers with the layout of the batch
PER_TOKEN = ("input_ids", "token_type_ids", "position_ids")
EXTRA_OUTPUTS = ("output_hidden_states", "output_attentions")
# The number of tokens is a multiple of this under autocast: in bfloat16, a CPU makes its kernels anew for each number
# of tokens, which takes a fifth of the time of a small encoder.
MULTIPLE = 32

# The part of the last layer that needs only the first tokens, by model type; the classifier reads no other.
LAST_INPUT = {
    **dict.fromkeys(("bert", "camembert", "electra", "roberta", "xlm-roberta"), "attention.output"),
    "distilbert": "sa_layer_norm",
}


@dataclass(frozen=True)
class Layout:
    """The positions of the tokens of a padded batch before and after its rows are concatenated.

    Attributes:
        shape: Rows and columns of the padded batch.
        tokens: Index of each token in the flattened padded batch (T,), filled up with zeros: those tokens are computed
            and not read.
        count: Number of tokens that are read.
        first: Index of the first token of each row among the tokens (rows,).
        mask: Whether each position of the padded batch holds a token (rows, 1, 1, columns).
    """

    shape: tuple[int, int]
    tokens: Tensor
    count: int
    first: Tensor
    mask: Tensor

    @classmethod
    def of(cls, attention_mask: Tensor, multiple: int = 1) -> Layout:
        """The layout of a batch that is padded on the right, filled up to a multiple of tokens."""
        mask = attention_mask.bool()
        lengths = mask.sum(1)
        rows, columns = mask.shape
        tokens = mask.flatten().nonzero().flatten()
        filled = F.pad(tokens, (0, -len(tokens) % multiple))
        return cls((rows, columns), filled, len(tokens), lengths.cumsum(0) - lengths, mask[:, None, None])

    def select(self, values: Tensor) -> Tensor:
        """The tokens (1, T, ...) of a padded batch (rows, columns, ...)."""
        return values.flatten(0, 1).index_select(0, self.tokens)[None]

    def pad(self, values: Tensor) -> Tensor:
        """The padded batch (rows, columns, ...) of tokens (T, ...), with zeros as padding."""
        zeros = values.new_zeros(self.shape[0] * self.shape[1], *values.shape[1:])
        return zeros.index_copy(0, self.tokens[: self.count], values[: self.count]).unflatten(0, self.shape)


def can_drop_padding(config: PreTrainedConfig) -> bool:
    """Whether `drop_padding` supports the sequence classifier of a configuration."""
    return config.model_type in LAST_INPUT and not getattr(config, "is_decoder", False)


def drop_padding(model: PreTrainedModel) -> None:
    """Make a sequence classifier process batches, which must be padded on the right, without their padding.

    Raises:
        ValueError: If it is not a sequence classifier that `can_drop_padding` accepts.
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
    encoder.register_forward_pre_hook(_concatenate, with_kwargs=True)
    # On a part of the layer rather than the layer itself, because gradient checkpointing runs only its inside again.
    last.attention.register_forward_pre_hook(partial(_store_first, narrow), with_kwargs=True)
    narrow.register_forward_pre_hook(_keep_first)
    layers.register_forward_hook(_one_row_each, with_kwargs=True)


def _concatenate(encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Before the encoder: turn a padded batch into one long row."""
    given = {**dict(zip(("input_ids",), args, strict=False)), **kwargs}
    mask = given.get("attention_mask")
    extra = [given.get(name, getattr(encoder.config, name, False)) for name in EXTRA_OUTPUTS]
    if mask is None or mask.ndim != 2 or given.get("input_ids") is None or any(extra):
        return None  # the padded batch is needed as it is
    layout = Layout.of(mask, MULTIPLE if torch.is_autocast_enabled(mask.device.type) else 1)
    ids, embeddings = given["input_ids"], encoder.embeddings
    if given.get("position_ids") is not None:
        given["position_ids"] = given["position_ids"].expand_as(ids)
    elif hasattr(embeddings, "create_position_ids_from_input_ids"):  # those of RoBERTa start after the padding id
        given["position_ids"] = embeddings.create_position_ids_from_input_ids(ids, embeddings.padding_idx)
    else:
        given["position_ids"] = embeddings.position_ids[:, : ids.shape[1]].expand_as(ids)
    tokens = {name: layout.select(given[name]) for name in PER_TOKEN if given.get(name) is not None}
    return (), {**given, **tokens, "attention_mask": None, LAYOUT: layout}


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
    """Attention of each row to itself, given queries, keys and values (1, heads, T, width) of one long row."""
    layout: Layout | None = kwargs.pop(LAYOUT, None)
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    q, k, v = (layout.pad(part[0].transpose(0, 1)).transpose(1, 2) for part in (query, key, value))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.mask, dropout_p=dropout, scale=scaling)
    return layout.select(mixed.transpose(1, 2)), None


def _store_first(narrow: Any, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before the last attention: store the positions of the first tokens for the part of the layer after it."""
    layout: Layout | None = kwargs.get(LAYOUT)
    narrow.first_tokens = None if layout is None else layout.first


def _keep_first(narrow: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """After the last attention: keep only the first token of each row."""
    first, narrow.first_tokens = getattr(narrow, "first_tokens", None), None
    return None if first is None else tuple(values.index_select(1, first) for values in args)


def _one_row_each(layers: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """After the last layer: return a batch (rows, 1, width) with the first tokens, which the classifier reads."""
    layout: Layout | None = kwargs.get(LAYOUT)
    if layout is None:
        return
    tokens = output.last_hidden_state
    if tokens.shape[1] != len(layout.first):  # the hooks of a copy by DataParallel have another state
        tokens = tokens.index_select(1, layout.first)
    output.last_hidden_state = tokens.transpose(0, 1)
