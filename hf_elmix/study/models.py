"""What studies of our own classifiers share: their base class, and how they are scored."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from transformers import EvalPrediction

from hf_elmix.predictions.class_counts import class_counts

__all__ = ["StudyModel", "accuracy", "predicted"]


class StudyModel(nn.Module, PyTorchModelHubMixin):
    """A classifier without a configuration of transformers, which can be saved and published."""

    config = None  # a Trainer asks for one where labels are smoothed

    @classmethod
    def seeded(cls, seed: int, *args: Any, **kwargs: Any) -> Self:
        """A model whose initial weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(*args, **kwargs)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of rows whose largest logit is that of their class, and what `class_counts` gives."""
    classes, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    return {"accuracy": float(np.count_nonzero(classes == labels) / len(labels)), **class_counts(classes, labels)}


def predicted(logits: Tensor, labels: Tensor) -> Tensor:
    """The predicted class of each row (rows,)."""
    return logits.argmax(-1)
