"""What training minimises, as objects: a loss, and how it changes over training.

PyTorch is imported when a loss is first computed, so that whoever only names losses does without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hf_elmix.errors import UsageError
from hf_elmix.losses.schedules import MixingSchedule, focus_of, rescaling_factor

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "LOGITS",
    "CenterLoss",
    "ComplementLoss",
    "FunctionLoss",
    "LibraryLoss",
    "Loss",
    "MixedLoss",
    "RescaledCrossEntropy",
]

LOGITS = ("true", "other")


class Loss(ABC):
    """What training minimises. Text that `parse_loss` reads back is its ``str()``.

    Attributes:
        smooths: Whether it has a meaning with label smoothing.
    """

    smooths: bool = False

    @abstractmethod
    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample; of a loss that changes over training, as it is in the first step.

        Args:
            logits: Shape (..., C).
            labels: Shape (...), class ids in [0, C), or -100 where a sample does not count.

        Returns:
            Shape (...), 0 where a sample does not count.
        """

    def from_terms(self, ce: Tensor, el: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """As `per_sample`, for whoever has computed both terms of the mixed loss already.

        Args:
            ce: Cross entropy of each sample, shape (...).
            el: Expectation loss of each sample, shape (...).
            logits: Shape (..., C).
            labels: Shape (...).
        """
        return self.per_sample(logits, labels)

    def of_cross_entropy(self, ce: Tensor) -> Tensor:
        """As `per_sample`, for whoever has the cross entropy of each sample and no logits.

        Args:
            ce: Cross entropy of each sample, of any shape, 0 where it does not count.

        Returns:
            The same shape.

        Raises:
            UsageError: If the loss is no function of the cross entropy alone.
        """
        raise UsageError(
            f"The loss {str(self)!r} needs all logits, and there is only the cross entropy of each label."
        )

    def at(self, step: int, steps: int) -> Loss:
        """The loss in the optimizer step that follows `step` completed ones out of `steps`.

        Losses that are equal there are the same training there.
        """
        return self

    def changes(self, steps: int) -> list[int]:
        """Completed optimizer steps, out of `steps`, after which the loss is another one."""
        return []

    @property
    def learning_rate_factor(self) -> float:
        """What the learning rate is multiplied by, as long as the loss is this one."""
        return 1.0

    def logged(self) -> dict[str, float]:
        """What training logs of it, by name."""
        return {}


@dataclass(frozen=True)
class MixedLoss(Loss):
    """The mixed loss ``alpha * CE + beta * EL`` (Eq. 12).

    Attributes:
        schedule: Its weights over training.
    """

    schedule: MixingSchedule
    smooths = True

    @property
    def alpha(self) -> float:
        """Weight of the cross entropy in the first step."""
        return float(self.schedule.phases[0].alpha)

    @property
    def beta(self) -> float:
        """Weight of the expectation loss in the first step."""
        return float(self.schedule.phases[0].beta)

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return _losses().mixed_loss(logits, labels, self.alpha, self.beta, reduction="none")

    def from_terms(self, ce: Tensor, el: Tensor, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return _losses().mix(ce, el, self.alpha, self.beta)

    def of_cross_entropy(self, ce: Tensor) -> Tensor:  # noqa: D102
        return _losses().mix(ce, -(-ce).expm1(), self.alpha, self.beta)

    def at(self, step: int, steps: int) -> MixedLoss:  # noqa: D102
        return MixedLoss(self.schedule.constant_at(step, steps))

    def changes(self, steps: int) -> list[int]:  # noqa: D102
        return self.schedule.changes(steps)

    def logged(self) -> dict[str, float]:  # noqa: D102
        return {"alpha": self.alpha, "beta": self.beta, "focus": focus_of(self.alpha, self.beta)}

    def __str__(self) -> str:
        text = str(self.schedule)
        return text if text in ("ce", "el") else f"mix:{text}"


@dataclass(frozen=True)
class RescaledCrossEntropy(Loss):
    """Cross entropy whose learning rate is multiplied by ``M = V_mixed / V_CE`` of a mixed loss (Eqs. 20-22).

    Attributes:
        schedule: Of the mixed loss.
        logit: Whose gradient has the areas V: ``"true"``, that of the true label (i = j), or ``"other"`` (i ≠ j).
    """

    schedule: MixingSchedule
    logit: str = LOGITS[0]
    smooths = True

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return _losses().cross_entropy(logits, labels, reduction="none")

    def from_terms(self, ce: Tensor, el: Tensor, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return ce

    def of_cross_entropy(self, ce: Tensor) -> Tensor:  # noqa: D102
        return ce

    def at(self, step: int, steps: int) -> RescaledCrossEntropy:  # noqa: D102
        return RescaledCrossEntropy(self.schedule.constant_at(step, steps), self.logit)

    def changes(self, steps: int) -> list[int]:  # noqa: D102
        return self.schedule.changes(steps)

    @property
    def learning_rate_factor(self) -> float:  # noqa: D102
        phase = self.schedule.phases[0]
        return float(rescaling_factor(phase.alpha, phase.beta, true_label=self.logit == "true"))

    def logged(self) -> dict[str, float]:  # noqa: D102
        return {"learning_rate_factor": self.learning_rate_factor}

    def __str__(self) -> str:
        return f"ce-rescaled:{self.schedule}" + (f",logit={self.logit}" if self.logit != LOGITS[0] else "")


@dataclass(frozen=True)
class FunctionLoss(Loss):
    """A loss that is a plain function.

    Attributes:
        name: Its name.
        function: Called with logits (N, C), labels (N,), and the arguments; gives the loss of each sample, (N,). It
            never sees a sample that does not count, and no logits in half precision.
        arguments: Its own arguments, by name.
    """

    name: str
    function: Callable[..., Tensor]
    arguments: tuple[tuple[str, float], ...] = ()

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return _losses().apply_to_counted(self.function, logits, labels, **dict(self.arguments))

    def __str__(self) -> str:
        given = ",".join(f"{name}={repr(value).removesuffix('.0')}" for name, value in self.arguments)
        return f"{self.name}:{given}" if given else self.name


@dataclass(frozen=True)
class LibraryLoss(FunctionLoss):
    """One of the functions of `hf_elmix.losses`, which take care of samples that do not count by themselves."""

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return self.function(logits, labels, reduction="none", **dict(self.arguments))

    def from_terms(self, ce: Tensor, el: Tensor, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        known = self.function in _losses().OF_CROSS_ENTROPY
        return self.of_cross_entropy(ce) if known else self.per_sample(logits, labels)

    def of_cross_entropy(self, ce: Tensor) -> Tensor:  # noqa: D102
        of_ce = _losses().OF_CROSS_ENTROPY.get(self.function)
        return super().of_cross_entropy(ce) if of_ce is None else of_ce(ce, **dict(self.arguments))


@dataclass(frozen=True)
class ComplementLoss(Loss):
    """The second pass of complement objective training: minus the complement entropy (Eq. 6), which it maximises.

    It belongs to a procedure, not to a step: see `hf_elmix.training.complement.ComplementTrainer`.
    """

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return -_losses().complement_entropy(logits, labels, reduction="none")

    def __str__(self) -> str:
        return "cot"


@dataclass(frozen=True)
class CenterLoss(Loss):
    """The Max-Mahalanobis centre loss (Eq. 5): half the squared distance of the features from their class's centre.

    Its logits are those of a `hf_elmix.training.mahalanobis_head.MahalanobisHead`, minus these distances from all
    centres; the Trainer gives the model that head.

    Attributes:
        scale: Length of the centres.
    """

    scale: float = 10.0

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return -_losses().logit_of_label(logits, labels)

    def __str__(self) -> str:
        return f"mmc:scale={repr(float(self.scale)).removesuffix('.0')}"


def _losses() -> Any:
    """The functions, imported when they are needed: they need PyTorch."""
    return import_module("hf_elmix.losses")
