"""The architectures of the paper, from pytorchcv, for images of any size and any number of classes."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from hf_elmix.errors import UsageError, did_you_mean
from hf_elmix.images.recipes import ARCHITECTURES
from hf_elmix.study.models import StudyModel

__all__ = ["ImageClassifier"]


class ImageClassifier(StudyModel):
    """A classifier of images, with the initial weights of pytorchcv.

    Args:
        classes: C, the number of classes.
        model: Name of an architecture, see `hf_elmix.images.recipes.ARCHITECTURES`.
        small: Whether images are small, as in CIFAR: an architecture that begins by reducing them to a quarter then
            begins with a convolution of 3 x 3 that does not.
        dropout: Probability with which a feature before the last layer is dropped.

    Raises:
        UsageError: If the architecture does not exist.
    """

    def __init__(self, classes: int, model: str = "resnet20", small: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        network = _network(model)
        if small and hasattr(network.features.init_block, "pool"):
            network.features.init_block = _small_stem(network)
        network.features.final_pool = nn.AdaptiveAvgPool2d(1)
        classifier = nn.Linear(network.output.in_features, classes)
        network.output = nn.Sequential(nn.Dropout(dropout), classifier) if dropout else classifier
        self.network = network

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """The logits (B, C) of images (B, 3, H, W)."""
        # In this order of memory, convolutions take half as long, on processors as well as on graphics cards.
        return {"logits": self.network(pixel_values.contiguous(memory_format=torch.channels_last))}


def _network(model: str) -> Any:
    if model not in ARCHITECTURES:
        hint = did_you_mean(model, ARCHITECTURES)
        raise UsageError(f"Expected a model among {', '.join(ARCHITECTURES)}, but got {model!r}.{hint}")
    module, function, arguments = ARCHITECTURES[model]
    library = importlib.import_module(f"pytorchcv.models.{module}")  # only this one: some others need torchvision
    return getattr(library, function)(**arguments)


def _small_stem(network: Any) -> nn.Module:
    """A convolution of 3 x 3 in place of a first block that reduces images, with its number of channels."""
    first = next(part for part in network.features.init_block.modules() if isinstance(part, nn.Conv2d))
    convolution = nn.Conv2d(3, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_uniform_(convolution.weight)
    if hasattr(network.features, "post_activ"):  # units that begin with normalization
        return convolution
    return nn.Sequential(convolution, nn.BatchNorm2d(first.out_channels), nn.ReLU(inplace=True))
