"""The other losses that the paper names, as functions of (logits, labels).

Most of them are, like the mixed loss, scalar functions of the cross entropy CE = −log p_y of a sample. Those have a
second form here, of the cross entropy alone (`OF_CROSS_ENTROPY`), which whoever has it already can use: the Trainer,
or a kernel that computes it without ever holding the logits. Each takes the same keyword arguments besides its own
(`hf_elmix.losses.Reductions`), and treats ignored labels, half precision and extreme logits as `mixed_loss` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_elmix.losses.reduction import Reductions, Samples, of_batch

__all__ = [
    "OF_CROSS_ENTROPY",
    "complement_entropy",
    "focal_loss",
    "generalized_cross_entropy",
    "mae_loss",
    "mpce_loss",
    "tamed_cross_entropy",
]


def focal_loss(
    logits: Tensor, labels: Tensor, gamma: float = 2.0, alpha: float = 1.0, **reductions: Unpack[Reductions]
) -> Tensor:
    """Focal loss ``-alpha (1 - p_y)^gamma log p_y`` (Eq. 2; Lin et al. 2017, arXiv:1708.02002).

    With ``gamma=0`` it is `alpha` times cross entropy. The paper uses ``gamma=2, alpha=0.25``.

    Args:
        logits: Shape (..., C).
        labels: Shape (...).
        gamma: How much samples that are right are held back, 0 or more.
        alpha: A constant factor, above 0.
        **reductions: As in `mixed_loss`.

    Returns:
        A scalar, or shape (...) with ``reduction="none"``; 0 or more.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not belong together, or an argument is outside its range.
    """
    return _of_ce(logits, labels, lambda ce: _focal(ce, gamma, alpha), **reductions)


def mae_loss(logits: Tensor, labels: Tensor, **reductions: Unpack[Reductions]) -> Tensor:
    """Mean absolute error ``|onehot(y) - p|_1 = 2 (1 - p_y)`` (Eq. 3; Ghosh et al. 2017, arXiv:1712.09482).

    It is twice the expectation loss.

    Args:
        logits: Shape (..., C).
        labels: Shape (...).
        **reductions: As in `mixed_loss`.

    Returns:
        A scalar, or shape (...) with ``reduction="none"``; in [0, 2] where nothing is weighted.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not belong together, or an argument is outside its range.
    """
    return _of_ce(logits, labels, _mae, **reductions)


def generalized_cross_entropy(
    logits: Tensor, labels: Tensor, q: float = 0.7, k: float | None = None, **reductions: Unpack[Reductions]
) -> Tensor:
    """Generalised cross entropy ``L_q = (1 - p_y^q) / q`` (Zhang and Sabuncu 2018, arXiv:1805.07836).

    With ``q=0`` it is cross entropy, the limit, with ``q=1`` expectation loss. Given `k`, it is the truncated form:
    constant, without gradient, where ``p_y <= k``.

    Args:
        logits: Shape (..., C).
        labels: Shape (...).
        q: In [0, 1]; 0.7 in its source.
        k: Probability in (0, 1) up to which a sample is left alone; 0.5 in its source. Left out, none is.
        **reductions: As in `mixed_loss`.

    Returns:
        A scalar, or shape (...) with ``reduction="none"``; 0 or more.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not belong together, or an argument is outside its range.
    """
    return _of_ce(logits, labels, lambda ce: _generalized(ce, q, k), **reductions)


def tamed_cross_entropy(logits: Tensor, labels: Tensor, a: float = 0.2, **reductions: Unpack[Reductions]) -> Tensor:
    """Tamed cross entropy ``((1 - log p_y)^(1-a) - 1) / (1 - a)`` (Eq. 4; Martinez and Stiefelhagen 2018, 1810.05075).

    With ``a=0`` it is cross entropy, with ``a=1`` the limit ``log(1 - log p_y)``.

    Args:
        logits: Shape (..., C).
        labels: Shape (...).
        a: How much large losses are tamed, 0 or more.
        **reductions: As in `mixed_loss`.

    Returns:
        A scalar, or shape (...) with ``reduction="none"``; 0 or more.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not belong together, or an argument is outside its range.
    """
    return _of_ce(logits, labels, lambda ce: _tamed(ce, a), **reductions)


def mpce_loss(logits: Tensor, labels: Tensor, **reductions: Unpack[Reductions]) -> Tensor:
    """Maximum-probability cross entropy ``-(max_j p_j - p_y) log p_y`` (Eq. 7; Zhou et al. 2019).

    It is 0, without gradient, wherever the prediction is right.

    Args:
        logits: Shape (..., C).
        labels: Shape (...).
        **reductions: As in `mixed_loss`.

    Returns:
        A scalar, or shape (...) with ``reduction="none"``; 0 or more.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not belong together, or an argument is outside its range.
    """
    return of_batch(logits, labels, _mpce, **reductions)


def complement_entropy(logits: Tensor, labels: Tensor, **reductions: Unpack[Reductions]) -> Tensor:
    """Entropy of the wrong classes, ``p_j / (1 - p_y)`` over j ≠ y, divided by C - 1 (Eq. 6; Chen et al. 2019, COT).

    Complement objective training (arXiv:1903.01182) *maximises* it in a second pass after each step on cross entropy
    (see `ComplementTrainer`).

    Args:
        logits: Shape (..., C) with three classes or more.
        labels: Shape (...).
        **reductions: As in `mixed_loss`.

    Returns:
        A scalar, or shape (...) with ``reduction="none"``; in nats, from 0 to ``log(C - 1) / (C - 1)``.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If there are fewer than three classes, the shapes do not belong together, or an argument is
            outside its range.
    """
    return of_batch(logits, labels, _complement, **reductions)


def _focal(ce: Tensor, gamma: float, alpha: float) -> Tensor:
    if not gamma >= 0 or not 0 < alpha < math.inf:
        raise ValueError(f"Expected gamma to be 0 or more and alpha above 0, but got gamma={gamma}, alpha={alpha}.")
    # At p_y = 1 the power has no finite slope for gamma < 1, and none is needed: there the loss and its slope are 0.
    wrong = -torch.expm1(-ce)
    return alpha * wrong.where(wrong > 0, 1).pow(gamma) * ce


def _mae(ce: Tensor) -> Tensor:
    return -2 * torch.expm1(-ce)


def _generalized(ce: Tensor, q: float, k: float | None = None) -> Tensor:
    if not 0 <= q <= 1:
        raise ValueError(f"Expected q to be in [0, 1], but got {q}.")
    if k is not None:
        if not 0 < k < 1:
            raise ValueError(f"Expected k to be in (0, 1), but got {k}.")
        ce = ce.clamp(max=-math.log(k))
    return ce if q == 0 else -torch.expm1(-q * ce) / q


def _tamed(ce: Tensor, a: float) -> Tensor:
    if not 0 <= a < math.inf:
        raise ValueError(f"Expected a to be 0 or more, but got {a}.")
    if a == 0:
        return ce
    return torch.log1p(ce) if a == 1 else torch.expm1((1 - a) * torch.log1p(ce)) / (1 - a)


def _mpce(batch: Samples) -> Tensor:
    log_p = F.log_softmax(batch.logits, dim=-1)
    log_p_y = log_p.gather(-1, batch.index[:, None]).squeeze(-1)
    top = log_p.max(dim=-1).values
    # max p - p_y as a product, so that it is exactly 0 where both are the same, and exact where they are close.
    return -top.exp() * -torch.expm1(log_p_y - top) * log_p_y


def _complement(batch: Samples) -> Tensor:
    classes = batch.logits.shape[-1]
    if classes < 3:
        raise ValueError(
            f"Expected three classes or more, but got {classes}: with one wrong class its share of the wrong "
            "probability is always 1, and the complement entropy 0."
        )
    true = F.one_hot(batch.index, classes).bool()
    log_share = F.log_softmax(batch.logits.masked_fill(true, -math.inf), dim=-1)
    return -(log_share.exp() * log_share.where(log_share.isfinite(), 0)).sum(-1) / (classes - 1)


OF_CROSS_ENTROPY: Mapping[Callable[..., Tensor], Callable[..., Tensor]] = MappingProxyType(
    {
        focal_loss: _focal,
        mae_loss: _mae,
        generalized_cross_entropy: _generalized,
        tamed_cross_entropy: _tamed,
    }
)
"""For each loss that is a function of a sample's cross entropy alone, that function, with the loss's own arguments."""


def _of_ce(logits: Tensor, labels: Tensor, function: Callable[[Tensor], Tensor], **how: Unpack[Reductions]) -> Tensor:
    return of_batch(logits, labels, lambda batch: function(_minus_log_p(batch)), **how)


def _minus_log_p(batch: Samples) -> Tensor:
    """Cross entropy of each sample, 0 where it does not count."""
    return F.cross_entropy(batch.logits, batch.index, reduction="none").where(batch.counted, 0)
