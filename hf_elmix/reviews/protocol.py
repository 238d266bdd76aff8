"""The protocol of the paper's study of reviews (section *LSTM multi-class classification*), each value with its source.

Importing it is fast, as a command line needs.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ARGUMENTS",
    "ARCHITECTURES",
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
LEAST_COUNT = 2  # ours: how often a word occurs in the training rows to be in the vocabulary; the paper does not say
MAX_LENGTH = 256  # ours: words of a review that are read; the longest of the paper's data has fewer

# Layers, and width of the layers and of the embedding, in the order of the paper's Table 3.
ARCHITECTURES = {"lstm-1x50": (1, 50), "lstm-1x75": (1, 75), "lstm-1x100": (1, 100), "lstm-2x50": (2, 50)}
ARCHITECTURES |= {"lstm-2x100": (2, 100)}
SEEDS = (0, 1, 2, 3, 4, 5, 6, 7)  # paper: eight; it does not say which
LOSSES = ("ce", "0", "0,0.5", "0-0.5")  # paper

# Ours, as the paper does not say. The best epoch by validation counts: in four of the paper's five architectures, F = 0
# and F = 0,0.5, which differ in the last 5 % of training, have the same mean and deviation.
ARGUMENTS: dict[str, Any] = {
    "num_train_epochs": 10,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,  # no influence on a score
    "optim": "adamw_torch_fused",  # without weight decay it is Adam
    "weight_decay": 0.0,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1.0,
    "train_sampling_strategy": "group_by_length",  # batches of reviews of similar length, drawn anew in each epoch
}
