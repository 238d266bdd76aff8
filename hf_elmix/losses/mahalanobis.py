"""The Max-Mahalanobis centre loss (Eq. 5; Pang et al. 2019, arXiv:1905.10626), a function of features.

Each class has a fixed centre, as far as possible from all others: the centres are the corners of a regular simplex
around 0 (Pang et al. 2018, arXiv:1802.09308). The loss of a sample is half the squared distance of its features from
the centre of its class, and the predicted class is that of the nearest centre. If minus half the squared distances are
the logits, the loss is minus the logit of the label.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_elmix.losses.baselines import MaxMahalanobis
from hf_elmix.losses.reduction import Reductions

__all__ = ["center_logits", "max_mahalanobis_centers", "mmc_loss"]


def max_mahalanobis_centers(
    num_classes: int,
    dim: int,
    scale: float = 10.0,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Centres of the classes: vectors of length `scale` whose pairwise cosine is ``-1 / (C - 1)``.

    This is the papers' simplex, rotated by a cosine transform so that every centre uses all features, with both signs.
    In the papers' coordinates, which suit the output of a linear layer, the last class could not be predicted after a
    ReLU, and no centre of length 10 could be reached after a tanh.

    Args:
        num_classes: C, 2 or more.
        dim: Number of features, C - 1 or more (C or more for non-negative features).
        scale: Length of each centre; 10 in the papers' code.
        dtype: Type of the result; by default, PyTorch's default type.
        device: Device of the result; by default, PyTorch's default device.

    Returns:
        Shape (C, dim), the same on every call. The centres add up to 0.

    Raises:
        ValueError: If an argument is outside its range.
    """
    if num_classes < 2:
        raise ValueError(f"Expected two classes or more, but got {num_classes}.")
    if dim < num_classes - 1:
        raise ValueError(
            f"Expected {num_classes - 1} features or more, for {num_classes} centres equally far apart, but got {dim}."
        )
    if not 0 < scale < math.inf:
        raise ValueError(f"Expected scale to be a number above 0, but got {scale}.")
    centers = scale * _simplex(num_classes) @ _cosines(num_classes - 1, dim)
    return centers.to(device or torch.get_default_device(), dtype or torch.get_default_dtype())


def mmc_loss(features: Tensor, labels: Tensor, centers: Tensor, **reductions: Unpack[Reductions]) -> Tensor:
    """Max-Mahalanobis centre loss ``|z - mu_y|^2 / 2`` (Eq. 5), whose gradient in the features is ``z - mu_y``.

    Args:
        features: z, shape (..., dim), of any floating type.
        labels: Shape (...), integer class ids in [0, C) or ``ignore_index``.
        centers: mu, shape (C, dim), as from `max_mahalanobis_centers`.
        **reductions: As in `mixed_loss`.

    Returns:
        A scalar, or shape (...) with ``reduction="none"``; 0 or more.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not match, or an argument is outside its range.
    """
    if features.shape[:-1] != labels.shape:
        raise ValueError(
            f"Expected features of shape (..., dim) and labels of shape (...), but got features "
            f"{tuple(features.shape)} and labels {tuple(labels.shape)}."
        )
    return MaxMahalanobis()(center_logits(features, centers), labels, **reductions)


def center_logits(features: Tensor, centers: Tensor) -> Tensor:
    """Logits ``-|z - mu_j|^2 / 2``, the largest being that of the nearest centre.

    Their softmax is the probability of each class if classes are equally frequent and normally distributed around
    their centres with variance 1. They differ from linear logits ``z·μ_j`` by a term that all classes share.

    Args:
        features: z, shape (..., dim), of any floating type.
        centers: mu, shape (C, dim).

    Returns:
        Shape (..., C), 0 or less; in float32 for half precision, also under autocast.

    Raises:
        ValueError: If the shapes do not match.
    """
    if centers.dim() != 2 or features.shape[-1:] != centers.shape[1:]:
        raise ValueError(
            f"Expected features of shape (..., dim) and centers of shape (C, dim), but got features "
            f"{tuple(features.shape)} and centers {tuple(centers.shape)}."
        )
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    centers = centers.to(features)
    with torch.autocast(features.device.type, enabled=False):
        # From the expanded square alone, small distances would be lost in the rounding of large squares (and of TF32).
        # It only gives how much farther away the other centres are; the nearest distance is computed directly.
        scores = F.linear(features, centers, -centers.square().sum(-1) / 2)
        best = scores.max(-1, keepdim=True)
        nearest = (features - centers[best.indices.squeeze(-1)]).square().sum(-1, keepdim=True) / 2
        return scores - best.values - nearest


def _simplex(num_classes: int) -> Tensor:
    """Unit vectors of shape (C, C - 1), in float64: the closed form of the papers' recursion.

    Class j is the first to use coordinate j. All later classes share one value there, which makes the column sum 0.
    """
    later = _steps(num_classes - 1).flip(0)  # classes after j
    first = (num_classes * later / ((num_classes - 1) * (later + 1))).sqrt()
    rest = (-first / later).expand(num_classes, -1).tril(-1)
    return rest + F.pad(first.diag(), (0, 0, 0, 1))


def _cosines(count: int, dim: int) -> Tensor:
    """Orthonormal rows of shape (count, dim), in float64: a cosine transform (DCT-II) with its constant row last."""
    rows = torch.cos(math.pi / dim * torch.outer(_steps(count).remainder(dim), _steps(dim) - 0.5))
    return F.normalize(rows, dim=-1)


def _steps(count: int) -> Tensor:
    """1, 2, ..., `count` in float64, on the CPU because not every device has that type."""
    return torch.arange(1, count + 1, dtype=torch.float64, device="cpu")
