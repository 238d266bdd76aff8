"""What all losses share: their checks, the labels that count, and the way from samples to one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from torch import Tensor

__all__ = [
    "Reduction",
    "Reductions",
    "Samples",
    "check_class_ids",
    "divisor",
    "reduced",
    "samples",
    "total_of",
]

Reduction = Literal["mean", "sum", "none"]


class Reductions(TypedDict, total=False):
    """The keyword arguments that every loss takes, as `hf_elmix.losses.mixed_loss` does.

    Attributes:
        reduction: ``"mean"`` over the labels that count (by their class weight where ``weight`` is given, as in
            ``torch.nn.functional.cross_entropy``; this is the default), ``"sum"``, or ``"none"`` for a tensor shaped
            like the labels.
        ignore_index: Label that does not count; -100 if left out.
        weight: Shape (C,), a factor for every sample of a class.
        num_items: Divisor to use instead of the local count, for a mean over more than this batch (gradient
            accumulation, several devices). Only with ``reduction="mean"``.
    """

    reduction: Reduction
    ignore_index: int
    weight: Tensor | None
    num_items: int | Tensor | None


@dataclass(frozen=True)
class Samples:
    """A batch as losses are computed from it.

    Attributes:
        logits: Shape (N, C), in float32 or wider.
        labels: Shape (N,); those that do not count are still the label for that.
        counts: Shape (N,), the weight with which each sample counts in a mean: 0 where it is ignored.
        counted: Shape (N,), whether it counts at all.
        shape: Of the labels as they came.
    """

    logits: Tensor
    labels: Tensor
    counts: Tensor
    counted: Tensor
    shape: torch.Size

    @property
    def index(self) -> Tensor:
        """Labels that can be looked up, shape (N,): class 0 where a sample does not count."""
        return self.labels.where(self.counted, 0)


def samples(logits: Tensor, labels: Tensor, ignore_index: int = -100, weight: Tensor | None = None) -> Samples:
    """Check a batch and lay it out flat.

    Args:
        logits: Shape (..., C), of any floating type; half precision becomes float32.
        labels: Shape (...), integer class ids in [0, C) or `ignore_index`.
        ignore_index: Label that does not count.
        weight: Shape (C,), class weights.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not belong together.
    """
    _check(logits, labels, weight)
    shape, labels = labels.shape, labels.reshape(-1).long()
    logits = logits.reshape(-1, logits.shape[-1])
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    counted = labels.ne(ignore_index)
    counts = counted.to(logits.dtype)
    if weight is not None:
        counts = counts * weight.to(counts)[labels.where(counted, 0)]
    return Samples(logits, labels, counts, counted, shape)


def reduced(
    loss: Tensor,
    counts: Tensor,
    *,
    reduction: Reduction = "mean",
    num_items: int | Tensor | None = None,
) -> Tensor:
    """Reduce losses of samples as `Reductions` says.

    Args:
        loss: Of each sample, of any shape; weighted, and 0 where it does not count.
        counts: The weight with which each sample counts, of the same shape.
        reduction: How.
        num_items: Divisor of a mean in place of the sum of `counts`.

    Returns:
        A scalar, or the shape of `loss`. A mean over no labels at all is 0, with zero gradient.

    Raises:
        ValueError: If an argument is outside its range.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"Expected reduction to be 'mean', 'sum' or 'none', but got {reduction!r}.")
    if num_items is not None and reduction != "mean":
        raise ValueError(f"num_items divides a mean; it has no use with reduction={reduction!r}. Leave it out.")
    if isinstance(num_items, int | float) and not num_items >= 0:
        raise ValueError(f"Expected num_items to be 0 or more, but got {num_items}.")
    if reduction == "none":
        return loss
    total = loss.sum()
    return total if reduction == "sum" else total / divisor(counts if num_items is None else num_items, total)


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


def check_class_ids(labels: Tensor) -> None:
    """Refuse labels that are no class ids.

    Args:
        labels: Of any shape.

    Raises:
        TypeError: If they are not integers.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f"Expected labels to be integer class ids, but got {labels.dtype}: regression and multi-label targets "
            "have no class probability p_y."
        )


def _check(logits: Tensor, labels: Tensor, weight: Tensor | None) -> None:
    check_class_ids(labels)
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
