"""Classifiers of our own as models of a study."""

from __future__ import annotations

from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

__all__ = ["StudyModel"]


class StudyModel(nn.Module, PyTorchModelHubMixin):
    """A classifier without a configuration of transformers, which can be saved and published."""

    config = None  # a Trainer asks for one where labels are smoothed

    @classmethod
    def seeded(cls, seed: int, *args: Any, **kwargs: Any) -> Self:
        """A model whose initial weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(*args, **kwargs)
