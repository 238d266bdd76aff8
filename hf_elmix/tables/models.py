"""The two classifiers of the paper's study of tables."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from hf_elmix.errors import not_one_of
from hf_elmix.study.models import StudyModel
from hf_elmix.tables.protocol import MODELS

__all__ = ["TableClassifier"]


class TableClassifier(StudyModel):
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
