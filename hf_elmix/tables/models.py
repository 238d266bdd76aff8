"""The two classifiers of the paper's study of tables."""

from __future__ import annotations

from collections import OrderedDict

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from hf_elmix.errors import not_one_of
from hf_elmix.tables.protocol import MODELS

__all__ = ["TableClassifier"]


class TableClassifier(nn.Module, PyTorchModelHubMixin):
    """A classifier of rows of numbers, with PyTorch's initial weights.

    Args:
        features: I, the number of features.
        classes: C, the number of classes.
        model: ``linear`` (one layer, I x C) or ``hidden`` (I x I, ReLU, I x C).

    Raises:
        UsageError: If the model is neither.
    """

    def __init__(self, features: int, classes: int, model: str = MODELS[0]) -> None:
        super().__init__()
        if model not in MODELS:
            raise not_one_of("the model", MODELS, model)
        hidden = [("hidden", nn.Linear(features, features)), ("relu", nn.ReLU())] if model == "hidden" else []
        self.layers = nn.Sequential(OrderedDict([*hidden, ("classifier", nn.Linear(features, classes))]))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """The logits (..., C) of features (..., I)."""
        return {"logits": self.layers(features)}

    @staticmethod
    def seeded(seed: int, features: int, classes: int, model: str) -> TableClassifier:
        """A model whose initial weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TableClassifier(features, classes, model)
