"""Losses and schedules as objects: a loss is a stateless function, a schedule says which loss is used when.

PyTorch is imported only when a loss is computed, so that losses can be parsed and compared without it.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from hf_elmix.losses.reduction import Reduction

__all__ = ["IGNORED", "ConstantSchedule", "CrossEntropyFunction", "FunctionLoss", "Loss", "Schedule"]

IGNORED = -100  # the label of an ignored sample


@dataclass(frozen=True)
class Loss(ABC):
    """A function of (logits, labels) to minimise; its fields are its arguments.

    A subclass implements `per_sample`, or `CrossEntropyFunction.of_ce`. Calling the object checks the batch, leaves
    out ignored labels and reduces. Equal losses give the same training.

    Attributes:
        name: Name in the loss registry.
        smooths: Whether label smoothing can be applied.
    """

    name: ClassVar[str]
    smooths: ClassVar[bool] = False

    @abstractmethod
    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample of a checked batch.

        Args:
            logits: Shape (N, C), in float32 or wider.
            labels: Shape (N,), class ids in [0, C), or -100 for ignored samples.

        Returns:
            Shape (N,); values of ignored samples are discarded.
        """

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        reduction: Reduction = "mean",
        ignore_index: int = IGNORED,
        weight: Tensor | None = None,
        num_items: int | Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch; arguments, shapes and errors are those of `hf_elmix.losses.mixed_loss`."""
        from hf_elmix.losses.reduction import reduced, samples

        batch = samples(logits, labels, ignore_index, weight)
        loss = self.per_sample(batch.logits, batch.labels.masked_fill(~batch.counted, IGNORED))
        loss = loss.where(batch.counted, 0)
        loss = batch.unflatten(loss if weight is None else loss * batch.counts)
        return reduced(loss, batch.counts, reduction=reduction, num_items=num_items)

    @property
    def learning_rate_factor(self) -> float:
        """Factor by which the learning rate is multiplied in the steps that use this loss."""
        return 1.0

    def logged(self) -> dict[str, float]:
        """Values for the training logs, by name."""
        return {}

    def __str__(self) -> str:
        """String that `hf_elmix.parse_loss` reads back."""
        return _spec(self.name, {field.name: getattr(self, field.name) for field in fields(self)})


class CrossEntropyFunction(Loss):
    """A loss that depends on a sample's cross entropy alone, as the mixed loss does.

    Where the cross entropy is known, or computed without holding all logits, `of_ce` is enough.
    """

    @abstractmethod
    def of_ce(self, ce: Tensor) -> Tensor:
        """The loss of each sample.

        Args:
            ce: Cross entropy in nats, of any shape; 0 for ignored samples.

        Returns:
            The same shape; each value depends on its own cross entropy only.
        """

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Loss.per_sample`. Calls PyTorch's cross entropy once."""
        from torch.nn.functional import cross_entropy

        return self.of_ce(cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none"))


@dataclass(frozen=True)
class FunctionLoss(Loss):
    """A custom function as a loss.

    Attributes:
        name: Name in the loss registry, or of the function.
        function: Called with logits (N, C), labels (N,) and the arguments; returns the loss of each sample, (N,). It
            only receives non-ignored samples, with logits in float32 or wider.
        arguments: Names and values of keyword arguments.
    """

    name: str  # type: ignore[misc]  # per object; other losses have one per class
    function: Callable[..., Tensor]
    arguments: tuple[tuple[str, float], ...] = ()

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Loss.per_sample`.

        Raises:
            ValueError: If the function does not return one number for each sample.
        """
        counted = labels != IGNORED
        ids = labels[counted]
        loss = self.function(logits[counted], ids, **dict(self.arguments))
        if getattr(loss, "shape", None) != ids.shape:
            raise ValueError(
                f"Expected one number for each sample (reduction 'none'), shape {tuple(ids.shape)}, but got {loss!r}."
            )
        return logits.new_zeros(labels.shape).masked_scatter(counted, loss.to(logits.dtype))

    def __str__(self) -> str:
        return _spec(self.name, dict(self.arguments))


AnyLoss = TypeVar("AnyLoss", bound=Loss, covariant=True)


class Schedule(ABC, Generic[AnyLoss]):
    """The loss as a step function of training progress. `hf_elmix.parse_loss` reads its `str` back."""

    @property
    @abstractmethod
    def parts(self) -> tuple[tuple[Fraction, AnyLoss], ...]:
        """Pairs (start, loss) in order; a start is a share of training in [0, 1), and the first is 0."""

    @property
    def losses(self) -> tuple[AnyLoss, ...]:
        """The losses in order."""
        return tuple(loss for _, loss in self.parts)

    def at(self, step: int, max_steps: int) -> AnyLoss:
        """The loss of the optimizer step that follows `step` completed ones.

        A part begins at the first step with ``step / max_steps >= start``, compared exactly. The last part also holds
        after the last step.

        Args:
            step: Completed optimizer steps, 0 or more.
            max_steps: Optimizer steps in the whole training, 1 or more.

        Raises:
            ValueError: If `step` is negative or `max_steps` is not positive.
        """
        if step < 0 or max_steps <= 0:
            raise ValueError(f"Expected step >= 0 and max_steps > 0, but got step={step}, max_steps={max_steps}.")
        # In whole numbers, because every step asks, and a product of fractions takes longer than a small loss.
        return next(
            loss for start, loss in reversed(self.parts) if step * start.denominator >= start.numerator * max_steps
        )

    def empty_parts(self, max_steps: int) -> list[int]:
        """Indices of the parts into which none of a training's `max_steps` falls; the first is never among them."""
        ends = [*(math.ceil(start * max_steps) for start, _ in self.parts), max_steps]
        return [k for k, (start, end) in enumerate(itertools.pairwise(ends)) if start >= end]

    def untrained(self, max_steps: int) -> str:
        """A warning about parts into which no step falls, or an empty string."""
        empty = len(self.empty_parts(max_steps))
        if not empty:
            return ""
        return (
            f"No optimizer step falls into {empty} of the {len(self.parts)} phases of the loss {str(self)!r}, because "
            f"the training has only {max_steps}. Train longer, or choose a schedule of fewer phases."
        )

    def changes(self, max_steps: int) -> list[int]:
        """Steps, of `max_steps`, at which a part other than the first begins."""
        entries = [math.ceil(start * max_steps) for start, _ in self.parts[1:]]
        return [step for step in entries if step < max_steps]


@dataclass(frozen=True)
class ConstantSchedule(Schedule[Loss]):
    """One loss throughout."""

    loss: Loss

    @property
    def parts(self) -> tuple[tuple[Fraction, Loss], ...]:
        """The loss, from the start."""
        return ((Fraction(0), self.loss),)

    def __str__(self) -> str:
        return str(self.loss)


def _spec(name: str, arguments: Mapping[str, Any]) -> str:
    given = [f"{key}={repr(value).removesuffix('.0')}" for key, value in arguments.items() if value is not None]
    return f"{name}:{','.join(given)}" if given else name
