"""The LSTM classifiers of the paper's study of reviews."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_elmix.study.models import StudyModel

__all__ = ["PAD", "LSTMClassifier"]

PAD = 0  # the token id that fills up short rows of a batch


class LSTMClassifier(StudyModel):
    """An embedding, LSTM layers and a linear layer on the last state, with PyTorch's initial weights.

    Args:
        vocabulary: Number of token ids; `PAD` is one of them.
        classes: C, the number of classes.
        layers: Number of LSTM layers.
        width: Width of the embedding and of each layer.
    """

    def __init__(self, vocabulary: int, classes: int, layers: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.classifier = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        """The logits (rows, C) of token ids (rows, T), each row with one token or more before its padding.

        The state after the last true token does not depend on the padding behind it, so it is that of a packed
        sequence, which PyTorch computes five times as slowly on processors (`tests/benchmarks/bench_reviews.py`).
        """
        states, _ = self.lstm(self.embedding(input_ids))
        last = (input_ids != PAD).sum(1) - 1
        return {"logits": self.classifier(states[torch.arange(len(states), device=states.device), last])}
