"""Train only the embeddings of tokens that occur in the data: most of a small encoder's weights are those of others.

A row of the embedding matrix whose token never occurs has no gradient, so an optimizer that treats each weight by
itself leaves it as it is, but reads and writes it in each step, as clipping does. Here these rows are put aside. The
weights after training are the same; only the norm of the gradient, a sum over fewer zeros, is rounded differently.
Files are the same too: what is saved and loaded is the whole matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import Trainer

__all__ = ["keep_used_tokens", "used_tokens"]

# Optimizers that treat each weight by itself, and leave one without a gradient as it is if there is no weight decay.
ELEMENTWISE = ("adamw_torch", "adamw_torch_fused", "sgd")


def used_tokens(splits: Iterable[Dataset], padding: int) -> Tensor:
    """The ids of all tokens in the column ``input_ids`` of some rows and of the padding, in order, shape (U,)."""
    chunks = [chunk for rows in splits for chunk in rows.with_format("arrow")[:].column("input_ids").chunks]
    found = [pc.unique(pa.array(chunk.flatten())).to_numpy(zero_copy_only=False) for chunk in chunks]
    return torch.from_numpy(np.unique(np.concatenate([*found, [padding]])).astype(np.int64))


def keep_used_tokens(used: Tensor, trainer: Trainer) -> None:
    """Train only some rows of the input embeddings, unless the optimizer changes weights that have no gradient.

    Args:
        used: Ids of the tokens that occur, shape (U,); any other raises an error in training.
        trainer: The Trainer, before its optimizer is made.
    """
    model: Any = trainer.model
    whole = model.get_input_embeddings()
    if trainer.args.optim not in ELEMENTWISE or trainer.args.weight_decay or type(whole) is not nn.Embedding:
        return
    if sum(weight is whole.weight for _, weight in model.named_parameters(remove_duplicate=False)) == 1:
        model.set_input_embeddings(_UsedEmbeddings(whole, used))


class _UsedEmbeddings(nn.Embedding):
    """Some rows of an embedding matrix; its state is that of the whole matrix."""

    place: Tensor  # for each token its row here, or -1

    def __init__(self, whole: nn.Embedding, used: Tensor) -> None:
        used = used.to(whole.weight.device)
        place = torch.full((whole.num_embeddings,), -1, device=used.device)
        place[used] = torch.arange(len(used), device=used.device)
        # A row without a gradient; where it does not occur, -1 would stand for the last row.
        padding = None if whole.padding_idx not in used else int(place[whole.padding_idx])
        rows = whole.weight.detach()[used]
        options: Any = {name: getattr(whole, name) for name in ("max_norm", "norm_type", "scale_grad_by_freq")}
        super().__init__(len(rows), whole.embedding_dim, padding, _weight=rows, **options)
        self.whole = whole.weight.detach()
        self.register_buffer("used", used, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.register_state_dict_post_hook(_give_whole)
        self.register_load_state_dict_pre_hook(_take_used)

    def forward(self, input: Tensor) -> Tensor:
        """See `torch.nn.Embedding`, for ids of the whole matrix."""
        return super().forward(self.place[input])


def _give_whole(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    state[f"{prefix}weight"] = module.whole.index_copy(0, module.used, module.weight.detach())


def _take_used(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if f"{prefix}weight" in state:
        state[f"{prefix}weight"] = state[f"{prefix}weight"][module.used.cpu()]
