"""A classifier that predicts the class of the nearest centre, for training with the Max-Mahalanobis loss."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_elmix.errors import UsageError
from hf_elmix.losses.mahalanobis import center_logits, max_mahalanobis_centers
from hf_elmix.training.model_support import base_model, check_class_logits

__all__ = ["MahalanobisHead", "use_mahalanobis_head"]

SCALE = 10.0


class MahalanobisHead(nn.Linear):
    """Max-Mahalanobis centres in place of a linear classifier; the logits are ``-|z - mu_j|^2 / 2`` (`center_logits`).

    The loss of a sample is minus the logit of the label (Eq. 5; `hf_elmix.losses.mmc_loss`). The centres are the
    weight, and are not trained.

    The parameters have the names and shapes of the linear layer that they replace. Loaded into that layer, they
    predict the same probabilities, because all logits are then larger by ``(|z|^2 + scale^2) / 2``.

    Args:
        in_features: Number of features, ``num_classes - 1`` or more.
        num_classes: C, 2 or more.
        scale: Length of each centre.
        bias: Whether to have a bias (which stays 0), as in the layer that it replaces.
        device: Device of the centres.
        dtype: Type of the centres. Half precision rounds them; logits are computed and returned in float32.

    Raises:
        ValueError: If there are too few features or classes, or `scale` is not a number above 0.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        scale: float = SCALE,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.scale = float(scale)
        super().__init__(in_features, num_classes, bias, device, dtype)
        self.requires_grad_(False)
        self._is_hf_initialized = True  # so that transformers draws no random weights

    def reset_parameters(self) -> None:
        """Set the weight to the centres instead of random numbers."""
        centers = max_mahalanobis_centers(self.out_features, self.in_features, self.scale)
        with torch.no_grad():
            self.weight.copy_(centers)
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, input: Tensor) -> Tensor:
        """Logits (..., C), in float32 or wider, of features z (..., dim)."""
        return center_logits(input, self.weight)

    def extra_repr(self) -> str:
        """The representation of a linear layer, with the scale."""
        return f"{super().extra_repr()}, scale={self.scale:g}"


def use_mahalanobis_head(model: nn.Module, scale: float | None = None) -> MahalanobisHead:
    """Replace the classifier of a transformers model by a `MahalanobisHead`.

    Then ``F.nll_loss(logits, labels)`` is the Max-Mahalanobis centre loss. The saved model loads without this package
    and predicts the same; call this function again to train it further. The scale is stored in the model's config
    (``mahalanobis_scale``). No random numbers are drawn.

    Args:
        model: A sequence or image classifier that is not wrapped or passed to a Trainer yet.
        scale: Length of each centre; by default that in the config, else 10.

    Returns:
        The head, which is now part of the model.

    Raises:
        UsageError: If the model does not have exactly one classifier, is for regression or multi-label
            classification, has too few features, or is wrapped by PEFT.
    """
    if base_model(model) is not model:
        raise UsageError(
            "Expected a model that PEFT has not wrapped yet, because PEFT trains a copy of the classifier and the "
            "centres must not change. Call use_mahalanobis_head before get_peft_model, and give the LoraConfig no "
            "task_type (SEQ_CLS copies the classifier)."
        )
    check_class_logits(model)
    if getattr(getattr(model, "config", None), "problem_type", None) == "multi_label_classification":
        raise UsageError(f"{type(model).__name__} is multi-label, and a Max-Mahalanobis head needs one true class.")
    path = _classifier(model)
    old, config = cast(nn.Linear, model.get_submodule(path)), cast(PreTrainedConfig, model.config)
    scale = getattr(config, "mahalanobis_scale", SCALE) if scale is None else scale
    shape = (old.in_features, old.out_features, scale, old.bias is not None)
    try:
        head = MahalanobisHead(*shape, old.weight.device, old.weight.dtype)
    except ValueError as error:
        raise UsageError(f"{type(model).__name__} cannot have a Max-Mahalanobis head. {error}") from error
    model.set_submodule(path, head)
    config.mahalanobis_scale = head.scale
    return head


def _classifier(model: nn.Module) -> str:
    """Name of the one linear layer with an output for each class, outside the encoder."""
    labels = getattr(getattr(model, "config", None), "num_labels", None)
    encoder = f"{getattr(model, 'base_model_prefix', '')}."
    linear = {
        name: module.out_features
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(encoder)
    }
    found = [name for name, outputs in linear.items() if outputs == labels]
    if len(found) != 1:
        layers = ", ".join(f"{name} ({outputs} outputs)" for name, outputs in linear.items()) or "none"
        raise UsageError(
            f"Expected {type(model).__name__} to have one linear layer with num_labels={labels} outputs after its "
            f"encoder, but its linear layers are: {layers}."
        )
    return found[0]
