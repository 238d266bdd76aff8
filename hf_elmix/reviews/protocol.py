"""The protocol of the paper's study of reviews (section *LSTM multi-class classification*), with sources.

Importing it is fast, as a command line needs.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ARCHITECTURES",
    "ARGUMENTS",
    "HELD_OUT",
    "LABEL_COLUMN",
    "LEAST_COUNT",
    "LOSSES",
    "MAX_LENGTH",
    "SEEDS",
    "TEXT_COLUMN",
]

TEXT_COLUMN, LABEL_COLUMN = "Review Text", "Rating"  # paper: of the Women's Clothing E-Commerce Reviews
HELD_OUT = 0.1  # ours: share of the rows for validation, and for the test; the paper does not say
LEAST_COUNT = 2  # ours: how often a word of the vocabulary occurs in the training rows; the paper does not say
MAX_LENGTH = 256  # ours: words of a review that are read; no review of the paper's data has more

# Paper: layers, and width of the layers and of the embedding, in the order of Table 3.
ARCHITECTURES = {"lstm-1x50": (1, 50), "lstm-1x75": (1, 75), "lstm-1x100": (1, 100), "lstm-2x50": (2, 50)}
ARCHITECTURES |= {"lstm-2x100": (2, 100)}
SEEDS = (0, 1, 2, 3, 4, 5, 6, 7)  # paper: eight; it does not say which
LOSSES = ("ce", "0", "0,0.5", "0-0.5")  # paper

# All ours: the paper does not say.
ARGUMENTS: dict[str, Any] = {
    "num_train_epochs": 6,  # the validation accuracy of cross entropy hardly rises after; the best epoch counts
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,  # no influence on a score
    "optim": "adamw_torch_fused",
    "weight_decay": 0.0,  # without it, AdamW is Adam
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1.0,
}
