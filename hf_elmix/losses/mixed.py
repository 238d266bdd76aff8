"""Cross entropy, expectation loss and their mixture, as functions of (logits, labels).

Since CE = −log p_y for one sample, p_y = exp(−CE), and the mixed loss (Eq. 12) is a function of the cross entropy,

    L = α · CE + β · (1 − exp(−CE)),

and its gradient is that of the cross entropy (Eq. 8) times α + β · p_y (Eq. 13). It takes a single cross-entropy call:
no second softmax, stable for any logits, and an ignored label (CE = 0) contributes nothing.
"""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_elmix.losses.reduction import Reduction, Reductions, Samples, reduced, samples

__all__ = ["cross_entropy", "expectation_loss", "loss_terms", "mix", "mixed_loss"]


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, **reductions: Unpack[Reductions]
) -> Tensor:
    """Cross entropy ``-log p_y`` (Eq. 1), in nats: `mixed_loss` with ``alpha=1, beta=0``."""
    return mixed_loss(logits, labels, 1.0, 0.0, label_smoothing=label_smoothing, **reductions)


def expectation_loss(logits: Tensor, labels: Tensor, **reductions: Unpack[Reductions]) -> Tensor:
    """Expectation loss ``1 - p_y`` (Eq. 9), the expected zero-one loss of a label drawn from the softmax, in [0, 1].

    It is `mixed_loss` with ``alpha=0, beta=1``.
    """
    return mixed_loss(logits, labels, 0.0, 1.0, **reductions)


def mixed_loss(
    logits: Tensor,
    labels: Tensor,
    alpha: float,
    beta: float,
    *,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """Mixture ``alpha * CE + beta * EL`` of cross entropy and expectation loss (Eq. 12).

    Its gradient in the logit of class j is ``(alpha + beta * p_y) * (p_j - [j = y])`` (Eq. 13).

    Args:
        logits: Shape (..., C), of any floating type; half precision is reduced in float32.
        labels: Shape (...), integer class ids in [0, C) or ``ignore_index``.
        alpha: Weight of the cross entropy.
        beta: Weight of the expectation loss.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``; see `Reductions`.
        ignore_index: Label of ignored samples.
        weight: Shape (C,), a factor for every sample of a class, in both terms.
        label_smoothing: Share of the target spread evenly over the classes, in the cross-entropy term only.
        num_items: Divisor of the mean in place of the local count; see `Reductions`.

    Returns:
        A scalar, or shape (...) with ``reduction="none"``. A mean over no labels at all is 0, with zero gradient.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not match, or an argument is outside its range.
    """
    ce, el, batch = loss_terms(logits, labels, ignore_index, weight, label_smoothing)
    return reduced(mix(ce, el, alpha, beta), batch.counts, reduction=reduction, num_items=num_items)


def loss_terms(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = -100,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Samples]:
    """Both terms of the mixed loss for each sample, from one cross-entropy call.

    The arguments and errors are those of `mixed_loss`.

    Returns:
        Cross entropy in nats (smoothed, weighted) and expectation loss (weighted), each of shape (...); and the
        flattened batch, whose `counts` are the weights of the samples in a mean.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"Expected label_smoothing to be in [0, 1], but got {label_smoothing}.")
    batch = samples(logits, labels, ignore_index, weight)
    if label_smoothing:
        ce, smoothed = _smoothed_cross_entropy(batch, weight, label_smoothing)
    else:
        ce = F.cross_entropy(batch.logits, batch.labels, ignore_index=ignore_index, reduction="none")
        smoothed = ce if weight is None else ce * batch.counts
    el = -torch.expm1(-ce)
    el = el if weight is None else el * batch.counts
    return batch.unflatten(smoothed), batch.unflatten(el), batch


def mix(ce: Tensor, el: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * ce + beta * el`` (Eq. 12), of any shape; a term with weight 0 is left out, because 0 * inf is NaN."""
    if not beta:
        return ce if alpha == 1 else alpha * ce
    return (alpha * ce).add(el, alpha=beta) if alpha else beta * el


def _smoothed_cross_entropy(batch: Samples, weight: Tensor | None, smoothing: float) -> tuple[Tensor, Tensor]:
    """Plain (unweighted) and smoothed (weighted) cross entropy of each sample, from one log-softmax.

    With class weights, each class's share of the smoothed target has the weight of that class, as in PyTorch.
    """
    minus_log_p = -F.log_softmax(batch.logits, dim=-1)
    ce = minus_log_p.gather(-1, batch.index[:, None]).squeeze(-1).where(batch.counted, 0)
    if weight is None:
        return ce, (1 - smoothing) * ce + smoothing * minus_log_p.mean(-1).where(batch.counted, 0)
    weight = weight.to(minus_log_p)
    spread = (minus_log_p @ weight / minus_log_p.shape[-1]).where(batch.counted, 0)
    return ce, (1 - smoothing) * ce * weight[batch.index] + smoothing * spread
