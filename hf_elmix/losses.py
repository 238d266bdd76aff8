"""Cross entropy, expectation loss and their mixture, as functions of (logits, labels).

Everything rests on one identity. With CE = −log p_y for one sample, p_y = exp(−CE), so the mixed loss (Eq. 12) is a
scalar function of the per-sample cross entropy,

    L = α · CE + β · (1 − exp(−CE)),

and its gradient is the cross-entropy gradient (Eq. 8) times α + β · p_y (Eq. 13). One cross-entropy call is all that
is computed: no second softmax, stable for any logits, and an ignored label (CE = 0) contributes nothing.

Shapes, in every function: ``logits`` (..., C) of any floating type, ``labels`` (...) of class ids in [0, C) or
``ignore_index``. Half-precision logits are reduced in float32, and the result is then float32. Units: cross entropy is
in nats, 0 or more; the expectation loss is a probability, in [0, 1].
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cross_entropy", "divisor", "expectation_loss", "loss_terms", "mix", "mixed_loss", "total_of"]

Reduction = Literal["mean", "sum", "none"]


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """Cross entropy ``-log p_y`` (Eq. 1), in nats: `mixed_loss` with ``alpha=1, beta=0``.

    Args:
        logits: Shape (..., C).
        labels: Shape (...).
        reduction: As in `mixed_loss`.
        ignore_index: As in `mixed_loss`.
        weight: Shape (C,), as in `mixed_loss`.
        label_smoothing: As in `mixed_loss`.
        num_items: As in `mixed_loss`.

    Returns:
        A scalar, or shape (...) with ``reduction="none"``.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not belong together, or an argument is outside its range.
    """
    return mixed_loss(
        logits,
        labels,
        1.0,
        0.0,
        reduction=reduction,
        ignore_index=ignore_index,
        weight=weight,
        label_smoothing=label_smoothing,
        num_items=num_items,
    )


def expectation_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    weight: Tensor | None = None,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """Expectation loss ``1 - p_y`` (Eq. 9), the expected zero-one loss of a label drawn from the softmax.

    It is `mixed_loss` with ``alpha=0, beta=1``.

    Args:
        logits: Shape (..., C).
        labels: Shape (...).
        reduction: As in `mixed_loss`.
        ignore_index: As in `mixed_loss`.
        weight: Shape (C,), as in `mixed_loss`.
        num_items: As in `mixed_loss`.

    Returns:
        A scalar, or shape (...) with ``reduction="none"``; in [0, 1] where nothing is weighted.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not belong together, or an argument is outside its range.
    """
    return mixed_loss(
        logits,
        labels,
        0.0,
        1.0,
        reduction=reduction,
        ignore_index=ignore_index,
        weight=weight,
        num_items=num_items,
    )


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
        logits: Shape (..., C).
        labels: Shape (...), integer class ids in [0, C) or ``ignore_index``.
        alpha: Weight of the cross entropy.
        beta: Weight of the expectation loss.
        reduction: ``"mean"`` over the labels that count (by their class weight where ``weight`` is given, as in
            ``torch.nn.functional.cross_entropy``), ``"sum"``, or ``"none"`` for a tensor shaped like ``labels``.
        ignore_index: Label that does not count.
        weight: Shape (C,), a factor for every sample of a class, in both terms.
        label_smoothing: Share of the target spread evenly over the classes, in the cross-entropy term only.
        num_items: Divisor to use instead of the local count, for a mean over more than this batch (gradient
            accumulation, several devices). Only with ``reduction="mean"``.

    Returns:
        A scalar, or shape (...) with ``reduction="none"``. A mean over no labels at all is 0, with zero gradient.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not belong together, or an argument is outside its range.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"Expected reduction to be 'mean', 'sum' or 'none', but got {reduction!r}.")
    if num_items is not None and reduction != "mean":
        raise ValueError(f"num_items divides a mean; it has no use with reduction={reduction!r}. Leave it out.")
    if isinstance(num_items, int | float) and not num_items >= 0:
        raise ValueError(f"Expected num_items to be 0 or more, but got {num_items}.")
    ce, el, counts = loss_terms(logits, labels, ignore_index, weight, label_smoothing)
    loss = mix(ce, el, alpha, beta)
    if reduction == "none":
        return loss
    total = loss.sum()
    return total if reduction == "sum" else total / divisor(counts if num_items is None else num_items, total)


def loss_terms(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = -100,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Both terms of the mixed loss for each sample, from one cross-entropy call.

    Args:
        logits: Shape (..., C).
        labels: Shape (...).
        ignore_index: Label that does not count.
        weight: Shape (C,), class weights.
        label_smoothing: Smoothing of the first term.

    Returns:
        Cross entropy in nats (smoothed, weighted), expectation loss (weighted) and the weight with which each sample
        counts in a mean (0 where ignored), each of shape (...).

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not belong together, or an argument is outside its range.
    """
    _check(logits, labels, weight, label_smoothing)
    shape, labels = labels.shape, labels.reshape(-1).long()
    logits = logits.reshape(-1, logits.shape[-1])
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    counts = labels.ne(ignore_index).to(logits.dtype)
    if label_smoothing:
        ce, smoothed = _smoothed_cross_entropy(logits, labels, ignore_index, weight, label_smoothing)
    else:
        ce = smoothed = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    el = -torch.expm1(-ce)
    if weight is not None:
        counts = counts * weight.to(counts)[labels.where(counts.bool(), 0)]
        smoothed = smoothed if label_smoothing else ce * counts
        el = el * counts
    return smoothed.reshape(shape), el.reshape(shape), counts.reshape(shape)


def divisor(count: int | Tensor, like: Tensor) -> Tensor:
    """What a mean over `count` labels is divided by: their sum, or 1 where none counts, so that the mean is 0.

    Args:
        count: Number of labels, or a tensor of any shape whose entries add up to it.
        like: Tensor that is divided.

    Returns:
        A scalar of the type and on the device of `like`.
    """
    total = total_of(count, like)
    return total.where(total > 0, 1)


def total_of(count: int | Tensor, like: Tensor) -> Tensor:
    """Sum of the counts as a scalar of the type and on the device of `like`.

    Args:
        count: A number, or a tensor of any shape.
        like: Tensor that the sum is used with.
    """
    return torch.as_tensor(count, device=like.device).sum().to(like.dtype)


def mix(ce: Tensor, el: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * ce + beta * el`` (Eq. 12); a term without weight is left out, so that 0 * inf cannot make a NaN.

    Args:
        ce: Cross entropy, of any shape.
        el: Expectation loss, of the same shape.
        alpha: Weight of the cross entropy.
        beta: Weight of the expectation loss.

    Returns:
        The shape of both.
    """
    if not beta:
        return alpha * ce
    return alpha * ce + beta * el if alpha else beta * el


def _smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int, weight: Tensor | None, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Plain (unweighted) and smoothed (weighted) cross entropy of each sample, sharing one log-softmax.

    With class weights each class's share of the smoothed target carries its own weight, as in PyTorch.
    """
    minus_log_p = -F.log_softmax(logits, dim=-1)
    counted = labels.ne(ignore_index)
    index = labels.where(counted, 0)
    ce = minus_log_p.gather(-1, index[:, None]).squeeze(-1).where(counted, 0)
    if weight is None:
        return ce, (1 - smoothing) * ce + smoothing * minus_log_p.mean(-1).where(counted, 0)
    weight = weight.to(minus_log_p)
    spread = (minus_log_p @ weight / logits.shape[-1]).where(counted, 0)
    return ce, (1 - smoothing) * ce * weight[index] + smoothing * spread


def _check(logits: Tensor, labels: Tensor, weight: Tensor | None, label_smoothing: float) -> None:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f"Expected labels to be integer class ids, but got {labels.dtype}: regression and multi-label targets "
            "have no class probability p_y."
        )
    if logits.dim() == 0 or logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"Expected logits of shape (..., C) and labels of shape (...), but got logits {tuple(logits.shape)} and "
            f"labels {tuple(labels.shape)}."
        )
    if weight is not None and weight.shape != logits.shape[-1:]:
        raise ValueError(
            f"Expected weight to have one entry for each of the {logits.shape[-1]} classes, but got shape "
            f"{tuple(weight.shape)}."
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"Expected label_smoothing to be in [0, 1], but got {label_smoothing}.")
