"""What all losses share: checking a batch, counting its labels, and reducing the losses of its samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypedDict

import torch
from torch import Tensor

__all__ = ["Reduction", "Reductions", "Samples", "check_class_ids", "divisor", "reduced", "samples", "scalar_sum"]

Reduction = Literal["mean", "sum", "none"]


class Reductions(TypedDict, total=False):
    """The keyword arguments that every loss function takes.

    Attributes:
        reduction: ``"mean"`` over the non-ignored labels (the default; weighted if ``weight`` is given, as in
            ``torch.nn.functional.cross_entropy``), ``"sum"``, or ``"none"`` for a tensor shaped like the labels.
        ignore_index: Label of ignored samples; -100 by default.
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
    """A checked batch, flattened.

    Attributes:
        logits: Shape (N, C), in float32 or wider.
        labels: Shape (N,); ignored samples keep their label.
        ignore_index: Label of ignored samples.
        weight: Shape (C,), a factor for every sample of a class, or None.
        shape: Shape of the labels before flattening.
    """

    logits: Tensor
    labels: Tensor
    ignore_index: int
    weight: Tensor | None
    shape: torch.Size

    # Computed when asked for: a Trainer has counted its labels already.
    @cached_property
    def counted(self) -> Tensor:
        """Shape (N,), False for ignored samples."""
        return self.labels.ne(self.ignore_index)

    @cached_property
    def counts(self) -> Tensor:
        """Shape (N,), the weight of each sample in a mean; 0 if it is ignored."""
        counts = self.counted.to(self.logits.dtype)
        return counts if self.weight is None else counts * self.weight.to(counts)[self.index]

    @property
    def index(self) -> Tensor:
        """The labels, with class 0 in place of those that are ignored."""
        return self.labels.where(self.counted, 0)

    def unflatten(self, values: Tensor) -> Tensor:
        """Values (N,) of the samples in the shape of the labels."""
        return values if len(self.shape) == 1 else values.reshape(self.shape)  # a view takes time in small models


def samples(logits: Tensor, labels: Tensor, ignore_index: int = -100, weight: Tensor | None = None) -> Samples:
    """Check a batch and flatten it; the arguments and errors are those of `hf_elmix.losses.mixed_loss`."""
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
    shape = labels.shape
    if len(shape) != 1:
        labels, logits = labels.reshape(-1), logits.reshape(-1, logits.shape[-1])
    labels = labels.long()
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return Samples(logits, labels, ignore_index, weight, shape)


def reduced(
    loss: Tensor, counts: Tensor, *, reduction: Reduction = "mean", num_items: int | Tensor | None = None
) -> Tensor:
    """Reduce the losses of samples as `Reductions` describes. A mean over no labels at all is 0, with zero gradient.

    Args:
        loss: Losses of samples, of any shape; weighted, and 0 for ignored samples.
        counts: Weight of each sample in a mean, of any shape.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        num_items: Divisor of a mean in place of the sum of `counts`.

    Raises:
        ValueError: If `reduction` or `num_items` is not one of these.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"Expected reduction to be 'mean', 'sum' or 'none', but got {reduction!r}.")
    if num_items is not None and reduction != "mean":
        raise ValueError(f"num_items divides a mean and is not used with reduction={reduction!r}. Leave it out.")
    if isinstance(num_items, int | float) and not num_items >= 0:
        raise ValueError(f"Expected num_items to be 0 or more, but got {num_items}.")
    if reduction == "none":
        return loss
    total = loss.sum()
    return total if reduction == "sum" else total / divisor(counts if num_items is None else num_items, total)


def divisor(count: int | Tensor, like: Tensor) -> Tensor:
    """The divisor of a mean over `count` labels: `scalar_sum`, but 1 instead of 0, so that a mean of none is 0."""
    total = scalar_sum(count, like)
    return total.where(total > 0, 1)


def scalar_sum(count: int | Tensor, like: Tensor) -> Tensor:
    """A number of labels, or the sum of a tensor of numbers, as a scalar of the type and on the device of `like`."""
    total = torch.as_tensor(count, device=like.device)
    return (total.sum() if total.dim() else total).to(like.dtype)


def check_class_ids(labels: Tensor) -> None:
    """Raise a TypeError if the labels are not integers."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f"Expected labels to be integer class ids, but got {labels.dtype}: regression and multi-label targets "
            "have no class probability p_y."
        )
