"""The paper's recipes for images, each value with its source: a section or table of the paper, or *ours*.

Importing it is fast, as a command line needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from hf_elmix.errors import UsageError, did_you_mean

__all__ = ["ARCHITECTURES", "LOSSES", "RECIPES", "REGULARIZATION", "SEEDS", "Recipe", "recipe_of"]

SEEDS = (0, 1, 2, 3)  # paper: four for CIFAR-100, three for CINIC-10, two for ImageNet; which ones is ours
LOSSES = ("ce", "0", "0,0.5", "0-0.5")  # paper: Tables 1 and 2

# Architectures by name: module and function of pytorchcv, and its arguments.
_CIFAR = "resnet_cifar", "get_resnet_cifar"
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "shufflenetv2": ("shufflenetv2", "shufflenetv2_w1", {}),  # Tables 1, 2; width 1 is ours
    "resnet20": (*_CIFAR, {"num_classes": 100, "blocks": 20, "bottleneck": False}),  # Table 1
    "resnet32": (*_CIFAR, {"num_classes": 100, "blocks": 32, "bottleneck": False}),  # Table 1
    "resnet44": (*_CIFAR, {"num_classes": 100, "blocks": 44, "bottleneck": False}),  # Table 1
    "resnet110": (*_CIFAR, {"num_classes": 100, "blocks": 110, "bottleneck": False}),  # Table 5
    "resnet18": ("resnet", "resnet18", {}),  # Tables 1, 2
    "resnet34": ("resnet", "resnet34", {}),  # Tables 1, 2, 6
    "preresnet18": ("preresnet", "preresnet18", {}),  # Tables 1, 5
    "resnext29": ("resnext_cifar", "resnext29_32x4d_cifar100", {}),  # Tables 1, 5; 32 groups of 4 is ours
    "resnet50": ("resnet", "resnet50b", {}),  # Tables 2, 5; PyTorch's, whose stride is in the 3 x 3 convolution
    "resnet101": ("resnet", "resnet101b", {}),  # Tables 2, 5
    "resnext50": ("resnext", "resnext50_32x4d", {}),  # Table 2; 32 groups of 4, as PyTorch's
    "resnext101": ("resnext", "get_resnext", {"blocks": 101, "cardinality": 32, "bottleneck_width": 8}),  # Table 2
}


@dataclass(frozen=True)
class Recipe:
    """How models are trained on images.

    Attributes:
        models: Names of the architectures, see `ARCHITECTURES`.
        epochs: Passes through the training rows.
        drops: Epochs after which the learning rate is divided by ten; with another number of epochs, they move along.
        batch: Training rows in a step.
        size: Height and width of the images in pixels, or None for that of the files.
        resized_crop: Train on a random part of an image, enlarged or reduced to `size`, and evaluate on its centre.
            Otherwise an image is moved by up to four pixels, and evaluated as it is.
        rotation: Largest angle by which images are turned, in degrees, for models of more than a million parameters.
        erasing: Probability with which a rectangle of an image is erased.
        jitter: Largest relative change of brightness, contrast and saturation.
        dropout: Probability with which a feature before the classifier is dropped.
    """

    models: tuple[str, ...]
    epochs: int
    drops: tuple[int, ...]
    batch: int = 128  # ours: the paper does not say
    size: int | None = None
    resized_crop: bool = False
    rotation: float = 0.0
    erasing: float = 0.0
    jitter: float = 0.0
    dropout: float = 0.0

    @property
    def arguments(self) -> dict[str, Any]:
        """The training arguments, without those of the learning rate's drops."""
        return {
            "num_train_epochs": self.epochs,
            "per_device_train_batch_size": self.batch,
            "per_device_eval_batch_size": 250,  # no influence on a score
            "learning_rate": 0.1,  # paper: Recognition in CIFAR100 and CINIC10; ImageNet
            "optim": "sgd",  # paper: the same
            "optim_args": "momentum=0.9",  # paper: the same; for ImageNet that of PyTorch's script
            "weight_decay": 1e-4,  # paper: the same; the Trainer spares biases
            "lr_scheduler_type": "constant",  # with the drops
            "max_grad_norm": 0.0,  # ours: gradients are not clipped
        }

    @property
    def shares(self) -> tuple[Fraction, ...]:
        """The shares of all steps after which the learning rate is divided by ten."""
        return tuple(Fraction(drop, self.epochs) for drop in self.drops)


_TABLE1 = (
    *("shufflenetv2", "resnet20", "resnet32", "resnet44"),
    *("resnet18", "resnet34", "preresnet18", "resnext29"),
)
RECIPES = {
    # Table 1. Crop, flip and normalization are the paper's; a margin of 4 pixels is ours ("standard").
    "cifar100": Recipe(_TABLE1, epochs=240, drops=(120, 160, 200)),
    # Table 1. Rotation for models of more than a million parameters is the paper's; its 15 degrees are ours.
    "cinic10": Recipe(_TABLE1, epochs=90, drops=(30, 60), rotation=15.0),
    # Table 2. Resizing, crop to 224, flip, central crop and drops are the paper's; the batch is PyTorch's script's.
    "imagenet": Recipe(
        ("resnet18", "resnet34", "resnet50", "resnet101", "shufflenetv2", "resnext50", "resnext101"),
        epochs=90,
        drops=(30, 60),
        batch=256,
        size=224,
        resized_crop=True,
    ),
    # Table 5: epochs and drops are those of Chen et al. (2019), as the paper says.
    "cot": Recipe(("resnet110", "preresnet18", "resnext29"), epochs=200, drops=(100, 150)),
    # A Motivating Example: model and epochs are the paper's; the drops are ours, those of its other 90 epochs.
    "motivating": Recipe(("resnet32",), epochs=90, drops=(30, 60)),
}

# Table 6, each on top of a recipe.
REGULARIZATION: dict[str, dict[str, float]] = {
    "erasing": {"erasing": 0.5},  # paper: Random Erasing; its probability is ours, that of its authors
    "no_rotation": {"rotation": 0.0},  # paper: Random Erasing w/o rotation
    "jitter": {"jitter": 0.4},  # paper: Color jitter; its size is ours
    "dropout": {"dropout": 0.2},  # paper
}


def recipe_of(name: str, *, regularization: Iterable[str] = (), size: int | None = None) -> Recipe:
    """A recipe, with further regularization and another size of images.

    Args:
        name: One of `RECIPES`.
        regularization: Names of `REGULARIZATION`.
        size: Height and width of the images.

    Raises:
        UsageError: If a name does not exist, or there is no rotation to leave out.
    """
    wanted = list(regularization)
    known: list[tuple[str, Mapping[str, Any]]] = [(name, RECIPES), *((each, REGULARIZATION) for each in wanted)]
    for given, names in known:
        if given not in names:
            raise UsageError(f"Expected one of {', '.join(names)}, but got {given!r}.{did_you_mean(given, names)}")
    recipe = RECIPES[name]
    if "no_rotation" in wanted and not recipe.rotation:
        raise UsageError(f"The recipe {name!r} rotates no images. Leave no_rotation out.")
    changes: dict[str, Any] = {key: value for each in wanted for key, value in REGULARIZATION[each].items()}
    return replace(recipe, **changes, size=recipe.size if size is None else size)
